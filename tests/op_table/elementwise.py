"""Functions of one expression, element by element."""

import numpy as np

import dist_dynet as dy

from .row import Row, away_from_zero, case, even, extreme, ranges, refuses, tensor

inf, nan = np.inf, np.nan

CASES = [
    case(tensor(1)),
    case(tensor(1, batch=3)),
    case(tensor(5)),
    case(tensor(3, 4)),
    case(tensor(2, 3, 2)),
    case(tensor(3, 4, batch=3)),
    case(tensor(67)),
    case(tensor(130, batch=3)),
    case(tensor(1, 2, 1, 2, 1, 2, 1)),
]


def logistic(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def unary(name, reference, sample, *extremes, undefined_gradient=""):
    def build(x):
        return getattr(dy, name)(x)

    return Row(
        name,
        name,
        build,
        reference,
        CASES,
        sample,
        extremes=extremes,
        undefined_gradient=undefined_gradient,
        errors=[
            refuses(lambda: build(3), TypeError, f"^{name}: takes expressions; got int"),
            refuses(lambda: build(None), TypeError, f"^{name}: takes expressions; got NoneType"),
        ],
    )


ROWS = [
    unary(
        "tanh",
        np.tanh,
        even(),
        extreme("saturated", [1000, -1000, 0, inf, -inf], value=[1, -1, 0, 1, -1], gradients=[[0, 0, 1, 0, 0]]),
        extreme(
            "where the polynomials meet",
            [0.6249, 0.625, 0.6251, -0.625, 9.99, 10.01],
            value=np.tanh([0.6249, 0.625, 0.6251, -0.625, 9.99, 10.01]),
        ),
        extreme("nan", [nan], value=[nan]),
    ),
    unary(
        "logistic",
        logistic,
        even(),
        extreme("saturated", [1000, -1000, 0, inf, -inf], value=[1, 0, 0.5, 1, 0], gradients=[[0, 0, 0.25, 0, 0]]),
        extreme("nan", [nan], value=[nan]),
    ),
    unary(
        "rectify",
        lambda x: np.maximum(x, 0),
        away_from_zero(),
        extreme("kink", [0, 1000, -1000, inf, -inf], value=[0, 1000, 0, inf, 0], gradients=[[0, 1, 0, 1, 0]]),
    ),
    unary(
        "exp",
        np.exp,
        even(),
        extreme("overflow and underflow", [1000, -1000, 0, inf, -inf], value=[inf, 0, 1, inf, 0]),
        extreme("nan", [nan], value=[nan]),
    ),
    unary(
        "log",
        np.log,
        ranges((0.3, 3.0)),
        extreme("outside of its domain", [0, -1, 1, 1000, inf], value=[-inf, nan, 0, np.log(1000), inf]),
        extreme("nan", [nan], value=[nan]),
        undefined_gradient="the value is infinite at 0",
    ),
    unary("square", np.square, even(), extreme("large", [1000, -1000, 0], value=[1e6, 1e6, 0], gradients=[[2000, -2000, 0]])),
    unary("abs", np.abs, away_from_zero(), extreme("kink", [0, 1000, -1000, -inf], value=[0, 1000, 1000, inf], gradients=[[0, 1, -1, -1]])),
]
