"""best.py: training.Best with scores of each rank's own, which are refused on all ranks; with a
common one all keep the same model. Rank 0 prints "ok"."""

from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()
m = dy.ParameterCollection()
w = m.add_parameters(1, init=0)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1))
best = dy.training.Best(m, patience=2)


def step():
    dy.renew_cg()
    w.backward()
    trainer.update()


for own in (float(rank), 1 + 1e-12 * rank, float("nan") if rank else 0.0):
    step()
    with raises(RuntimeError, match=r"score must be the same on all ranks; got .* on rank"):
        best.update(own)
    assert (best.score, best.count) == (None, 0)
with raises(RuntimeError if rank == 0 else TypeError):
    best.update(1.0 if rank == 0 else None)
kept = w.as_array()
assert [best.update(s) for s in (1.0, 0.5, float("nan"))] == [True, False, False] and best.is_over
step()
best.restore()
assert w.as_array() == kept
step()
parallel.assert_in_sync(m)

# groups with scores of their own
group = MPI.COMM_WORLD.Split(rank)
assert dy.training.Best(m, comm=group).update(rank)
if rank == 0:
    print("ok")
