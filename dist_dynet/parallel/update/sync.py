"""Sync: one update of a DistributedTrainer, from this rank's gradients to parameters that are equal
on all ranks.

negotiate -> sum -> apply. It knows the order of these, and what an exception in between leaves
behind. Its callers, trainer.py and join.py, decide how much gradients count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ..._ffi import ffi, lib
from ...meter import NONE, switch
from ...params.collection import handles_of, root_of
from ...params.parameters import AnyParameter
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ...trainers.state import Settings
from ..agreement.message import Flag
from ..agreement.negotiation import AsPlanned, Negotiated, Negotiation, Step
from ..batch import BatchUse
from ..exchange.exchange import Exchange
from ..exchange.hosts import HybridExchange
from ..exchange.plan import check
from ..exchange.shared import SharedExchange
from ..processes.world import World
from ..reproducible import ReproducibleSum
from .accumulation import Stash


class Sync:
    """What the ranks do together for one trainer.

    Args:
        here: the ranks.
        trainer: has the rule, the settings and the parameters.
        weighted: sums are divided by the sum of weights.
        reproducible: sums in an order that does not depend on the ranks; None: any order.
    """

    def __init__(
        self, here: World, trainer: Trainer, weighted: bool, reproducible: ReproducibleSum | None
    ) -> None:
        self.here, self.weighted, self.reproducible = here, weighted, reproducible
        self.hooks, self.collection = Hooks(trainer), trainer.collection
        self.uses, self.stash = BatchUse(here), Stash.of(root_of(trainer.collection))
        self.negotiation: Negotiation | None = None  # as the exchange: only with several ranks
        self.exchange: Exchange | None = None
        # the exchange, if it is one between hosts, which sends during backward and compresses
        self.wire: HybridExchange | None = None
        self.calls = 0  # of update()
        self.passes = 0  # calls of update() since the last exchange
        self.silent = False  # inside no_sync()
        self.problem = ""  # why the batch of one of these passes is unknown
        self.described = 0  # a hash of the batches of these passes
        self.last_step: Step | None = None
        """What the gradients of the last update belonged to, for `dist-dynet check`."""
        self.is_not_finite = False
        """Gradients of the last step were not finite, and some ranks still have data."""
        self.joins: set[object] = set()  # the Joins that it is inside
        self._trainer = trainer
        self._follow_up = ffi.new("dn_follow_up *", {"trainer": self.hooks.c})
        # an update has begun and not ended: stays True after an exception that other ranks do not
        # have, so that further updates are refused
        self._is_unfinished = False
        self._foresees = self._sums = False  # C may do all of it; the ranks have agreed

    def residuals(self) -> dict[str, NDArray[Any]]:
        """The rounding errors of compression on this rank, by parameter. Views."""
        return self.wire.residuals() if self.wire else {}

    def load_residuals(self, residuals: Mapping[str, NDArray[Any]], shared: bool) -> None:
        """Continues with these; shared: they are those of the whole host."""
        if self.wire:
            self.wire.load_residuals(residuals, shared)

    @property
    def hosts(self) -> list[list[int]]:
        """The ranks of each host, if they exchange over the network."""
        return self.wire.hosts.ranks if self.wire else []

    def is_last(self) -> bool:
        """Whether the update comes with the next pass."""
        return not self.silent and self.hooks.gathered + 1 >= self._trainer.accumulation

    def mark_out_of_step(self) -> None:
        """Notes that this rank skips an update that the others may make. Further ones are
        refused."""
        self._is_unfinished = True

    def waits(self) -> bool:
        """Whether gradients wait to be applied; then no checkpoint is made."""
        is_kept = self.reproducible is not None and self.reproducible.pending
        return self.passes > 0 or bool(self.stash.kept) or self.hooks.waits() or is_kept

    def step(
        self,
        weight: float,
        step: Step,
        flags: int = 0,
        problem: str = "",
        chosen: Sequence[AnyParameter] | None = None,
    ) -> tuple[bool, bool]:
        """Exchanges and applies the gradients. Returns whether parameters were updated, and whether
        all ranks have run out of data."""
        self.last_step = step
        self._foresees = self._sums = self.is_not_finite = False
        before = switch(NONE)
        try:
            switch(lib.DN_UPDATE if self.negotiation is None else lib.DN_AGREEMENT)
            if not problem:  # otherwise the ranks refuse it together
                self.hooks.prepare()  # no rank of the host writes values yet
            over, what, follow_up = False, "", None
            if self.negotiation is not None:
                over, what, follow_up = self._exchange(weight, step, flags, problem, chosen)
            else:
                over = bool(flags & Flag.ENDED)
                if weight == 0:
                    self.collection.reset_gradients()
            if self.reproducible is not None:
                self.reproducible.sum(what, self.weighted)
            if over and not self.hooks.waits():
                self._end_passes(False)
                return False, over
            updated = self._update(chosen, follow_up, over)
            if updated:
                self.hooks.done()
                self.hooks.conclude()
            return updated, over
        finally:
            switch(before)

    def may_leave(self) -> bool:
        """Whether a signal may end an update that waits for other ranks: parameters are unchanged,
        and no other rank can have gone on, since the ranks have not agreed yet."""
        stage = self._follow_up.stage if self._foresees else lib.DN_FOLLOW_UP_AGREE
        return not self._sums and stage < lib.DN_FOLLOW_UP_SUM

    def _exchange(
        self,
        weight: float,
        step: Step,
        flags: int,
        problem: str,
        chosen: Sequence[AnyParameter] | None,
    ) -> tuple[bool, str, Any]:
        """Agrees with the other ranks and sums gradients. Returns whether all ranks have run out of
        data, the name of the collective operation, and the dn_follow_up * that may have done the
        rest of the update, or None."""
        follow_up = self._follow_up
        exchange = self.exchange
        self._foresees = (
            isinstance(exchange, SharedExchange)
            and exchange.transport.plan is not None
            and self.reproducible is None
            and chosen is None
            and not self.hooks.first
        )
        if self._foresees:  # C may do the rest of the update at once if all messages are as planned
            follow_up.stage, follow_up.error = lib.DN_FOLLOW_UP_AGREE, 0
        else:
            follow_up = None
        assert self.negotiation is not None
        if self._is_unfinished:
            raise RuntimeError(
                f"{self.here.name} update: one before it was interrupted, so that this rank is out"
                " of step with the others. Start the job again from a checkpoint."
            )
        wire = self.wire
        if wire is not None:
            self.here.refuse_collective()  # flush() must send nothing then
        self._is_unfinished = True
        if self.joins:
            flags |= Flag.JOIN
        if wire is not None:
            flags |= wire.flush(weight if self.weighted else float(weight > 0))
        try:
            negotiated = self.negotiation.reach(
                weight, Settings.of(self._trainer), step, flags, problem, follow_up
            )
        except RuntimeError:  # on all ranks
            if wire is not None:
                wire.drop("gradient exchange that was given up")
            self._is_unfinished = False
            raise
        if isinstance(negotiated, Negotiated) and flags & Flag.ENDED and not negotiated.over:
            # takes the settings of the ranks that still have data
            negotiated.settings.set_on(self._trainer)
            self.hooks.prepare()
        stage = lib.DN_FOLLOW_UP_AGREE if follow_up is None else follow_up.stage
        if stage == lib.DN_FOLLOW_UP_AGREE:
            self._sum(negotiated)
            follow_up = None
        elif stage < lib.DN_FOLLOW_UP_UPDATE:
            check(follow_up.error)
        return negotiated.over, negotiated.what, follow_up

    def _update(self, chosen: Sequence[AnyParameter] | None, follow_up: Any, over: bool) -> bool:
        """Updates parameters with the sums, unless the follow-up has done so. Returns whether they
        were updated.

        Raises:
            RuntimeError: on all ranks, gradients are not finite.
        """
        was_gathered, updated = self.passes > 0, False
        try:
            if follow_up is not None and follow_up.stage == lib.DN_FOLLOW_UP_DONE:
                updated = True
            elif follow_up is not None:
                updated = self.hooks.fail(follow_up.error, self.hooks.members())
            else:
                switch(lib.DN_UPDATE)
                updated = self._apply(chosen)
        except RuntimeError:  # after others, such as KeyboardInterrupt, the rank is out of step
            self._end_passes(False)
            self.is_not_finite = not over
            if self.reproducible is not None or self.joins:  # cannot count once in a later sum
                self.collection.reset_gradients()
            elif self.negotiation is not None and not self.weighted:
                # all ranks hold the sum, and the next one would add it up
                for p in self.hooks.members() if chosen is None else chosen:
                    p.scale_gradient(1 / self.here.size)
            raise
        finally:
            if chosen is None and was_gathered:
                self.hooks.gathered = 0
        self._end_passes(updated)
        return updated

    def _apply(self, chosen: Sequence[AnyParameter] | None) -> bool:
        """As Hooks.apply(). Ranks that share the moments update what they own."""
        exchange = self.exchange
        if not isinstance(exchange, SharedExchange):
            return self.hooks.apply(chosen)
        exchange.begin_update()
        try:
            return self.hooks.apply(chosen)
        finally:
            exchange.end_update(None if chosen is None else handles_of(chosen))

    def _end_passes(self, updated: bool) -> None:
        """Called at the end of an update, whether it was made or not: another one begins."""
        if self.wire is not None:
            norm = lib.dn_trainer_last_norm(self.hooks.c)
            longest = self._trainer.get_clip_threshold()
            self.wire.conclude(updated, longest / norm if updated and norm > longest > 0 else 1.0)
        self._is_unfinished = False
        self.passes = self.described = 0

    def _sum(self, negotiated: Negotiated | AsPlanned) -> None:
        """Replaces gradients by their sums."""
        assert self.negotiation is not None
        self._sums = True
        switch(lib.DN_EXCHANGE)
        if self.reproducible is None and self.exchange is not None:
            self.exchange.sum(negotiated)
