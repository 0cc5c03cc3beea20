"""Windows: memory in which the ranks of a host store messages for one another. Each rank writes its
own window, of any length, and all ranks read all windows.

A window that becomes too small is replaced by its rank alone; its new place is published in memory
that all ranks share. A rank that no longer needs its windows can go on at once: they stay until all
ranks have read them. This module knows bytes and how far each rank is, and nothing of the content.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._ffi import ffi, lib
from ..processes.memory import reserve
from .wire import Hosts

GIVEN, SUMMED, READ = range(3)
"""Stages of a round that a rank publishes: its rows are in the window, its sums are, and it will
read no more. GIVEN and SUMMED are also windows."""

_LINE = 64
BYTES = 512
"""Shared bytes of each rank beside the windows: a cache line per stage, then for each window its
generation, process, descriptor and size."""


class Windows:
    """The windows of this host's ranks.

    Args:
        hosts: the ranks.
        mapping: the shared memory, at least BYTES per rank.
        starts: where each rank's bytes begin in it.
    """

    def __init__(self, hosts: Hosts, mapping: Any, starts: list[int]) -> None:
        _close_unread()
        self.round = 0
        """The present round, counted from 1; the same on all ranks."""
        self._local, self._mapping = hosts.local, mapping
        starts = starts[: len(hosts.mine)]
        self._flags = [
            ffi.new(
                "int64_t *[]",
                [ffi.cast("int64_t *", mapping + start + _LINE * kind) for start in starts],
            )
            for kind in range(3)
        ]
        self._directory = [
            np.frombuffer(ffi.buffer(mapping), np.int64, 8, start + 3 * _LINE).reshape(2, 4)
            for start in starts
        ]
        self._own: dict[int, NDArray[np.int32]] = {}
        self._descriptors: list[int] = [-1, -1]
        self._generations = [
            ffi.new(
                "int64_t *[]",
                [ffi.cast("int64_t *", ffi.from_buffer(entry[kind])) for entry in self._directory],
            )
            for kind in (GIVEN, SUMMED)
        ]
        self._known: dict[tuple[int, int], tuple[int, NDArray[np.int32]]] = {}
        self._shared: dict[int, Shared] = {}
        reads = self._flags[READ]
        others = [reads[local] for local in range(len(starts)) if local != hosts.local]
        given = self._flags[GIVEN][hosts.local]
        weakref.finalize(self, _end, self._descriptors, given, others, mapping).atexit = False

    def tell(self, kind: int) -> None:
        """Publishes that this rank has reached this stage of the present round."""
        lib.dn_flag_set(self._flags[kind][self._local], self.round)

    def have(self, kind: int, ranks: int, behind: int = 0) -> Callable[[], bool]:
        """A function that tells whether the first `ranks` ranks have reached this stage of the
        present round, or of the round `behind` rounds before."""
        flags, number = self._flags[kind], self.round - behind
        return lambda: bool(lib.dn_flags_reached(ranks, flags, number))

    def own(self, kind: int, length: int) -> NDArray[np.int32]:
        """The window of this rank, for so many elements, with undefined content."""
        own = self._own.get(kind)
        if own is None or len(own) < length:
            entry = self._directory[self._local][kind]
            _close(self._descriptors, kind)
            self._descriptors[kind], memory = reserve(max(8 * length, mmap.PAGESIZE))
            own = self._own[kind] = np.frombuffer(memory, np.int32)
            entry[:] = (entry[0] + 1, os.getpid(), self._descriptors[kind], len(memory))
        return own[:length]

    def shared(self, kind: int, ranks: int) -> Shared:
        """The windows of the first `ranks` ranks, once they have published them."""
        generations = lib.dn_flags_sum(ranks, self._generations[kind])  # each can only grow
        known = self._shared.get(kind)
        if known is None or known.generations != generations:
            absent = [
                local
                for local in range(ranks)
                if local != self._local and not self.is_shared(kind, local)
            ]
            windows = [
                self._own[kind]
                if local == self._local
                else np.empty(0, np.int32)
                if local in absent
                else self.of(kind, local)
                for local in range(ranks)
            ]
            pointers = [ffi.from_buffer("int32_t *", window) for window in windows]
            c = ffi.new("int32_t *[]", pointers)
            known = self._shared[kind] = Shared(generations, absent, c, windows, pointers)
        return known

    def is_shared(self, kind: int, local: int) -> bool:
        """Whether other ranks can read this rank's window; otherwise it must send the content."""
        return bool(self._directory[local][kind, 2] >= 0)

    def of(self, kind: int, local: int) -> NDArray[np.int32]:
        """The window of a rank of this host, once it is published."""
        generation, process, descriptor, size = self._directory[local][kind].tolist()
        if (known := self._known.get((kind, local))) is None or known[0] != generation:
            file = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDONLY)
            try:
                mapped = mmap.mmap(file, size, access=mmap.ACCESS_READ)
            finally:
                os.close(file)
            known = generation, np.frombuffer(mapped, np.int32)
            self._known[kind, local] = known
        return known[1]


class Shared(NamedTuple):
    """Windows as C functions take them."""

    generations: int  # the sum of generations
    absent: list[int]  # ranks whose windows cannot be read
    c: Any
    windows: list[NDArray[np.int32]]
    kept: Any


_unread: list[Callable[[], bool]] = []
"""Functions that close windows that have ended; each returns whether it has."""


def _end(descriptors: list[int], given: Any, others: list[Any], mapping: Any) -> None:
    """Closes a rank's windows once the other ranks have read them."""
    last, process, reads = lib.dn_flag_get(given), os.getpid(), ffi.new("int64_t *[]", others)

    def close() -> bool:
        is_mine = process == os.getpid()  # not of the process that has forked this one
        if is_mine and mapping and not lib.dn_flags_reached(len(others), reads, last):
            return False
        _close(descriptors)
        return True

    if max(descriptors) >= 0:
        _unread.append(close)
        _close_unread()


def _close_unread() -> None:
    left = [_unread.pop() for _ in range(len(_unread))]
    _unread.extend(close for close in left if not close())


def _close(descriptors: list[int], kind: int | None = None) -> None:
    for k in range(len(descriptors)) if kind is None else (kind,):
        if descriptors[k] >= 0:
            os.close(descriptors[k])
        descriptors[k] = -1
