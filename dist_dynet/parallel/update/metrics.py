"""What rank 0 writes while a run goes on: lines of metrics, and which rank the others wait for.

It reads the times that ranks report in the negotiation, and sends nothing. `--metrics FILE` of
dist-dynet run sets DIST_DYNET_METRICS; docs/metrics.md describes the lines.
"""

from __future__ import annotations

import atexit
import itertools
import json
import math
import os
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _launcher, meter
from ..._environment import number
from ..._ffi import lib
from ..._weak import WeakSet
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ...trainers.stats import slowest
from ..agreement.message import METER_READING
from ..agreement.negotiation import Negotiation
from ..processes.failures import report
from ..processes.world import World

FILE = os.environ.get("DIST_DYNET_METRICS", "")

EVERY = number("DIST_DYNET_METRICS_EVERY", 100, least=1)
"""Updates between two lines; inf: no lines."""

SHORTEST = 1.0
"""Shortest time in seconds over which slow ranks are looked for: over less, chance decides."""

PAUSE, LONGEST_PAUSE = 10.0, 600.0
"""Seconds between two reports of the same slow ranks: doubled each time, up to the second."""

FEW = 16
"""With up to so many ranks, a line has the numbers of each."""

RESERVED = (
    *("run", "attempt", "trainer", "update", "updates", "time", "wall", "ranks", "seconds"),
    *("bytes", "learning_rate", "gradient_norm", "slowest"),
)
"""The names of a line's own fields."""

_numbers = itertools.count(1)
_began = round(time.time(), 3)

Sink = Callable[[dict[str, Any]], None]
"""Receives lines; str() names it."""

Meters = Callable[[], tuple[NDArray[Any], int]]
"""Returns the METER_READING that each rank has reported, and the number of the update in which it
did."""


def seconds_of(meters: NDArray[Any]) -> dict[str, list[float]]:
    """By phase, the seconds of each rank."""
    table = (meters["nanoseconds"] * 1e-9).T.tolist()
    return dict(zip(meter.PHASES, table, strict=True))


