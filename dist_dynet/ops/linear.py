"""Linear algebra."""

from __future__ import annotations

from collections.abc import Iterable

from ..expression import Expression
from ._nodes import node, operation

__all__ = [
    "affine_transform",
    "circ_conv",
    "circ_corr",
    "contract3d_1d",
    "contract3d_1d_1d",
    "contract3d_1d_1d_bias",
    "contract3d_1d_bias",
    "dot_product",
    "inverse",
    "layer_norm",
    "logdet",
    "matmul",
    "trace_of_product",
    "weight_norm",
]


@operation("matmul")
def matmul(x: Expression, y: Expression) -> Expression:
    """y = a b: the matrix product, also a * b and a @ b.

    Shape: (m, k) (k, n) -> (m, n); (m, k) (k,) -> (m,); a vector is a column. Batches equal or 1.
    Gradient: da = dy b', db = a' dy. Products with one unbatched matrix are collected over the
    graph and done as one.

    >>> import dist_dynet as dy
    >>> (dy.inputTensor([[1, 2], [3, 4]]) * dy.inputVector([1, 1])).value()
    [3.0, 7.0]
    """
    return node("matmul", x, y)


@operation("affine_transform")
def affine_transform(exprs: Iterable[Expression]) -> Expression:
    """y = b + W_1 x_1 + W_2 x_2 + ... for [b, W_1, x_1, W_2, x_2, ...].

    Shape: products of equal dims (m, n); b has them, or is one column (m,) that is repeated over
    columns and batch. One column gives (m,).
    Gradient: db = sum of dy over what was repeated; the products as in matmul().
    Raises: ValueError for an even number of expressions or dims that do not fit.

    >>> import dist_dynet as dy
    >>> b, W, x = dy.inputVector([1, 1]), dy.inputTensor([[1, 2], [3, 4]]), dy.inputVector([1, 1])
    >>> dy.affine_transform([b, W, x]).value()
    [4.0, 8.0]
    """
    return node("affine_transform", exprs)


@operation("dot_product")
def dot_product(x: Expression, y: Expression) -> Expression:
    """y = sum_i x_0i x_1i.

    Shape: equal dims, batches equal or 1 -> (1,).
    Gradient: dx_0 = dy x_1, dx_1 = dy x_0.

    >>> import dist_dynet as dy
    >>> dy.dot_product(dy.inputVector([1, 2]), dy.inputVector([3, 4])).value()
    11.0
    """
    return node("dot_product", x, y)


@operation("dot_product")
def trace_of_product(x: Expression, y: Expression) -> Expression:
    """y = tr(x_0 x_1') = sum_ij x_0ij x_1ij: dot_product(x, y).

    Shape: equal dims, batches equal or 1 -> (1,).
    Gradient: dx_0 = dy x_1, dx_1 = dy x_0.

    >>> import dist_dynet as dy
    >>> dy.trace_of_product(
    ...     dy.inputTensor([[1, 2], [3, 4]]), dy.inputTensor([[1, 0], [0, 1]])
    ... ).value()
    5.0
    """
    return node("dot_product", x, y, what="trace_of_product")


