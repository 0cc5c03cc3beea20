"""Tracebacks without the frames of this package, so that their last line is one of the program.

Frames are left out when a program ends by an exception, and in notebooks; never of exceptions that
are caught, logged or debugged.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from ._environment import choice
from ._hints import explain_name
from ._manner import PACKAGE
from ._signatures import explain


class _State:
    full = choice("DIST_DYNET_TRACEBACKS", ("short", "full")) == "full"


def full_tracebacks(on: bool = True) -> None:
    """Shows the frames of this package in tracebacks, too; False leaves them out, which is the
    default.

    As DIST_DYNET_TRACEBACKS=full in the environment. For debugging the package itself.

    >>> import dist_dynet as dy
    >>> dy.full_tracebacks()
    >>> dy.full_tracebacks(False)
    """
    _State.full = bool(on)


def without_package(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this package; unchanged if there are no others."""
    frames = []
    at = traceback
    while at is not None:
        if not at.tb_frame.f_code.co_filename.startswith(PACKAGE):
            frames.append(at)
        at = at.tb_next
    if not frames:
        return traceback
    result = None
    for frame in reversed(frames):
        result = TracebackType(result, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return result


def shorten(error: BaseException | None) -> None:
    """Removes the package's frames from the traceback of an exception and of those that led to it.
    Adds the signature of a function called with wrong arguments, and our name for that of another
    toolkit."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen or _State.full:
            continue
        seen.add(id(each))
        explain(each)
        explain_name(each)
        each.__traceback__ = without_package(each.__traceback__)
        waiting += [each.__cause__, each.__context__]


def install() -> None:
    """For scripts, wraps the current sys.excepthook; for IPython and notebooks, sets a handler if
    there is none."""
    before = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        shorten(error)
        before(kind, error, error.__traceback__ or traceback)

    sys.excepthook = hook
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and not getattr(shell, "custom_exceptions", True):

        def handler(
            self: Any, kind: Any, error: Any, traceback: Any, tb_offset: Any = None
        ) -> None:
            shorten(error)
            self.showtraceback((kind, error, error.__traceback__), tb_offset=tb_offset)

        shell.set_custom_exc((Exception,), handler)
