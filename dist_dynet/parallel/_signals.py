"""SIGUSR1, by which a batch system says that time is nearly up: it marks all Checkpointers, which
save at the next step.

A handler must be installed after MPI has started, since MPI libraries install their own. Python's
handler of before is called, too.
"""

from __future__ import annotations

import atexit
import signal
import threading
import weakref
from types import FrameType
from typing import Any, Protocol


class Marked(Protocol):
    """What is to be told."""

    def mark(self) -> None:
        """Called in the main thread, between any two steps of the interpreter: sets a mark and
        returns."""


_marked: weakref.WeakSet[Any] = weakref.WeakSet()
_previous: Any = None


def tell_of_usr1(marked: Marked) -> None:
    """Marks the object, as long as it lives, whenever SIGUSR1 arrives. Outside of the main thread
    Python allows no handler: then never."""
    global _previous
    _marked.add(marked)
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGUSR1) is not _on_usr1
    ):
        _previous = signal.signal(signal.SIGUSR1, _on_usr1)
        atexit.register(_ignore)


def _ignore() -> None:
    """At the end of the program: Python itself would go back to the default, which kills a program
    that has done its work and only gives back its memory."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _on_usr1(number: int, frame: FrameType | None) -> None:
    for marked in list(_marked):
        marked.mark()
    if callable(_previous):  # neither the default, which would end the process, nor one of C
        _previous(number, frame)
