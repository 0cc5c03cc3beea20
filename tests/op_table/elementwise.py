"""Functions of one expression, element by element."""

import math

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


def parametric(name, build, reference, sample, cases, *extremes, op=None, **more):
    """A function with a number beside its input."""
    return Row(
        op or name,
        name,
        build,
        reference,
        cases,
        sample,
        extremes=extremes,
        errors=[refuses(lambda: build(3), TypeError, "takes expressions; got int")],
        **more,
    )


def with_number(**attributes):
    return [case(*c.inputs, **attributes) for c in CASES[:7]]


def each(f, at_poles=inf):
    """A function of one number applied to all; math raises where NumPy gives inf or nan."""

    def guarded(x):
        try:
            return f(x)
        except ValueError:
            return at_poles

    return lambda x, **attributes: np.vectorize(guarded, otypes=[float])(x)


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def silu(x, beta=1.0):
    return x * logistic(beta * x)


SELU = 1.0507009873554804934, 1.6732632423543772848
ERF = each(math.erf)
LGAMMA = each(math.lgamma)
NORMAL_CDF = each(lambda x: math.erfc(-x / math.sqrt(2)) / 2)
LARGE = [5999, 6001, -1e5, 1e7]


def gelu_tanh(x):
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def nan_stays():
    return extreme("nan", [nan], value=[nan])


def saturated(f, *edges, gradients=()):
    return extreme(
        "saturated", list(edges), value=f(np.array(edges, float)).tolist(), gradients=gradients
    )


