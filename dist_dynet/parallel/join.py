"""Join: training goes on when some ranks have run out of data.

A rank whose loop has ended takes part in the updates of the others, adding nothing, until all have
ended. Join decides when a rank is done; the trainer knows what an update is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .._deferred_signals import DeferSignals
from .agreement.message import Flag
from .agreement.negotiation import NO_BATCH
from .trainer import DistributedTrainer


class Join:
    """`with Join(trainer):` wraps a loop over this rank's own batches. Each rank may have a
    different number of them, or none.

    A rank whose loop has ended, or was left by break, waits at the end of the block: it takes part
    in the others' updates with n_r = 0, and with their learning rate and other settings, so that
    parameters stay equal. When all have ended, the schedule and the learning rate are those of the
    rank that made the most calls of update(). Gradients that no update() has used are dropped at
    the end of the block, with one process, too. Exceptions pass through.

    Inside the block, trainer.update() is the only collective operation: any other, or another
    trainer's update, would wait for ranks that have ended. Loops over shard() need no Join.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=0)
    >>> trainer = dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, learning_rate=1))
    >>> with dy.parallel.Join(trainer):
    ...     for batch in range(dy.parallel.rank() + 2):
    ...         _ = dy.renew_cg()
    ...         w.backward()
    ...         updated = trainer.update()
    >>> w.as_array().tolist()
    [-2.0]
    """

    def __init__(self, trainer: DistributedTrainer) -> None:
        if not isinstance(trainer, DistributedTrainer):
            raise TypeError(f"Join: takes a DistributedTrainer; got {type(trainer).__name__}.")
        if trainer.sync.reproducible is not None or trainer.accumulation > 1:
            raise ValueError(
                "Join: with reproducible=True or accumulation all ranks must make the same number"
                " of calls; got such a trainer."
            )
        self._trainer, self._sync = trainer, trainer.sync
        self._block: AbstractContextManager[None] | None = None

    def __enter__(self) -> Join:
        # Ctrl-C may come before anything here: what this holds ends with it
        self._block = _joined(self._trainer)
        self._block.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._block is not None:
            self._block.__exit__(*error)
            self._block = None


@contextmanager
def _joined(trainer: DistributedTrainer) -> Iterator[None]:
    """The block of a Join; an object of its own, so that it ends with whoever holds it."""
    sync, this = trainer.sync, object()
    calls = sync.calls
    try:
        sync.joins.add(this)
        yield
        while not _is_over(trainer):
            pass
    finally:
        sync.joins.discard(this)
    sync.collection.reset_gradients()
    here, schedule = sync.here, sync.hooks.schedule
    if here.size == 1:
        return
    mine = (
        sync.calls - calls,
        trainer.learning_rate,
        schedule.state_dict() if schedule else {},
    )
    what = here.collective("end of Join")
    with here.uninterrupted(what):
        every = here.gather(here.comm, mine, what)
    calls, rate, state = max(every, key=lambda told: told[0])
    if calls > mine[0]:
        if schedule and state:
            schedule.load_state_dict(state)
        trainer.learning_rate = rate


def _is_over(trainer: DistributedTrainer) -> bool:
    """Takes part in one update of the others after this rank has run out of data. Returns whether
    all ranks have. If gradients are not finite, the ranks that have called update() decide: they
    may catch the error and go on."""
    sync = trainer.sync
    sync.collection.reset_gradients()
    try:
        with DeferSignals(may_leave=sync.may_leave):
            return sync.step(0.0, NO_BATCH, Flag.ENDED)[1]
    except RuntimeError:
        if not sync.is_not_finite:
            raise
        return False
