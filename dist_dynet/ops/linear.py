"""Linear algebra."""

from __future__ import annotations

from collections.abc import Iterable

from .._ffi import OPS
from ..graph import Expression
from ._nodes import binary, many

__all__ = ["affine_transform", "dot_product", "matmul"]


@binary
def matmul(x: Expression, y: Expression) -> Expression:
    """y = a b: the matrix product, also a * b and a @ b.

    Shape: (m, k) (k, n) -> (m, n); (m, k) (k,) -> (m,); a vector is a column. Batches equal or 1.
    Gradient: da = dy b', db = a' dy. Products with one unbatched matrix are collected over the graph and done as one.

    >>> import dist_dynet as dy
    >>> (dy.inputTensor([[1, 2], [3, 4]]) * dy.inputVector([1, 1])).value()
    [3.0, 7.0]
    """
    raise NotImplementedError


def affine_transform(exprs: Iterable[Expression]) -> Expression:
    """y = b + W_1 x_1 + W_2 x_2 + ... for [b, W_1, x_1, W_2, x_2, ...].

    Shape: products of equal dims (m, n); b has them, or is one column (m,) that is repeated over columns and batch. One column gives (m,).
    Gradient: db = sum of dy over what was repeated; the products as in matmul().
    Raises: ValueError for an even number of expressions or dims that do not fit.

    >>> import dist_dynet as dy
    >>> b, W, x = dy.inputVector([1, 1]), dy.inputTensor([[1, 2], [3, 4]]), dy.inputVector([1, 1])
    >>> dy.affine_transform([b, W, x]).value()
    [4.0, 8.0]
    """
    return many(OPS["affine_transform"], "affine_transform", exprs)


@binary
def dot_product(x: Expression, y: Expression) -> Expression:
    """y = sum_i x_0i x_1i.

    Shape: equal dims, batches equal or 1 -> (1,).
    Gradient: dx_0 = dy x_1, dx_1 = dy x_0.

    >>> import dist_dynet as dy
    >>> dy.dot_product(dy.inputVector([1, 2]), dy.inputVector([3, 4])).value()
    11.0
    """
    raise NotImplementedError
