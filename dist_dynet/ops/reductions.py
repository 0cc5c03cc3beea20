"""Sums, means, moments and deviations: over elements, over the batch, over dims; norms; running
sums."""

from __future__ import annotations

from collections.abc import Iterable

from .._integers import one_or_more, whole
from ..expression import Expression
from ._nodes import node, operation

__all__ = [
    "cumsum",
    "l2_norm",
    "mean_batches",
    "mean_dim",
    "mean_elems",
    "moment_batches",
    "moment_dim",
    "moment_elems",
    "squared_norm",
    "std_batches",
    "std_dim",
    "std_elems",
    "sum_batches",
    "sum_dim",
    "sum_elems",
]


@operation("sum_elems")
def sum_elems(x: Expression) -> Expression:
    """y = sum_i x_i, for each batch element: (1,).

    Gradient: dx_i = dy.

    >>> import dist_dynet as dy
    >>> dy.sum_elems(dy.inputVector([1, 2, 3])).value()
    6.0
    """
    return node("sum_elems", x)


@operation("mean_elems")
def mean_elems(x: Expression) -> Expression:
    """y = sum_i x_i / n, for each batch element: (1,).

    >>> import dist_dynet as dy
    >>> dy.mean_elems(dy.inputVector([1, 2, 3])).value()
    2.0
    """
    return node("mean_elems", x)


@operation("sum_batches")
def sum_batches(x: Expression) -> Expression:
    """y = sum over the batch of x_b: dims stay, batch 1.

    Gradient: dx_b = dy.

    >>> import dist_dynet as dy
    >>> dy.sum_batches(dy.inputTensor([[1, 2], [3, 4]], batched=True)).value()
    [3.0, 7.0]
    """
    return node("sum_batches", x)


@operation("mean_batches")
def mean_batches(x: Expression) -> Expression:
    """y = sum over the batch of x_b / batch size: dims stay, batch 1.

    >>> import dist_dynet as dy
    >>> dy.mean_batches(dy.inputTensor([[1, 2], [3, 4]], batched=True)).value()
    [1.5, 3.5]
    """
    return node("mean_batches", x)


@operation("squared_norm")
def squared_norm(x: Expression) -> Expression:
    """y = sum_i x_i^2, for each batch element: (1,).

    Gradient: dx = 2 dy x.

    >>> import dist_dynet as dy
    >>> dy.squared_norm(dy.inputVector([3, 4])).value()
    25.0
    """
    return node("squared_norm", x)


@operation("l2_norm")
def l2_norm(x: Expression) -> Expression:
    """y = sqrt(sum_i x_i^2), for each batch element: (1,).

    Gradient: dx = dy x / y; 0 where y is 0.

    >>> import dist_dynet as dy
    >>> dy.l2_norm(dy.inputVector([3, 4])).value()
    5.0
    """
    return node("l2_norm", x)


@operation("cumsum", "d")
def cumsum(x: Expression, d: int = 0) -> Expression:
    """y_i = x_0 + ... + x_i along dim d.

    Shape: dims stay. d = the number of dims leaves x as it is.
    Gradient: dx_i = dy_i + dy_(i+1) + ...
    Raises: ValueError for a dim that x does not have.

    >>> import dist_dynet as dy
    >>> dy.cumsum(dy.inputVector([1, 2, 3])).value()
    [1.0, 3.0, 6.0]
    """
    return node("cumsum", x, whole(d, "cumsum", "a dim"))


# ---- over dims: the nodes' integers are "all dims", n, the moment's order, the dims ----


def _over_dims(
    what: str, x: Expression, d: int | Iterable[int], b: bool, n: int, r: int = 1
) -> Expression:
    """b: and over the batch."""
    op = f"{what}_and_batch" if b else what
    return node(op, x, 0, whole(n, what, "n"), whole(r, what, "r"), one_or_more(d, what), what=what)


def _order(r: int, what: str) -> int:
    order = whole(r, what, "r")
    if order < 1:
        raise ValueError(f"{what}: the order must be 1 or more; got r = {r}.")
    return order


@operation("sum_dim", "0 n 1 d+")
@operation("sum_dim_and_batch", "b! 0 n 1 d+")
def sum_dim(x: Expression, d: int | Iterable[int], b: bool = False, n: int = 0) -> Expression:
    """y = the sum of x over the dims in the list d; they go. b=True: over the batch, too; its size
    becomes 1.

    Shape: the other dims, in their order; (1,) if none is left. n is there for the likeness with
    mean_dim() and not used.
    Gradient: dx = dy.
    Raises: ValueError for a dim that x does not have or that is named twice, and for an empty list
    without b.

    >>> import dist_dynet as dy
    >>> dy.sum_dim(dy.inputTensor([[1, 2], [3, 4]]), [0]).value()
    [4.0, 6.0]
    """
    return _over_dims("sum_dim", x, d, b, n)


