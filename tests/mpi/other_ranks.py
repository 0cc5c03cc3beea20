"""other_ranks.py: shards and trainers over different ranks (four ranks). Rank 0 prints "ok"."""

from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()
pair, alone = MPI.COMM_WORLD.Split(rank % 2), MPI.COMM_WORLD.Split(rank)
again = pair.Dup()


def trained(data, of_trainer, of_shard, named=False, **options):
    """The parameter after an epoch with a gradient that is the mean of the examples."""
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1), comm=of_trainer, **options)
    trainer.set_clip_threshold(0)
    for batch in parallel.shard(data, 4, comm=of_shard, shuffle=False):
        dy.renew_cg()
        if batch:
            dy.average([w * x for x in batch]).backward()
        trainer.update(*([batch] if named else []))
    return -w.as_array().item()


DATA = [float(x) for x in range(8)]
for of_trainer, of_shard in ((pair, None), (alone, None), (alone, pair)):
    for named in (False, True):
        for options in ({}, {"accumulate": 2}):
            with raises(
                RuntimeError, match=r"shard\(\) over the trainer's rank.*same comm= as the trainer"
            ):
                trained(DATA, of_trainer, of_shard, named, **options)
assert parallel.all_reduce(1) == size

# the same ranks, by whatever communicator; and data of each rank's own
for named in (False, True):
    for options, factor in (({}, 1), ({"accumulate": 2}, 0.5)):
        for of_trainer, of_shard in ((None, None), (pair, pair), (pair, again), (alone, alone)):
            assert trained(DATA, of_trainer, of_shard, named, **options) == factor * (1.5 + 5.5)
        for of_trainer in (None, pair):
            ranks = range(size) if of_trainer is None else range(rank % 2, size, 2)
            every = [x for r in ranks for x in [float(r)] * (1 + r)]
            found = trained([float(rank)] * (1 + rank), of_trainer, alone, named, **options)
            if not options:  # one step
                assert abs(found - sum(every) / len(every)) < 1e-6, (found, every)
            else:
                assert found == 0  # waits for a second pass
parallel.barrier()
if rank == 0:
    print("ok")
