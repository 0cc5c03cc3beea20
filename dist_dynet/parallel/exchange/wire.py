"""Sums an array over hosts: a reduce-scatter and an all-gather made of point-to-point messages of
MPI.

The array is cut into pieces, and each piece into one slice per host. A host sends its numbers of a
slice to the slice's owner; the owner sums them in the order of hosts and sends the sum to the
others. That is 2 (N - 1) / N of the array's bytes through each host's link, in two hops, with the
same bits on all hosts. A small piece, and any piece between two hosts, takes one hop: each host
sends all of it to each other host, and all sum it in the same order. Between two hosts this takes
no more bytes. Pieces follow one another without waiting, so that the link is never idle. If a host
has several ranks, each has a share of every slice (a *stripe*) and a counterpart on each other
host.

With many hosts each piece is summed by recursive halving (recursive_halving.py): as many bytes in
fewer messages, but more hops. Compressed messages are not, since each hop would round.

Nothing here waits: Sum.advance() does what can be done and returns. A rank sends numbers only when
its counterparts have begun, too, or are known to begin: nothing is under way to a rank that never
comes. This module knows arrays and ranks; hybrid.py knows gradients and who is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer
from ...meter import hand_over
from ..processes.mpi import take_back
from . import recursive_halving
from .compression import ErrorFeedback

PIECE = 1 << 17
"""Smallest number of elements of a piece: large enough for the full speed of the network, small
enough that sums and sending overlap. See Hosts.piece."""

_SLICE = 1 << 13
"""Number of elements that one rank sends another at a time, if there are so many: smaller messages
cost as much."""

_ALIGN = 16
_HOP = 1 << 12
"""A second hop takes as long as so many numbers at 1 Gbit/s: a piece takes one hop if that sends no
more than this in addition."""

_KEPT = 4
"""Received numbers are kept for reuse, up to so many times the size of the array."""

_BEGUN = 0
"""Tag of the message that a rank has begun. The numbers of piece k have tag 2 k + 1, its sums 2 k +
2."""


@dataclass(frozen=True)
class Hosts:
    """Which rank runs where."""

    ranks: list[list[int]]  # of each host
    host: int  # this rank's
    local: int  # this rank's position on it

    @cached_property
    def mine(self) -> list[int]:
        """The ranks of this host."""
        return self.ranks[self.host]

    @cached_property
    def stripes(self) -> int:
        """How many ranks of each host share the network: as many as the smallest host has."""
        return min(len(ranks) for ranks in self.ranks)

    @cached_property
    def piece(self) -> int:
        """Number of elements of a piece between these hosts: it grows with the number of ranks that
        have a slice of it, so that a rank sends each other one a message or two per piece."""
        return max(PIECE, len(self.ranks) * self.stripes * _SLICE)

    @cached_property
    def counterparts(self) -> list[int]:
        """The ranks that sum this rank's stripe, by host; empty if it has no stripe."""
        return [ranks[self.local] for ranks in self.ranks] if self.local < self.stripes else []


