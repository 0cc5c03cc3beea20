"""A progress bar on stderr: tqdm's if it is installed, otherwise a plain line."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any, Protocol


def is_wanted(bar: bool | None) -> bool:
    """Whether a bar is shown. A launcher sets DIST_DYNET_BARS if the output of rank 0 reaches a
    terminal."""
    if bar is not None:
        return bar
    asked = os.environ.get("DIST_DYNET_BARS", "")
    return sys.stderr.isatty() if asked == "" else asked != "0"


class Bar(Protocol):
    """The methods of tqdm that are used."""

    def update(self, n: float = 1) -> Any: ...
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> Any: ...
    def close(self) -> Any: ...


class NoBar:
    """Shows nothing."""

    def update(self, n: float = 1) -> None:
        """Another step."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Sets the text after the bar."""

    def close(self) -> None:
        """Removes the bar."""


class PlainBar:
    """A line that overwrites itself, for when tqdm is not installed."""

    _OFTEN = 0.2  # seconds between two states

    def __init__(self, description: str, total: int | None, first: int) -> None:
        self._text, self._total, self._n, self._rest = description, total, first, ""
        self._last = -math.inf

    def update(self, n: float = 1) -> None:
        """Another step."""
        self._n += int(n)
        now = time.monotonic()
        if now - self._last >= self._OFTEN or self._n == self._total:
            self._last = now
            of = "" if self._total is None else f"/{self._total}"
            sys.stderr.write(f"\r\x1b[K{self._text}: {self._n}{of}, {self._rest}")
            sys.stderr.flush()

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Sets the text after the bar."""
        self._rest = s

    def close(self) -> None:
        """Removes the bar."""
        if self._last > -math.inf:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def make_bar(description: str, total: int | None, first: int) -> Bar:
    """A bar on stderr: tqdm's, or a plain one."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return PlainBar(description, total, first)
    bar: Bar = tqdm(
        desc=description, total=total, initial=first, leave=False, unit="batch", file=sys.stderr
    )
    return bar
