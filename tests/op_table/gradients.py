"""Operations whose gradient is not the derivative of their value: what they send is in the
extremes."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, extreme, refuses, tensor

inf, nan = np.inf, np.nan
ZERO, THROUGH = "zero_gradient", "straight_through_gradient"

CASES = [
    case(tensor(1)),
    case(tensor(5)),
    case(tensor(3, 4, batch=3)),
    case(tensor(67)),
    case(tensor(2, 3, 2)),
    case(tensor(1, 2, 1, 2, 1, 2, 1)),
]
ALONG = [
    case(tensor(1), d=0),
    case(tensor(5), d=0),
    case(tensor(40), d=0),
    case(tensor(5, batch=3), d=0),
    case(tensor(3, 4), d=1),
    case(tensor(3, 4, batch=3), d=0),
    case(tensor(2, 3, 2, batch=3), d=1),
]


def between_jumps(rng, inputs, **_):
    """Numbers away from whole ones and from halves."""
    return [rng.integers(-6, 6, i.shape) / 2 + rng.uniform(0.05, 0.45, i.shape) for i in inputs]


def spaced(rng, inputs, **_):
    """Numbers of which no two are near each other."""
    return [0.05 * rng.permutation(int(np.prod(i.shape))).reshape(i.shape) - 1 for i in inputs]


def view(name, build, factor, *, op):
    return Row(
        op,
        name,
        build,
        lambda x: x,
        CASES,
        has_gradient=False,
        extremes=[
            extreme(
                "gradient", [0, 3, -1000, 1000], value=[0, 3, -1000, 1000], gradients=[[factor] * 4]
            )
        ],
        errors=[
            refuses(lambda: build(3), TypeError, f"^{name.split()[0]}: takes expressions; got int")
        ],
    )


def step(name, reference, value):
    """Two rows: no gradient, which is the derivative, and that of the identity."""

    def f(x, gradient_mode):
        return getattr(dy, name)(x, gradient_mode)

    at = [0.5, 1.5, -0.5, -2.5, 3, -1000.5, 1.2, -1.7, inf, -inf]
    return [
        Row(
            name,
            name,
            lambda x: f(x, ZERO),
            reference,
            CASES,
            between_jumps,
            extremes=[
                extreme("halves", at, value=value, gradients=[[0] * len(at)]),
                extreme("nan", [nan], value=[nan]),
            ],
            errors=[
                refuses(
                    lambda: f(dy.zeros(3), "none"),
                    ValueError,
                    f"^{name}: gradient_mode must be \"zero_gradient\" or .*; got 'none'",
                ),
                refuses(lambda: f(dy.zeros(3), 1), ValueError, f"^{name}: gradient_mode must be"),
                refuses(lambda: f(dy.zeros(3), []), ValueError, f"^{name}: gradient_mode must be"),
                refuses(lambda: f(3, ZERO), TypeError, f"^{name}: takes expressions; got int"),
            ],
        ),
        Row(
            name,
            f"{name} straight through",
            lambda x: f(x, gradient_mode=THROUGH),
            reference,
            CASES,
            between_jumps,
            has_gradient=False,
            extremes=[extreme("halves", at, value=value, gradients=[[1] * len(at)])],
        ),
    ]


def one_hot(x, d):
    where = np.argmax(x, axis=d, keepdims=True)
    y = np.zeros(x.shape)
    np.put_along_axis(y, where, 1, axis=d)
    return y


ROWS = [
    view("nobackprop", lambda x: dy.nobackprop(x), 0, op="nobackprop"),
    view("flip_gradient", lambda x: dy.flip_gradient(x), -1, op="scale_gradient"),
    view("scale_gradient", lambda x: dy.scale_gradient(x), 1, op="scale_gradient"),
    view(
        "scale_gradient by a number",
        lambda x: dy.scale_gradient(x, np.float32(0.5)),
        0.5,
        op="scale_gradient",
    ),
    *step("round", np.round, [0, 2, 0, -2, 3, -1000, 1, -2, inf, -inf]),
    *step("ceil", np.ceil, [1, 2, 0, -2, 3, -1000, 2, -1, inf, -inf]),
    *step("floor", np.floor, [0, 1, -1, -3, 3, -1001, 1, -2, inf, -inf]),
    Row(
        "argmax",
        "argmax",
        lambda x, d: dy.argmax(x, ZERO, d),
        one_hot,
        ALONG,
        spaced,
        extremes=[
            extreme("tie", [1, 3, 3, -1000], value=[0, 1, 0, 0], gradients=[[0] * 4], d=0),
            extreme("nan", [1, nan, 3], value=[0, 1, 0], d=0),
        ],
        errors=[
            refuses(
                lambda: dy.argmax(dy.zeros(3), "none"), ValueError, "^argmax: gradient_mode must be"
            ),
            refuses(
                lambda: dy.argmax(dy.zeros(3), ZERO, 1),
                ValueError,
                r"^argmax: dim 1 is not a dim of x = \(3,\)",
            ),
            refuses(
                lambda: dy.argmax(dy.zeros(3), ZERO, -1), ValueError, "^argmax: dim -1 is not a dim"
            ),
            refuses(lambda: dy.argmax(3, ZERO), TypeError, "^argmax: takes expressions; got int"),
        ],
    ),
    Row(
        "argmax",
        "argmax straight through",
        lambda x, d: dy.argmax(x, THROUGH, d),
        one_hot,
        ALONG,
        spaced,
        has_gradient=False,
        extremes=[extreme("tie", [1, 3, 3, -1000], value=[0, 1, 0, 0], gradients=[[1] * 4], d=0)],
    ),
]
