"""Micro-batches and their random draws: with reproducible=True draws in graphs depend on seed,
epoch, step and micro-batch, and not on the number of ranks.

This module knows the random streams of graphs, not those of Python and NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..graph import cg

_present: dict[int, Outside] = {}
"""By number of a graph: the innermost loop over micro-batches that it draws for."""


class MicroDraws(NamedTuple):
    """Where the draws of one micro-batch begin."""

    stream: int
    counter: int

    def begin(self) -> None:
        """Makes the graph of this thread draw for this micro-batch, from its first draw on."""
        cg().draw_from(self.stream, self.counter)


class Outside:
    """Saves the draws that a loop over a shard finds when it begins, and restores them at its end:
    the loop may run inside a micro-batch of another loop."""

    def __init__(self) -> None:
        self._has_begun = self._is_over = False
        self._outer: Outside | None = None
        self._draws: tuple[int | None, int, int] = None, 0, 0  # of the outer loop

    def begin_batch(self, mine: MicroDraws | None) -> None:
        """Called for the next batch: a micro-batch with these draws, or a plain batch."""
        if mine is None and not _present:  # nearly always
            return
        if not self._has_begun:
            graph, self._has_begun = cg(), True
            self._outer, self._draws = _present.get(graph.number), graph.draws()
            _present[graph.number] = self
        if mine is not None:
            mine.begin()

    def ends(self, counter: int | None) -> None:
        """Called when the loop has ended; counter: for draws after it, if it had micro-batches."""
        self._is_over, outer = True, self._outer
        if not self._has_begun or (outer is not None and outer._is_over):
            return
        graph = cg()
        if outer is not None:
            _present[graph.number] = outer
            graph.draw_from(*self._draws)
            return
        _present.pop(graph.number, None)
        if counter is not None:
            graph.draw_from(None, counter)


@dataclass(frozen=True)
class Part:
    """A micro-batch of a step: the turn-th of `turns` that this rank receives."""

    number: int | None
    """Its number among those of all ranks, from 0 to of - 1; None: none is left for this turn."""
    of: int
    turn: int
    turns: int
    loop: object  # the loop over the shard that it comes from
    draws: MicroDraws

    @property
    def is_last(self) -> bool:
        """Whether the step ends with it."""
        return self.turn == self.turns - 1
