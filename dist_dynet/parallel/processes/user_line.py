"""Finds the line of the user's program that a frame belongs to, for messages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from ..._ffi import calls

_PACKAGE = f"{__name__.partition('.')[0]}."
_BETWEEN = ("contextlib", "functools")
"""Modules of the standard library that this package's decorators are called through."""


def user_line(frame: FrameType) -> str:
    """' at train.py:12': the innermost line outside this package in the frame's call stack."""
    while caller := calls.without_collector(getattr, frame, "f_back"):
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(_PACKAGE) and module not in _BETWEEN:
            break
        frame = caller
    return f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def line_of_thread(ident: int) -> str:
    """The same of the line that a thread is in; empty if there is no such thread."""
    frame = calls.without_collector(sys._current_frames).get(ident)
    return user_line(frame) if frame else ""
