"""Windows that move over an image or over the columns of a matrix: convolution, pooling, sums of
neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._integers import indices, whole
from ..expression import Expression
from ._nodes import node, operation

__all__ = ["conv2d", "conv2d_bias", "filter1d_narrow", "fold_rows", "kmh_ngram", "maxpooling2d"]


def _pair(values: Any, what: str, name: str) -> tuple[int, int]:
    """(height, width), as numbers that C can hold. What follows them is left out, as DyNet does:
    other toolkits write [1, height, width, 1] or (height, width, 1, 1)."""
    pair = [values] if isinstance(values, int) else indices(values, what)
    if len(pair) < 2:
        raise ValueError(
            f"{what}: {name} must have two numbers, for height and width; got {values!r}."
        )
    return min(pair[0], 0x7FFFFFFF), min(pair[1], 0x7FFFFFFF)


@operation("conv2d", "stride*2 is_valid?")
def conv2d(
    x: Expression, f: Expression, stride: Sequence[int], is_valid: bool = True
) -> Expression:
    """y[h, w, o] = sum over i, j, c of x[h s_0 + i, w s_1 + j, c] f[i, j, c, o]: cross-correlation,
    the filter is not turned around.

    Shape: x (H, W) or (H, W, Ci), f (Hf, Wf, Ci, Co), y (H', W', Co); batches equal or 1. is_valid:
    only whole windows,
        H' = ceil((H - Hf + 1) / s_0). Else H' = ceil(H / s_0): x is padded with zeros on both
        sides, with the odd one at the end.
    Gradient: dx and df are the correlations of dy with f and with x.
    Raises: ValueError for strides below 1, unequal channels, a filter larger than x.

    >>> import dist_dynet as dy
    >>> x, f = dy.inputTensor([[1, 2, 3], [4, 5, 6]]), dy.ones((2, 2, 1, 1))
    >>> dy.conv2d(x, f, [1, 1]).npvalue()[:, :, 0].tolist()
    [[12.0, 16.0]]
    """
    return node("conv2d", x, f, _pair(stride, "conv2d", "stride"), bool(is_valid))


@operation("conv2d_bias", "stride*2 is_valid?")
def conv2d_bias(
    x: Expression, f: Expression, b: Expression, stride: Sequence[int], is_valid: bool = True
) -> Expression:
    """y[h, w, o] = b[o] + conv2d(x, f)[h, w, o].

    Shape: as conv2d(); b (Co,).
    Gradient: as conv2d(); db[o] is the sum of dy[:, :, o].

    >>> import dist_dynet as dy
    >>> x, f = dy.inputTensor([[1, 2, 3], [4, 5, 6]]), dy.ones((2, 2, 1, 1))
    >>> dy.conv2d_bias(x, f, dy.inputVector([100]), [1, 1]).npvalue()[:, :, 0].tolist()
    [[112.0, 116.0]]
    """
    return node("conv2d_bias", x, f, b, _pair(stride, "conv2d_bias", "stride"), bool(is_valid))


@operation("maxpooling2d", "ksize*2 stride*2 is_valid?")
def maxpooling2d(
    x: Expression, ksize: Sequence[int], stride: Sequence[int], is_valid: bool = True
) -> Expression:
    """y[h, w, c] = the greatest x[h s_0 + i, w s_1 + j, c] with i, j in a window of ksize.

    Shape: x (H, W) or (H, W, C); H' and W' as for conv2d(). With is_valid=False windows hang over
    the edges; what is outside does not count.
    Gradient: dy at the place of the maximum, the first of equal ones.
    Raises: ValueError for strides or windows below 1, a window larger than x.

    >>> import dist_dynet as dy
    >>> dy.maxpooling2d(dy.inputTensor([[1, 2, 3], [4, 5, 6]]), [2, 2], [1, 1]).npvalue().tolist()
    [[5.0, 6.0]]
    """
    what = "maxpooling2d"
    return node(what, x, _pair(ksize, what, "ksize"), _pair(stride, what, "stride"), bool(is_valid))


@operation("filter1d_narrow")
def filter1d_narrow(x: Expression, y: Expression) -> Expression:
    """z[k, j] = sum over i, l of x[i, j + l] y[i, l, k]: filters y that move over the columns of x.

    Shape: x (r, n), y (r, w) or (r, w, k), z (k, n - w + 1); batches equal or 1.
    Gradient: dx[i, j + l] and dy[i, l, k] are the sums of dz[k, j] y[i, l, k] and of dz[k, j] x[i,
    j + l].

    >>> import dist_dynet as dy
    >>> dy.filter1d_narrow(
    ...     dy.inputTensor([[1, 2, 3]]), dy.inputTensor([[1, 10]])
    ... ).npvalue().tolist()
    [[21.0, 32.0]]
    """
    return node("filter1d_narrow", x, y)


@operation("kmh_ngram", "v")
def kmh_ngram(x: Expression, v: int) -> Expression:
    """y[:, j] = the sum of the columns j ... j + v - 1 of x.

    Shape: x (r, n), y (r, n - v + 1); further dims and the batch stay.
    Gradient: dx[:, j] is the sum of dy over the windows that column j is in.
    Raises: ValueError when v is not from 1 to the number of columns.

    >>> import dist_dynet as dy
    >>> dy.kmh_ngram(dy.inputTensor([[1, 2, 3], [4, 5, 6]]), 2).npvalue().tolist()
    [[3.0, 5.0], [9.0, 11.0]]
    """
    return node("kmh_ngram", x, whole(v, "kmh_ngram", "v"))


@operation("fold_rows", "nrows")
def fold_rows(x: Expression, nrows: int = 2) -> Expression:
    """y[i, :] = the sum of the rows i nrows ... (i + 1) nrows - 1 of x.

    Shape: x (r, ...), y (r / nrows, ...); a vector gives a matrix of one column.
    Gradient: dx of each row is dy of its group.
    Raises: ValueError when r is not a multiple of nrows.

    >>> import dist_dynet as dy
    >>> dy.fold_rows(dy.inputTensor([[1, 2], [3, 4]])).npvalue().tolist()
    [[4.0, 6.0]]
    """
    return node("fold_rows", x, whole(nrows, "fold_rows", "nrows"))
