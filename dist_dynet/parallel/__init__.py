"""Data-parallel training: the same script in N processes, started by mpirun, that train one model
together.

    trainer = dy.parallel.DistributedTrainer(dy.AdamTrainer(m))
    for batch in dy.parallel.shard(data, batch_size=32): ...

Without a launcher all of it works with one process and mpi4py is not imported. In reading order:

- what it is to be one of several processes: _hosts, _lines, _rank_names, _mpi, _world, _session,
  _places, _alive, _failures, _saving, _signals, _rng_streams, environment
- how an update is made together: structure, message, meters, pass_weights, negotiation, exchange,
  sync, gradients, pass_changes, accumulation, own_gradients, wrapper, trainer
- which batch an update is of: watched_list, looks, batches, sources
- what some programs ask for beside it: join, anchor, averaging, local_sgd, reproducible,
  micro_draws
- how sums are made, which engines chooses; on one host: memory, plan, shm_comm, shared,
  backoff, shared_model; between hosts: layout, wire, joining, by_host, windows, compression,
  rounds, overlap, row_messages, rows, rows_coded, host_transport, hybrid
- what else programs call: division, fingerprint, data_marks, shard_settings, sampling, evaluation,
  collectives
- checkpoints: lease, checkpoint_files, checkpoint_parts, checkpoint_ranks, checkpoint_by_itself,
  checkpoint
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
_session.note_ranks_alone()
trial.install()
metrics.follow_all_of_this_process()
timeline.begin_with_the_first_trainer()
