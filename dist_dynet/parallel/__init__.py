"""Data-parallel training: the same script in N processes, started by mpirun, that train one model
together.

    trainer = dy.parallel.DistributedTrainer(dy.AdamTrainer(m))
    for batch in dy.parallel.shard(data, batch_size=32): ...

Without a launcher all of it works with one process and mpi4py is not imported. In reading order:
structure, message, meters, negotiation, exchange, sync, batches (lists that watched_list observes),
gradients, accumulation, wrapper and trainer say how an update is made together, join, anchor,
averaging, local_sgd, reproducible and micro_draws what some programs ask for beside it; engines
chooses how gradients travel: memory, plan, communicator and shared on one host, layout, wire,
compression, rounds, windows, rows, host_transport and hybrid between hosts. division, sampling,
evaluation, collectives and checkpoint, with _signals and _rng_streams, are what else user code
calls; metrics, timeline and trace show where the time goes; _hosts, _lines, _world, _session,
_places, _failures and _saving say what it is to be one of several processes.
"""

from .._described import counted, describe
from . import _failures, metrics, timeline, trial
from .batches import Batch
from .checkpoint import Checkpointer
from .collectives import (
    all_reduce,
    assert_in_sync,
    barrier,
    broadcast_parameters,
    gather,
    is_main,
    local_rank,
    rank,
    world_size,
)
from .evaluation import evaluate
from .join import Join
from .local_sgd import LocalSGD
from .sampling import Shard, shard
from .trainer import DistributedTrainer

__all__ = [
    "Batch",
    "Checkpointer",
    "DistributedTrainer",
    "Join",
    "LocalSGD",
    "Shard",
    "all_reduce",
    "assert_in_sync",
    "barrier",
    "broadcast_parameters",
    "evaluate",
    "gather",
    "is_main",
    "local_rank",
    "rank",
    "shard",
    "world_size",
]


describe(DistributedTrainer, lambda t: f" of {t.inner!r}, {counted(world_size(), 'rank')}")
describe(Checkpointer)
describe(Join)
describe(
    LocalSGD,
    lambda t: f" of {t.inner!r}, every {t.every}, {counted(world_size(), 'rank')}",
)
describe(Shard, lambda s: f": {counted(len(s), 'step')}")


def __dir__() -> list[str]:
    return sorted(__all__)


_failures.install()
trial.install()
metrics.follow_all_of_this_process()
timeline.begin_with_the_first_trainer()
