"""What the program has looked at of the batches of shard(): all examples, one after the other or in
parts, and before which nodes of the graph.

Each batch has a Reading. Which batch gradients come from is the business of sources.py.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from .._ffi import lib
from ..graph import cg
from ..params.root import Root

T = TypeVar("T")


class Reading(Generic[T]):
    """How the program goes through the examples of one batch."""

    __slots__ = ("_given", "_is_cut", "_loop", "_parts", "_thread", "_was_whole", "_whole")

    def __init__(self) -> None:
        # the last loop over the examples, how many it was given, and in which thread
        self._loop: weakref.ref[Iterator[T]] | None = None
        self._given = self._thread = 0
        # those that were looked at by index since the last update, and whether by slices
        self._parts: set[int] = set()
        self._is_cut = False
        self._whole = self._was_whole = False  # all at once: since the last update, ever

    def loop(self, examples: Iterator[T]) -> Iterator[T]:
        """One loop over all of them."""
        self._given, handed_over = 0, self._handed_over(examples)
        self._loop = weakref.ref(handed_over)
        return handed_over

    def _handed_over(self, examples: Iterator[T]) -> Iterator[T]:
        for example in examples:
            self._given += 1
            self._thread = threading.get_ident()
            yield example

    def look(self, i: Any, size: int) -> None:
        """The program looks at an index or a slice of so many examples; None: at all of them."""
        if i is None:
            self._whole = self._was_whole = True
        elif isinstance(i, slice):
            self._is_cut = True
            self._parts.update(range(size)[i])
        else:
            self._parts.add(range(size)[i])

    def is_under_way(self, size: int) -> bool:
        """Whether this thread has begun a loop over so many examples that has not ended. One that
        has come to the last of several may have: zip() asks for no more. Nor does it matter when
        another thread asks, such as that of multiprocessing.Pool.map()."""
        loop = self._loop and self._loop()
        if loop is None or getattr(loop, "gi_frame", None) is None:
            return False
        if self._given and self._thread != threading.get_ident():
            return False
        return self._given < size or size == 1

    def is_in_part(self, size: int) -> bool:
        """Whether the program has looked at some of so many examples only since the last update.
        A single one may be looked at where all have been before."""
        if self._whole or (self._was_whole and not self._is_cut):
            return False
        return 0 < len(self._parts) < size

    def end(self) -> None:
        """An update has come."""
        self._parts.clear()
        self._is_cut = self._whole = False


class _Look(NamedTuple):
    """A look into a batch, of several that there are."""

    batch: weakref.ref[Any]
    epoch: int  # of the graph
    nodes: int  # that it had then
    passes: int  # backward passes of the thread then


_looks: dict[int, list[_Look]] = {}
"""By thread, the last of each batch."""


def note(batch: Any) -> None:
    """The program looks into one of several batches."""
    me, number = threading.get_ident(), cg().number
    work = lib.dn_thread_work(number)
    _looks[me] = [
        *(look for look in _others(me, batch) if look.epoch == work.epoch),
        _Look(weakref.ref(batch), work.epoch, lib.dn_graph_size(number), work.passes),
    ]


def beside(batch: Any, root: Root) -> list[Any]:
    """The other batches whose examples the last loss may come from: the program has looked into
    them since renew_cg() and before it made that, which has parameters of this root alone."""
    me, number = threading.get_ident(), cg().number
    if me not in _looks or not lib.dn_graph_is_of(number, root.c):
        return []
    work = lib.dn_thread_work(number)
    return [
        other
        for look in _others(me, batch)
        if look.epoch == work.epoch and look.nodes <= work.loss and look.passes < work.passes
        if (other := look.batch()) is not None
    ]


def forget(batch: Any) -> None:
    """An update was named by this batch."""
    me = threading.get_ident()
    if me in _looks:
        _looks[me] = _others(me, batch)
        if not _looks[me]:
            del _looks[me]


def _others(me: int, batch: Any) -> list[_Look]:
    others = [(look, look.batch()) for look in _looks.get(me, ())]
    return [look for look, other in others if other is not None and other is not batch]
