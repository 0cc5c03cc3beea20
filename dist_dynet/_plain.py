"""What csrc/python has besides functions that stand for others, in Python: for DIST_DYNET_FAST_PATHS=0, which does not load it.

The base of Expression, of RNNState and Run, and which graph is a thread's. It knows no C.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
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
            raise TypeError("an expression takes no arguments. Use inputs, parameters and functions.")
        node = super().__new__(cls)
        if _watch is not None:
            _watch()
        return node

    def __pos__(self) -> Any:
        return self


class Run:
    """The base of Run."""

    builder: Any = None
    call = handles = weights = reals = rates = masks = start = last = builder
    graph = input_dim = hidden_dim = 0
    update = fixed = has_cells = drops_each_step = False

    def again(self, update: bool, reals: tuple[float, ...], /) -> None:
        """None: the next sequence of the builder is made anew."""


class State:
    """The base of RNNState."""

    __slots__ = ("_cells", "_h", "_later", "_output", "_prev", "_run")

    def __init__(self, run: Any, prev: Any = None, h: Any = None, c: Any = None, later: Any = None, output: Any = None, /) -> None:
        if not isinstance(run, Run):
            raise TypeError(f"a state belongs to a sequence; got {type(run).__name__}. States are made by builders.")
        self._run, self._prev, self._h, self._cells, self._later, self._output = run, prev, h, c, later, output

    def __reduce__(self) -> Any:
        raise TypeError("a state cannot be pickled: its graph lives in this process.")

    @property
    def _c(self) -> Any:
        if self._cells is None and self._later is not None:
            self._cells = self._later_cells()  # type: ignore[attr-defined]  # of RNNState
        return self._cells

    def _quick_outputs(self, xs: Any) -> None:
        """None: ask the sequence."""

    def _quick_states(self, xs: Any) -> None:
        """None: ask the sequence."""

    def add_input(self, x: Any) -> Any:
        """The state after one more input."""
        return self._run.step(self, x)  # type: ignore[attr-defined]  # of nn's Run

    def output(self) -> Any:
        """The h of the top layer (of a GRU with dropout: after dropout); None at the start without given vectors."""
        return self._h[-1] if self._output is None and self._h else self._output

    def h(self) -> Any:
        """The h of each layer; empty at the start without given vectors."""
        return () if self._h is None else self._h

    def s(self) -> Any:
        """All of the state: of an LSTM c of each layer, then h of each layer; of others h. Empty at the start without given vectors."""
        cells = self._c
        return self.h() if cells is None else (*cells, *self.h())

    def prev(self) -> Any:
        """The state before; None at the start."""
        return self._prev


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


def accelerated(function: F, /) -> F:
    """The function itself."""
    return function


def bind(table: int, ops: dict[str, int], fail_in: Callable[..., Any], /) -> None:
    """Nothing: C is called by cffi."""


def expression_class(cls: Any, /) -> None:
    """Where operators go."""
    global _expression
    _expression = cls


def operator(name: str, op: str, general: Callable[..., Any], reflected: Callable[..., Any] | None, /) -> None:
    """Gives Expression an operator, such as __add__, and its reflected form."""
    also = {"__mul__": "__matmul__"}.get(name, name)
    for each in {name, also}:
        setattr(_expression, each, general)
        if reflected is not None:
            setattr(_expression, f"__r{each[2:]}", reflected)


def subscript(index: str, cls: Any, slices: str, general: Callable[..., Any], /) -> None:
    """Gives Expression its indices."""
    _expression.__getitem__ = general


def call(kind: str, op: int, cls: Any, otherwise: Callable[..., Any], /) -> Callable[..., Any]:
    """What makes the outputs of a layer's step: it leaves that to the sequence."""
    return lambda *arguments: None


def dropping(cmult: int, dropout: int, random_bernoulli: int, /) -> None:
    """Nothing: what a step drops is for the sequence."""
