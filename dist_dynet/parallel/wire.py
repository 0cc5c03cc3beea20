"""The sum of an array over hosts: reduce-scatter and all-gather out of MPI's messages from one rank
to another.

The array is cut into pieces, each piece into one slice for each host. A host sends its numbers of a
slice to the slice's owner; the owner adds them up in the order of hosts and sends the sum to the
others. That is 2 (N - 1) / N of the array's bytes through each host's link, in two hops, and the
same bits on all hosts. A piece that is small, and any piece between two hosts, goes in one hop:
each host sends all of it to each other, and all add it up, in the same order. Between two hosts
that is not a byte more. Pieces follow one another without waiting, so that the link is never idle.
Where a host has several ranks, each has its share of every slice (a *stripe*) and its counterpart
on the other hosts.

Between many hosts each piece goes as joining.py says: as many bytes in fewer messages, but more
hops. Where messages are compressed it does not: each hop would round.

Nothing here waits: Sum.advance() does what can be done and returns. A rank that has begun sends
numbers only when its counterparts have begun, too, or are known to come: so nothing is under way to
a rank that never comes. It knows arrays and ranks; gradients and who is ready are hybrid.py's
business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, pointer
from ..meter import hand_over
from . import joining
from ._mpi import take_back
from .compression import ErrorFeedback

PIECE = 1 << 17
"""Numbers of a piece, at least: large enough for the wire's full speed, small enough that sums and
sending overlap. See Hosts.piece."""

_SLICE = 1 << 13
"""Numbers that one rank sends another at a time, if there are so many: of smaller messages each
costs as much."""

_LINE = 16
_HOP = 1 << 12
"""A second hop takes as long as so many numbers need at 1 Gbit/s: a piece goes in one hop if that
is not more in addition."""

_KEPT = 4
"""Times as many numbers as an array has are kept of what comes of others."""

_BEGUN = 0
"""Tag of the message that says that a rank has begun. Piece k's numbers have tag 2 k + 1, its sums
2 k + 2."""


@dataclass(frozen=True)
class Hosts:
    """Which rank runs where."""

    ranks: list[list[int]]  # of each host
    host: int  # this rank's
    local: int  # this rank's place on it

    @cached_property
    def mine(self) -> list[int]:
        """The ranks of this host."""
        return self.ranks[self.host]

    @cached_property
    def stripes(self) -> int:
        """How many ranks of each host share the wire: as many as the host with the fewest has."""
        return min(len(ranks) for ranks in self.ranks)

    @cached_property
    def piece(self) -> int:
        """Numbers of a piece between these hosts: it grows with the number of those who each have a
        slice of it, so that a rank sends each other one a message or two for each piece."""
        return max(PIECE, len(self.ranks) * self.stripes * _SLICE)

    @cached_property
    def counterparts(self) -> list[int]:
        """The ranks that sum this rank's stripe, by host; none where it has no stripe."""
        return [ranks[self.local] for ranks in self.ranks] if self.local < self.stripes else []


