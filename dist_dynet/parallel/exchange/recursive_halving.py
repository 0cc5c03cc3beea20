"""Sums over many hosts by recursive halving and doubling: a reduce-scatter, then an all-gather, in
a number of messages that grows with the logarithm of the number of hosts.

In a group of hosts each host owns one part of the array, of which it has the group's sum; a host
alone owns everything. When groups merge, each host sends to hosts of the other groups those numbers
of its part that they will own, sums what it receives for its own new part, and from then on owns a
smaller part. When all have merged, each of n hosts owns an n-th of the sum, and has sent (n - 1) /
n of the numbers. The same steps in reverse distribute the sums. In each other group a host
communicates with one host, or with two if the groups differ in size.

The order of summation depends only on the hosts, not on who owns what: however an array is cut, the
sum has the same bits. This module knows who sends which part to whom; wire.py and rows.py know what
is summed.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer
from ...meter import hand_over
from ..processes.mpi import take_back

GROUPS = 4
"""Number of groups that merge at a time by default: two would take twice as many steps, eight more
messages."""

FEWEST = 8
"""From so many hosts on this takes fewer messages than sending from each host to each."""

_ALIGN = 16

Range = tuple[Fraction, Fraction]


class Swap(NamedTuple):
    """What a host sends to another one and receives from it, as ranges of the whole."""

    group: int  # of the other host
    host: int
    sent: Range
    got: Range


class Step(NamedTuple):
    """A merge of groups."""

    groups: int  # how many merge
    group: int  # of this host
    owned: Range  # what this host owns afterwards
    swaps: tuple[Swap, ...]  # in the order of hosts


@lru_cache(maxsize=64)
def steps(hosts: int, host: int, most: int = GROUPS) -> tuple[Step, ...]:
    """The steps of one of so many hosts; most: how many groups merge at a time.

    >>> from dist_dynet.parallel.exchange.recursive_halving import steps
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
    """Where the groups of so many hosts begin, and the end of the last one."""
    groups = min(hosts, most)
    return [0, *accumulate(hosts // groups + (k < hosts % groups) for k in range(groups))]


@lru_cache(maxsize=1024)
def _places(hosts: int, most: int) -> tuple[int, ...]:
    """Which part each host of a merged group owns: in the order of the middles of the parts that
    they owned before, so that each new part lies within the old one."""
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
    """What a host owns in the group of the hosts from low to high."""
    place = _places(high - low, most)[host - low]
    return Fraction(place, high - low), Fraction(place + 1, high - low)


def both(a: Range, b: Range) -> Range:
    """The intersection of two ranges; an empty range if there is none."""
    start = max(a[0], b[0])
    return start, max(start, min(a[1], b[1]))


class Cut(NamedTuple):
    """A step, with ranges of an array."""

    groups: int
    group: int
    owned: tuple[int, int]
    swaps: list[tuple[int, int, tuple[int, int], tuple[int, int]]]


def cuts(hosts: int, host: int, start: int, end: int) -> list[Cut]:
    """The steps of a host for the array elements from start to end.

    >>> from dist_dynet.parallel.exchange.recursive_halving import cuts
    >>> [(cut.owned, cut.swaps) for cut in cuts(3, 0, 100, 160)]
    [((100, 116), [(1, 1, (116, 132), (100, 116)), (2, 2, (132, 160), (100, 116))])]
    """
    lines = -(-(end - start) // _ALIGN)

    def place(range_: Range) -> tuple[int, int]:
        a, b = (min(start + lines * x.numerator // x.denominator * _ALIGN, end) for x in range_)
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
    """Messages that are sent and received at a time, and the sum made of them."""

    def __init__(self, tag: int) -> None:
        self.tag = tag
        self.received: list[tuple[NDArray[Any], int]] = []
        self.sent: list[tuple[NDArray[Any], int]] = []
        self.parts: list[NDArray[Any]] = []
        self.mine = np.empty(0, DTYPE)
        """Their sum, which is stored in one of them."""

    def end(self) -> None:
        """Called when all messages have arrived and left."""
        if self.mine.size:
            lib.dn_sum_arrays(len(self.parts), self._c, self.mine.size, self._out)

    @cached_property
    def bytes(self) -> int:
        """Number of bytes that are sent."""
        return sum(message.nbytes for message, _ in self.sent)

    @cached_property
    def _c(self) -> Any:
        return ffi.new("dn_real *[]", [pointer(part) for part in self.parts])

    @cached_property
    def _out(self) -> Any:
        return pointer(self.mine)


class HalvingSum:
    """The sum of part of an array over hosts, in place. It can be used again after it has ended.

    Args:
        comm: the communicator.
        ranks: one of each host.
        array: the numbers.
        way: the steps of this host.
        tags: for summing, and for distributing the sums.
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
        self.at = 0  # the present stage
        self.size = sum(part.size for stage in self._stages for part in stage.parts)

    def begin(self) -> None:
        """Starts; the numbers of this rank are in the array."""
        self.at = 0
        self._go()

    def advance(self) -> bool:
        """Makes progress. Returns whether the sums are there."""
        while self.at < len(self._stages):
            if not type(self._requests[0]).Testall(self._requests):
                return False
            self._stages[self.at].end()
            self.at += 1
            self._go()
        return True

    def abandon(self) -> None:
        """Abandons the requests under way."""
        received = len(self._stages[self.at].received) if self._requests else 0
        take_back(self._requests, [k < received for k in range(len(self._requests))])
        self._requests = []

    def _go(self) -> None:
        """Starts the next stage that has messages."""
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
    """A stage of the reduce-scatter."""
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
    """A stage of the all-gather: what was sent comes back summed."""
    stage = _Stage(tag)
    for _, host, (a, b), (c, d) in step.swaps:
        if b > a:
            stage.received.append((array[a:b], ranks[host]))
        if d > c:
            stage.sent.append((array[c:d], ranks[host]))
    return stage
