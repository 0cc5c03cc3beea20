"""Operators and sums."""

import numpy as np

import dist_dynet as dy

from .row import Row, aligned, away_from_zero, case, extreme, ranges, refuses, tensor

inf, nan = np.inf, np.nan

BROADCAST = [
    case(tensor(1), tensor(1)),
    case(tensor(5), tensor(5)),
    case(tensor(67), tensor(67)),
    case(tensor(3, 4), tensor(3, 4)),
    case(tensor(2, 3, 2), tensor(2, 3, 2)),
    case(tensor(5, batch=3), tensor(5, batch=3)),
    case(tensor(5, batch=3), tensor(5)),
    case(tensor(5), tensor(5, batch=3)),
    case(tensor(5), tensor(1)),
    case(tensor(1), tensor(5)),
    case(tensor(1), tensor(5, batch=3)),
    case(tensor(1, batch=3), tensor(5)),
    case(tensor(3, 4), tensor(3)),
    case(tensor(3), tensor(3, 4)),
    case(tensor(3, 4), tensor(1, 4)),
    case(tensor(1, 4), tensor(3, 4, batch=3)),
    case(tensor(3, 1), tensor(1, 4)),
    case(tensor(3, 1, batch=3), tensor(1, 4)),
    case(tensor(2, 1, 4), tensor(1, 3, 1, batch=3)),
    case(tensor(2, 3, 4, batch=3), tensor(2, 1, 4)),
    case(tensor(2, 3, 4), tensor(1, 3)),
]


def total(*xs):
    """The sum, in the dims of the first."""
    y = sum(aligned(*xs))
    return y.reshape(*xs[0].shape[:-1], y.shape[-1])


ONE_INPUT = [
    case(tensor(1)),
    case(tensor(5)),
    case(tensor(3, 4)),
    case(tensor(2, 3, 2, batch=3)),
    case(tensor(67, batch=3)),
]


def broadcast(f):
    return lambda x, y: f(*aligned(x, y))


def unequal(f, op):
    """The errors of an operation that broadcasts."""
    return [
        refuses(
            lambda: f(dy.zeros(3), dy.zeros(4)),
            ValueError,
            rf"^{op}: sizes must be equal or 1 in each dim.*x = \(3,\), y = \(4,\)",
        ),
        refuses(
            lambda: f(dy.zeros((3, 2)), dy.zeros((3, 4))),
            ValueError,
            rf"^{op}: .*x = \(3, 2\), y = \(3, 4\)",
        ),
        refuses(
            lambda: f(dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=5)),
            ValueError,
            rf"^{op}: batch sizes must be equal or 1; got 2 and 5",
        ),
    ]


def number(name, build, f, **keywords):
    """A row of an expression and a number."""
    return Row("scale_shift", name, build, f, ONE_INPUT, **keywords)


def repeated(*dims, n, batch=1, first_batch=1):
    return case(tensor(*dims, batch=first_batch), *[tensor(*dims, batch=batch)] * (n - 1))


MANY = [
    repeated(1, n=2),
    repeated(5, n=3),
    repeated(3, 4, n=2),
    repeated(2, 3, 2, n=3, batch=3, first_batch=3),
    repeated(5, n=3, batch=3),
    repeated(5, n=2, first_batch=3),
    case(tensor(5), tensor(5, 1)),
    repeated(67, n=20),
    case(*[tensor(1, batch=3)] * 3),
]
TOO_FEW = [
    refuses(lambda: dy.esum([]), AssertionError, "List is empty, nothing to esum"),
    refuses(
        lambda: dy.esum(dy.zeros(3)),
        TypeError,
        r"^esum: takes a list of expressions; got one expression. Write esum\(\[x\]\)",
    ),
    refuses(
        lambda: dy.esum([dy.zeros(3), None]),
        AssertionError,
        "Empty element for esum: item 1 is None",
    ),
    refuses(lambda: dy.esum([dy.zeros(3), 2]), TypeError, "^esum: takes expressions; got int"),
]

