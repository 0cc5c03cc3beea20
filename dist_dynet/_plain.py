"""What csrc/python has besides functions that stand for others, in Python: for
DIST_DYNET_FAST_PATHS=0, which does not load it.

The base of Expression, and which graph is a thread's. It knows no C.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_watch: Callable[[], object] | None = None
_expression: Any = None


class Node:
    """The base of Expression: a handle, and a hook that is called for each new node."""

    __slots__ = ("_h",)

    _h: int

    def __new__(cls, *args: Any, **named: Any) -> Any:
        if (args or named) and cls.__init__ is object.__init__:
            raise TypeError(
                "an expression takes no arguments. Use inputs, parameters and functions."
            )
        node = super().__new__(cls)
        if _watch is not None:
            _watch()
        return node

    def __pos__(self) -> Any:
        return self


class _Current(threading.local):
    graph = -1


_current = _Current()


def current() -> int:
    """The number of this thread's graph; negative: it has none."""
    return _current.graph


def set_current(graph: int, /) -> None:
    """Sets this thread's graph; graph.py decides which one it is."""
    _current.graph = graph


def watch(function: Callable[[], object] | None, /) -> None:
    """Sets the function to be called after each expression is made; None removes it."""
    global _watch
    _watch = function


def without_collector(function: Callable[..., T], /, *arguments: Any) -> T:
    """Its result; the collector is off meanwhile. If another thread switches it off at this very
    moment, it is on again afterwards."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return function(*arguments)
    finally:
        if was_on:
            gc.enable()


def set_large(index: int, function: Callable[[int], object], /) -> None:
    """Does nothing: the functions that make nodes in Python check the size themselves."""


def set_many(n: int, function: Callable[[], object], /) -> None:
    """Does nothing: the lookup that it saves costs little beside these functions."""


def accelerated(function: F, /) -> F:
    """The function itself."""
    return function


Operation = FunctionType
"""The type of what operation() returns."""


def operation(
    op: str,
    parameters: tuple[str, ...],
    defaults: tuple[Any, ...],
    attributes: Any,
    cls: Any,
    function: F,
    /,
) -> F:
    """The function itself."""
    return function


def bind(table: int, ops: dict[str, int], fail_in: Callable[..., Any], /) -> None:
    """Does nothing: C is called through cffi."""


def number_classes(integer: type, single: type, array: type, /) -> None:
    """Does nothing: functions in Python take all numbers."""


def expression_class(cls: Any, /) -> None:
    """Sets the class that operators are added to."""
    global _expression
    _expression = cls


def operator(
    name: str, op: str, general: Callable[..., Any], reflected: Callable[..., Any] | None, /
) -> None:
    """Gives Expression an operator, such as __add__, and its reflected form."""
    also = {"__mul__": "__matmul__"}.get(name, name)
    for each in {name, also}:
        setattr(_expression, each, general)
        if reflected is not None:
            setattr(_expression, f"__r{each[2:]}", reflected)


def subscript(index: str, cls: Any, slices: str, general: Callable[..., Any], /) -> None:
    """Gives Expression its subscripts."""
    _expression.__getitem__ = general


def tables(of: Any, cls: Any, general: Callable[..., Any], /) -> None:
    """Gives tables their subscripts."""
    of.__getitem__ = general
