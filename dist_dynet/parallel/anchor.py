"""Anchor: the parameters that the ranks of LocalSGD had in common after their last average, how far
this rank has moved since then, and what the program itself has written.

It knows the values of one rank. averaging.py and local_sgd.py decide what the ranks do with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib
from ..params.collection import (
    ParameterCollection,
    counts_of,
    handles_of,
    members_of,
    root_of,
)
from ..params.parameters import AnyParameter, LookupParameters

Difference = tuple[NDArray[np.intp], NDArray[Any]]
"""Rows, and how far each has moved: old value - present value."""

Mark = tuple[int, int]
"""Checksums of what the program has written into a parameter: before the first update after an
average, and after the last update. 0: nothing."""


class Anchor:
    """The anchor of a collection's parameters.

    A write by the program shows in the store's version: whoever updates or averages calls mark()
    afterwards, so that a different version later means that somebody else has written.
    """

    def __init__(self, m: ParameterCollection) -> None:
        self.collection, self._root = m, root_of(m)
        self.values: dict[AnyParameter, NDArray[Any]] = {}
        self.written: dict[AnyParameter, NDArray[Any]] = {}
        """The values before the first update after an average, of parameters that the program had
        written by then."""
        self.new: list[AnyParameter] = []
        """Parameters that were added since the last average; each rank has its own values."""
        # rows that the program has written after the last update: before a state was loaded, and
        # all that marks() has reported
        self._loaded: dict[AnyParameter, NDArray[np.intp]] = {}
        self._late: dict[AnyParameter, NDArray[np.intp]] = {}
        self.is_foreign = False  # another trainer, of any parameters, has updated before it
        self._counts = 0, 0
        self._version = self._updates = 0

    def remember(self) -> None:
        """Makes the present values the anchor: they are now equal on all ranks."""
        for p in members_of(self.collection):
            values, anchor = p.storage(), self.values.get(p)
            if anchor is None or anchor.size != values.size:
                self.values[p] = values.copy()
            else:
                anchor[:] = values
        self._counts = counts_of(self.collection)
        self.written.clear()
        self.new.clear()
        self.is_foreign = False
        self.mark()

    def is_present(self) -> bool:
        """Whether nothing has changed since remember(): the present values are the anchor."""
        same = self._root.version() == self._version and not self.written and not self._loaded
        return same and counts_of(self.collection) == self._counts and not self._changed()

    def state(self, is_first: bool) -> dict[str, NDArray[Any]]:
        """By name of a parameter: its value "now", its value "then", after the last average, and,
        where the program has written it, the value "written" before the first update since then and
        the rows written "late", after the last update."""
        self.look(is_first)
        kept: dict[str, NDArray[Any]] = {}
        for p, anchor in self.values.items():
            kept[f"now:{p.name()}"] = p.storage().copy()
            kept[f"then:{p.name()}"] = anchor.copy()
        kept |= {f"written:{p.name()}": values.copy() for p, values in self.written.items()}
        late = self._rows_changed_late(is_first)
        return kept | {f"late:{p.name()}": rows for p, rows in late.items()}

    def kept_in(
        self, state: Mapping[str, NDArray[Any]]
    ) -> dict[AnyParameter, dict[str, NDArray[Any]]]:
        """What a state() holds of parameters.

        Raises:
            ValueError: values or rows do not fit their parameter.
        """
        kept = {
            p: {
                when: np.asarray(state[f"{when}:{p.name()}"])
                for when in ("now", "then", "written", "late")
                if f"{when}:{p.name()}" in state
            }
            for p in self.values
            if f"now:{p.name()}" in state and f"then:{p.name()}" in state
        }
        for p, of in kept.items():
            shape, late = self.values[p].shape, of.get("late", np.empty(0, np.intp))
            numbers = [a for when, a in of.items() if when != "late"]
            if any(a.shape != shape or a.dtype.kind not in "biuf" for a in numbers):
                raise ValueError(
                    f"load_state: the values kept of {p.name()} must be {self.values[p].size}"
                    f" numbers; got {[(a.dtype.name, a.shape) for a in numbers]}."
                )
            rows = len(by_row(p, self.values[p]))
            if (
                late.ndim != 1
                or late.dtype.kind not in "iu"
                or not ((late >= 0) & (late < rows)).all()
            ):
                raise ValueError(
                    f"load_state: rows kept of {p.name()} must be below {rows}; got {late!r:.60}."
                )
        return kept

    def load(self, kept: Mapping[AnyParameter, Mapping[str, NDArray[Any]]]) -> None:
        """Restores what kept_in() returned."""
        for p, of in kept.items():
            p.storage()[:], self.values[p][:] = of["now"], of["then"]
            p.changed()
            if "written" in of:
                self.written[p] = of["written"].astype(DTYPE)
        self.mark()
        self._loaded = {p: of["late"].astype(np.intp) for p, of in kept.items() if "late" in of}

    def mark(self) -> None:
        """Notes that all changes so far were an update or an average."""
        self._version, self._updates = self._root.version(), lib.dn_updates_made()
        self._loaded.clear()

    def look(self, is_first: bool) -> None:
        """Looks for changes before an update or an average. is_first: no update was made since the
        last average, so that the program itself has written what has changed."""
        if counts_of(self.collection) != self._counts:
            self._counts = counts_of(self.collection)
            for p in members_of(self.collection):
                if p not in self.values:
                    self.values[p] = p.storage().copy()
                    self.new.append(p)
        if is_first and self._root.version() != self._version:
            self.is_foreign |= lib.dn_updates_made() != self._updates
            self.written = {p: p.storage().copy() for p in self._changed()}
            self.mark()

    def _changed(self) -> list[AnyParameter]:
        return [
            p for p in members_of(self.collection) if _differ(p.storage(), self.values[p]).any()
        ]

    def _rows_changed_late(self, is_first: bool) -> dict[AnyParameter, NDArray[np.intp]]:
        """Rows that the program has changed after the last update, and that differ from the
        anchor."""
        late: dict[AnyParameter, NDArray[np.intp]] = {}
        if is_first or (self._root.version() == self._version and not self._loaded):
            return late
        for p in self._changed():
            rows = np.zeros(len(by_row(p, p.storage())), np.uint8)
            out = ffi.from_buffer("uint8_t[]", rows)
            lib.dn_param_changed_since(*handles_of([p]), self._version, out)
            rows[self._loaded.get(p, [])] = 1
            if rows.any():
                late[p] = np.flatnonzero(rows)
        return late

    def marks(self, is_first: bool) -> dict[str, Mark]:
        """By parameter name, the checksums of what the program has written."""
        then = {p: _checksum(values) for p, values in self.written.items()}
        self._late = self._rows_changed_late(is_first)
        now = {
            p: _checksum(by_row(p, p.storage())[rows], _checksum(rows))
            for p, rows in self._late.items()
        }
        return {p.name(): (then.get(p, 0), now.get(p, 0)) for p in {**then, **now}}

    def accept(self, alike: Mapping[str, tuple[bool, bool]]) -> None:
        """Moves the anchor to what the program has written, where it is the same on all ranks.
        `alike` says so for what was written before the first update, and for what marks() found
        after the last one. Such writes are no training."""
        for p in members_of(self.collection):
            then, now = alike.get(p.name(), (False, False))
            if then:
                self.values[p][:] = self.written[p]
            if now:
                rows = self._late[p]
                by_row(p, self.values[p])[rows] = by_row(p, p.storage())[rows]

    def came(self) -> dict[AnyParameter, Difference]:
        """How far this rank has moved since the last average, for parameters that have changed."""
        came: dict[AnyParameter, Difference] = {}
        for p in members_of(self.collection):
            values, anchor = by_row(p, p.storage()), by_row(p, self.values[p])
            rows = np.flatnonzero(_differ(values, anchor).any(axis=1))
            if len(rows):
                came[p] = rows, anchor[rows] - values[rows]
        return came

    def swap(self, came: Mapping[AnyParameter, Difference]) -> None:
        """Swaps the parameters with the anchor. A second call swaps them back."""
        swapped = []
        for p, (rows, _) in came.items():  # allocate first: this may fail
            values, anchor = by_row(p, p.storage()), by_row(p, self.values[p])
            swapped.append((p, rows, values, anchor, values[rows], anchor[rows]))
        for p, rows, values, anchor, now, then in swapped:
            values[rows], anchor[rows] = then, now
            p.changed()

    def give_back(self) -> None:
        """Restores the values after the last average, which all ranks then have in common."""
        self.swap(self.came())
        self.remember()


def by_row(p: AnyParameter, flat: NDArray[Any]) -> NDArray[Any]:
    """A view: the rows of a table; one row for a dense parameter."""
    return flat.reshape(len(p) if isinstance(p, LookupParameters) else 1, -1)


def _differ(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Which elements differ in their bits: a NaN that is still there has not changed."""
    kind = f"u{a.itemsize}"
    unlike: NDArray[np.bool_] = a.view(kind) != b.view(kind)
    return unlike


def _checksum(values: NDArray[Any], before: int = 0) -> int:
    """The checksum of these values, continued from another one. Never 0."""
    return int(lib.dn_checksum(ffi.from_buffer(values), values.nbytes, before)) | 1
