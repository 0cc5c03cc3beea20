"""Handles SIGUSR1, by which a batch system announces that time is nearly up: all Checkpointers are
marked, and save at the next step.

The handler must be installed after MPI has started, since MPI libraries install their own. A
previous Python handler is called as well.
"""

from __future__ import annotations

import atexit
import signal
import threading
from types import FrameType
from typing import Any, Protocol

from ..._weak import WeakSet


class Markable(Protocol):
    """Something that SIGUSR1 marks."""

    def mark(self) -> None:
        """Sets a mark and returns. Called in the main thread, between any two bytecodes."""


_marked: WeakSet[Any] = WeakSet()
_previous: Any = None


def mark_on_usr1(marked: Markable) -> None:
    """Marks the object whenever SIGUSR1 arrives, as long as the object lives. Does nothing outside
    the main thread, where Python allows no handlers."""
    global _previous
    _marked.add(marked)
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGUSR1) is not _on_usr1
    ):
        _previous = signal.signal(signal.SIGUSR1, _on_usr1)
        atexit.register(_ignore)


def _ignore() -> None:
    """Ignores SIGUSR1 at the end of the program. Python would restore the default handler, which
    kills a process that has finished its work and only frees its memory."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _on_usr1(number: int, frame: FrameType | None) -> None:
    for marked in list(_marked):
        marked.mark()
    if callable(_previous):  # neither the default handler nor one installed by C code
        _previous(number, frame)
