"""Choices along one dim: the largest entries, and entries drawn at random. `.indices()` of the
result says which they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._ffi import NULL, fail, lib, view_ints
from .._integers import whole
from .._manner import manner, warn
from ..expression import Expression
from ._nodes import node, operation
from .softmax import _Probabilities

__all__ = ["kmax_pooling", "sample_categorical", "topk"]


class _choiceExpression(Expression):  # noqa: N801 - as the other classes of nodes
    """A choice of entries along a dim."""

    __slots__ = ()

    def indices(self) -> NDArray[np.int64]:
        """Which entries were chosen: indices into the dim, in the form of npvalue()."""
        _, dims, batch = self._computed(False)
        pointer = lib.dn_saved_indices(self._h)
        size = batch * int(np.prod(dims))
        if pointer == NULL and size:
            fail(lib.DN_ERROR_STATE, self._h)
        return (
            view_ints(pointer, size)
            .astype(np.int64)
            .reshape((*dims, batch) if batch != 1 else dims, order="F")
        )


def _chosen(what: str, x: Expression, d: int, n: int) -> _choiceExpression:
    name = "n" if what == "sample_categorical" else "k"
    return node(what, x, whole(d, what, "a dim"), whole(n, what, name), cls=_choiceExpression)


@operation("topk", "d k", cls=_choiceExpression)
def topk(x: Expression, k: int, d: int = 0) -> _choiceExpression:
    """y = the k largest entries of x along dim d, the largest first; of equal ones the earlier
    first; NaN counts as largest.

    Shape: dim d becomes k, the others stay. `.indices()` gives their places in dim d as an array.
    Gradient: dy to the chosen entries, 0 elsewhere.
    Raises: ValueError for k outside of 1 ... size of the dim.

    >>> import dist_dynet as dy
    >>> best = dy.topk(dy.inputVector([3, 9, 1, 7]), 2)
    >>> best.value(), best.indices().tolist()
    ([9.0, 7.0], [1, 3])
    """
    return _chosen("topk", x, d, k)


@operation("kmax_pooling", "d k", cls=_choiceExpression)
def kmax_pooling(x: Expression, k: int, d: int = 1) -> _choiceExpression:
    """y = the k greatest numbers along dim d, in the order that they have in x; of equal ones the
    first.

    Shape: x with dim d of size k. NaN counts as greatest. `.indices()` gives their places in dim d
    as an array.
    Gradient: dy at the places that were chosen.
    Raises: ValueError when k is not from 1 to the size of dim d.

    >>> import dist_dynet as dy
    >>> dy.kmax_pooling(dy.inputVector([3, 1, 5, 4]), 2, d=0).value()
    [5.0, 4.0]
    """
    return _chosen("kmax_pooling", x, d, k)


def sample_categorical(x: Expression, n: int = 1, d: int = 0) -> _choiceExpression:
    """n indices along dim d, each drawn independently with the probabilities softmax(x): x are
    logits or log probabilities. Of probabilities p write dy.log(p); a softmax() is warned of.

    Shape: dim d becomes n, the others stay; every line and batch element draws its own.
    `.indices()` gives integers, the value the same as numbers of the build (exact below 2^24). By
    the largest of x + Gumbel noise. Entries of -inf are never drawn.
    Gradient: none.
    Raises: ValueError for n < 1.

    >>> import dist_dynet as dy
    >>> dy.sample_categorical(dy.inputVector([0, 1000, 0]), 3).indices().tolist()
    [1, 1, 1]
    """
    if isinstance(x, _Probabilities) and manner.is_first("sample_categorical"):
        warn(
            "sample_categorical: x are scores or log probabilities, whose softmax() it takes; got"
            " probabilities. Write sample_categorical(dy.log(p)). This is said once."
        )
    return _chosen("sample_categorical", x, d, n)
