"""Ends the job within seconds when one rank fails, with a message and a non-zero exit status.

Plain MPI hangs forever when a rank raises, leaves early or is stopped. Here an uncaught exception
aborts the job, and the watchdog thread of a rank that has waited long asks the watchdogs of those
that it waits for where they are. A normal end is not disturbed: a rank may go on alone after the
others have left, as long as it waits for nobody. This module knows processes and messages, and
nothing about training.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, NoReturn

from ... import _launcher
from ..._environment import number
from ..._tracebacks import shorten
from ..._weak import WeakSet
from .mpi import TIMEOUT, finalize_mpi, import_mpi, unlink_segments
from .user_line import line_of_thread, user_line
from .world import Place, World, pause

EXCEPTION, MISSING, LEFT = 1, 75, 76
"""Exit status of the job after an uncaught exception, after a rank stopped responding, and after a
rank left early."""

SILENCE = number("DIST_DYNET_SILENCE", 8)
"""Seconds of waiting before the watchdog asks the other ranks."""

_unfinished: WeakSet[threading.Thread] = WeakSet()
"""Threads that must finish before this rank ends the job."""

_exit = os._exit
"""The original os._exit: ends only this process."""

_FINISHING = 60.0
_TICK, _ANSWER = 0.25, 2.0
"""Seconds between two looks of a watchdog, and until a question must be answered."""
_PROBES = 16
"""Probes without a message before there is none: a rank that computes moves messages here alone,
each probe a little."""

_PERIOD = max(2 * _ANSWER, SILENCE / 2)
"""Seconds between two questions of one rank. With N ranks that wait for all others they cost
N (N - 1) messages of some 200 bytes in this time."""

IN_JOIN = "inside of Join"
"""Part of the name of collective operations there."""

_OF_JOIN = (
    " Inside of Join only update() of its trainer may be called by all ranks. Call other collective"
    " operations behind the block of Join."
)


class _State:
    """State of the hooks in this process."""

    launch: _launcher.Launch | None = None
    process = 0
    has_left = False
    watchdog: Watchdog | None = None
    previous: Any = None
    previous_thread: Any = None
    on_leave: ClassVar[list[Callable[[], None]]] = []
    on_abort: ClassVar[list[Callable[[], None]]] = []
    notes: ClassVar[list[Callable[[BaseException], str]]] = []


# ---- messages and aborting -------------------------------------------------------------


def report(text: str) -> None:
    """Writes a text to stderr in a single write, each line prefixed with rank and host, so that the
    lines of different ranks do not mix."""
    launch = _State.launch
    prefix = f"[rank {launch.rank}/{launch.size} on {socket.gethostname()}] " if launch else ""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
    lines = "".join(f"{prefix}{line}\n" for line in text.rstrip().splitlines())
    os.write(2, lines.encode(errors="replace"))


def finish_before_abort(thread: threading.Thread) -> None:
    """Makes abort() wait for this thread, for a minute at most."""
    _unfinished.add(thread)


def at_end_of_job(leave: Callable[[], None], abort_: Callable[[], None]) -> None:
    """Calls `leave` on every rank when all have reached the end of the program, or `abort_` on a
    rank that ends the job. Exceptions of `abort_` are ignored."""
    _State.on_leave.append(leave)
    _State.on_abort.append(abort_)


def add_exception_note(note: Callable[[BaseException], str]) -> None:
    """Calls `note` for each exception that ends the job, and prints what it returns below the
    traceback."""
    _State.notes.append(note)


def abort(code: int) -> None:
    """Ends all ranks. Starts MPI if necessary, because mpirun ends the others only for a process it
    knows."""
    for thread in list(_unfinished):
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(_FINISHING)
    for callback in _State.on_abort:
        with suppress(Exception):
            callback()
    time.sleep(0.2)  # lets the launcher forward the output
    assert _State.launch is not None
    if "DIST_DYNET_ATTEMPT" in os.environ:
        # dist-dynet run ends the others. With MPI_Abort, mpirun or srun would kill its relays
        # before they can report which rank failed
        _exit(code)
    try:
        mpi = import_mpi(_State.launch)
        unlink_segments()
        mpi.COMM_WORLD.Abort(code)
    finally:
        _exit(code)


def _on_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if _State.process != os.getpid():  # a forked child
        _State.previous(kind, error, trace)
        return
    shorten(error)
    lines = traceback.format_exception(kind, error, error.__traceback__ or trace)
    report("".join((*lines, *(note(error) for note in _State.notes))))
    abort(130 if issubclass(kind, KeyboardInterrupt) else EXCEPTION)


def _on_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or _State.process != os.getpid() or args.exc_value is None:
        _State.previous_thread(args)
        return
    name = args.thread.name if args.thread else "?"
    shorten(args.exc_value)
    report(f"in thread {name}:\n{''.join(traceback.format_exception(args.exc_value))}")
    abort(EXCEPTION)


def install() -> None:
    """Makes uncaught exceptions end the job if a launcher started this process together with
    others. Does not import MPI; may be called again."""
    launch = _launcher.find()
    if launch is None or _State.launch is not None:
        return
    _launcher.claim()
    _State.launch, _State.process = launch, os.getpid()
    _State.previous, sys.excepthook = sys.excepthook, _on_exception
    _State.previous_thread, threading.excepthook = threading.excepthook, _on_thread_exception


# ---- leaving ---------------------------------------------------------------------------


def _on_quick_exit(status: int) -> NoReturn:
    """Replaces os._exit in a rank. Otherwise the other ranks would wait forever, and MPICH's
    launcher would take status 0 for a successful end of the job."""
    if _State.process == os.getpid():
        report(
            f"leaves by os._exit({status}){user_line(sys._getframe(1))}, not through the end of"
            " the program. All ranks end."
        )
        abort(status or LEFT)
    _exit(status)


def guard(world: World) -> None:
    """Watches over a world whose MPI has just started. Collective."""
    install()
    leaving, asking = world.duplicate(), world.duplicate()
    if world.mpi.Query_thread() == world.mpi.THREAD_MULTIPLE:
        _State.watchdog = Watchdog(world, asking)
        _State.watchdog.start()
    atexit.register(_leave, world, leaving)
    world.mpi.Finalize = partial(_finalize, world, leaving, world.mpi.Finalize)
    os._exit = _on_quick_exit


def _finalize(world: World, comm: Any, finalize: Callable[[], None]) -> None:
    """MPI.Finalize(), if the program calls it by itself."""
    _leave(world, comm)
    if not world.mpi.Is_finalized():
        finalize()


def _leave(world: World, comm: Any) -> None:
    """Runs at the end of the program: waits until all ranks have arrived here, then ends MPI. A
    rank that waits for this one aborts the job."""
    if _State.process != os.getpid() or _State.has_left:
        return
    _State.has_left, watchdog = True, _State.watchdog
    if watchdog:
        watchdog.announce_leaving()
    try:
        world.wait([comm.Ibarrier()], "end of the program", TIMEOUT)
    except TimeoutError as error:
        report(f"{error} End all ranks together.")
        abort(LEFT)
    try:
        for callback in _State.on_leave:
            callback()
    finally:
        if watchdog:
            watchdog.stop()
        os._exit = _exit
        world.end()
        finalize_mpi()


# ---- the watchdog ----------------------------------------------------------------------


class Whereabouts(NamedTuple):
    """Where a rank is: what it does, in which line, for how many seconds it has waited (0: it does
    not wait), and for which ranks of the job."""

    state: str
    line: str = ""
    seconds: float = 0.0
    ranks: Sequence[int] = ()


_LEFT, _DEAD = "has left the program", "gives no answer: it is stopped, stuck or dead"
_BUSY = "gives no answer, but lives: it is in a call that holds Python's lock"


def deadlocked(ranks: Iterable[int], answers: Mapping[int, Whereabouts]) -> list[int]:
    """The given ranks, the ranks they wait for, and so on, if all of them have been waiting for
    long; otherwise none."""
    closed: set[int] = set()
    open_ = set(ranks)
    while open_:
        rank = open_.pop()
        if rank not in answers or answers[rank].seconds <= SILENCE:
            return []
        closed.add(rank)
        open_ |= set(answers[rank].ranks) - closed
    return sorted(closed)


class Watchdog(threading.Thread):
    """A thread per rank: answers where this rank is, and asks for the others when it has waited
    long.

    A message is a question, the number of a rank, or an answer, a number and its whereabouts. A
    rank that holds Python's lock cannot answer. Ranks of its host answer for it, by what /proc
    says; where there are none, it counts as dead after 3 SILENCE.
    """

    def __init__(self, world: World, comm: Any) -> None:
        super().__init__(name="dist_dynet watchdog", daemon=True)
        self._world, self._comm, self._me = world, comm, world.rank
        self._hosts = {rank: ranks for ranks in world.layout for rank in ranks}
        self._answers: dict[int, tuple[Whereabouts, float]] = {}  # and when they came
        self._sent: list[Any] = []
        self._sending = threading.Lock()
        self._has_left = self._stopped = False
        self._place: Place | None = None  # the wait that questions are about
        self._asked = 0.0
        # time of the last look; since when this process has run without being stopped
        self._looked = self._awake = time.monotonic()
        world.locate_ranks_by(self.locate)

    def run(self) -> None:
        """Looks four times a second until stop()."""
        while not self._stopped:
            self._receive()
            self._look()
            time.sleep(_TICK)

    def announce_leaving(self) -> None:
        """Notes that this rank takes part in no further collective operation."""
        self._has_left = True

    def stop(self) -> None:
        """Stops using MPI, when all ranks have left. MPI libraries complain about messages that
        nobody has received when they end, so this takes up to _ANSWER seconds to receive them."""
        self._stopped = True
        self.join()
        until, all_received = time.monotonic() + _ANSWER, None
        while time.monotonic() < until and not (all_received and all_received.Test()):
            self._receive()
            self._sent = [request for request in self._sent if not request.Test()]
            if not self._sent and all_received is None:  # every rank has what this one has sent
                all_received = self._comm.Ibarrier()
            time.sleep(1e-3)

    # ---- messages ----

    def _send(self, rank: int, message: tuple[int, Whereabouts | None]) -> None:
        with self._sending:
            self._sent = [request for request in self._sent if not request.Test()]
            self._sent.append(self._comm.issend(message, rank))

    def _receive(self) -> None:
        status, without = self._world.mpi.Status(), 0
        while without < _PROBES:
            message = self._comm.improbe(status=status)  # two threads may receive
            if message is None:
                without += 1
                continue
            without, source = 0, status.Get_source()
            rank, answer = message.recv()
            if answer is not None:
                self._answers[rank] = answer, time.monotonic()
            elif not self._stopped:
                here = self._here() if rank == self._me else self._from_outside(rank)
                self._send(source, (rank, here))

    def _here(self) -> Whereabouts:
        place = self._world.place
        if self._has_left:
            return Whereabouts(_LEFT)
        line = line_of_thread(threading.main_thread().ident or 0)
        if place is None:
            return Whereabouts("computes", line)
        return Whereabouts(f"waits in {place.what}", line, self._waited(place), tuple(place.ranks))

    def _from_outside(self, rank: int) -> Whereabouts:
        """Where a rank of this host is that cannot answer by itself."""
        try:
            status = Path(f"/proc/{self._world.processes[rank]}/stat").read_bytes()
        except OSError:
            return Whereabouts(_DEAD)
        state = status[status.rindex(b")") + 2 :][:1]  # man 5 proc; a name may contain anything
        return Whereabouts(_DEAD if state in b"TZXx" else _BUSY)

    def _ask(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            self._send(rank, (rank, None))

    def _ask_hosts(self, ranks: Iterable[int], since: float) -> None:
        """Finds out about these ranks that have not answered since then: from /proc, or by asking
        the other ranks of their hosts."""
        known = self._since(since)
        for rank in (rank for rank in ranks if rank not in known):
            host = self._hosts[rank]
            if self._me in host:
                self._answers[rank] = self._from_outside(rank), time.monotonic()
            else:
                for other in host:
                    if other != rank:
                        self._send(other, (rank, None))

    def _since(self, since: float) -> dict[int, Whereabouts]:
        answers = list(self._answers.items())  # both threads use it
        return {rank: there for rank, (there, at) in answers if at >= since}

    def locate(self, ranks: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Asks these ranks where they are; for the main thread."""
        asked = time.monotonic()
        for question in self._ask, partial(self._ask_hosts, since=asked):
            question(ranks)
            until = time.monotonic() + _ANSWER / 2
            while time.monotonic() < until and not self._since(asked).keys() >= {*ranks}:
                self._receive()
                time.sleep(_TICK / 10)
        known, unknown = self._since(asked), Whereabouts("gives no answer")
        found = {rank: known.get(rank, unknown) for rank in ranks}
        return {rank: (there.state, self._as_text(rank, there)) for rank, there in found.items()}

    # ---- conclusions ----

    def _as_text(self, rank: int, there: Whereabouts) -> str:
        process, host = self._world.processes[rank], self._world.hosts[rank]
        return f"rank {rank} (process {process} on {host}) {there.state}{there.line}"

    def _waited(self, place: Place) -> float:
        return time.monotonic() - max(place.since, self._awake)

    def _look(self) -> None:
        place, now = self._world.place, time.monotonic()
        if pause(self._looked, now):
            self._awake, self._asked = now, 0.0
        self._looked, before = now, self._looked
        if place is not self._place:
            self._place, self._asked = place, 0.0
        if place is None or self._has_left or self._waited(place) <= SILENCE:
            return
        others = [rank for rank in place.ranks if rank != self._me]
        if not self._asked or now - self._asked > _PERIOD:
            self._asked = now
            self._ask(others)
        elif before - self._asked <= _ANSWER / 2 < now - self._asked:
            self._ask_hosts(others, self._asked)
        elif before - self._asked <= _ANSWER < now - self._asked:
            self._judge(place, others)

    def _judge(self, place: Place, others: list[int]) -> None:
        answers, here = self._since(self._asked), self._here()
        if self._world.place is not place:
            return
        waited = self._waited(place)
        waits = f"{place.what}{here.line}: waited {waited:.0f} s"
        if waited > 3 * SILENCE:
            known = self._since(time.monotonic() - 3 * SILENCE)
            answers |= {rank: Whereabouts(_DEAD) for rank in others if rank not in known}
        for rank in (rank for rank in others if rank in answers):
            lost = f"{waits}; {self._as_text(rank, answers[rank])}."
            if answers[rank].state == _DEAD:
                self._end(MISSING, lost)
            if answers[rank].state == _LEFT:
                self._end(
                    LEFT,
                    f"{lost} Every rank must make this call equally often: call update() also for"
                    " batches without examples. To stop early, decide on a value that all ranks"
                    " share: all_reduce(loss). Put loops of different lengths into Join.",
                )
        stuck = deadlocked(others, {**answers, self._me: here})
        elsewhere = [r for r in stuck if r != self._me and answers[r].state != here.state]
        if elsewhere:
            first = self._as_text(elsewhere[0], answers[elsewhere[0]])
            joined = _OF_JOIN if IN_JOIN in here.state + first else ""
            self._end(
                MISSING,
                f"the ranks wait for one another in different places: this one {here.state}"
                f"{here.line}, {first}. All ranks must make the same calls in the same order, also"
                f" those whose results only one of them needs.{joined}",
            )

    def _end(self, code: int, text: str) -> None:
        report(text)
        abort(code)
