"""Data-parallel training: N processes, started by mpirun, run the same script and train one model
together.

    trainer = dy.parallel.DistributedTrainer(dy.AdamTrainer(m))
    for batch in dy.parallel.shard(data, batch_size=32): ...

Without a launcher everything works with one process, and mpi4py is not imported. In reading order:

- being one of several processes: _hosts, _user_line, _rank_names, _mpi, _world, _session,
  _places, _alive, _failures, _saving, _signals, _rng_streams, environment
- one update: structure, message, meters, pass_weights, negotiation, exchange, sync, gradients,
  pass_changes, accumulation, own_gradients, wrapper, trainer
- which batch an update belongs to: watched_list, batch_reads, batches, sources
- variants of an update: join, anchor, averaging, local_sgd, reproducible, micro_draws
- how sums are made; engines chooses. On one host: memory, plan, shm_comm, shared, backoff,
  shared_model. Between hosts: layout, wire, recursive_halving, by_host, windows, compression,
  rounds, overlap, row_messages, rows, rows_compressed, host_transport, hybrid
- data and collective operations: division, fingerprint, data_marks, shard_settings, sampling,
  evaluation, collectives
- checkpoints: lease, checkpoint_files, checkpoint_parts, checkpoint_ranks, autosave, checkpoint
- where the time goes: metrics, timeline, trace, and trial for `dist-dynet check`
"""

from typing import TYPE_CHECKING, Any

from .._derived import requires_init
from .._described import counted, describe, of_shard
from .._hints import name_as_users_do, of_parallel
from . import _failures, _session, metrics, timeline, trial
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
describe(Shard, of_shard, arguments=False)
for _class, _last in (
    (DistributedTrainer, "sync"),
    (LocalSGD, "_after"),
    (Checkpointer, "_world"),
    (Join, "_sync"),
    (Shard, "_data"),
):
    requires_init(_class, _last)
name_as_users_do(map(globals().get, __all__))


if not TYPE_CHECKING:  # else no name would be unknown

    def __getattr__(name: str) -> Any:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{of_parallel(name)}")


def __dir__() -> list[str]:
    return sorted(__all__)


_failures.install()
_session.warn_of_separate_ranks()
trial.install()
metrics.follow_all_trainers()
timeline.record_from_first_trainer()
