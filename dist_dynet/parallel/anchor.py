"""Anchor: the parameters that the ranks of LocalSGD had in common after their last average, how far
this rank has come since then, and what the program itself has written.

It knows values of one rank. What the ranks make of them is said by averaging.py and local_sgd.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import ffi, lib
from ..params.collection import ParameterCollection, counts_of, root_of
from ..params.parameters import AnyParameter, LookupParameters

Difference = tuple[NDArray[np.intp], NDArray[Any]]
"""Rows, and how far each has come: what it was - what it is."""

Mark = tuple[int, int]
"""Checksums of what the program has written into a parameter: before the first update after an
average, and after the last one. 0: nothing."""


class Anchor:
    """Of the parameters of a collection.

    A write by the program is known by the store's version: who updates or averages calls mark()
    after it, so that another version is another's doing.
    """

    def __init__(self, m: ParameterCollection) -> None:
        self.collection, self._root = m, root_of(m)
        self.values: dict[AnyParameter, NDArray[Any]] = {}
        self.written: dict[AnyParameter, NDArray[Any]] = {}
        """What parameters were before the first update after an average, where the program had
        written them."""
        self.new: list[AnyParameter] = []
        """Those that were added since the last average; on each rank they have their own values."""
        self.is_foreign = False  # another trainer, of whatever parameters, has updated before it
        self._counts = 0, 0
        self._version = self._updates = 0

    def members(self) -> list[AnyParameter]:
        """The dense parameters, then the tables."""
        return [*self.collection.parameters_list(), *self.collection.lookup_parameters_list()]

    def remember(self) -> None:
        """The parameters are those of all ranks now."""
        for p in self.members():
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

    def kept_in(
        self, state: Mapping[str, NDArray[Any]]
    ) -> dict[AnyParameter, dict[str, NDArray[Any]]]:
        """What a state() of LocalSGD has kept of parameters: "now", "then" and perhaps "written".

        Raises:
            ValueError: some of it are not the numbers of its parameter.
        """
        kept = {
            p: {
                when: np.asarray(state[f"{when}:{p.name()}"])
                for when in ("now", "then", "written")
                if f"{when}:{p.name()}" in state
            }
            for p in self.values
            if f"now:{p.name()}" in state and f"then:{p.name()}" in state
        }
        for p, of in kept.items():
            shape = self.values[p].shape
            if any(a.shape != shape or a.dtype.kind not in "biuf" for a in of.values()):
                raise ValueError(
                    f"load_state: the values kept of {p.name()} must be {self.values[p].size}"
                    f" numbers; got {[(a.dtype.name, a.shape) for a in of.values()]}."
                )
        return kept

    def mark(self) -> None:
        """What has changed up to now was an update or an average."""
        self._version, self._updates = self._root.version(), lib.dn_updates_made()

    def look(self, is_first: bool) -> None:
        """Before an update or an average; is_first: since the last average there was no update, so
        that what has changed was written by the program."""
        if counts_of(self.collection) != self._counts:
            self._counts = counts_of(self.collection)
            for p in self.members():
                if p not in self.values:
                    self.values[p] = p.storage().copy()
                    self.new.append(p)
        if is_first and self._root.version() != self._version:
            self.is_foreign |= lib.dn_updates_made() != self._updates
            self.written = {p: p.storage().copy() for p in self._changed()}
            self.mark()

    def _changed(self) -> list[AnyParameter]:
        return [p for p in self.members() if _differ(p.storage(), self.values[p]).any()]

    def marks(self, is_first: bool) -> dict[str, Mark]:
        """By name: what the program has written."""
        then = {p: _checksum(values) for p, values in self.written.items()}
        late: Iterable[AnyParameter] = ()
        if not is_first and self._root.version() != self._version:
            late = self._changed()
        now = {p: _checksum(p.storage()) for p in late}
        return {p.name(): (then.get(p, 0), now.get(p, 0)) for p in {**then, **now}}

    def accept(self, is_now: Mapping[str, bool]) -> None:
        """What was written into these parameters, before the first update or now, is the same on
        all ranks: that is no training."""
        for p in self.members():
            if p.name() in is_now:
                self.values[p][:] = p.storage() if is_now[p.name()] else self.written[p]

    def came(self) -> dict[AnyParameter, Difference]:
        """How far this rank has come since the last average, of what has changed."""
        came: dict[AnyParameter, Difference] = {}
        for p in self.members():
            values, anchor = by_row(p, p.storage()), by_row(p, self.values[p])
            rows = np.flatnonzero(_differ(values, anchor).any(axis=1))
            if len(rows):
                came[p] = rows, anchor[rows] - values[rows]
        return came

    def swap(self, came: Mapping[AnyParameter, Difference]) -> None:
        """Parameters become what they were after the last average, and the anchor what they are;
        again: back."""
        swapped = []
        for p, (rows, _) in came.items():  # memory comes first: there may be none
            values, anchor = by_row(p, p.storage()), by_row(p, self.values[p])
            swapped.append((p, rows, values, anchor, values[rows], anchor[rows]))
        for p, rows, values, anchor, now, then in swapped:
            values[rows], anchor[rows] = then, now
            p.changed()

    def give_back(self) -> None:
        """Parameters become what they were after the last average; all of them are those of all
        ranks then."""
        self.swap(self.came())
        self.remember()


def by_row(p: AnyParameter, flat: NDArray[Any]) -> NDArray[Any]:
    """A view: of a table its rows, of a dense parameter one row."""
    return flat.reshape(len(p) if isinstance(p, LookupParameters) else 1, -1)


def _differ(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Which bits do: NaN that is still there has not changed."""
    kind = f"u{a.itemsize}"
    unlike: NDArray[np.bool_] = a.view(kind) != b.view(kind)
    return unlike


def _checksum(values: NDArray[Any]) -> int:
    """Not 0."""
    return int(lib.dn_checksum(ffi.from_buffer(values), values.nbytes, 0)) | 1
