"""What user code calls besides the trainer, checked on every rank: meet.py FOLDER."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet import parallel

folder = Path(sys.argv[1])
rank, size = parallel.rank(), parallel.world_size()
assert size > 1 and parallel.is_main() == (rank == 0)

# sums
assert parallel.all_reduce(rank + 1) == size * (size + 1) // 2
assert parallel.all_reduce(float(rank), "mean") == (size - 1) / 2
assert parallel.all_reduce([rank, -rank], "max").tolist() == [size - 1, 0]
assert parallel.all_reduce(np.full((2, 3), rank, np.float32), "min").dtype == np.float32
with pytest.raises(ValueError, match=r"\[rank \d/\d\] all_reduce sum .*same kind of value"):
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

# shards: every example once, costs balanced
steps = list(parallel.shard(words, batch_size=8, seed=1))
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
with pytest.raises(RuntimeError, match='rank 1 and rank 0 differ, first in "/W"'):
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
with pytest.raises(RuntimeError, match="could not write"):
    model.save(str(folder / "no" / "such" / "folder.txt"))

# learning rates and steps must agree
W = model.parameters_list()[0]
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model))
trainer.learning_rate = 0.1 + (rank == 1)
with pytest.raises(
    RuntimeError, match=r"learning rate (0.1|1.1) here, learning rate (0.1|1.1) on rank [01]"
):
    trainer.update()
trainer.learning_rate = 0.1
for _ in parallel.shard(words[rank:], batch_size=8):
    with pytest.raises(RuntimeError, match=r"step \(.*\) of shard\(\) here"):
        trainer.update()
    break

# a trainer of a subcollection leaves the gradients of others alone
left, right = model.add_subcollection("left"), model.add_subcollection("right")
a, b, c = left.add_parameters(3, init=0), right.add_parameters(3, init=0), left.add_parameters(3, init=0)
trainers = [parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, learning_rate=1)) for m in (left, right)]
dy.renew_cg()
(dy.sum_elems(a + b + c) * (rank + 1)).backward()
for each in trainers:
    each.set_clip_threshold(0)
trainers[0].update()
assert b.grad_as_array().tolist() == [rank + 1] * 3 and not a.grad_as_array().any()
trainers[1].update()
mean = (size + 1) / 2
assert all(np.allclose(p.as_array(), -mean) for p in (a, b, c))
threading.Thread(target=sys.exit).start()  # leaving a thread is no failure
sys.exit(0)
