"""What padded batches need: softmax, loss and attention over part of the entries.

A mask is an expression, an array or a list: 0 where an entry does not count, anything else where it
does. No gradient goes to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from .._integers import floats, indices, real, whole
from ..expression import Expression
from ._nodes import node, not_expression
from .inputs import inputTensor

__all__ = ["attention", "masked_log_softmax", "masked_pickneglogsoftmax_batch", "masked_softmax"]


def _mask(mask: Expression | ArrayLike, what: str, dims: int) -> Expression:
    """An array's axis after the dims is the batch."""
    if isinstance(mask, Expression):
        return mask
    array = floats(mask, what)
    return inputTensor(array, batched=array.ndim > dims)


def masked(op: str, what: str, x: Expression, mask: Expression | ArrayLike, d: int) -> Expression:
    """A masked softmax for the function `what`.

    Raises:
        TypeError: x is not an expression.
    """
    if not isinstance(x, Expression):
        raise not_expression(what, x)
    return node(
        op, x, _mask(mask, what, max(len(x.dim()[0]), 1)), whole(d, what, "a dim"), what=what
    )


def masked_softmax(x: Expression, mask: Expression | ArrayLike, d: int = 0) -> Expression:
    """y = exp(x) / sum exp(x) along dim d over the entries where the mask is not 0; 0 elsewhere,
    and where the mask leaves nothing.

    Shape: the mask's sizes are those of x or 1, counted from the first; missing ones count as 1;
    batches equal or 1. If an array has one axis more than x has dims, that is the batch. What x is
    where the mask is 0 does not matter, NaN included.
    Gradient: dx = y (dy - <y, dy>).

    >>> import dist_dynet as dy
    >>> dy.masked_softmax(dy.inputVector([1, 1, 5]), [1, 1, 0]).value()
    [0.5, 0.5, 0.0]
    """
    return masked("masked_softmax", "masked_softmax", x, mask, d)


def masked_log_softmax(x: Expression, mask: Expression | ArrayLike, d: int = 0) -> Expression:
    """y = x - log sum exp(x) along dim d over the entries where the mask is not 0; -inf elsewhere.

    Shape: as masked_softmax().
    Gradient: dx = dy - exp(y) sum dy over the entries that count, 0 elsewhere.

    >>> import dist_dynet as dy
    >>> dy.masked_log_softmax(dy.inputVector([1, 1, 5]), [1, 1, 0]).npvalue().round(4).tolist()
    [-0.6931, -0.6931, -inf]
    """
    return masked("masked_log_softmax", "masked_log_softmax", x, mask, d)


def masked_pickneglogsoftmax_batch(
    x: Expression, vs: Sequence[int], mask: Expression | ArrayLike
) -> Expression:
    """y = m (log sum exp(x) - x_v) with one class v and one number m of the mask per batch element.

    Shape: x a vector -> (1,). Numbers other than 0 and 1 are weights. Where it is 0, y = 0, no
    gradient flows, and nothing is computed; if the mask is a list or an array, the class is not
    looked at, either: it may be any padding.
    Gradient: dx = dy m (softmax(x) - onehot(v)).
    Raises: ValueError for a class outside of x, or different numbers of classes, mask and batch
    elements.

    >>> import dist_dynet as dy
    >>> dy.masked_pickneglogsoftmax_batch(
    ...     dy.zeros(2, batch_size=2), [0, -1], [1, 0]
    ... ).npvalue().round(4).tolist()
    [[0.6931, 0.0]]
    """
    what = "masked_pickneglogsoftmax_batch"
    classes = indices(vs, what)
    if not isinstance(mask, Expression):
        weights = floats(mask, what).ravel()
        if len(weights) != len(classes):
            raise ValueError(
                f"{what}: the mask must have one number per class; got {len(weights)} numbers,"
                f" {len(classes)} classes."
            )
        classes = [v if w else 0 for v, w in zip(classes, weights, strict=True)]
        if not classes:
            return node("cross_entropy", [x], 0.0, what=what)
        mask = inputTensor(weights, batched=True)
    return node("cross_entropy", (x, mask), classes, 0.0, what=what)


def attention(
    q: Expression,
    k: Expression,
    v: Expression,
    mask: Expression | ArrayLike | None = None,
    scale: float | None = None,
) -> Expression:
    """y = v softmax(scale k' q): scaled dot-product attention (Vaswani et al. 2017), the softmax
    over the keys for each query.

    Shape: q (d, nq), k (d, nk), v (dv, nk) -> (dv, nq); a vector q is one query and gives (dv,).
    mask (nk,) or (nk, nq), 0 for keys that do not count; where it leaves none, or all scores are
    -inf, y = 0. Batches equal or 1; an array's third axis is the batch: (nk, 1, B) masks the
    padding of B sentences. scale: 1 / sqrt(d) when not given.
    Gradient: with p = softmax(scale k' q): dv = dy p', ds = p (v' dy - <p, v' dy>) per query, dq =
    scale k ds, dk = scale q ds'.
    Raises: ValueError for dims that do not fit; TypeError if q, k or v is not an expression.

    >>> import dist_dynet as dy
    >>> q, k, v = dy.zeros(2), dy.ones((2, 3)), dy.inputTensor([[1, 2, 6]])
    >>> dy.attention(q, k, v).value(), dy.attention(q, k, v, mask=[1, 1, 0]).value()
    (3.0, 1.5)
    """
    if not isinstance(q, Expression):
        raise not_expression("attention", q, k, v)
    if scale is None:
        dims, _ = q.dim()
        scale = (dims[0] if dims and dims[0] else 1) ** -0.5
    inputs = (q, k, v) if mask is None else (q, k, v, _mask(mask, "attention", 2))
    return node("attention", inputs, real(scale, "attention"))
