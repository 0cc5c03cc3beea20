"""Maxima and minima: of two, of many, along a dim; and their soft form, log sum exp."""

from functools import reduce

import numpy as np

import dist_dynet as dy

from .row import Row, aligned, case, extreme, refuses, tensor

inf, nan = np.inf, np.nan

TWO = [
    case(tensor(1), tensor(1)),
    case(tensor(5), tensor(5)),
    case(tensor(3, 4), tensor(3, 4)),
    case(tensor(3, 4, batch=3), tensor(3, 4, batch=3)),
    case(tensor(5, batch=3), tensor(5)),
    case(tensor(5), tensor(5, batch=3)),
    case(tensor(67), tensor(67)),
    case(tensor(3, 1), tensor(3)),
    case(tensor(2, 3, 2, batch=3), tensor(2, 3, 2)),
]
MANY = [
    *TWO,
    case(tensor(1)),
    case(tensor(5), tensor(5), tensor(5)),
    case(tensor(3, 4, batch=3), tensor(3, 4), tensor(3, 4, batch=3), tensor(3, 4)),
    case(*[tensor(2)] * 20),
]
ALONG = [
    case(tensor(1), d=0),
    case(tensor(5), d=0),
    case(tensor(67), d=0),
    case(tensor(67, batch=3), d=0),
    case(tensor(3, 4), d=0),
    case(tensor(3, 4), d=1),
    case(tensor(4, 3, batch=3), d=1),
    case(tensor(2, 3, 4), d=1),
    case(tensor(2, 3, 4, batch=3), d=2),
    case(tensor(40, 3, batch=2), d=0),
    case(tensor(3, 40, 2), d=1),
    case(tensor(1, 2, 1, 2, 1, 3, 1), d=5),
    case(tensor(3, 1), d=0),
]


def spaced(rng, inputs, **_):
    """Numbers of which no two are equal, nor near each other: ties are kinks."""
    sizes = [int(np.prod(i.shape)) for i in inputs]
    numbers = np.split(0.05 * rng.permutation(sum(sizes)) - sum(sizes) / 40, np.cumsum(sizes)[:-1])
    return [x.reshape(i.shape) for i, x in zip(inputs, numbers, strict=True)]


def folded(f):
    """f of two arrays, folded over all; the dims are those of the first."""

    def reference(*arrays):
        dims = arrays[0].shape[:-1]
        result = reduce(f, aligned(*arrays))
        return result.reshape(*dims, result.shape[-1])

    return reference


def along(f):
    """f along dim d, which goes; (1,) if none is left."""

    def reference(x, d):
        y = f(x, d)
        return y if y.ndim > 1 else y.reshape(1, -1)

    return reference


def logsumexp(x, d):
    top = x.max(axis=d, keepdims=True)
    return np.log(np.exp(x - top).sum(axis=d)) + top.squeeze(d)


def refusals_of_two(name):
    f = getattr(dy, name)
    return [
        refuses(
            lambda: f(dy.zeros(3), dy.zeros(4)),
            ValueError,
            rf"^{name}: all inputs must have the same dims; got x_0 = \(3,\), x_1 = \(4,\)",
        ),
        refuses(
            lambda: f(dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=3)),
            ValueError,
            f"^{name}: batch sizes must be equal or 1",
        ),
        refuses(lambda: f(dy.zeros(3), 1), TypeError, f"^{name}: takes expressions"),
    ]


def refusals_of_many(name):
    f = getattr(dy, name)
    return [
        refuses(
            lambda: f([dy.zeros(3), dy.zeros(4)]),
            ValueError,
            rf"^{name}: all inputs must have the same dims; got x_0 = \(3,\), x_1 = \(4,\)",
        ),
        refuses(
            lambda: f([dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=3)]),
            ValueError,
            f"^{name}: batch sizes must be equal or 1",
        ),
        refuses(lambda: f([]), AssertionError, f"List is empty, nothing to {name}"),
        refuses(lambda: f(dy.zeros(3)), TypeError, f"^{name}: takes a list of expressions"),
        refuses(lambda: f([dy.zeros(3), 1]), TypeError, f"^{name}: takes expressions; got int"),
    ]


def refusals_of_dim(name, *, empty=True):
    f = getattr(dy, name)
    refusals = [
        refuses(
            lambda: f(dy.zeros(3), 1), ValueError, rf"^{name}: dim 1 is not a dim of x = \(3,\)"
        ),
        refuses(lambda: f(dy.zeros(3), -1), ValueError, f"^{name}: dim -1 is not a dim"),
        refuses(lambda: f(3), TypeError, f"^{name}: takes expressions; got int"),
    ]
    if empty:
        refusals.append(
            refuses(
                lambda: f(dy.zeros((2, 3))[:, 1:1], 1),
                ValueError,
                rf"^{name}: dim 1 must not be empty; got x = \(2, 0\)",
            )
        )
    return refusals


def empty_sum(value, **_):
    assert value.shape == (1, 1)
    assert value[0, 0] == -inf


