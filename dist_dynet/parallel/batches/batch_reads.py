"""What the program has read of the batches of shard(): all examples, one after the other or in
part, and before which nodes of the graph.

Each batch has a ReadTracker. sources.py finds out which batch gradients come from.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from ..._ffi import lib
from ...graph import cg
from ...params.root import Root

T = TypeVar("T")


class ReadTracker(Generic[T]):
    """Follows how the program reads the examples of one batch."""

    __slots__ = ("_given", "_is_cut", "_loop", "_parts", "_thread", "_was_whole", "_whole")

    def __init__(self) -> None:
        # the last loop over the examples, how many it has received, and in which thread
        self._loop: weakref.ref[Iterator[T]] | None = None
        self._given = self._thread = 0
        # examples that were read by index since the last update, and whether by slices
        self._parts: set[int] = set()
        self._is_cut = False
        self._whole = self._was_whole = False  # all were read at once: since the last update, ever

    def loop(self, examples: Iterator[T]) -> Iterator[T]:
        """Follows one loop over all examples."""
        self._given, handed_over = 0, self._handed_over(examples)
        self._loop = weakref.ref(handed_over)
        return handed_over

    def _handed_over(self, examples: Iterator[T]) -> Iterator[T]:
        for example in examples:
            self._given += 1
            self._thread = threading.get_ident()
            yield example

    def look(self, i: Any, size: int) -> None:
        """Notes that the program reads an index or a slice of so many examples; None: all of
        them."""
        if i is None:
            self._whole = self._was_whole = True
        elif isinstance(i, slice):
            self._is_cut = True
            self._parts.update(range(size)[i])
        else:
            self._parts.add(range(size)[i])

    def is_under_way(self, size: int) -> bool:
        """Whether this thread runs a loop over so many examples. A loop that has reached the last
        of several may be over: zip() asks for no more. A loop driven by another thread, such as
        that of multiprocessing.Pool.map(), does not count."""
        loop = self._loop and self._loop()
        if loop is None or getattr(loop, "gi_frame", None) is None:
            return False
        if self._given and self._thread != threading.get_ident():
            return False
        return self._given < size or size == 1

    def is_in_part(self, size: int) -> bool:
        """Whether the program has read only some of so many examples since the last update. A
        single one may be read where all have been read before."""
        if self._whole or (self._was_whole and not self._is_cut):
            return False
        return 0 < len(self._parts) < size

    def end(self) -> None:
        """Called at an update."""
        self._parts.clear()
        self._is_cut = self._whole = False


class _Read(NamedTuple):
    """A read of a batch that is not the only one."""

    batch: weakref.ref[Any]
    epoch: int  # of the graph
    nodes: int  # number of nodes in the graph at that time
    passes: int  # backward passes of the thread at that time


_reads: dict[int, list[_Read]] = {}
"""By thread, the last read of each batch."""


def note(batch: Any) -> None:
    """Notes that the program reads from one of several batches."""
    me, number = threading.get_ident(), cg().number
    work = lib.dn_thread_work(number)
    _reads[me] = [
        *(look for look in _others(me, batch) if look.epoch == work.epoch),
        _Read(weakref.ref(batch), work.epoch, lib.dn_graph_size(number), work.passes),
    ]


def others_read(batch: Any, root: Root) -> list[Any]:
    """The other batches whose examples the last loss may come from: the program has read from them
    between renew_cg() and that loss, which depends on parameters of this root alone."""
    me, number = threading.get_ident(), cg().number
    if me not in _reads or not lib.dn_graph_is_of(number, root.c):
        return []
    work = lib.dn_thread_work(number)
    return [
        other
        for look in _others(me, batch)
        if look.epoch == work.epoch and look.nodes <= work.loss and look.passes < work.passes
        if (other := look.batch()) is not None
    ]


def forget(batch: Any) -> None:
    """Called when an update has named this batch."""
    me = threading.get_ident()
    if me in _reads:
        _reads[me] = _others(me, batch)
        if not _reads[me]:
            del _reads[me]


def _others(me: int, batch: Any) -> list[_Read]:
    others = [(look, look.batch()) for look in _reads.get(me, ())]
    return [look for look, other in others if other is not None and other is not batch]
