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
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from ... import meter
from ..._deferred_signals import DeferSignals, run_pending_handlers
from ..._launcher import Launch
from ..._version import __version__
from ...trainers.arguments import number
from .mpi import TIMEOUT, abandoned, import_mpi, remedy, unlink_segments
from .rank_names import FEW, format_ranks
from .user_line import user_line

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


class Answer(NamedTuple):
    """Where another rank is: its state, and a message with its rank, process, host and line."""

    state: str
    message: str


class _Job:
    """State that all worlds of this process share."""

    def __init__(self) -> None:
        self.size = 1
        self.place: Place | None = None
        self.locate: Callable[[], dict[int, Answer]] = dict
        self.is_forked = self.is_over = False

    def begins(self) -> None:
        """Notes that there are other ranks from now on."""
        os.register_at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        self.is_forked = True


class _Collectives:
    """Counters and state that all views of one world share."""

    def __init__(self) -> None:
        self.count = 0
        self.trainers = 0
        self.loans = 0
        self.checks = False
        self.interrupted = ""  # the collective operation that this rank began and did not end
        self.forbidden_in = ""  # the operation in which each rank computes on its own now
        self.barrier: tuple[Any, str] | None = None
        self.lent: dict[int, Any] = {}
        self.returned: SimpleQueue[int] = SimpleQueue()  # filled by finalizers
        self.gone: set[int] = set()


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
        self._job.begins()
        self.comm = self.duplicate(mpi.COMM_WORLD)
        self.agree(self.comm, f"dist_dynet {__version__}", "start of MPI")
        unlink_segments()

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

    def locate_ranks_by(self, locate: Callable[[], dict[int, Answer]]) -> None:
        """Sets the function that asks all ranks of the job where they are."""
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
        self._refuse_out_of_step()
        self.refuse_collective()
        collectives_made = self._collectives
        with suppress(Empty):
            while True:
                collectives_made.gone.add(collectives_made.returned.get_nowait())
        what = f"start of {type(owner).__name__}"
        gone = collectives_made.gone if not abandoned else set()  # MPI may still use those
        every = self.gather(self.comm, gone, what)
        for loan in sorted(set[int].intersection(*every)):
            collectives_made.gone.remove(loan)
            collectives_made.lent.pop(loan).Free()
        collectives_made.loans += 1
        comm = self.duplicate(what=what) if color is None else self.comm.Split(color, self.rank)
        collectives_made.lent[collectives_made.loans] = comm
        weakref.finalize(
            owner, collectives_made.returned.put, collectives_made.loans
        ).atexit = False
        return comm

    def number_trainer(self) -> str:
        """A suffix that tells the collective operations of one more trainer from those of the
        others."""
        self._collectives.trainers += 1
        return f" of trainer {self._collectives.trainers}" if self._collectives.trainers > 1 else ""

    @property
    def checks(self) -> bool:
        """Whether every collective operation first compares what the ranks are about to do, and
        where in the program."""
        return self._collectives.checks

    def set_checks(self, checks: bool = True) -> None:
        """Turns these comparisons on or off. Call it on all ranks at the same point."""
        self._collectives.checks = checks

    def collective(self, what: str, at_one_line: bool = True) -> str:
        """Counts one more collective operation of all ranks and names it. The numbers agree as long
        as all ranks make the same calls.

        Args:
            what: its kind.
            at_one_line: whether all ranks call it from the same line of the program.

        Raises:
            RuntimeError: with checks, on all ranks: they call different collective operations. This
                rank has left a collective operation half done: see uninterrupted().
        """
        self._refuse_out_of_step()
        self.refuse_collective()
        self._collectives.count += 1
        name = self.name_of(what, self._collectives.count)
        if self.checks:
            here = f"{name}{user_line(sys._getframe()) if at_one_line else ''}"
            mine, every = np.array([hash_of(here)]), np.empty(self.size, np.int64)
            self.wait([self.comm.Iallgather(mine, every)], here)
            if (every != mine).any():
                self.agree(self.comm, here, "check=True")
        return name

    def count_unchecked(self) -> int:
        """As collective(), but returns only the number; 0 if checks are on and collective() must be
        called."""
        self.refuse_collective()
        here = self._collectives
        here.count += not here.checks
        return 0 if here.checks else here.count

    @contextmanager
    def uninterrupted(self, what: str) -> Iterator[None]:
        """Guards a collective operation on `comm` that takes several messages. If an exception that
        other ranks do not have ends it, this rank is out of step, and refuses all further
        collective operations.

        Its next message would be taken for one that it left out. RuntimeError and ValueError are
        raised by all ranks alike, so they do no harm. Signals interrupt only waits, which keep
        MPI's buffers.
        """
        with DeferSignals(self.size > 1, may_leave=lambda: True):
            self._collectives.interrupted = what if self.size > 1 else ""
            try:
                yield
            except (RuntimeError, ValueError):
                self._collectives.interrupted = ""
                raise
            self._collectives.interrupted = ""

    @contextmanager
    def no_collectives(self, what: str) -> Iterator[None]:
        """Forbids collective operations while each rank calls the program's functions on its own,
        as often as it has examples."""
        self._collectives.forbidden_in = what if self.size > 1 else ""
        try:
            yield
        finally:
            self._collectives.forbidden_in = ""

    def mark_out_of_step(self, what: str) -> None:
        """Notes that this rank has left a collective operation that the others have begun or will
        begin. Further ones are refused."""
        self._collectives.interrupted = what if self.size > 1 else ""

    def _refuse_out_of_step(self) -> None:
        if self._collectives.interrupted:
            raise RuntimeError(
                f"{self.name} {self._collectives.interrupted} was interrupted, so that this rank is"
                " out of step with the others. Start the job again from a checkpoint."
            )

    def end(self) -> None:
        """Notes that MPI ends."""
        self._job.is_over = True

    def refuse_after_end(self) -> None:
        """Raises a RuntimeError when MPI has ended."""
        if self._job.is_over:
            raise RuntimeError(
                f"{self.name} MPI.Finalize() was called, after which the ranks cannot meet; got a"
                " call that needs MPI. Leave out MPI.Finalize(), or call it behind all that uses"
                " dist_dynet.parallel: MPI ends with the program."
            )

    def refuse_collective(self) -> None:
        """Raises a RuntimeError in a forked child, which the others would take for its parent, and
        inside no_collectives(), and when MPI has ended."""
        self.refuse_after_end()
        if self._collectives.forbidden_in:
            raise RuntimeError(
                f"{self.name} the function that {self._collectives.forbidden_in} calls must not"
                " meet the other ranks, as update() does: each rank calls it for other examples. Do"
                f" that before or after {self._collectives.forbidden_in}."
            )
        if self._job.is_forked:
            raise RuntimeError(
                f"{self.name} process {os.getpid()}, which this rank has forked, takes no part in"
                " the job; got a call that meets the other ranks. Call it in the rank itself; a"
                " child may train by a trainer that is not distributed."
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
        collectives_made = self._collectives
        if collectives_made.barrier is None:
            what = self.collective("barrier")
            collectives_made.barrier = self.comm.Ibarrier(), what
        request, what = collectives_made.barrier
        self.wait([request], what, timeout)
        collectives_made.barrier = None

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
        """Which ranks have not arrived, and where the others are."""
        answers = {
            rank: answer
            for rank, answer in sorted(self._job.locate().items())
            if rank in self.members
        }
        late = [rank for rank, answer in answers.items() if answer.state != f"waits in {what}"]
        listed = [answer.message for answer in answers.values()]
        if len(listed) > FEW:  # the missing ranks first
            listed = [answers[rank].message for rank in late[:FEW]]
            listed.append(f"{len(answers) - len(listed)} more are not listed")
        return "; ".join([format_ranks(late) if late else "the other ranks", *listed])


def pause(polled: float, now: float) -> float:
    """How many of the seconds between two polls this process was stopped."""
    return now - polled if now - polled > _PAUSE else 0.0


def hash_of(text: str) -> int:
    """A 64-bit hash that is the same in every process."""
    return int.from_bytes(
        hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True
    )
