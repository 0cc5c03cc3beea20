"""Sums, means, moments and deviations: over elements, over the batch, over dims; norms; running
sums."""

import numpy as np

import dist_dynet as dy

from .row import Row, away_from_zero, case, even, extreme, refuses, tensor

inf, nan = np.inf, np.nan

CASES = [
    case(tensor(1)),
    case(tensor(1, batch=3)),
    case(tensor(5)),
    case(tensor(5, batch=3)),
    case(tensor(3, 4)),
    case(tensor(3, 4, batch=3)),
    case(tensor(2, 3, 2, batch=3)),
    case(tensor(130)),
    case(tensor(67, batch=5)),
    case(tensor(3, batch=40)),
]


def elements(f):
    """f over all but the batch, as dims (1,)."""
    return lambda x: f(x.reshape(-1, x.shape[-1])).reshape(1, -1)


def refusals(function):
    return [
        refuses(
            lambda: getattr(dy, function)([1.0]),
            TypeError,
            f"^{function}: takes expressions; got list",
        )
    ]


OVER = [
    case(tensor(1), d=[0]),
    case(tensor(5), d=[0]),
    case(tensor(67), d=(0,)),
    case(tensor(5, batch=3), d=[0]),
    case(tensor(3, 4), d=[0]),
    case(tensor(3, 4), d=[1]),
    case(tensor(3, 4, batch=3), d=[0]),
    case(tensor(3, 4, batch=3), d=[1]),
    case(tensor(3, 4, batch=3), d=[0, 1]),
    case(tensor(2, 3, 4, batch=3), d=[1]),
    case(tensor(2, 3, 4, batch=3), d=[2, 0]),
    case(tensor(2, 3, 4), d=[0, 1, 2]),
    case(tensor(20, 3, 2), d=[0, 2]),
    case(tensor(2, 1, 3, 2, 1, 2, 2), d=[2, 5, 0]),
    case(tensor(2, 20, 3, batch=2), d=[1, 2]),
    case(tensor(1, 4, batch=3), d=[0]),
    case(tensor(3, 4), d=np.int64(1)),
]
OVER_BATCH = [
    case(tensor(1), d=[0], b=True),
    case(tensor(5, batch=3), d=[0], b=True),
    case(tensor(3, 4, batch=3), d=[0], b=True),
    case(tensor(3, 4, batch=3), d=[1], b=True),
    case(tensor(3, 4, batch=3), d=[], b=True),
    case(tensor(2, 3, 4, batch=3), d=[1], b=True),
    case(tensor(2, 3, 4, batch=3), d=[2, 0], b=True),
    case(tensor(2, 3, 2, batch=20), d=[0, 1, 2], b=True),
    case(tensor(3, 4), d=[], b=True),
]


def axes_of(d, b):
    d = [d] if np.ndim(d) == 0 else list(d)
    return d, tuple(d) + ((-1,) if b else ())


def over(f):
    """f(x, axes, n, r, keepdims) over the dims d, which go, and the batch, which becomes 1; n: what
    is divided by, their size if it is 0."""

    def reference(x, d, b=False, n=0, r=1):
        d, axes = axes_of(d, b)
        count = int(np.prod([x.shape[a] for a in axes]))
        y = f(x, axes, n or count, r).squeeze(tuple(d))
        return y if y.ndim > 1 else y.reshape(1, -1)

    return reference


def total(x, axes, n, r):
    return x.sum(axis=axes, keepdims=True)


def mean(x, axes, n, r):
    return x.sum(axis=axes, keepdims=True) / n


def moment(x, axes, n, r):
    return (x**r).sum(axis=axes, keepdims=True) / n


def std(x, axes, n, r):
    if n == np.prod([x.shape[a] for a in axes]):
        return x.std(axis=axes, keepdims=True)
    return np.sqrt(
        (x**2).sum(axis=axes, keepdims=True) / n - (x.sum(axis=axes, keepdims=True) / n) ** 2
    )


def more(cases, **attributes):
    return [case(*c.inputs, **c.attributes, **attributes) for c in cases]


