"""What a signal's handler, such as Ctrl-C's, comes before or after: an update and all that follows
it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]
_HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP)
"""Whose handlers may raise something."""


class AtOnce:
    """A context whose block is not left in its midst by a handler of Python's: that is called when
    the block is over, or at the second signal. Where `needed` is false it does nothing.

    >>> import signal
    >>> before, done = signal.signal(signal.SIGINT, signal.default_int_handler), []
    >>> try:
    ...     with AtOnce():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done.append(1)
    ... except KeyboardInterrupt:
    ...     print(done)
    [1]
    >>> handler = signal.signal(signal.SIGINT, before)
    """

    __slots__ = ("_came", "_handlers", "_needed")

    def __init__(self, needed: object = True) -> None:
        self._needed = needed
        self._handlers: dict[int, _Handler] = {}
        self._came: list[tuple[int, FrameType | None]] = []

    def __enter__(self) -> None:
        if not self._needed or threading.current_thread() is not threading.main_thread():
            return  # in other threads no handler is called
        for number in _HELD_BACK:
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))
        if len(self._came) > 1:
            self._let_go()

    def _let_go(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        came, self._came = self._came, []
        for number, frame in came:
            self._handlers[number](number, frame)

    def __exit__(self, *_: object) -> None:
        if self._handlers:
            self._let_go()
