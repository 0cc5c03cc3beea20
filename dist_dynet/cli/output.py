"""The output of the ranks: frames in, lines prefixed with the rank out, to the terminal and to a
file per rank.

This module knows frames (_relay.py) and streams, and nothing of processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ._messages import RefusedError, print_message
from ._relay import BAR, LINE, MARK, MARKER, PART

_BAR_EVERY = 10.0
"""Seconds between two states of a progress bar that are written as separate lines."""
_LONGEST = 1 << 20
"""Bytes of a line that are held back until its end arrives."""


class Screen:
    """Standard output and error of the launcher. With several ranks each line begins with the
    rank's name."""

    def __init__(
        self, named: bool, quiet: bool = False, streams: dict[int, BinaryIO] | None = None
    ) -> None:
        self._named, self._quiet = named, quiet
        self._streams: dict[int, BinaryIO] = streams or {1: sys.stdout.buffer, 2: sys.stderr.buffer}
        self._terminal = {stream: file.isatty() for stream, file in self._streams.items()}
        self._bar: set[int] = set()
        self._shown: dict[tuple[int, int], float] = {}

    def line(self, rank: int, stream: int, text: bytes) -> None:
        """Writes one line."""
        if not self._quiet:
            self._write(stream, self._prefix(rank) + text + b"\n")

    def bar(self, rank: int, stream: int, text: bytes) -> None:
        """Shows the state of a progress bar: in place on a terminal, otherwise as an occasional
        line."""
        if self._quiet:
            return
        if not text.strip():  # the bar is removed
            self._clear()
        elif self._terminal[stream]:
            width = os.get_terminal_size(self._streams[stream].fileno()).columns - 1
            shown = (self._prefix(rank) + text).decode(errors="replace")[:width]
            self._write(stream, shown.encode(), ends=False)
        elif due(self._shown, (rank, stream)):
            self.line(rank, stream, text)

    def own(self, stream: int, text: bytes) -> None:
        """Writes a line of mpirun itself."""
        self._write(stream, text + b"\n")

    def close(self) -> None:
        """Writes nothing from now on. Otherwise Python would report a broken pipe at exit."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for file in self._streams.values():
            os.dup2(nowhere, file.fileno())
        os.close(nowhere)

    def _prefix(self, rank: int) -> bytes:
        return b"[%d] " % rank if self._named else b""

    def _write(self, stream: int, text: bytes, ends: bool = True) -> None:
        file = self._streams[stream]
        self._clear()
        if not ends:
            self._bar.add(stream)
        file.write(text)
        file.flush()

    def _clear(self) -> None:
        """Removes the bar from either stream: both may be the same terminal."""
        for stream in self._bar:
            self._streams[stream].write(b"\r\x1b[K")
            self._streams[stream].flush()
        self._bar.clear()


class Logs:
    """A file per rank with both of its streams, in a folder of the attempt. A full disk ends the
    logs, not the job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RefusedError(f"--log-dir: {folder} cannot be made: {error.strerror}.") from None
        self._broken = False
        self._files: dict[int, BinaryIO] = {}
        self._shown: dict[tuple[int, int], float] = {}

    def line(self, rank: int, text: bytes) -> None:
        """Adds one line."""
        if self._broken:
            return
        try:
            if rank not in self._files:
                self._files[rank] = (self._folder / f"rank-{rank}.log").open("wb", buffering=0)
            self._files[rank].write(text + b"\n")
        except OSError as error:
            self._broken = True
            print_message(f"the logs in {self._folder} end here: {error.strerror}.")

    def bar(self, rank: int, stream: int, text: bytes) -> None:
        """Adds the state of a progress bar, occasionally."""
        if due(self._shown, (rank, stream)):
            self.line(rank, text)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


def due(shown: dict[tuple[int, int], float], key: tuple[int, int]) -> bool:
    """Whether the next state of this bar is to be written. The first is not, since it says
    least."""
    now = time.monotonic()
    if now - shown.setdefault(key, now) < _BAR_EVERY:
        return False
    shown[key] = now
    return True


class Frames:
    """Decodes the frames that mpirun forwards."""

    def __init__(
        self,
        screen: Screen,
        logs: Logs | None,
        on_mark: Callable[[int, dict[str, Any]], None],
        on_own: Callable[[int, bytes], None],
    ) -> None:
        self._screen, self._logs, self._on_mark, self._on_own = screen, logs, on_mark, on_own
        self._rest = {1: b"", 2: b""}
        self._parts: dict[tuple[int, int], bytes] = {}

    def feed(self, stream: int, data: bytes) -> None:
        """Takes the next bytes of a stream of mpirun; an empty string for its end."""
        *frames, rest = (self._rest[stream] + data).split(b"\n")
        if not data and rest:
            frames, rest = [rest], b""
        self._rest[stream] = rest
        for frame in frames:
            self._take(stream, frame)
        if not data:
            for rank, part_stream in [key for key in self._parts if key[1] == stream]:
                self._line(rank, part_stream, b"")  # a rank that was killed within a line

    def _take(self, stream: int, frame: bytes) -> None:
        own, marker, framed = frame.partition(MARKER)
        if own.strip() or not marker:
            self._on_own(stream, own)
        if not marker:
            return
        digits = len(framed) - len(framed.lstrip(b"0123456789"))
        rank = int(framed[:digits] or 0)
        kind = framed[digits : digits + 1]
        content = framed[digits + 1 :]
        if kind == LINE:
            self._line(rank, stream, content)
        elif kind == PART:
            held = self._parts.get((rank, stream), b"") + content
            self._parts[rank, stream] = held
            if len(held) > _LONGEST:
                self._line(rank, stream, b"")
        elif kind == BAR:
            self._screen.bar(rank, stream, content)
            if self._logs:
                self._logs.bar(rank, stream, content)
        elif kind == MARK:
            with suppress(ValueError):
                self._on_mark(rank, json.loads(content))

    def _line(self, rank: int, stream: int, end: bytes) -> None:
        text = self._parts.pop((rank, stream), b"") + end
        self._screen.line(rank, stream, text)
        if self._logs:
            self._logs.line(rank, text)