def added(now: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    """The difference to an earlier reading."""
    result = np.empty_like(now)
    for name in now.dtype.names or ():
        result[name] = now[name] - before[name]
    return result


class _Window:
    """The time since the last look: one window for lines, one for naming slow ranks."""

    def __init__(self) -> None:
        self.meters: NDArray[Any] | None = None
        self.count = 0

    def move(self, meters: NDArray[Any], count: int) -> tuple[NDArray[Any], int]:
        """Starts a new window at these readings. Returns what was added, and in how many
        updates."""
        assert self.meters is not None
        result = added(meters, self.meters), count - self.count
        self.meters, self.count = meters, count
        return result


class Report:
    """Follows the updates of one trainer, on the first of its ranks.

    Args:
        trainer: the trainer itself, or the one that is wrapped.
        hosts: the host of each rank.
        members: the number of each rank in the job.
        meters: as Meters.
        every: updates between two lines.
    """

    def __init__(
        self,
        trainer: Trainer,
        hosts: Sequence[str],
        members: Sequence[int],
        meters: Meters,
        every: float = EVERY,
    ) -> None:
        self._trainer, self._hooks = weakref.ref(trainer), Hooks(trainer)
        self._hosts, self._members, self._meters = hosts, list(members), meters
        self._every, self._process = every, os.getpid()
        self._sinks: list[Sink] = []
        self.attempt = int(os.environ.get("DIST_DYNET_ATTEMPT") or 0)
        """How many times the run was started before."""
        self.further: Callable[[], dict[str, float]] = dict
        """Returns additional values for each line."""
        self._number, self._count = next(_numbers), 0
        self._lines, self._naming = _Window(), _Window()
        self._next: float = 1
        self._named: tuple[int, ...] = ()
        self._pause, self._silent_until = PAUSE, 0.0

    def write_to(self, sink: Sink, every: float | None = None) -> None:
        """Also writes lines to this sink, at least at every so many updates."""
        self._sinks.append(sink)
        if every is not None and every < self._every:
            self._every, self._next = every, min(self._next, self._count + every)

    def updated(self) -> None:
        """Called after each update."""
        self._count += 1
        if self._count >= self._next:
            self._look()

    def _look(self) -> None:
        if os.getpid() != self._process:  # a forked child trains for itself
            self._next = math.inf
            return
        latest, update = self._meters()
        meters = latest.copy()
        if self._lines.meters is None:  # what came before the first update is no part of it
            self._begin(meters, update)
            self._next = self._count + self._every - 1
            return
        if update == self._lines.count:  # nothing new has been said yet
            return
        self._next = self._count + self._every
        if self._sinks:
            self._write(*self._lines.move(meters, update))
        if len(meters) > 1:
            self._name_the_slowest(meters, update)

    def _begin(self, meters: NDArray[Any], update: int) -> None:
        for window in (self._lines, self._naming):
            window.meters, window.count = meters, update

    def write(self) -> None:
        """Writes a line now, whether or not there were updates since the last one."""
        if os.getpid() != self._process:
            return
        latest, update = self._meters()
        if self._lines.meters is None:
            self._begin(latest.copy(), update)
        self._next = self._count + self._every
        self._write(*self._lines.move(latest.copy(), update))

    def end(self) -> None:
        """Writes a last line at the end of the program, if there were updates since the last
        one."""
        if os.getpid() != self._process:
            return
        latest, update = self._meters()
        if self._sinks and self._lines.meters is not None and update > self._lines.count:
            self._write(*self._lines.move(latest.copy(), update))

    # ---- lines -------------------------------------------------------------------------

    def line(self, spent: NDArray[Any], updates: int) -> dict[str, Any]:
        """The line for so many updates."""
        trainer = self._trainer()
        assert trainer is not None
        seconds, stats = seconds_of(spent), trainer.stats()
        few = len(spent) <= FEW
        found = slowest(seconds)
        return {
            "run": _began,
            "attempt": self.attempt,
            "trainer": self._number,
            "update": stats.updates,
            "updates": updates,
            "time": round(time.time(), 3),
            "wall": _rounded(max(map(sum, zip(*seconds.values(), strict=True)))),
            "ranks": self._members if few else len(spent),
            "seconds": {
                phase: [_rounded(s) for s in of] if few else _summary(of, self._members)
                for phase, of in seconds.items()
            },
            "bytes": int(spent["bytes"].sum()),
            "learning_rate": stats.learning_rate,
            "gradient_norm": _finite(stats.gradient_norm),
            "slowest": found and [self._members[rank] for rank in found.ranks],
            **{
                name if name not in RESERVED else f"{name}_": _finite(value)
                for name, value in {**self.further(), **self._hooks.take_logged()}.items()
            },
        }

    def _write(self, spent: NDArray[Any], updates: int) -> None:
        if self._trainer() is None:
            return
        line = self.line(spent, updates)
        for sink in tuple(self._sinks):
            try:
                sink(line)
            except OSError as error:
                report(f"metrics: {sink} cannot be written: {error.strerror}. There are no more.")
                self._sinks.remove(sink)

    # ---- slow ranks --------------------------------------------------------------------

    def _name_the_slowest(self, meters: NDArray[Any], update: int) -> None:
        assert self._naming.meters is not None
        spent = added(meters, self._naming.meters)
        if spent["nanoseconds"][0].sum() < SHORTEST * 1e9:
            return
        self._naming.move(meters, update)
        found = slowest(seconds_of(spent))
        now = float(meters["nanoseconds"][0].sum()) * 1e-9
        if found is None or (found.ranks == self._named and now < self._silent_until):
            return
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if found.ranks == self._named else PAUSE
        self._named, self._silent_until = found.ranks, now + self._pause
        members = tuple(self._members[rank] for rank in found.ranks)
        hosts = dict(zip(self._members, self._hosts, strict=True))
        say(f"{found._replace(ranks=members).words(hosts)}.")


def say(text: str) -> None:
    """Writes one line to stderr."""
    sys.stderr.write(f"dist_dynet: {text}\n")
    sys.stderr.flush()


def _rounded(seconds: float) -> float:
    return round(seconds, 9)


def _finite(value: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None


def _summary(values: Sequence[float], members: Sequence[int]) -> dict[str, float]:
    """A summary, used where there are many ranks.

    >>> _summary([1.0, 4.0, 2.0], [0, 1, 2])
    {'min': 1.0, 'min_rank': 0, 'median': 2.0, 'max': 4.0, 'max_rank': 1}
    """
    least, most = (values.index(chosen) for chosen in (min(values), max(values)))
    return {
        "min": _rounded(values[least]),
        "min_rank": members[least],
        "median": _rounded(float(np.median(values))),
        "max": _rounded(values[most]),
        "max_rank": members[most],
    }


class JsonLinesFile:
    """Appends lines of JSON to a file, each in a single write, as a whole or not at all."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name

    def __call__(self, line: dict[str, Any]) -> None:
        """Appends one line."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        text = (json.dumps(line, allow_nan=False) + "\n").encode()
        file, done = os.open(self._name, flags, 0o666), 0
        try:
            while done < len(text):
                done += os.write(file, text[done:])
        except OSError:  # a full disk takes the beginning of a line
            with suppress(OSError):
                end = os.lseek(file, 0, os.SEEK_CUR)
                if done and os.fstat(file).st_size == end:
                    os.ftruncate(file, end - done)
            raise
        finally:
            os.close(file)


# ---- which trainers are followed -------------------------------------------------------

_reports: weakref.WeakValueDictionary[int, Report] = weakref.WeakValueDictionary()
"""By the id of the trainer, whose hooks keep the report alive."""
_ending: WeakSet[Report] = WeakSet()
"""Reports that end with the process."""


def follow(
    trainer: Trainer,
    hosts: Sequence[str],
    members: Sequence[int],
    meters: Meters,
    every: float = EVERY,
) -> Report:
    """Starts to report on this trainer."""
    report_ = _reports[id(trainer)] = Report(trainer, hosts, members, meters, every)
    if FILE and not math.isinf(EVERY):
        report_.write_to(JsonLinesFile(FILE))
    Hooks(trainer).after(report_.updated)
    _ending.add(report_)
    _end_at_exit()
    return report_


@cache
def _end_at_exit() -> None:
    """Registers once: atexit never forgets what it was given."""
    atexit.register(_end_all)


def _end_all() -> None:
    for report_ in (*_ending,):
        report_.end()


def report_on(trainer: Trainer) -> Report | None:
    """The report on a trainer, or on the one that it wraps; None on ranks that write nothing."""
    followed = _reports.get(id(trainer))
    if followed is None and _launcher.find() is None:
        return follow_alone(trainer)
    return followed


def follow_negotiated(trainer: Trainer, here: World, negotiation: Negotiation) -> None:
    """Starts to report on a distributed trainer, on the first of its ranks."""
    lib.dn_meter_follow()
    if here.rank == 0:
        hosts = [here.hosts[member] for member in here.members]
        meters = negotiation.meters
        follow(trainer, hosts, here.members, lambda: (meters.latest, meters.update))


def follow_all_trainers() -> None:
    """Reports on every trainer of a single-process program, if there is a file."""
    if FILE and _launcher.find() is None:
        Hooks.on_new(Trainer, follow_alone)


def follow_alone(trainer: Trainer) -> Report:
    """Starts to report on a trainer of a single process."""
    made = weakref.ref(trainer)

    def meters() -> tuple[NDArray[Any], int]:
        reading, present = meter.read(), made()
        readings = np.array([(reading.nanoseconds, reading.bytes)], METER_READING)
        return readings, 0 if present is None else present.updates

    return follow(trainer, [""], [0], meters)
