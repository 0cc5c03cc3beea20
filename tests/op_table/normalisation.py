"""Normalisation of weights and layers."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, extreme, per_batch, ranges, refuses, tensor

nan = np.nan


WEIGHT_NORM = [
    case(tensor(1), tensor(1)),
    case(tensor(5), tensor(1)),
    case(tensor(3, 4), tensor(1)),
    case(tensor(2, 3, 4), tensor(1, 1)),
    case(tensor(67), tensor(1)),
    case(tensor(3, 4, batch=3), tensor(1)),
    case(tensor(3, 4), tensor(1, batch=3)),
    case(tensor(3, 4, batch=3), tensor(1, batch=3)),
]
LAYER_NORM = [
    case(tensor(2), tensor(2), tensor(2)),
    case(tensor(5), tensor(5), tensor(5)),
    case(tensor(67), tensor(67), tensor(67)),
    case(tensor(3, 4), tensor(3, 4), tensor(3, 4)),
    case(tensor(3, 4), tensor(3), tensor(3, 1)),
    case(tensor(3, 4), tensor(3, 4), tensor(1)),
    case(tensor(3, 4), tensor(1), tensor(3)),
    case(tensor(2, 3, 4), tensor(2, 3), tensor(2)),
    case(tensor(5, batch=3), tensor(5), tensor(5)),
    case(tensor(5), tensor(5, batch=3), tensor(5)),
    case(tensor(3, 4, batch=3), tensor(3), tensor(3, 4, batch=3)),
]


Z = 1000 / (1000 + 1e-8)


@per_batch
def layer_norm(x, g, b):
    def shaped(a):
        return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))

    return shaped(g) * (x - x.mean()) / (x.std() + 1e-8) + shaped(b)


ROWS = [
    Row(
        "weight_norm",
        "weight_norm",
        lambda w, g: dy.weight_norm(w, g),
        per_batch(lambda w, g: g.ravel()[0] * w / np.sqrt(np.sum(w * w))),
        WEIGHT_NORM,
        sample=ranges((0.3, 2), (-2, 2)),
        errors=[
            refuses(
                lambda: dy.weight_norm(dy.zeros(3), dy.zeros(3)),
                ValueError,
                r"^weight_norm: g must be one number; got w = \(3,\)",
            ),
            refuses(
                lambda: dy.weight_norm(dy.zeros(3), 2),
                TypeError,
                "^weight_norm: takes expressions; got .*int",
            ),
        ],
        extremes=[
            extreme(
                "large",
                [1000, 0, -1000],
                [1],
                value=[0.5**0.5, 0, -(0.5**0.5)],
                gradients=([0.5**0.5 / 1000] * 3, [0]),
            ),
            extreme("zero", [0, 0], [1], value=[nan, nan]),
        ],
    ),
    Row(
        "layer_norm",
        "layer_norm",
        lambda x, g, b: dy.layer_norm(x, g, b),
        layer_norm,
        LAYER_NORM,
        errors=[
            refuses(
                lambda: dy.layer_norm(dy.zeros((3, 4)), dy.zeros(4), dy.zeros(3)),
                ValueError,
                r"^layer_norm: g and b must have the dims of x, or the first ones of them; got x ="
                r" \(3, 4\), g = \(4,\), b = \(3,\)",
            ),
            refuses(
                lambda: dy.layer_norm(dy.zeros(3), dy.zeros((3, 2)), dy.zeros(3)),
                ValueError,
                "^layer_norm: g and b must",
            ),
            refuses(
                lambda: dy.layer_norm(dy.zeros(3), dy.zeros(3), 0),
                TypeError,
                "^layer_norm: takes expressions; got int",
            ),
        ],
        extremes=[
            extreme("one element", [5], [3], [2], value=[2], gradients=([0], [0], [1])),
            extreme(
                "equal",
                [0.1] * 7,
                [3.0] * 7,
                [2.0] * 7,
                value=[2] * 7,
                gradients=(None, [0] * 7, [1] * 7),
            ),
            extreme(
                "far apart",
                [1000, -1000],
                [1, 1],
                [0, 0],
                value=[Z, -Z],
                gradients=([0, 0], [Z, -Z], [1, 1]),
            ),
        ],
    ),
]