def refusals_over(name, *rest):
    def f(x, d, **how):
        return getattr(dy, name)(x, d, *rest, **how)

    return [
        refuses(
            lambda: f(dy.zeros((2, 3)), [0, 0]),
            ValueError,
            f"^{name}: each dim may be named once; dim 0 is named twice",
        ),
        refuses(
            lambda: f(dy.zeros((2, 3)), [2]),
            ValueError,
            rf"^{name}: dim 2 is not a dim of x = \(2, 3\)",
        ),
        refuses(lambda: f(dy.zeros((2, 3)), [-1]), ValueError, f"^{name}: dim -1 is not a dim"),
        refuses(lambda: f(dy.zeros((2, 3)), [40]), ValueError, f"^{name}: dim 40 is not a dim"),
        refuses(
            lambda: f(dy.zeros((2, 3)), []),
            ValueError,
            f"^{name}: takes at least one dim, or b = True",
        ),
        refuses(
            lambda: f(dy.zeros((2, 3)), [0.5]), TypeError, f"^{name}: indices must be integers"
        ),
        refuses(lambda: f(3, [0]), TypeError, f"^{name}: takes expressions; got int"),
    ]


def negative_n(name, *rest):
    return refuses(
        lambda: getattr(dy, name)(dy.zeros(3), [0], *rest, n=-1),
        ValueError,
        rf"^{name}: n must not be negative; got n = -1",
    )


def no_order(call, name):
    return refuses(call, ValueError, rf"^{name}: the order must be 1 or more; got r = 0")


CONSTANT = extreme("equal numbers", [0.1, 0.1, 0.1], value=[0], gradients=[[0, 0, 0]])
CONSTANT_DIM = extreme("equal numbers", [1000.1] * 41, value=[0], gradients=[[0] * 41], d=[0])
PADDED = extreme(
    "padded with zeros", [1, 3, 0, 0], value=[1], gradients=[[-0.5, 0.5, -1, -1]], d=[0], n=2
)
PADDED_CONSTANT = extreme(
    "equal numbers, padded with zeros",
    [0.1, 0.1, 0.1, 0, 0],
    value=[0],
    gradients=[[0] * 5],
    d=[0],
    n=3,
)

