"""A process between mpirun and one rank's script: starts the script, passes on its output in
frames, and reports how it ended.

    python -I -S _relay.py RANK RANKS FOLDER COMMAND...

RANK is a number, or the name of the environment variable that holds it; RANKS is the number of
ranks. FOLDER has the sitecustomize.py by which the script reports that it ended normally. This file
is run by its path and imports only the standard library, so that a rank costs 15 ms and 8 MB more,
not a second NumPy.

A frame is a line that begins with MARKER, rank and kind; output of mpirun itself has no MARKER.
Programs write parts of lines, and mpirun forwards them as they come, mixed with those of other
ranks. Frames reach the launcher whole: see Pipe.

The script stays in the process group that mpirun has made for the rank, so that signals to the rank
reach both, and killing the group leaves nobody behind. A further, sleeping process kills the group
if the relay is killed. Slurm makes one group for all ranks of a step on a node, and itself ends
what a rank has started. If the relay is killed, the kernel kills the script; if the launcher is
gone, the pipe breaks and the relay ends the rank.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import time

MARKER = b"\x1e"
LINE, PART, BAR, MARK = b"l", b"p", b"b", b"m"
"""Kinds of frames: a line (or the end of one); the beginning of a long line; the present state of a
progress bar; a record."""

MISSING, LEFT = 75, 76
"""Status of a rank that waits for one that gives no answer, and of a rank that ended with status 0
but not through the end of its program (os._exit(0)); as in parallel/processes/failures.py."""

_PIECE, _MOST = 1500, 4000
"""Bytes of text in a frame, and bytes in a write: POSIX promises 4096 in one piece."""
STDIN = "DIST_DYNET_STDIN"
"""The variable with what rank 0 reads, if mpirun does not pass it on."""
MOST_OF_VALUE = 800
"""Bytes of a value that MPICH sends to Slurm."""
_LINGER = 1.0
"""Seconds that the output of a script is read after its end, if a child of it keeps the pipe
open."""


def place() -> str:
    """Identifies the space of process ids: the boot of the machine, and the PID namespace."""
    try:
        # pathlib takes longer to import than the rest
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:  # noqa: PTH123
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return ""


def oom_kills(listing: str = "/proc/self/cgroup", mounted: str = "/sys/fs/cgroup") -> int:
    """How many processes of this control group the kernel has killed for lack of memory; those of
    the whole machine if groups are not counted."""
    files = []
    for entry in _lines_of(listing):
        _, controllers, group = entry.split(":", 2)
        if "memory" in controllers.split(","):  # version 1
            files += [f"{mounted}/memory{part}/memory.oom_control" for part in (group, "")]
        elif not controllers:
            # a container may see its own group as the root
            files += [f"{mounted}{part}/memory.events" for part in (group, "")]
    for file in (*files, "/proc/vmstat"):
        for line in _lines_of(file):
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def files_for(ranks: int) -> int:
    """How many files a rank may have open at once in a job of so many ranks: MPICH opens two for
    each other rank at the start and some of its own, and the script opens some."""
    return 2 * ranks + 100


def raise_files(needed: int) -> int:
    """Raises the limit of open files of this process, and of those it starts, as far as the system
    allows, if `needed` exceeds it; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < needed and hard != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # some systems allow less than they report
            pass
    return sys.maxsize if soft == unlimited else soft


def _lines_of(file: str) -> list[str]:
    try:
        # names of groups and files may be of any bytes
        with open(file, encoding="utf-8", errors="surrogateescape") as opened:  # noqa: PTH123
            return opened.read().splitlines()
    except OSError:
        return []


