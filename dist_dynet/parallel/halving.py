"""Sums over many hosts in a number of messages that grows with the logarithm of theirs.

The hosts are halved again and again. In a group, each host owns one part of what is summed, and has
the group's sum of it: alone it owns all. When two groups join, each host sends those of the other
group what they will own of its part, adds up what it gets of its own, and owns a smaller part then.
After the last step each of n hosts owns an n-th of the sum of all, and has sent (n - 1) / n of
the numbers; the same steps backwards give the sums to all. A host speaks with at most two others a
step, whatever n is.

Which numbers are added up in which order follows from the hosts alone, and not from who owns what:
however an array is cut, the sum has the same bits. This module knows who sends which part to whom;
wire.py and rows.py know what it is a part of.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, pointer
from ..meter import hand_over

FEWEST = 7
"""So many hosts send one another fewer messages in this way than each to each."""

_LINE = 16

Range = tuple[Fraction, Fraction]


class Swap(NamedTuple):
    """What a host sends to another, and gets from it: from and to, of all."""

    host: int
    sent: Range
    got: Range


class Step(NamedTuple):
    """What a host owns after it, and with whom it swaps what."""

    owned: Range
    swaps: tuple[Swap, ...]


@lru_cache(maxsize=64)
def steps(hosts: int, host: int) -> tuple[Step, ...]:
    """The way of one of so many hosts.

    >>> from dist_dynet.parallel.halving import steps
    >>> for step in steps(4, 0):
    ...     print(*step.owned, [(swap.host, *map(str, swap.sent)) for swap in step.swaps])
    0 1/2 [(1, '1/2', '1')]
    0 1/4 [(2, '1/4', '1/2')]
    """
    groups, low, high = [], 0, hosts
    while high - low > 1:
        middle = (low + high + 1) // 2
        groups.append((low, middle, high))
        low, high = (low, middle) if host < middle else (middle, high)
    return tuple(_step(host, *group) for group in reversed(groups))


def _step(host: int, low: int, middle: int, high: int) -> Step:
    mine, theirs = (low, middle), (middle, high)
    if host >= middle:
        mine, theirs = theirs, mine
    before, after = _part(*mine, host), _part(low, high, host)
    swaps = []
    for other in range(*theirs):
        sent = _both(before, _part(low, high, other))
        got = _both(after, _part(*theirs, other))
        if sent[0] < sent[1] or got[0] < got[1]:
            swaps.append(Swap(other, sent, got))
    return Step(after, tuple(swaps))


def _part(low: int, high: int, host: int) -> Range:
    """What a host owns in the group of these: those of the halves take turns."""
    place, factor, at, end = 0, 1, low, high
    while end - at > 1:
        middle = (at + end + 1) // 2
        if host < middle:
            end = middle
        else:
            place, at = place + factor, middle
        factor *= 2
    return Fraction(place, high - low), Fraction(place + 1, high - low)


def _both(a: Range, b: Range) -> Range:
    return max(a[0], b[0]), min(a[1], b[1])


class Halving:
    """One sum of numbers in this way.

    Args:
        comm: where it is said.
        ranks: one of each host.
        host: this one's.
        array: what is summed, in place.
        tags: of the way to the sums, and back.
        add: takes a request, and what is to be done when it is.
    """

    def __init__(
        self,
        comm: Any,
        ranks: list[int],
        host: int,
        array: NDArray[Any],
        tags: tuple[int, int],
        add: Callable[[Any, Callable[[], object] | None], None],
    ) -> None:
        self._comm, self._ranks, self._array, self._tags = comm, ranks, array, tags
        self._add = add
        lines = -(-array.size // _LINE)

        def place(range_: Range) -> tuple[int, int]:
            at = [min(lines * x.numerator // x.denominator * _LINE, array.size) for x in range_]
            return at[0], max(at)

        self._steps = [
            [(ranks[swap.host], place(swap.sent), place(swap.got)) for swap in step.swaps]
            for step in steps(len(ranks), host)
        ]
        self._at = self._left = 0
        self._came: list[tuple[int, int, NDArray[Any]]] = []
        self._up()

    def _up(self) -> None:
        """Towards the sums: the present step."""
        while self._at < len(self._steps):
            for rank, (a, b), (start, end) in self._steps[self._at]:
                if end > start:
                    room = np.empty(end - start, DTYPE)
                    self._came.append((start, end, room))
                    self._await(self._comm.Irecv(room, rank, self._tags[0]), self._added)
                if b > a:
                    self._send(a, b, rank, self._tags[0], self._added)
            if self._left:
                return
            self._at += 1
        self._down()

    def _added(self) -> None:
        self._left -= 1
        if self._left:
            return
        for start, end, room in self._came:
            mine = pointer(self._array[start:end])
            lib.dn_sum_arrays(2, ffi.new("dn_real *[]", [mine, pointer(room)]), end - start, mine)
        self._came.clear()
        self._at += 1
        self._up()

    def _down(self) -> None:
        """Back: what was sent comes summed."""
        while self._at:
            self._at -= 1
            for rank, (a, b), (start, end) in self._steps[self._at]:
                if b > a:
                    self._await(
                        self._comm.Irecv(self._array[a:b], rank, self._tags[1]), self._returned
                    )
                if end > start:
                    self._send(start, end, rank, self._tags[1], self._returned)
            if self._left:
                return

    def _returned(self) -> None:
        self._left -= 1
        if not self._left:
            self._down()

    def _await(self, request: Any, then: Callable[[], object]) -> None:
        self._left += 1
        self._add(request, then)

    def _send(self, start: int, end: int, rank: int, tag: int, then: Callable[[], object]) -> None:
        message = self._array[start:end]
        hand_over(message.nbytes)
        self._await(self._comm.Isend(message, rank, tag), then)
