"""Joining and reshaping: the numbers stay, their places change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._ffi import OPS, calls
from .._integers import count
from ..expression import Expression
from ..params.dims import as_dims
from ._nodes import dim_number, indices, many, of_list_with_int, one, quickly

__all__ = ["concatenate", "concatenate_cols", "concatenate_to_batch", "reshape", "transpose"]

_concatenate, _concatenate_cols = of_list_with_int("concatenate", "concatenate"), of_list_with_int("concatenate", "concatenate_cols")


def _each_pair(code: int, xs: list[Expression], ys: list[Expression]) -> list[Expression]:
    return [concatenate(pair) for pair in zip(xs, ys, strict=True)]


_concatenate_pairs = calls.call("pairs", OPS["concatenate"], Expression, _each_pair)


def _long_reshape(x: Expression, batch_size: int, d: int | Sequence[int]) -> Expression:
    return one(OPS["reshape"], "reshape", x, (count(batch_size, "reshape", "batch_size"), *as_dims(d, "reshape")))


_reshape = quickly("with_ints", "reshape", _long_reshape)


def reshape(x: Expression, d: int | Sequence[int], batch_size: int = 1) -> Expression:
    """y = x in other dims, column-major; nothing is copied.

    Shape: d x batch_size, as many numbers as x with its batch. Without a batch_size, d may also be the new dims of each batch element.
    Gradient: dx = dy in the dims of x.
    Raises: ValueError when the numbers of elements differ.

    >>> import dist_dynet as dy
    >>> dy.reshape(dy.inputVector([1, 2, 3, 4]), (2, 2)).npvalue().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    return _reshape(x, batch_size, d)


def _long_transpose(x: Expression, dims: Sequence[int]) -> Expression:
    return one(OPS["transpose"], "transpose", x, indices(dims, "transpose"))


_transpose = quickly("with_ints", "transpose", _long_transpose)


def transpose(x: Expression, dims: Sequence[int] = (1, 0)) -> Expression:
    """y = x with dim dims[i] as its dim i; a matrix is transposed, a vector becomes a row.

    Shape: one entry for each dim of x; entries for more dims than x has count as dims of 1, trailing dims of 1 may be left out.
    Gradient: dx = dy with the dims back in their order.
    Raises: ValueError when dims is not a permutation.

    >>> import dist_dynet as dy
    >>> dy.transpose(dy.inputVector([1, 2, 3])).dim()
    ((1, 3), 1)
    """
    return _transpose(x, dims)


def concatenate(xs: Iterable[Expression], d: int = 0) -> Expression:
    """y = x_0, x_1, ... joined along dim d.

    Shape: all other dims equal (missing ones count as 1), batches equal or 1.
    Gradient: the parts of dy.

    >>> import dist_dynet as dy
    >>> dy.concatenate([dy.inputVector([1, 2]), dy.inputVector([3])]).value()
    [1.0, 2.0, 3.0]
    """
    return _concatenate(xs, dim_number(d, "concatenate"))


def concatenate_pairs(xs: list[Expression], ys: list[Expression]) -> list[Expression]:
    """[concatenate([x, y]) for x, y in zip(xs, ys)], of two lists of one length, in one call."""
    return _concatenate_pairs(xs, ys)


def concatenate_cols(xs: Iterable[Expression]) -> Expression:
    """Joins columns into a matrix: concatenate(xs, d=1).

    Shape: vectors count as columns; a lone vector becomes (n, 1).

    >>> import dist_dynet as dy
    >>> dy.concatenate_cols([dy.inputVector([1, 2]), dy.inputVector([3, 4])]).npvalue().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    return _concatenate_cols(xs, 1)


def concatenate_to_batch(xs: Iterable[Expression]) -> Expression:
    """y = the batch elements of x_0, of x_1, ... as one batch.

    Shape: equal dims (trailing 1s aside); the batch sizes add up.
    Gradient: the parts of dy.
    Raises: ValueError when the dims differ.

    >>> import dist_dynet as dy
    >>> dy.concatenate_to_batch([dy.inputVector([1, 2]), dy.inputVector([3, 4])]).dim()
    ((2,), 2)
    """
    return many(OPS["concatenate_to_batch"], "concatenate_to_batch", xs)
