"""What a signal's handler, such as Ctrl-C's, comes before or after: an update and all that follows
it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from threading import get_ident
from types import FrameType
from typing import Any, ClassVar

_Handler = Callable[[int, FrameType | None], Any]
_Leaves = tuple[Callable[[], bool], Any]
"""Of a block, then those of the blocks around it; None: there are none."""

_HELD_BACK = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGALRM),
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
)
"""Whose handlers may raise something."""

_c: Any = import_module("_signal")
_get, _set = _c.getsignal, _c.signal
"""As Python's own, which look for a number in an enumeration: that takes 30 times as long, and may
fail where memory is short."""


def _never() -> bool:
    return False


class AtOnce:
    """A context whose block is not left in its midst by a handler of Python's: that is called when
    the block is over, or at the second signal. Where `needed` is false it does nothing. Within
    another's block it is part of that.

    Args:
        needed: as above.
        may_leave: whether, in a wait for other processes, the block is left all the same
            (let_through()): nothing of it is done yet, or it can undo it.

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

    __slots__ = (
        *("_came", "_handlers", "_leaves", "_may_leave", "_needed"),
        *("_outer", "_outer_leaves"),
    )
    _present: ClassVar[AtOnce | None] = None  # whose block the main thread is in

    def __init__(self, needed: object = True, may_leave: Callable[[], bool] = _never) -> None:
        self._needed, self._may_leave = needed, may_leave
        self._leaves: _Leaves = (may_leave, None)
        self._outer: AtOnce | None = None
        self._outer_leaves: _Leaves | None = None
        self._handlers: dict[int, _Handler] = {}
        self._came: list[tuple[int, FrameType | None]] = []

    def __enter__(self) -> None:
        if not self._needed or get_ident() != _main:
            return  # in other threads no handler is called
        outer = AtOnce._present
        if outer is not None:
            self._outer_leaves = outer._leaves
            outer._leaves = (self._may_leave, outer._leaves)
            self._outer = outer
            return
        AtOnce._present = self
        try:
            for number in _HELD_BACK:
                handler = _get(number)
                if callable(handler):
                    self._handlers[number] = handler
                    _set(number, self._receive)
        except ValueError:  # of a sub-interpreter: signals come to the main one
            self._handlers.clear()
            AtOnce._present = None
        except BaseException:
            self._let_go()
            raise

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))
        if len(self._came) > 1:
            self._let_go()

    def leave_if_it_may(self) -> None:
        """Calls the handlers of what came, if every block that is under way may be left."""
        leaves: _Leaves | None = self._leaves if self._came else None
        while leaves is not None and leaves[0]():
            leaves = leaves[1]
            if leaves is None:
                self._let_go()

    def _let_go(self) -> None:
        if AtOnce._present is self:
            AtOnce._present = None
        try:
            for number, handler in self._handlers.items():
                _set(number, handler)
        except BaseException:  # of a handler that is back
            self._let_go()
            raise
        if self._came:
            came, self._came = self._came, []
            self._call(came)

    def _call(self, came: list[tuple[int, FrameType | None]]) -> None:
        """All of them, also where one raises something."""
        if came:
            try:
                self._handlers[came[0][0]](*came[0])
            finally:
                self._call(came[1:])

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._outer is not None and self._outer_leaves is not None:
            self._outer._leaves = self._outer_leaves  # which needs no memory
        elif AtOnce._present is self:
            self._let_go()


def let_through() -> None:
    """In a wait for other processes: a handler is called at once where its signal would end a block
    that may be left."""
    present = AtOnce._present
    if present is not None and get_ident() == _main:
        present.leave_if_it_may()


def _note_main_thread() -> None:
    global _main
    _main = threading.main_thread().ident


_main: int | None = None
_note_main_thread()
os.register_at_fork(after_in_child=_note_main_thread)
