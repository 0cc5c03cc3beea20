"""What the ranks tell one another before gradients move: one small message of each, read by all.

With dynamic graphs every rank may have used other parameters. After this step all ranks know the same things (who has a gradient of what, how
many rows, which weights), so that whatever they decide on it, they decide alike. It moves no gradients.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import ffi, lib
from ..params.collection import ParameterCollection
from ..trainers.state import Settings
from ._world import World
from .sampling import Step
from .structure import Structure


@dataclass(frozen=True)
class Agreed:
    """One row per rank."""

    structure: Structure
    factors: NDArray[np.float64]
    """What each rank's gradients are multiplied by before they are added up: weights times scale."""
    weights: NDArray[np.float64]
    """The same, known before the others' weights are: n_r, or 1 where no average is wanted; 0 of a rank that contributes nothing."""
    scale: float
    """What a sum of gradients that were multiplied by the weights is multiplied by."""
    filled: NDArray[np.bool_]
    """(rank, dense parameter): whether the rank has a gradient of it."""
    rows: NDArray[np.int32]
    """(rank, table): of how many rows the rank has a gradient."""
    flags: NDArray[np.uint8]
    """Of each rank a sum of Flag."""
    settings: Settings
    """Those of the ranks that go on."""

    @property
    def over(self) -> bool:
        """Whether all ranks have run out of data."""
        return bool((self.flags & Flag.ENDED).all())


class Flag:
    """What a rank tells the others beside numbers."""

    ENDED = 1
    """It has run out of data and only takes part."""
    SAVE = 2
    """It has been asked to save a checkpoint."""
    JOIN = 4
    """It is inside of Join, where ranks that have ended call from another line."""
    EARLY = 8
    """What it has sent while backward went on is what there is to be sent."""


class Agreement:
    """Reaches agreement over one collection, update after update."""

    def __init__(self, here: World, comm: Any, m: ParameterCollection, average: bool) -> None:
        self._here, self._comm, self._m, self._average = here, comm, m, average
        self._updates, self._which = 0, here.number_trainer()
        self.asks: list[Callable[[], int]] = []
        """Flags that this rank has to tell beside those that reach() is given."""
        self.hears: list[Callable[[int], object]] = []
        """Told the flags of all ranks together, at each agreement."""
        self._structure = Structure(m)
        self._settle(here.collective("DistributedTrainer"), ())

    def _settle(self, what: str, known: Any) -> None:
        """The ranks hold the same parameters, with the same values where they are not known to be."""
        self._structure.check(self._here, self._comm, what)
        self._structure.broadcast(self._here, self._comm, what, known)
        self._message = np.dtype(
            [
                ("structure", np.int64),
                ("step", np.int64),
                ("settings", np.float64, (len(Settings._fields),)),
                ("settled", np.bool_, (len(self._structure.tables),)),
                ("flags", np.uint8),  # up to here ranks say the same in nearly every update
                ("weight", np.float64),
                ("rows", np.int32, (len(self._structure.tables),)),
                ("filled", np.bool_, (len(self._structure.dense),)),
            ]
        )
        assert self._message.fields is not None
        self._alike = self._message.fields["weight"][1]
        tables, dense = len(self._structure.tables), len(self._structure.dense)
        # The same layout for struct, which fills a message in a tenth of the time that NumPy takes for its fields.
        self._pack = struct.Struct(f"=qq{len(Settings._fields)}d{tables}?Bd{tables}i{dense}?").pack

    def reach(self, weight: float, settings: Settings, step: Step | None, flags: int = 0) -> tuple[Agreed, str]:
        """What all ranks know before this update, and the name of the meeting. Collective.

        Args:
            weight: n_r of this rank.
            settings: the trainer's. Those of a rank that has run out of data do not count, nor does its step.
            step: of shard(), if it is used.
            flags: a sum of Flag.

        Raises:
            RuntimeError: the ranks have different parameters or settings, or are at different steps of shard().
        """
        self._updates += 1
        what = self._here.collective(f"gradient exchange of update {self._updates}{self._which}", at_one_line=not flags & Flag.JOIN)
        for ask in self.asks:
            flags |= ask()
        current = self._structure if self._structure.fits(self._m) else Structure(self._m)
        every = self._tell(current, weight, settings, step, flags, what)
        alike = self._begin_alike(every)
        if current.hash != self._structure.hash or (not alike and (every["structure"] != self._structure.hash).any()):
            known, self._structure = self._structure.parameters, current
            self._settle(what, known)
            every = self._tell(current, weight, settings, step, flags, what)
            alike = self._begin_alike(every)
        agreed = settings
        if not alike:
            going = every[every["flags"] & Flag.ENDED == 0]
            self._compare(every, going, settings, step, flags, what)
            agreed = settings if not len(going) else Settings(*going["settings"][0].tolist())
        if self._here.checks:
            self._structure.compare(self._here, self._comm, what)
        for hear in self.hears:
            hear(int(np.bitwise_or.reduce(every["flags"])))
        total = every["weight"].sum()
        weights = every["weight"] if self._average else (every["weight"] > 0).astype(np.float64)
        scale = (1 / total if total > 0 else 0.0) if self._average else 1.0
        return Agreed(self._structure, weights * scale, weights, scale, every["filled"], every["rows"], every["flags"], agreed), what

    def _begin_alike(self, every: NDArray[Any]) -> bool:
        """Whether all ranks say the same in what they nearly always say alike."""
        said, length = every.tobytes(), self._message.itemsize
        first = said[: self._alike]
        return all(said[at : at + self._alike] == first for at in range(length, len(said), length))

    def _compare(self, every: NDArray[Any], going: NDArray[Any], settings: Settings, step: Step | None, flags: int, what: str) -> None:
        """What differs is an error, but for flags, and for tables that a rank has read: what that has rounded, all round."""
        unlike = (going["settings"] != going["settings"][:1]).any(axis=0)
        said = [settings.words(unlike)] if unlike.any() else []
        if len(set(going["step"].tolist())) > 1:
            said.append(f"step {step.description if step else None} of shard()")
        if said:
            self._here.agree(self._comm, None if flags & Flag.ENDED else ", ".join(said), what)
        read = [0 < n < self._here.size for n in np.count_nonzero(every["settled"], axis=0)]
        self._structure.settle(read)

    def _tell(self, current: Structure, weight: float, settings: Settings, step: Step | None, flags: int, what: str) -> NDArray[Any]:
        known = self._structure
        if weight == 0:
            self._m.reset_gradients()
        dense = len(known.dense)
        rows, block = ffi.new("const int **"), ffi.new("dn_real **")
        mine = self._pack(
            current.hash,
            hash(step.description) if step else 0,
            *settings,
            *known.settled(),
            flags,
            weight,
            *[lib.dn_lookup_touched(table, rows, block) for table in known.handles[dense:]],
            *[not lib.dn_param_empty(parameter) for parameter in known.handles[:dense]],
        )
        every = np.empty(self._here.size, self._message)
        self._here.wait([self._comm.Iallgather(np.frombuffer(mine, np.uint8), every.view(np.uint8))], what)
        return every
