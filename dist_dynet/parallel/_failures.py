"""How a job ends when one rank fails: within seconds, with words, with a non-zero status.

Plain MPI hangs for ever when a rank raises, leaves early or is stopped. Here an uncaught exception
aborts the job, a rank that leaves says so to those that still wait for it, and a watchdog thread
asks where everybody is when a wait gets long. It knows processes and messages, and nothing of
training. A normal end is not disturbed: a rank may work on alone after the others have left, as
long as it waits for nobody.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar, NoReturn

from .. import _launcher
from .._environment import number
from .._tracebacks import shorten
from . import _alive
from ._lines import line_of_user
from ._mpi import TIMEOUT, finalize_mpi, import_mpi, unlink_segments
from ._places import Places, Whereabouts, boards, find_hosts
from ._rank_names import FEW, format_ranks
from ._world import Answer, Place, World, pause

EXCEPTION, MISSING, LEFT = 1, 75, 76
"""Status of the job after an uncaught exception, after a rank that gives no answer, after one that
left early."""

SILENCE = number("DIST_DYNET_SILENCE", 8)
"""Seconds of waiting after which the watchdog asks."""

_unfinished: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Threads that this rank waits for before it ends the job."""

_exit = os._exit
"""The system's: ends this process and nothing else."""

_FINISHING = 60.0
_ANSWER, _GRACE, _TICK = 2.0, min(3.0, SILENCE), 0.25
_PERIOD = max(_ANSWER + _TICK, SILENCE / 2)
"""Seconds from one question to the next; periods begin at one time for all ranks of a host, so that
one message asks for all of them."""


class _State:
    """What the hooks of this process know."""

    launch: _launcher.Launch | None = None
    process = 0
    watchdog: Watchdog | None = None
    previous: Any = None
    previous_thread: Any = None
    on_leave: ClassVar[list[Callable[[], None]]] = []
    on_abort: ClassVar[list[Callable[[], None]]] = []
    notes: ClassVar[list[Callable[[BaseException], str]]] = []


# ---- words and the end -----------------------------------------------------------------


def report(text: str) -> None:
    """Writes to stderr, each line with rank and host in front, in one piece, so that lines of ranks
    do not mix."""
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


def finish_first(thread: threading.Thread) -> None:
    """Before this rank ends the job it waits for this thread, for a minute at most."""
    _unfinished.add(thread)


def at_the_end(leave: Callable[[], None], abort_: Callable[[], None]) -> None:
    """Calls `leave` when all ranks have come to the end of the program, on all of them, or
    `abort_` on a rank that ends the job, where what it raises is of no interest."""
    _State.on_leave.append(leave)
    _State.on_abort.append(abort_)


def explain_by(note: Callable[[BaseException], str]) -> None:
    """Calls this for each exception that ends the job; what it returns stands below the
    traceback."""
    _State.notes.append(note)


def abort(code: int) -> None:
    """Ends all ranks. Starts MPI if need be: mpirun ends the others only for a process that it
    knows."""
    for thread in list(_unfinished):
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(_FINISHING)
    for callback in _State.on_abort:
        with suppress(Exception):
            callback()
    time.sleep(0.2)  # the launcher forwards what was written
    assert _State.launch is not None
    if "DIST_DYNET_ATTEMPT" in os.environ:
        # dist-dynet run ends the others; by MPI_Abort mpirun or srun would kill its relays before
        # they can say who has failed
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
    """Makes uncaught exceptions end the job, if a launcher started this process with others.
    Imports no MPI; may be called again."""
    launch = _launcher.find()
    if launch is None or _State.launch is not None:
        return
    _launcher.claim()
    _State.launch, _State.process = launch, os.getpid()
    _State.previous, sys.excepthook = sys.excepthook, _on_exception
    _State.previous_thread, threading.excepthook = threading.excepthook, _on_thread_exception


# ---- leaving ---------------------------------------------------------------------------


def _on_quick_exit(status: int) -> NoReturn:
    """What os._exit is in a rank: the others would wait for it in vain, and MPICH's launcher takes
    status 0 for a good end of the job."""
    if _State.process == os.getpid():
        report(
            f"leaves by os._exit({status}){line_of_user(sys._getframe(1))}, not through the end of"
            " the program. All ranks end."
        )
        abort(status or LEFT)
    _exit(status)


def guard(world: World) -> None:
    """Watches over a world whose MPI has just started. Collective."""
    install()
    leaving = world.duplicate()
    processes = world.comm.allgather((world.host, world.process, _alive.answer()))
    world.hosts = [host for host, _, _ in processes]
    find_hosts(world)
    if world.mpi.Query_thread() == world.mpi.THREAD_MULTIPLE:
        places = Places(world, world.duplicate(), *boards(world))
        _State.watchdog = Watchdog(world, places, processes)
        _State.watchdog.start()
    atexit.register(_leave, leaving)
    os._exit = _on_quick_exit


