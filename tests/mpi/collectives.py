"""What user code calls besides the trainer, checked on every rank: collectives.py FOLDER."""

import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

folder = Path(sys.argv[1])
rank, size = parallel.rank(), parallel.world_size()
assert size > 1 and parallel.is_main() == (rank == 0)

# sums
assert parallel.all_reduce(rank + 1) == size * (size + 1) // 2
assert parallel.all_reduce(float(rank), "mean") == (size - 1) / 2
assert parallel.all_reduce(2, "prod") == 2**size and isinstance(
    parallel.all_reduce(rank, "max"), int
)
assert parallel.all_reduce(rank % 2 == 1) == size // 2  # how many
for op, right in ("sum", 0.5), ("max", 0.5), ("min", 0.0):  # of what only one rank has examples
    found = parallel.all_reduce(sum([] if rank else [0.5]), op)
    assert found == right and isinstance(found, float)
assert (
    parallel.all_reduce(np.arange(6.0).reshape(2, 3, order="F")[:, ::2] * (rank + 1)).tolist()
    == (np.arange(6.0).reshape(2, 3, order="F")[:, ::2] * (size * (size + 1) / 2)).tolist()
)
for kind in (np.float16, np.uint8, ">f8", np.int64):
    assert parallel.all_reduce(np.ones(3, kind)).tolist() == [size] * 3
assert (
    parallel.all_reduce(np.empty((0, 2))).shape == (0, 2)
    and parallel.all_reduce(np.array(2.0)).shape == ()
)
assert parallel.all_reduce([rank, -rank], "max").tolist() == [size - 1, 0]
assert parallel.all_reduce(np.full((2, 3), rank, np.float32), "min").dtype == np.float32
for op, end in (("max", np.inf), ("min", -np.inf)):  # a nan on any rank is seen on all
    every = parallel.gather(
        parallel.all_reduce(
            np.array([np.nan if rank == k else rank for k in range(size)] + [end, rank]), op
        ).tolist()
    )
    assert all(
        np.isnan(values[:size]).all() and values[size:] == [end, size - 1 if op == "max" else 0]
        for values in every
    ), (op, every)
with raises(
    ValueError,
    match=r"\[rank \d/\d\] all_reduce sum .*same kind of value; got sum of float64 \(\d,\) here",
):
    parallel.all_reduce(np.zeros(3 + (rank == 1)))

# objects, barriers, evaluation
assert parallel.gather({"rank": rank}) == [{"rank": r} for r in range(size)]
assert sorted(parallel.gather(parallel.local_rank())) == list(range(size))
parallel.barrier()
calls = []
words = ["w" * (i % 7) for i in range(23)]
assert parallel.evaluate(lambda word: calls.append(1) or len(word), words) == list(map(len, words))
assert parallel.all_reduce(len(calls)) == len(words)
assert parallel.evaluate(len, words[:1]) == [0] and parallel.evaluate(len, []) == []
assert parallel.evaluate(lambda x: x * x, (x for x in range(5))) == [0, 1, 4, 9, 16]
assert parallel.evaluate(float, np.arange(size + 1)) == [float(x) for x in range(size + 1)]
assert parallel.evaluate(len, {"a": 1, "bc": 2}) == [1, 2]  # as a loop over it


def fails_on_two(x):
    if x == 2:
        raise KeyError("two")
    return x


(holder,) = [r for r in range(size) if 2 in parallel.division.divide([1.0] * 9, size)[r]]
with raises(KeyError if rank == holder else RuntimeError, match="two"):
    parallel.evaluate(fails_on_two, range(9))
with raises(
    ValueError,
    match=rf"same on all ranks; got {3 + (rank == 0)} examples here, {3 + (rank != 0)} on rank",
):
    parallel.evaluate(float, range(3 + (rank == 0)))

# a barrier that one rank misses names it; waiting for it again meets the same barrier
if rank == 1:
    while len(list(folder.glob("missed rank 1 *"))) < size - 1:
        time.sleep(0.1)
    parallel.barrier()
else:
    with raises(
        TimeoutError,
        match=(
            r"waited 0.1 s for rank 1; .*rank 1 \(process \d+ on \S+\) computes at"
            r" collectives.py:\d+"
        ),
    ):
        parallel.barrier(timeout=0.1)
    Path(folder, f"missed rank 1 {rank}").touch()
    parallel.barrier()
