"""Stash: the gradients of earlier passes of an accumulation, each multiplied by its share of the
weights, which wait for the update."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from ...params.collection import ParameterCollection, handles_of
from ...params.parameters import AnyParameter
from ...params.root import Root
from ..agreement.structure import Structure
from .gradients import GradientLayout, Gradients


class Stash:
    """The stashed gradients of the parameters of one root, whichever trainer updates them.

    Meanwhile has_gradient() returns False for them: what the program does to gradients between two
    passes concerns only the pass that it has just made, except for reset_gradients(), which drops
    them, too.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[GradientLayout, Gradients]] = []

    @staticmethod
    def of(root: Root) -> Stash:
        """The stash of this root, shared by all its trainers."""
        stash = _stashes.get(root.c)
        if stash is None:
            stash = _stashes[root.c] = Stash()
            drop = weakref.WeakMethod(stash._drop)
            root.on_reset = lambda handles: method(handles) if (method := drop()) else None
        return stash

    def take(self, m: ParameterCollection, factor: float) -> None:
        """Moves the gradients of a collection, times factor, into the stash."""
        kept = next((kept for kept in self.kept if kept[0].structure.is_of(m)), None)
        if kept is None:
            layout = GradientLayout(Structure(m))
            kept = layout, layout.none()
            self.kept.append(kept)
        kept[0].take(kept[1], factor)

    def holds(self, params: Iterable[AnyParameter]) -> bool:
        """Whether gradients of some of these parameters may be stashed."""
        wanted = {*handles_of(params)} if self.kept else set()
        return any(not wanted.isdisjoint(layout.structure.handles) for layout, _ in self.kept)

    def put_back(self, params: Iterable[AnyParameter]) -> None:
        """Moves the stashed gradients of these parameters back, adding them to the present ones."""
        wanted = {*handles_of(params)}
        for layout, gradients in self.kept:
            layout.put_back(gradients, wanted=wanted)
        self.kept = [(layout, gradients) for layout, gradients in self.kept if gradients]

    def _drop(self, handles: Iterable[Any]) -> None:
        """Drops the stashed gradients of these parameters."""
        for layout, gradients in self.kept:
            layout.drop(gradients, {*handles})
        self.kept = [(layout, gradients) for layout, gradients in self.kept if gradients]


_stashes: weakref.WeakValueDictionary[Any, Stash] = weakref.WeakValueDictionary()
