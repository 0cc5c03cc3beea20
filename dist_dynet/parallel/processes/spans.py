"""Where the time of all ranks goes: what the ranks report, lines of metrics, and the timeline.

C records the phases of a process (csrc/meter.c), as sums and, for a timeline, as spans. `--metrics
FILE` and `--timeline FILE` of dist-dynet run set DIST_DYNET_METRICS and DIST_DYNET_TIMELINE.
docs/metrics.md describes both files.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _launcher, meter
from ..._environment import number
from ..._ffi import lib
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ...trainers.stats import slowest
from . import failures
from .hosts import identity
from .world import World

METRICS = os.environ.get("DIST_DYNET_METRICS", "")
EVERY = number("DIST_DYNET_METRICS_EVERY", 100, least=1)
"""Updates between two lines; inf: no lines."""
TIMELINE = os.environ.get("DIST_DYNET_TIMELINE", "")

_LEAST = 1.0
"""Seconds over which slow ranks are looked for at least: over less, chance decides."""
_MOST_SPANS = 1_000_000
"""Spans that a rank records: viewers do not handle more."""
_SHORTEST = 1000
"""Nanoseconds of the shortest span that is shown: viewers count in microseconds."""
_ROUNDS = 20
"""Round trips by which clocks are compared; the fastest counts."""
_SPAN = struct.Struct("=qqq")  # dn_span
_COLOURS = (
    *("thread_state_running", "terrible", "thread_state_iowait", "yellow"),
    *("thread_state_runnable", "grey", "thread_state_uninterruptible"),
)
"""By phase, names from the palette of chrome://tracing."""


# ---- what the ranks report -------------------------------------------------------------


class Meters:
    """The latest times that all ranks have reported, in the messages before an update."""

    def __init__(self, ranks: int) -> None:
        self.latest: NDArray[Any] = np.zeros(ranks, meter.READING)
        self.update = 0
        """The update in which `latest` was reported."""
        self.first: NDArray[Any] | None = None
        """The times of the first update."""

    def take(self, readings: NDArray[Any], update: int) -> None:
        """Stores the times that all ranks have reported in this update."""
        self.latest, self.update = readings, update
        if self.first is None:
            self.first = readings.copy()

    def seconds(self) -> dict[str, list[float]]:
        """By phase, the seconds of each rank from the first update to the last report."""
        first = self.latest if self.first is None else self.first
        return _seconds(self.latest["nanoseconds"] - first["nanoseconds"])


def _seconds(nanoseconds: NDArray[Any]) -> dict[str, list[float]]:
    """By phase, the seconds of each rank."""
    return dict(zip(meter.PHASES, (nanoseconds.T * 1e-9).tolist(), strict=True))


# ---- lines of metrics ------------------------------------------------------------------

Sink = Callable[[dict[str, Any]], None]
"""Receives lines; str() names it."""

_numbers = count(1)
_began = round(time.time(), 3)


