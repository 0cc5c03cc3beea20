"""Messages between the ranks of several hosts: within a host through shared memory, between hosts
as small messages of the first ranks, in one round for each quadrupling of their number.

A rank's message has an entry for each parameter. In the steady state only a summary over all ranks
is needed: which parameters anybody uses, the sum of weights, the flags of any and of all, and
whether the rest is the same everywhere. That is a few hundred bytes, combined by bitwise "or", so
that the order does not matter, nor whether something is combined twice. Where the rest differs, or
a rank has run out of data, each rank's full message goes to all, as MpiTransport sends it, to find
out which rank differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import NULL, ffi, lib
from ..agreement.message import Flag, MessageLayout
from ..agreement.negotiation import MpiTransport, Summary
from ..agreement.structure import Structure
from ..processes.memory import map_together
from ..processes.world import World
from .plan import check
from .recursive_halving import GROUPS
from .wire import Hosts

_TAG = (1 << 14) + 16
"""Tag of the first round of or_reduce(); rows.py uses others."""

_FLAG_BYTES = 64
"""Bytes for the counter of summaries that the host's first rank has published."""


def or_reduce(
    here: World,
    comm: Any,
    ranks: list[int],
    mine: NDArray[np.uint8],
    what: str,
    moves: Callable[[], int] = int,
) -> None:
    """The bitwise "or" of these ranks' bytes, in place: in round k each sends to those 1, 2 and 3
    times 4^k places on. A message waits for what its host has sent before, so that few rounds
    matter more than few messages. Collective over these ranks."""
    me, count, step = ranks.index(here.rank), len(ranks), 1
    while step < count:
        ways = range(step, min(GROUPS * step, count), step)
        theirs = np.empty((len(ways), len(mine)), mine.dtype)
        # `mine` must not change until the sends have completed
        requests = [
            comm.Irecv(of_one, ranks[(me - way) % count], _TAG + step)
            for of_one, way in zip(theirs, ways, strict=True)
        ]
        requests += [comm.Isend(mine, ranks[(me + way) % count], _TAG + step) for way in ways]
        here.wait(requests, what, moves=moves)
        for of_one in theirs:
            mine |= of_one
        step *= GROUPS


