"""Joining and reshaping: the numbers stay, their places change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._ffi import accelerated
from .._integers import indices, whole
from ..expression import Expression
from ..params.dims import dims_of_node
from ._nodes import node, operation

__all__ = ["concatenate", "concatenate_cols", "concatenate_to_batch", "reshape", "transpose"]


@operation("reshape", "batch_size d+")
def reshape(x: Expression, d: int | Sequence[int], batch_size: int = 1) -> Expression:
    """y = x in other dims, column-major; nothing is copied.

    Shape: d x batch_size, as many numbers as x with its batch. Without a batch_size, d may also be
    the new dims of each batch element.
    Gradient: dx = dy in the dims of x.
    Raises: ValueError when the numbers of elements differ.

    >>> import dist_dynet as dy
    >>> dy.reshape(dy.inputVector([1, 2, 3, 4]), (2, 2)).npvalue().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    dims = dims_of_node(d, "reshape")
    return node("reshape", x, whole(batch_size, "reshape", "batch_size"), dims)


@operation("transpose", "dims*")
def transpose(x: Expression, dims: Sequence[int] = (1, 0)) -> Expression:
    """y = x with dim dims[i] as its dim i; a matrix is transposed, a vector becomes a row.

    Shape: one entry for each dim of x; entries for more dims than x has count as dims of 1,
    trailing dims of 1 may be left out.
    Gradient: dx = dy with the dims back in their order.
    Raises: ValueError when dims is not a permutation.

    >>> import dist_dynet as dy
    >>> dy.transpose(dy.inputVector([1, 2, 3])).dim()
    ((1, 3), 1)
    """
    return node("transpose", x, indices(dims, "transpose"))


@operation("concatenate", "d")
def concatenate(xs: Iterable[Expression], d: int = 0) -> Expression:
    """y = x_0, x_1, ... joined along dim d.

    Shape: all other dims equal (missing ones count as 1), batches equal or 1.
    Gradient: the parts of dy.

    >>> import dist_dynet as dy
    >>> dy.concatenate([dy.inputVector([1, 2]), dy.inputVector([3])]).value()
    [1.0, 2.0, 3.0]
    """
    return node("concatenate", xs, whole(d, "concatenate", "a dim"))


@accelerated
def concatenate_pairs(xs: list[Expression], ys: list[Expression]) -> list[Expression]:
    """[concatenate([x, y]) for x, y in zip(xs, ys)], of two lists of one length, in one call."""
    return [concatenate(pair) for pair in zip(xs, ys, strict=True)]


@operation("concatenate", "1")
def concatenate_cols(xs: Iterable[Expression]) -> Expression:
    """Joins columns into a matrix: concatenate(xs, d=1).

    Shape: vectors count as columns; a lone vector becomes (n, 1).

    >>> import dist_dynet as dy
    >>> dy.concatenate_cols([dy.inputVector([1, 2]), dy.inputVector([3, 4])]).npvalue().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    return node("concatenate", xs, 1, what="concatenate_cols")


@operation("concatenate_to_batch")
def concatenate_to_batch(xs: Iterable[Expression]) -> Expression:
    """y = the batch elements of x_0, of x_1, ... as one batch.

    Shape: equal dims (trailing 1s aside); the batch sizes add up.
    Gradient: the parts of dy.
    Raises: ValueError when the dims differ.

    >>> import dist_dynet as dy
    >>> dy.concatenate_to_batch([dy.inputVector([1, 2]), dy.inputVector([3, 4])]).dim()
    ((2,), 2)
    """
    return node("concatenate_to_batch", xs)
