"""What a signal's handler, such as Ctrl-C's, comes before or after: an update and all that follows
it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib import import_module
from threading import get_ident
from typing import Any

from .._ffi import lib

_c: Any = import_module("_signal")
"""Python's own getsignal looks for a number in an enumeration: that takes 30 times as long, and may
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

    __slots__ = ("_may_leave", "_needed", "_outer")

    def __init__(self, needed: object = True, may_leave: Callable[[], bool] = _never) -> None:
        self._needed, self._may_leave = needed, may_leave
        self._outer: AtOnce | None = None

    def __enter__(self) -> None:
        if not self._needed or get_ident() != _main.thread:
            return  # in other threads no handler is called
        if _main.block is None and not lib.dn_signals_hold():
            _show_handler()
        self._outer, _main.block = _main.block, self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if _main.block is self:
            _main.block = self._outer
            if self._outer is None:
                lib.dn_signals_release()

    def leave_if_it_may(self) -> None:
        """Calls the handlers of what came, if every block that is under way may be left."""
        block: AtOnce | None = self if lib.dn_signals_came() else None
        while block is not None and block._may_leave():
            block = block._outer
            if block is None:
                _main.release()


class _Main:
    """The thread in which Python calls handlers."""

    __slots__ = ("block", "thread")

    def __init__(self) -> None:
        self.thread = threading.main_thread().ident
        self.block: AtOnce | None = None  # the innermost that is under way

    def release(self) -> None:
        """Whatever is under way may be left from now on."""
        self.block = None
        lib.dn_signals_release()

    def follow_fork(self) -> None:
        """In a child the thread that has forked is the main one."""
        before, self.thread = self.thread, get_ident()
        if before != self.thread:
            self.release()


_main = _Main()
os.register_at_fork(after_in_child=_main.follow_fork)


def _show_handler() -> None:
    """C has to be shown once which handler is Python's, all signals have the same, and holds it
    then."""
    for number in range(1, _c.NSIG):
        if callable(_c.getsignal(number)) and lib.dn_signals_defer(number):
            lib.dn_signals_hold()
            return


def let_through() -> None:
    """In a wait for other processes: a handler is called at once where its signal would end a block
    that may be left."""
    block = _main.block
    if block is not None and get_ident() == _main.thread:
        block.leave_if_it_may()
