"""Which line of the user's program a frame is in, for messages."""

from __future__ import annotations

from pathlib import Path
from types import FrameType

_PACKAGE = f"{__name__.partition('.')[0]}."
_BETWEEN = ("contextlib", "functools")
"""Modules of the standard library through which this package's decorators are called."""


def line_of_user(frame: FrameType) -> str:
    """The text ' at train.py:12' of the innermost line outside of this package that this frame is
    in."""
    while frame.f_back:
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith(_PACKAGE) and module not in _BETWEEN:
            break
        frame = frame.f_back
    return f" at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
