"""Operations written in Python that tests of dy.function share."""

import numpy as np

import dist_dynet as dy


def close(a, b, tolerance=2e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


cube = dy.function(
    lambda x: x**3, lambda xs, y, dy_: [3 * xs[0] ** 2 * dy_], lambda d: d, name="cube"
)


def outer_forward(x, y):
    """As a user writes it: an input without a batch is repeated by hand."""
    x, y = (a[:, None] if a.ndim < max(x.ndim, y.ndim) else a for a in (x, y))
    return x[:, None] * y[None]


def outer_backward(xs, _, d):
    x, y = (a[:, None] if a.ndim + 1 < d.ndim else a for a in xs)
    return [(d * y[None]).sum(1), (d * x[:, None]).sum(0)]


def outer_dims(x, y):
    return x[0], y[0]


outer = dy.function(outer_forward, outer_backward, outer_dims, name="outer")
outer_each = dy.function(
    lambda x, y: np.outer(x, y),
    lambda xs, y, d: [d @ xs[1], d.T @ xs[0]],
    outer_dims,
    batched=False,
    name="outer_each",
)


class MineError(Exception):
    pass


def raising_forward(x):
    raise MineError("in forward")


def batched_network(m, f):
    W, b = m.parameters_list()
    hidden = [dy.tanh(W * dy.inputVector([k, 1]) + b) for k in range(6)]
    return [dy.square(f(h) if k % 2 else h) for k, h in enumerate(hidden)]
