"""Sync: one update of a DistributedTrainer, from this rank's gradients to parameters that are equal
on all ranks.

negotiate -> sum -> apply -> account. It knows the order of these, and what an exception in between
leaves behind. Its callers, trainer.py and join.py, decide how much gradients count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ..._deferred_signals import DeferSignals
from ..._ffi import ffi, lib
from ...meter import NONE, switch
from ...params.parameters import AnyParameter
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ...trainers.state import Settings
from ..agreement.message import Flag
from ..agreement.negotiation import AsPlanned, Negotiated, Negotiation, Step
from ..exchange.engines import Exchange
from ..exchange.hybrid import HybridExchange
from ..exchange.plan import check
from ..exchange.shared import SharedExchange
from ..exchange.shared_model import SharedModel, refuse_written
from ..processes.world import World
from .accumulation import Accumulation
from .reproducible import ReproducibleSum
from .sources import Sources


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
        self.hooks = Hooks(trainer)
        self.passes = Accumulation(trainer)
        self.collection = trainer.collection
        self.sources = Sources(self.collection, self.passes.is_last)
        self.negotiation: Negotiation | None = None  # as the exchange: only with several ranks
        self.exchange: Exchange | None = None
        # the exchange, if it is one between hosts, which sends during backward and compresses
        self.wire: HybridExchange | None = None
        self.model: SharedModel | None = None  # of the ranks of this host
        self.trains_apart = False  # what is averaged are values: each rank decides on its own steps
        self.refusal = ""  # why the next exchange must be refused, set by its caller
        # what else must be equal on the ranks that go on, and whether it may differ on this one
        self.inner_settings: tuple[float, ...] = ()
        self.may_differ = False
        self.calls = 0  # of update()
        # gradients of the last step were not finite, and some ranks still have data
        self.is_not_finite = False
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

    def forget_gradients(self) -> None:
        """Drops the gradients since the last pass; those of earlier passes stay."""
        with self.passes.stash.unseen():
            self.collection.reset_gradients()

    def mark_out_of_step(self) -> None:
        """Notes that this rank skips an update that the others may make. Further ones are
        refused."""
        self._is_unfinished = True

    def waits(self) -> bool:
        """Whether gradients wait to be applied; then no checkpoint is made."""
        return self.passes.waits() or (self.reproducible is not None and self.reproducible.pending)

    def wait(self) -> bool:
        """Counts a pass whose gradients wait for others. Returns False: nothing was updated."""
        self.sources.clear()
        self.passes.count()
        return False

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
        before = switch(NONE)
        try:
            switch(lib.DN_UPDATE if self.negotiation is None else lib.DN_AGREEMENT)
            with DeferSignals(self.negotiation or self.hooks.followers, self._may_leave):
                updated, over = self._step(weight, step, flags, problem, chosen)
            if updated:
                self.hooks.conclude()
            return updated, over
        finally:
            if self.model is not None:
                self.model.leave()
            switch(before)

    def _may_leave(self) -> bool:
        """Whether parameters are unchanged and no other rank can have gone on, since the ranks have
        not agreed yet."""
        stage = self._follow_up.stage if self._foresees else lib.DN_FOLLOW_UP_AGREE
        return not self._sums and stage < lib.DN_FOLLOW_UP_SUM

    def _step(
        self,
        weight: float,
        step: Step,
        flags: int,
        problem: str,
        chosen: Sequence[AnyParameter] | None,
    ) -> tuple[bool, bool]:
        self._foresees = self._sums = False
        self.is_not_finite = False
        if not (problem and self.weighted):  # otherwise the ranks refuse it together
            self.hooks.prepare()  # no rank of the host writes values yet
        over, what, follow_up = self._exchange(weight, step, flags, problem, chosen)
        if self.reproducible is not None:
            self._sum_reproducibly(what)
        if (over and not self.hooks.waits()) or (
            self.reproducible is not None and not self.passes.is_last()
        ):
            self._is_unfinished = False
            self._conclude(False)
            return False, over
        try:
            updated = self._update(chosen, follow_up, what)
        except RuntimeError:  # gradients are not finite, on all ranks
            self._keep_sums(chosen, bool(flags & Flag.WEIGHED))
            if chosen is None:  # as in one process, a new accumulation begins
                self.hooks.gathered = 0
            self.is_not_finite = not over
            raise
        self.sources.clear()
        if updated:
            self.hooks.done()
        return updated, over

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
        if self.negotiation is None:
            if weight == 0:
                self.collection.reset_gradients()
            return bool(flags & Flag.ENDED), "", None
        follow_up = self._foresee(chosen)
        negotiated = self._negotiate(weight, step, flags, problem, follow_up)
        stage = lib.DN_FOLLOW_UP_AGREE if follow_up is None else follow_up.stage
        if stage == lib.DN_FOLLOW_UP_AGREE:
            self._sum(negotiated)
            follow_up = None
        elif stage < lib.DN_FOLLOW_UP_UPDATE:
            self._fail(follow_up)
        return negotiated.over, negotiated.what, follow_up

    def _sum_reproducibly(self, what: str) -> None:
        """Sums what reproducible=True has kept of the passes.

        Raises:
            RuntimeError: on all ranks, what they do differs.
        """
        assert self.reproducible is not None
        problem = self.reproducible.sum(what, self.weighted, self.passes.stash.changes())
        if problem:
            self._is_unfinished = False
            raise RuntimeError(f"{self.here.name} {what}: {problem}")
        if self.passes.is_last():
            self.passes.restore()

    def _update(self, chosen: Sequence[AnyParameter] | None, follow_up: Any, what: str) -> bool:
        """Updates parameters with the sums, unless the follow-up has done so. Returns whether they
        were updated.

        Raises:
            RuntimeError: on all ranks, gradients are not finite.
        """
        model = self.model
        if follow_up is not None and follow_up.stage == lib.DN_FOLLOW_UP_DONE:
            if model is not None:
                model.ended()
            self._end_passes(True)
            return True
        switch(lib.DN_UPDATE)
        try:
            if follow_up is None:
                updated = self._apply(chosen)
            else:
                updated = self.hooks.fail(follow_up.error, self.hooks.members())
        except RuntimeError:
            if model is not None:
                model.complete()
                model.end(what)
            self._end_passes(False)
            raise
        if model is not None:
            model.end(what)
        self._end_passes(updated)
        return updated

    def _conclude(self, updated: bool) -> None:
        """Notes whether what was sent was used by an update."""
        if self.wire is not None:
            trainer, norm = self._trainer, lib.dn_trainer_last_norm(self.hooks.c)
            longest, limit = trainer.get_clip_threshold(), trainer.get_clip_value()
            factor = longest / norm if updated and norm > longest > 0 else 1.0
            self.wire.conclude(updated, factor, limit * trainer.accumulation)

    def _end_passes(self, updated: bool) -> None:
        """Called at the end of an update, whether it was made or not: another one begins."""
        self._conclude(updated)
        self._is_unfinished = False
        self.passes.passes = self.passes.in_place = 0
        self.passes.begun = False

    def _keep_sums(self, chosen: Sequence[AnyParameter] | None, weighed: bool) -> None:
        """After a refused update, gradients are sums, the same on all ranks, and the program may
        keep them: they become this rank's share of the next sum."""
        if self.reproducible is not None:
            self.reproducible.keep_sums()
        elif self.negotiation is None:
            pass
        elif self.joins:  # as the ranks do that have run out of data
            self.forget_gradients()
        elif weighed or not self.weighted:
            with self.passes.stash.unseen():
                for p in self.hooks.members() if chosen is None else chosen:
                    p.scale_gradient(1 / self.here.size)

    def _apply(self, chosen: Sequence[AnyParameter] | None) -> bool:
        """As Hooks.apply(), on all ranks together."""
        lib.dn_trainer_together(self.hooks.c, 1)
        try:
            return self.hooks.apply(chosen)
        finally:
            lib.dn_trainer_together(self.hooks.c, 0)

    def _foresee(self, chosen: Sequence[AnyParameter] | None) -> Any:
        """The follow-up for C, if it may do the rest of the update at once when all messages are as
        planned."""
        exchange, model, follow_up = self.exchange, self.model, self._follow_up
        if (
            not isinstance(exchange, SharedExchange)
            or exchange.transport.plan is None
            or self.reproducible is not None
            or chosen is not None
            or self.hooks.first
            or self.passes.stash.kept
        ):
            return None
        if model is not None and not model.foresee(follow_up, exchange.transport.plan):
            return None
        follow_up.stage = lib.DN_FOLLOW_UP_AGREE
        follow_up.error = 0
        self._foresees = True
        return follow_up

    def _fail(self, follow_up: Any) -> None:
        """Raises the error of a follow-up that could not begin to update."""
        if follow_up.stage == lib.DN_FOLLOW_UP_OPEN:
            self._is_unfinished = False
            refuse_written()
        check(follow_up.error)

    def _sum(self, negotiated: Negotiated | AsPlanned) -> None:
        """Replaces gradients by their sums."""
        assert self.negotiation is not None
        self._sums = True
        switch(lib.DN_EXCHANGE)
        if self.model is not None:
            self._begin(self.model, negotiated)
        if self.reproducible is None and self.exchange is not None:
            self.exchange.sum(negotiated)
            self.negotiation.meters.end(negotiated.what)
        self.passes.stash.mark()

    def _begin(self, model: SharedModel, agreed: Negotiated | AsPlanned) -> None:
        """Lets the ranks of a host share their model from here on."""
        exchange = self.exchange if self.reproducible is None else None
        try:
            model.begin(
                agreed,
                exchange.transport.plan if isinstance(exchange, SharedExchange) else None,
                self.wire if exchange is not None else None,
            )
        except RuntimeError:  # values differ, on all ranks
            self.passes.stash.mark()
            self._is_unfinished = False
            raise

    def _negotiate(
        self, weight: float, step: Step, flags: int, problem: str, follow_up: Any
    ) -> Negotiated | AsPlanned:
        """What all ranks know before gradients move. With a follow-up, C may already have made the
        rest of the update."""
        assert self.negotiation is not None
        if self._is_unfinished:
            raise RuntimeError(
                f"{self.here.name} update: one before it was interrupted, so that this rank is out"
                " of step with the others. Start the job again from a checkpoint."
            )
        self.here.refuse_collective()
        self._is_unfinished, wire = True, self.wire
        if self.joins:
            flags |= Flag.JOIN | Flag.MAY_DIFFER * self.may_differ
        if wire is not None:
            flags |= wire.flush(weight if self.weighted else float(weight > 0))
        if follow_up is None:
            flags |= self.model.ask() if self.model is not None else 0
            self.passes.stash.follow()
        try:
            negotiated = self.negotiation.reach(
                weight, Settings.of(self._trainer), step, flags, problem, follow_up
            )
        except RuntimeError:  # on all ranks
            if wire is not None:
                wire.drop("gradient exchange that was given up")
            self.passes.stash.mark()
            self._is_unfinished = False
            raise
        if isinstance(negotiated, Negotiated) and flags & Flag.ENDED and not negotiated.over:
            # takes the settings of the ranks that still have data
            negotiated.settings.set_on(self._trainer)
            self.hooks.prepare()
        return negotiated
