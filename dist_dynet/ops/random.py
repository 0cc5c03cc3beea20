"""Random draws: dropout, noise and random inputs.

A draw is a function of (seed, stream, draw counter, node, element): it depends neither on batching
nor on the order of evaluation, and is the same at every look until the graph is renewed or
recalculated.
"""

from __future__ import annotations

from collections.abc import Sequence

from .._integers import real, whole
from .._manner import dims_in_a_tuple
from ..expression import Expression
from ._nodes import leaf, node, operation

__all__ = [
    "block_dropout",
    "dropout",
    "dropout_batch",
    "dropout_dim",
    "noise",
    "random_bernoulli",
    "random_gumbel",
    "random_normal",
    "random_uniform",
]


@operation("dropout", "p. 0.0")
def dropout(x: Expression, p: float) -> Expression:
    """y_i = x_i m_i, where m_i = 1 / (1 - p) with probability 1 - p, else 0: a mask of its own for
    each element and batch element.

    It drops whenever it is called: m.eval() switches builders and blocks alone, and says what
    m.training is. p = 1 gives zeros.
    Raises: ValueError for a rate outside of [0, 1].

    >>> import dist_dynet as dy
    >>> set(dy.dropout(dy.ones(100), 0.5).value()) == {0.0, 2.0}
    True
    """
    return node("dropout", x, real(p, "dropout"), 0.0)


@operation("dropout_dim", "d p.")
def dropout_dim(x: Expression, d: int, p: float) -> Expression:
    """y = x m, where m is the same along dim d: 1 / (1 - p) with probability 1 - p, else 0. Each
    line along d is kept or dropped as a whole.

    Raises: ValueError for a rate outside of [0, 1], for a dim that x does not have.

    >>> import dist_dynet as dy
    >>> dropped = dy.dropout_dim(dy.ones((5, 9)), 0, 0.5).npvalue()
    >>> bool((dropped[0] == dropped[4]).all())
    True
    """
    return node("dropout_dim", x, whole(d, "dropout_dim", "a dim"), real(p, "dropout_dim"))


@operation("dropout_batch", "p. 0.0")
def dropout_batch(x: Expression, p: float) -> Expression:
    """y_b = x_b m_b, where m_b = 1 / (1 - p) with probability 1 - p, else 0: each batch element is
    kept or dropped as a whole.

    Raises: ValueError for a rate outside of [0, 1].

    >>> import dist_dynet as dy
    >>> dy.dropout_batch(dy.ones(2, batch_size=3), 0.5).dim()
    ((2,), 3)
    """
    return node("dropout_batch", x, real(p, "dropout_batch"), 0.0)


@operation("dropout_batch", "p. 0.0")
def block_dropout(x: Expression, p: float) -> Expression:
    """y = x m, where m = 1 / (1 - p) with probability 1 - p, else 0: all of x is kept or dropped.
    In a batch, each element by itself.

    Raises: ValueError for a rate outside of [0, 1].

    >>> import dist_dynet as dy
    >>> dy.block_dropout(dy.ones(2), 0.5).value() in ([0.0, 0.0], [2.0, 2.0])
    True
    """
    p = real(p, "block_dropout")
    if not 0 <= p <= 1:
        raise ValueError(f"block_dropout: the dropout rate must lie in [0, 1]; got p = {p}.")
    return node("dropout_batch", x, p, 0.0, what="block_dropout")


@operation("noise", "stddev. 0.0")
def noise(x: Expression, stddev: float) -> Expression:
    """y_i = x_i + a draw from the normal distribution of mean 0.

    Gradient: dx = dy.
    Raises: ValueError for a negative standard deviation.

    >>> import dist_dynet as dy
    >>> dy.noise(dy.inputVector([1, 2]), 0.1).value() != [1, 2]
    True
    """
    return node("noise", x, real(stddev, "noise"), 0.0)


@operation("random_normal", "batch_size dim+ mean. stddev.")
@dims_in_a_tuple("mean")
def random_normal(
    dim: int | Sequence[int], mean: float = 0.0, stddev: float = 1.0, batch_size: int = 1
) -> Expression:
    """y_i drawn from the normal distribution: dims x batch_size.

    >>> import dist_dynet as dy
    >>> dy.random_normal((2, 3), batch_size=4).dim()
    ((2, 3), 4)
    """
    return leaf("random_normal", "random_normal", dim, batch_size, mean, stddev)


@operation("random_uniform", "batch_size dim+ left. right.")
def random_uniform(
    dim: int | Sequence[int], left: float, right: float, batch_size: int = 1
) -> Expression:
    """y_i uniform in [left, right): dims x batch_size.

    >>> import dist_dynet as dy
    >>> all(2 <= y <= 3 for y in dy.random_uniform(10, 2, 3).value())
    True
    """
    return leaf("random_uniform", "random_uniform", dim, batch_size, left, right)


@operation("random_bernoulli", "batch_size dim+ p. scale.")
def random_bernoulli(
    dim: int | Sequence[int], p: float, scale: float = 1.0, batch_size: int = 1
) -> Expression:
    """y_i = scale with probability p, else 0: dims x batch_size.

    Raises: ValueError for a probability outside of [0, 1].

    >>> import dist_dynet as dy
    >>> set(dy.random_bernoulli(100, 0.5, scale=3).value()) == {0.0, 3.0}
    True
    """
    return leaf("random_bernoulli", "random_bernoulli", dim, batch_size, p, scale)


@operation("random_gumbel", "batch_size dim+ mu. beta.")
@dims_in_a_tuple("mu")
def random_gumbel(
    dim: int | Sequence[int], mu: float = 0.0, beta: float = 1.0, batch_size: int = 1
) -> Expression:
    """y_i = mu - beta log(-log u_i), u_i uniform in (0, 1): dims x batch_size.

    >>> import dist_dynet as dy
    >>> dy.random_gumbel((2, 3)).dim()
    ((2, 3), 1)
    """
    return leaf("random_gumbel", "random_gumbel", dim, batch_size, mu, beta)