def cut(start: int, end: int, parts: int, part: int) -> tuple[int, int]:
    """One of so many nearly equal parts of a range, cut at multiples of 16 from its start.

    >>> [cut(0, 100, 3, k) for k in range(3)]
    [(0, 32), (32, 64), (64, 100)]
    """
    lines = -(-(end - start) // _ALIGN)
    at = [start + lines * k // parts * _ALIGN for k in (part, part + 1)]
    return min(at[0], end), min(at[1], end)


class Piece:
    """The part of one piece that concerns this rank: the slices of its stripe, by owner.

    Args:
        hosts: the ranks.
        number: of the piece in its sum.
        start: where it begins in the array.
        end: where it ends.
        parts: (parameter, from, to, place in the array) of what is stored there.
        taken: the same, as C functions take it.
    """

    def __init__(
        self,
        hosts: Hosts,
        number: int,
        start: int,
        end: int,
        parts: Sequence[tuple[int, int, int, int]] = (),
        taken: Any = None,
    ) -> None:
        self.number, self.parts, self.taken = number, parts, taken
        self.start, self.end = cut(start, end, hosts.stripes, hosts.local)
        owners = len(hosts.ranks)
        self.slices = [cut(self.start, self.end, owners, owner) for owner in range(owners)]
        self.halving = (
            recursive_halving.cuts(owners, hosts.host, self.start, self.end)
            if owners >= recursive_halving.FEWEST and hosts.counterparts
            else []
        )
        """How many hosts sum it, by recursive halving; empty with few hosts."""
        self.one_hop = (owners - 1) * (owners - 2) * (self.end - self.start) <= owners * _HOP


@dataclass
class _Arriving:
    """The other hosts' numbers of a slice, or of a piece, that this host sums."""

    numbers: list[NDArray[Any]]
    left: int  # number of messages that must still arrive or leave first


class HalvingSums:
    """The sums of an array's pieces by recursive halving, reused the next time.

    Args:
        comm: a communicator in which nothing else is said.
        hosts: the ranks.
        array: what is summed.
    """

    def __init__(self, comm: Any, hosts: Hosts, array: NDArray[Any]) -> None:
        self.comm, self._hosts, self.array = comm, hosts, array
        self._of: dict[Piece, recursive_halving.HalvingSum] = {}
        self._size = 0

    def of(self, piece: Piece) -> recursive_halving.HalvingSum:
        """The sum of a piece."""
        known = self._of.get(piece)
        if known is None:
            if self._size > _KEPT * self.array.size:  # each update uses different parameters
                self._of.clear()
                self._size = 0
            tags = 2 * piece.number + 1, 2 * piece.number + 2
            known = self._of[piece] = recursive_halving.HalvingSum(
                self.comm, self._hosts.counterparts, self.array, piece.halving, tags
            )
            self._size += known.size
        return known


class Sum:
    """One sum under way.

    Args:
        comm: a communicator in which nothing else is said.
        hosts: the ranks.
        array: the array, summed in place, piece by piece with begin(piece).
        compression: makes messages between hosts smaller.
        all_come: all counterparts are known to begin, so that nothing need be announced.
        halving_sums: of the array; None: they are not reused.
    """

    def __init__(
        self,
        comm: Any,
        hosts: Hosts,
        array: NDArray[Any],
        compression: ErrorFeedback | None = None,
        all_come: bool = False,
        halving_sums: HalvingSums | None = None,
    ) -> None:
        self._comm, self._hosts, self._array, self._compression = comm, hosts, array, compression
        self._halving_sums = halving_sums or HalvingSums(comm, hosts, array)
        self._halving: list[recursive_halving.HalvingSum] = []
        self._peers = [
            (host, rank) for host, rank in enumerate(hosts.counterparts) if host != hosts.host
        ]
        self._requests: list[Any] = []
        self._receives: list[bool] = []  # whether each of them receives
        self._then: list[Callable[[], object] | None] = []
        self._held: list[Piece] = []
        self.moves = 0  # increases with all that arrives and leaves
        self.met = all_come or not self._peers
        """Whether all counterparts have begun."""
        # distances between ranks that announce to one another that all between them have begun
        self._distances = [] if self.met else [1 << k for k in range(len(self._peers).bit_length())]
        if not self.met:
            self._tell()

    def begin(self, piece: Piece) -> None:
        """Sends a piece: this rank's numbers are in the array."""
        if self.met:
            self._send(piece)
        else:
            self._held.append(piece)

    def trust(self) -> None:
        """Counterparts that have not begun will do so: nothing need wait for that any more."""
        while self._distances:  # other ranks may wait for these
            self._tell(is_asked=False)
        self._let_go()

    def advance(self) -> bool:
        """Makes progress. Returns whether all that has begun is done."""
        while self._requests:
            done = type(self._requests[0]).Testsome(self._requests)
            if not done:
                break
            self.moves += len(done)
            then = [self._then[i] for i in done]
            for i in sorted(done, reverse=True):
                del self._requests[i], self._receives[i], self._then[i]
            for act in then:
                if act is not None:
                    act()
        for halving in [*self._halving]:
            before = halving.at
            if halving.advance():
                self._halving.remove(halving)
            self.moves += halving.at - before
        return not self._requests and not self._halving

    def abandon(self) -> None:
        """Abandons messages that wait for counterparts that will not begin."""
        take_back(self._requests, self._receives)
        for halving in self._halving:
            halving.abandon()
        self._requests, self._receives, self._then, self._halving = [], [], [], []

    def _receive(
        self, place: NDArray[Any], rank: int, tag: int, then: Callable[[], object] | None
    ) -> None:
        self._add(self._comm.Irecv(place, rank, tag), True, then)

    def _add(
        self, request: Any, receives: bool = False, then: Callable[[], object] | None = None
    ) -> None:
        self._requests.append(request)
        self._receives.append(receives)
        self._then.append(then)

    def _tell(self, is_asked: bool = True) -> None:
        """Announces to the next rank that this rank has begun, and all those from which it has
        heard so: twice as many in each round."""
        ranks, me, distance = self._hosts.counterparts, self._hosts.host, self._distances.pop(0)
        count = len(ranks)
        nothing = np.empty(0, np.uint8)
        self._add(self._comm.Isend(nothing, ranks[(me + distance) % count], _BEGUN))
        heard = self._heard if is_asked else None
        self._receive(nothing, ranks[(me - distance) % count], _BEGUN, heard)

    def _heard(self) -> None:
        if self.met:  # everything was announced
            return
        if self._distances:
            self._tell()
        else:
            self._let_go()

    def _let_go(self) -> None:
        self.met = True
        held, self._held = self._held, []
        for piece in held:
            self._send(piece)

    def _send(self, piece: Piece) -> None:
        if self._compression is None and piece.halving:
            halving = self._halving_sums.of(piece)
            halving.begin()
            self._halving.append(halving)
        elif piece.one_hop:
            self._send_whole(piece)
        else:
            self._send_numbers(piece)

    def _send_whole(self, piece: Piece) -> None:
        """The only hop: all numbers to every host. The sum takes their place in the array, so that
        they must have left first."""
        start, end, tag = piece.start, piece.end, 2 * piece.number + 1
        if start == end:
            return
        message = self._encoded(start, end)
        arriving = _Arriving([np.empty_like(message) for _ in self._peers], 2 * len(self._peers))
        moved = partial(self._moved, piece, message, arriving)
        for (_, rank), place in zip(self._peers, arriving.numbers, strict=True):
            self._receive(place, rank, tag, moved)
        for _, rank in self._peers:
            self._add(self._leaves(message, rank, tag), then=moved)

    def _encoded(self, start: int, end: int) -> NDArray[Any]:
        """The message for the numbers in this range."""
        if self._compression is None:
            return self._array[start:end]
        return self._compression.encode(self._array, start, end)

    def _decode(self, message: NDArray[Any], out: NDArray[Any]) -> None:
        if self._compression is not None:
            self._compression.code.decode(message, out)

    def _leaves(self, message: NDArray[Any], rank: int, tag: int) -> Any:
        hand_over(message.nbytes)
        return self._comm.Isend(message, rank, tag)

    def _moved(self, piece: Piece, message: NDArray[Any], arriving: _Arriving) -> None:
        arriving.left -= 1
        if not arriving.left:
            mine = self._array[piece.start : piece.end]
            self._decode(message, mine)  # what the others get is what this host goes on with
            self._add_up(mine, arriving.numbers)

    def _add_up(self, mine: NDArray[Any], numbers: list[NDArray[Any]]) -> None:
        """mine += the numbers of the other hosts, in the order of hosts."""
        parts = list(numbers)
        if self._compression is not None:
            parts = [np.empty_like(mine) for _ in numbers]
            for message, part in zip(numbers, parts, strict=True):
                self._decode(message, part)
        parts.insert(self._hosts.host, mine)
        lib.dn_sum_arrays(
            len(parts),
            ffi.new("dn_real *[]", [pointer(part) for part in parts]),
            mine.size,
            pointer(mine),
        )

    def _send_numbers(self, piece: Piece) -> None:
        """The first of two hops: each slice to its owner."""
        tag, (start, end) = 2 * piece.number + 1, piece.slices[self._hosts.host]
        if end > start:
            code = self._compression.code if self._compression else None
            size = end - start
            arriving = _Arriving(
                [code.empty(size) if code else np.empty(size, DTYPE) for _ in self._peers],
                len(self._peers),
            )
            for (_, rank), place in zip(self._peers, arriving.numbers, strict=True):
                self._receive(place, rank, tag, partial(self._came, piece, arriving))
        for host, rank in self._peers:
            a, b = piece.slices[host]
            if b > a:
                message = self._encoded(a, b)
                # the sum replaces the numbers that have left
                self._add(
                    self._leaves(message, rank, tag),
                    then=partial(self._await_sum, message, self._array[a:b], rank, tag + 1),
                )

    def _came(self, piece: Piece, arriving: _Arriving) -> None:
        arriving.left -= 1
        if not arriving.left:
            self._send_sum(piece, arriving.numbers)

    def _send_sum(self, piece: Piece, numbers: list[NDArray[Any]]) -> None:
        """The second hop: the sum of the slice that this host owns, to all others."""
        start, end = piece.slices[self._hosts.host]
        mine = self._array[start:end]
        self._add_up(mine, numbers)
        message = self._encoded(start, end)
        self._decode(message, mine)  # what the others get is what this host goes on with
        for _, rank in self._peers:
            self._add(self._leaves(message, rank, 2 * piece.number + 2))

    def _await_sum(self, message: NDArray[Any], out: NDArray[Any], rank: int, tag: int) -> None:
        then = None if self._compression is None else partial(self._decode, message, out)
        self._receive(message, rank, tag, then)
