"""Data-parallel training: N processes, started by mpirun, run the same script and train one model
together.

    trainer = dy.parallel.DistributedTrainer(dy.AdamTrainer(m))
    for batch in dy.parallel.shard(data, batch_size=32): ...

Without a launcher everything works with one process, and mpi4py is not imported. The folders, each
of which knows only those before it, and the modules beside them:

- processes: being one of several
- batches: those of a shard, and the loops over them
- agreement: what ranks must know of one another before they add up
- exchange: how sums are made, on one host and between hosts
- update: that of all ranks
- data: its parts, evaluation, collective operations
- wrapper, trainer, join, anchor, averaging, local_sgd: what users train with
- checkpoints: what a run is resumed from
"""

from typing import TYPE_CHECKING, Any

from .._derived import requires_init
from .._described import counted, describe, of_shard
from .._hints import name_as_users_do, of_parallel
from .batches.batches import Batch
from .data.collectives import (
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
from .data.evaluation import evaluate
from .data.sampling import Shard, shard
from .join import Join
from .local_sgd import LocalSGD
from .processes import failures, session, timeline, trial
from .processes.forks import forks
from .trainer import DistributedTrainer
from .update import metrics

if TYPE_CHECKING:
    from .checkpoints.checkpointer import Checkpointer  # an attribute of this package

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
describe(Join)
describe(
    LocalSGD,
    lambda t: f" of {t.inner!r}, every {t.every}, {counted(world_size(), 'rank')}",
)
describe(Shard, of_shard, arguments=False)
for _class, _last in (
    (DistributedTrainer, "sync"),
    (LocalSGD, "_after"),
    (Join, "_sync"),
    (Shard, "_data"),
):
    requires_init(_class, _last)
name_as_users_do(map(globals().get, __all__))


if not TYPE_CHECKING:  # else no name would be unknown

    def __getattr__(name: str) -> Any:
        """Checkpointer is imported when it is first asked for: much of it is for files, and its
        import takes a quarter of the time that all others take."""
        if name != "Checkpointer":
            hint = of_parallel(name)
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
        from .checkpoints.checkpointer import Checkpointer

        describe(Checkpointer)
        requires_init(Checkpointer, "_world")
        name_as_users_do([Checkpointer])
        globals()[name] = Checkpointer
        return Checkpointer


def __dir__() -> list[str]:
    return sorted(__all__)


failures.install()
forks.begin()
session.warn_of_separate_ranks()
trial.install()
metrics.follow_all_trainers()
timeline.record_from_first_trainer()
