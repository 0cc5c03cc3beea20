"""The negotiation before gradients move: each rank sends one small message, which all ranks read.

With dynamic graphs, each rank may have used different parameters. After this step all ranks know
the same facts (who has a gradient of what, how many rows, which weights), so that they make the
same decisions. Nothing is summed here; the exchange does that, as negotiated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..._ffi import ffi, lib
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ...trainers.state import Settings
from ..batches.batches import Description
from ..processes.failures import IN_JOIN
from ..processes.rank_names import format_ranks
from ..processes.world import World, hash_of
from .message import Flag, MessageLayout
from .meters import Meters
from .pass_weights import PassWeights
from .structure import Structure


@dataclass(frozen=True)
class Negotiated:
    """What all ranks know about all of them together."""

    what: str  # the name of the collective operation
    structure: Structure
    weight: float
    """The factor for this rank's gradients before the others' weights are known: n_r, or 1 without
    averaging; 0 for a rank that contributes nothing."""
    scale: float  # the factor for the sum of gradients that were multiplied by these weights
    used: NDArray[np.bool_]  # for each dense parameter, whether some rank has a gradient
    of_any: int  # flags that some rank has set
    of_all: int  # flags that all ranks have set
    settings: Settings  # those of the ranks that still have data

    @property
    def over(self) -> bool:
        """Whether all ranks have run out of data."""
        return bool(self.of_all & Flag.ENDED)


@dataclass(frozen=True)
class NegotiatedByRank(Negotiated):
    """What all ranks know about each one: one row per rank."""

    factors: NDArray[np.float64]
    """The factor for each rank's gradients before they are summed: weight times scale."""
    filled: NDArray[np.bool_]  # (rank, dense parameter): whether the rank has a gradient
    rows: NDArray[np.int32]  # (rank, table): number of rows with a gradient


_NEVER = 2**63 - 1
"""Larger than any count of changes."""


class Summary(NamedTuple):
    """A summary of all messages, where nothing else is needed."""

    used: NDArray[np.bool_]  # as in Negotiated
    weights: float  # their sum
    of_any: int
    of_all: int


class Step(NamedTuple):
    """What the gradients of an update belong to; must be equal on all ranks."""

    description: Description | tuple[()] = ()  # of the batch; (): not from shard()
    passes: int = 1
    """How many calls of update() have gathered them."""
    subset: int = 0  # a hash of the parameters that are updated; 0: all
    inner_settings: tuple[float, ...] = ()
    """Settings of a wrapped trainer that each rank uses on its own, and a hash of its constants."""

    def parts(self) -> dict[str, str]:
        """The parts as text, for an error, each with a remedy for when it differs."""
        parts = {"no batch of shard()": "Let all ranks use batches of one loop over shard()."}
        if self.description:
            examples, data, settings, division, epoch, step = self.description
            parts = {
                f"step {step} of epoch {epoch} of shard()": "Call update() once for each batch of"
                " a loop, on all ranks.",
                f"data of {examples} examples with fingerprint {data:x}": "Give shard() the same"
                " data in the same order on all ranks: it deals them out itself.",
                **{f"{name}={n:d}": "" for name, n in settings._asdict().items()},
                f"costs and weights {division:x}": "Give shard() arrays that stay alike on all"
                " ranks as cost= and weight=, or functions of the example alone.",
            }
        parts[f"passes: {self.passes}"] = ""
        which = f"update_subset {self.subset:x}" if self.subset else "all parameters"
        parts[which] = "Give update_subset() the same parameters on all ranks."
        parts[f"settings of the wrapped trainer {[*self.inner_settings]}"] = ""
        return parts


class AsPlanned:
    """All messages are as the transport's cached plan expects; the plan holds everything else."""

    over, what = False, ""


