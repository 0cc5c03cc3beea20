"""in_turn.py: trainers of one model over other ranks, or over the same ranks in another order,
update in turn (four ranks). Rank 0 prints "ok"."""

from mpi4py import MPI

import dist_dynet as dy
from dist_dynet import parallel

rank = parallel.rank()
pair = MPI.COMM_WORLD.Split(rank % 2)
back = MPI.COMM_WORLD.Split(0, key=-rank)


def in_turn(*comms, kinds=(parallel.DistributedTrainer,) * 2):
    """Values after each update."""
    m = dy.ParameterCollection()
    w, E = m.add_parameters(20_000, init=0), m.add_lookup_parameters((2, 3), init=0)
    trainers = []
    for comm, kind in zip(comms, kinds, strict=True):
        inner = dy.SimpleSGDTrainer(m, 1)
        inner.set_clip_threshold(0)
        more = {} if kind is parallel.DistributedTrainer else {"every": 1}
        trainers.append(kind(inner, comm=comm, **more))
    for done in range(1, 7):
        dy.renew_cg()
        each = 1 + rank // 2  # its mean is the same in each pair and in all of them
        ((dy.sum_elems(w) + dy.sum_elems(E[1])) * each).backward()
        trainers[done % 2].update()
        assert (w.as_array() == -1.5 * done).all(), (comms, done, w.as_array())
        assert (E.as_array()[1] == -1.5 * done).all() and not E.as_array()[0].any()


for comms in ((pair, None), (None, pair), (pair, pair.Dup()), (None, back), (pair, back)):
    in_turn(*comms)
both = parallel.DistributedTrainer, parallel.LocalSGD
for kinds in (both, both[::-1]):
    in_turn(pair, None, kinds=kinds)
    in_turn(None, pair, kinds=kinds)
parallel.barrier()
if rank == 0:
    print("ok")
