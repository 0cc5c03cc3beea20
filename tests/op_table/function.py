"""Operations written in Python: the op table runs two of them as it runs any other.
tests/test_function.py has the rest."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, extreme, per_batch, refuses, tensor


def cube(x):
    return dy.function(
        lambda x: x**3, lambda xs, y, d: [3 * xs[0] ** 2 * d], lambda d: d, name="cube"
    )(x)


def outer(x, y):
    backward = lambda xs, y, d: [d @ xs[1], d.T @ xs[0]]  # noqa: E731
    return dy.function(
        lambda x, y: np.outer(x, y),
        backward,
        lambda x, y: (x[0], y[0]),
        batched=False,
        name="outer",
    )(x, y)


ROWS = [
    Row(
        "function",
        "function of whole batches",
        cube,
        lambda x: x**3,
        [
            case(tensor(1)),
            case(tensor(5)),
            case(tensor(2, 3, batch=4)),
            case(tensor(2, 1, 3, 1, 2, 1, 2)),
        ],
        extremes=[
            extreme("large", [100, -100, 0], value=[1e6, -1e6, 0], gradients=([30000, 30000, 0],))
        ],
        errors=[
            refuses(lambda: cube(1), TypeError, "^function cube: takes expressions; got int"),
            refuses(
                lambda: dy.function(1, None, 1), TypeError, "^function: forward must be a function"
            ),
        ],
    ),
    Row(
        "function",
        "function of batch elements",
        outer,
        per_batch(np.outer),
        [
            case(tensor(2), tensor(3)),
            case(tensor(3), tensor(3)),
            case(tensor(2, batch=3), tensor(4, batch=3)),
            case(tensor(2), tensor(3, batch=2)),
            case(tensor(2, batch=2), tensor(3)),
        ],
        errors=[
            refuses(
                lambda: outer(dy.zeros(2, batch_size=2), dy.zeros(2, batch_size=3)),
                ValueError,
                "^function outer: batch sizes must be equal or 1",
            )
        ],
    ),
]
