"""Finds the line of the user's program that a frame belongs to, for messages."""

from __future__ import annotations

from pathlib import Path
from types import FrameType

_PACKAGE = f"{__name__.partition('.')[0]}."
_BETWEEN = ("contextlib", "functools")
"""Modules of the standard library that this package's decorators are called through."""


def user_line(frame: FrameType) -> str:
    """' at train.py:12': the innermost line outside this package in the frame's call stack."""
    while frame.f_back:
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(_PACKAGE) and module not in _BETWEEN:
            break
        frame = frame.f_back
    return f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
