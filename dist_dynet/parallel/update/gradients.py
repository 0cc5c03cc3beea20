"""Moves the gradients of a collection into arrays of their own and back: one flat array of the
dense parameters, and the touched rows of each table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer
from ..agreement.structure import Structure

Rows = tuple[NDArray[np.int32], NDArray[Any]]
"""Row numbers of a table in rising order, and their gradients."""


@dataclass
class Gradients:
    """A sum of gradients."""

    filled: NDArray[np.bool_]
    """Which dense parameters have a gradient."""
    dense: NDArray[Any]
    """The gradients of all dense parameters, one after the other; zeros where there is none."""
    tables: list[Rows]

    def __bool__(self) -> bool:
        return bool(self.filled.any()) or any(len(ids) for ids, _ in self.tables)

    def add(self, other: Gradients) -> None:
        """self += other."""
        self.filled |= other.filled
        self.dense += other.dense
        self.tables = [merged_rows(a, b) for a, b in zip(self.tables, other.tables, strict=True)]


def merged_rows(a: Rows, b: Rows) -> Rows:
    """The union of two sets of rows, a + b for rows that are in both."""
    ids, width = np.empty(len(a[0]) + len(b[0]), np.int32), a[1].shape[1]
    block, sets = np.empty((len(ids), width), DTYPE), []
    for numbers, rows in (a, b):
        sets += [len(numbers), ffi.from_buffer("const int *", numbers), pointer(rows)]
    n = lib.dn_merge_rows(width, *sets, ffi.from_buffer("int *", ids), pointer(block))
    return ids[:n], block[:n]


class GradientLayout:
    """Where the gradients of a structure's parameters lie, in the collection and in a Gradients."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self._starts = np.cumsum([0, *(length for *_, length in structure.places)]).tolist()

    def _pairs(self, gradients: Gradients, chosen: Sequence[bool]) -> Any:
        """For each chosen dense parameter: its gradient in the collection, and in `gradients`."""
        for (chunk, offset, length), start, wanted in zip(
            self.structure.places, self._starts, chosen, strict=False
        ):
            if wanted:
                here = self.structure.root.chunk_gradients(chunk)[offset : offset + length]
                yield here, gradients.dense[start : start + length]

    def none(self) -> Gradients:
        """No gradients."""
        widths = [int(np.prod(table.shape()[1:])) for table in self.structure.tables]
        return Gradients(
            np.zeros(len(self.structure.dense), np.bool_),
            np.zeros(self._starts[-1], DTYPE),
            [(np.empty(0, np.int32), np.empty((0, width), DTYPE)) for width in widths],
        )

    def take(self, gradients: Gradients, factor: float) -> None:
        """Moves the gradients of the collection, times factor, into these, which they are added
        to. With factor 0 they are dropped."""
        handles, dense = self.structure.handles, len(self.structure.dense)
        if factor:
            filled = np.array([not lib.dn_param_empty(h) for h in handles[:dense]], np.bool_)
            for here, there in self._pairs(gradients, filled.tolist()):
                there += here * DTYPE.type(factor)
            gradients.filled |= filled
            gradients.tables = [
                merged_rows(rows, _touched(table, factor))
                for table, rows in zip(self.structure.tables, gradients.tables, strict=True)
            ]
        for handle in handles:
            lib.dn_param_clear_gradient(handle)

    def drop(self, gradients: Gradients, unwanted: set[Any]) -> None:
        """Drops the gradients of these parameters, by handle."""
        dropped = np.array([handle in unwanted for handle in self.structure.handles], np.bool_)
        dense = len(self.structure.dense)
        for i in np.flatnonzero(dropped[dense:]).tolist():
            ids, rows = gradients.tables[i]
            gradients.tables[i] = ids[:0], rows[:0]
        for _, there in self._pairs(gradients, (gradients.filled & dropped[:dense]).tolist()):
            there[:] = 0
        gradients.filled &= ~dropped[:dense]

    def put_back(self, gradients: Gradients, factor: float = 1, wanted: Any = None) -> None:
        """Moves these, times factor, back to the collection, whose gradients they are added to.
        wanted: a set of parameters, by handle; None: all.

        Raises:
            MemoryError: there is no memory for the rows of a table.
        """
        handles, dense = self.structure.handles, len(self.structure.dense)
        chosen = np.array([wanted is None or handle in wanted for handle in handles], np.bool_)
        for i in np.flatnonzero(chosen[dense:]).tolist():
            ids, rows = gradients.tables[i]
            scaled, numbers = rows * DTYPE.type(factor), ffi.from_buffer("const int *", ids)
            if lib.dn_lookup_add(handles[dense + i], len(ids), numbers, pointer(scaled)):
                raise MemoryError("gradient exchange: out of memory for the rows of a lookup table")
            gradients.tables[i] = ids[:0], rows[:0]
        filled = gradients.filled & chosen[:dense]
        for i in np.flatnonzero(filled).tolist():
            lib.dn_param_gradient(handles[i])  # zeros where it was empty
        for here, there in self._pairs(gradients, filled.tolist()):
            here += there * DTYPE.type(factor)
            there[:] = 0
        gradients.filled &= ~filled


def _touched(table: Any, factor: float) -> Rows:
    ids = table.touched_rows()
    order = np.argsort(ids)
    return ids[order], table.touched_gradients()[order] * DTYPE.type(factor)
