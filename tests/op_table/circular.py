"""Circular convolution and correlation."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, per_batch, refuses, tensor

CIRCULAR = [
    case(tensor(1), tensor(1)),
    case(tensor(2), tensor(2)),
    case(tensor(5), tensor(5)),
    case(tensor(7), tensor(7, 1)),
    case(tensor(40), tensor(40)),
    case(tensor(5, batch=3), tensor(5, batch=3)),
    case(tensor(5, batch=3), tensor(5)),
    case(tensor(5), tensor(5, batch=3)),
]


def circular(sign):
    def reference(u, v):
        u, v = u.ravel(), v.ravel()
        n = len(u)
        return np.array(
            [
                sum(
                    u[i] * v[(k + sign * i) % n] if sign > 0 else u[i] * v[(k - i) % n]
                    for i in range(n)
                )
                for k in range(n)
            ]
        )

    return per_batch(reference)


def circular_row(name, sign):
    def call(u, v):
        return getattr(dy, name)(u, v)

    return Row(
        name,
        name,
        call,
        circular(sign),
        CIRCULAR,
        errors=[
            refuses(
                lambda: call(dy.zeros(3), dy.zeros(4)),
                ValueError,
                rf"^{name}: u and v must be vectors of the same size; got u = \(3,\)",
            ),
            refuses(
                lambda: call(dy.zeros((3, 2)), dy.zeros((3, 2))),
                ValueError,
                f"^{name}: u and v must be vectors",
            ),
            refuses(
                lambda: call(dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=3)),
                ValueError,
                f"^{name}: batch sizes must be equal or 1",
            ),
            refuses(
                lambda: call(dy.zeros(3), 0.5),
                TypeError,
                f"^{name}: takes expressions; got .*float",
            ),
        ],
    )


ROWS = [
    circular_row("circ_conv", -1),
    circular_row("circ_corr", 1),
]
