"""The softmax family, and losses on one chosen entry."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from .._ffi import OPS, fail, nodes
from ..graph import Expression
from ._nodes import indices, many, with_int

__all__ = ["hinge", "hinge_batch", "log_softmax", "pickneglogsoftmax", "pickneglogsoftmax_batch", "softmax"]

_PICK = OPS["pickneglogsoftmax"]


def softmax(x: Expression, d: int = 0) -> Expression:
    """y = exp(x) / sum exp(x) along dim d.

    Gradient: dx = y (dy - <y, dy>).

    >>> import dist_dynet as dy
    >>> dy.softmax(dy.inputVector([1, 1])).value()
    [0.5, 0.5]
    """
    return with_int(Expression, OPS["softmax"], "softmax", x, operator.index(d))


def log_softmax(x: Expression, d: int = 0) -> Expression:
    """y = x - log sum exp(x) along dim d.

    Gradient: dx = dy - exp(y) sum dy.

    >>> import dist_dynet as dy
    >>> dy.log_softmax(dy.inputVector([0, 0])).npvalue().round(4).tolist()
    [-0.6931, -0.6931]
    """
    return with_int(Expression, OPS["log_softmax"], "log_softmax", x, operator.index(d))


class _pickedExpression(Expression):  # noqa: N801
    """A loss on one chosen entry; `.set_index(v)` chooses another."""

    __slots__ = ()

    def set_index(self, v: int) -> None:
        """Another entry; all computed values of the graph are forgotten."""
        code = nodes.dn_ints_set(self._h, 1, [operator.index(v)])
        if code < 0:
            fail(code, self._h)


def pickneglogsoftmax(x: Expression, v: int) -> Expression:
    """y = -log softmax(x)_v = log sum exp(x) - x_v: the cross entropy of class v.

    Shape: x a vector -> (1,).
    Gradient: dx = dy (softmax(x) - onehot(v)).
    Raises: ValueError for a class outside of x.

    >>> import dist_dynet as dy
    >>> round(dy.pickneglogsoftmax(dy.inputVector([0, 0]), 1).value(), 4)
    0.6931
    """
    return with_int(_pickedExpression, _PICK, "pickneglogsoftmax", x, v)  # type: ignore[no-any-return]


def pickneglogsoftmax_batch(x: Expression, vs: Sequence[int]) -> Expression:
    """The same with one class per batch element; an unbatched x serves all classes.

    >>> import dist_dynet as dy
    >>> dy.pickneglogsoftmax_batch(dy.zeros(4, batch_size=2), [0, 3]).dim()
    ((1,), 2)
    """
    return many(_PICK, "pickneglogsoftmax_batch", [x], indices(vs, "pickneglogsoftmax_batch"))


def hinge(x: Expression, v: int, m: float = 1.0) -> Expression:
    """y = sum over j != v of max(0, m - x_v + x_j).

    Shape: x a vector -> (1,).
    Gradient: dy to each x_j beyond the margin, -dy to x_v for each of them.

    >>> import dist_dynet as dy
    >>> dy.hinge(dy.inputVector([1, 0.5, 3]), 0).value()
    3.5
    """
    return hinge_batch(x, [v], m)


def hinge_batch(x: Expression, vs: Sequence[int], m: float = 1.0) -> Expression:
    """The same with one class per batch element; an unbatched x serves all classes.

    >>> import dist_dynet as dy
    >>> dy.hinge_batch(dy.inputVector([1, 0.5, 3]), [0, 2]).value()
    [3.5, 0.0]
    """
    return many(OPS["hinge"], "hinge", [x], indices(vs, "hinge"), (float(m),))
