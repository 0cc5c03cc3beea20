"""Tracks where all ranks are: the ranks of a host write it into shared memory, and one rank per
host sends it to the other hosts.

A question to all ranks costs one message per host and one reply, however many ranks there are, and
the state of a rank that hangs or has left is known all the same. The rank that speaks for its host
is the first that has written recently. Where ranks cannot share memory, each counts as a host of
its own. This module knows ranks, hosts and clocks; failures draws the conclusions.
"""

from __future__ import annotations

import pickle
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..._ffi import ffi
from .hosts import identity
from .memory import map_together
from .world import World

_SLOT, _SLOT_PER_RANK = 1 << 10, 4
"""Bytes for what a rank publishes about itself, and for the ranks it waits for."""
_HEARD, _HEARD_PER_RANK = 1 << 14, 32
"""Bytes for what a rank has received about the ranks of other hosts."""

_FRESH = 1.5
"""Seconds after which a rank that has written nothing no longer speaks for its host."""
_SETTLE = 0.3
"""Seconds that a question waits for questions of the host's other ranks: a tick of the watchdog."""
_AGAIN = 0.7
"""Seconds after which all ranks of a host are asked, if its first rank has not answered."""


_WHAT = "start of MPI"


class Whereabouts(NamedTuple):
    """What a rank's main thread does, how many seconds it has waited (0: it computes), for which
    ranks, and in which line."""

    state: str
    seconds: float
    ranks: Sequence[int]
    line: str = ""


class Board:
    """One page of shared memory per rank of a host: written by that rank, read by all."""

    _HEAD = struct.Struct("<dddII")

    def __init__(self, pages: Sequence[memoryview]) -> None:
        self._pages = pages
        self._last: list[Any] = [None] * len(pages)

    def put(self, place: int, obj: Any, times: tuple[float, float, float]) -> bool:
        """Writes a page. Returns False if the object does not fit."""
        data = zlib.compress(pickle.dumps(obj), 1)
        page, start = self._pages[place], self._HEAD.size
        if start + len(data) > len(page):
            return False
        page[start : start + len(data)] = data
        self._HEAD.pack_into(page, 0, *times, len(data), zlib.crc32(data))
        return True

    def times(self, place: int) -> tuple[float, float, float]:
        """The times on a page; 0 where nothing was written."""
        return self._HEAD.unpack_from(self._pages[place])[:3]

    def get(self, place: int) -> Any:
        """The object on a page; while the page is being written, the object that was read last."""
        page, start = self._pages[place], self._HEAD.size
        *_, length, check = self._HEAD.unpack_from(page)
        data = bytes(page[start : start + min(length, len(page))])
        if length and zlib.crc32(data) == check:
            self._last[place] = pickle.loads(zlib.decompress(data))
        return self._last[place]


def find_hosts(world: World) -> None:
    """Records in the world which ranks share a host. Collective."""
    by_host: dict[Any, list[int]] = {}
    names = world.gather(world.comm, identity(), _WHAT)
    for rank, name in enumerate(names):
        by_host.setdefault(rank if name is None else name, []).append(rank)
    world.layout, world.tells_hosts_apart = [*by_host.values()], None not in names


def boards(world: World) -> tuple[list[list[int]], Board, Board]:
    """The ranks of each host, a board for what its ranks publish, and one for what they have
    received. Collective."""
    what, me, hosts = _WHAT, world.rank, world.layout
    mine = next(ranks for ranks in hosts if me in ranks)
    sizes = [_SLOT + _SLOT_PER_RANK * world.size, _HEARD + _HEARD_PER_RANK * world.size]
    try:
        mapped = map_together(
            world, world.comm, mine, len(mine), None, lambda _: sizes if len(mine) > 1 else [], what
        )
    except OSError:  # raised on all ranks: they go on without shared memory
        hosts, mine, mapped = [[r] for r in range(world.size)], [me], []
    if not mapped:
        alone = [Board([memoryview(bytearray(size))]) for size in sizes]
        return hosts, alone[0], alone[1]
    words, heard = (
        Board([memoryview(ffi.buffer(whole))[at : at + size] for at in starts])
        for (whole, starts), size in zip(mapped, sizes, strict=True)
    )
    return hosts, words, heard