class Transport(Protocol):
    """Sends messages to all ranks."""

    def send(
        self,
        layout: MessageLayout,
        message: Any,
        average: bool,
        plannable: bool,
        name: Callable[[], str],
        follow_up: Any = None,
    ) -> bool | Summary:
        """Sends this rank's message and receives the others'. Collective.

        Args:
            layout: of the messages.
            message: dn_rank_message *
            average: gradients are multiplied by weight / sum of weights; otherwise by 1, or by 0
                if the weight is 0.
            plannable: a plan may be followed, if the messages allow it; the same on all ranks.
            name: names the collective operation; not called in the steady state.
            follow_up: dn_follow_up *, in its first stage: the rest of the update, which may follow
                at once if all messages are as planned. None: it may not.

        Returns:
            True: all messages are as planned. False: the messages must be read. A summary: nothing
            else is needed.
        """

    def received(self, layout: MessageLayout) -> NDArray[Any]:
        """The messages of all ranks, valid until the next send()."""

    def meters(self) -> NDArray[Any]:
        """The times reported in the messages of a send() that has returned True."""


class MpiTransport:
    """Messages by MPI's all-gather, without a plan. `moves` is as in World.wait_until()."""

    def __init__(self, here: World, comm: Any, moves: Callable[[], int] = int) -> None:
        self._here, self._comm, self._moves = here, comm, moves
        self._every: NDArray[Any] = np.empty(0)

    def send(
        self,
        layout: MessageLayout,
        message: Any,
        average: bool,
        plannable: bool,
        name: Callable[[], str],
        follow_up: Any = None,
    ) -> bool:
        """As Transport.send."""
        mine = np.empty(layout.dtype.itemsize, np.uint8)
        self._every = np.empty(self._here.size, layout.dtype)
        lib.dn_rank_message_write(message, layout.members, ffi.from_buffer(mine))
        self._here.wait(
            [self._comm.Iallgather(mine, self._every.view(np.uint8))], name(), moves=self._moves
        )
        return False

    def received(self, layout: MessageLayout) -> NDArray[Any]:
        """As Transport.received."""
        return self._every

    def meters(self) -> NDArray[Any]:
        """As Transport.meters."""
        return self._every["meter"]