assert parallel.gather(parallel.all_reduce(1)) == [size] * size

# shards: every example once, costs balanced
steps = [list(batch) for batch in parallel.shard(words, batch_size=8, seed=1)]
everything = parallel.gather(steps)
assert {len(steps) for steps in everything} == {3}
assert sorted(w for steps in everything for step in steps for w in step) == sorted(words)
for step in range(3):
    loads = [sum(map(len, steps[step])) for steps in everything]
    assert max(loads) - min(loads) <= 6, loads

# parameters
model = dy.ParameterCollection()
model.add_parameters((3, 2), name="W", init="normal")
model.add_lookup_parameters((5, 2), name="E", init=rank)
with raises(RuntimeError, match='rank 1 and rank 0 differ, first in "/W"'):
    parallel.assert_in_sync(model)
parallel.broadcast_parameters(model)
parallel.assert_in_sync(model)
assert not model.lookup_parameters_list()[0].as_array().any()

# random streams differ, dropout is not the same everywhere
dy.reset_random_seed(3)
dy.renew_cg()
masks = parallel.gather(dy.dropout(dy.inputVector([1.0] * 64), 0.5).value())
assert masks[0] != masks[1]

# files: rank 0 writes, the others find it there; alone it does not hang
for i in range(5):
    file = folder / f"model{i}.txt"
    model.save(str(file))
    assert file.exists()
if rank == 0:
    model.save(str(folder / "alone.txt"))
model.save(str(folder / "model0.txt"))
parallel.barrier()
assert not list(folder.glob(".*")), list(folder.glob(".*"))
with raises(RuntimeError, match="could not write"):
    model.save(str(folder / "no" / "such" / "folder.txt"))

# a name of each rank's own: the others say once that nothing was written to theirs
parallel.barrier()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model.save(str(folder / "of0.txt") if rank == 0 else folder / ".." / folder.name / "of0.txt")
    for _ in range(2):
        model.save(str(folder / f"of{rank}.txt"))
assert [w.category for w in said] == [RuntimeWarning] * (rank > 0), said
assert all(
    "rank 0 writes for all" in str(w.message) and f"of{rank}.txt'" in str(w.message) for w in said
)
parallel.barrier()
assert [p.name for p in folder.glob("of*")] == ["of0.txt"]

# gradients that wait are each rank's own part: they stay out of files, and rank 0 says so, once
parallel.barrier()
dy.renew_cg()
dy.sum_elems(model.parameters_list()[0]).backward()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        model.save(str(folder / "model0.txt"))
assert [w.category for w in said] == [RuntimeWarning] * (rank == 0), said
assert all("Save after update()" in str(w.message) for w in said)
assert "FULL_GRAD" not in (folder / "model0.txt").read_text()
model.reset_gradients()

# learning rates and steps must agree
W = model.parameters_list()[0]
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model))
trainer.learning_rate = 0.1 + (rank == 1)
with raises(
    RuntimeError, match=r"learning rate (0.1|1.1) here, learning rate (0.1|1.1) on rank [01]"
):
    trainer.update(1)
trainer.learning_rate = 0.1
for _ in parallel.shard(words[rank:], batch_size=8):
    with raises(RuntimeError, match=r"must agree; data of \d+ examples with .* here"):
        trainer.update()
    break

# a trainer of a subcollection leaves the gradients of others alone
left, right = model.add_subcollection("left"), model.add_subcollection("right")
a, b, c = (
    left.add_parameters(3, init=0),
    right.add_parameters(3, init=0),
    left.add_parameters(3, init=0),
)
trainers = [
    parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, learning_rate=1)) for m in (left, right)
]
dy.renew_cg()
(dy.sum_elems(a + b + c) * (rank + 1)).backward()
for each in trainers:
    each.set_clip_threshold(0)
trainers[0].update(1)
assert b.grad_as_array().tolist() == [rank + 1] * 3 and not a.grad_as_array().any()
trainers[1].update(1)
mean = (size + 1) / 2
assert all(np.allclose(p.as_array(), -mean) for p in (a, b, c))
threading.Thread(target=sys.exit).start()  # leaving a thread is no failure
sys.exit(0)
