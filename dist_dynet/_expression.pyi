"""What csrc/python has: the base of Expression, and functions that stand for others, written in
Python."""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

class Node:
    """The base of Expression: its handle and its operators, whose types are in expression.py."""

    _h: int  # (graph, epoch, index); csrc/dn_api.h

class State:
    """What stands for the class in nn/state.py."""

class Operation:
    """What stands for a function whose arguments are those of one node."""

def operation(
    op: str,
    parameters: tuple[str, ...],
    defaults: tuple[Any, ...],
    attributes: tuple[tuple[str, int, float], ...],
    cls: type[Node] | None,
    function: F,
    /,
) -> F: ...
def bind(table: int, ops: dict[str, int], fail_in: Callable[..., Any], /) -> None: ...
def accelerated(function: F, /) -> F: ...
def expression_class(cls: type[Node], /) -> None: ...
def operator(
    name: str, op: str, general: Callable[..., Any], reflected: Callable[[Any, Any], Any] | None, /
) -> None: ...
def subscript(
    index: str, cls: type[Node], slices: str, general: Callable[[Any, Any], Any], /
) -> None: ...
def tables(of: type[Node], cls: type[Node], general: Callable[[Any, Any], Any], /) -> None: ...
def set_current(graph: int, /) -> None: ...
def current() -> int: ...
def set_large(index: int, function: Callable[[int], object], /) -> None: ...
def set_many(n: int, function: Callable[[], object], /) -> None: ...
def watch(function: Callable[[], object] | None, /) -> None: ...
def without_collector(function: Callable[..., T], /, *arguments: Any) -> T: ...
