"""Takes gradients out of a collection and puts them back: flat copies of the dense ones, and rows
of tables.

Used by whatever keeps gradients aside: the sum over micro-batches (reproducible.py) and the stash
of earlier passes (accumulation.py). It knows where gradients lie, and neither averages nor
exchanges them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer
from ..agreement.structure import Structure
from ..exchange.exchange import merge_ranges

SHARE = 16
"""Shares of the dense numbers begin at multiples of this, as parameters do."""

Rows = tuple[NDArray[np.int32], NDArray[Any]]
"""Row numbers of a table in rising order, and their gradients."""


class FlatLayout:
    """Where the dense parameters of a structure lie in one flat array: neighbours in a chunk are
    neighbours here."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.ranges, _ = merge_ranges(structure.places, [True] * len(structure.places))
        starts = np.cumsum(
            [0, *(-(-(end - start) // SHARE) * SHARE for _, start, end in self.ranges)]
        ).tolist()
        self.size: int = starts.pop()
        # for each parameter: its range, and its start and end in the flat array
        self._places: list[tuple[int, int, int]] = []
        at = 0
        for chunk, offset, length in structure.places:
            while not (
                self.ranges[at][0] == chunk and self.ranges[at][1] <= offset < self.ranges[at][2]
            ):
                at += 1
            start = starts[at] + offset - self.ranges[at][1]
            self._places.append((at, start, start + length))
        self._chunk_of = [
            (chunk, start - flat)
            for (chunk, start, _), flat in zip(self.ranges, starts, strict=True)
        ]
        self._runs: dict[bytes, list[tuple[int, int, int]]] = {}

    def runs(self, chosen: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
        """(range, from, to) in the flat array for these parameters. Neighbours are merged, with the
        zeros between them."""
        key = chosen.tobytes()
        if key not in self._runs:
            if len(self._runs) > 256:
                self._runs.clear()
            runs: list[tuple[int, int, int]] = []
            for (at, start, end), wanted in zip(self._places, chosen.tolist(), strict=True):
                if wanted and runs and runs[-1][0] == at and start - runs[-1][2] < SHARE:
                    runs[-1] = (at, runs[-1][1], end)
                elif wanted:
                    runs.append((at, start, end))
            self._runs[key] = runs
        return self._runs[key]

    def gradient(self, run: tuple[int, int, int]) -> NDArray[Any]:
        """The gradient memory of a run."""
        at, start, end = run
        chunk, shift = self._chunk_of[at]
        return self.structure.root.chunk_gradients(chunk)[start + shift : end + shift]


@dataclass
class Node:
    """The sum over the 2^level micro-batches from `low` on."""

    low: int
    level: int
    filled: NDArray[np.bool_]  # which dense parameters have a gradient
    dense: NDArray[Any] | None
    """Their gradients, in the layout's flat array from `start` on; None: of none."""
    start: int
    tables: list[Rows | None]


def merged_rows(a: Rows, b: Rows) -> Rows:
    """The union of two sets of rows, with the sum of rows that are in both."""
    ids, width = np.empty(len(a[0]) + len(b[0]), np.int32), a[1].shape[1]
    block = np.empty((len(ids), width), DTYPE)
    n = lib.dn_merge_rows(width, *in_c(a), *in_c(b), ffi.from_buffer("int *", ids), pointer(block))
    return ids[:n], block[:n]


def in_c(rows: Rows) -> tuple[int, Any, Any]:
    """The rows as arguments of C functions."""
    return (
        len(rows[0]),
        ffi.from_buffer("const int *", np.ascontiguousarray(rows[0])),
        pointer(rows[1]),
    )


def parts(layout: FlatLayout, node: Node, chosen: NDArray[np.bool_]) -> Iterable[slice]:
    """Where these parameters lie in the node's array, which may hold only a share of the
    numbers."""
    assert node.dense is not None
    first, last = node.start, node.start + len(node.dense)
    for _, start, end in layout.runs(chosen):
        low, high = max(start, first), min(end, last)
        if low < high:
            yield slice(low - first, high - first)


def add_up(layout: FlatLayout, left: Node, right: Node, pool: list[NDArray[Any]]) -> None:
    """left += right. Where only one has a gradient it is copied: adding zero would change the sign
    of -0."""
    pairs = zip(left.tables, right.tables, strict=True)
    left.tables = [b if a is None else a if b is None else merged_rows(a, b) for a, b in pairs]
    if left.dense is None or right.dense is None:
        if left.dense is None:
            left.dense = right.dense
    else:
        for part in parts(layout, left, left.filled & right.filled):
            np.add(left.dense[part], right.dense[part], out=left.dense[part])
        for part in parts(layout, left, right.filled & ~left.filled):
            left.dense[part] = right.dense[part]
        pool.append(right.dense)
    left.filled = left.filled | right.filled


def empty_node(layout: FlatLayout, number: int = 0) -> Node:
    """A micro-batch without gradients."""
    structure = layout.structure
    filled = np.zeros(len(structure.dense), np.bool_)
    return Node(number, 0, filled, None, 0, [None] * len(structure.tables))


def take_out(layout: FlatLayout, number: int, factor: float, pool: list[NDArray[Any]]) -> Node:
    """Moves the gradients of the layout's parameters, times factor, out of the collection; with
    factor 0 they are dropped."""
    structure, node = layout.structure, empty_node(layout, number)
    if factor:
        dense = structure.handles[: len(node.filled)]
        node.filled = np.array([not lib.dn_param_empty(p) for p in dense], np.bool_)
        node.tables = [_rows_of(table, factor) for table in structure.tables]
    if node.filled.any():
        # the zeros between parameters stay
        node.dense = pool.pop() if pool else np.zeros(layout.size, DTYPE)
        for run in layout.runs(node.filled):
            np.multiply(layout.gradient(run), DTYPE.type(factor), out=node.dense[run[1] : run[2]])
    for handle in structure.handles:
        lib.dn_param_clear_gradient(handle)
    return node


def put_back(layout: FlatLayout, node: Node, factor: Any = 1) -> None:
    """Adds the node's gradients, times factor, to those of the collection.

    Raises:
        MemoryError: there is no room for the rows of a table.
    """
    structure = layout.structure
    for handle, rows in zip(structure.handles[len(structure.dense) :], node.tables, strict=True):
        if rows is not None and lib.dn_lookup_add(
            handle, *in_c((rows[0], rows[1] * DTYPE.type(factor)))
        ):
            raise MemoryError("gradient exchange: out of memory for the rows of a lookup table")
    was_empty = np.zeros(len(node.filled), np.bool_)
    for i in np.flatnonzero(node.filled).tolist():
        was_empty[i] = lib.dn_param_empty(structure.handles[i])
        (lib.dn_param_mark_filled if was_empty[i] else lib.dn_param_gradient)(structure.handles[i])
    assert node.dense is not None or not node.filled.any()
    for run in layout.runs(node.filled & was_empty):
        np.multiply(node.dense[run[1] : run[2]], factor, out=layout.gradient(run))  # type: ignore[index]
    for run in layout.runs(node.filled & ~was_empty):
        layout.gradient(run)[:] += node.dense[run[1] : run[2]] * DTYPE.type(factor)  # type: ignore[index]


def marks_of(handles: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each parameter, how often its gradient was cleared, and the product of its scale
    factors."""
    clears, scales = np.empty(len(handles), np.int64), np.empty(len(handles), np.float64)
    lib.dn_gradient_marks(
        len(handles),
        handles,
        ffi.from_buffer("int64_t *", clears),
        ffi.from_buffer("double *", scales),
    )
    return clears, scales


def _rows_of(table: Any, factor: float) -> Rows | None:
    ids = table.touched_rows()
    if not len(ids):
        return None
    order = np.argsort(ids)
    return ids[order], table.touched_gradients()[order] * DTYPE.type(factor)
