"""Losses and distances: one number for each batch element."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, extreme, per_batch, ranges, refuses, tensor

inf, nan = np.inf, np.nan

CASES = [
    case(tensor(1), tensor(1)),
    case(tensor(5), tensor(5)),
    case(tensor(67), tensor(67)),
    case(tensor(3, 4), tensor(3, 4)),
    case(tensor(5), tensor(5, 1)),
    case(tensor(2, 3, 2), tensor(2, 3, 2)),
    case(tensor(5, batch=3), tensor(5, batch=3)),
    case(tensor(5, batch=3), tensor(5)),
    case(tensor(5), tensor(5, batch=3)),
    case(tensor(3, 4, batch=3), tensor(3, 4)),
    case(tensor(1, batch=3), tensor(1)),
]


def pair(f):
    """f(x, y) of two flat arrays -> a number, for each batch element."""
    return per_batch(lambda x, y: np.array([f(x.ravel("F"), y.ravel("F"))]))


def log_loss(x, t):
    def term(p, q):
        return np.where(p == 0, 0, p * np.log(q))

    return -np.sum(term(t, x) + term(1 - t, 1 - x))


def row(name, f, **keywords):
    def call(x, y):
        return getattr(dy, name)(x, y)

    return Row(
        name,
        name,
        call,
        pair(f),
        CASES,
        errors=[
            refuses(
                lambda: call(dy.zeros(3), dy.zeros(4)), ValueError, rf"^{name}: x and y must have the same dims; got x = \(3,\), y = \(4,\)"
            ),
            refuses(lambda: call(dy.zeros(3), dy.zeros(1)), ValueError, rf"^{name}: x and y must have the same dims"),
            refuses(
                lambda: call(dy.zeros((2, 3)), dy.zeros((3, 2))),
                ValueError,
                rf"^{name}: x and y must have the same dims; got x = \(2, 3\), y = \(3, 2\)",
            ),
            refuses(
                lambda: call(dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=3)),
                ValueError,
                f"^{name}: batch sizes must be equal or 1; got 2 and 3",
            ),
            refuses(lambda: call(dy.zeros(3), 0.5), TypeError, f"^{name}: takes expressions; got .*float"),
        ],
        **keywords,
    )


ROWS = [
    row(
        "squared_distance",
        lambda x, y: np.sum((x - y) ** 2),
        extremes=[
            extreme("equal", [1000, -1000], [1000, -1000], value=[0], gradients=([0, 0], [0, 0])),
            extreme("far", [1000, -1000], [-1000, 1000], value=[8e6], gradients=([4000, -4000], [-4000, 4000])),
        ],
    ),
    row(
        "dot_product", np.dot, extremes=[extreme("large", [1000, -1000], [1000, -1000], value=[2e6], gradients=([1000, -1000], [1000, -1000]))]
    ),
    row(
        "binary_log_loss",
        log_loss,
        sample=ranges((0.1, 0.9)),
        undefined_gradient="the target's, where the prediction is 0 or 1 is infinite",
        extremes=[
            extreme("right", [0, 1], [0, 1], value=[0], gradients=([1, -1], None)),
            extreme("wrong", [0], [1], value=[inf]),
            extreme("wrong the other way", [1], [0], value=[inf]),
            extreme("even", [0.5], [0.5], value=[np.log(2)], gradients=([0], [0])),
            extreme("outside of its domain", [2], [1], value=[-np.log(2)]),
            extreme("tiny prediction", [1e-30], [1], value=[30 * np.log(10)], gradients=([-1e30], None)),
        ],
    ),
]
