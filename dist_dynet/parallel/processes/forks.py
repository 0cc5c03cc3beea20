"""What a process and its forked children must know of one another: who has started MPI, and whether
children loop over shards, as those do that read ahead.

What a child sends to this process comes without its batches. A process can be a rank only once.
This module knows neither loops nor MPI.
"""

from __future__ import annotations

import mmap
import os


class _Forks:
    """Two numbers in memory that a process shares with its children. Without such memory nothing is
    known."""

    def __init__(self) -> None:
        self._starter = self._loops = memoryview(bytearray(8)).cast("Q")
        self._seen = 0
        self._is_child = False

    def begin(self) -> None:
        """Called before there can be children that matter."""
        try:
            shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        except OSError:
            return
        self._starter, self._loops = shared[:1], shared[1:2]
        os.register_at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        self._is_child = True

    def start(self) -> None:
        """Called before MPI starts.

        Raises:
            RuntimeError: the process that has forked this one, or a child, has started it.
        """
        starter, me = self._starter[0], os.getpid()
        if starter not in (0, me):
            raise RuntimeError(
                f"dist_dynet.parallel: process {starter} has started MPI as this rank, and cannot"
                f" share it with process {me}, since one was forked from the other before. Use"
                " dist_dynet.parallel before you fork, as by dy.parallel.rank(), or in one of the"
                " two only."
            )
        self._starter[0] = me

    def note_loop(self) -> None:
        """Called where a loop over a shard begins."""
        if self._is_child:
            self._loops[0] += 1

    def loops(self) -> int:
        """How many such loops children have begun."""
        return self._loops[0]

    def have_looped(self) -> bool:
        """Whether children have begun such loops since the last call."""
        before, self._seen = self._seen, self._loops[0]
        return self._seen != before


forks = _Forks()