class Places:
    """Publishes where this rank is, and collects where the others are.

    Args:
        world: all ranks.
        comm: a communicator for this alone.
        hosts: the ranks of each host.
        words: the board for what this host's ranks publish about themselves.
        heard: the board for what they have received from other hosts.
        clock: seconds, the same for all ranks of a host.
    """

    def __init__(
        self,
        world: World,
        comm: Any,
        hosts: list[list[int]],
        words: Board,
        heard: Board,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._world, self._comm, self._hosts, self._clock = world, comm, hosts, clock
        self._mine = next(ranks for ranks in hosts if world.rank in ranks)
        self._me = self._mine.index(world.rank)
        self._others = [ranks for ranks in hosts if ranks is not self._mine]
        self._words, self._heard = words, heard
        self._sending = threading.Lock()
        self._sent: list[Any] = []
        # last answer of each rank of other hosts, and its time of arrival
        self._answers: dict[int, tuple[Whereabouts, float]] = {}
        self._left: dict[int, float] = {}
        self._wants = 0.0  # when this rank asked
        self._leaves = 0.0  # when this rank left
        self._asked = 0.0  # when this rank asked other hosts
        self._awaited: list[list[int]] = []  # hosts that have not answered since then
        self._told: set[int] = set()  # ranks of this host whose leaving was sent to other hosts

    # ---- what this rank publishes ------------------------------------------------------

    def say(self, here: Whereabouts) -> None:
        """Publishes where this rank is now."""
        now = self._clock()
        since = now - here.seconds if here.seconds else 0.0
        times = now, self._wants, self._leaves
        if not self._words.put(self._me, here._replace(seconds=since), times):
            self._words.put(self._me, here._replace(seconds=since, ranks=(), line=""), times)

    def ask(self) -> float:
        """Asks where all ranks are. Pass the returned time to answers_since() to get the
        answers."""
        self._wants = self._clock()
        return self._wants

    def leave(self) -> None:
        """Announces that this rank takes part in no further collective operation."""
        self._leaves = self._clock()

    # ---- messages between hosts --------------------------------------------------------

    def turn(self) -> None:
        """Handles incoming messages, and speaks for this host if it is this rank's turn."""
        self._read()
        now = self._clock()
        for place in range(self._me):
            if now - self._words.times(place)[0] < _FRESH:
                return
        self._put_question(now)
        gone = {rank for place, rank in enumerate(self._mine) if self._words.times(place)[2]}
        if gone - self._told:
            for ranks in self._others:
                self._send(ranks[0], "left", sorted(gone - self._told))
            self._told = gone

    def _put_question(self, now: float) -> None:
        wants = [self._words.times(place)[1] for place in range(len(self._mine))]
        new = [asked for asked in wants if asked > self._asked]
        if new and now - min(new) >= _SETTLE:
            self._asked, self._awaited = now, list(self._others)
            for ranks in self._awaited:
                self._send(ranks[0], "ask")
        elif self._awaited and now - self._asked >= _AGAIN:
            for rank in (rank for ranks in self._awaited for rank in ranks[1:]):
                self._send(rank, "ask")
            self._awaited = []

    def _read(self) -> None:
        status, news = self._world.mpi.Status(), False
        while self._comm.iprobe(status=status):
            source = status.Get_source()
            kind, content = self._comm.recv(source=source)
            now = self._clock()
            if kind == "ask":
                self._send(source, "answer", self._of_host(now - _FRESH))
                continue
            news = True
            if kind == "answer":
                self._answers |= {rank: (here, now) for rank, here in content.items()}
                self._awaited = [ranks for ranks in self._awaited if source not in ranks]
            else:
                self._left |= dict.fromkeys(content, now)
        if news and len(self._mine) > 1:
            now = self._clock()
            self._heard.put(self._me, (self._answers, self._left), (now, 0.0, 0.0))

    def _send(self, rank: int, kind: str, content: Any = None) -> None:
        with self._sending:
            self._sent = [request for request in self._sent if not request.Test()]
            self._sent.append(self._comm.isend((kind, content), rank))

    # ---- what is known -----------------------------------------------------------------

    def answers_since(self, asked: float) -> dict[int, Whereabouts]:
        """Where the ranks are that have reported since that time, this one included."""
        answers = dict(self._answers)
        for place in range(len(self._mine)):
            if place != self._me and self._heard.times(place)[0] >= asked:
                for rank, (here, at) in self._heard.get(place)[0].items():
                    if rank not in answers or answers[rank][1] < at:
                        answers[rank] = here, at
        late = {rank: here for rank, (here, at) in answers.items() if at >= asked}
        return dict(sorted((late | self._of_host(asked)).items()))

    def _of_host(self, after: float) -> dict[int, Whereabouts]:
        """Where the ranks of this host are that have reported since that time."""
        found, now = {}, self._clock()
        for place, rank in enumerate(self._mine):
            if self._words.times(place)[0] >= after and (here := self._words.get(place)):
                seconds = now - here.seconds if here.seconds else 0.0
                found[rank] = here._replace(seconds=seconds)
        return found

    def left(self) -> dict[int, float]:
        """The ranks that have left, and when this became known."""
        left = dict(self._left)
        for place, rank in enumerate(self._mine):
            if place != self._me and self._heard.times(place)[0]:
                left |= self._heard.get(place)[1]
            if since := self._words.times(place)[2]:
                left[rank] = since
        return left

    def finish(self, limit: float) -> None:
        """Receives the remaining messages of other hosts after all ranks have left, since MPI
        libraries complain about unreceived messages when they end. Takes at most `limit`
        seconds."""
        until = time.monotonic() + limit
        awaited = {rank for ranks in self._others for rank in ranks} if self._me == 0 else set()
        while (
            awaited
            and (awaited - self._left.keys() or len(self._told) < len(self._mine))
            and time.monotonic() < until
        ):
            self.turn()
            time.sleep(1e-3)
        self._read()