@operation("mean_dim", "0 n 1 d+")
@operation("mean_dim_and_batch", "b! 0 n 1 d+")
def mean_dim(x: Expression, d: int | Iterable[int], b: bool = False, n: int = 0) -> Expression:
    """y = the sum of x over the dims in the list d (b=True: and over the batch), divided by n, or
    by how many numbers that is if n is 0.

    Shape and errors: as sum_dim().
    Gradient: dx = dy / n.

    >>> import dist_dynet as dy
    >>> dy.mean_dim(dy.inputTensor([[1, 2], [3, 4]]), [0]).value()
    [2.0, 3.0]
    """
    return _over_dims("mean_dim", x, d, b, n)


@operation("moment_dim", "0 n r d+")
@operation("moment_dim_and_batch", "b! 0 n r d+")
def moment_dim(
    x: Expression, d: int | Iterable[int], r: int, b: bool = False, n: int = 0
) -> Expression:
    """y = the sum of x^r over the dims in the list d (b=True: and over the batch), divided by n, or
    by how many numbers that is if n is 0.

    Shape and errors: as sum_dim(); r is an integer, 1 or more.
    Gradient: dx = dy r x^(r-1) / n.

    >>> import dist_dynet as dy
    >>> dy.moment_dim(dy.inputTensor([[1, 2], [3, 4]]), [0], 2).value()
    [5.0, 10.0]
    """
    return _over_dims("moment_dim", x, d, b, n, r)


@operation("std_dim", "0 n 1 d+")
@operation("std_dim_and_batch", "b! 0 n 1 d+")
def std_dim(x: Expression, d: int | Iterable[int], b: bool = False, n: int = 0) -> Expression:
    """y = sqrt(moment_dim(x, d, 2, b, n) - mean_dim(x, d, b, n)^2): the standard deviation of a
    population (no n - 1).

    n: how many numbers count where x is padded with zeros; 0: all of them.
    Shape and errors: as sum_dim().
    Gradient: dx = dy (x - mean) / (n y); 0 where y is 0.

    >>> import dist_dynet as dy
    >>> dy.std_dim(dy.inputTensor([[1, 2], [3, 8]]), [0]).value()
    [1.0, 3.0]
    """
    return _over_dims("std_dim", x, d, b, n)


@operation("std_dim", "1 0 1")
def std_elems(x: Expression) -> Expression:
    """y = the standard deviation of the elements of x, for each batch element: (1,).

    Gradient: dx = dy (x - mean) / (n y); 0 where y is 0.

    >>> import dist_dynet as dy
    >>> dy.std_elems(dy.inputVector([1, 3])).value()
    1.0
    """
    return node("std_dim", x, 1, 0, 1, what="std_elems")


@operation("moment_dim", "1 0 r")
def moment_elems(x: Expression, r: int) -> Expression:
    """y = sum_i x_i^r / n, for each batch element: (1,).

    Gradient: dx = dy r x^(r-1) / n.
    Raises: ValueError unless r is 1 or more.

    >>> import dist_dynet as dy
    >>> dy.moment_elems(dy.inputVector([1, 3]), 2).value()
    5.0
    """
    return node("moment_dim", x, 1, 0, _order(r, "moment_elems"), what="moment_elems")


@operation("std_dim_and_batch", "0 0 1")
def std_batches(x: Expression) -> Expression:
    """y = the standard deviation over the batch, element by element: dims stay, batch 1.

    Gradient: dx_b = dy (x_b - mean) / (batch size y); 0 where y is 0.

    >>> import dist_dynet as dy
    >>> dy.std_batches(dy.inputTensor([[1, 3], [2, 8]], batched=True)).value()
    [1.0, 3.0]
    """
    return node("std_dim_and_batch", x, 0, 0, 1, what="std_batches")


@operation("moment_dim_and_batch", "0 0 r")
def moment_batches(x: Expression, r: int) -> Expression:
    """y = sum over the batch of x_b^r / batch size: dims stay, batch 1.

    Gradient: dx_b = dy r x_b^(r-1) / batch size.
    Raises: ValueError unless r is 1 or more.

    >>> import dist_dynet as dy
    >>> dy.moment_batches(dy.inputTensor([[1, 3], [2, 8]], batched=True), 2).value()
    [5.0, 34.0]
    """
    return node("moment_dim_and_batch", x, 0, 0, _order(r, "moment_batches"), what="moment_batches")
