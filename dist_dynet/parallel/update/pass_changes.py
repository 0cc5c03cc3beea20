"""What the program has done to the gradients of earlier passes of an accumulation: all ranks that
have gradients of a parameter must have done the same to them.

One process has the gradients of all examples, and scales or clears them together. A rank that does
so only for a batch with examples leaves the others' gradients unchanged. No gradients are moved
here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..._ffi import lib
from ...params.collection import ParameterCollection, handles_of
from ...params.parameters import AnyParameter
from ..agreement.message import Flag
from ..agreement.structure import Structure
from ..processes.rank_names import format_ranks
from ..processes.world import World
from .gradients import marks_of

Told = tuple[dict[int, dict[str, float]], dict[str, int]]
"""By pass and parameter, the factor that gradients of earlier passes were multiplied by, 0 if they
were cleared; and for each parameter with such gradients, the pass since which it has them."""


class PassChanges:
    """The changes during the passes since the last exchange of one trainer."""

    def __init__(self, m: ParameterCollection) -> None:
        self._m, self._pass = m, 0
        self._some_wait = False  # whether any rank may have gradients of earlier passes
        self._structure: Structure | None = None
        self._since = np.empty(0, np.int64)  # as in Told; -1: no gradients
        self._clears, self._scales = np.empty(0, np.int64), np.empty(0)
        self._factors: dict[int, dict[str, float]] = {}

    @property
    def flag(self) -> int:
        """The flag that this rank sends before an exchange."""
        return Flag.CHANGED if self._factors else 0

    def look(self) -> None:
        """Called at a pass: notes what was done since mark()."""
        self._pass += 1
        structure = self._fitting()
        clears, scales = marks_of(structure.handles)
        cleared = clears != self._clears
        changed = (cleared | (scales != self._scales)) & self._some_wait
        for i in np.flatnonzero(changed).tolist():
            by = 0.0 if cleared[i] or not self._scales[i] else scales[i] / self._scales[i]
            name = structure.parameters[i].readable_name()
            self._factors.setdefault(self._pass, {})[name] = float(by)
        self._since[cleared] = -1

    def hold(self) -> None:
        """The gradients of this pass wait from now on."""
        for i in np.flatnonzero(self._since < 0).tolist():
            if not lib.dn_param_empty(self._fitting().handles[i]):
                self._since[i] = self._pass

    def mark(self) -> None:
        """From here on, changes to gradients are the program's."""
        self._some_wait = self._pass > 0
        self._clears, self._scales = marks_of(self._fitting().handles)

    def end(self, updated: Iterable[AnyParameter] | None) -> None:
        """Called when the gradients of these parameters (None: of all) were used, after all ranks
        have agreed."""
        self._factors.clear()
        if updated is None:
            self._since[:], self._pass = -1, 0
            return
        used, handles = {*handles_of(updated)}, self._fitting().handles
        self._since[[handle in used for handle in handles]] = -1

    def _fitting(self) -> Structure:
        """The structure of the present parameters."""
        before = self._structure
        if before is not None and before.fits(self._m):
            return before
        self._structure = now = Structure(self._m)
        clears, scales = marks_of(now.handles)
        if before is not None:
            at = {handle: i for i, handle in enumerate(now.handles)}
            kept = [at[handle] for handle in before.handles]
            clears[kept], scales[kept] = self._clears, self._scales
        since = np.full(len(clears), -1, np.int64)
        if before is not None:
            since[kept] = self._since
        self._since, self._clears, self._scales = since, clears, scales
        return now

    # ---- between the ranks -------------------------------------------------------------

    def compare(self, here: World, comm: Any, what: str) -> None:
        """Compares the changes of all ranks. Collective.

        Raises:
            RuntimeError: on all ranks: they have done different things.
        """
        there = np.flatnonzero(self._since >= 0).tolist()
        parameters = self._fitting().parameters
        since = {parameters[i].readable_name(): int(self._since[i]) for i in there}
        words = _difference(here.gather(comm, (self._factors, since), what), here.members)
        if words:
            raise RuntimeError(
                f"{here.name} {what}: the gradients of earlier passes of this accumulation {words}."
                " Call scale_gradient(), set_gradient(), clear_gradient() and reset_gradients() on"
                " all ranks, with empty batches, too."
            )


def _difference(every: Sequence[Told], members: Sequence[int]) -> str:
    """How changes differ between ranks, for gradients that are still there; empty if they do
    not."""
    for number in sorted({n for factors, _ in every for n in factors}):
        for name in sorted({name for factors, _ in every for name in factors.get(number, ())}):
            have = [since.get(name, number) < number for _, since in every]
            told = [factors.get(number, {}).get(name) for factors, _ in every]
            by_rank = [
                (rank, 1.0 if by is None else by)
                for rank, (by, has) in enumerate(zip(told, have, strict=True))
                if has or by is not None
            ]
            rank, first = by_rank[0]
            others = [r for r, by in by_rank if not math.isclose(by, first, rel_tol=1e-9)]
            if others and any(have):
                return (
                    f'of "{name}" were {_words(first)} on rank {members[rank]}, and'
                    f" {_words(dict(by_rank)[others[0]])} on"
                    f" {format_ranks([members[r] for r in others])}"
                )
    return ""


def _words(by: float) -> str:
    return "left as they were" if by == 1 else f"multiplied by {by:g}" if by else "cleared"