def two(name, of_numpy):
    """The row of bmax or bmin."""
    return Row(
        name,
        name,
        lambda x, y: getattr(dy, name)(x, y),
        folded(of_numpy),
        TWO,
        spaced,
        extremes=[
            extreme(
                "tie",
                [1, 0, -1000, inf],
                [1, -0.0, -1000, inf],
                value=[1, 0, -1000, inf],
                gradients=[[0] * 4, [1] * 4],
            ),
            extreme("nan", [nan, 1, nan], [1, nan, nan], value=[nan] * 3),
        ],
        errors=refusals_of_two(name),
    )


ROWS = [
    two("bmax", np.maximum),
    two("bmin", np.minimum),
    Row(
        "emax",
        "emax",
        lambda *xs: dy.emax(xs),
        folded(np.maximum),
        MANY,
        spaced,
        extremes=[
            extreme(
                "tie",
                [1, 2, 3],
                [1, 2, 4],
                [0, 2, 4],
                value=[1, 2, 4],
                gradients=[[1, 1, 0], [0, 0, 1], [0, 0, 0]],
            ),
            extreme("nan", [nan, 1, nan], [1, nan, nan], value=[nan] * 3),
        ],
        errors=refusals_of_many("emax"),
    ),
    Row(
        "logsumexp",
        "logsumexp",
        lambda *xs: dy.logsumexp(x for x in xs),
        folded(np.logaddexp),
        MANY,
        extremes=[
            extreme(
                "far apart",
                [1000, -1000, 0],
                [-1000, -1000, 0],
                value=[1000, -1000 + np.log(2), np.log(2)],
                gradients=[[1, 0.5, 0.5], [0, 0.5, 0.5]],
            ),
            extreme(
                "infinite", [-inf, -inf, inf, inf], [-inf, 2, 3, inf], value=[-inf, 2, inf, inf]
            ),
            extreme(
                "minus infinity",
                [-inf, -inf],
                [-inf, 2],
                value=[-inf, 2],
                gradients=[[0, 0], [0, 1]],
            ),
            extreme("nan", [nan, 1, nan], [1, nan, nan], value=[nan] * 3),
        ],
        errors=refusals_of_many("logsumexp"),
    ),
    Row(
        "logsumexp_dim",
        "logsumexp_dim",
        lambda x, d: dy.logsumexp_dim(x, d),
        along(logsumexp),
        ALONG,
        extremes=[
            extreme("far apart", [1000, -1000, 0], value=[1000], gradients=[[1, 0, 0]], d=0),
            extreme("minus infinity", [-inf, -inf], value=[-inf], gradients=[[0, 0]], d=0),
            extreme("infinite", [-inf, inf, 1], value=[inf], d=0),
            extreme("nan", [nan, 1], value=[nan], d=0),
        ],
        errors=refusals_of_dim("logsumexp_dim", empty=False),
    ),
    Row(
        "logsumexp_dim",
        "logsumexp_dim of nothing",
        lambda: dy.logsumexp_dim(dy.zeros(3)[1:1]),
        None,
        [case()],
        check=empty_sum,
        has_gradient=False,
    ),
    Row(
        "max_dim",
        "max_dim",
        lambda x, d: dy.max_dim(x, d),
        along(np.max),
        ALONG,
        spaced,
        extremes=[
            extreme("tie", [1, 3, 3, -1000], value=[3], gradients=[[0, 1, 0, 0]], d=0),
            extreme(
                "long tie",
                [1] * 20 + [3, -inf] * 10,
                value=[3],
                gradients=[[0] * 20 + [1] + [0] * 19],
                d=0,
            ),
            extreme(
                "all minus infinity", [-inf] * 20, value=[-inf], gradients=[[1] + [0] * 19], d=0
            ),
            extreme("nan", [1, nan, 3, nan], value=[nan], gradients=[[0, 1, 0, 0]], d=0),
            extreme(
                "long nan", [1, nan, 3, nan] * 5, value=[nan], gradients=[[0, 1] + [0] * 18], d=0
            ),
        ],
        errors=refusals_of_dim("max_dim"),
    ),
    Row(
        "min_dim",
        "min_dim",
        lambda x, d: dy.min_dim(x, d),
        along(np.min),
        ALONG,
        spaced,
        extremes=[
            extreme("tie", [1, -3, -3, 1000], value=[-3], gradients=[[0, 1, 0, 0]], d=0),
            extreme(
                "long tie",
                [1] * 20 + [-3, inf] * 10,
                value=[-3],
                gradients=[[0] * 20 + [1] + [0] * 19],
                d=0,
            ),
            extreme("all infinite", [inf] * 20, value=[inf], gradients=[[1] + [0] * 19], d=0),
            extreme("nan", [1, nan, 3, nan], value=[nan], gradients=[[0, 1, 0, 0]], d=0),
            extreme(
                "long nan", [1, nan, 3, nan] * 5, value=[nan], gradients=[[0, 1] + [0] * 18], d=0
            ),
        ],
        errors=refusals_of_dim("min_dim"),
    ),
]
