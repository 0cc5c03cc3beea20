"""What the ranks tell one another before gradients move: one small message of each, read by all.

With dynamic graphs every rank may have used other parameters. After this step all ranks know the
same things (who has a gradient of what, how many rows, which weights), so that whatever they decide
on it, they decide alike. It adds up nothing: an exchange does, by what was agreed on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .._ffi import ffi, lib
from ..trainers import Trainer
from ..trainers.hooks import Hooks
from ..trainers.state import Settings
from ._rank_names import format_ranks
from ._world import World, hash_of
from .batches import Description
from .message import Flag, MessageLayout, flags_of_any
from .meters import Meters
from .pass_weights import PassWeights
from .structure import Structure


@dataclass(frozen=True)
class Negotiated:
    """What all ranks know of all together."""

    what: str  # the name of the collective operation
    structure: Structure
    weight: float
    """What this rank's gradients are multiplied by, known before the others' weights are: n_r, or 1
    where no average is wanted; 0 of a rank that contributes nothing."""
    scale: float  # what a sum of gradients that were multiplied by these is multiplied by
    used: NDArray[np.bool_]  # of each dense parameter whether some rank has a gradient of it
    of_any: int  # flags that some rank has told
    of_all: int  # flags that all have
    settings: Settings  # those of the ranks that go on

    @property
    def over(self) -> bool:
        """Whether all ranks have run out of data."""
        return bool(self.of_all & Flag.ENDED)


@dataclass(frozen=True)
class NegotiatedByRank(Negotiated):
    """What they know of each. One row per rank."""

    factors: NDArray[np.float64]
    """What each rank's gradients are multiplied by before they are added up: weights times
    scale."""
    filled: NDArray[np.bool_]  # (rank, dense parameter): whether the rank has a gradient of it
    rows: NDArray[np.int32]  # (rank, table): of how many rows the rank has a gradient


_NEVER = 2**63 - 1
"""No count of changes is greater."""


class Summary(NamedTuple):
    """What all ranks have told together, where nothing else matters."""

    used: NDArray[np.bool_]  # as in Negotiated
    weights: float  # their sum
    of_any: int
    of_all: int


class Step(NamedTuple):
    """What the gradients of an update belong to, which must be alike on all ranks."""

    description: Description | tuple[()] = ()  # of the batch; (): none of shard()
    passes: int = 1
    """How many calls of update() have gathered them."""
    subset: int = 0  # a number of the parameters that are updated; 0: all
    beside: tuple[float, ...] = ()
    """Settings of a trainer that ranks use each for itself, and a hash of its constants."""

    def parts(self) -> dict[str, str]:
        """For an error: each thing by itself, with what to do where it differs."""
        parts = {"no batch of shard()": "Let all ranks use batches of one loop over shard()."}
        if self.description:
            examples, data, settings, division, epoch, step = self.description
            parts = {
                f"step {step} of epoch {epoch} of shard()": "Call update() once for each batch of"
                " a loop, on all ranks.",
                f"data of {examples} examples with fingerprint {data:x}": "Give shard() the same"
                " data in the same order on all ranks: it deals them out itself.",
                **{f"{name}={n:d}": "" for name, n in settings._asdict().items()},
                f"costs and weights {division:x}": "Give shard() arrays as cost= and weight=, or"
                " functions of the example alone.",
            }
        parts[f"passes: {self.passes}"] = ""
        which = f"update_subset {self.subset:x}" if self.subset else "all parameters"
        parts[which] = "Give update_subset() the same parameters on all ranks."
        parts[f"settings of the wrapped trainer {[*self.beside]}"] = ""
        return parts


class AsPlanned:
    """All ranks have said what the transport's cached plan foresees; it holds the rest."""

    over, what = False, ""