ROWS = [
    unary(
        "tanh",
        np.tanh,
        even(),
        extreme(
            "saturated",
            [1000, -1000, 0, inf, -inf],
            value=[1, -1, 0, 1, -1],
            gradients=[[0, 0, 1, 0, 0]],
        ),
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
        extreme(
            "saturated",
            [1000, -1000, 0, inf, -inf],
            value=[1, 0, 0.5, 1, 0],
            gradients=[[0, 0, 0.25, 0, 0]],
        ),
        extreme("nan", [nan], value=[nan]),
    ),
    unary(
        "rectify",
        lambda x: np.maximum(x, 0),
        away_from_zero(),
        extreme(
            "kink",
            [0, 1000, -1000, inf, -inf],
            value=[0, 1000, 0, inf, 0],
            gradients=[[0, 1, 0, 1, 0]],
        ),
        extreme("nan", [nan], value=[nan]),
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
        extreme(
            "outside of its domain", [0, -1, 1, 1000, inf], value=[-inf, nan, 0, np.log(1000), inf]
        ),
        extreme("nan", [nan], value=[nan]),
        undefined_gradient="the value is infinite at 0",
    ),
    unary(
        "square",
        np.square,
        even(),
        extreme("large", [1000, -1000, 0], value=[1e6, 1e6, 0], gradients=[[2000, -2000, 0]]),
    ),
    unary(
        "abs",
        np.abs,
        away_from_zero(),
        extreme(
            "kink", [0, 1000, -1000, -inf], value=[0, 1000, 1000, inf], gradients=[[0, 1, -1, -1]]
        ),
        extreme("nan", [nan], value=[nan]),
    ),
    unary(
        "sin",
        np.sin,
        even(-7, 7),
        extreme("large", LARGE, value=np.sin(LARGE), gradients=[np.cos(LARGE)]),
        extreme("beside infinity", [inf, 1, nan], value=[nan, np.sin(1), nan]),
    ),
    unary(
        "cos",
        np.cos,
        even(-7, 7),
        extreme("large", LARGE, value=np.cos(LARGE), gradients=[-np.sin(LARGE)]),
        extreme("beside infinity", [inf, 1, nan], value=[nan, np.cos(1), nan]),
    ),
    unary(
        "tan",
        np.tan,
        even(-1.3, 1.3),
        extreme("large", LARGE, value=np.tan(LARGE)),
        extreme("beside infinity", [inf, 1, nan], value=[nan, np.tan(1), nan]),
    ),
    unary(
        "asin",
        np.arcsin,
        even(-0.9, 0.9),
        extreme("ends", [1, -1, 0, 1.5, nan], value=[np.pi / 2, -np.pi / 2, 0, nan, nan]),
        extreme(
            "where the polynomials meet",
            [0.499, 0.501, -0.501],
            value=np.arcsin([0.499, 0.501, -0.501]),
        ),
    ),
    unary(
        "acos",
        np.arccos,
        even(-0.9, 0.9),
        extreme("ends", [1, -1, 0, 1.5, nan], value=[0, np.pi, np.pi / 2, nan, nan]),
        extreme(
            "where the polynomials meet",
            [0.499, 0.501, -0.501],
            value=np.arccos([0.499, 0.501, -0.501]),
        ),
    ),
    unary(
        "atan",
        np.arctan,
        even(-3, 3),
        saturated(
            np.arctan,
            1000,
            -1000,
            0,
            inf,
            -inf,
            0.999,
            1.001,
            gradients=[[1e-6, 1e-6, 1, 0, 0, 1 / (1 + 0.999**2), 1 / (1 + 1.001**2)]],
        ),
        nan_stays(),
    ),
    unary(
        "sinh",
        np.sinh,
        even(-3, 3),
        extreme("overflow", [1000, -1000, 0, inf, -inf], value=[inf, -inf, 0, inf, -inf]),
        extreme(
            "where the formulas meet", [0.999, 1.001, 1e-4], value=np.sinh([0.999, 1.001, 1e-4])
        ),
        nan_stays(),
    ),
    unary(
        "cosh",
        np.cosh,
        even(-3, 3),
        extreme("overflow", [1000, -1000, 0, inf, -inf], value=[inf, inf, 1, inf, inf]),
        nan_stays(),
    ),
    unary(
        "asinh",
        np.arcsinh,
        even(-3, 3),
        saturated(np.arcsinh, 1000, -1000, 0, 1e-4, 1e7, 1e9, inf, -inf),
        nan_stays(),
    ),
    unary(
        "acosh",
        np.arccosh,
        ranges((1.1, 4.0)),
        extreme(
            "ends",
            [1, 1e7, 1e9, inf, 0.5, -2],
            value=[0, np.arccosh(1e7), np.arccosh(1e9), inf, nan, nan],
        ),
        nan_stays(),
    ),
    unary(
        "atanh",
        np.arctanh,
        even(-0.9, 0.9),
        extreme("ends", [1, -1, 0, 1e-4, 2, -2], value=[inf, -inf, 0, np.arctanh(1e-4), nan, nan]),
        nan_stays(),
    ),
    unary(
        "sqrt",
        np.sqrt,
        ranges((0.3, 3.0)),
        extreme("ends", [0, 1000, inf, -1], value=[0, np.sqrt(1000), inf, nan]),
        extreme("gradient at 0", [0, 4], value=[0, 2], gradients=[[inf, 0.25]]),
    ),
    unary(
        "cube",
        lambda x: x**3,
        even(),
        extreme("large", [1000, -1000, 0], value=[1e9, -1e9, 0], gradients=[[3e6, 3e6, 0]]),
    ),
    unary(
        "erf",
        ERF,
        even(),
        saturated(ERF, 1000, -1000, 0, 0.999, 1.001, 3.9, -4, inf, -inf),
        nan_stays(),
    ),
    unary(
        "lgamma",
        LGAMMA,
        ranges((0.3, 4.0)),
        extreme("poles", [0, -1, -1000, inf], value=[inf] * 4),
        extreme(
            "negative and large",
            [-0.5, -1.5, -2.25, 1000],
            value=LGAMMA(np.array([-0.5, -1.5, -2.25, 1000])),
            gradients=[
                [0.03648997397857652, 0.7031566406452432, 4.158583564657972, 6.907255195648812]
            ],
        ),
        nan_stays(),
        undefined_gradient="the value is infinite at 0, -1, -2, ...",
    ),
    unary(
        "log_sigmoid",
        lambda x: -np.logaddexp(0, -x),
        even(),
        extreme(
            "saturated",
            [1000, -1000, 0, inf, -inf],
            value=[0, -1000, -np.log(2), 0, -inf],
            gradients=[[0, 1, 0.5, 0, 1]],
        ),
        nan_stays(),
    ),
    unary(
        "softsign",
        lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x))),
        away_from_zero(),
        extreme(
            "saturated",
            [1000, -1000, 0],
            value=[1000 / 1001, -1000 / 1001, 0],
            gradients=[[1 / 1001**2, 1 / 1001**2, 1]],
        ),
        nan_stays(),
    ),
    unary(
        "selu",
        lambda x: SELU[0] * elu(x, SELU[1]),
        away_from_zero(),
        extreme(
            "saturated",
            [1000, -1000, 0, inf, -inf],
            value=[1000 * SELU[0], -SELU[0] * SELU[1], 0, inf, -SELU[0] * SELU[1]],
            gradients=[[SELU[0], 0, SELU[0] * SELU[1], SELU[0], 0]],
        ),
        nan_stays(),
    ),
    parametric(
        "elu",
        lambda x, **number: dy.elu(x, **number),
        elu,
        away_from_zero(),
        [*CASES, *with_number(alpha=0.5)],
        extreme(
            "saturated",
            [1000, -1000, 0, -1e-4, inf, -inf],
            value=[1000, -2, 0, 2 * math.expm1(-1e-4), inf, -2],
            gradients=[[1, 0, 2, 2 * math.exp(-1e-4), 1, 0]],
            alpha=2.0,
        ),
        nan_stays(),
    ),
    parametric(
        "silu",
        lambda x, **number: dy.silu(x, **number),
        silu,
        even(),
        [*CASES, *with_number(beta=2.5), *with_number(beta=-0.5)],
        extreme(
            "saturated", [1000, -1000, 0], value=[1000, 0, 0], gradients=[[1, 0, 0.5]], beta=1.5
        ),
        nan_stays(),
    ),
    parametric(
        "gelu",
        lambda x: dy.gelu(x),
        lambda x: x * NORMAL_CDF(x),
        even(),
        CASES,
        extreme(
            "saturated",
            [1000, -1000, 0, 1e20, -1e20],
            value=[1000, 0, 0, 1e20, 0],
            gradients=[[1, 0, 0.5, 1, 0]],
        ),
        nan_stays(),
    ),
    parametric(
        "gelu of tanh",
        lambda x: dy.gelu(x, approximate=True),
        gelu_tanh,
        even(),
        CASES,
        extreme(
            "saturated",
            [1000, -1000, 0, 1e20, -1e20],
            value=[1000, 0, 0, 1e20, 0],
            gradients=[[1, 0, 0.5, 1, 0]],
        ),
        nan_stays(),
        op="gelu_tanh",
    ),
]
