"""Losses and distances: one number for each batch element."""

from __future__ import annotations

from ..graph import Expression
from ._nodes import binary

__all__ = ["binary_log_loss", "squared_distance"]


@binary
def squared_distance(x: Expression, y: Expression) -> Expression:
    """y = sum_i (x_0i - x_1i)^2.

    Shape: equal but for trailing 1s, batches equal or 1 -> (1,).
    Gradient: dx_0 = 2 dy (x_0 - x_1), dx_1 = -dx_0.

    >>> import dist_dynet as dy
    >>> dy.squared_distance(dy.inputVector([1, 2]), dy.inputVector([3, 5])).value()
    13.0
    """
    raise NotImplementedError


@binary
def binary_log_loss(x: Expression, y: Expression) -> Expression:
    """y = -sum_i t_i log x_i + (1 - t_i) log(1 - x_i) for predictions x in (0, 1) and targets t in [0, 1].

    Shape: equal but for trailing 1s, batches equal or 1 -> (1,). A prediction of exactly 0 or 1 that is right costs 0.
    Gradient: dx = dy ((1 - t) / (1 - x) - t / x), dt = dy (log(1 - x) - log x).

    >>> import dist_dynet as dy
    >>> round(dy.binary_log_loss(dy.scalarInput(0.5), dy.scalarInput(1)).value(), 4)
    0.6931
    """
    raise NotImplementedError
