"""What csrc/python has: the base of Expression, and functions that stand for others, written in Python."""

from collections.abc import Callable
from typing import Any, Self, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

class Node:
    """The base of Expression: its handle and its operators, whose types are in expression.py."""

    _h: int  # (graph, epoch, index); csrc/dn_api.h

class Run:
    """The base of Run: what the quick ways of a state need to know of its sequence. Types are in nn/state.py."""

    builder: Any
    call: Callable[..., Any] | None  # the call of a layer's operation; None: no quick way
    handles: list[list[int]]
    weights: list[Any]  # of each layer: its handles as bytes; where there is no call, what the builder's _cell() takes
    reals: tuple[float, ...]
    rates: tuple[str | None, ...]  # of each mask: the builder's attribute that says how much it drops; None: nothing
    masks: list[Any]  # of each layer; none until the first input tells the batch size; [None]: nothing is dropped
    start: Any
    last: Any
    graph: int
    input_dim: int  # of the builder
    hidden_dim: int
    update: bool
    fixed: bool  # the next sequence of the builder has the same weights
    has_cells: bool
    drops_each_step: bool

    def again(self, update: bool, reals: tuple[float, ...], /) -> Self | None: ...

class State:
    """The base of RNNState, where the types are."""

    _quick_outputs: Callable[[Any], list[Any] | None]
    _quick_states: Callable[[Any], list[Any] | None]

def bind(table: int, ops: dict[str, int], fail_in: Callable[..., Any], /) -> None: ...
def accelerated(function: F, /) -> F: ...
def expression_class(cls: type[Node], /) -> None: ...
def call(kind: str, op: int, cls: type[Node], otherwise: Callable[..., Any], /) -> Callable[..., Any]: ...
def operator(name: str, op: str, general: Callable[..., Any], reflected: Callable[[Any, Any], Any] | None, /) -> None: ...
def subscript(index: str, cls: type[Node], slices: str, general: Callable[[Any, Any], Any], /) -> None: ...
def set_current(graph: int, /) -> None: ...
def current() -> int: ...
def watch(function: Callable[[], object] | None, /) -> None: ...
def dropping(cmult: int, dropout: int, random_bernoulli: int, /) -> None: ...
