"""How the Python function of an operation makes a node: node(), whose arguments are the node's
inputs and attributes.

This module knows the C calls but no operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from .._ffi import NULL, OPS, accelerated, calls, fail, fail_in, lib
from .._integers import real, whole
from .._large_graphs import INDEX, large, note_large
from ..expression import NO_GRAPH, Expression, resolved
from ..graph import current_graph
from ..params.dims import dims_of_node

E = TypeVar("E", bound=Expression)
F = TypeVar("F", bound=Callable[..., Any])
Attribute = float | Sequence[float]
"""An integer, a float, or a list of one of them."""

_node_with_views = lib.dn_node_with_views
_INPUTS = {name: lib.dn_op_inputs(number) for name, number in OPS.items()}
"""How many inputs each operation takes; -1: a list of any number."""


def not_expression(what: str, *given: Any) -> TypeError:
    """The error for arguments that are not expressions."""
    lists = [
        g
        for g in given
        if isinstance(g, list | tuple) and not any(isinstance(item, Expression) for item in g)
    ]
    numbers = lists or any(isinstance(g, int | float | np.ndarray | np.number) for g in given)
    hint = (
        " Make one of numbers by scalarInput(), inputVector() or inputTensor()." if numbers else ""
    )
    if any(isinstance(item, Expression) for g in given if isinstance(g, list) for item in g):
        hint = " Join them by concatenate(), or call it for each."
    if any(callable(getattr(g, "output", None)) for g in given):
        hint = " That of a state is state.output()."
    return TypeError(
        f"{what}: takes expressions; got {', '.join(type(g).__name__ for g in given)}.{hint}"
    )


def has_handle(x: Any) -> bool:
    """Whether it is an expression that stands for a node."""
    return isinstance(x, Expression) and hasattr(x, "_h")


def make(cls: type[E], handle: int, *inputs: int, what: str = "") -> E:
    """An expression of this class for the result of a C call with these inputs. A negative handle
    is raised as an error, as by fail()."""
    if handle < 0:
        fail(handle, *inputs, what=what)
    if handle & INDEX >= large.index:
        note_large(handle)
    e = cls()
    e._h = handle
    return e


@accelerated
def listed(exprs: Iterable[Expression], what: str) -> list[Expression]:
    """A list of expressions from any iterable; the errors of DyNet for empty ones."""
    if isinstance(exprs, Expression):
        raise TypeError(
            f"{what}: takes a list of expressions; got one expression. Write {what}([x])."
        )
    try:
        result: list[Any] = list(exprs)
    except TypeError:
        raise not_expression(what, exprs) from None
    if not result:
        raise AssertionError(
            f"List is empty, nothing to {what}. Where that may be, as on a rank that is left"
            " without examples, write `if batch:` before it."
        )
    try:
        if None in result:
            raise AssertionError(f"Empty element for {what}: item {result.index(None)} is None.")
    except ValueError:  # an array in the list
        raise not_expression(what, *result) from None
    return result


@overload
def node(op: str, *given: Any, what: str = ...) -> Expression: ...
@overload
def node(op: str, *given: Any, what: str = ..., cls: type[E]) -> E: ...
@accelerated
def node(op: str, *given: Any, what: str = "", cls: Any = Expression) -> Any:
    """A node of an operation.

    Args:
        op: its name, that of a row in csrc/ops.
        given: first its inputs: as many expressions as the operation takes, or one list of them for
            an operation that takes any number. Then its attributes: integers and floats, by
            themselves or in lists; whole() and real() make them of what users give.
        what: the function that was called, where that has another name.
        cls: the class of the result.
    """
    n, what = _INPUTS[op], what or op
    if n == 0:
        graph = current_graph()
        ints, floats = _attributes(given)
        handle = lib.dn_leaf(graph, OPS[op], len(ints), ints, len(floats), floats)
        if handle < 0:
            fail_in(graph, handle, what)
        return make(cls, handle)
    inputs = given[:n] if n > 0 else listed(given[0], what)
    try:
        handles = [e._h for e in inputs]
    except AttributeError:
        handles = [[]]
    if any(type(handle) is not int for handle in handles):  # states have other ones
        raise not_expression(what, *(e for e in inputs if not has_handle(e)))
    return make(
        cls,
        many_node(OPS[op], handles, *_attributes(given[n if n > 0 else 1 :])),
        *handles,
        what=what,
    )


_KINDS = {".": "f", "?": "b", "*": "l", "+": "m", "!": "t"}


def _attribute(word: str, parameters: Sequence[str]) -> tuple[str, int, float]:
    """An attribute in the form of csrc/python/operation.c: its kind, parameter and number."""
    name = word.rstrip(".?*+!0123456789")
    if name in ("", "-"):
        return "F" if "." in word else "I", -1, float(word)
    kind, number = word[len(name) : len(name) + 1], word[len(name) + 1 :]
    return _KINDS.get(kind, "i"), parameters.index(name), float(number or 0)


def operation(
    op: str, attributes: str = "", cls: type[Expression] | None = None
) -> Callable[[F], F]:
    """Declares that a public function makes a single node: its arguments are the operation's inputs
    and the source of its attributes.

    csrc/python/operation.c then makes the node, of class `cls`, without a call in Python; the
    function handles all other cases.

    Args:
        op: the name of the operation.
        attributes: those of the node, in their order, separated by blanks: a number, or the name of
            a parameter, which is an integer; with "." a float, with "?" a truth value, with "*" a
            list of integers ("*2": of two), with "+" one integer or a list; with "!" it must be
            True and is no attribute. A parameter that is not named must not be given, or be its
            default.
        cls: the class of the result.
    """

    def stands_for(function: F) -> F:
        by: Any = function
        while hasattr(by, "__wrapped__"):
            by = by.__wrapped__
        parameters = by.__code__.co_varnames[: by.__code__.co_argcount]
        made = tuple([_attribute(word, parameters) for word in attributes.split()])
        return calls.operation(op, parameters, by.__defaults__ or (), made, cls, function)

    return stands_for


@accelerated
def leaf(op: str, what: str, dim: Any, batch_size: Any, *numbers: Any) -> Expression:
    """A node of an operation without inputs, with these dims: constants and draws."""
    batch_size, dims = whole(batch_size, what, "batch_size"), dims_of_node(dim, what)
    return node(op, batch_size, dims, *(real(number, what) for number in numbers), what=what)


def _attributes(given: tuple[Attribute, ...]) -> tuple[list[int], list[float]]:
    """The integers and the floats among them, in order."""
    ints: list[int] = []
    floats: list[float] = []
    for a in (a for g in given for a in (g if isinstance(g, Sequence) else (g,))):
        if isinstance(a, int | np.integer):
            ints.append(int(a))
        elif isinstance(a, float | np.floating):
            floats.append(float(a))
        else:
            raise TypeError(f"node: takes integers and floats as attributes; got {a!r:.60}.")
    return ints, floats


def many_node(
    op: int, handles: list[int], ints: Sequence[int] = (), floats: Sequence[float] = ()
) -> int:
    """Makes a node of these handles: returns its handle, or a negative error. If all are parameters
    it is made in the current graph."""
    return node_with_views(op, 0, handles, ints, floats)


def node_with_views(
    op: int, parts: int, handles: list[int], ints: Sequence[int] = (), floats: Sequence[float] = ()
) -> int:
    """As many_node(), for an op with several outputs: the handle of the first of its first `parts`
    outputs, which are consecutive."""
    attributes = len(ints), ints or NULL, len(floats), floats or NULL
    h: int = _node_with_views(op, len(handles), handles, *attributes, parts)
    return (
        _node_with_views(op, len(handles), [resolved(handles[0]), *handles[1:]], *attributes, parts)
        if h == NO_GRAPH
        else h
    )


def set_ints(e: Expression, ints: Sequence[int]) -> None:
    """Changes the integers of a node that looks up rows or places; forgets all computed values of
    the graph."""
    code = lib.dn_ints_set(e._h, len(ints), ints)
    if code < 0:
        fail(code, e._h)