class Pipe:
    """Writes frames to a descriptor of this process, several in one write.

    A write of whole frames that is no longer than a pipe takes atomically is passed on in one
    piece: MPICH's mpirun reads as much as a pipe can hold, Open MPI's and srun hold back an
    incomplete line.
    """

    def __init__(self, descriptor: int, rank: int) -> None:
        self._descriptor, self._head = descriptor, MARKER + b"%d" % rank
        self._frames = bytearray()

    def put(self, kind: bytes, content: bytes) -> None:
        """Adds a frame; the content has no newline. Long content is split, and only the last piece
        has this kind."""
        while len(content) > _PIECE:
            self._add(PART, content[:_PIECE])
            content = content[_PIECE:]
        self._add(kind, content)

    def _add(self, kind: bytes, content: bytes) -> None:
        frame = self._head + kind + content + b"\n"
        if len(self._frames) + len(frame) > _MOST:
            self.flush()
        self._frames += frame

    def flush(self) -> None:
        """Writes the frames. Ends the rank if nobody reads any more."""
        try:
            while self._frames:  # a signal may interrupt a write
                del self._frames[: os.write(self._descriptor, self._frames)]
        except OSError:
            end_the_rank()


class Lines:
    """Splits a script's output into lines. Of a progress bar that overwrites itself only the
    present state is passed on."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe, self._text = pipe, b""

    def feed(self, data: bytes) -> None:
        """Passes on complete lines."""
        *complete, self._text = (self._text + data).split(b"\n")
        for line in complete:
            self._pipe.put(LINE, visible(line))
        if b"\r" in self._text:
            self._pipe.put(BAR, visible(self._text)[:_PIECE])
            self._text = self._text[self._text.rstrip(b"\r").rfind(b"\r") + 1 :]
        while len(self._text) > _PIECE:
            self._pipe.put(PART, self._text[:_PIECE])
            self._text = self._text[_PIECE:]
        self._pipe.flush()

    def close(self) -> None:
        """Passes on a last line that has no newline."""
        if self._text:
            self._pipe.put(LINE, visible(self._text))
            self._text = b""
        self._pipe.flush()


def visible(line: bytes) -> bytes:
    r"""The visible part of a line with carriage returns.

    >>> visible(b"\r10 %\r20 %"), visible(b"text\r"), visible(b"")
    (b'20 %', b'text', b'')
    """
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def kill_the_others() -> None:
    """Kills all processes of this rank's group except this one, which still has to report."""
    mine, group = os.getpid(), os.getpgid(0)
    if group != mine:  # the launcher makes no groups
        return
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if name.isdigit() and int(name) != mine:
            try:
                if os.getpgid(int(name)) == group:
                    os.kill(int(name), signal.SIGKILL)
            except OSError:  # has ended
                continue


def end_the_rank() -> None:
    """Kills the script and all that it started, this process included."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)  # then the kernel kills the script


def guard_the_group() -> int:
    """Starts a process that kills this rank's group when this process is killed, since not every
    launcher kills groups. It ends when the returned descriptor gets a byte. If fork() fails there
    is none."""
    reading, writing = os.pipe()
    group = os.getpid()
    try:
        if os.fork():
            os.close(reading)
            return writing
    except OSError:
        return writing
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # mpirun waits for their end
        os.dup2(nowhere, descriptor)
    os.close(writing)
    if not os.read(reading, 1):
        os.killpg(group, signal.SIGKILL)
    os._exit(0)


def release(guard: int) -> None:
    """Ends the process that guards the group."""
    try:  # noqa: SIM105 - contextlib would be imported for it
        os.write(guard, b"!")
    except OSError:  # it was killed
        pass


def opened(source: str) -> int:
    """A descriptor for what another process reads through /proc/PID/fd/NUMBER, at its present
    position; or for any other file.

    >>> os.close(opened(f"/proc/{os.getpid()}/fd/{opened(os.devnull)}"))
    """
    # non-blocking: the writers of a named pipe may have ended
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    for line in _lines_of(source.replace("/fd/", "/fdinfo/")) if "/fd/" in source else ():
        name, _, position = line.partition(":")
        if name == "pos" and int(position):
            os.lseek(descriptor, int(position), os.SEEK_SET)
    return descriptor


def start(command: list[str], folder: str, source: str, out: int, err: int, end: int) -> int:
    """Starts the script with these descriptors, and with `source` as stdin unless that is empty.
    The script dies with this process."""
    path = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        "PYTHONPATH": folder + (os.pathsep + path if path else ""),
        "DIST_DYNET_END": str(end),
    }
    library, parent = ctypes.CDLL(None), os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        # Python ignores them, and a program inherits that
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        # means "checkpoint now"; must not kill a script that has no handler yet
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        library.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == parent:
            os.dup2(out, 1)
            os.dup2(err, 2)
            if source:
                os.dup2(opened(source), 0)
            os.set_inheritable(end, True)
            os.execvpe(command[0], command, environment)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def take_leave() -> None:
    """Tells mpirun that this rank has ended well, as MPICH does at the very end of a process: for a
    script that was killed shortly before. MPICH's mpirun would kill the other ranks."""
    descriptor = os.environ.get("PMI_FD", "")
    if not descriptor.isdigit():
        return
    try:
        os.write(int(descriptor), b"cmd=finalize\n")
        poll = select.poll()
        poll.register(int(descriptor), select.POLLIN)
        poll.poll(1000)  # for its answer
    except OSError:  # MPICH has done so
        pass