class HostTransport:
    """Messages to the ranks of all hosts. Without shared memory it uses MPI alone.

    Args:
        here: the ranks.
        comm: their communicator.
        first_comm: another one, in which nothing else is sent with these tags.
        hosts: which rank runs where.
        moves: as for World.wait_until().
    """

    def __init__(
        self,
        here: World,
        comm: Any,
        first_comm: Any,
        hosts: Hosts,
        moves: Callable[[], int],
    ) -> None:
        self._here, self._comm, self._first_comm = here, comm, first_comm
        self._hosts, self._moves = hosts, moves
        self._by_mpi = MpiTransport(here, comm, moves)
        self.structure: Structure | None = None
        """For messages about it a summary is enough; the same on all ranks."""
        self.refused = False  # there is no shared memory
        self._capacity = 0  # bytes of the longest message
        self._c: Any = None
        self._memory: Any = None
        self._flag: Any = None
        self._told: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._count = 0  # number of summaries so far

    def send(
        self,
        layout: MessageLayout,
        message: Any,
        average: bool,
        plannable: bool,
        name: Callable[[], str],
        follow_up: Any = None,
    ) -> bool | Summary:
        """As Transport.send."""
        if layout.structure is self.structure and self._has_room(layout, name):
            summary = self._summary(layout, message, name)
            if summary is not None and plannable:
                return summary
        return self._by_mpi.send(layout, message, average, plannable, name)

    def received(self, layout: MessageLayout) -> NDArray[Any]:
        """As Transport.received."""
        return self._by_mpi.received(layout)

    def meters(self) -> NDArray[Any]:
        """As Transport.meters."""
        return self._by_mpi.meters()

    # ---- one summary -------------------------------------------------------------------

    def _summary(
        self, layout: MessageLayout, message: Any, name: Callable[[], str]
    ) -> Summary | None:
        """The summary of all messages; None: the ranks need the full messages. The same on all
        ranks. Collective."""
        every = self._of_host(layout, message, name)
        self._count += 1
        if every is not None:
            told = _encoded(layout, every, self._hosts)
            firsts = [ranks[0] for ranks in self._hosts.ranks]
            or_reduce(self._here, self._first_comm, firsts, told, name(), self._moves)
            if self._flag is not None:
                self._told[: len(told)] = told
                lib.dn_flag_set(self._flag, self._count)
            return _decoded(layout, told, self._hosts)
        self._wait(lambda: lib.dn_flag_get(self._flag) >= self._count, name)
        return _decoded(layout, self._told[: _size(layout, self._hosts)], self._hosts)

    def _of_host(
        self, layout: MessageLayout, message: Any, name: Callable[[], str]
    ) -> NDArray[Any] | None:
        """The messages of this host's ranks, on its first rank; None on the others. Collective over
        them."""
        size, members = layout.size, layout.members
        if self._c is None:
            mine = np.empty(size, np.uint8)
            lib.dn_rank_message_write(message, members, ffi.from_buffer(mine))
            return mine.view(layout.dtype)
        while (
            outcome := lib.dn_shm_comm_negotiate(self._c, message, members, NULL, False, 0)
        ) == lib.DN_SHM_COMM_WAITS:
            self._wait(lambda: lib.dn_shm_comm_received(self._c, 0), name)
        if outcome < 0:
            check(outcome)
        if self._hosts.local:
            return None
        said = b"".join(
            ffi.buffer(lib.dn_shm_comm_message(self._c, local), size)[:]
            for local in range(len(self._hosts.mine))
        )
        return np.frombuffer(said, layout.dtype)

    def _wait(self, done: Callable[[], bool], name: Callable[[], str]) -> None:
        if not done():
            self._here.wait_until(done, name(), moves=self._moves)

    # ---- memory ------------------------------------------------------------------------

    def _has_room(self, layout: MessageLayout, name: Callable[[], str]) -> bool:
        """Whether there is memory for such messages. Collective."""
        told = _size(layout, self._hosts)
        if self.refused or max(layout.size, told) <= self._capacity:
            return not self.refused
        here, host, capacity = self._here, self._hosts.mine, 2 * max(layout.size, told)
        share = -(-lib.dn_shm_comm_bytes(len(host), capacity) // len(host))
        sizes = [share, _FLAG_BYTES + capacity] if len(host) > 1 else []
        try:
            mapped = map_together(here, self._comm, host, len(host), None, lambda _: sizes, name())
        except OSError:  # the gradients' memory fails, too, which is reported there
            self.refused = True
            return False
        if mapped:
            (whole, starts), (_, (at, *_)) = mapped
            comm = lib.dn_shm_comm_new(len(host), self._hosts.local, whole + starts[0], capacity)
            if comm == NULL:
                raise MemoryError("gradient exchange: out of memory")
            self._c, self._memory = ffi.gc(comm, lib.dn_shm_comm_free), whole
            self._flag = ffi.cast("int64_t *", whole + at)
            self._told = np.frombuffer(ffi.buffer(whole), np.uint8, capacity, at + _FLAG_BYTES)
        self._capacity, self._count = capacity, 0
        return True


# ---- summaries -----------------------------------------------------------------------------

_MARKS = 4
"""Number of leading 64-bit words: the hash of what must be equal, its complement, the flags, their
complement. Then follow one word per host, its sum of weights, and one bit per dense parameter."""


def _size(layout: MessageLayout, hosts: Hosts) -> int:
    return 8 * (_MARKS + len(hosts.ranks)) + -(-len(layout.structure.dense) // 8)


def _encoded(layout: MessageLayout, every: NDArray[Any], hosts: Hosts) -> NDArray[np.uint8]:
    """The summary of a host's messages."""
    told = np.zeros(_size(layout, hosts), np.uint8)
    numbers = told[: 8 * (_MARKS + len(hosts.ranks))].view(np.uint64)
    said = every.view(np.uint8).reshape(len(every), -1)[:, layout.alike].copy()
    said[:, layout.flags] = 0
    first = said[0].tobytes()
    marks = {first} if (said == said[0]).all() else {first, *(one.tobytes() for one in said)}
    for mark in marks:
        number = np.frombuffer(hashlib.blake2b(mark, digest_size=8).digest(), np.uint64)[0]
        numbers[0] |= number
        numbers[1] |= ~number
    flags = every["flags"].view(np.uint64)
    numbers[2] = np.bitwise_or.reduce(flags)
    numbers[3] = np.bitwise_or.reduce(~flags)
    numbers[_MARKS + hosts.host : _MARKS + hosts.host + 1].view(np.float64)[0] = sum(
        every["weight"].tolist()
    )
    used = np.packbits(np.logical_or.reduce(every["filled"]))
    told[len(told) - len(used) :] = used
    return told


def _decoded(layout: MessageLayout, told: NDArray[np.uint8], hosts: Hosts) -> Summary | None:
    """The summary of all hosts; None: ranks differ in what must be equal, or a flag requires all
    ranks to read all messages."""
    dense, words = len(layout.structure.dense), told[: 8 * (_MARKS + len(hosts.ranks))]
    same, different, of_any, not_of_all = words[: 8 * _MARKS].view(np.int64).tolist()
    of_all = ~not_of_all
    if same & different or of_any & Flag.UNPLANNED or (of_any ^ of_all) & Flag.WEIGHED:
        return None
    weights = words[8 * _MARKS :].view(np.float64).tolist()
    used = np.unpackbits(told[len(words) :], count=dense).astype(bool)
    return Summary(used, sum(weights), of_any, of_all)
