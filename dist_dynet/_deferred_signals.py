"""Defers signal handlers, such as that of Ctrl-C, while an update and everything that follows it is
under way."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from importlib import import_module
from threading import get_ident
from typing import Any, ParamSpec, TypeVar

from ._ffi import lib

_c: Any = import_module("_signal")
"""signal.getsignal() looks numbers up in an enumeration, which takes 30 times as long, and may fail
if memory is short."""

_NUMBERS = tuple(lib.dn_signals_number(i) for i in range(lib.DN_SIGNALS))
"""The signals that are deferred."""


P = ParamSpec("P")
R = TypeVar("R")


def _never() -> bool:
    return False


def _always() -> bool:
    return True


class DeferSignals:
    """A context that defers Python's signal handlers: they are called when the block is over, or at
    the second signal. If `needed` is false it does nothing. An inner block is part of the outer
    one.

    Args:
        needed: as above.
        may_leave: whether a handler may leave the block in a wait for other processes
            (run_pending_handlers()): nothing is done yet, or the block can undo it.

    >>> import signal
    >>> before, done = signal.signal(signal.SIGINT, signal.default_int_handler), []
    >>> try:
    ...     with DeferSignals():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done.append(1)
    ... except KeyboardInterrupt:
    ...     print(done)
    [1]
    >>> handler = signal.signal(signal.SIGINT, before)
    """

    __slots__ = ("_may_leave", "_needed", "_outer")

    def __init__(self, needed: object = True, may_leave: Callable[[], bool] = _never) -> None:
        self._needed, self._may_leave = needed, may_leave
        self._outer: DeferSignals | None = None

    def __enter__(self) -> None:
        if not self._needed or get_ident() != _main.thread:
            return  # in other threads no handler is called
        outer = _main.block
        if outer is None or not lib.dn_signals_are_held():
            outer = None  # one that is still noted was left as it began to end, by a second signal
            _hold()
        self._outer, _main.block = outer, self

    def __exit__(self, *_: object) -> None:
        if _main.block is self:
            _main.block = self._outer
            if self._outer is None:
                lib.dn_signals_release()

    def leave_if_allowed(self) -> None:
        """Calls the handlers of pending signals, if every block under way may be left."""
        block: DeferSignals | None = self if lib.dn_signals_came() else None
        while block is not None and block._may_leave():
            block = block._outer
            if block is None:
                _main.release()


def deferring_signals(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: a call is one block of DeferSignals, which may be left in a wait for other
    processes unless a block within it says no."""

    @functools.wraps(function)
    def deferring(*args: P.args, **named: P.kwargs) -> R:
        with DeferSignals(may_leave=_always):
            return function(*args, **named)

    return deferring


class _Main:
    """The thread in which Python calls handlers."""

    __slots__ = ("block", "thread")

    def __init__(self) -> None:
        self.thread = threading.main_thread().ident
        self.block: DeferSignals | None = None  # the innermost block under way

    def release(self) -> None:
        """Ends the deferring."""
        self.block = None
        lib.dn_signals_release()

    def follow_fork(self) -> None:
        """In a child, the thread that has forked is the main thread."""
        before, self.thread = self.thread, get_ident()
        if before != self.thread:
            self.release()


_main = _Main()
os.register_at_fork(after_in_child=_main.follow_fork)


def _hold() -> None:
    try:
        if not lib.dn_signals_hold():
            _show_handler()
    except BaseException:  # of a signal that came before
        lib.dn_signals_release()
        raise


def _show_handler() -> None:
    """Shows C once which handler is Python's, the same for all signals. C then defers it."""
    for number in _NUMBERS:
        if callable(_c.getsignal(number)) and lib.dn_signals_defer(number):
            lib.dn_signals_hold()
            return


def run_pending_handlers() -> None:
    """Called in a wait for other processes: calls deferred handlers now if the block under way may
    be left."""
    block = _main.block
    if block is not None and get_ident() == _main.thread:
        block.leave_if_allowed()
