"""Maxima and minima: of two, of many, along a dim; and their soft form, log sum exp."""

from __future__ import annotations

from collections.abc import Iterable

from .._integers import whole
from ..expression import Expression
from ._nodes import node, operation

__all__ = ["bmax", "bmin", "emax", "logsumexp", "logsumexp_dim", "max_dim", "min_dim"]


@operation("bmax")
def bmax(x: Expression, y: Expression) -> Expression:
    """y_i = max(x_0i, x_1i), element by element.

    Shape: equal but for trailing 1s; batches equal or 1.
    Gradient: dy to the greater; to the second where they are equal.

    >>> import dist_dynet as dy
    >>> dy.bmax(dy.inputVector([1, 5]), dy.inputVector([2, 3])).value()
    [2.0, 5.0]
    """
    return node("bmax", x, y)


@operation("bmin")
def bmin(x: Expression, y: Expression) -> Expression:
    """y_i = min(x_0i, x_1i), element by element.

    Shape: equal but for trailing 1s; batches equal or 1.
    Gradient: dy to the less; to the second where they are equal.

    >>> import dist_dynet as dy
    >>> dy.bmin(dy.inputVector([1, 5]), dy.inputVector([2, 3])).value()
    [1.0, 3.0]
    """
    return node("bmin", x, y)


@operation("emax")
def emax(xs: Iterable[Expression]) -> Expression:
    """y_i = max(x_0i, x_1i, ...), element by element over a list of expressions.

    Shape: equal but for trailing 1s; batches equal or 1.
    Gradient: dy to the greatest; to the first of those that are equal.

    >>> import dist_dynet as dy
    >>> dy.emax([dy.inputVector([1, 5]), dy.inputVector([2, 3]), dy.inputVector([0, 9])]).value()
    [2.0, 9.0]
    """
    return node("emax", xs)


@operation("logsumexp")
def logsumexp(xs: Iterable[Expression]) -> Expression:
    """y_i = log(exp x_0i + exp x_1i + ...), element by element over a list of expressions, without
    overflow.

    Shape: equal but for trailing 1s; batches equal or 1.
    Gradient: dx_k = dy exp(x_k - y).

    >>> import dist_dynet as dy
    >>> round(dy.logsumexp([dy.scalarInput(0), dy.scalarInput(0)]).value(), 4)
    0.6931
    """
    return node("logsumexp", xs)


@operation("logsumexp_dim", "d")
def logsumexp_dim(x: Expression, d: int = 0) -> Expression:
    """y = log sum exp(x) along dim d, without overflow; the dim goes.

    Shape: x of any dims; a vector gives (1,).
    Gradient: dx = dy exp(x - y).
    Raises: ValueError for a dim that x does not have.

    >>> import dist_dynet as dy
    >>> round(dy.logsumexp_dim(dy.inputVector([0, 0])).value(), 4)
    0.6931
    """
    return node("logsumexp_dim", x, whole(d, "logsumexp_dim", "a dim"))


@operation("max_dim", "d")
def max_dim(x: Expression, d: int = 0) -> Expression:
    """y = the maximum of x along dim d; the dim goes.

    Shape: x of any dims; a vector gives (1,).
    Gradient: dy to the first maximum.
    Raises: ValueError for a dim that x does not have, or that is empty.

    >>> import dist_dynet as dy
    >>> dy.max_dim(dy.inputTensor([[1, 2], [4, 3]])).value()
    [4.0, 3.0]
    """
    return node("max_dim", x, whole(d, "max_dim", "a dim"))


@operation("min_dim", "d")
def min_dim(x: Expression, d: int = 0) -> Expression:
    """y = the minimum of x along dim d; the dim goes.

    Shape: x of any dims; a vector gives (1,).
    Gradient: dy to the first minimum.
    Raises: ValueError for a dim that x does not have, or that is empty.

    >>> import dist_dynet as dy
    >>> dy.min_dim(dy.inputTensor([[1, 2], [4, 3]])).value()
    [1.0, 2.0]
    """
    return node("min_dim", x, whole(d, "min_dim", "a dim"))