def cut(start: int, end: int, parts: int, part: int) -> tuple[int, int]:
    """One of so many about equal parts of a range, cut at multiples of 16 from its start.

    >>> [cut(0, 100, 3, k) for k in range(3)]
    [(0, 32), (32, 64), (64, 100)]
    """
    lines = -(-(end - start) // _LINE)
    at = [start + lines * k // parts * _LINE for k in (part, part + 1)]
    return min(at[0], end), min(at[1], end)


class Piece:
    """What this rank does of one piece: the slices of its stripe, by owner.

    Args:
        hosts: the ranks.
        number: of the piece in its sum.
        start: where it begins in the array.
        end: where it ends.
        parts: (parameter, from, to, place in the array) of what is put there.
        taken: the same, as C takes it.
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
        self.joined = (
            joining.cuts(owners, hosts.host, self.start, self.end)
            if owners >= joining.FEWEST and hosts.counterparts
            else []
        )
        """How many hosts sum it."""
        self.one_hop = (owners - 1) * (owners - 2) * (self.end - self.start) <= owners * _HOP


@dataclass
class _Arriving:
    """The other hosts' numbers of a slice, or of a piece, that this host adds up."""

    numbers: list[NDArray[Any]]
    left: int  # so many messages must yet come, or leave, before that


class JoinedSums:
    """The sums of an array's pieces as joining.py says, which stay for the next time.

    Args:
        comm: a communicator in which nothing else is said.
        hosts: the ranks.
        array: what is summed.
    """

    def __init__(self, comm: Any, hosts: Hosts, array: NDArray[Any]) -> None:
        self.comm, self._hosts, self.array = comm, hosts, array
        self._of: dict[Piece, joining.JoinedSum] = {}
        self._size = 0

    def of(self, piece: Piece) -> joining.JoinedSum:
        """That of a piece."""
        known = self._of.get(piece)
        if known is None:
            if self._size > _KEPT * self.array.size:  # other parameters are used each time
                self._of.clear()
                self._size = 0
            tags = 2 * piece.number + 1, 2 * piece.number + 2
            known = self._of[piece] = joining.JoinedSum(
                self.comm, self._hosts.counterparts, self.array, piece.joined, tags
            )
            self._size += known.size
        return known


class Sum:
    """One sum under way.

    Args:
        comm: a communicator in which nothing else is said.
        hosts: the ranks.
        array: what is summed, in place, piece by piece.
        pieces: what is sent of it, the same on all hosts; begin(piece) lets one go.
        compression: makes what crosses the wire smaller.
        all_come: all counterparts are known to begin, so that nothing need be asked.
        joined: of the array; None: they do not stay.
    """

    def __init__(
        self,
        comm: Any,
        hosts: Hosts,
        array: NDArray[Any],
        compression: ErrorFeedback | None = None,
        all_come: bool = False,
        joined: JoinedSums | None = None,
    ) -> None:
        self._comm, self._hosts, self._array, self._compression = comm, hosts, array, compression
        self._joined = joined or JoinedSums(comm, hosts, array)
        self._joining: list[joining.JoinedSum] = []
        self._peers = [
            (host, rank) for host, rank in enumerate(hosts.counterparts) if host != hosts.host
        ]
        self._requests: list[Any] = []
        self._receives: list[bool] = []  # whether each of them does
        self._then: list[Callable[[], object] | None] = []
        self._held: list[Piece] = []
        self.moves = 0  # rises with all that comes and goes
        self._met = all_come or not self._peers
        # how far the ranks lie apart that tell one another that all between them have begun
        self._distances = (
            [] if self._met else [1 << k for k in range(len(self._peers).bit_length())]
        )
        if not self._met:
            self._tell()

    def begin(self, piece: Piece) -> None:
        """Lets a piece go: this rank's numbers of it are in the array."""
        if self._met:
            self._send(piece)
        else:
            self._held.append(piece)

    def trust(self) -> None:
        """Counterparts that have not begun will: nothing need wait for that any more."""
        while self._distances:  # others may wait for these
            self._tell(is_asked=False)
        self._let_go()

    def advance(self) -> bool:
        """Whether all that has begun is done."""
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
        for joined in [*self._joining]:
            before = joined.at
            if joined.advance():
                self._joining.remove(joined)
            self.moves += joined.at - before
        return not self._requests and not self._joining

    @property
    def met(self) -> bool:
        """Whether all counterparts have begun."""
        return self._met

    def abandon(self) -> None:
        """Takes back what waits for counterparts that will not come."""
        take_back(self._requests, self._receives)
        for joined in self._joining:
            joined.abandon()
        self._requests, self._receives, self._then, self._joining = [], [], [], []

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
        """Tells the next one that this rank has begun, and all from which it has heard so: in each
        round twice as many."""
        ranks, me, distance = self._hosts.counterparts, self._hosts.host, self._distances.pop(0)
        count = len(ranks)
        nothing = np.empty(0, np.uint8)
        self._add(self._comm.Isend(nothing, ranks[(me + distance) % count], _BEGUN))
        heard = self._heard if is_asked else None
        self._receive(nothing, ranks[(me - distance) % count], _BEGUN, heard)

    def _heard(self) -> None:
        if self._met:  # and all was told
            return
        if self._distances:
            self._tell()
        else:
            self._let_go()

    def _let_go(self) -> None:
        self._met = True
        held, self._held = self._held, []
        for piece in held:
            self._send(piece)

    def _send(self, piece: Piece) -> None:
        if self._compression is None and piece.joined:
            joined = self._joined.of(piece)
            joined.begin()
            self._joining.append(joined)
        elif piece.one_hop:
            self._send_whole(piece)
        else:
            self._send_numbers(piece)

    def _send_whole(self, piece: Piece) -> None:
        """The only hop: all numbers to everybody. The sum takes their place, so that they must have
        left."""
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
        """What is sent of the numbers in this range."""
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
        """mine += those of the other hosts, in the order of hosts."""
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
                # the sum comes to the place from which the numbers leave
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
