"""Losses and distances: one number for each batch element."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from .._integers import floats, one_or_more, real
from ..expression import Expression
from ._nodes import node, operation
from .inputs import inputTensor

__all__ = [
    "binary_log_loss",
    "cross_entropy",
    "cross_entropy_soft",
    "huber_distance",
    "l1_distance",
    "pairwise_rank_loss",
    "poisson_loss",
    "squared_distance",
]


@operation("squared_distance")
def squared_distance(x: Expression, y: Expression) -> Expression:
    """y = sum_i (x_0i - x_1i)^2.

    Shape: equal but for trailing 1s, batches equal or 1 -> (1,).
    Gradient: dx_0 = 2 dy (x_0 - x_1), dx_1 = -dx_0.

    >>> import dist_dynet as dy
    >>> dy.squared_distance(dy.inputVector([1, 2]), dy.inputVector([3, 5])).value()
    13.0
    """
    return node("squared_distance", x, y)


@operation("binary_log_loss")
def binary_log_loss(x: Expression, y: Expression) -> Expression:
    """y = -sum_i t_i log x_i + (1 - t_i) log(1 - x_i) for predictions x in (0, 1) and targets t in
    [0, 1].

    Shape: equal but for trailing 1s, batches equal or 1 -> (1,). A prediction of exactly 0 or 1,
    which `logistic` gives for large scores, costs 0 if it is right. Otherwise it costs 87.34, which
    is -log of the least float32 number, so that neither the value nor the gradient is infinite.
    Gradient: dx = dy ((1 - t) / (1 - x) - t / x), dt = dy (log(1 - x) - log x).

    >>> import dist_dynet as dy
    >>> round(dy.binary_log_loss(dy.scalarInput(0.5), dy.scalarInput(1)).value(), 4)
    0.6931
    """
    return node("binary_log_loss", x, y)


@operation("l1_distance")
def l1_distance(x: Expression, y: Expression) -> Expression:
    """y = sum_i |x_0i - x_1i|.

    Shape: equal but for trailing 1s, batches equal or 1 -> (1,).
    Gradient: dx_0 = dy sign(x_0 - x_1), 0 where they are equal; dx_1 = -dx_0.

    >>> import dist_dynet as dy
    >>> dy.l1_distance(dy.inputVector([1, 2]), dy.inputVector([3, 5])).value()
    5.0
    """
    return node("l1_distance", x, y)


@operation("huber_distance", "c.")
def huber_distance(x: Expression, y: Expression, c: float = 1.345) -> Expression:
    """y = sum_i h(x_0i - x_1i) with h(d) = d^2 / 2 where |d| < c, else c |d| - c^2 / 2.

    Shape: equal but for trailing 1s, batches equal or 1 -> (1,).
    Gradient: dx_0 = dy max(-c, min(c, x_0 - x_1)), dx_1 = -dx_0.
    Raises: ValueError for a negative c.

    >>> import dist_dynet as dy
    >>> dy.huber_distance(dy.inputVector([1, 5]), dy.inputVector([2, 2]), c=1).value()
    3.0
    """
    return node("huber_distance", x, y, real(c, "huber_distance"))


@operation("pairwise_rank_loss", "m.")
def pairwise_rank_loss(x: Expression, y: Expression, m: float = 1.0) -> Expression:
    """y_i = max(0, m - x_0i + x_1i): x_0 is to be larger than x_1 by the margin m.

    Shape: equal but for trailing 1s, batches equal or 1 -> the dims of x.
    Gradient: dx_0 = -dy, dx_1 = dy where y > 0.

    >>> import dist_dynet as dy
    >>> dy.pairwise_rank_loss(dy.inputVector([1, 5]), dy.inputVector([2, 2])).value()
    [2.0, 0.0]
    """
    return node("pairwise_rank_loss", x, y, real(m, "pairwise_rank_loss"))


@operation("poisson_loss", "x+")
def poisson_loss(log_lambda: Expression, x: int | Sequence[int]) -> Expression:
    """y = exp(l) + log x! - x l: minus the log probability of the count x under a Poisson
    distribution of rate exp(l).

    Shape: l is one number -> (1,). x: a count, or one for each batch element; an unbatched l serves
    all.
    Gradient: dl = dy (exp(l) - x).
    Raises: ValueError for negative counts.

    >>> import dist_dynet as dy
    >>> dy.poisson_loss(dy.scalarInput(0), 1).value()
    1.0
    """
    return node("poisson_loss", log_lambda, one_or_more(x, "poisson_loss"))


def cross_entropy(
    x: Expression, v: int | Sequence[int], label_smoothing: float = 0.0
) -> Expression:
    """y = log sum exp(x) - (1 - e) x_v - e mean(x): the cross entropy of softmax(x) with 1 - e on
    class v and e spread evenly over all classes.

    Shape: x a vector -> (1,). v: a class, or one for each batch element; an unbatched x serves all.
    Gradient: dx = dy (softmax(x) - (1 - e) onehot(v) - e / n).
    Raises: ValueError for a class outside of x, or label_smoothing outside of [0, 1].

    >>> import dist_dynet as dy
    >>> round(dy.cross_entropy(dy.inputVector([2, 0]), 0, label_smoothing=0.1).value(), 4)
    0.2269
    """
    return node(
        "cross_entropy",
        [x],
        one_or_more(v, "cross_entropy"),
        real(label_smoothing, "cross_entropy"),
    )


def cross_entropy_soft(x: Expression, target_distribution: Expression | ArrayLike) -> Expression:
    """y = sum_i t_i (log sum exp(x) - x_i): the cross entropy of softmax(x) with a distribution t,
    an expression or numbers.

    Shape: vectors of one size, batches equal or 1 -> (1,). An array's second axis is the batch.
    Where t is 0, x may be -inf.
    Gradient: dx = dy (softmax(x) sum t - t), dt = dy (log sum exp(x) - x).

    >>> import dist_dynet as dy
    >>> round(dy.cross_entropy_soft(dy.inputVector([0, 0]), [0.5, 0.5]).value(), 4)
    0.6931
    """
    if not isinstance(target_distribution, Expression):
        array = floats(target_distribution, "cross_entropy_soft")
        target_distribution = inputTensor(array, batched=array.ndim > 1)
    return node("cross_entropy_soft", x, target_distribution)