@operation("inverse")
def inverse(x: Expression) -> Expression:
    """y = x^-1, by LU with partial pivoting; NaN throughout where x is singular.

    Shape: (n, n), each batch element by itself.
    Gradient: dx = -y' dy y'.
    Raises: ValueError when x is not square.

    >>> import dist_dynet as dy
    >>> dy.inverse(dy.inputTensor([[2, 0], [0, 4]])).npvalue().tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return node("inverse", x)


@operation("logdet")
def logdet(x: Expression) -> Expression:
    """y = log det x, by LU with partial pivoting: NaN where det x < 0, -inf where x is singular.

    Shape: (n, n) -> (1,), each batch element by itself.
    Gradient: dx = dy (x^-1)'; NaN where x is singular.
    Raises: ValueError when x is not square.

    >>> import dist_dynet as dy
    >>> round(dy.logdet(dy.inputTensor([[2, 1], [1, 2]])).value(), 4)
    1.0986
    """
    return node("logdet", x)


def contract3d_1d(x: Expression, y: Expression) -> Expression:
    """z_ij = sum_k x_ijk y_k.

    Shape: (a, b, c), (c,) -> (a, b); batches equal or 1.
    Gradient: dx_ijk = dz_ij y_k, dy_k = sum_ij dz_ij x_ijk.
    Raises: ValueError for dims that do not fit.

    >>> import dist_dynet as dy
    >>> dy.contract3d_1d(dy.ones((2, 2, 3)), dy.inputVector([1, 2, 3])).npvalue().tolist()
    [[6.0, 6.0], [6.0, 6.0]]
    """
    return node("contract3d_1d", (x, y))


def contract3d_1d_bias(x: Expression, y: Expression, b: Expression) -> Expression:
    """z_ij = sum_k x_ijk y_k + b_ij.

    Shape: (a, b, c), (c,), (a, b) -> (a, b); batches equal or 1.
    Gradient: as contract3d_1d(); db = dz.

    >>> import dist_dynet as dy
    >>> dy.contract3d_1d_bias(
    ...     dy.ones((1, 2, 3)), dy.inputVector([1, 2, 3]), dy.inputTensor([[0, 1]])
    ... ).npvalue().tolist()
    [[6.0, 7.0]]
    """
    return node("contract3d_1d", (x, y, b), what="contract3d_1d_bias")


def contract3d_1d_1d(x: Expression, y: Expression, z: Expression) -> Expression:
    """u_i = sum_jk x_ijk y_k z_j: contract3d_1d(x, y) * z.

    Shape: (a, b, c), (c,), (b,) -> (a,); batches equal or 1.
    Gradient: dx_ijk = du_i y_k z_j, and likewise to y and z.

    >>> import dist_dynet as dy
    >>> dy.contract3d_1d_1d(
    ...     dy.ones((2, 2, 3)), dy.inputVector([1, 2, 3]), dy.inputVector([1, 10])
    ... ).value()
    [66.0, 66.0]
    """
    what = "contract3d_1d_1d"
    return node("matmul", node("contract3d_1d", (x, y), what=what), z, what=what)


def contract3d_1d_1d_bias(x: Expression, y: Expression, z: Expression, b: Expression) -> Expression:
    """u_i = sum_jk x_ijk y_k z_j + b_i: affine_transform([b, contract3d_1d(x, y), z]).

    Shape: (a, b, c), (c,), (b,), (a,) -> (a,); batches equal or 1.
    Gradient: as contract3d_1d_1d(); db = du.

    >>> import dist_dynet as dy
    >>> dy.contract3d_1d_1d_bias(
    ...     dy.ones((2, 1, 1)), dy.scalarInput(2), dy.scalarInput(3), dy.inputVector([0, 1])
    ... ).value()
    [6.0, 7.0]
    """
    what = "contract3d_1d_1d_bias"
    return node("affine_transform", (b, node("contract3d_1d", (x, y), what=what), z), what=what)


@operation("circ_conv")
def circ_conv(u: Expression, v: Expression) -> Expression:
    """y_k = sum_i u_i v_(k - i), indices modulo n: circular convolution.

    Shape: vectors of one size, batches equal or 1 -> (n,).
    Gradient: du = circ_corr(v, dy), dv = circ_corr(u, dy).
    Error: with many numbers, 256 or more, transforms are used: to 1e-6 of the largest y (float32),
    and a number that is not finite makes all of y NaN.

    >>> import dist_dynet as dy
    >>> dy.circ_conv(dy.inputVector([0, 1, 0]), dy.inputVector([1, 2, 3])).value()
    [3.0, 1.0, 2.0]
    """
    return node("circ_conv", u, v)


@operation("circ_corr")
def circ_corr(u: Expression, v: Expression) -> Expression:
    """y_k = sum_i u_i v_(i + k), indices modulo n: circular correlation.

    Shape: vectors of one size, batches equal or 1 -> (n,).
    Gradient: du = circ_corr(dy, v), dv = circ_conv(u, dy).
    Error: with many numbers, 256 or more, transforms are used: to 1e-6 of the largest y (float32),
    and a number that is not finite makes all of y NaN.

    >>> import dist_dynet as dy
    >>> dy.circ_corr(dy.inputVector([0, 1, 0]), dy.inputVector([1, 2, 3])).value()
    [2.0, 3.0, 1.0]
    """
    return node("circ_corr", u, v)


@operation("weight_norm")
def weight_norm(w: Expression, g: Expression) -> Expression:
    """y = g w / |w|, the norm over all of w (Salimans and Kingma 2016); NaN where w = 0.

    Shape: g is one number; batches equal or 1. y has the dims of w.
    Gradient: dg = <dy, w> / |w|, dw = g / |w| (dy - w <dy, w> / |w|^2).

    >>> import dist_dynet as dy
    >>> dy.weight_norm(dy.inputVector([3, 4]), dy.scalarInput(10)).value()
    [6.0, 8.0]
    """
    return node("weight_norm", w, g)


@operation("layer_norm")
def layer_norm(x: Expression, g: Expression, b: Expression) -> Expression:
    """y = g (x - mean) / (std + 1e-8) + b, elementwise; mean and population std over all elements
    of each batch element.

    Shape: g and b have the dims of x, or the first ones of them (a vector serves all columns of a
    matrix); batches equal or 1.
    Gradient: with z = (x - mean) / (std + 1e-8): db = dy, dg = dy z, summed over what was repeated;
    that to x also goes through mean and std.

    >>> import dist_dynet as dy
    >>> dy.layer_norm(
    ...     dy.inputVector([1, 3]), dy.inputVector([1, 1]), dy.inputVector([0, 5])
    ... ).value()
    [-1.0, 6.0]
    """
    return node("layer_norm", x, g, b)
