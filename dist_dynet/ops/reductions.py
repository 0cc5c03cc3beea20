"""Sums and means over elements, and over the batch."""

from __future__ import annotations

from ..graph import Expression
from ._nodes import unary

__all__ = ["mean_batches", "mean_elems", "sum_batches", "sum_elems"]


@unary
def sum_elems(x: Expression) -> Expression:
    """y = sum_i x_i, for each batch element: (1,).

    Gradient: dx_i = dy.

    >>> import dist_dynet as dy
    >>> dy.sum_elems(dy.inputVector([1, 2, 3])).value()
    6.0
    """
    raise NotImplementedError


@unary
def mean_elems(x: Expression) -> Expression:
    """y = sum_i x_i / n, for each batch element: (1,).

    >>> import dist_dynet as dy
    >>> dy.mean_elems(dy.inputVector([1, 2, 3])).value()
    2.0
    """
    raise NotImplementedError


@unary
def sum_batches(x: Expression) -> Expression:
    """y = sum over the batch of x_b: dims stay, batch 1.

    Gradient: dx_b = dy.

    >>> import dist_dynet as dy
    >>> dy.sum_batches(dy.inputTensor([[1, 2], [3, 4]], batched=True)).value()
    [3.0, 7.0]
    """
    raise NotImplementedError


@unary
def mean_batches(x: Expression) -> Expression:
    """y = sum over the batch of x_b / batch size: dims stay, batch 1.

    >>> import dist_dynet as dy
    >>> dy.mean_batches(dy.inputTensor([[1, 2], [3, 4]], batched=True)).value()
    [1.5, 3.5]
    """
    raise NotImplementedError
