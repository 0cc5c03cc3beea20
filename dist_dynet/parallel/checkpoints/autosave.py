"""When a Checkpointer saves automatically: after updates, a time, an epoch, or a signal."""

from __future__ import annotations

import time
from typing import Any

from ..._manner import warn
from ...trainers import Trainer
from ..agreement.message import Flag
from ..data.sampling import Shard
from ..local_sgd import LocalSGD
from ..processes.world import World


class AutoSave:
    """The part of a Checkpointer that knows when a save is due."""

    _epoch: int
    _epochs: bool
    _counted: Trainer | LocalSGD
    _inner: Trainer
    _marked: bool
    _pending: bool
    _sampler: Shard[Any] | None
    _seconds: float
    _since: float
    _last_try: int
    _updates: int
    _warned = False
    _world: World

    def _save(self, automatic: bool) -> bool:
        raise NotImplementedError

    def mark(self) -> None:
        """Asks for a save at the next step, on all ranks, as SIGUSR1 does.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> trainer = dy.SimpleSGDTrainer(m)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, trainer)
        ...     for _ in range(3):
        ...         trainer.update()
        ...         if trainer.updates == 1:
        ...             checkpointer.mark()
        >>> checkpointer.step  # saved at the end of the update after it
        2
        """
        self._marked = True

    def _save_flag(self) -> int:
        return Flag.SAVE if self._wants_save() else 0

    def _on_flags(self, flags: int) -> None:
        self._pending |= bool(flags & Flag.SAVE)

    def _on_average(self, flags: int) -> None:
        """As _on_flags(), after an average of LocalSGD; without a sampler it saves at once."""
        self._on_flags(flags)
        if self._sampler is None:
            self._save_if_due()

    def _wants_save(self) -> bool:
        """Whether this rank wants a save: it was asked for one, or rank 0's clock says so."""
        over = 0 < self._seconds < time.monotonic() - self._since
        return self._marked or (over and self._world.rank == 0)

    def _is_due(self) -> bool:
        """Whether a save is due, alike on all ranks."""
        if self._pending or (self._world.size == 1 and self._wants_save()):
            return True
        return 0 < self._updates <= self._counted.updates - self._last_try

    def _save_if_due(self) -> None:
        if self._is_due():
            self._save(automatic=True)

    def _check_loop(self) -> None:
        """Refuses loops that do not show when their body is done, which is when to save: one that
        reads ahead, and one over another shard."""
        if self._sampler is None:
            return
        if not (self._warned or self._sampler.is_begun) and self._world.rank == 0:
            missed = self._counted.updates - self._last_try
            if missed >= 2 * (self._updates or 500):
                self._warned = True
                warn(
                    f"Checkpointer: nothing was saved in {missed} updates, as nobody has begun a"
                    " loop over the sampler, which says when to save. Write `for batch in sampler`"
                    " with the shard that Checkpointer was given, or call save()."
                )
        if self._sampler.runs_ahead:
            raise RuntimeError(
                "Checkpointer: with `every` the loop over the sampler must work on each batch"
                " before it asks for the next one; got a loop that reads ahead, as list(shard(...))"
                " does. Leave `every` out, name the batches, update(batch), and call save() at the"
                " end of the loop's body."
            )

    def step_ends(self) -> None:
        """Called by the sampler when a step is completely done.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> m, batches = dy.ParameterCollection(), dy.parallel.shard(range(6), batch_size=2)
        >>> trainer = dy.SimpleSGDTrainer(m)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, trainer, batches)
        ...     trainer.update()
        ...     checkpointer.mark()
        ...     checkpointer.step_ends()
        >>> checkpointer.step
        1
        """
        assert self._sampler is not None
        ended = self._epochs and (
            self._sampler.epoch > self._epoch or self._sampler.position == len(self._sampler)
        )
        if self._is_due() or ended:
            self._save(automatic=True)

    def _next_epoch(self) -> int:
        """The epoch of the next step."""
        sampler = self._sampler
        return 0 if sampler is None else sampler.epoch + (0 < len(sampler) == sampler.position)
