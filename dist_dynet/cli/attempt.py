"""One job, from start to end: starts mpirun, reads its output, learns which process is which rank,
and leaves nothing running.

This module knows processes and signals. Output is handled by output, restarts by restarts.
"""

from __future__ import annotations

import ctypes
import os
import select
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..parallel.processes.mpi import segments_of
from ..parallel.processes.rank_names import format_ranks
from . import _relay, shm
from ._messages import RefusedError, print_message, reason_of
from .mpi import has_input, own_input
from .output import Frames, Logs, Screen

GRACE, TERM = 2.0, 5.0
"""The grace period, in seconds, that other ranks have for final output after one has failed;
seconds that all have to end after SIGTERM."""
START = 120.0
"""Seconds after the first rank within which all others have to start: MPICH starts ranks one by
one as ssh comes through. On this host alone they count from the beginning."""
_DRAIN = 2.0
"""Seconds to wait for output after the end of mpirun, if something still holds its pipes open."""
_NO_ROOM = (signal.SIGBUS, signal.SIGSEGV)
"""Signals that end a process which writes to memory of /dev/shm when that is full."""


def _name_of(number: int) -> str:
    """Such as SIGKILL. Most real-time signals have no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


@dataclass
class Rank:
    """A rank that has started. `code` is None while it runs, negative if a signal has killed it."""

    number: int
    process: int
    host: str
    code: int | None = None
    finished: bool = False
    told: int = 0
    no_memory: bool = False
    """Whether the kernel has meanwhile killed processes of its group for lack of memory."""
    handles: list[int] = field(default_factory=list)
    """Handles of relay and script on this machine, to kill them: a process id might be reused."""
    group: int = 0
    """The process group that its relay leads on this machine; 0 if none."""

    @property
    def failed(self) -> bool:
        """Whether it ended badly, and not on request. Being killed after the end of the program
        does no harm."""
        return self.code is not None and not self.told and (self.code > 0 or not self.finished)

    @property
    def status(self) -> int:
        """Exit status of the job if this rank is the cause."""
        code = self.code or 0
        return 128 - code if code < 0 else code or _relay.LEFT

    def __str__(self) -> str:
        return f"rank {self.number} (process {self.process} on {self.host})"

    def words(self) -> str:
        """A message on how it ended."""
        code = self.code or 0
        if code < 0 and self.finished:
            return f"{self} had finished when it was killed by {_name_of(-code)}."
        if code < 0:
            if self.no_memory:
                return (
                    f"{self} was killed by {_name_of(-code)}, for want of memory: the kernel counts"
                    " an out-of-memory kill in its control group."
                )
            hint = shm.hint() if -code in _NO_ROOM else ""
            return f"{self} was killed by {_name_of(-code)}.{hint}"
        if code == 0:
            return f"{self} left with status 0, but not through the end of its program (os._exit)."
        return f"{self} ended with status {code}."


@dataclass(frozen=True)
class Outcome:
    """How a job has ended. `signal` is the signal by which the launcher was told to end, or 0."""

    status: int
    words: str = ""
    signal: int = 0
    started: bool = True
    """Whether all ranks had started."""
    killed: tuple[int, ...] = ()
    """The rank whose death by a signal ended the job."""
    missing: bool = False
    """Whether ranks are missing for an unknown reason."""


class Signals:
    """Signals to the launcher: they wake select() and are recorded. SIGUSR1 is passed on to the
    job."""

    ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.received: list[int] = []
        self.on_user_signal: Callable[[], None] | None = None
        self.awake, self._wake = socket.socketpair()
        self.awake.setblocking(False)
        self._wake.setblocking(False)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (*self.ENDING, signal.SIGUSR1, signal.SIGCHLD):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self.awake.close()
        self._wake.close()

    def pause(self, seconds: float) -> None:
        """Returns after so many seconds, or when the launcher is told to end."""
        end = time.monotonic() + seconds
        while not self.received and (left := end - time.monotonic()) > 0:
            select.select([self.awake], [], [], left)
            with suppress(BlockingIOError):
                self.awake.recv(4096)

    def _receive(self, number: int, _: object) -> None:
        if number in self.ENDING:
            self.received.append(number)
        elif number == signal.SIGUSR1 and self.on_user_signal:
            self.on_user_signal()


@dataclass(frozen=True)
class Job:
    """What to start: `launcher` (mpirun and its options; empty for one rank without MPI) runs
    `relay` as each rank."""

    launcher: tuple[str, ...]
    relay: tuple[str, ...]
    ranks: int
    environment: dict[str, str] = field(default_factory=dict)
    advice: str = ""
    """Advice if ranks do not start."""
    is_here: bool = False
    """Whether mpirun starts all ranks on this host."""


class Attempt:
    """One job. When run() returns, nothing of it is left."""

    def __init__(
        self,
        job: Job,
        variables: dict[str, str],
        signals: Signals,
        screen: Screen,
        logs: Logs | None,
    ) -> None:
        self._signals, self._screen, self._logs = signals, screen, logs
        self._count, self._grouped, self._advice = job.ranks, not job.launcher, job.advice
        self._launcher = Path((job.launcher or job.relay)[0]).name
        self._here = (socket.gethostname(), _relay.place())
        self.ranks: dict[int, Rank] = {}
        self._ended: list[Rank] = []
        self._late = False
        """Whether the job is ended because ranks have not started: MPICH's mpirun waits forever
        for a program that it could not run."""
        self._held: list[tuple[int, bytes]] = []
        """Output of mpirun since all ranks have started, shown if no rank explains the end."""
        self._frames = Frames(screen, logs, self._mark, self._own)
        self._files = _relay.files_for(job.ranks)
        self._said_files = False
        self._segments: set[Path] = set()
        _relay.raise_files(self._files)  # mpirun opens some for each rank, too
        source = own_input() if job.is_here else ""
        stdin = subprocess.DEVNULL if source or not has_input() else None
        self._is_here = job.is_here
        try:
            self._process = subprocess.Popen(
                [*job.launcher, *job.relay],
                env={**job.environment, **variables, **({_relay.STDIN: source} if source else {})},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=_kill_with(os.getpid()),
            )
        except OSError as error:
            raise RefusedError(f"{self._launcher} cannot be started: {reason_of(error)}") from None

    # ---- what comes in

    def _mark(self, number: int, record: dict[str, Any]) -> None:
        if "process" in record:
            rank = self.ranks[number] = Rank(number, record["process"], record["host"])
            self._look_at_files(record)
            if (record["host"], record["place"]) == self._here and self._here[1]:
                for process in (record["relay"], record["process"]):
                    with suppress(OSError):
                        rank.handles.append(os.pidfd_open(process))
                with suppress(OSError):
                    rank.group = (
                        record["relay"] if os.getpgid(record["relay"]) == record["relay"] else 0
                    )
        elif number in self.ranks:
            rank = self.ranks[number]
            rank.code, rank.finished, rank.told = record["code"], record["finished"], record["told"]
            rank.no_memory = record["no_memory"]
            self._ended.append(rank)
            if rank.failed:
                self._find_segments()

    def _find_segments(self) -> None:
        """Finds what MPI has in /dev/shm: while MPI starts it has a name, which would outlive
        ranks that are killed."""
        for rank in self.ranks.values():
            if rank.handles and rank.code is None:
                self._segments.update(segments_of(rank.process))

    def _look_at_files(self, record: dict[str, Any]) -> None:
        """Reports, once, a host that does not let a rank open as many files as MPI may need."""
        if record["files"] < self._files and not self._said_files:
            self._said_files = True
            print_message(
                f"open files: a rank of {self._count} may need {self._files} at once; got a limit"
                f" of {record['files']} on {record['host']}. If MPI does not start, raise the hard"
                " limit there: ulimit -Hn, or nofile in /etc/security/limits.conf."
            )

    def _own(self, stream: int, text: bytes) -> None:
        if len(self.ranks) < self._count:
            self._screen.own(stream, text)
        else:
            self._held.append((stream, text))

    # ---- the end

    def _send(self, number: int) -> None:
        """Sends a signal to the ranks: a launcher passes it on to their process groups; without one
        the job is a group of its own."""
        with suppress(ProcessLookupError):
            if self._grouped:
                os.killpg(self._process.pid, number)
            else:
                os.kill(self._process.pid, number)

    def _kill(self) -> None:
        """Kills what is left, by group, handle or session; on other hosts broken pipes do so."""
        self._find_segments()
        for rank in self.ranks.values():
            if rank.group and rank.handles:
                with suppress(OSError):
                    # the relay still exists, so its group number is not reused
                    signal.pidfd_send_signal(rank.handles[0], 0)
                    os.killpg(rank.group, signal.SIGKILL)
            for handle in rank.handles:
                with suppress(OSError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def run(self) -> Outcome:
        """Runs until the job is over. Ends it if a rank has failed or the launcher is told to
        end."""
        self._signals.on_user_signal = lambda: self._send(signal.SIGUSR1)
        try:
            self._listen()
            with suppress(subprocess.TimeoutExpired):  # it has closed its pipes, and will end
                self._process.wait(_DRAIN)
        except BrokenPipeError:  # nobody reads the launcher's output
            self._signals.received.append(signal.SIGPIPE)
            self._screen.close()
        finally:
            self._signals.on_user_signal = None
            self._kill()
            self._process.wait()
            for pipe in (self._process.stdout, self._process.stderr):
                assert pipe is not None
                pipe.close()
            for rank in self.ranks.values():
                for handle in rank.handles:
                    os.close(handle)
            for segment in self._segments:
                with suppress(OSError):  # all ranks had started, or a rank has ended well
                    segment.unlink()
            if self._logs:
                self._logs.close()
        return replace(self._outcome(), started=not self._missing())

    def _listen(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ, 1)
            selector.register(self._process.stderr, selectors.EVENT_READ, 2)
            selector.register(self._signals.awake, selectors.EVENT_READ, 0)
            limits = _Limits()
            if self._is_here:
                limits.set("start", START)
            while len(selector.get_map()) > 1:
                for key, _ in selector.select(limits.left()):
                    if key.data == 0:
                        with suppress(BlockingIOError):
                            self._signals.awake.recv(4096)
                        continue
                    data = os.read(key.fd, 65536)
                    self._frames.feed(key.data, data)
                    if not data:
                        selector.unregister(key.fileobj)
                if not self._look(limits):
                    return

    def _look(self, limits: _Limits) -> bool:
        """Ends what has to be ended. False if there is nothing more to wait for."""
        received = len(self._signals.received)
        if self._process.poll() is not None:
            limits.set("drain", _DRAIN)
        if any(rank.failed for rank in self._ended):
            limits.set("words", GRACE)
        if received:
            limits.set("words", 0)
        if (self.ranks or self._is_here) and self._missing():
            limits.set("start", START)
            if limits.over("start"):
                self._late = True
                limits.set("words", 0)
        if limits.over("words") and limits.set("term", TERM):
            self._find_segments()
            self._send(signal.SIGTERM)
        if (limits.over("term") or received > 1) and limits.set("kill", _DRAIN):
            self._kill()
        return not (limits.over("drain") or limits.over("kill"))

    def _missing(self) -> list[int]:
        return [number for number in range(self._count) if number not in self.ranks]

    def _outcome(self) -> Outcome:
        received = next(iter(self._signals.received), 0)
        if received:
            return Outcome(128 + received, signal=received)
        failed = [rank for rank in self._ended if rank.failed]
        if failed:
            # Between hosts the news of a death may be late: others have already ended with an error
            # because a connection broke.
            cause = next((rank for rank in failed if not rank.code or rank.code < 0), failed[0])
            if cause.code and cause.code < 0:
                return Outcome(cause.status, cause.words(), killed=(cause.number,))
            return Outcome(cause.status, cause.words(), missing=cause.code == _relay.MISSING)
        missing = self._missing()
        if self._late and missing:
            return Outcome(
                1,
                f"{format_ranks(missing)} did not start within {START:g} s"
                f"{' of the others' if self.ranks else ''}. {self._advice}".rstrip(),
                missing=True,
            )
        for stream, text in self._held:
            self._screen.own(stream, text)
        status = self._process.returncode
        if status < 0:  # not by a rank: those that end mpirun have said so
            return Outcome(
                128 - status,
                f"{self._launcher} (process {self._process.pid}) was killed by"
                f" {_name_of(-status)}.",
            )
        if missing:
            who = format_ranks(missing) if self.ranks else "ranks"
            return Outcome(
                status or _relay.LEFT,
                f"{self._launcher} ended with status {status}; {who} did not start. {self._advice}".rstrip(),  # noqa: E501
                missing=True,
            )
        silent = [number for number, rank in sorted(self.ranks.items()) if not rank.finished]
        if silent:
            return Outcome(
                status or 1,
                f"{self._launcher} ended with status {status} while {format_ranks(silent)} still"
                " ran: by MPI_Abort, or because a host or one of the job's processes is lost.",
                missing=True,
            )
        if status:
            words = f"all ranks have finished, but their launcher ended with status {status}."
            return Outcome(status, words)
        killed = [rank for rank in self._ended if rank.code and not rank.told]
        return Outcome(0, "\n".join(rank.words() for rank in killed))


class _Limits:
    """Deadlines by name."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def set(self, name: str, seconds: float) -> bool:
        """Sets a deadline, counted from now; True the first time. An earlier deadline replaces a
        later one."""
        at = time.monotonic() + seconds
        new = name not in self._at
        self._at[name] = min(at, self._at.get(name, at))
        return new

    def over(self, name: str) -> bool:
        """Whether the deadline has passed."""
        return name in self._at and time.monotonic() >= self._at[name]

    def left(self) -> float | None:
        """Seconds until the next deadline; None if there is none."""
        now = time.monotonic()
        return min((at - now for at in self._at.values() if at > now), default=None)


def _kill_with(parent: int) -> Callable[[], None]:
    """For a child between fork and exec: lets the kernel kill it when its parent, the launcher, is
    killed."""
    library = ctypes.CDLL(None)

    def ask() -> None:
        library.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return ask