ROWS = [
    Row(
        "add",
        "add",
        lambda x, y: x + y,
        broadcast(np.add),
        BROADCAST,
        errors=[
            *unequal(lambda x, y: x + y, "add"),
            refuses(lambda: dy.zeros(3) + "a", TypeError, "unsupported operand"),
            refuses(lambda: None + dy.zeros(3), TypeError, "unsupported operand"),
        ],
    ),
    Row(
        "add",
        "add an array",
        lambda x: x + np.array([1.0, 2.0, 3.0]),
        lambda x: x + np.array([[1.0], [2.0], [3.0]]),
        [case(tensor(3)), case(tensor(3, batch=3)), case(tensor(1))],
    ),
    Row(
        "add",
        "an array plus",
        lambda x: np.array([1.0, 2.0, 3.0]) + x,
        lambda x: x + np.array([[1.0], [2.0], [3.0]]),
        [case(tensor(3)), case(tensor(3, batch=3)), case(tensor(1))],
    ),
    Row(
        "add",
        "colwise_add",
        lambda x, y: dy.colwise_add(x, y),
        broadcast(np.add),
        [
            case(tensor(1, 1), tensor(1)),
            case(tensor(3, 4), tensor(3)),
            case(tensor(3, 4, batch=3), tensor(3)),
        ],
    ),
    Row(
        "subtract",
        "subtract",
        lambda x, y: x - y,
        broadcast(np.subtract),
        BROADCAST,
        errors=unequal(lambda x, y: x - y, "subtract"),
    ),
    Row(
        "subtract",
        "subtract an array",
        lambda x: x - np.array([1.0, 2.0]),
        lambda x: x - np.array([[1.0], [2.0]]),
        [case(tensor(1)), case(tensor(2, batch=3))],
    ),
    Row(
        "subtract",
        "an array minus",
        lambda x: np.array([1.0, 2.0]) - x,
        lambda x: np.array([[1.0], [2.0]]) - x,
        [case(tensor(1)), case(tensor(2, batch=3))],
    ),
    Row(
        "cmult",
        "cmult",
        lambda x, y: dy.cmult(x, y),
        broadcast(np.multiply),
        BROADCAST,
        errors=[
            *unequal(lambda x, y: dy.cmult(x, y), "cmult"),
            refuses(
                lambda: dy.cmult(dy.zeros(3), 2), TypeError, "^cmult: takes expressions; got .*int"
            ),
        ],
    ),
    Row(
        "cdiv",
        "cdiv",
        lambda x, y: dy.cdiv(x, y),
        broadcast(np.divide),
        BROADCAST,
        sample=away_from_zero(0.5),
        undefined_gradient="0 / 0",
        extremes=[
            extreme("by zero", [1, -1, 0], [0, 0, 0], value=[inf, -inf, nan]),
            extreme(
                "of zero", [0, 0], [1000, -1000], value=[0, 0], gradients=([0.001, -0.001], [0, 0])
            ),
        ],
        errors=[
            *unequal(lambda x, y: dy.cdiv(x, y), "cdiv"),
            refuses(
                lambda: dy.cdiv(dy.zeros(3), 2), TypeError, "^cdiv: takes expressions; got .*int"
            ),
        ],
    ),
    Row(
        "cdiv",
        "over",
        lambda x, y: x / y,
        broadcast(np.divide),
        BROADCAST[:4],
        sample=away_from_zero(0.5),
        undefined_gradient="0 / 0",
        errors=[refuses(lambda: dy.zeros(3) / "a", TypeError, "unsupported operand")],
    ),
    Row(
        "cdiv",
        "number over",
        lambda x: 3 / x,
        lambda x: 3 / x,
        ONE_INPUT,
        sample=away_from_zero(0.5),
        undefined_gradient="the value is infinite at 0",
    ),
    Row(
        "cdiv",
        "over the number 0",
        lambda x: x / 0,
        lambda x: x / 0,
        [case(tensor(1)), case(tensor(3, batch=3))],
        has_gradient=False,
    ),
    Row(
        "pow",
        "pow",
        lambda x, y: dy.pow(x, y),
        broadcast(np.power),
        [
            case(tensor(1), tensor(1)),
            case(tensor(5), tensor(1)),
            case(tensor(3, 4, batch=3), tensor(1)),
            case(tensor(2, 3, 2), tensor(1, 1)),
        ],
        sample=ranges((0.3, 2.0), (-2.0, 3.0)),
        undefined_gradient="the exponent's, at a negative base",
        extremes=[
            extreme(
                "to the power 0", [0, 1, -1000], [0], value=[1, 1, 1], gradients=([0, 0, 0], None)
            ),
            extreme(
                "to the power 1",
                [0, 1, -1000],
                [1],
                value=[0, 1, -1000],
                gradients=([1, 1, 1], None),
            ),
            extreme(
                "to the power 2",
                [0, 1, -1000],
                [2],
                value=[0, 1, 1e6],
                gradients=([0, 2, -2000], None),
            ),
            extreme("of zero", [0, 0], [3], value=[0, 0], gradients=([0, 0], [0])),
            extreme("root", [0, 4], [0.5], value=[0, 2], gradients=([inf, 0.25], None)),
            extreme("root of a negative number", [-1], [0.5], value=[nan]),
        ],
        errors=[
            refuses(
                lambda: dy.pow(dy.ones(3), dy.ones(2)),
                ValueError,
                r"^pow: the exponent must be one number without a batch; got x = \(3,\), exponent ="
                r" \(2,\)",
            ),
            refuses(
                lambda: dy.pow(dy.ones(3), dy.ones(1, batch_size=2)),
                ValueError,
                "^pow: the exponent must be one number",
            ),
            refuses(lambda: dy.pow(dy.ones(3), 2), TypeError, "^pow: takes expressions; got .*int"),
            refuses(lambda: dy.ones(3) ** "a", TypeError, "unsupported operand"),
        ],
    ),
    Row("pow", "to the number 2", lambda x: x**2, lambda x: x**2, ONE_INPUT),
    Row(
        "pow",
        "to the number -1.5",
        lambda x: x**-1.5,
        lambda x: x**-1.5,
        ONE_INPUT,
        sample=ranges((0.5, 2.0)),
        undefined_gradient="the value is NaN below 0",
    ),
    number("plus number", lambda x: x + 2.5, lambda x: x + 2.5),
    number("number plus", lambda x: 2.5 + x, lambda x: x + 2.5),
    number("minus number", lambda x: x - 2.5, lambda x: x - 2.5),
    number("number minus", lambda x: 2.5 - x, lambda x: 2.5 - x),
    number("times number", lambda x: x * 2.5, lambda x: 2.5 * x),
    number("number times", lambda x: 2.5 * x, lambda x: 2.5 * x),
    number("times 0", lambda x: x * 0, lambda x: 0 * x),
    number("at number", lambda x: x @ np.float32(2.5), lambda x: 2.5 * x),
    number("number at", lambda x: 3 @ x, lambda x: 3 * x),
    number("over number", lambda x: x / 2.5, lambda x: x / 2.5),
    number("negative", lambda x: -x, lambda x: -x),
    Row("abs", "of Python", abs, abs, ONE_INPUT, sample=away_from_zero()),
    number("plus sign", lambda x: -(+x), lambda x: -x),
    number(
        "NumPy's numbers",
        lambda x: np.float64(2) * x + np.int32(3) - np.array(0.5),
        lambda x: 2 * x + 2.5,
    ),
    Row(
        "sum",
        "esum",
        lambda *xs: dy.esum(xs),
        total,
        MANY,
        errors=[
            *TOO_FEW,
            refuses(
                lambda: dy.esum([dy.zeros(3), dy.zeros(4)]),
                ValueError,
                r"^esum: all inputs must have the same dims; got x_0 = \(3,\), x_1 = \(4,\)",
            ),
            refuses(
                lambda: dy.esum([dy.zeros(3), dy.zeros(1)]),
                ValueError,
                "^esum: all inputs must have the same dims",
            ),
            refuses(
                lambda: dy.esum([dy.zeros(1, batch_size=2), dy.zeros(1, batch_size=3)]),
                ValueError,
                "^esum: batch sizes must be equal or 1; got 2 and 3",
            ),
        ],
    ),
    Row(
        "average",
        "average",
        lambda *xs: dy.average(xs),
        lambda *xs: total(*xs) / len(xs),
        [*MANY, case(tensor(5))],
        errors=[
            refuses(lambda: dy.average([]), AssertionError, "List is empty, nothing to average"),
            refuses(
                lambda: dy.average([dy.zeros(3), dy.zeros(4)]),
                ValueError,
                "^average: all inputs must have the same dims",
            ),
        ],
    ),
]
