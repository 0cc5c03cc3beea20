"""Sums over many hosts in a number of messages that grows with the logarithm of theirs.

In a group of hosts each owns one part of what is summed, and has the group's sum of it: alone it
owns all. When up to four groups join, each host sends those of the other groups what they will own
of its part, adds up what it gets of its own, and owns a smaller part then. When all have joined,
each of n hosts owns an n-th of the sum, and has sent (n - 1) / n of the numbers; the same steps
backwards give the sums to all. Of each other group a host speaks with one host, or with two where
the groups are unlike.

Which numbers are added up in which order follows from the hosts alone, and not from who owns what:
however an array is cut, the sum has the same bits. This module knows who sends which part to whom;
wire.py and rows.py know what it is a part of.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, pointer
from ..meter import hand_over

GROUPS = 4
"""So many join at a time: of two there would be twice as many steps, of eight more messages."""

FEWEST = 8
"""So many hosts send fewer messages in this way than each to each."""

_LINE = 16

Range = tuple[Fraction, Fraction]


class Swap(NamedTuple):
    """What a host sends to another, and gets from it: from and to, of all."""

    group: int  # the other's
    host: int
    sent: Range
    got: Range


class Step(NamedTuple):
    """Groups join."""

    groups: int  # so many
    group: int  # this host's
    owned: Range  # what it owns then
    swaps: tuple[Swap, ...]  # in the order of hosts


@lru_cache(maxsize=64)
def steps(hosts: int, host: int) -> tuple[Step, ...]:
    """The way of one of so many hosts.

    >>> from dist_dynet.parallel.joining import steps
    >>> for step in steps(8, 0):
    ...     print(*step.owned, [(swap.host, *map(str, swap.sent)) for swap in step.swaps])
    0 1/2 [(1, '1/2', '1')]
    0 1/8 [(2, '1/8', '1/4'), (4, '1/4', '3/8'), (6, '3/8', '1/2')]
    """
    ways, low, high = [], 0, hosts
    while high - low > 1:
        ends = [low + end for end in _ends(high - low)]
        group = next(k for k in range(len(ends) - 1) if host < ends[k + 1])
        ways.append(_step(host, ends, group))
        low, high = ends[group], ends[group + 1]
    return tuple(reversed(ways))


def _step(host: int, ends: list[int], group: int) -> Step:
    before = _part(ends[group], ends[group + 1], host)
    after = _part(ends[0], ends[-1], host)
    swaps = []
    for other, (low, high) in enumerate(pairwise(ends)):
        for theirs in range(low, high) if other != group else ():
            sent = both(before, _part(ends[0], ends[-1], theirs))
            got = both(after, _part(low, high, theirs))
            if sent[0] < sent[1] or got[0] < got[1]:
                swaps.append(Swap(other, theirs, sent, got))
    return Step(len(ends) - 1, group, after, tuple(swaps))


def _ends(hosts: int) -> list[int]:
    """Where the groups that make up one of so many hosts begin, and its end."""
    groups = min(hosts, GROUPS)
    return [0, *accumulate(hosts // groups + (k < hosts % groups) for k in range(groups))]


@lru_cache(maxsize=1024)
def _places(hosts: int) -> tuple[int, ...]:
    """Which part each host of a group owns: in the order of the middles of what they owned before,
    so that it lies in that."""
    if hosts == 1:
        return (0,)
    middles = [
        (Fraction(2 * place + 1, 2 * (high - low)), low + k)
        for low, high in pairwise(_ends(hosts))
        for k, place in enumerate(_places(high - low))
    ]
    places = [0] * hosts
    for place, (_, host) in enumerate(sorted(middles)):
        places[host] = place
    return tuple(places)


def _part(low: int, high: int, host: int) -> Range:
    """What a host owns in the group of these."""
    place = _places(high - low)[host - low]
    return Fraction(place, high - low), Fraction(place + 1, high - low)


def both(a: Range, b: Range) -> Range:
    """What lies in both; where that is nothing, a range that is empty."""
    start = max(a[0], b[0])
    return start, max(start, min(a[1], b[1]))


class Cut(NamedTuple):
    """A step of an array's sum."""

    groups: int
    group: int
    owned: tuple[int, int]
    swaps: list[tuple[int, int, tuple[int, int], tuple[int, int]]]