class Negotiation:
    """Negotiates the updates of one trainer's collection."""

    def __init__(
        self, here: World, comm: Any, trainer: Trainer, average: bool, transport: Transport
    ) -> None:
        self._here, self._comm, self._average, self._transport = here, comm, average, transport
        self._trainer, self._m = trainer, trainer.collection
        self.trusts = False
        self._updates, self._which = 0, here.number_trainer()
        self.asks: list[Callable[[], int]] = []
        """Functions that return flags to send beside those that reach() is given."""
        self.on_flags: list[Callable[[int], object]] = []
        """Called with the flags of all ranks together, at each negotiation that has any."""
        self._said: Any = None  # what was sent in the last update
        self._layout: MessageLayout = None  # type: ignore[assignment]
        # of the present collective operation: its name, or kind, update and number
        self._name: str | tuple[str, int, int] = ""
        self._message = ffi.new("dn_rank_message *")
        self._planned = AsPlanned()
        self.meters = Meters(here, comm)
        self._passes = PassWeights(here)
        self.on_changed: Callable[[World, Any, str], None] | None = None
        self._adopt(Structure(self._m), here.collective("DistributedTrainer"), ())
        self._mark_in_sync()

    @property
    def structure(self) -> Structure:
        """The parameters that all ranks hold."""
        return self._structure

    def _adopt(self, structure: Structure, what: str, known: Any) -> None:
        """Makes sure that the ranks hold the same parameters, and gives new ones rank 0's values.
        If they differ, nothing changes."""
        structure.check(self._here, self._comm, what)
        structure.broadcast(self._here, self._comm, what, known)
        before = self._layout.members if self._layout else None
        self._structure = structure
        self._layout = MessageLayout(structure, Hooks(self._trainer).c)
        if before is not None:
            self._layout.members.alone, self._layout.members.resets = before.alone, before.resets

    def _mark_in_sync(self) -> None:
        """Notes that values and moments are equal on all ranks now."""
        members = self._layout.members
        members.alone = _NEVER if self.trusts else lib.dn_store_alone(self._structure.root.c)
        members.resets = lib.dn_trainer_resets(Hooks(self._trainer).c)

    def trust_values(self) -> None:
        """Leaves it to the caller of update() to keep parameters equal on all ranks."""
        self.trusts = True
        self._mark_in_sync()

    def reach(
        self,
        weight: float,
        settings: Settings,
        step: Step,
        flags: int = 0,
        problem: str = "",
        follow_up: Any = None,
    ) -> Negotiated | AsPlanned:
        """Negotiates an update. Returns what all ranks know then. Collective.

        Args:
            weight: n_r of this rank.
            settings: of the trainer. Those of a rank that has run out of data do not count, nor
                does its step.
            step: what the gradients belong to.
            flags: a sum of Flag.
            problem: why it is not known which batch the gradients come from.
            follow_up: as for Transport.send().

        Raises:
            RuntimeError: on all ranks: they have different parameters or settings, have frozen
                different parameters, or are at different steps of shard(); a rank does not know
                what its gradients belong to.
        """
        self._updates += 1
        plannable = self._begin_collective("gradient exchange of update", flags)
        average = self._average and not flags & Flag.WEIGHED
        if problem:
            flags |= Flag.UNKNOWN
        for ask in self.asks:
            flags |= ask()
        if weight == 0 and not problem:
            self._m.reset_gradients()
        current = self._structure
        if not current.fits(self._m):
            current = Structure(self._m)
            flags |= Flag.OTHER
        said, c = (current, step, settings, flags), self._message
        if said != self._said:  # objects that stay the same in a loop
            c.structure = current.hash
            c.step = hash(step)
            c.settings = settings
            c.flags = flags
            self._said = said
        c.weight = weight
        outcome = self._transport.send(self._layout, c, average, plannable, self._named, follow_up)
        if outcome is True:
            self.meters.take(self._transport.meters(), self._updates)
            if flags:
                self._notify(flags)
            return self._planned
        if isinstance(outcome, Summary):
            return self._summarised(outcome, weight, settings, average)
        return self._compared(current, weight, settings, step, flags, problem, average)

    def _summarised(
        self, summary: Summary, weight: float, settings: Settings, average: bool
    ) -> Negotiated:
        """The result of reach() for a summary."""
        self.meters.begin(self._updates)
        self._notify(summary.of_any)
        own, scale = _weight_and_scale(weight, summary.weights, average)
        told = summary.used, summary.of_any, summary.of_all, settings
        return Negotiated(self._named(), self._structure, own, scale, *told)

    def _compared(
        self,
        current: Structure,
        weight: float,
        settings: Settings,
        step: Step,
        flags: int,
        problem: str,
        average: bool,
    ) -> NegotiatedByRank:
        """The result of reach() for the messages of all ranks. If parameters have changed, messages
        are sent once more."""
        what, every = self._named(), self._transport.received(self._layout)
        self.meters.take(every["meter"], self._updates)
        alike = self._all_alike(every)
        if current.hash != self._structure.hash or (
            not alike and (every["structure"] != self._structure.hash).any()
        ):
            self._adopt(current, what, self._structure.parameters)
            self._transport.send(self._layout, self._message, average, False, self._named)
            every = self._transport.received(self._layout)
            alike = self._all_alike(every)
        negotiated = settings
        if not alike:
            going = every[every["flags"] & Flag.ENDED == 0]
            self._compare(every, going, settings, step, flags, what)
            negotiated = settings if not len(going) else Settings(*going["settings"][0].tolist())
        if self._average:
            self._refuse_unknown(every, problem, what)
        if self._here.checks:
            self._structure.compare(self._here, self._comm, what)
        of_any = int(np.bitwise_or.reduce(every["flags"]))
        if of_any & Flag.CHANGED and self.on_changed is not None:
            self.on_changed(self._here, self._comm, what)
        if of_any & Flag.WRITTEN:
            self._compare_written(every["states"], what)
        self._notify(of_any)
        total = sum(every["weight"].tolist())  # one after another, as C adds them up
        weights = every["weight"] if average else (every["weight"] > 0).astype(np.float64)
        own, scale = _weight_and_scale(weight, total, average)
        return NegotiatedByRank(
            what,
            self._structure,
            own,
            scale,
            np.logical_or.reduce(every["filled"]),
            of_any,
            int(np.bitwise_and.reduce(every["flags"])),
            negotiated,
            weights * scale,
            every["filled"],
            every["rows"],
        )

    def _notify(self, flags: int) -> None:
        for callback in self.on_flags:
            callback(flags)

    def gather_weights(
        self, weight: float, flags: int, problem: str = ""
    ) -> tuple[float | None, int, int]:
        """The sum of all ranks' weights in one pass of an accumulation, None if a rank that already
        knows the sum cannot know its own weight; the flags of any rank, and those of all.
        Collective.

        Raises:
            RuntimeError: on all ranks: all ask, and one does not know which batch its gradients
                come from.
        """
        what = self._begin_pass(flags)
        every = self._passes.ask(weight, flags | (Flag.UNKNOWN if problem else 0), what)
        of_any, of_all = np.bitwise_or.reduce(every["flags"]), np.bitwise_and.reduce(every["flags"])
        if of_all & Flag.ASKS:
            self._refuse_unknown(every, problem, what)
        total = None if of_any & Flag.UNKNOWN else sum(every["weight"].tolist())
        return total, int(of_any), int(of_all)

    def send_weight(self, weight: float, total: float, flags: int, problem: str) -> None:
        """As gather_weights(), on a rank that knows the sum."""
        what = self._begin_pass(flags)
        self._passes.tell(weight, total, flags | (Flag.UNKNOWN if problem else 0), what)

    def wrong_weights_problem(self) -> str:
        """Before an exchange: why sums that this rank has assumed were wrong; empty if none was.
        Collective."""
        return self._passes.problem()

    def _begin_pass(self, flags: int) -> str:
        how = IN_JOIN if flags & Flag.JOIN else f"of set_accumulation({self._trainer.accumulation})"
        self._begin_collective(f"weights of a pass {how}, before update", flags, 1)
        return self._named()

    def _refuse_unknown(self, every: NDArray[Any], problem: str, what: str) -> None:
        """Refuses the update on all ranks if one does not know what its gradients belong to."""
        unknown = np.flatnonzero(every["flags"] & Flag.UNKNOWN).tolist()
        if unknown:
            where = format_ranks([self._here.members[rank] for rank in unknown])
            problem = problem or (
                f"on {where} it is not known which batch of shard() the gradients come from; see"
                " the message there."
            )
            raise RuntimeError(f"{self._here.name} {what}: {problem}")

    def _begin_collective(self, kind: str, flags: int, ahead: int = 0) -> bool:
        """Counts one more collective operation, for the next but `ahead` update. Returns whether it
        is without checks."""
        number = self._here.count_unchecked()
        if number:
            self._name = kind, self._updates + ahead, number
            return True
        what = f"{kind} {self._updates + ahead}{self._which}"
        self._name = self._here.collective(what, at_one_line=not flags & Flag.JOIN)
        return False

    def _named(self) -> str:
        """The name of the collective operation, made only if needed: it takes a tenth of an
        exchange."""
        if isinstance(self._name, str):
            return self._name
        kind, update, number = self._name
        return self._here.name_of(f"{kind} {update}{self._which}", number)

    def _all_alike(self, every: NDArray[Any]) -> bool:
        """Whether the part of the messages is equal that nearly always is."""
        said = every.view(np.uint8).reshape(len(every), -1)[:, self._layout.alike]
        return bool((said == said[0]).all())

    def _compare(
        self,
        every: NDArray[Any],
        going: NDArray[Any],
        settings: Settings,
        step: Step,
        flags: int,
        what: str,
    ) -> None:
        """Raises an error for differences, except in flags, and in tables that some ranks have
        read: reading rounds their decay, so then all ranks do the same."""
        unlike = (going["settings"] != going["settings"][:1]).any(axis=0)
        said = {settings.words(unlike): ""} if unlike.any() else {}
        known = going[going["flags"] & (Flag.UNKNOWN | Flag.MAY_DIFFER) == 0]
        if len(set(known["step"].tolist())) > 1:
            said |= step.parts()
        elif self._average and len(set((known["flags"] & Flag.WEIGHED).tolist())) > 1:
            said[f"{'' if flags & Flag.WEIGHED else 'no '}gradients of earlier passes"] = ""
        if said:
            self._here.agree(self._comm, None if flags & Flag.ENDED else said, what)
        self._compare_states(every["states"], what)
        read = [0 < n < self._here.size for n in np.count_nonzero(every["settled"], axis=0)]
        self._structure.materialise(read)

    def _compare_states(self, states: NDArray[np.uint8], what: str) -> None:
        """Makes sure that no parameter is frozen or treated differently on some ranks."""
        precision = states // lib.DN_PRECISION_IS
        for unlike, words, mend in (
            (states & lib.DN_IS_FROZEN, "frozen", "set_updated()"),
            (states & lib.DN_IS_EXCLUDED, "excluded from decay", "exclude_from_decay()"),
            (precision != precision[0], "of another precision", "set_precision()"),
        ):
            which = np.flatnonzero((unlike != unlike[0]).any(axis=0))
            if len(which):
                name = self._structure.parameters[which[0]].readable_name()
                ranks = np.flatnonzero(unlike[:, which[0]]).tolist()
                where = format_ranks([self._here.members[rank] for rank in ranks])
                raise RuntimeError(
                    f'{self._here.name} {what}: "{name}" is {words} on {where}, but not on all.'
                    f" Call {mend} on all ranks alike."
                )

    def _compare_written(self, states: NDArray[np.uint8], what: str) -> None:
        """Makes sure that what the program has changed, on some ranks or on all, is the same on all
        ranks. Collective."""
        written = (states & lib.DN_IS_WRITTEN).any(axis=0)
        self._structure.compare(self._here, self._comm, what, np.flatnonzero(written).tolist())
        resets = lib.dn_trainer_resets(Hooks(self._trainer).c) - self._layout.members.resets
        hashes = np.empty((self._here.size, 2), np.int64)
        mine = np.array([resets, 0])
        self._here.wait([self._comm.Iallgather(mine, hashes)], what)
        if hashes[:, 0].any():
            mine[1] = hash_of(
                repr([(name, x.shape, x.tobytes()) for name, x in self._trainer.state().items()])
            )
            self._here.wait([self._comm.Iallgather(mine, hashes)], what)
            other = np.flatnonzero(hashes[:, 1] != hashes[0, 1])
            if len(other):
                raise RuntimeError(
                    f"{self._here.name} {what}: all ranks must agree; the trainer's state differs"
                    f" on rank {self._here.members[other[0]]} from that on rank"
                    f" {self._here.members[0]}, after update() of the wrapped trainer, restart() or"
                    " load_state(). Call it on all ranks alike."
                )
        self._mark_in_sync()


def _weight_and_scale(weight: float, total: float, average: bool) -> tuple[float, float]:
    """The weight of a rank's gradients in the sum over all ranks, and the factor for that sum."""
    if not average:
        return float(weight > 0), 1.0
    return weight, 1 / total if total > 0 else 0.0
