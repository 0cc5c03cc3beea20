"""Functions of one expression, element by element: dims and batch stay."""

# ruff: noqa: A001 - the module shadows builtins as DyNet's does
from __future__ import annotations

from ..graph import Expression
from ._nodes import unary

__all__ = ["abs", "exp", "log", "logistic", "rectify", "square", "tanh"]


@unary
def tanh(x: Expression) -> Expression:
    """y_i = tanh x_i.

    Gradient: dx = dy (1 - y^2).

    >>> import dist_dynet as dy
    >>> round(dy.tanh(dy.scalarInput(0.5)).value(), 4)
    0.4621
    """
    raise NotImplementedError


@unary
def logistic(x: Expression) -> Expression:
    """y_i = 1 / (1 + exp(-x_i)).

    Gradient: dx = dy y (1 - y).

    >>> import dist_dynet as dy
    >>> dy.logistic(dy.scalarInput(0)).value()
    0.5
    """
    raise NotImplementedError


@unary
def rectify(x: Expression) -> Expression:
    """y_i = max(0, x_i).

    Gradient: dx = dy where x > 0, else 0.

    >>> import dist_dynet as dy
    >>> dy.rectify(dy.inputVector([-1, 2])).value()
    [0.0, 2.0]
    """
    raise NotImplementedError


@unary
def exp(x: Expression) -> Expression:
    """y_i = exp x_i.

    Gradient: dx = dy y.

    >>> import dist_dynet as dy
    >>> dy.exp(dy.scalarInput(0)).value()
    1.0
    """
    raise NotImplementedError


@unary
def log(x: Expression) -> Expression:
    """y_i = log x_i, the natural logarithm; -inf at 0, NaN below.

    Gradient: dx = dy / x.

    >>> import dist_dynet as dy
    >>> dy.log(dy.scalarInput(1)).value()
    0.0
    """
    raise NotImplementedError


@unary
def square(x: Expression) -> Expression:
    """y_i = x_i^2.

    Gradient: dx = 2 dy x.

    >>> import dist_dynet as dy
    >>> dy.square(dy.scalarInput(-3)).value()
    9.0
    """
    raise NotImplementedError


@unary
def abs(x: Expression) -> Expression:
    """y_i = |x_i|.

    Gradient: dx = dy sign(x), 0 at 0.

    >>> import dist_dynet as dy
    >>> dy.abs(dy.scalarInput(-3)).value()
    3.0
    """
    raise NotImplementedError
