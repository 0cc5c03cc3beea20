"""Warnings, each given once, where a program may not do what its author means.

A program that imports `dynet` (dist_dynet.compat) was written for DyNet and means what DyNet does:
there `manner.dynet` is true, and none of these warnings is given. This module imports nothing of
the package.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = str(Path(__file__).parent) + os.sep
_INSIDE = (PACKAGE, contextlib.__file__)  # whose frames lie between two of the package


class _Manner:
    dynet = False

    def __init__(self) -> None:
        self.said: set[str] = set()

    def is_first(self, key: str) -> bool:
        """Whether something is said for the first time, as it has been from now on."""
        first = key not in self.said
        self.said.add(key)
        return first


manner = _Manner()


def class_name(thing: object) -> str:
    """What whoami() gives: the name of a thing's class; for DyNet, of the class of this package
    that it derives from."""
    cls = type(thing)
    if manner.dynet:
        package = __name__.partition(".")[0] + "."
        cls = next((c for c in cls.__mro__ if c.__module__.startswith(package)), cls)
    return cls.__name__


def _is_size(value: Any) -> bool:
    return type(value) is int or isinstance(value, np.integer)


def dims_in_a_tuple(second: str, of: int = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For functions whose argument number `of` is dims, and whose next one is `second`: f(2, 3)
    with two sizes and nothing else gives a warning, once, since elsewhere it means dims (2, 3).

    Not for reshape(x, 2, 3): with that many numbers it is dims 2 and batch size 3, or an error.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__

        @functools.wraps(function)
        def checked(*args: P.args, **named: P.kwargs) -> R:
            if (
                len(args) == of + 2
                and not named
                and _is_size(args[of + 1])
                and args[of + 1]
                and _is_size(args[of])
                and not manner.dynet
                and manner.is_first(name)
            ):
                a, b = args[of:]
                warn(
                    f"{name}: dims are one argument, so that {b} is the {second} here. For dims"
                    f" write {name}(({a}, {b})), else {name}({a}, {second}={b})."
                    " This is said once."
                )
            return function(*args, **named) if named else function(*args)  # type: ignore[call-arg]

        return checked

    return decorate


def no_collection(given: object) -> str:
    """The end of an error about something that was given in place of a collection."""
    if callable(getattr(given, "param_collection", None)):
        return f"got {type(given).__name__}. Its param_collection() is one."
    return f"got {type(given).__name__}."


def last_frame(error: BaseException) -> FrameType | None:
    """The frame in which an exception was raised."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at.tb_frame if at is not None else None


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warns at the innermost line outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
