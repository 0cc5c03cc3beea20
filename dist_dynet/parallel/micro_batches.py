"""Micro-batches and their random draws: with reproducible=True draws must not depend on the number
of ranks.

It knows the random streams and counters of graphs. Loops report when micro-batches begin and end;
batches report when they are read. Of Python's and NumPy's generators it only knows whether a
micro-batch has drawn from them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from .._ffi import lib
from .._manner import manner, warn
from .._random import generators_of_python
from ..graph import ComputationGraph, cg

_present: WeakValueDictionary[int, MicroDraws] = WeakValueDictionary()
"""For each graph, by its number, the micro-batch that it draws for."""


_epochs: dict[int, int] = {}
"""By the number of a graph: its epoch when it last began or ended to draw for a micro-batch."""


def _epoch_of(graph: ComputationGraph) -> int:
    """What changes when a graph is renewed."""
    return int(lib.dn_thread_work(graph.number).epoch)


def _is_begun(graph: ComputationGraph) -> bool:
    """Whether it was renewed since then, and nothing has come into it: for what comes now."""
    return not len(graph) and _epochs.get(graph.number) != _epoch_of(graph)


class MicroDraws:
    """The state of one micro-batch's draws.

    Args:
        stream: the random stream of the micro-batch.
        counter: the counter of its first graph.
    """

    __slots__ = ("__weakref__", "_draws_of_python", "_looks", "_others", "_place", "is_over")

    def __init__(self, stream: int, counter: int) -> None:
        self._place: tuple[int | None, int, int] = stream, counter, counter
        made = next(_made)
        self._looks = _SAID not in manner.said and (made < _EVERY or made % _EVERY == 0)
        self._others: Any = self._look()  # other generators before it drew; None: it is on hold
        self._draws_of_python = False
        self.is_over = False
        """Nothing more is expected of it: its gradients were used, or its loop has gone on."""

    def begin(self, is_read: bool = True) -> None:
        """Makes the graph of this thread draw for this micro-batch, from where it was. is_read: the
        program looks at it, perhaps after it has begun its graph; False: its loop yields it."""
        graph = cg()
        before = _present.get(graph.number)
        if before is not self:
            begun = int(is_read and _is_begun(graph))
            if before is not None:
                before.hold(graph, begun)
            _present[graph.number] = self
            self.resume(graph, begun)
        self.is_over = False

    def hold(self, graph: ComputationGraph, begun: int = 0) -> None:
        """Saves its position: others draw from now on, the last so many graphs included."""
        stream, counter, samples = graph.draws()
        self._place = stream, counter - begun, samples
        _epochs[graph.number] = _epoch_of(graph)
        self._rest()

    def resume(self, graph: ComputationGraph, begun: int = 0) -> None:
        """Draws from the saved position; so many graphs of it have begun before."""
        stream, counter, samples = self._place
        graph.draw_from(stream, counter + begun, samples)
        _epochs[graph.number] = _epoch_of(graph)
        if self._others is None:
            self._others = self._look()

    def end(self) -> None:
        """Called when its loop has gone on or ended."""
        self.is_over = True
        self._rest()

    def _rest(self) -> None:
        self._draws_of_python, self._others = self._has_drawn(), None

    def _has_drawn(self) -> bool:
        then = self._others
        return self._draws_of_python or (then is not None and then != self._look())

    def _look(self) -> tuple[Any, ...]:
        return generators_of_python() if self._looks else ()

    def warn_of_others(self, is_main: bool) -> None:
        """Called when an update uses the micro-batch: warns if it has drawn from generators that
        depend on the number of ranks."""
        self._rest()
        if not self._draws_of_python or _SAID in manner.said:
            return
        manner.said.add(_SAID)
        if is_main:
            warn(
                "update: with reproducible=True this micro-batch has drawn from Python's random or"
                " from numpy.random, whose numbers depend on how many micro-batches this rank had"
                " before: another number of ranks ends elsewhere. Draw from a generator that"
                " depends on epoch and example alone, such as"
                " random.Random(f'{batch.epoch} {example}'). This is said once."
            )


_SAID = "draws in micro-batches"
_made = itertools.count()
_EVERY = 32
"""After the first micro-batches, one of so many is checked, which takes 0.2 ms."""


class Outside:
    """Saves the draws that a loop over a shard, or an evaluation, finds when it begins, and
    restores them at its end: it may run inside a micro-batch of another loop."""

    __slots__ = ("_mine", "_outer")

    def __init__(self) -> None:
        self._outer: MicroDraws | None = None
        self._mine: MicroDraws | None = None

    def begin_batch(self, mine: MicroDraws | None) -> None:
        """Called for the next batch: a micro-batch with these draws, or a plain batch."""
        if mine is None and not _present:  # nearly always
            return
        graph = cg()
        present = _present.get(graph.number)
        if self._mine is not None:
            self._mine.end()
        if present is not self._mine and present is not self._outer:
            self._outer = present
            if present is not None and mine is None:
                present.hold(graph)
        self._mine = mine
        if mine is not None:
            mine.begin(is_read=False)

    def ends(self, counter: int | None) -> None:
        """Called when the loop has ended; counter: for draws after it, if it had micro-batches."""
        outer = self._outer
        if self._mine is not None:
            self._mine.end()
        if outer is None and counter is None:  # nearly always
            return
        graph = cg()
        if outer is not None and not outer.is_over:
            _present[graph.number] = outer
            outer.resume(graph)
        elif counter is not None:
            _present.pop(graph.number, None)
            graph.draw_from(None, counter)
            _epochs[graph.number] = _epoch_of(graph)


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
    """Its random draws."""

    @property
    def is_last(self) -> bool:
        """Whether the step ends with it."""
        return self.turn == self.turns - 1
