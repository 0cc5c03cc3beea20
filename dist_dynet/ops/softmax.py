"""The softmax family, and losses on one chosen entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE
from .._integers import indices, real, whole
from .._manner import manner
from ..expression import Expression, array_of, numbers_of, probabilities_of
from ._nodes import node, not_expression, operation, set_ints
from .masked import masked

__all__ = [
    "constrained_softmax",
    "hinge",
    "hinge_batch",
    "hinge_dim",
    "log_softmax",
    "pickneglogsoftmax",
    "pickneglogsoftmax_batch",
    "softmax",
    "sparsemax",
]


class _Probabilities(Expression):
    """What softmax() and sparsemax() make."""

    __slots__ = ()

    def npvalue(self, recalculate: bool = False) -> NDArray[np.float64]:
        """As that of other expressions, divided by the sums: in float64, numbers of float32 sum to
        1 only to 7 digits, and numpy.random.choice() refuses them. DyNet leaves them so."""
        self.forward(recalculate)
        return array_of(*(numbers_of if manner.dynet else probabilities_of)(self))


_Probabilities.__name__ = _Probabilities.__qualname__ = "Expression"  # in messages, as in DyNet


@operation("softmax", "d", cls=_Probabilities)
def softmax(x: Expression, d: int = 0) -> Expression:
    """y = exp(x) / sum exp(x) along dim d.

    npvalue() sums to 1 in float64, too, as numpy.random.choice() wants it.

    Gradient: dx = y (dy - <y, dy>).

    >>> import dist_dynet as dy
    >>> dy.softmax(dy.inputVector([1, 1])).value()
    [0.5, 0.5]
    """
    return node("softmax", x, whole(d, "softmax", "a dim"), cls=_Probabilities)


def _nested(values: Iterable[int] | Iterable[Iterable[int]], what: str) -> list[Sequence[int]]:
    """One list of indices for all batch elements, or a list of lists, one for each."""
    if isinstance(values, list) and values and type(values[0]) is int:  # nearly always
        return [indices(values, what)]
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(
            f"{what}: takes a list of indices, or one for each batch element; got {values!r:.60}."
        )
    items = list(values)
    if items and all(isinstance(i, Iterable) for i in items):
        return [indices(i, what) for i in items]  # type: ignore[arg-type]
    return [indices(items, what)]  # type: ignore[arg-type]


@operation("log_softmax", "d")
@operation("restricted_log_softmax", "restrict*")
def log_softmax(
    x: Expression, restrict: Iterable[int] | Iterable[Iterable[int]] | None = None, d: int = 0
) -> Expression:
    """y = x - log sum exp(x) along dim d. With `restrict` only these entries of dim d compete; all
    others are -inf.

    Shape: x -> x. restrict: a list of indices, or one list per batch element (then an unbatched x
    serves all).
    Gradient: dx = dy - exp(y) sum dy, over the entries that compete.
    Raises: ValueError for an empty list or an index outside of the dim; TypeError if x is not an
    expression.

    >>> import dist_dynet as dy
    >>> dy.log_softmax(dy.inputVector([0, 0])).npvalue().round(4).tolist()
    [-0.6931, -0.6931]
    >>> dy.log_softmax(dy.inputVector([1, 1, 5]), [0, 1]).npvalue().round(4).tolist()
    [-0.6931, -0.6931, -inf]
    """
    d = whole(d, "log_softmax", "a dim")
    if restrict is None:
        return node("log_softmax", x, d)
    if not isinstance(x, Expression):
        raise not_expression("log_softmax", x)
    dims = x.dim()[0] or (1,)
    lists = _nested(restrict, "log_softmax")
    if not 0 <= d < len(dims):
        raise ValueError(f"log_softmax: dim {d} is not a dim of x = {dims}.")
    if not all(lists):
        raise ValueError("log_softmax: restrict must name at least one entry; got an empty list.")
    if len(dims) == len(lists) == 1:
        return node("restricted_log_softmax", x, lists[0], what="log_softmax")
    n = dims[d]
    for kept in lists:
        if min(kept) < 0 or max(kept) >= n:
            outside = next(i for i in kept if not 0 <= i < n)
            raise ValueError(
                f"log_softmax: index {outside} of restrict is outside dim {d} of x = {dims}."
                f" Indices run from 0 to {n - 1}."
            )
    mask = np.zeros((n, len(lists)), DTYPE)
    for b, kept in enumerate(lists):
        mask[list(kept), b] = 1
    mask = mask.reshape((1,) * d + (n,) + (1,) * (len(dims) - 1 - d) + (len(lists),))
    return masked("masked_log_softmax", "log_softmax", x, mask, d)


def sparsemax(x: Expression, d: int | None = None) -> Expression:
    """y = max(0, x - t) along dim d with t such that y sums to 1: the distribution nearest to x
    (Martins and Astudillo 2016).

    Shape: x -> x. Only of a vector d may be left out.
    Gradient: dx = dy - mean of dy, both over the entries where y > 0; 0 elsewhere.
    Raises: ValueError for a matrix without d, as in DyNet.

    >>> import dist_dynet as dy
    >>> dy.sparsemax(dy.inputVector([1, 0.5, -1])).value()
    [0.75, 0.25, 0.0]
    """
    if d is None:
        return node("sparsemax", x, 0, 1, cls=_Probabilities)
    return node("sparsemax", x, whole(d, "sparsemax", "a dim"), cls=_Probabilities)


@operation("constrained_softmax")
def constrained_softmax(x: Expression, y: Expression) -> Expression:
    """p_i = min(y_i, s exp x_i) with s such that p sums to 1: softmax with upper bounds y (Martins
    and Kreutzer 2017).

    Shape: vectors of one size, batches equal or 1 -> the dims of x. Where the bounds sum to less
    than 1: p = y.
    Gradient: with m the mean of dp, weighted by p, over the entries below their bounds: dx_i = p_i
    (dp_i - m) for these, dy_i = dp_i - m for the others.

    >>> import dist_dynet as dy
    >>> dy.constrained_softmax(dy.inputVector([0, 0, 5]), dy.inputVector([1, 1, 0.5])).value()
    [0.25, 0.25, 0.5]
    """
    return node("constrained_softmax", x, y)


class _pickedExpression(Expression):  # noqa: N801
    """A loss on one chosen entry; `.set_index(v)` chooses another."""

    __slots__ = ()

    def set_index(self, v: int) -> None:
        """Another entry; all computed values of the graph are forgotten."""
        set_ints(self, [whole(v, "set")])


@operation("pickneglogsoftmax", "v", cls=_pickedExpression)
def pickneglogsoftmax(x: Expression, v: int) -> Expression:
    """y = -log softmax(x)_v = log sum exp(x) - x_v: the cross entropy of class v.

    Shape: x a vector -> (1,).
    Gradient: dx = dy (softmax(x) - onehot(v)).
    Raises: ValueError for a class outside of x.

    >>> import dist_dynet as dy
    >>> round(dy.pickneglogsoftmax(dy.inputVector([0, 0]), 1).value(), 4)
    0.6931
    """
    what = "pickneglogsoftmax"
    return node(
        what, x, whole(v, what, "the index", "pickneglogsoftmax_batch"), cls=_pickedExpression
    )


@operation("pickneglogsoftmax", "vs*")
def pickneglogsoftmax_batch(x: Expression, vs: Sequence[int]) -> Expression:
    """The same with one class per batch element; an unbatched x serves all classes.

    >>> import dist_dynet as dy
    >>> dy.pickneglogsoftmax_batch(dy.zeros(4, batch_size=2), [0, 3]).dim()
    ((1,), 2)
    """
    return node(
        "pickneglogsoftmax",
        x,
        indices(vs, "pickneglogsoftmax_batch"),
        what="pickneglogsoftmax_batch",
    )


@operation("hinge", "v m.")
def hinge(x: Expression, v: int, m: float = 1.0) -> Expression:
    """y = sum over j != v of max(0, m - x_v + x_j).

    Shape: x a vector -> (1,).
    Gradient: dy to each x_j beyond the margin, -dy to x_v for each of them.

    >>> import dist_dynet as dy
    >>> dy.hinge(dy.inputVector([1, 0.5, 3]), 0).value()
    3.5
    """
    return node("hinge", x, whole(v, "hinge", "the index", "hinge_batch"), real(m, "hinge"))


@operation("hinge", "vs* m.")
def hinge_batch(x: Expression, vs: Sequence[int], m: float = 1.0) -> Expression:
    """The same with one class per batch element; an unbatched x serves all classes.

    >>> import dist_dynet as dy
    >>> dy.hinge_batch(dy.inputVector([1, 0.5, 3]), [0, 2]).value()
    [3.5, 0.0]
    """
    return node("hinge", x, indices(vs, "hinge_batch"), real(m, "hinge_batch"), what="hinge_batch")


@operation("hinge_dim", "d v* m.")
def hinge_dim(
    x: Expression, v: Sequence[int] | Sequence[Sequence[int]], d: int = 0, m: float = 1.0
) -> Expression:
    """The hinge of each line of x along dim d: y = sum over j != v of max(0, m - x_v + x_j). With d
    = 0 a line is a column.

    Shape: x without dim d. v: one index per line, the same for all batch elements, or one such list
    per batch element.
    Gradient: as hinge().
    Raises: ValueError for an index outside of dim d, or the wrong number of them.

    >>> import dist_dynet as dy
    >>> dy.hinge_dim(dy.inputTensor([[1, 0], [0.5, 3]]), [0, 1]).value()
    [0.5, 0.0]
    """
    places = [i for line in _nested(v, "hinge_dim") for i in line]
    return node("hinge_dim", x, whole(d, "hinge_dim", "a dim"), places, real(m, "hinge_dim"))
