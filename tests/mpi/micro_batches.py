"""What reproducible=True refuses, and what it does with parameters that ranks treat differently;
checked on every rank."""

from raised import raises

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel import reproducible

rank, size = parallel.rank(), parallel.world_size()
model = dy.ParameterCollection()
w = model.add_parameters(3, name="w", init=1)
table = model.add_lookup_parameters((9, 3), name="table", init=1)

# processors that round differently
reproducible.SIMD = f"level {min(rank, 1)}"
words = (
    r"all ranks must agree; vector loops for level \d, BLAS .* here, .* on rank [01]\."
    r" reproducible=True needs"
)
with raises(RuntimeError, match=words):
    parallel.DistributedTrainer(dy.SimpleSGDTrainer(model), reproducible=True)
reproducible.SIMD = "level 0"
with raises(RuntimeError, match=r"all ranks must agree; .*reproducible=(True|False), .* here"):
    parallel.DistributedTrainer(dy.SimpleSGDTrainer(model), reproducible=rank == 0)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model, 1), reproducible=True)
trainer.set_clip_threshold(0)


def a_pass():
    dy.renew_cg()
    dy.sum_elems(w + table[rank]).backward()


# every rank uses a row of its own in one micro-batch each; ranks without a micro-batch take part
results = []
for batch in parallel.shard(range(2), batch_size=2, micro_batches=2):
    if batch:
        a_pass()
    results.append(trainer.update())
assert results == [True] and w.as_array().tolist() == [0, 0, 0]
touched = [r for r in range(size) if table.row_as_array(r)[0] != 1]
assert len(touched) == 2 and all(table.row_as_array(r).tolist() == [0.5] * 3 for r in touched)

# new parameters between steps; none within one
late = None
for i, batch in enumerate(parallel.shard(range(4), batch_size=2, micro_batches=2 * size)):
    if i == 2:
        late = model.add_parameters(2, name="late", init=float(rank))
    if batch:
        dy.renew_cg()
        dy.sum_elems(late if late is not None else w).backward()
    assert trainer.update() is (i % 2 == 1)
parallel.assert_in_sync(model)
for i, _ in enumerate(parallel.shard(range(4), batch_size=2, micro_batches=2 * size)):
    if i == 1:
        model.add_parameters(2, name="later")
        with raises(RuntimeError, match="parameters were added within a step"):
            trainer.update()
        break
    trainer.update()

# new parameters where some ranks have no micro-batch
grown = dy.ParameterCollection()
grows = parallel.DistributedTrainer(dy.SimpleSGDTrainer(grown, 1), reproducible=True)
grows.set_clip_threshold(0)
for count, batch in enumerate(parallel.shard(range(3), batch_size=1, micro_batches=1), 1):
    grown.add_parameters(2, init=0, name=f"w{count}")
    grown.add_lookup_parameters((2, 2), init=0, name=f"t{count}")
    if batch:
        dy.renew_cg()
        every = *grown.parameters_list(), *(t[1] for t in grown.lookup_parameters_list())
        dy.esum([dy.sum_elems(x) for x in every]).backward()
    assert grows.update()
    assert [p.as_array().sum() for p in grown.parameters_list()] == [
        -2 * k for k in range(count, 0, -1)
    ]
parallel.assert_in_sync(grown)

# a loop that has read ahead is at one place on all ranks, though most have empty batches only
batches = parallel.shard(range(2), batch_size=1, micro_batches=2 * size)
for batch in list(batches):
    if batch:
        a_pass()
    trainer.update(batch)
    state = batches.state()
    assert len(set(parallel.gather((state["epoch"], state["position"])))) == 1

# what has no example counts nowhere, as a term of the loss may, on ranks with a turn too many, too
for average, value in ("mean", 0), ("sum", -1):
    other = dy.ParameterCollection()
    v, rows = other.add_parameters(2, init=1), other.add_lookup_parameters((2, 1), init=1)
    decayed = parallel.DistributedTrainer(
        dy.SimpleSGDTrainer(other, 1), average=average, reproducible=True
    )
    decayed.set_clip_threshold(0)
    for _ in parallel.shard(range(2), batch_size=2, micro_batches=2 * size - 1):
        dy.renew_cg()
        (dy.sum_elems(v) + rows[0]).backward()
        decayed.update()
    assert v.as_array().tolist() == [value] * 2, v.as_array()
    assert rows.as_array().ravel().tolist() == [value, 1], rows.as_array()

# frozen on one rank: named as in other exchanges
w.set_updated(rank != 1)
for _ in parallel.shard(range(size), batch_size=size, micro_batches=size):
    if w.is_updated():
        a_pass()
    with raises(RuntimeError, match='"/w" is frozen on some ranks only'):
        trainer.update()
