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
from ..batch import Description
from ..processes.rank_names import format_ranks
from ..processes.spans import Meters
from ..processes.world import World
from .message import Flag, MessageLayout
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


class Step(NamedTuple):
    """What the gradients of an update belong to; must be equal on all ranks."""

    description: Description | tuple[()] = ()  # of the batch; (): not from shard()
    passes: int = 1
    """How many calls of update() have gathered them."""
    subset: int = 0  # a hash of the parameters that are updated; 0: all
    batches: int = 0  # a hash of the batches of all passes

    def parts(self) -> dict[str, str]:
        """The parts as strings, for an error, each with a remedy for when it differs."""
        parts = {"no batch of shard()": "Let all ranks use batches of one loop over shard()."}
        if self.description:
            parts = self.description.parts()
        parts[f"passes: {self.passes} of batches {self.batches & 0xFFFFFFFF:x}"] = ""
        which = f"update_subset {self.subset:x}" if self.subset else "all parameters"
        parts[which] = "Give update_subset() the same parameters on all ranks."
        return parts


NO_BATCH = Step()


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
    ) -> bool:
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
            True: all messages are as planned. False: the messages must be read.
        """

    def received(self, layout: MessageLayout) -> NDArray[Any]:
        """The messages of all ranks, valid until the next send()."""


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


class Negotiation:
    """Negotiates the updates of one trainer's collection."""

    def __init__(
        self, here: World, comm: Any, trainer: Trainer, average: bool, transport: Transport
    ) -> None:
        self._here, self._comm, self._average, self._transport = here, comm, average, transport
        self._trainer, self._m = trainer, trainer.collection
        self._updates, self._which = 0, here.number_trainer()
        self.asks: list[Callable[[], int]] = []
        """Functions that return flags to send beside those that reach() is given."""
        self.on_flags: list[Callable[[int], object]] = []
        """Called with the flags of all ranks together, at each negotiation that has any."""
        self._said: Any = None  # what was sent in the last update
        self._layout: MessageLayout = None  # type: ignore[assignment]
        self._name = 0, 0  # of the present collective operation: flags and number
        self._message = ffi.new("dn_rank_message *")
        self._planned = AsPlanned()
        self.meters = Meters(here.size)
        self._adopt(Structure(self._m), here.collective("DistributedTrainer"), ())

    @property
    def structure(self) -> Structure:
        """The parameters that all ranks hold."""
        return self._structure

    def _adopt(self, structure: Structure, what: str, known: Any) -> None:
        """Makes sure that the ranks hold the same parameters, and gives new ones rank 0's values.
        If they differ, nothing changes."""
        structure.check(self._here, self._comm, what)
        structure.broadcast(self._here, self._comm, what, known)
        self._structure = structure
        self._layout = MessageLayout(structure, Hooks(self._trainer).c)

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
        self._name = flags, self._here.count_unchecked()
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
            c.hash = hash((current.hash, settings, step))
            c.flags = flags
            self._said = said
        c.weight = weight
        outcome = self._transport.send(self._layout, c, average, True, self._named, follow_up)
        if outcome is True:
            self.meters.latest, self.meters.update = self._transport.plan.meters, self._updates  # type: ignore[attr-defined]
            if flags:
                self._notify(flags)
            return self._planned
        return self._compared(current, weight, settings, step, flags, problem, average)

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
        of_any, negotiated = int(np.bitwise_or.reduce(every["flags"])), settings
        if of_any & Flag.OTHER:
            self._adopt(current, what, self._structure.parameters)
            self._transport.send(self._layout, self._message, average, False, self._named)
            every = self._transport.received(self._layout)
        if (every["hash"] != every["hash"][0]).any():
            negotiated = self._compare(settings, step, flags, what)
        if self._average:
            self._refuse_unknown(every, problem, what)
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

    def _refuse_unknown(self, every: NDArray[Any], problem: str, what: str) -> None:
        """Refuses the update on all ranks if one does not know what its gradients belong to."""
        unknown = np.flatnonzero(every["flags"] & Flag.UNKNOWN).tolist()
        if unknown:
            where = format_ranks([self._here.members[rank] for rank in unknown])
            problem = problem.removeprefix("update: ") or (
                f"on {where} it is not known which batch of shard() the gradients come from; see"
                " the message there."
            )
            raise RuntimeError(f"{self._here.name} {what}: {problem}")

    def _named(self) -> str:
        """The name of the collective operation, made only if needed: it takes a tenth of an
        exchange."""
        flags, number = self._name
        where = " inside of Join" * bool(flags & Flag.JOIN)
        what = f"gradient exchange of update{where} {self._updates}{self._which}"
        return self._here.name_of(what, number)

    def _compare(self, settings: Settings, step: Step, flags: int, what: str) -> Settings:
        """Finds out in what the ranks differ. Tables whose pending weight decay only some ranks
        have multiplied in, by reading them, are made alike. Returns the settings of the ranks that
        still have data. Collective.

        Raises:
            RuntimeError: on all ranks, they differ in anything else.
        """
        here, members = self._here, self._layout.members
        states = [lib.dn_param_state(members, i) for i in range(len(self._structure.handles))]
        every = here.gather(self._comm, (settings, flags, states), what)
        going = [theirs for theirs, of, _ in every if not of & Flag.ENDED]
        unlike = [len({theirs[k] for theirs in going}) > 1 for k in range(len(settings))]
        said = {settings.words(np.array(unlike)): ""} if any(unlike) else {}
        if flags & (Flag.ENDED | Flag.UNKNOWN):
            here.agree(self._comm, None, what)
        else:
            here.agree(self._comm, said | step.parts(), what)
        table = np.array([theirs for *_, theirs in every])
        self._compare_states(table, what)
        settled = table[:, len(self._structure.dense) :] & lib.DN_IS_SETTLED > 0
        self._structure.materialise((settled.any(axis=0) & ~settled.all(axis=0)).tolist())
        return going[0] if going else settings

    def _compare_states(self, states: NDArray[Any], what: str) -> None:
        """Makes sure that no parameter is frozen or treated differently on some ranks."""
        for unlike, words, mend in (
            (states & lib.DN_IS_FROZEN, "frozen", "set_updated()"),
            (states & lib.DN_IS_EXCLUDED, "excluded from decay", "exclude_from_decay()"),
            (states // lib.DN_PRECISION_IS, "of another precision", "set_precision()"),
        ):
            which = np.argwhere(unlike != unlike[0])
            if len(which):
                name = self._structure.parameters[which[0, 1]].readable_name()
                raise RuntimeError(
                    f'{self._here.name} {what}: "{name}" is {words} on some ranks only, as on one'
                    f" of rank {self._here.members[which[0, 0]]} and rank {self._here.members[0]}."
                    f" Call {mend} on all ranks alike."
                )


def _weight_and_scale(weight: float, total: float, average: bool) -> tuple[float, float]:
    """The weight of a rank's gradients in the sum over all ranks, and the factor for that sum."""
    if not average:
        return float(weight > 0), 1.0
    return weight, 1 / total if total > 0 else 0.0