class Report:
    """Follows the updates of one trainer, on the first of its ranks.

    Args:
        trainer: the trainer itself, or the one that is wrapped.
        readings: returns the reading of each rank, and in which update they were taken.
        members: the number of each rank in the job.
        hosts: the host of each rank.
        every: updates between two lines.
    """

    def __init__(
        self,
        trainer: Trainer,
        readings: Callable[[], tuple[NDArray[Any], int]],
        members: Sequence[int] = (0,),
        hosts: Sequence[str] = ("",),
        every: float = EVERY,
    ) -> None:
        self.trainer, self._readings, self._every = trainer, readings, every
        """Lines show updates, rate, norm and logged numbers of this trainer."""
        self._members, self._hosts = list(members), hosts
        self._sinks: list[Sink] = []
        self.attempt = int(os.environ.get("DIST_DYNET_ATTEMPT") or 0)
        """How many times the run was started before."""
        self.further: Callable[[], dict[str, float]] = dict
        """Returns additional values for each line."""
        self._number, self._count, self._next = next(_numbers), 0, 1.0
        self._first: NDArray[Any] | None = None
        self._last: tuple[NDArray[Any], int] | None = None
        self._process, self._named = os.getpid(), False

    def write_to(self, sink: Sink, every: float | None = None) -> None:
        """Also writes lines to this sink, at least at every so many updates."""
        self._sinks.append(sink)
        if every is not None and every < self._every:
            self._every, self._next = every, min(self._next, self._count + every)

    def updated(self) -> None:
        """Called after each update. What came before the first update is part of no line."""
        self._count += 1
        if self._count < self._next:
            return
        if self._last is None:
            self._begin()
            self._next = self._count + self._every - 1
        elif self._readings()[1] != self._last[1]:
            self.write()

    def _begin(self) -> tuple[NDArray[Any], int]:
        readings, update = self._readings()
        self._last = self._first, _ = readings.copy(), update
        return self._last

    def write(self) -> None:
        """Writes a line now, whether or not there were updates since the last one."""
        if os.getpid() != self._process:  # a forked child trains for itself
            return
        before, then = self._last or self._begin()
        readings, update = self._readings()
        self._last = now, _ = readings.copy(), update
        self._next = self._count + self._every
        line = self._line(now, before, update - then) if self._sinks else {}
        for sink in tuple(self._sinks):
            try:
                sink(line)
            except OSError as error:
                failures.report(
                    f"metrics: {sink} cannot be written: {error.strerror}. There are no more."
                )
                self._sinks.remove(sink)
        if not self._named and self._first is not None:
            self._name_the_slowest(now["nanoseconds"] - self._first["nanoseconds"])

    def end(self) -> None:
        """Writes a last line if there were updates since the last one. Names no slow ranks: few
        updates say little of them."""
        if self._last is not None and self._readings()[1] > self._last[1]:
            self._named = True
            self.write()

    def _line(self, now: NDArray[Any], before: NDArray[Any], updates: int) -> dict[str, Any]:
        nanoseconds, stats = now["nanoseconds"] - before["nanoseconds"], self.trainer.stats()
        seconds = _seconds(nanoseconds)
        found = slowest(seconds)
        line = {
            "run": _began,
            "attempt": self.attempt,
            "trainer": self._number,
            "update": stats.updates,
            "updates": updates,
            "time": round(time.time(), 3),
            "wall": round(1e-9 * int(nanoseconds.sum(axis=1).max()), 9),
            "ranks": self._members,
            "seconds": {phase: [round(s, 9) for s in of] for phase, of in seconds.items()},
            "bytes": int((now["bytes"] - before["bytes"]).sum()),
            "learning_rate": stats.learning_rate,
            "gradient_norm": _finite(stats.gradient_norm),
            "slowest": found and [self._members[rank] for rank in found.ranks],
        }
        logged = {**self.further(), **Hooks(self.trainer).take_logged()}
        own = {name + "_" * (name in line): _finite(x) for name, x in logged.items()}
        return {**line, **own}

    def _name_the_slowest(self, nanoseconds: NDArray[Any]) -> None:
        found = slowest(_seconds(nanoseconds))
        if found is not None and nanoseconds[0].sum() >= _LEAST * 1e9:
            self._named = True
            hosts = dict(zip(self._members, self._hosts, strict=True))
            ranks = tuple(self._members[rank] for rank in found.ranks)
            _say(f"{found._replace(ranks=ranks).words(hosts)}. trainer.stats() has the times.")


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # a stderr that is closed
        sys.stderr.write(f"dist_dynet: {text}\n")
        sys.stderr.flush()


