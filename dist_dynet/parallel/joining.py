"""Sums over many hosts in a number of messages that grows with the logarithm of theirs.

In a group of hosts each owns one part of what is summed, and has the group's sum of it: alone it
owns all. When some groups join, each host sends those of the other groups what they will own of its
part, adds up what it gets of its own, and owns a smaller part then. When all have joined, each of n
hosts owns an n-th of the sum, and has sent (n - 1) / n of the numbers; the same steps backwards
give the sums to all. Of each other group a host speaks with one host, or with two where the groups
are unlike.

Which numbers are added up in which order follows from the hosts alone, and not from who owns what:
however an array is cut, the sum has the same bits. This module knows who sends which part to whom;
wire.py and rows.py know what it is a part of.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, pointer
from ..meter import hand_over
from ._mpi import take_back

GROUPS = 4
"""So many join at a time, if nothing else is said: of two there would be twice as many steps, of
eight more messages."""

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
def steps(hosts: int, host: int, most: int = GROUPS) -> tuple[Step, ...]:
    """The way of one of so many hosts; most: how many groups join at a time.

    >>> from dist_dynet.parallel.joining import steps
    >>> for step in steps(8, 0):
    ...     print(*step.owned, [(swap.host, *map(str, swap.sent)) for swap in step.swaps])
    0 1/2 [(1, '1/2', '1')]
    0 1/8 [(2, '1/8', '1/4'), (4, '1/4', '3/8'), (6, '3/8', '1/2')]
    """
    ways, low, high = [], 0, hosts
    while high - low > 1:
        ends = [low + end for end in _ends(high - low, most)]
        group = next(k for k in range(len(ends) - 1) if host < ends[k + 1])
        ways.append(_step(host, ends, group, most))
        low, high = ends[group], ends[group + 1]
    return tuple(reversed(ways))


def _step(host: int, ends: list[int], group: int, most: int) -> Step:
    before = _part(ends[group], ends[group + 1], host, most)
    after = _part(ends[0], ends[-1], host, most)
    swaps = []
    for other, (low, high) in enumerate(pairwise(ends)):
        for theirs in range(low, high) if other != group else ():
            sent = both(before, _part(ends[0], ends[-1], theirs, most))
            got = both(after, _part(low, high, theirs, most))
            if sent[0] < sent[1] or got[0] < got[1]:
                swaps.append(Swap(other, theirs, sent, got))
    return Step(len(ends) - 1, group, after, tuple(swaps))


def _ends(hosts: int, most: int) -> list[int]:
    """Where the groups that make up one of so many hosts begin, and its end."""
    groups = min(hosts, most)
    return [0, *accumulate(hosts // groups + (k < hosts % groups) for k in range(groups))]


@lru_cache(maxsize=1024)
def _places(hosts: int, most: int) -> tuple[int, ...]:
    """Which part each host of a group owns: in the order of the middles of what they owned before,
    so that it lies in that."""
    if hosts == 1:
        return (0,)
    middles = [
        (Fraction(2 * place + 1, 2 * (high - low)), low + k)
        for low, high in pairwise(_ends(hosts, most))
        for k, place in enumerate(_places(high - low, most))
    ]
    places = [0] * hosts
    for place, (_, host) in enumerate(sorted(middles)):
        places[host] = place
    return tuple(places)


def _part(low: int, high: int, host: int, most: int) -> Range:
    """What a host owns in the group of these."""
    place = _places(high - low, most)[host - low]
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


class _Stage:
    """What a host sends and receives at a time, and what it adds up then."""

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.received: list[tuple[NDArray[Any], int]] = []
        self.sent: list[tuple[NDArray[Any], int]] = []
        self.parts: list[NDArray[Any]] = []
        self.mine = np.empty(0, DTYPE)
        """Their sum, which is one of them."""

    def end(self) -> None:
        """All has come, and left."""
        if self.mine.size:
            lib.dn_sum_arrays(len(self.parts), self._c, self.mine.size, self._out)

    @cached_property
    def bytes(self) -> int:
        """How many are sent."""
        return sum(message.nbytes for message, _ in self.sent)

    @cached_property
    def _c(self) -> Any:
        return ffi.new("dn_real *[]", [pointer(part) for part in self.parts])

    @cached_property
    def _out(self) -> Any:
        return pointer(self.mine)


class JoinedSum:
    """The sum of some numbers of an array in this way, in place; once it has ended it may begin
    again.

    Args:
        comm: where it is said.
        ranks: one of each host.
        array: where the numbers lie.
        way: of this host, through them.
        tags: of the way to the sums, and back.
    """

    def __init__(
        self,
        comm: Any,
        ranks: list[int],
        array: NDArray[Any],
        way: list[Cut],
        tags: tuple[int, int],
    ) -> None:
        self._comm, self._requests = comm, list[Any]()
        self._stages = [_up(step, ranks, array, tags[0]) for step in way]
        self._stages += [_back(step, ranks, array, tags[1]) for step in reversed(way)]
        self.at = 0  # which stage is under way
        self.size = sum(part.size for stage in self._stages for part in stage.parts)

    def begin(self) -> None:
        """The numbers of this rank are there."""
        self.at = 0
        self._go()

    def advance(self) -> bool:
        """Whether the sums are there."""
        while self.at < len(self._stages):
            if not type(self._requests[0]).Testall(self._requests):
                return False
            self._stages[self.at].end()
            self.at += 1
            self._go()
        return True

    def abandon(self) -> None:
        """Takes back what is under way."""
        received = len(self._stages[self.at].received) if self._requests else 0
        take_back(self._requests, [k < received for k in range(len(self._requests))])
        self._requests = []

    def _go(self) -> None:
        """What is next, if there is anything to be sent."""
        for stage in self._stages[self.at :]:
            if stage.received or stage.sent:
                break
            self.at += 1
        else:
            self._requests = []
            return
        comm, tag = self._comm, stage.tag
        self._requests = [comm.Irecv(place, rank, tag) for place, rank in stage.received]
        hand_over(stage.bytes)
        self._requests += [comm.Isend(message, rank, tag) for message, rank in stage.sent]


def _up(step: Cut, ranks: list[int], array: NDArray[Any], tag: int) -> _Stage:
    """Towards the sums."""
    stage, (start, end) = _Stage(tag), step.owned
    stage.parts = [*np.empty((step.groups, end - start), DTYPE)]
    stage.mine = stage.parts[step.group] = array[start:end]
    for group, host, (a, b), (c, d) in step.swaps:
        if d > c:
            stage.received.append((stage.parts[group][c - start : d - start], ranks[host]))
        if b > a:
            stage.sent.append((array[a:b], ranks[host]))
    return stage


def _back(step: Cut, ranks: list[int], array: NDArray[Any], tag: int) -> _Stage:
    """What was sent comes summed."""
    stage = _Stage(tag)
    for _, host, (a, b), (c, d) in step.swaps:
        if b > a:
            stage.received.append((array[a:b], ranks[host]))
        if d > c:
            stage.sent.append((array[c:d], ranks[host]))
    return stage
