"""The search for NaN and infinity: which node has the first one, and which line of the program made
that node.

While trace_nonfinite() is on, new expressions are recorded, and the methods that compute and
differentiate are replaced by checking ones. When it is off it costs nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import inspection
from ._ffi import calls, fail, ffi, lib, read
from .expression import Expression
from .graph import ComputationGraph, cg, graph_of

__all__ = ["NonFinite", "NonFiniteError", "find_nonfinite", "trace_nonfinite"]

PACKAGE = str(Path(__file__).parent)


@dataclass(frozen=True)
class Place:
    """A line of the user's program."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}, in {self.function}"


# ---- which line made a node ------------------------------------------------------------


@dataclass
class _Notes:
    """The places of a graph's nodes, by handle: handles of closed graphs never come back."""

    version: int
    places: dict[int, Place | None] = field(default_factory=dict)


_notes: dict[int, _Notes] = {}


def _users_place() -> Place:
    """The innermost line outside of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def _notes_of(graph: int) -> _Notes:
    notes, version = _notes.get(graph), lib.dn_graph_version(graph)
    if notes is None or notes.version != version:
        notes = _notes[graph] = _Notes(version)
    return notes


def _note(graph: int, place: Place | None) -> None:
    """Records `place` for every node of this graph that has none yet."""
    places = _notes_of(graph).places
    for i in range(lib.dn_graph_size(graph) - 1, -1, -1):
        handle = lib.dn_graph_node(graph, i)
        if handle in places:
            break
        places[handle] = place


def _place(graph: ComputationGraph, index: int) -> Place | None:
    return _notes_of(graph.number).places.get(lib.dn_graph_node(graph.number, index))


# ---- what is said about it -------------------------------------------------------------


@dataclass(frozen=True)
class NonFinite:
    """A number that is not finite although all before it are. str() describes it.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> found = dy.find_nonfinite(dy.log(dy.inputVector([1, 0])))
    >>> found.kind, found.number, found.element
    ('value', -inf, (1,))
    """

    kind: str
    """value or gradient"""
    node: inspection.Node
    number: float
    element: tuple[int, ...]
    """Its index in npvalue() or gradient()."""
    place: Place | None
    """The line of the program that made the node, where trace_nonfinite() was on."""
    from_: tuple[tuple[inspection.Node, str, Place | None], ...]
    """The sources. Of a value: the inputs and their values; of a gradient: the nodes that sent it,
    and their gradients, as text."""

    def __str__(self) -> str:
        n = self.node
        lines = [
            (
                f"the {self.kind} of node {n.index} is {self.number} at {self.element}:"
                f" {n.formula()}, dims {n.shape()}"
            ),
            (
                f"  made at {self.place}"
                if self.place
                else (
                    "  made at a line that is not known: build the graph inside of"
                    " trace_nonfinite()"
                )
            ),
        ]
        for other, summary, place in self.from_:
            lines.append(
                f"  {'its input' if self.kind == 'value' else 'sent by'} {other.formula()},"
                f" {summary}" + (f", {place}" if place else "")
            )
        return "\n".join(lines)


class NonFiniteError(RuntimeError):
    """NaN or infinity was found. `report`: where."""

    def __init__(self, report: NonFinite) -> None:
        super().__init__(f"NaN or Inf detected: {report}")
        self.report = report


def _summary(array: NDArray[np.float64]) -> str:
    if not array.size:
        return "empty"
    if not np.isfinite(array).all():
        return "not finite"
    return f"from {array.min():g} to {array.max():g}"


def _array(e: Expression, gradient: bool) -> NDArray[np.float64]:
    return e.gradient() if gradient else read(*_computed_plainly(e, False))


def _search(e: Expression, gradients: bool, infinite: bool) -> NonFinite | None:
    node, element = ffi.new("int *"), ffi.new("int64_t *")
    h = e._node()
    found = lib.dn_find_nonfinite(h, gradients, not infinite, node, element)
    if found < 0:
        fail(found, h)
    if not found:
        return None
    graph = graph_of(h)
    bad = graph.expression(node[0])
    array = _array(bad, gradients)
    about = inspection.node(bad)
    if gradients:
        later = (
            inspection.node(graph.expression(i)) for i in range(about.index + 1, e.index() + 1)
        )
        others = [n for n in later if about.index in n.inputs]
    else:
        others = [inspection.node(graph.expression(i)) for i in dict.fromkeys(about.inputs)]
    sources = []
    for n in others:
        numbers = _array(graph.expression(n.index), gradients)
        if not gradients or numbers.any():
            sources.append(
                (
                    n,
                    ("gradient " if gradients else "value ") + _summary(numbers),
                    _place(graph, n.index),
                )
            )
    at = tuple(int(i) for i in np.unravel_index(element[0], array.shape, order="F"))
    return NonFinite(
        "gradient" if gradients else "value",
        about,
        float(array[at]),
        at,
        _place(graph, about.index),
        tuple(sources),
    )


def find_nonfinite(expr: Expression, infinite: bool = True) -> NonFinite | None:
    """The first node with NaN or infinity in its value, among those that expr is computed from;
    None if all are finite.

    If all values are finite and backward() was called, the first node from the end with NaN or
    infinity in its gradient.

    Args:
        expr: is computed if necessary.
        infinite: False: infinities are intended (as in a mask of -inf); only NaN is reported.

    Raises:
        TypeError: expr is not an expression.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> loss = dy.sum_elems(dy.log(dy.inputVector([1, 0])) * 2)
    >>> print(dy.find_nonfinite(loss))
    the value of node 1 is -inf at (1,): v1 = log(v0), dims (2,)
      made at a line that is not known: build the graph inside of trace_nonfinite()
      its input v0 = input(), value from 0 to 1
    """
    if not isinstance(expr, Expression):
        raise TypeError(f"find_nonfinite: takes an expression; got {type(expr).__name__}.")
    _computed_plainly(expr, False)
    return _search(expr, False, infinite) or _search(expr, True, infinite)


# ---- the mode --------------------------------------------------------------------------

_lock = threading.RLock()  # a signal handler may search, too
_modes: dict[object, bool] = {}
"""`infinite` of each trace_nonfinite() that is on, by a key of its own, the innermost last."""
_infinite = True
_computed_plainly = Expression._computed


def _is_on() -> bool:
    """Whether a search is on. Restores what Ctrl-C at the end of one may have left."""
    if not _modes:
        with _lock:
            _switch()
    return bool(_modes)


def _check(e: Expression, gradient: bool = False) -> None:
    report = _search(e, gradient, _infinite) if _is_on() else None
    if report:
        raise NonFiniteError(report)


def _note_new() -> None:
    graph = calls.current()
    if graph >= 0 and _is_on():
        _note(graph, _users_place())


def _checking_computed(self: Expression, recalculate: bool) -> Any:
    result = _plain["_computed"](self, recalculate)
    _check(self)
    return result


def _checking(name: str) -> Callable[..., Any]:
    """A method that reads a value by a fast path, after the general one has checked it."""

    def checked(self: Expression, recalculate: bool = False) -> Any:
        self._computed(recalculate)
        return _plain[name](self)

    return checked


def _checking_backward(self: Expression, full: bool = False) -> None:
    self._computed(False)
    _plain["backward"](self, full)
    _check(self, gradient=True)


_REPLACEMENTS = {
    "_computed": _checking_computed,
    **{
        name: _checking(name)
        for name in ("forward", "value", "npvalue", "vec_value", "scalar_value", "tensor_value")
    },
    "backward": _checking_backward,
}


_plain = {name: getattr(Expression, name) for name in _REPLACEMENTS}


def _switch() -> None:
    """Gives Expression the methods that `_modes` asks for, whatever it has now."""
    global _infinite
    modes = list(_modes.values())
    _infinite = not modes or modes[-1]
    for name, method in (_REPLACEMENTS if modes else _plain).items():
        setattr(Expression, name, method)
    calls.watch(_note_new if modes else None)


@contextmanager
def trace_nonfinite(infinite: bool = True) -> Iterator[None]:
    """A context manager within which the first NaN or infinity is an error that names its node, and
    the line of the program that made it.

    Values are checked when they are computed (value(), backward(), ...), gradients at the end of
    backward(). For debugging only: everything is slower. It applies to all threads of the process;
    when it is off it costs nothing.

    Args:
        infinite: False: infinities are intended (as in a mask of -inf); only NaN is an error.

    Raises:
        NonFiniteError: from value() and the like, or from backward(). Before backward() raises for
            a value it has changed no gradient; when it raises for a gradient, those of the
            parameters are invalid: reset_gradients().

    >>> import dist_dynet as dy
    >>> with dy.trace_nonfinite():
    ...     _ = dy.renew_cg()
    ...     x = dy.inputVector([1, 0])
    ...     y = dy.log(x)
    ...     dy.sum_elems(y).value()
    Traceback (most recent call last):
    dist_dynet.nonfinite.NonFiniteError: NaN or Inf detected: the value of node 1 is -inf at (1,)...
      made at <doctest dist_dynet.nonfinite.trace_nonfinite[1]>:4, in <module>
      its input v0 = input(), value from 0 to 1, <doctest dist_dynet.nonfinite.trace_nonfinite[1]...
    """
    mode = object()
    try:
        with _lock:
            if not _modes:
                _notes.clear()
                _note(cg().number, None)  # what is there was made at lines that are not known
            _modes[mode] = infinite
            _switch()
        yield
    finally:
        with _lock:
            _modes.pop(mode, None)
            _switch()