def cuts(hosts: int, host: int, start: int, end: int) -> list[Cut]:
    """The way of a host with what lies between two places of an array.

    >>> from dist_dynet.parallel.joining import cuts
    >>> [(cut.owned, cut.swaps) for cut in cuts(3, 0, 100, 160)]
    [((100, 116), [(1, 1, (116, 132), (100, 116)), (2, 2, (132, 160), (100, 116))])]
    """
    lines = -(-(end - start) // _LINE)

    def place(range_: Range) -> tuple[int, int]:
        a, b = (min(start + lines * x.numerator // x.denominator * _LINE, end) for x in range_)
        return a, max(a, b)

    return [
        Cut(
            step.groups,
            step.group,
            place(step.owned),
            [(s.group, s.host, place(s.sent), place(s.got)) for s in step.swaps],
        )
        for step in steps(hosts, host)
    ]


class JoinedSum:
    """One sum of numbers in this way.

    Args:
        comm: where it is said.
        ranks: one of each host.
        array: what is summed, in place.
        way: of this host, through it.
        tags: of the way to the sums, and back.
        add: takes a request, and what is to be done when it is.
    """

    def __init__(
        self,
        comm: Any,
        ranks: list[int],
        array: NDArray[Any],
        way: list[Cut],
        tags: tuple[int, int],
        add: Callable[[Any, Callable[[], object] | None], None],
    ) -> None:
        self._comm, self._ranks, self._array, self._tags = comm, ranks, array, tags
        self._add, self._way = add, way
        self._at = self._left = 0
        self._came: list[NDArray[Any]] = []
        self._up()

    def _up(self) -> None:
        """Towards the sums: the present step."""
        while self._at < len(self._way):
            step = self._way[self._at]
            start, end = step.owned
            room = np.empty((step.groups, end - start), DTYPE)
            self._came = [*room]
            self._came[step.group] = self._array[start:end]
            for group, host, (a, b), (c, d) in step.swaps:
                if d > c:
                    place = self._came[group][c - start : d - start]
                    self._await(
                        self._comm.Irecv(place, self._ranks[host], self._tags[0]), self._added
                    )
                if b > a:
                    self._send(a, b, host, self._tags[0], self._added)
            if self._left:
                return
            self._at += 1
        self._down()

    def _added(self) -> None:
        self._left -= 1
        if self._left:
            return
        mine = self._came[self._way[self._at].group]
        if mine.size:
            parts = ffi.new("dn_real *[]", [pointer(part) for part in self._came])
            lib.dn_sum_arrays(len(self._came), parts, mine.size, pointer(mine))
        self._came.clear()
        self._at += 1
        self._up()

    def _down(self) -> None:
        """Back: what was sent comes summed."""
        while self._at:
            self._at -= 1
            for _, host, (a, b), (c, d) in self._way[self._at].swaps:
                if b > a:
                    place = self._array[a:b]
                    self._await(
                        self._comm.Irecv(place, self._ranks[host], self._tags[1]), self._returned
                    )
                if d > c:
                    self._send(c, d, host, self._tags[1], self._returned)
            if self._left:
                return

    def _returned(self) -> None:
        self._left -= 1
        if not self._left:
            self._down()

    def _await(self, request: Any, then: Callable[[], object]) -> None:
        self._left += 1
        self._add(request, then)

    def _send(self, start: int, end: int, host: int, tag: int, then: Callable[[], object]) -> None:
        message = self._array[start:end]
        hand_over(message.nbytes)
        self._await(self._comm.Isend(message, self._ranks[host], tag), then)
