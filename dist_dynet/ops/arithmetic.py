"""Operators and sums: + - * / ** on expressions and numbers, cmult, cdiv, pow, esum, average."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .. import _random
from .._ffi import calls, lib
from ..expression import Expression
from ..graph import current_graph
from ._nodes import has_handle, listed, node, operation
from .inputs import inputTensor, scalarInput

__all__ = ["average", "cdiv", "cmult", "colwise_add", "esum", "pow"]

_NUMBERS = (int, float, np.number, np.bool_)


def _number(y: Any) -> float | None:
    """A Python or NumPy number (an array of no dims included) as a float."""
    if type(y) is float:
        return y
    if isinstance(y, _NUMBERS) or (isinstance(y, np.ndarray) and y.ndim == 0):
        return float(y)
    return None


def _scale_shift(x: Expression, a: float, b: float = -0.0) -> Expression:
    """a x + b; -0.0 is what changes nothing when it is added, 0.0 would make -0.0 to 0.0."""
    return node("scale_shift", x, a, b, what="arithmetic")


def _difference(x: Expression, y: Expression) -> Expression:
    """x - y; x + -y, as in DyNet, where random nodes draw in the order of its agenda."""
    graph = current_graph()
    if not lib.dn_graph_follows_agenda(graph):
        return node("subtract", x, y)
    size = lib.dn_graph_size(graph)
    try:
        return node("add", x, _scale_shift(y, -1.0), what="subtract")
    except BaseException:
        lib.dn_take_back(graph, size)
        raise


def _minus_number(x: Expression, n: float) -> Expression:
    """x - n; -(n - x), as in DyNet, where random nodes draw in the order of its agenda."""
    if lib.dn_graph_follows_agenda(current_graph()):
        return _scale_shift(_scale_shift(x, -1.0, n), -1.0)
    return _scale_shift(x, 1.0, -n)


def _over_number(x: Expression, n: float) -> Expression:
    return _scale_shift(x, 1 / n) if n else cdiv(x, scalarInput(0))


_Ways = tuple[
    Callable[[Expression, float], Expression] | None,
    Callable[[Expression, Expression], Expression] | None,
]


def _operator(op: str, ways: _Ways, is_reflected: bool) -> Callable[[Any, Any], Any]:
    """What an operator makes of an expression x and something else: a node of op, of_number(x,
    number), or of_array(x, array as an input)."""
    of_number, of_array = ways

    def operate(x: Any, y: Any) -> Any:
        if has_handle(x) and has_handle(y):
            x, y = (y, x) if is_reflected else (x, y)
            return _difference(x, y) if op == "subtract" else node(op, x, y)
        n = _number(y)
        if n is not None:
            return of_number(x, n) if of_number else NotImplemented
        if isinstance(y, list | tuple) and op != "add":  # lists have a + of their own
            raise TypeError(
                f"{op}: takes expressions, numbers and arrays; got {type(y).__name__}. Make one of"
                " numbers by inputVector() or inputTensor()."
            )
        return (
            of_array(x, inputTensor(y))
            if of_array and isinstance(y, np.ndarray)
            else NotImplemented
        )

    return operate


@operation("cmult")
def cmult(x: Expression, y: Expression) -> Expression:
    """y_i = x_0i x_1i: the elementwise product.

    Shape: sizes equal or 1 in each dim, counted from the first; missing ones count as 1; batches
    equal or 1.
    Gradient: dx_0 = dy x_1, dx_1 = dy x_0, summed over what was repeated.

    >>> import dist_dynet as dy
    >>> dy.cmult(dy.inputVector([1, 2, 3]), dy.inputVector([4, 5, 6])).value()
    [4.0, 10.0, 18.0]
    """
    return node("cmult", x, y)


@operation("cdiv")
def cdiv(x: Expression, y: Expression) -> Expression:
    """y_i = x_0i / x_1i: the elementwise quotient.

    Shape: as cmult(); both inputs are repeated where their sizes are 1.
    Gradient: dx_0 = dy / x_1, dx_1 = -dy y / x_1.

    >>> import dist_dynet as dy
    >>> dy.cdiv(dy.inputVector([1, 2]), dy.inputVector([4, 5])).npvalue().round(2).tolist()
    [0.25, 0.4]
    """
    return node("cdiv", x, y)


@operation("pow")
def pow(x: Expression, y: Expression) -> Expression:
    """y_i = x_0i ^ x_1; also x ** n.

    Shape: the exponent is one number without a batch.
    Gradient: dx_0 = dy x_1 x_0^(x_1 - 1), dx_1 = sum dy y log x_0 (a base of 0 counts as 0).

    >>> import dist_dynet as dy
    >>> (dy.inputVector([2, 3]) ** 2).value()
    [4.0, 9.0]
    """
    return node("pow", x, y)


@operation("add")
def colwise_add(x: Expression, y: Expression) -> Expression:
    """A matrix plus a column vector, repeated over the columns: x + y.

    >>> import dist_dynet as dy
    >>> dy.colwise_add(dy.zeros((2, 2)), dy.inputVector([1, 2])).npvalue().tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """
    return node("add", x, y, what="colwise_add")


def esum(xs: Iterable[Expression]) -> Expression:
    """y = x_0 + x_1 + ...: the sum of expressions of equal dims.

    Shape: equal but for trailing 1s; batches equal or 1.
    Gradient: dx_k = dy.

    >>> import dist_dynet as dy
    >>> dy.esum([dy.scalarInput(1), dy.scalarInput(2)]).value()
    3.0
    """
    if type(xs) is not list or len(xs) < 2:
        xs = listed(xs, "esum")
        if len(xs) == 1 and isinstance(xs[0], Expression) and not _random.dynet_order():
            return xs[0]  # in DyNet it is a node, which is what is computed up to
    return node("sum", xs, what="esum")


@operation("average")
def average(xs: Iterable[Expression]) -> Expression:
    """y = (x_0 + ... + x_(n-1)) / n: the mean of expressions of equal dims.

    >>> import dist_dynet as dy
    >>> dy.average([dy.scalarInput(1), dy.scalarInput(2)]).value()
    1.5
    """
    return node("average", xs)


# The operators of two expressions, and of one and a number, are in csrc/python/module.c, too; the
# last column is other + x.
_OPERATORS: tuple[tuple[str, str, _Ways, _Ways], ...] = (
    (
        "__add__",
        "add",
        (lambda x, n: _scale_shift(x, 1.0, n), lambda x, y: x + y),
        (lambda x, n: _scale_shift(x, 1.0, n), lambda x, y: y + x),
    ),
    (
        "__sub__",
        "subtract",
        (_minus_number, lambda x, y: x - y),
        (lambda x, n: _scale_shift(x, -1.0, n), lambda x, y: y - x),
    ),
    (
        "__mul__",
        "matmul",
        (lambda x, n: _scale_shift(x, n), lambda x, y: x * y),
        (lambda x, n: _scale_shift(x, n), lambda x, y: y * x),
    ),
    ("__truediv__", "cdiv", (_over_number, None), (lambda x, n: cdiv(scalarInput(n), x), None)),
    ("__pow__", "pow", (lambda x, n: pow(x, scalarInput(n)), None), (None, None)),
)
for _name, _op, _straight, _reflected in _OPERATORS:
    calls.operator(_name, _op, _operator(_op, _straight, False), _operator(_op, _reflected, True))
calls.operator("__neg__", "scale_shift", lambda x: _scale_shift(x, -1.0), None)