ROWS = [
    Row(
        "sum_elems",
        "sum_elems",
        lambda x: dy.sum_elems(x),
        elements(lambda x: x.sum(0)),
        CASES,
        errors=refusals("sum_elems"),
    ),
    Row(
        "mean_elems",
        "mean_elems",
        lambda x: dy.mean_elems(x),
        elements(lambda x: x.mean(0)),
        CASES,
        errors=refusals("mean_elems"),
    ),
    Row(
        "sum_batches",
        "sum_batches",
        lambda x: dy.sum_batches(x),
        lambda x: x.sum(-1, keepdims=True),
        CASES,
        per_element=False,
        errors=refusals("sum_batches"),
    ),
    Row(
        "mean_batches",
        "mean_batches",
        lambda x: dy.mean_batches(x),
        lambda x: x.mean(-1, keepdims=True),
        CASES,
        per_element=False,
        errors=refusals("mean_batches"),
    ),
    Row(
        "squared_norm",
        "squared_norm",
        lambda x: dy.squared_norm(x),
        elements(lambda x: (x**2).sum(0)),
        CASES,
        errors=refusals("squared_norm"),
    ),
    Row(
        "l2_norm",
        "l2_norm",
        lambda x: dy.l2_norm(x),
        elements(lambda x: np.sqrt((x**2).sum(0))),
        CASES,
        away_from_zero(),
        extremes=[
            extreme("zero", [0, 0, 0], value=[0], gradients=[[0, 0, 0]]),
            extreme("nan", [nan, 0], value=[nan]),
        ],
        errors=refusals("l2_norm"),
    ),
    Row(
        "cumsum",
        "cumsum",
        lambda x, d: dy.cumsum(x, d),
        lambda x, d: np.cumsum(x, axis=d) if d < x.ndim - 1 else x,
        [
            case(tensor(1), d=0),
            case(tensor(5), d=0),
            case(tensor(67, batch=3), d=0),
            case(tensor(3, 4), d=0),
            case(tensor(3, 4), d=1),
            case(tensor(3, 4), d=2),
            case(tensor(3, 4, batch=3), d=1),
            case(tensor(2, 3, 4, batch=3), d=1),
            case(tensor(2, 3, 4), d=2),
            case(tensor(1, 2, 1, 2, 1, 3, 1), d=5),
        ],
        errors=[
            refuses(
                lambda: dy.cumsum(dy.zeros(3), 2),
                ValueError,
                r"^cumsum: dim 2 is not a dim of x = \(3,\)",
            ),
            refuses(lambda: dy.cumsum(dy.zeros(3), -1), ValueError, "^cumsum: dim -1 is not a dim"),
            refuses(lambda: dy.cumsum(3), TypeError, "^cumsum: takes expressions; got int"),
        ],
    ),
    Row(
        "sum_dim",
        "sum_dim",
        lambda x, d: dy.sum_dim(x, d),
        over(total),
        OVER,
        errors=refusals_over("sum_dim"),
    ),
    Row(
        "sum_dim_and_batch",
        "sum_dim with the batch",
        lambda x, d, b: dy.sum_dim(x, d, b),
        over(total),
        OVER_BATCH,
        per_element=False,
        errors=[
            refuses(
                lambda: dy.sum_dim(dy.zeros(3), [1], True),
                ValueError,
                r"^sum_dim: dim 1 is not a dim of x = \(3,\)",
            )
        ],
    ),
    Row(
        "mean_dim",
        "mean_dim",
        lambda x, d, n=0: dy.mean_dim(x, d, False, n),
        over(mean),
        [*OVER, *more(OVER[:9], n=7)],
        errors=[*refusals_over("mean_dim"), negative_n("mean_dim")],
    ),
    Row(
        "mean_dim_and_batch",
        "mean_dim with the batch",
        lambda x, d, b, n=0: dy.mean_dim(x, d, b, n),
        over(mean),
        [*OVER_BATCH, *more(OVER_BATCH[:4], n=7)],
        per_element=False,
    ),
    Row(
        "moment_dim",
        "moment_dim",
        lambda x, d, r, n=0: dy.moment_dim(x, d, r, False, n),
        over(moment),
        [*more(OVER, r=2), *more(OVER[:9], r=1), *more(OVER[:9], r=3), *more(OVER[:9], r=5, n=7)],
        even(-1.5, 1.5),
        errors=[
            *refusals_over("moment_dim", 2),
            negative_n("moment_dim", 2),
            no_order(lambda: dy.moment_dim(dy.zeros(3), [0], 0), "moment_dim"),
        ],
    ),
    Row(
        "moment_dim_and_batch",
        "moment_dim with the batch",
        lambda x, d, r, b, n=0: dy.moment_dim(x, d, r, b, n),
        over(moment),
        [*more(OVER_BATCH, r=2), *more(OVER_BATCH[:4], r=3, n=7)],
        even(-1.5, 1.5),
        per_element=False,
    ),
    Row(
        "std_dim",
        "std_dim",
        lambda x, d, n=0: dy.std_dim(x, d, False, n),
        over(std),
        [*OVER, *more(OVER[4:9], n=17)],
        extremes=[
            CONSTANT_DIM,
            PADDED,
            PADDED_CONSTANT,
            extreme("nan", [nan, 1], value=[nan], d=[0]),
        ],
        errors=[*refusals_over("std_dim"), negative_n("std_dim")],
    ),
    Row(
        "std_dim_and_batch",
        "std_dim with the batch",
        lambda x, d, b, n=0: dy.std_dim(x, d, b, n),
        over(std),
        [
            *OVER_BATCH[:3],
            *OVER_BATCH[4:8],
            *more(OVER_BATCH[1:4], n=17),
            case(tensor(1), d=[0], b=True, n=3),
        ],
        per_element=False,
    ),
    Row(
        "std_dim",
        "std_elems",
        lambda x: dy.std_elems(x),
        elements(lambda x: x.std(0)),
        CASES,
        extremes=[CONSTANT],
        errors=refusals("std_elems"),
    ),
    Row(
        "moment_dim",
        "moment_elems",
        lambda x, r: dy.moment_elems(x, r),
        lambda x, r: elements(lambda x: (x**r).mean(0))(x),
        [*more(CASES, r=2), *more(CASES, r=1), *more(CASES, r=3)],
        even(-1.5, 1.5),
        errors=[no_order(lambda: dy.moment_elems(dy.zeros(3), 0), "moment_elems")],
    ),
    Row(
        "std_dim_and_batch",
        "std_batches",
        lambda x: dy.std_batches(x),
        lambda x: x.std(-1, keepdims=True),
        CASES,
        per_element=False,
        errors=refusals("std_batches"),
    ),
    Row(
        "moment_dim_and_batch",
        "moment_batches",
        lambda x, r: dy.moment_batches(x, r),
        lambda x, r: (x**r).mean(-1, keepdims=True),
        [*more(CASES, r=2), *more(CASES, r=3)],
        even(-1.5, 1.5),
        per_element=False,
        errors=[no_order(lambda: dy.moment_batches(dy.zeros(3), 0), "moment_batches")],
    ),
]
