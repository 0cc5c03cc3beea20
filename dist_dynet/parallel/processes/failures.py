"""Ends the job within seconds when one rank fails, with a message and a non-zero exit status.

Plain MPI hangs forever when a rank raises, leaves early or is stopped. Here an uncaught exception
aborts the job, a rank that leaves notifies those that still wait for it, and a watchdog thread asks
all ranks where they are when a wait takes long. A normal end is not disturbed: a rank may go on
alone after the others have left, as long as it waits for nobody. This module knows processes and
messages, and nothing about training.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, NoReturn

from ... import _launcher
from ..._environment import number
from ..._tracebacks import shorten
from ..._weak import WeakSet
from . import alive
from .mpi import TIMEOUT, finalize_mpi, import_mpi, unlink_segments
from .places import Places, Whereabouts, boards, find_hosts
from .rank_names import FEW, format_ranks
from .user_line import line_of_thread, user_line
from .world import Answer, Place, World, pause

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
_ANSWER, _GRACE, _TICK = 2.0, min(3.0, SILENCE), 0.25
IN_JOIN = "inside of Join"
"""Part of the name of collective operations there."""

_OF_JOIN = (
    " Inside of Join only update() of its trainer may be called by all: those that have ended take"
    " part in nothing else. Call others, and other trainers' update(), behind the block of Join."
)

_PERIOD = max(_ANSWER + _TICK, SILENCE / 2)
"""Seconds between two questions. Periods are aligned for all ranks of a host, so that one message
asks for all of them."""


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
    os.write(
        2,
        "".join(f"{prefix}{line}\n" for line in text.rstrip().splitlines()).encode(
            errors="replace"
        ),
    )


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
    leaving = world.duplicate()
    processes = world.comm.allgather((world.host, world.process, alive.answer()))
    world.hosts = [host for host, _, _ in processes]
    find_hosts(world)
    if world.mpi.Query_thread() == world.mpi.THREAD_MULTIPLE:
        places = Places(world, world.duplicate(), *boards(world))
        _State.watchdog = Watchdog(world, places, processes)
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
    request, start = comm.Ibarrier(), time.monotonic()
    polled = start
    while not request.Test():
        time.sleep(1e-3)
        now = time.monotonic()
        start, polled = start + pause(polled, now), now
        if now - start > TIMEOUT:
            report(
                f"left the program {TIMEOUT:g} s ago, while other ranks still work. End all ranks"
                " together."
            )
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


def _format_answers(answers: Mapping[int, Whereabouts]) -> str:
    """One line per rank; with many ranks, one line for all ranks at the same place."""
    if len(answers) <= FEW:
        return "".join(f"\nrank {r} {answer.state}{answer.line}" for r, answer in answers.items())
    places: dict[str, list[int]] = {}
    for r, answer in answers.items():
        places.setdefault(f"{answer.state}{answer.line}", []).append(r)
    return "".join(f"\n{format_ranks(ranks)}: {place}" for place, ranks in places.items())


def _deadlocked(ranks: Iterable[int], answers: Mapping[int, Whereabouts]) -> list[int]:
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
    """A thread per rank: publishes where this rank is, and asks for the others when it has waited
    long."""

    def __init__(
        self, world: World, places: Places, processes: list[tuple[str, int, alive.Address]]
    ) -> None:
        super().__init__(name="dist_dynet watchdog", daemon=True)
        self._world, self._places, self._processes = world, places, processes
        self._leaving = self._stopped = False
        self._asked, self._period = 0.0, 0
        # time of the last look; since when this process has run without being stopped
        self._looked = self._awake = time.monotonic()
        world.locate_ranks_by(self.locate)

    def run(self) -> None:
        """Looks four times a second until stop()."""
        while not self._stopped:
            self._places.say(self._here())
            self._places.turn()
            self._look()
            time.sleep(_TICK)

    def stop(self) -> None:
        """Stops using MPI. Call it before MPI is finalised, once all ranks have announced that they
        leave."""
        self._stopped = True
        self.join()
        self._places.say(self._here())
        self._places.finish(_ANSWER)

    # ---- what it publishes and asks ----

    def _here(self) -> Whereabouts:
        line = "" if self._leaving else line_of_thread(threading.main_thread().ident or 0)
        place = self._world.place
        if place:
            return Whereabouts(f"waits in {place.what}", self._waited(place), place.ranks, line)
        return Whereabouts("has left the program" if self._leaving else "computes", 0.0, (), line)

    def announce_leaving(self) -> None:
        """Announces that this rank takes part in no further collective operation."""
        self._leaving = True
        self._places.leave()

    def _as_text(self, rank: int) -> str:
        host, process, _ = self._processes[rank]
        return f"rank {rank} (process {process} on {host})"

    def locate(self) -> dict[int, Answer]:
        """Asks all other ranks where they are; for the main thread."""
        others = [rank for rank in range(self._world.size) if rank != self._world.rank]
        asked = self._places.ask()
        while time.monotonic() < asked + _ANSWER and not self._places.answers_since(
            asked
        ).keys() >= {*others}:
            time.sleep(_TICK / 5)
        answers = self._places.answers_since(asked)
        silent = Whereabouts("gives no answer", 0.0, ())
        busy = Whereabouts(
            "gives no answer, but lives: it is in a call that holds Python's lock", 0.0, ()
        )
        mute = [rank for rank in others if rank not in answers]
        alive = self._alive(mute)
        answers |= {rank: busy if rank in alive else silent for rank in mute}
        return {
            rank: Answer(
                answers[rank].state,
                f"{self._as_text(rank)} {answers[rank].state}{answers[rank].line}",
            )
            for rank in others
        }

    # ---- what it concludes ----

    def _waited(self, place: Place) -> float:
        return time.monotonic() - max(place.since, self._awake)

    def _look(self) -> None:
        place, now = self._world.place, time.monotonic()
        if pause(self._looked, now):
            self._awake, self._asked = now, 0.0
        self._looked = now
        if place is None:
            self._asked = 0.0
            return
        waited = self._waited(place)
        left = self._places.left() if waited > _GRACE else {}
        gone = [
            rank
            for rank, since in left.items()
            if rank in place.ranks and min(waited, now - since) > _GRACE
        ]
        if gone:
            self._end(
                LEFT,
                f"{place.what}{self._here().line}: waits for {self._as_text(gone[0])}, which left"
                " the program while other ranks still work. All ranks must make this call equally"
                " often: call update() for batches without examples, too, decide to stop on what"
                " all know, such as all_reduce(loss), and put loops of different lengths into"
                " Join.",
            )
        period = int(now // _PERIOD)
        if waited > SILENCE and not self._asked and period != self._period:
            self._asked, self._period = self._places.ask(), period
        elif self._asked and now - self._asked > _ANSWER:
            self._judge(place, waited)
            self._asked = 0.0

    def _judge(self, place: Place, waited: float) -> None:
        answers, me, what = self._places.answers_since(self._asked), self._world.rank, place.what
        mute = [r for r in place.ranks if r != me and r not in answers]
        alive = self._alive(mute)
        silent = [r for r in mute if r not in alive]
        if silent:
            known = _format_answers({r: answer for r, answer in answers.items() if r != me})
            who = self._as_text(silent[0])
            self._end(
                MISSING,
                f"{what}: waited {waited:.0f} s; {who} gives no answer: it is stopped, stuck or"
                f" dead.{known}",
            )
        here = f"waits in {what}"
        mine = self._here()._replace(state=here, seconds=waited, ranks=tuple(place.ranks))
        stuck = _deadlocked(place.ranks, {**answers, me: mine})
        others = {r: answers[r] for r in stuck if r != me and answers[r].state != here}
        if others:
            places = "".join(
                f"\n{self._as_text(r)} {answer.state}{answer.line}" for r, answer in others.items()
            )
            joined = _OF_JOIN if IN_JOIN in here + places else ""
            self._end(
                MISSING,
                "the ranks wait for one another in different places; this one"
                f" {here}{mine.line}{places}\nAll ranks must make the same calls in the same order,"
                f" also those whose results only one of them needs.{joined}",
            )

    def _alive(self, ranks: Iterable[int]) -> set[int]:
        """Which of these silent ranks are alive: a long call that holds Python's lock looks like
        silence."""
        asked = {rank: self._processes[rank][2] for rank in ranks}
        return alive.those_alive(asked) if asked else set()

    def _end(self, code: int, text: str) -> None:
        report(text)
        abort(code)
