"""reproducible=True: sums gradients in an order that does not depend on the number of ranks.

The gradients of a step's micro-batches are the leaves of a binary tree over the numbers of these:
0 + 1, 2 + 3, then (0 + 1) + (2 + 3), and so on. A rank adds up the subtrees within its own
micro-batches. At the end of the step every rank receives the subtrees of all ranks, and adds them
up by the same tree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _random
from .._ffi import BLAS_KERNELS, DTYPE, SIMD
from ..meter import hand_over
from ..params.collection import ParameterCollection
from ..params.precision import rounding
from .agreement.structure import Structure
from .micro_batches import Part
from .processes.world import World
from .update.gradients import GradientLayout, Gradients


@dataclass
class Node:
    """The sum over the 2^level micro-batches from `low` on."""

    low: int
    level: int
    sum: Gradients


def push(nodes: list[Node], node: Node) -> None:
    """Appends the node to those left of it, and adds up siblings."""
    nodes.append(node)
    while (
        len(nodes) > 1
        and nodes[-2].level == nodes[-1].level
        and nodes[-2].low == nodes[-1].low ^ (1 << nodes[-1].level)
    ):
        _add_last_two(nodes)


def root_sum(nodes: list[Node]) -> Gradients:
    """The sum of all nodes. If the number of micro-batches is no power of two, right children are
    missing."""
    while len(nodes) > 1:
        _add_last_two(nodes)
    return nodes[0].sum


def _add_last_two(nodes: list[Node]) -> None:
    right = nodes.pop()
    nodes[-1].sum.add(right.sum)
    nodes[-1].level += 1


class ReproducibleSum:
    """The gradients of the micro-batches of one step, and at its end their sum over all ranks."""

    def __init__(self, here: World, comm: Any, m: ParameterCollection) -> None:
        self._here, self._comm, self._m = here, comm, m
        self._layout = GradientLayout(Structure(m))
        self._weights: dict[int, float] = {}  # by number of micro-batch
        self._nodes: list[Node] = []  # from left to right
        self._last: Part | None = None

    def check_hosts(self, what: str) -> None:
        """Makes sure that all ranks round alike. Collective.

        Raises:
            RuntimeError: their processors have different vector instructions, their BLAS has
                chosen other kernels, or they round products to bfloat16 in different ways.
        """
        rounded = rounding(p.precision() for p in self._m.parameters_list())
        mine = f"vector loops for {SIMD}, BLAS {BLAS_KERNELS}" + (f", {rounded}" if rounded else "")
        to_do = (
            "reproducible=True needs processors with the same instructions: choose hosts of one"
            " kind. BLAS alone can be told to use an older kind's kernels on all, by"
            " OPENBLAS_CORETYPE=Haswell in the environment."
        )
        self._here.agree(self._comm, {mine: to_do}, what)

    def check_turn(self, part: Part | None) -> None:
        """Checks that this micro-batch begins a step or continues it. One that begins a step drops
        what was kept of a step before that was left or refused.

        Raises:
            RuntimeError: it is none, or not the next one; draws come from one generator, as in
                DyNet; parameters were added within a step.
        """
        if part is None:
            raise RuntimeError(
                "update: with reproducible=True each call belongs to a batch of shard(...,"
                " micro_batches=G); got one outside. Write update(batch); a weight is set by"
                " batch.n = weight."
            )
        before = self._last
        is_next = before and before.loop is part.loop and before.turn + 1 == part.turn
        if (part.turn and not is_next) or (part is before and part.turns > 1):
            raise RuntimeError(
                "update: with reproducible=True call it once after each batch of shard(), empty"
                " ones too; got two calls for one batch, or none."
            )
        if _random.dynet_order():
            raise RuntimeError(
                "update: with reproducible=True draws depend on step and micro-batch alone; got"
                " DyNet's order of draws, in which each depends on all before it. Leave one of the"
                " two out."
            )
        if not part.turn:
            self.clear()
        if not self._layout.structure.fits(self._m):
            if part.turn:
                raise RuntimeError(
                    "update: parameters were added within a step of several micro-batches. Add"
                    " them between two steps."
                )
            self._layout = GradientLayout(Structure(self._m))

    def clear(self) -> None:
        """Drops everything that was kept."""
        self._weights, self._nodes = {}, []

    @property
    def pending(self) -> bool:
        """Whether gradients are kept."""
        return bool(self._weights)

    def keep(self, part: Part, weight: float, factor: float) -> None:
        """Moves the gradient of a micro-batch, times factor, out of the collection. It is dropped
        if the weight is 0, or the rank has no micro-batch in its turn."""
        self._last = part
        gradients = self._layout.none()
        self._layout.take(gradients, factor if weight > 0 and part.number is not None else 0.0)
        if part.number is not None:
            self._weights[part.number] = weight
            push(self._nodes, Node(part.number, 0, gradients))

    def sum(self, what: str, weighted: bool) -> None:
        """Replaces the collection's gradients by the sum over all ranks, the same bits on every
        rank. Collective.

        Args:
            what: the name of the collective operation.
            weighted: whether to divide by the sum of the weights.
        """
        if self._here.size > 1:
            self._gather(what)
        total = math.fsum(self._weights.values()) if weighted else 1.0
        if total > 0:
            self._layout.put_back(root_sum(self._nodes), 1 / total)
        self.clear()

    def _gather(self, what: str) -> None:
        """Adds up the nodes of all ranks, in the order of their numbers, which is that of ranks.
        Each is broadcast by its rank."""
        here, mine = self._here, self._nodes
        headers = [
            (n.low, n.level, n.sum.filled, [len(ids) for ids, _ in n.sum.tables]) for n in mine
        ]
        every = here.gather(self._comm, (self._weights, headers), what)
        self._nodes = []
        for rank, (weights, theirs) in enumerate(every):
            self._weights.update(weights)
            for i, (low, level, filled, counts) in enumerate(theirs):
                node = mine[i] if rank == here.rank else Node(low, level, self._layout.none())
                if rank != here.rank:
                    node.sum.filled = filled
                    node.sum.tables = [
                        (np.empty(n, np.int32), np.empty((n, rows.shape[1]), DTYPE))
                        for n, (_, rows) in zip(counts, node.sum.tables, strict=True)
                    ]
                arrays = [node.sum.dense, *(array for rows in node.sum.tables for array in rows)]
                hand_over(sum(array.nbytes for array in arrays) if rank == here.rank else 0)
                here.wait([self._comm.Ibcast(a, root=rank) for a in arrays if a.size], what)
                push(self._nodes, node)