def _leave(comm: Any) -> None:
    """The end of the program, and of MPI: waits until all others have come here, too. A rank that
    waits for this one aborts."""
    if _State.process != os.getpid():
        return
    watchdog = _State.watchdog
    if watchdog:
        watchdog.tell_leaving()
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
    for callback in _State.on_leave:
        callback()
    if watchdog:
        watchdog.stop()
    os._exit = _exit
    finalize_mpi()


# ---- the watchdog ----------------------------------------------------------------------


def _listed(answers: Mapping[int, Whereabouts]) -> str:
    """A line for each rank, or for all that are at one place where there are many."""
    if len(answers) <= FEW:
        return "".join(f"\nrank {r} {answer.state}{answer.line}" for r, answer in answers.items())
    places: dict[str, list[int]] = {}
    for r, answer in answers.items():
        places.setdefault(f"{answer.state}{answer.line}", []).append(r)
    return "".join(f"\n{format_ranks(ranks)}: {place}" for place, ranks in places.items())


def _all_waiting(ranks: Iterable[int], answers: Mapping[int, Whereabouts]) -> list[int]:
    """These ranks and those that they wait for, and so on, if all of them have been waiting for
    long; else none."""
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
    """A thread per rank: says where this one is, and asks where the others are when it has waited
    long."""

    def __init__(
        self, world: World, places: Places, processes: list[tuple[str, int, _alive.Address]]
    ) -> None:
        super().__init__(name="dist_dynet watchdog", daemon=True)
        self._world, self._places, self._processes = world, places, processes
        self._leaving = self._stopped = False
        self._asked, self._period = 0.0, 0
        # the last time; since when this process has not been stopped
        self._looked = self._awake = time.monotonic()
        world.answers_by(self.where)

    def run(self) -> None:
        """Looks four times a second until stop()."""
        while not self._stopped:
            self._places.say(self._here())
            self._places.turn()
            self._look()
            time.sleep(_TICK)

    def stop(self) -> None:
        """Lets MPI go; to be called before it is finalised, when all ranks have said that they
        leave."""
        self._stopped = True
        self.join()
        self._places.say(self._here())
        self._places.finish(_ANSWER)

    # What it says and hears.

    def _here(self) -> Whereabouts:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        line = line_of_user(frame) if frame and not self._leaving else ""
        place = self._world.place
        if place:
            return Whereabouts(f"waits in {place.what}", self._waited(place), place.ranks, line)
        return Whereabouts("has left the program" if self._leaving else "computes", 0.0, (), line)

    def tell_leaving(self) -> None:
        """Says to all that this rank will meet them no more."""
        self._leaving = True
        self._places.leave()

    def _as_text(self, rank: int) -> str:
        host, process, _ = self._processes[rank]
        return f"rank {rank} (process {process} on {host})"

    def where(self) -> dict[int, Answer]:
        """Asks all other ranks where they are; for the main thread."""
        others = [rank for rank in range(self._world.size) if rank != self._world.rank]
        asked = self._places.ask()
        while time.monotonic() < asked + _ANSWER and not self._answers_since(asked).keys() >= {
            *others
        }:
            time.sleep(_TICK / 5)
        answers = self._answers_since(asked)
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

    def _answers_since(self, asked: float) -> dict[int, Whereabouts]:
        return self._places.answers_since(asked)

    # What it concludes.

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
        answers, me, what = self._answers_since(self._asked), self._world.rank, place.what
        mute = [r for r in place.ranks if r != me and r not in answers]
        alive = self._alive(mute)
        silent = [r for r in mute if r not in alive]
        if silent:
            known = _listed({r: answer for r, answer in answers.items() if r != me})
            who = self._as_text(silent[0])
            self._end(
                MISSING,
                f"{what}: waited {waited:.0f} s; {who} gives no answer: it is stopped, stuck or"
                f" dead.{known}",
            )
        here = f"waits in {what}"
        mine = self._here()._replace(state=here, seconds=waited, ranks=tuple(place.ranks))
        stuck = _all_waiting(place.ranks, {**answers, me: mine})
        others = {r: answers[r] for r in stuck if r != me and answers[r].state != here}
        if others:
            places = "".join(
                f"\n{self._as_text(r)} {answer.state}{answer.line}" for r, answer in others.items()
            )
            self._end(
                MISSING,
                "the ranks wait for one another in different places; this one"
                f" {here}{mine.line}{places}\nAll ranks must make the same calls in the same order,"
                " also those whose results only one of them needs.",
            )

    def _alive(self, ranks: Iterable[int]) -> set[int]:
        """Which of these live, though they give no answer: a long call that holds Python's lock
        looks like silence."""
        asked = {rank: self._processes[rank][2] for rank in ranks}
        return _alive.those_alive(asked) if asked else set()

    def _end(self, code: int, text: str) -> None:
        report(text)
        abort(code)
