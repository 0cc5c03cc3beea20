"""The ranks of this job as seen from one of them: starts MPI, and waits for the others.

It knows mpi4py and nothing about parameters. It never blocks inside MPI: every wait is a loop that
polls, so that a missing rank is noticed, and that yields its core after a millisecond. What happens
to the job when a rank fails is the business of failures.
"""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import socket
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ... import meter
from ..._deferred_signals import DeferSignals, run_pending_handlers
from ..._launcher import Launch
from ..._version import __version__
from ...trainers.arguments import number
from .hosts import identity
from .mpi import TIMEOUT, abandoned, import_mpi, remedy, unlink_segments
from .rank_names import FEW, format_ranks

_SPIN, _SHORTEST_NAP, _LONGEST_NAP = 1e-3, 2e-5, 1e-3
"""Seconds of waiting without sleep; after that a rank sleeps for a fiftieth of the time since the
last progress, at least 20 us and at most this long."""

_FLUSH = 0.5
"""Seconds after which a wait appears in a timeline; repeated."""

_PAUSE = 2.0
"""Seconds without a poll after which the process must have been stopped, by a batch system or
Ctrl-Z; they do not count as waiting."""

_give_way: Callable[[], object] = getattr(os, "sched_yield", lambda: None)
"""Called between two polls: with 4 ranks on 2 cores it halves the time of an exchange."""


class Place(NamedTuple):
    """What the main thread waits for, since when, and for which ranks of the job."""

    what: str
    since: float
    ranks: Sequence[int]


Locate = Callable[[Sequence[int]], dict[int, tuple[str, str]]]
"""Asks ranks of the job where they are: for each its state, and a message with its rank, process,
host, state and line."""


class _Job:
    """State that all worlds of this process share."""

    def __init__(self) -> None:
        self.size = 1
        self.place: Place | None = None
        self.locate: Locate = lambda _: {}
        self.refusal = ""  # why this process may call no collective operation at all

    def follow_fork(self) -> None:
        """In a forked child."""
        self.refusal = (
            f"process {os.getpid()}, which this rank has forked, takes no part in the job; got a"
            " collective operation. Call it in the rank itself."
        )


class _Collectives:
    """Counters and state that all views of one world share."""

    def __init__(self) -> None:
        self.count = 0
        self.trainers = 0
        self.refusal = ""  # why this rank may call none now
        self.barrier: tuple[Any, str] | None = None
        self.loans = 0
        self.lent: dict[int, Any] = {}
        self.returned: list[int] = []  # loans whose owners are gone; finalizers append