class Pmi:
    """A proxy between a script and Slurm's process manager, through which the ranks of MPICH
    exchange their addresses.

    Slurm truncates lines at 1024 bytes, but tells MPICH that values alone may be that long. So
    MPICH is told a lower limit.
    """

    def __init__(self, manager: int) -> None:
        self._ours, scripts = socket.socketpair()
        self._other = {manager: self._ours.fileno(), self._ours.fileno(): manager}
        self._manager, self._scripts = manager, scripts
        os.set_inheritable(scripts.fileno(), True)
        os.environ["PMI_FD"] = str(scripts.fileno())

    def begin(self, poll: select.poll) -> None:
        """Called when the script has been started."""
        self._scripts.close()
        for descriptor in self._other:
            poll.register(descriptor, select.POLLIN)

    def take(self, descriptor: int, poll: select.poll) -> bool:
        """Passes on data from this descriptor, if it is one of the two. Does nothing once an end is
        closed, although one poll() may still name the other."""
        if descriptor not in self._other:
            return False
        if self._ours.fileno() < 0:
            return True
        try:
            data = os.read(descriptor, 65536)
            if descriptor == self._manager:
                data = narrowed(data)
            os.write(self._other[descriptor], data)
        except OSError:
            data = b""
        if not data:  # the script's end is closed, or the manager's
            for each in self._other:
                poll.unregister(each)
            self._ours.close()
        return True


def narrowed(answer: bytes) -> bytes:
    r"""A process manager's answer, with a lower limit for values if it states one.

    >>> narrowed(b"cmd=maxes keylen_max=64 vallen_max=1024\n")
    b'cmd=maxes keylen_max=64 vallen_max=800\n'
    """
    before, name, rest = answer.partition(b" vallen_max=")
    digits = rest[: len(rest) - len(rest.lstrip(b"0123456789"))]
    if not digits:
        return answer
    return before + name + b"%d" % min(int(digits), MOST_OF_VALUE) + rest[len(digits) :]


