"""How an operation's Python function becomes a node.

The functions made here are closures over one op number and one C call: a node costs 0.2 us, most of it Python, so there is no layer to spare.
This module knows the C calls; it knows no operation.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from .._ffi import DTYPE, NULL, OPS, fail, nodes
from ..graph import Expression, current_tape

F = TypeVar("F", bound=Callable[..., Any])

_node1, _node2, _node_many, _node1_int, _node1_real = (
    nodes.dn_node1, nodes.dn_node2, nodes.dn_node_many, nodes.dn_node1_int, nodes.dn_node1_real,
)  # fmt: skip


def not_expression(what: str, *given: Any) -> TypeError:
    """The error for arguments that are no expressions."""
    return TypeError(f"{what}: takes expressions; got {', '.join(type(g).__name__ for g in given)}.")


def make(cls: type[Expression], tape: Any, handle: int) -> Any:
    """An expression of a class for what a C call returned; raises what a negative handle stands for."""
    if handle < 0:
        fail(tape, handle)
    e = cls()
    e._tape = tape
    e._h = handle
    return e


def unary(function: F) -> F:
    """f(x) -> a node of the op that has the function's name."""
    op = OPS[function.__name__]

    @functools.wraps(function)
    def wrapper(x: Expression) -> Expression:
        try:
            tape = x._tape or current_tape()
            h = _node1(tape, op, x._h)
        except AttributeError:
            raise not_expression(function.__name__, x) from None
        if h < 0:
            fail(tape, h)
        e = Expression()
        e._tape = tape
        e._h = h
        return e

    return wrapper  # type: ignore[return-value]


def binary(function: F) -> F:
    """f(x, y) -> a node of the op that has the function's name."""
    op = OPS[function.__name__]

    @functools.wraps(function)
    def wrapper(x: Expression, y: Expression) -> Expression:
        try:
            tape = x._tape or y._tape or current_tape()
            h = _node2(tape, op, x._h, y._h)
        except AttributeError:
            raise not_expression(function.__name__, x, y) from None
        if h < 0:
            fail(tape, h)
        e = Expression()
        e._tape = tape
        e._h = h
        return e

    return wrapper  # type: ignore[return-value]


def listed(exprs: Iterable[Expression], what: str) -> list[Expression]:
    """A list of expressions from any iterable; the errors of DyNet for empty ones."""
    if isinstance(exprs, Expression):
        raise TypeError(f"{what}: takes a list of expressions; got one expression. Write {what}([x]).")
    try:
        result = list(exprs)
    except TypeError:
        raise not_expression(what, exprs) from None
    if not result:
        raise AssertionError(f"List is empty, nothing to {what}.")
    if None in result:
        raise AssertionError(f"Empty element for {what}: item {result.index(None)} is None.")
    return result


def many(op: int, what: str, exprs: Iterable[Expression], ints: Sequence[int] = (), reals: Sequence[float] = ()) -> Expression:
    """A node of any number of inputs and attributes."""
    inputs = listed(exprs, what)
    try:
        tape = inputs[-1]._tape or inputs[0]._tape or current_tape()
        handles = [e._h for e in inputs]
    except AttributeError:
        raise not_expression(what, *(e for e in inputs if not isinstance(e, Expression))) from None
    h = _node_many(tape, op, len(handles), handles, len(ints), ints or NULL, len(reals), reals or NULL)
    return make(Expression, tape, h)  # type: ignore[no-any-return]


def with_int(op: int, what: str, x: Expression, i: int) -> Expression:
    """A node of one input and one whole number."""
    try:
        tape = x._tape or current_tape()
        h = _node1_int(tape, op, x._h, i)
    except AttributeError:
        raise not_expression(what, x) from None
    return make(Expression, tape, h)  # type: ignore[no-any-return]


def with_reals(op: int, what: str, x: Expression, a: float, b: float) -> Expression:
    """A node of one input and two numbers."""
    try:
        tape = x._tape or current_tape()
        h = _node1_real(tape, op, x._h, a, b)
    except AttributeError:
        raise not_expression(what, x) from None
    return make(Expression, tape, h)  # type: ignore[no-any-return]


def leaf(tape: Any, op: int, ints: Sequence[int], reals: Sequence[float] = ()) -> Expression:
    """A node without inputs, from attributes alone."""
    return make(Expression, tape, _node_many(tape, op, 0, NULL, len(ints), ints, len(reals), reals or NULL))  # type: ignore[no-any-return]


def indices(values: Iterable[int], what: str) -> list[int]:
    """Whole numbers from any iterable, NumPy's included."""
    try:
        return [operator.index(v) for v in values]
    except TypeError:
        raise TypeError(f"{what}: indices must be whole numbers; got {values!r}.") from None


def reals(values: Any, what: str) -> Any:
    """Numbers as something that C takes: a list as it is, anything else as an array of the build's type."""
    import numpy as np

    try:
        return np.ascontiguousarray(values, DTYPE)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what}: takes numbers; {error}.") from None
