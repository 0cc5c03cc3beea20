"""Stash: the gradients of earlier passes of an accumulation, each multiplied by its share of the
weights, which wait for the update."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...params.collection import ParameterCollection, handles_of
from ...params.parameters import AnyParameter
from ...params.root import Root
from ..agreement.structure import Structure
from .gradients import FlatLayout, Node, add_up, put_back, take_out


class Stash:
    """The stashed gradients of the parameters of one root, whichever trainer updates them.

    Meanwhile has_gradient() returns False for them: what the program does to gradients between two
    passes concerns only the pass that it has just made.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[FlatLayout, Node]] = []
        self._pool: list[NDArray[Any]] = []

    @staticmethod
    def of(root: Root) -> Stash:
        """The stash of this root, shared by all its trainers."""
        stash = _stashes.get(root.c)
        if stash is None:
            stash = _stashes[root.c] = Stash()
        return stash

    def take(self, m: ParameterCollection, factor: float) -> None:
        """Moves the gradients of a collection, times factor, into the stash."""
        known = next((layout for layout, _ in self.kept if layout.structure.is_of(m)), None)
        layout = known or FlatLayout(Structure(m))
        node = take_out(layout, 0, factor, self._pool if known else [])
        if known is None:
            self.kept.append((layout, node))
        else:
            (of_before,) = (node for layout, node in self.kept if layout is known)
            add_up(layout, of_before, node, self._pool)

    def holds(self, params: Iterable[AnyParameter]) -> bool:
        """Whether gradients of some of these parameters may be stashed."""
        wanted = {*handles_of(params)} if self.kept else set()
        return any(not wanted.isdisjoint(layout.structure.handles) for layout, _ in self.kept)

    def put_back(self, params: Iterable[AnyParameter]) -> None:
        """Moves the stashed gradients of these parameters back, adding them to the present ones."""
        wanted, left = {*handles_of(params)}, []
        for layout, node in self.kept:
            chosen = np.array([h in wanted for h in layout.structure.handles], np.bool_)
            dense = len(layout.structure.dense)
            rest = Node(0, 0, node.filled & ~chosen[:dense], node.dense, 0, [])
            pairs = list(zip(node.tables, chosen[dense:].tolist(), strict=True))
            rest.tables = [None if wanted else rows for rows, wanted in pairs]
            node.filled = node.filled & chosen[:dense]
            node.tables = [rows if wanted else None for rows, wanted in pairs]
            put_back(layout, node)
            if rest.filled.any() or any(rows is not None for rows in rest.tables):
                left.append((layout, rest))
        self.kept = left
        if not left:
            self._pool.clear()


_stashes: weakref.WeakValueDictionary[Any, Stash] = weakref.WeakValueDictionary()