class Relay:
    """One rank."""

    def __init__(self, rank: int, group_of_its_own: bool, ranks: int = 1) -> None:
        self._files = raise_files(files_for(ranks))
        self._group_of_its_own, source = group_of_its_own, os.environ.pop(STDIN, "")
        # MPICH leaves the stdin of other ranks open for ever
        self._source = os.devnull if rank else source
        self._pipes = {1: Pipe(1, rank), 2: Pipe(2, rank)}
        self._oom_kills = oom_kills()
        self._told = 0
        """The signal to end that this process got, and with it the whole rank."""
        self._process = 0
        manager = "" if group_of_its_own else os.environ.get("PMI_FD", "")
        self._pmi = Pmi(int(manager)) if manager.isdigit() else None
        self._leads = os.getpgid(0) == os.getpid()
        """Whether launchers can signal to the rank's group, as mpirun does; else what comes here is
        handed on."""
        self._guard = guard_the_group() if self._leads and group_of_its_own else -1
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._tell)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._hand_on)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _tell(self, number: int, frame: object) -> None:
        self._told = number
        self._hand_on(number, frame)
        if self._process:
            try:  # noqa: SIM105 - contextlib would be imported for it
                os.kill(self._process, signal.SIGCONT)  # a script that is stopped gets it then
            except OSError:  # has ended
                pass

    def _hand_on(self, number: int, _: object) -> None:
        if not self._leads and self._process:
            os.kill(self._process, number)

    def mark(self, **record: object) -> None:
        """Says something to the launcher."""
        self._pipes[2].put(MARK, json.dumps(record).encode())
        self._pipes[2].flush()

    def run(self, command: list[str], folder: str) -> int:
        """Until the script has ended; its status."""
        try:
            out, out_of_script = os.pipe()
            err, err_of_script = os.pipe()
            end, end_of_script = os.pipe()
            process = self._process = start(
                command, folder, self._source, out_of_script, err_of_script, end_of_script
            )
        except OSError as error:
            return self._not_started(error)
        for descriptor in (out_of_script, err_of_script, end_of_script):
            os.close(descriptor)
        self._begun(process)
        lines = {out: Lines(self._pipes[1]), err: Lines(self._pipes[2])}
        code = self._forward(process, lines, end)
        for text in lines.values():
            text.close()
        if (code or self._told) and self._group_of_its_own:
            kill_the_others()  # Open MPI leaves alone what a rank has started and not ended
        if code or os.isatty(1):  # Open MPI's daemon reads through a terminal
            time.sleep(0.1)  # mpirun forwards what was said before it ends the job
        if not code and self._leads and not self._told:
            release(self._guard)  # what the script has left behind may go on
        return code

    def _begun(self, process: int) -> None:
        host, files = socket.gethostname(), self._files
        self.mark(process=process, relay=os.getpid(), host=host, place=place(), files=files)

    def _not_started(self, error: OSError) -> int:
        """The others would wait for this rank in MPI_Init."""
        self._begun(os.getpid())
        words = f"dist-dynet: the script cannot be started: {error.strerror}. See the limits of"
        words += " processes and open files there: ulimit -a, pids.max of its control group."
        self._pipes[2].put(LINE, words.encode())
        self.mark(code=126, finished=False, told=self._told, no_memory=False)
        time.sleep(0.1)  # as in run()
        return 126

    def _forward(self, process: int, lines: dict[int, Lines], end: int) -> int:
        """Passes on output until the script has ended, and what is left of it then; the status."""
        poll = select.poll()
        for descriptor in (*lines, self._woken):
            poll.register(descriptor, select.POLLIN)
        for descriptor in (1, 2):
            poll.register(descriptor, 0)  # an error: nobody reads any more
        if self._pmi:
            self._pmi.begin(poll)
        code, reading, limit = None, set(lines), 0.0
        while code is None or (reading and time.monotonic() < limit):
            for descriptor, event in poll.poll(None if code is None else 100):
                if descriptor in (1, 2):
                    if event & select.POLLERR:
                        end_the_rank()
                    continue
                if self._pmi and self._pmi.take(descriptor, poll):
                    continue
                data = os.read(descriptor, 65536)
                if descriptor in lines:
                    lines[descriptor].feed(data)
                    if not data:
                        poll.unregister(descriptor)
                        reading.discard(descriptor)
            if code is None:
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    code, limit = self._ended(status, end), time.monotonic() + _LINGER
        return code

    def _ended(self, status: int, end: int) -> int:
        """Says at once how the script has ended: a launcher that saw it die may kill this process
        next. The status of this process."""
        self._process, code = 0, os.waitstatus_to_exitcode(status)
        os.set_blocking(end, False)
        try:
            finished = bool(os.read(end, 16))
        except BlockingIOError:  # a child of the script keeps the pipe open
            finished = False
        no_memory = code == -signal.SIGKILL and oom_kills() > self._oom_kills
        self.mark(code=code, finished=finished, told=self._told, no_memory=no_memory)
        if code < 0 and finished and self._group_of_its_own:
            take_leave()
        if code <= 0 and finished:
            return 0
        return 128 - code if code < 0 else code or LEFT


def main() -> int:
    """The status is the script's: 128 + number if a signal has killed it, LEFT if it left without
    an end."""
    rank, ranks, folder, *command = sys.argv[1:]
    number = int(rank if rank.isdigit() else os.environ[rank])
    return Relay(number, rank != "SLURM_PROCID", int(ranks)).run(command, folder)


if __name__ == "__main__":
    sys.exit(main())
