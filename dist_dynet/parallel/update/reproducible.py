"""Sums gradients in an order that does not depend on the number of ranks, so that N ranks give the
same bits as one.

A step is cut into the same micro-batches whatever N is. Their gradients are the leaves of a binary
tree over the numbers of the micro-batches, and are summed in the order of the tree: 0 + 1, 2 + 3,
then (0 + 1) + (2 + 3), and so on. A rank sums the subtrees within its own micro-batches, and keeps
one gradient per level rather than one per micro-batch. At the end of the step the ranks exchange
the sums of their subtrees, and each rank sums its share of the numbers by the same tree. This
module knows gradients, and neither averages nor updates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _random
from ..._ffi import BLAS_KERNELS, DTYPE, SIMD, lib
from ...meter import during, hand_over
from ...params.collection import ParameterCollection
from ...params.precision import rounding
from ..agreement.structure import Structure
from ..micro_batches import Part
from ..processes.world import World
from .gradients import SHARE, FlatLayout, Node, Rows, add_up, marks_of, put_back, take_out


class Tree:
    """Takes nodes from left to right, and adds up siblings."""

    def __init__(self, layout: FlatLayout, pool: list[NDArray[Any]]) -> None:
        self._layout, self._pool = layout, pool
        self.nodes: list[Node] = []

    def push(self, node: Node) -> None:
        """Adds a node to the right of all others."""
        nodes = self.nodes
        nodes.append(node)
        while (
            len(nodes) > 1
            and nodes[-2].level == nodes[-1].level
            and nodes[-2].low == (nodes[-1].low ^ (1 << nodes[-1].level))
        ):
            self._add_last_two()

    def root(self) -> Node:
        """The sum of all nodes. If the number of micro-batches is not a power of two, children on
        the right may be missing."""
        while len(self.nodes) > 1:
            self._add_last_two()
        return self.nodes[0]

    def _add_last_two(self) -> None:
        right, left = self.nodes.pop(), self.nodes[-1]
        left.level += 1
        add_up(self._layout, left, right, self._pool)


class ReproducibleSum:
    """The gradients of the micro-batches of one step, and at its end their sum over all ranks."""

    def __init__(self, here: World, comm: Any, m: ParameterCollection) -> None:
        self._here, self._comm, self._m = here, comm, m
        self._layout = FlatLayout(Structure(m))
        self._pool: list[NDArray[Any]] = []
        self._weights: dict[int, float] = {}
        self._tree = Tree(self._layout, self._pool)
        self._part: Part | None = None  # the last micro-batch
        # parameters with gradients of a refused step, and how often these were cleared before
        self._sums: dict[Any, int] = {}

    def check_hosts(self, what: str) -> None:
        """Makes sure that all ranks round alike. Collective.

        Raises:
            RuntimeError: their processors have different vector instructions, their BLAS has
                chosen other kernels, or products are rounded to bfloat16 in another way.
        """
        rounded = rounding(p.precision() for p in self._m.parameters_list())
        mine = f"vector loops for {SIMD}, BLAS {BLAS_KERNELS}" + (f", {rounded}" if rounded else "")
        to_do = (
            "reproducible=True needs processors with the same instructions: choose hosts of one"
            " kind. BLAS alone can be told to use an older kind's kernels on all, by"
            " OPENBLAS_CORETYPE=Haswell in the environment."
        )
        self._here.agree(self._comm, {mine: to_do}, what)

    def clear(self) -> None:
        """Drops all that was kept."""
        self._release()
        self._weights, self._tree = {}, Tree(self._layout, self._pool)

    def keep_sums(self) -> None:
        """The update of the step was refused, and its gradients stay where they are."""
        filled = [h for h in self._layout.structure.handles if not lib.dn_param_empty(h)]
        self._sums = dict(zip(filled, marks_of(filled)[0].tolist(), strict=True))

    def refuse_sums(self) -> None:
        """Called before a micro-batch is taken.

        Raises:
            RuntimeError: gradients of a refused step are among its own.
        """
        if not self._sums:  # nearly always
            return
        clears = marks_of([*self._sums])[0].tolist()
        if any(now == before for now, before in zip(clears, self._sums.values(), strict=True)):
            raise RuntimeError(
                "update: gradients of a step whose update was refused are still there, and belong"
                " to no micro-batch. Forget them by reset_gradients()."
            )
        self._sums.clear()

    def check_turn(self, part):
        self.resumes(part)

    def resumes(self, part: Part | None) -> bool:
        """Whether this micro-batch continues a step. False: the loop before it was left within a
        step, and everything is dropped.

        Raises:
            RuntimeError: it is not the next one.
        """
        if part is None:
            raise RuntimeError(
                "update: with reproducible=True each call belongs to a batch of shard(...,"
                " micro_batches=G); got one outside."
            )
        before, same_loop = self._part, self._part is not None and self._part.loop is part.loop
        if part.turn != ((before.turn + 1) % before.turns if before and same_loop else 0):
            raise RuntimeError(
                "update: with reproducible=True it is called once after each batch of shard(),"
                " empty ones too; got two calls for one, or none."
            )
        if before is None or same_loop or before.is_last:
            return True
        self.clear()
        return False

    @property
    def pending(self) -> bool:
        """Whether gradients are kept."""
        return bool(self._weights)

    def _release(self) -> None:
        self._pool += [node.dense for node in self._tree.nodes if node.dense is not None]

    def keep(self, part: Part, weight: float, factor: float) -> None:
        """Moves the gradient of a micro-batch, times factor, out of the collection. Where this rank
        has none in its turn, the gradient is that of no example, and is dropped.

        Raises:
            RuntimeError: parameters were added between two micro-batches of a step; draws come from
                one generator, as in DyNet.
        """
        if not self._layout.structure.fits(self._m):
            self._adopt()
        if part.number is not None:
            part.draws.warn_of_others(self._here.rank == 0)
            self._keep(part.number, weight, factor)
        else:
            self._m.reset_gradients()
        self._part = part

    def _adopt(self) -> None:
        if self._weights:
            raise RuntimeError(
                "update: parameters were added within a step of several micro-batches. Add them"
                " between two steps."
            )
        self._layout = FlatLayout(Structure(self._m))
        self._pool.clear()
        self.clear()

    def _keep(self, number: int, weight: float, factor: float) -> None:
        if _random.dynet_order():
            raise RuntimeError(
                "update: with reproducible=True draws depend on step and micro-batch alone; got"
                " DyNet's order of draws, in which each depends on all before it. Leave one of the"
                " two out."
            )
        self._weights[number] = weight
        self._tree.push(take_out(self._layout, number, factor if weight > 0 else 0.0, self._pool))

    def sum(self, what: str, divided: bool, changes: Sequence[int] = ()) -> str:
        """Replaces the collection's gradients by the sum over all ranks, the same bits on every
        rank. Collective.

        Args:
            what: the name of the collective operation.
            divided: whether to divide by the sum of the weights.
            changes: what the program has done to the sums of earlier steps.

        Returns:
            Why it is refused, on all ranks: they have not done the same to these.
        """
        if self._here.size > 1 and not self._exchange(what, changes):
            self.clear()
            return (
                "the ranks have changed the gradients of earlier steps of this accumulation in"
                " different ways. Call scale_gradient(), clear_gradient() and reset_gradients() on"
                " all ranks, with empty batches, too."
            )
        weights = [self._weights[number] for number in sorted(self._weights)]
        total = math.fsum(weights) if divided else 1.0
        if self._tree.nodes and total > 0:
            put_back(self._layout, self._tree.root(), DTYPE.type(1 / total))
        self.clear()
        return ""

    # ---- between the ranks -------------------------------------------------------------

    def _exchange(self, what: str, changes: Sequence[int]) -> bool:
        """Makes the tree one of all ranks' nodes: each rank sums its share of the dense gradients,
        then all ranks get all shares. Returns False, having done nothing, if the ranks have made
        different changes."""
        here, mine = self._here, self._tree.nodes
        counts = [[0 if rows is None else len(rows[0]) for rows in node.tables] for node in mine]
        every = here.gather(
            self._comm,
            (self._weights, [(n.low, n.level, n.filled) for n in mine], counts, [*changes]),
            what,
        )
        if any(theirs != every[0][3] for *_, theirs in every):
            return False
        for weights, *_ in every:
            self._weights.update(weights)
        bounds = [
            self._layout.size // SHARE * rank // here.size * SHARE for rank in range(here.size + 1)
        ]
        nodes, tree, requests = [], Tree(self._layout, []), []
        for rank, (_, theirs, *_) in enumerate(every):
            own = iter(mine)
            for low, level, filled in theirs:
                node = Node(low, level, filled, None, bounds[here.rank], [])
                sent = next(own).dense if rank == here.rank else None
                if filled.any():
                    node.dense = np.empty(bounds[here.rank + 1] - bounds[here.rank], DTYPE)
                    sizes = np.diff(bounds)
                    hand_over(0 if sent is None else sent.nbytes)
                    requests.append(
                        self._comm.Iscatterv(
                            None if sent is None else (sent, sizes), node.dense, root=rank
                        )
                    )
                nodes.append(node)
        here.wait(requests, what)
        with during(lib.DN_ROWS):
            tables = self._gather_tables([counts for _, _, counts, _ in every], what)
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
        return True

    def _gather_tables(self, counts: list[list[list[int]]], what: str) -> list[list[Rows | None]]:
        """For each node of each rank, in the order of ranks, the rows of every table. counts: by
        rank, node, table."""
        requests = []
        widths = [math.prod(table.shape()[1:]) for table in self._layout.structure.tables]
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
            hand_over(own[0].nbytes + own[1].nbytes)
            requests += [
                self._comm.Iallgatherv(own[0], (every[0], sizes)),
                self._comm.Iallgatherv(own[1], (every[1], sizes * width)),
            ]
            gathered.append(every)
        self._here.wait(requests, what)
        nodes = [node for of_rank in counts for node in of_rank]
        result: list[list[Rows | None]] = [[] for _ in nodes]
        for k, table in enumerate(gathered):
            start = 0
            for node, tables in zip(nodes, result, strict=True):
                end = start + node[k]
                tables.append(
                    None
                    if table is None or end == start
                    else (table[0][start:end], table[1][start:end])
                )
                start = end
        return result
