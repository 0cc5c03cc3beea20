"""What csrc/python has besides functions that stand for others, in Python: for
DIST_DYNET_FAST_PATHS=0, which does not load it.

The base of Expression, and which graph is a thread's. It knows no C.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_watch: Callable[[], object] | None = None
_expression: Any = None


class Node:
    """The base of Expression: a handle, and what is told of each that is made."""

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
    """Which graph is this thread's: that is decided in graph.py."""
    _current.graph = graph


def watch(function: Callable[[], object] | None, /) -> None:
    """The function to be called after each expression is made; None: no more."""
    global _watch
    _watch = function


def set_large(index: int, function: Callable[[int], object], /) -> None:
    """Nothing: the functions that make nodes in Python ask by themselves."""


def set_many(n: int, function: Callable[[], object], /) -> None:
    """Nothing: what is looked for is little beside what these functions do."""


def accelerated(function: F, /) -> F:
    """The function itself."""
    return function


Operation = FunctionType
"""What operation() gives."""


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
    """Nothing: C is called by cffi."""


def expression_class(cls: Any, /) -> None:
    """Where operators go."""
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
    """Gives Expression its indices."""
    _expression.__getitem__ = general


def tables(of: Any, cls: Any, general: Callable[..., Any], /) -> None:
    """Gives tables theirs."""
    of.__getitem__ = general