class Transport(Protocol):
    """Takes messages to all ranks."""

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
            layout: of messages.
            message: dn_rank_message *
            average: gradients are multiplied by weight / sum of weights, otherwise, where the
                weight is not 0, by 1.
            plannable: a plan may be followed, as far as messages allow it; the same on all ranks.
            name: names the collective operation; not called in the steady state.
            follow_up: dn_follow_up *, of its first stage: the rest of the update, which may be done
                at once where all ranks have said what the plan foresees. None: it may not.

        Returns:
            True: all ranks have said what the plan foresees. False: what they have said is to be
            read. A summary: nothing else is to be known.
        """

    def received(self, layout: MessageLayout) -> NDArray[Any]:
        """The messages of all ranks, until the next is sent."""

    def meters(self) -> NDArray[Any]:
        """Of the messages of a send() that has returned True what ranks have said of their time."""


class MpiTransport:
    """Messages by MPI's all-gather, without a plan; moves as for World.wait_until()."""

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
    """Reaches agreement over the collection of one trainer, update after update."""

    def __init__(
        self, here: World, comm: Any, trainer: Trainer, average: bool, transport: Transport
    ) -> None:
        self._here, self._comm, self._average, self._transport = here, comm, average, transport
        self._trainer, self._m = trainer, trainer.collection
        self.trusts = False
        self._updates, self._which = 0, here.number_trainer()
        self.asks: list[Callable[[], int]] = []
        """Flags that this rank has to tell beside those that reach() is given."""
        self.on_flags: list[Callable[[int], object]] = []
        """Told the flags of all ranks together, at each agreement that has any."""
        self._said: Any = None  # in the last update
        self._layout: MessageLayout = None  # type: ignore[assignment]
        # of the present collective operation: its name, or kind, update and number
        self._name: str | tuple[str, int, int] = ""
        self._message = ffi.new("dn_rank_message *")
        self._planned = AsPlanned()
        self.meters = Meters(here, comm)
        self._passes = PassWeights(here)
        self.on_changed: Callable[[World, Any, str], None] | None = None
        self._adopt(Structure(self._m), here.collective("DistributedTrainer"), ())
        self._mark()

    @property
    def structure(self) -> Structure:
        """Of the parameters that all ranks hold."""
        return self._structure

    def _adopt(self, structure: Structure, what: str, known: Any) -> None:
        """The ranks hold the same parameters, with the same values where they are not known to be.
        Else all is as it was."""
        structure.check(self._here, self._comm, what)
        structure.broadcast(self._here, self._comm, what, known)
        before = self._layout.members if self._layout else None
        self._structure = structure
        self._layout = MessageLayout(structure, Hooks(self._trainer).c)
        if before is not None:
            self._layout.members.alone, self._layout.members.resets = before.alone, before.resets
            structure.warn_of_numbered(known, self._here)

    def _mark(self) -> None:
        """Values and moments are the same on all ranks now."""
        members = self._layout.members
        members.alone = _NEVER if self.trusts else lib.dn_store_alone(self._structure.root.c)
        members.resets = lib.dn_trainer_resets(Hooks(self._trainer).c)

    def trust_values(self) -> None:
        """Who calls update() sees to it that parameters are the same on all ranks then."""
        self.trusts = True
        self._mark()

    def reach(
        self,
        weight: float,
        settings: Settings,
        step: Step,
        flags: int = 0,
        problem: str = "",
        follow_up: Any = None,
    ) -> Negotiated | AsPlanned:
        """What all ranks know before this update. Collective.

        Args:
            weight: n_r of this rank.
            settings: the trainer's. Those of a rank that has run out of data do not count, nor does
                its step.
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
        """What reach() gives of a summary."""
        self.meters.begin(self._updates)
        self._notify(summary.of_any)
        own, scale = _counting(weight, summary.weights, average)
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
        """What reach() gives of the messages of all ranks; where parameters have changed, they are
        sent once more."""
        what, every = self._named(), self._transport.received(self._layout)
        self.meters.take(every["meter"], self._updates)
        alike = self._begin_alike(every)
        if current.hash != self._structure.hash or (
            not alike and (every["structure"] != self._structure.hash).any()
        ):
            self._adopt(current, what, self._structure.parameters)
            self._transport.send(self._layout, self._message, average, False, self._named)
            every = self._transport.received(self._layout)
            alike = self._begin_alike(every)
        negotiated = settings
        if not alike:
            going = every[every["flags"] & Flag.ENDED == 0]
            self._compare(every, going, settings, step, flags, what)
            negotiated = settings if not len(going) else Settings(*going["settings"][0].tolist())
        if self._average:
            self._refuse_unknown(every, problem, what)
        if self._here.checks:
            self._structure.compare(self._here, self._comm, what)
        of_any = flags_of_any(every)
        if of_any & Flag.CHANGED and self.on_changed is not None:
            self.on_changed(self._here, self._comm, what)
        if of_any & Flag.WRITTEN:
            self._compare_written(every["states"], what)
        self._notify(of_any)
        total = sum(every["weight"].tolist())  # one after another, as C adds them up
        weights = every["weight"] if average else (every["weight"] > 0).astype(np.float64)
        own, scale = _counting(weight, total, average)
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
        """The sum of all ranks' weights in one pass of an accumulation, None where a rank that does
        not ask cannot know its own; which flags are set on any rank, and which on all. Collective.

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

    def tell_weight(self, weight: float, total: float, flags: int, problem: str) -> None:
        """The same of a rank that knows the sum."""
        what = self._begin_pass(flags)
        self._passes.tell(weight, total, flags | (Flag.UNKNOWN if problem else 0), what)

    def weights_problem(self) -> str:
        """Before an exchange: why sums that this rank has told were others. Collective."""
        return self._passes.problem()

    def _begin_pass(self, flags: int) -> str:
        kind = f"weights of a pass of set_accumulation({self._trainer.accumulation}), before update"
        self._begin_collective(kind, flags, 1)
        return self._named()

    def _refuse_unknown(self, every: NDArray[Any], problem: str, what: str) -> None:
        """Where a rank does not know what its gradients belong to, none updates."""
        unknown = np.flatnonzero(every["flags"] & Flag.UNKNOWN).tolist()
        if unknown:
            where = format_ranks([self._here.members[rank] for rank in unknown])
            words = (
                problem
                or f"on {where} it is not known which batch of shard() the gradients come from; see the message there."  # noqa: E501
            )
            raise RuntimeError(f"{self._here.name} {what}: {words}")

    def _begin_collective(self, kind: str, flags: int, ahead: int = 0) -> bool:
        """One more collective operation; ahead: of the update that is to come. Whether it is
        without checks."""
        number = self._here.count_unchecked()
        if number:
            self._name = kind, self._updates + ahead, number
            return True
        what = f"{kind} {self._updates + ahead}{self._which}"
        self._name = self._here.collective(what, at_one_line=not flags & Flag.JOIN)
        return False

    def _named(self) -> str:
        """The name of the collective operation, made if asked for: a tenth of an exchange."""
        if isinstance(self._name, str):
            return self._name
        kind, update, number = self._name
        return self._here.name_of(f"{kind} {update}{self._which}", number)

    def _begin_alike(self, every: NDArray[Any]) -> bool:
        """Whether all ranks say the same in what they nearly always say alike."""
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
        """What differs is an error, but for flags, and for tables that a rank has read: what that
        has rounded, all round."""
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
        """What one rank leaves as it is, or treats in another way, none may update."""
        precision = states // lib.DN_PRECISION_IS
        for unlike, words, mend in (
            (states & lib.DN_IS_FROZEN, "frozen", "set_updated()"),
            (states & lib.DN_IS_EXCLUDED, "excluded from decay", "exclude_from_decay()"),
            (precision != precision[0], "of another precision", "set_precision()"),
        ):
            which = np.flatnonzero((unlike != unlike[0]).any(axis=0))
            if len(which):
                name, members = (
                    self._structure.parameters[which[0]].readable_name(),
                    self._here.members,
                )
                ranks = np.flatnonzero(unlike[:, which[0]]).tolist()
                where = format_ranks([members[rank] for rank in ranks])
                raise RuntimeError(
                    f'{self._here.name} {what}: "{name}" is {words} on {where}, but not on all.'
                    f" Call {mend} on all ranks alike."
                )

    def _compare_written(self, states: NDArray[np.uint8], what: str) -> None:
        """What was changed on some ranks, or on all, by the program must be the same on all.
        Collective."""
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
        self._mark()


def _counting(weight: float, total: float, average: bool) -> tuple[float, float]:
    """How much a rank's gradients count in a sum of all ranks', and that sum."""
    if not average:
        return float(weight > 0), 1.0
    return weight, 1 / total if total > 0 else 0.0
