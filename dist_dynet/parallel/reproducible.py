"""Gradients added up in an order that does not depend on the number of ranks, so that N ranks give the same bits as one.

A step is cut into micro-batches, whatever N is. Their gradients are the leaves of a binary tree over the micro-batches' numbers, and are added
up as the tree says: 0 + 1, 2 + 3, then (0 + 1) + (2 + 3), and so on. A rank adds up the subtrees that lie within its own micro-batches, and
keeps one gradient per level, not one per micro-batch. At the end of the step the ranks exchange the sums of their subtrees: each adds up its
share of the numbers, by the same tree. It knows gradients, and neither averages nor updates.

Where only one of two children has a gradient of a parameter, or of a row, it is copied: no zero is added, which would change the sign of -0.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _random
from .._ffi import BLAS_KERNELS, DTYPE, SIMD, ffi, lib, pointer
from ..params.collection import ParameterCollection
from ._world import World
from .exchange import merge_ranges
from .structure import Structure

_SHARE = 16
"""Shares of the dense numbers begin at multiples of so many, as parameters do."""

Rows = tuple[NDArray[np.int32], NDArray[Any]]
"""Numbers of rows of a table in rising order, and their gradients."""


class FlatLayout:
    """Where the dense parameters of a structure lie in one flat array: neighbours in a chunk are neighbours here."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.ranges, _ = merge_ranges(structure.places, [True] * len(structure.places))
        starts = np.cumsum([0, *(-(-(end - start) // _SHARE) * _SHARE for _, start, end in self.ranges)]).tolist()
        self.size: int = starts.pop()
        self._places: list[tuple[int, int, int]] = []  # of each parameter its range, and its place in the flat array
        at = 0
        for chunk, offset, length in structure.places:
            while not (self.ranges[at][0] == chunk and self.ranges[at][1] <= offset < self.ranges[at][2]):
                at += 1
            start = starts[at] + offset - self.ranges[at][1]
            self._places.append((at, start, start + length))
        self._chunk_of = [(chunk, start - flat) for (chunk, start, _), flat in zip(self.ranges, starts, strict=True)]
        self._runs: dict[bytes, list[tuple[int, int, int]]] = {}

    def runs(self, chosen: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
        """(range, from, to) in the flat array of these parameters; neighbours are joined, with the zeros between them."""
        key = chosen.tobytes()
        if key not in self._runs:
            if len(self._runs) > 256:
                self._runs.clear()
            runs: list[tuple[int, int, int]] = []
            for (at, start, end), wanted in zip(self._places, chosen.tolist(), strict=True):
                if wanted and runs and runs[-1][0] == at and start - runs[-1][2] < _SHARE:
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
    """The sum over the micro-batches from `low` on, 2^level of them."""

    low: int
    level: int
    filled: NDArray[np.bool_]
    """Of which dense parameters it has a gradient."""
    dense: NDArray[Any] | None
    """Their gradients, in the layout's flat array from `start` on; None: of none."""
    start: int
    tables: list[Rows | None]


class Tree:
    """Takes nodes from left to right and adds up siblings."""

    def __init__(self, layout: FlatLayout, pool: list[NDArray[Any]]) -> None:
        self._layout, self._pool = layout, pool
        self.nodes: list[Node] = []

    def push(self, node: Node) -> None:
        """Adds a node to the right of all others."""
        nodes = self.nodes
        nodes.append(node)
        while len(nodes) > 1 and nodes[-2].level == nodes[-1].level and nodes[-2].low == (nodes[-1].low ^ (1 << nodes[-1].level)):
            self._add_last_two()

    def root(self) -> Node:
        """The sum of all: where the number of micro-batches is not a power of two, children on the right may be missing."""
        while len(self.nodes) > 1:
            self._add_last_two()
        return self.nodes[0]

    def _add_last_two(self) -> None:
        right, left = self.nodes.pop(), self.nodes[-1]
        left.level += 1
        left.tables = [_merged(a, b) for a, b in zip(left.tables, right.tables, strict=True)]
        if left.dense is None or right.dense is None:
            if left.dense is None:
                left.dense = right.dense
        else:
            for part in self._parts(left, left.filled & right.filled):
                np.add(left.dense[part], right.dense[part], out=left.dense[part])
            for part in self._parts(left, right.filled & ~left.filled):
                left.dense[part] = right.dense[part]
            self._pool.append(right.dense)
        left.filled = left.filled | right.filled

    def _parts(self, node: Node, chosen: NDArray[np.bool_]) -> Iterable[slice]:
        """Where these parameters lie in the node's array, which may hold only a share of the numbers."""
        assert node.dense is not None
        first, last = node.start, node.start + len(node.dense)
        for _, start, end in self._layout.runs(chosen):
            low, high = max(start, first), min(end, last)
            if low < high:
                yield slice(low - first, high - first)


def _merged(a: Rows | None, b: Rows | None) -> Rows | None:
    if a is None or b is None:
        return b if a is None else a
    ids, width = np.empty(len(a[0]) + len(b[0]), np.int32), a[1].shape[1]
    block = np.empty((len(ids), width), DTYPE)
    n = lib.dn_merge_rows(width, *_in_c(a), *_in_c(b), ffi.from_buffer("int *", ids), pointer(block))
    return ids[:n], block[:n]


def _in_c(rows: Rows) -> tuple[int, Any, Any]:
    return len(rows[0]), ffi.from_buffer("const int *", rows[0]), pointer(rows[1])


class ReproducibleSum:
    """The gradients of the micro-batches of one step, and at its end their sum over all ranks."""

    def __init__(self, here: World, comm: Any, m: ParameterCollection) -> None:
        self._here, self._comm, self._m = here, comm, m
        self._layout = FlatLayout(Structure(m))
        self._pool: list[NDArray[Any]] = []
        self._first = 0  # number of the step's first micro-batch among those that are kept
        self._weights: dict[int, float] = {}
        self._tree = Tree(self._layout, self._pool)

    def check_hosts(self, what: str) -> None:
        """Makes sure that the ranks round alike. Collective.

        Raises:
            RuntimeError: their processors have different vector instructions, or their BLAS has chosen other kernels.
        """
        mine = f"vector loops for {SIMD}, BLAS {BLAS_KERNELS}"
        try:
            self._here.agree(self._comm, mine, what)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error} reproducible=True needs processors with the same instructions: choose hosts of one kind. BLAS alone can be told to "
                "use an older kind's kernels on all, by OPENBLAS_CORETYPE=Haswell in the environment."
            ) from None

    def clear(self) -> None:
        """Forgets all that was kept."""
        self._release()
        self._first, self._weights, self._tree = 0, {}, Tree(self._layout, self._pool)

    @property
    def pending(self) -> bool:
        """Whether gradients are kept."""
        return bool(self._weights)

    def _release(self) -> None:
        self._pool += [node.dense for node in self._tree.nodes if node.dense is not None]

    def end_step(self, micro_batches: int) -> None:
        """What is kept from now on belongs to the next step; this one had so many micro-batches over all ranks."""
        self._first += micro_batches

    def keep(self, number: int, weight: float, factor: float) -> None:
        """Takes the gradient of micro-batch `number` of the step, times factor, out of the collection.

        Raises:
            RuntimeError: parameters were added between two micro-batches of a step; draws come from one generator, as in DyNet.
        """
        if _random.dynet_order():
            raise RuntimeError(
                "update: with reproducible=True draws depend on step and micro-batch alone; got DyNet's order of draws, in which each depends "
                "on all before it. Leave one of the two out."
            )
        if not self._layout.structure.fits(self._m):
            if self._weights:
                raise RuntimeError("update: parameters were added within a step of several micro-batches. Add them between two steps.")
            self._layout = FlatLayout(Structure(self._m))
            self._pool.clear()
            self.clear()
        number += self._first
        self._weights[number] = weight
        structure = self._layout.structure
        filled = np.zeros(len(structure.dense), np.bool_)
        dense: NDArray[Any] | None = None
        tables: list[Rows | None] = [None] * len(structure.tables)
        if weight > 0:
            filled = np.array([not lib.dn_param_empty(p) for p in structure.handles[: len(filled)]], np.bool_)
            tables = [_rows_of(table, factor) for table in structure.tables]
        if filled.any():
            dense = self._pool.pop() if self._pool else np.zeros(self._layout.size, DTYPE)  # zeros between parameters stay
            for run in self._layout.runs(filled):
                np.multiply(self._layout.gradient(run), DTYPE.type(factor), out=dense[run[1] : run[2]])
        for handle in structure.handles:
            lib.dn_param_clear_gradient(handle)
        self._tree.push(Node(number, 0, filled, dense, 0, tables))

    def sum(self, what: str, divided: bool, times: float) -> None:
        """Puts the sum over all ranks in the place of the collection's gradients, the same bits on every rank. Collective.

        Args:
            what: the name of the meeting.
            divided: by the sum of the weights,
            times: then multiplied by this.
        """
        if self._here.size > 1:
            self._exchange(what)
        weights = [self._weights[number] for number in sorted(self._weights)]
        total = math.fsum(weights) if divided else 1.0
        if self._tree.nodes and total > 0:
            self._put_back(self._tree.root(), DTYPE.type(times / total))
        self.clear()

    def _put_back(self, node: Node, factor: Any) -> None:
        layout, structure = self._layout, self._layout.structure
        for i in np.flatnonzero(node.filled).tolist():
            lib.dn_param_mark_filled(structure.handles[i])
        for run in layout.runs(node.filled):
            assert node.dense is not None
            np.multiply(node.dense[run[1] : run[2]], factor, out=layout.gradient(run))
        for handle, rows in zip(structure.handles[len(structure.dense) :], node.tables, strict=True):
            if rows is not None and lib.dn_lookup_add(handle, *_in_c((rows[0], rows[1] * factor))):
                raise MemoryError("gradient exchange: out of memory for the rows of a lookup table")

    # ---- between the ranks -------------------------------------------------------------------------------------------------------------

    def _exchange(self, what: str) -> None:
        """Makes the tree one of all ranks' nodes: of dense gradients each rank adds up its share, then all get all shares."""
        here, mine = self._here, self._tree.nodes
        counts = [[0 if rows is None else len(rows[0]) for rows in node.tables] for node in mine]
        told = pickle.dumps((self._weights, [(node.low, node.level, node.filled) for node in mine], counts))
        every = [pickle.loads(b) for b in here.exchange_bytes(self._comm, told, what)]
        for weights, _, _ in every:
            self._weights.update(weights)
        bounds = [self._layout.size // _SHARE * rank // here.size * _SHARE for rank in range(here.size + 1)]
        nodes, tree, requests = [], Tree(self._layout, []), []
        for rank, (_, theirs, _) in enumerate(every):
            own = iter(mine)
            for low, level, filled in theirs:
                node = Node(low, level, filled, None, bounds[here.rank], [])
                sent = next(own).dense if rank == here.rank else None
                if filled.any():
                    node.dense = np.empty(bounds[here.rank + 1] - bounds[here.rank], DTYPE)
                    sizes = np.diff(bounds)
                    requests.append(self._comm.Iscatterv(None if sent is None else (sent, sizes), node.dense, root=rank))
                nodes.append(node)
        here.wait(requests, what)
        tables = self._gather_tables([counts for _, _, counts in every], what)
        for node, rows in zip(nodes, tables, strict=True):
            node.tables = rows
        for node in sorted(nodes, key=lambda node: node.low):
            tree.push(node)
        root = tree.root()
        if root.dense is not None:
            share, root.start = root.dense, 0
            root.dense = self._pool.pop() if self._pool else np.zeros(self._layout.size, DTYPE)
            here.wait([self._comm.Iallgatherv(share, (root.dense, np.diff(bounds)))], what)
        self._release()
        self._tree.nodes = [root]

    def _gather_tables(self, counts: list[list[list[int]]], what: str) -> list[list[Rows | None]]:
        """Of each node of each rank, in the order of ranks, the rows of every table. counts: by rank, node, table."""
        requests, widths = [], [math.prod(table._dims) for table in self._layout.structure.tables]
        gathered: list[Rows | None] = []
        for k, width in enumerate(widths):
            sizes = np.array([sum(node[k] for node in nodes) for nodes in counts])
            mine = [rows for node in self._tree.nodes if (rows := node.tables[k]) is not None]
            if not sizes.any():
                gathered.append(None)
                continue
            every = np.empty(int(sizes.sum()), np.int32), np.empty((int(sizes.sum()), width), DTYPE)
            own = (
                np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in mine)]),
                np.concatenate([np.empty((0, width), DTYPE), *(block for _, block in mine)]),
            )
            requests += [self._comm.Iallgatherv(own[0], (every[0], sizes)), self._comm.Iallgatherv(own[1], (every[1], sizes * width))]
            gathered.append(every)
        self._here.wait(requests, what)
        nodes = [node for of_rank in counts for node in of_rank]
        result: list[list[Rows | None]] = [[] for _ in nodes]
        for k, table in enumerate(gathered):
            start = 0
            for node, tables in zip(nodes, result, strict=True):
                end = start + node[k]
                tables.append(None if table is None or end == start else (table[0][start:end], table[1][start:end]))
                start = end
        return result


def _rows_of(table: Any, factor: float) -> Rows | None:
    ids = table.touched_rows()
    if not len(ids):
        return None
    order = np.argsort(ids)
    return ids[order], table.touched_gradients()[order] * DTYPE.type(factor)