def _finite(value: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None


class JsonLinesFile:
    """Appends lines of JSON to a file, each in a single write."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name

    def __call__(self, line: dict[str, Any]) -> None:
        """Appends one line."""
        with Path(self._name).open("ab", 0) as file:
            file.write((json.dumps(line, allow_nan=False) + "\n").encode())


_reports: weakref.WeakValueDictionary[int, Report] = weakref.WeakValueDictionary()
"""By the id of the trainer, whose hooks keep the report alive."""


def follow(trainer: Trainer, *arguments: Any) -> Report:
    """Starts to report on this trainer; arguments: the others of Report."""
    report = _reports[id(trainer)] = Report(trainer, *arguments)
    if METRICS and not math.isinf(EVERY):
        report.write_to(JsonLinesFile(METRICS))
    Hooks(trainer).after(report.updated)
    return report


def follow_negotiated(trainer: Trainer, here: World, meters: Meters) -> None:
    """Starts to report on a distributed trainer, on the first of its ranks."""
    lib.dn_meter_follow()
    if here.rank == 0:
        hosts = [here.hosts[member] for member in here.members]
        follow(trainer, lambda: (meters.latest, meters.update), here.members, hosts)


def follow_alone(trainer: Trainer) -> Report:
    """Starts to report on a trainer of a single process."""
    return follow(trainer, lambda: (meter.reading(), trainer.updates))


def report_on(trainer: Trainer) -> Report | None:
    """The report on a trainer, or on the one that it wraps; None on ranks that write nothing."""
    followed = _reports.get(id(trainer))
    return follow_alone(trainer) if followed is None and _launcher.find() is None else followed


def show_in_place(averages: Trainer, trainer: Trainer) -> None:
    """Lets the report on a trainer whose updates are averages show the trainer that is averaged."""
    if report := _reports.get(id(averages)):
        report.trainer = trainer
        _reports[id(trainer)] = report


# ---- the timeline ----------------------------------------------------------------------


class Recording:
    """The timeline of this process. C writes its spans into a part, `FILE.parts/rank-3`, while it
    runs, so that they exist however it ends. At the end rank 0 collects the parts.

    Args:
        file: the timeline.
        here: all ranks.
        comm: their communicator; None in a single process.
        began: the time of rank 0's clock from which the timeline counts.
    """

    def __init__(self, file: Path, here: World, comm: Any, began: int) -> None:
        self._file, self._here, self._comm, self._process = file, here, comm, os.getpid()
        self._part = _folder_of(file) / f"rank-{here.rank}"
        ahead, uncertainty = compare_clocks(here, comm)
        head = {"rank": here.rank, "size": here.size, "host": here.host, "ahead": ahead - began}
        head["clock_error_ns"] = uncertainty
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            part = os.open(self._part, flags, 0o666)
            os.write(part, json.dumps(head).encode() + b"\n")
        except OSError as error:
            failures.report(f"timeline: {error}. This rank will be missing.")
            return
        lib.dn_meter_record(part, _MOST_SPANS)
        os.register_at_fork(after_in_child=lambda: lib.dn_meter_record(-1, 0))

    def stop(self) -> None:
        """Ends the recording. If the job fails, dist-dynet makes the file of the parts."""
        if os.getpid() == self._process:
            error = lib.dn_meter_flush()
            lib.dn_meter_record(-1, 0)
            if error:
                failures.report(
                    f"timeline: {self._part} could not be written: {os.strerror(error)}."
                )

    def finish(self) -> None:
        """Makes the file at a regular end of the program. Collective."""
        if os.getpid() != self._process:
            return
        self.stop()
        mine = b""
        with suppress(OSError):
            mine = self._part.read_bytes()
        if self._here.rank:
            self._comm.send(mine, 0)
        else:
            others = range(1, self._here.size)
            parts = chain([mine], (self._comm.recv(source=rank) for rank in others))
            try:
                _say(write_timeline(self._file, parts))
            except RuntimeError as error:
                failures.report(f"timeline: {error}")
            for _ in parts:  # ranks wait until theirs is received
                pass
        with suppress(OSError):
            self._part.unlink()
            self._part.parent.rmdir()


def compare_clocks(here: World, comm: Any) -> tuple[int, int]:
    """How far rank 0's clock is ahead of this rank's, and the uncertainty, in nanoseconds.
    Collective.

    Ranks of one host read the same clock. Every other rank, one after the other, asks rank 0 for
    its time. Rank 0 reads its clock at some moment between question and answer; their middle is
    taken for it, in the fastest round trip. The error is at most half the time of this round trip.
    """
    if comm is None:
        return 0, 0
    hosts, told, found = comm.allgather(identity()), np.zeros(1, np.int64), []
    for rank in range(1, here.size):
        if (hosts[rank] is not None and hosts[rank] == hosts[0]) or here.rank not in (0, rank):
            continue
        for _ in range(_ROUNDS):
            asked = lib.dn_meter_now()
            if here.rank == 0:
                comm.Recv(told, rank)
                told[0] = lib.dn_meter_now()
                comm.Send(told, rank)
            else:
                comm.Send(told, 0)
                comm.Recv(told, 0)
                answered = lib.dn_meter_now()
                found.append((answered - asked, int(told[0]) - (asked + answered) // 2))
    took, ahead = min(found, default=(0, 0))
    return ahead, (took + 1) // 2


def _folder_of(file: Path) -> Path:
    """The folder of a timeline's parts."""
    return file.with_name(f"{file.name}.parts")


def _remove(folder: Path) -> None:
    import shutil  # as below: imported only if spans are recorded

    shutil.rmtree(folder, ignore_errors=True)


def begin(here: World) -> None:
    """Starts the recording on all ranks, if rank 0 is asked to record. Collective."""
    file, began = here.comm.bcast((TIMELINE and str(Path(TIMELINE).absolute()), lib.dn_meter_now()))
    if file:
        if here.rank == 0:  # of a job that was killed
            _remove(_folder_of(Path(file)))
        recording = Recording(Path(file), here, here.duplicate(), began)
        failures.at_end_of_job(recording.finish, recording.stop)


@cache
def _begin_alone() -> None:
    alone = Recording(Path(TIMELINE).absolute(), World(None), None, lib.dn_meter_now())
    atexit.register(alone.finish)


def write_timeline(file: Path, parts: Iterable[bytes]) -> str:
    """Makes a timeline in Chrome's trace format, with a process per host and a thread per rank.
    Returns a description of it.

    Raises:
        RuntimeError: it cannot be written.
    """
    from ... import trace_events

    heads: list[dict[str, Any]] = []
    trace_events.write(file, _events(parts, heads), {"ranks": heads}, "timeline")
    size = heads[0]["size"] if heads else 0
    missing = sorted({*range(size)} - {head["rank"] for head in heads})
    return f"timeline: {file} has {len(heads)} of {size} ranks" + (
        f"; it lacks {missing}." if missing else "."
    )


def _events(parts: Iterable[bytes], heads: list[dict[str, Any]]) -> Iterator[str]:
    """The events of all parts; their heads are added to `heads`."""
    from ... import trace_events

    hosts: list[str] = []
    for part in parts:
        text, _, spans = part.partition(b"\n")
        try:
            head = json.loads(text)
        except ValueError:  # the rank could not write, or died while it did
            continue
        heads.append(head)
        rank, host, ahead = head["rank"], head["host"], head["ahead"]
        if host not in hosts:
            hosts.append(host)
            yield trace_events.named("process_name", len(hosts), 0, host)
        process = hosts.index(host) + 1
        yield trace_events.named("thread_name", process, rank + 1, f"rank {rank}")
        whole = len(spans) // _SPAN.size * _SPAN.size
        for begin_, end, phase in _SPAN.iter_unpack(spans[:whole]):
            if end - begin_ >= _SHORTEST:
                name, at, colour = meter.PHASES[phase], begin_ + ahead, _COLOURS[phase]
                yield trace_events.span(name, process, rank + 1, at, end + ahead, cname=colour)


def merge_parts(file: Path) -> str:
    """Makes the timeline of the parts that a job has left which was killed, and removes them.
    Returns a description; empty if there are none.

    Raises:
        RuntimeError: it cannot be written; the parts stay.
    """
    folder = _folder_of(file)
    paths = sorted(folder.glob("rank-*"), key=lambda p: int(p.name.partition("-")[2]))
    if not paths:
        return ""
    words = write_timeline(file, (path.read_bytes() for path in paths))
    _remove(folder)
    return words


def _end_all() -> None:
    for report in tuple(_reports.values()):
        report.end()


def install() -> None:
    """Follows the trainers of a single-process program, if there is a file."""
    atexit.register(_end_all)
    if METRICS and _launcher.find() is None:
        Hooks.on_new(Trainer, follow_alone)
    if TIMELINE and _launcher.find() is None:
        Hooks.on_new(Trainer, lambda _: _begin_alone())