class World:
    """All ranks of the job, or some of them. With `size == 1`, `comm` is None and nothing may be
    sent."""

    def __init__(self, launch: Launch | None) -> None:
        self.rank, self.size, self.local_rank = (
            (launch.rank, launch.size, launch.local_rank) if launch else (0, 1, 0)
        )
        self.host = socket.gethostname()
        self.hosts = [self.host]  # of all ranks of the job
        self.process = os.getpid()
        self.processes = [self.process]  # of all ranks of the job
        self.timeout = TIMEOUT  # seconds that a rank waits for ranks that are alive
        self.members: Sequence[int] = range(self.size)  # for each rank here, its rank in the job
        self.layout = [[rank] for rank in range(self.size)]
        """The ranks of the job by host; a rank whose host is unknown counts as a host of its
        own."""
        self.tells_hosts_apart = True
        """Whether the hosts of all ranks of the job are known."""
        self.mpi: Any = None
        self.comm: Any = None
        self._job, self._collectives = _Job(), _Collectives()
        if launch:
            self._start(launch)

    def _start(self, launch: Launch) -> None:
        mpi = import_mpi(launch)
        if mpi.COMM_WORLD.size != launch.size:
            raise RuntimeError(
                f"dist_dynet.parallel: {launch.launcher} started {launch.size} processes, but"
                f" mpi4py ({mpi.get_vendor()[0]}) sees {mpi.COMM_WORLD.size}."
                f" {remedy(launch, mpi.get_vendor()[0])}"
            )
        self.mpi = mpi
        self.rank, self.size = mpi.COMM_WORLD.rank, mpi.COMM_WORLD.size
        self.members, self._job.size = range(self.size), self.size
        os.register_at_fork(after_in_child=self._job.follow_fork)
        self.comm, what = self.duplicate(mpi.COMM_WORLD), "start of MPI"
        self.agree(self.comm, f"dist_dynet {__version__}", what)
        unlink_segments()
        every = self.gather(self.comm, (self.host, self.process, identity()), what)
        self.hosts, self.processes, keys = map(list, zip(*every, strict=True))
        by_host: dict[Any, list[int]] = {}
        for rank, key in enumerate(keys):
            by_host.setdefault(rank if key is None else key, []).append(rank)
        self.layout, self.tells_hosts_apart = [*by_host.values()], None not in keys

    def part(self, comm: Any) -> World:
        """The ranks of this mpi4py communicator as a world of their own. Collective over them."""
        part = copy.copy(self)
        part.rank, part.size = comm.Get_rank(), comm.Get_size()
        part.members = self.places_in_job(comm)
        part._collectives = _Collectives()
        part.comm = part.duplicate(comm)
        return part

    def places_in_job(self, comm: Any) -> list[int]:
        """For each rank of this communicator its rank in the job; MPI.UNDEFINED: it has none."""
        ranks, job = list(range(comm.Get_size())), self.mpi.COMM_WORLD.Get_group()
        places: list[int] = self.mpi.Group.Translate_ranks(comm.Get_group(), ranks, job)
        return places

    def with_timeout(self, timeout: float | None) -> World:
        """The same ranks and collective operations, with a wait of at most so many seconds; None:
        unchanged.

        Raises:
            ValueError: no seconds.
        """
        if timeout is None:
            return self
        what = "DistributedTrainer: timeout, in seconds,"
        if number(timeout, what) <= 0:
            raise ValueError(f"{what} must be above 0; got {timeout}.")
        other = copy.copy(self)
        other.timeout = float(timeout)
        return other

    @property
    def host_ranks(self) -> list[list[int]]:
        """The ranks here by host, in the order of the hosts' first ranks."""
        here = {member: rank for rank, member in enumerate(self.members)}
        found = [sorted(here[r] for r in ranks if r in here) for ranks in self.layout]
        return sorted(ranks for ranks in found if ranks)

    @property
    def name(self) -> str:
        """[rank 1/4], the rank in the job, as error messages begin."""
        return f"[rank {self.members[self.rank]}/{self._job.size}]"

    @property
    def collectives(self) -> int:
        """The number of collective operations so far."""
        return self._collectives.count

    @property
    def place(self) -> Place | None:
        """What the main thread waits for; None while it computes."""
        return self._job.place

    def locate_ranks_by(self, locate: Locate) -> None:
        """Sets the function that asks ranks where they are."""
        self._job.locate = locate

    def duplicate(self, comm: Any = None, what: str = "start of MPI") -> Any:
        """A communicator for one purpose, so that its messages never mix with others.
        Collective."""
        new, request = (comm or self.comm).Idup()
        self.wait([request], what)
        return new

    def lend(self, owner: object, color: int | None = None) -> Any:
        """A communicator as duplicate() makes it, for as long as the owner lives: MPI libraries
        have about two thousand. Collective. With a color, it has only the ranks of this color.

        Only all ranks together can free a communicator. They do so here, for those whose owners are
        gone on every rank.
        """
        self.refuse_collective()
        state, what = self._collectives, f"start of {type(owner).__name__}"
        gone = [] if abandoned else [*state.returned]  # MPI may still use those
        every = self.gather(self.comm, gone, what)
        for loan in sorted(set[int](gone).intersection(*every)):
            state.returned.remove(loan)
            state.lent.pop(loan).Free()
        state.loans += 1
        comm = self.duplicate(what=what) if color is None else self.comm.Split(color, self.rank)
        state.lent[state.loans] = comm
        weakref.finalize(owner, state.returned.append, state.loans).atexit = False
        return comm

    def number_trainer(self) -> str:
        """A suffix that tells the collective operations of one more trainer from those of the
        others."""
        self._collectives.trainers += 1
        return f" of trainer {self._collectives.trainers}" if self._collectives.trainers > 1 else ""

    def collective(self, what: str) -> str:
        """Counts one more collective operation of all ranks, of this kind, and names it. The
        numbers agree as long as all ranks make the same calls.

        Raises:
            RuntimeError: this rank may call none; see refuse_collective().
        """
        return self.name_of(what, self.count_unchecked())

    def count_unchecked(self) -> int:
        """As collective(), but returns only the number: a name takes a tenth of an exchange."""
        if self._job.refusal or self._collectives.refusal:
            self.refuse_collective()
        self._collectives.count += 1
        return self._collectives.count

    def refuse_collective(self) -> None:
        """Raises a RuntimeError if this rank may call no collective operation: in a forked child,
        which the others would take for its parent; after the end of MPI; out of step; inside
        no_collectives()."""
        reason = self._job.refusal or self._collectives.refusal
        if reason:
            raise RuntimeError(f"{self.name} {reason}")

    def mark_out_of_step(self, what: str) -> None:
        """Notes that this rank has left a collective operation that the others have begun or will
        begin: its next message would be taken for one that it left out. Refuses further ones.
        """
        self._collectives.refusal = (
            f"{what} was interrupted, so that this rank is out of step with the others. Start the"
            " job again from a checkpoint."
            if what and self.size > 1
            else ""
        )

    @contextmanager
    def uninterrupted(self, what: str) -> Iterator[None]:
        """Guards a collective operation on `comm` that takes several messages: an exception that
        other ranks do not have leaves this rank out of step.

        RuntimeError and ValueError are raised by all ranks alike, so they do no harm. Signals
        interrupt only waits, which keep MPI's buffers.
        """
        with DeferSignals(self.size > 1, may_leave=lambda: True):
            self.mark_out_of_step(what)
            try:
                yield
            except (RuntimeError, ValueError):
                self.mark_out_of_step("")
                raise
            self.mark_out_of_step("")

    @contextmanager
    def no_collectives(self, what: str) -> Iterator[None]:
        """Forbids collective operations while each rank calls the program's functions on its own,
        as often as it has examples."""
        before = self._collectives.refusal
        if self.size > 1:
            self._collectives.refusal = before or (
                f"the function that {what} calls must not call collective operations, as update()"
                " is one: each rank calls it for other examples. Do that before or after"
                f" {what}."
            )
        try:
            yield
        finally:
            self._collectives.refusal = before

    def end(self) -> None:
        """Notes that MPI ends."""
        self._job.refusal = (
            "MPI.Finalize() was called, after which the ranks cannot communicate; got a call that"
            " needs MPI. Leave it out, or call it behind all that uses dist_dynet.parallel: MPI"
            " ends with the program."
        )

    def name_of(self, what: str, number: int) -> str:
        """The name of the collective operation with this kind and number."""
        whole = self.size == self._job.size
        return f"{what} (collective {number}{'' if whole else f' of {format_ranks(self.members)}'})"

    def wait(
        self,
        requests: Sequence[Any],
        what: str,
        timeout: float | None = None,
        moves: Callable[[], int] = int,
    ) -> None:
        """Polls until all requests are complete. `moves` is as in wait_until().

        Raises:
            TimeoutError: the others did not come in time; it says where they are.
        """
        test = self.mpi.Request.Testall
        try:
            self.wait_until(lambda: bool(test(requests)), what, timeout, moves)
        except BaseException:
            abandoned.extend(requests)
            raise

    def wait_until(
        self,
        done: Callable[[], bool],
        what: str,
        timeout: float | None = None,
        moves: Callable[[], int] = int,
    ) -> None:
        """Polls until done() returns True, more often as long as moves() increases: then the wait
        is for the network, not for ranks.

        Raises:
            TimeoutError: as wait().
        """
        limit = self.timeout if timeout is None else timeout
        start = moved = polled = flushed = time.perf_counter()
        seen = moves()
        self._job.place = Place(what, time.monotonic(), self.members)
        before = meter.switch(meter.NONE)
        try:
            meter.wait()
            while not done():
                run_pending_handlers()
                now, count = time.perf_counter(), moves()
                if count != seen:
                    seen, moved = count, now
                start, polled = start + pause(polled, now), now
                if now - start > limit:
                    raise TimeoutError(
                        f"{self.name} {what}: waited {limit:g} s for {self._missing(what)}."
                    )
                _give_way()
                if now - flushed > _FLUSH:  # this rank may be killed because of what it waits for
                    flushed = now
                    meter.flush()
                if now - start > _SPIN:
                    time.sleep(min(max((now - moved) / 50, _SHORTEST_NAP), _LONGEST_NAP))
        finally:
            meter.switch(before)
            self._job.place = None

    def barrier(self, timeout: float | None = None) -> None:
        """Returns when all ranks have called it. After a TimeoutError, another call continues the
        wait."""
        state = self._collectives
        if state.barrier is None:
            what = self.collective("barrier")
            state.barrier = self.comm.Ibarrier(), what
        request, what = state.barrier
        self.wait([request], what, timeout)
        state.barrier = None

    def agree(self, comm: Any, mine: str | Mapping[str, str] | None, what: str) -> None:
        """Makes sure that all ranks give the same text, or texts, each with a remedy for when it is
        the first that differs. Ranks that give None are not compared. Collective.

        Raises:
            RuntimeError: on all ranks, with what this one and the first unlike it say otherwise.
        """
        parts = {mine: ""} if isinstance(mine, str) else mine
        told = b"" if parts is None else f"={chr(0).join(parts)}".encode()
        every = [text.decode() for text in self.exchange_bytes(comm, told, what)]
        said = {rank: text[1:].split("\0") for rank, text in enumerate(every) if text}
        me = self.rank if self.rank in said else min(said, default=self.rank)
        other = next((rank for rank, theirs in said.items() if theirs != said[me]), None)
        if other is None:
            return
        here = "here" if me == self.rank else f"on rank {self.members[me]}"
        ours = [text for text in said[me] if text not in said[other]]
        theirs = [text for text in said[other] if text not in said[me]]
        to_do = (parts and ours and parts.get(ours[0])) or "Make it the same on all ranks."
        raise RuntimeError(
            f"{self.name} {what}: all ranks must agree; {', '.join(ours)} {here},"
            f" {', '.join(theirs)} on rank {self.members[other]}. {to_do}"
        )

    def exchange_bytes(self, comm: Any, mine: bytes, what: str) -> list[bytes]:
        """The byte strings of all ranks, on every rank."""
        if self.size == 1:
            return [mine]
        sizes = np.empty(self.size, np.int64)
        self.wait([comm.Iallgather(np.array([len(mine)], np.int64), sizes)], what)
        joined = np.empty(int(sizes.sum()), np.uint8)
        self.wait([comm.Iallgatherv(np.frombuffer(mine, np.uint8), (joined, sizes))], what)
        ends = np.cumsum(sizes)
        return [
            joined[end - size : end].tobytes()
            for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)
        ]

    def gather(self, comm: Any, mine: Any, what: str) -> list[Any]:
        """The objects of all ranks, on every rank."""
        return [pickle.loads(b) for b in self.exchange_bytes(comm, pickle.dumps(mine), what)]

    def _missing(self, what: str) -> str:
        """Which ranks have not arrived, and where the first of them are."""
        others = [member for member in self.members if member != self.members[self.rank]]
        answers = self._job.locate(others)
        late = [rank for rank, (state, _) in answers.items() if state != f"waits in {what}"]
        messages = [answers[rank][1] for rank in late[:FEW]]
        return "; ".join([format_ranks(late) if late else "the other ranks", *messages])


def pause(polled: float, now: float) -> float:
    """How many of the seconds between two polls this process was stopped."""
    return now - polled if now - polled > _PAUSE else 0.0


def hash_of(text: str) -> int:
    """A 64-bit hash that is the same in every process."""
    return int.from_bytes(
        hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True
    )
