"""Timelines as files: the parts that ranks have written become one file in Chrome's trace format.

Each rank writes a part, `FILE.parts/rank-3`: a line of JSON, then binary records (dn_span). Parts
grow while the job runs, so that they exist however it ends. This module knows files, and nothing
about ranks.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from ... import trace_events
from ...meter import PHASES
from ...trace_events import named

MOST_SPANS = 1_000_000
"""A rank writes at most so many spans: viewers do not handle more."""

SHORTEST = 1000
"""Shortest span that is shown, in nanoseconds: viewers count in microseconds."""

SYNC = -1
"""In place of a phase: at local time `begin` the first rank's clock was `end` ahead."""

_RECORD = struct.Struct("=qqq")
_PARTS = ".parts"
_COLOURS = {
    "compute": "thread_state_running",
    "agreement": "terrible",
    "exchange": "thread_state_iowait",
    "rows": "yellow",
    "update": "thread_state_runnable",
    "save": "grey",
    "evaluate": "thread_state_uninterruptible",
}
"""Names from Chrome's palette; other viewers choose their own."""


def reserve(file: Path) -> Path:
    """Creates the folder for the parts of a new timeline, and thereby chooses its name: `file`, or,
    if that is taken, `file` with -1, -2, ... before its suffix.

    Raises:
        OSError: it cannot be made.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [reserve(Path(folder, "trace.json")).name for _ in range(2)]
    ['trace.json.parts', 'trace-1.json.parts']
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        name = file.with_name(f"{file.stem}-{number}{file.suffix}") if number else file
        folder = name.with_name(name.name + _PARTS)
        with suppress(FileExistsError):
            folder.mkdir()
            if not name.exists():
                return folder
            folder.rmdir()
        number += 1


def open_part(folder: Path, rank: int, head: dict[str, Any]) -> int:
    """A descriptor for the records of a rank, after the head was written.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / f"rank-{rank}"
    part = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    _write(part, json.dumps({"rank": rank, **head}).encode() + b"\n")
    return part


def write_sync(part: int, local: int, ahead: int) -> None:
    """Adds a comparison with the clock of the first rank.

    Raises:
        OSError: it cannot be written.
    """
    _write(part, _RECORD.pack(local, ahead, SYNC))


def _write(part: int, content: bytes) -> None:
    while content:
        content = content[os.write(part, content) :]


class Span(NamedTuple):
    """Begin and end by the first rank's clock, in nanoseconds, and the phase."""

    begin: float
    end: float
    phase: int


class Part:
    """The part that a rank has written. Incomplete records are skipped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            self.head: dict[str, Any] = json.loads(file.readline())
            self._start = file.tell()
            self._syncs = [(b, e) for b, e, phase in self._records(file) if phase == SYNC]

    def _records(self, file: BinaryIO) -> Iterator[tuple[int, int, int]]:
        file.seek(self._start)
        while len(block := file.read(4096 * _RECORD.size)) >= _RECORD.size:
            yield from _RECORD.iter_unpack(block[: len(block) // _RECORD.size * _RECORD.size])

    def _ahead(self, local: float) -> float:
        """How far the first rank's clock is ahead. Clocks drift, so this is interpolated between
        the measurements at the start and, after a regular end, at the end."""
        (first, ahead), (last, ahead_then) = self._syncs[0], self._syncs[-1]
        slope = (ahead_then - ahead) / (last - first) if last > first else 0.0
        return ahead + slope * (local - first)

    def spans(self) -> Iterator[Span]:
        """All spans, in order."""
        with self._path.open("rb") as file:
            for begin, end, phase in self._records(file):
                if phase != SYNC and self._syncs:
                    yield Span(begin + self._ahead(begin), end + self._ahead(end), phase)


def merge(folder: Path) -> str:
    """Makes the timeline from the parts in a folder and removes them. Returns a message; empty if
    another process is doing this now, or there are no parts.

    Raises:
        OSError: it cannot be written; the parts stay.
    """
    target = folder.with_name(folder.name.removesuffix(_PARTS))
    try:
        (folder / "merging").mkdir()
    except (FileExistsError, FileNotFoundError):
        return ""
    draft = folder / "merged"
    try:
        parts = []
        for path in sorted(folder.glob("rank-*"), key=lambda p: int(p.name.partition("-")[2])):
            with suppress(ValueError):  # the rank died while it wrote its first line
                parts.append(Part(path))
        if parts:
            with draft.open("w", encoding="utf-8") as file:
                words = write(file, parts)
            draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        (folder / "merging").rmdir()
        raise
    with suppress(OSError):  # a file server keeps what ranks still have open, under other names
        for path in folder.glob("rank-*"):
            path.unlink()
        (folder / "merging").rmdir()
        folder.rmdir()
    return f"timeline: {target} has {words}" if parts else ""


def merge_all(file: Path, again: bool = False) -> list[str]:
    """Merges all timelines with this name, including numbered ones. again: also those where a
    process was killed while merging."""
    names = [file.name, *(p.name for p in file.parent.glob(f"{file.stem}-*{file.suffix}{_PARTS}"))]
    folders = {file.with_name(name.removesuffix(_PARTS) + _PARTS) for name in names}
    for folder in folders if again else ():
        with suppress(OSError):
            (folder / "merging").rmdir()
    return [words for folder in sorted(folders) if folder.is_dir() and (words := merge(folder))]


def write(file: TextIO, parts: list[Part]) -> str:
    """Writes a timeline in Chrome's trace format: a process per host, a thread per rank. Returns a
    description of its content."""
    hosts = list(dict.fromkeys(part.head["host"] for part in parts))
    first = min((next(part.spans(), Span(0, 0, 0)).begin for part in parts), default=0)
    events: list[dict[str, Any]] = []
    for number, host in enumerate(hosts, 1):
        events += [named("process_name", number, 0, host)]
    for part in parts:
        rank, process = part.head["rank"], hosts.index(part.head["host"]) + 1
        events += [
            named("thread_name", process, rank + 1, f"rank {rank}"),
            {
                "ph": "M",
                "name": "thread_sort_index",
                "pid": process,
                "tid": rank + 1,
                "args": {"sort_index": rank},
            },
        ]
    file.write(trace_events.HEAD)
    file.write(",\n".join(json.dumps(event) for event in events))
    cut = []
    for part in parts:
        rank, process = part.head["rank"], hosts.index(part.head["host"]) + 1
        count = 0
        for begin, end, phase in part.spans():
            count += 1
            if end - begin < SHORTEST:
                continue
            at, until, name = begin - first, end - first, PHASES[phase]
            line = trace_events.span(name, process, rank + 1, at, until, cname=_COLOURS[name])
            file.write(f",\n{line}")
        if count >= MOST_SPANS:
            cut.append(rank)
    size = parts[0].head["size"]
    missing = sorted(set(range(size)) - {part.head["rank"] for part in parts})
    heads = [part.head for part in parts]
    rest = {"ranks": heads, "missing_ranks": missing, "cut_ranks": cut}
    file.write(trace_events.tail(rest))
    words = f"{len(parts)} of {size} ranks" if size > 1 else "one process"
    if missing:
        words += f"; parts of others may be on their hosts, in a folder of this name{_PARTS}"
    if cut:
        words += f"; it ends after {MOST_SPANS:,} spans of a rank"
    return f"{words}."
