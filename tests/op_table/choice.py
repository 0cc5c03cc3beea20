"""Choices along a dim: values, and which they are."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, extreme, refuses, tensor

inf, nan = np.inf, np.nan

TOPK = [
    case(tensor(1), k=1, d=0),
    case(tensor(5), k=2, d=0),
    case(tensor(5), k=5, d=0),
    case(tensor(300), k=70, d=0),
    case(tensor(5, batch=3), k=3, d=0),
    case(tensor(3, 4), k=2, d=0),
    case(tensor(3, 4), k=2, d=1),
    case(tensor(2, 5, 3, batch=2), k=3, d=1),
]


def order(x, d):
    """Indices from the largest to the smallest; of equal ones the earlier first."""
    return np.argsort(-x, axis=d, kind="stable")


def largest(x, k, d):
    return np.take_along_axis(x, order(x, d).take(range(k), axis=d), axis=d)


def in_place(x, k, d):
    return np.take_along_axis(x, np.sort(order(x, d).take(range(k), axis=d), axis=d), axis=d)


def spread(rng, inputs, **_):
    """Numbers none of which are near one another."""
    return [0.05 * rng.permutation(np.prod(i.shape)).reshape(i.shape) for i in inputs]


def topk(x, k, d):
    """The values; that the indices are theirs is checked by the way."""
    y = dy.topk(x, k, d)
    indices, of_x = y.indices(), x.npvalue()
    np.testing.assert_array_equal(np.take_along_axis(of_x, indices, axis=d), y.npvalue())
    np.testing.assert_array_equal(indices, order(of_x, d).take(range(k), axis=d))
    return y


def drawn(x, n, d):
    y = dy.sample_categorical(x, n, d)
    np.testing.assert_array_equal(y.indices(), y.npvalue())
    return y


def follows(value, x, n, d):
    """Integers within the dim, as often as softmax(x) says; five standard deviations."""
    assert value.shape == (*x.shape[:d], n, *x.shape[d + 1 :])
    assert (value == np.round(value)).all()
    assert (value >= 0).all() and (value < x.shape[d]).all()
    p = np.exp(x - x.max(axis=d, keepdims=True))
    p /= p.sum(axis=d, keepdims=True)
    for i in range(x.shape[d] if n >= 1000 else 0):
        expected = p.take([i], axis=d)
        often = (value == i).mean(axis=d, keepdims=True)
        assert (abs(often - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + 1e-9).all()


ROWS = [
    Row(
        "topk",
        "topk",
        topk,
        largest,
        TOPK,
        sample=spread,
        errors=[
            refuses(
                lambda: dy.topk(dy.zeros(5), 6),
                ValueError,
                r"^topk: k must be from 1 to 5, the size of dim 0 of x = \(5,\); got k = 6",
            ),
            refuses(lambda: dy.topk(dy.zeros(5), 0), ValueError, "^topk: k must be from 1 to 5"),
            refuses(lambda: dy.topk(dy.zeros(5), -1), ValueError, "^topk: k must be from 1 to 5"),
            refuses(
                lambda: dy.topk(dy.zeros(5), 1, 1), ValueError, "^topk: dim 1 is not a dim of x"
            ),
            refuses(lambda: dy.topk(dy.zeros(5), 1.5), TypeError, "."),
            refuses(lambda: dy.topk(3, 1), TypeError, "^topk: takes expressions; got int"),
        ],
        extremes=[
            extreme("ties", [1, 2, 1, 2], value=[2, 2, 1], gradients=([1, 1, 0, 1],), k=3, d=0),
            extreme(
                "infinite", [-inf, 0, inf], value=[inf, 0, -inf], gradients=([1, 1, 1],), k=3, d=0
            ),
        ],
    ),
    Row(
        "topk",
        "topk of NaN",
        lambda x: dy.topk(x, 2),
        lambda x: largest(x, 2, 0),
        [case(tensor(2))],
        sample=spread,
        extremes=[extreme("NaN comes first", [1, nan, 2], value=[nan, 2], gradients=([0, 1, 1],))],
    ),
    Row(
        "kmax_pooling",
        "kmax_pooling",
        lambda x, k, d: dy.kmax_pooling(x, k, d),
        in_place,
        [
            case(tensor(1), k=1, d=0),
            case(tensor(5), k=2, d=0),
            case(tensor(40), k=13, d=0),
            case(tensor(3, 4), k=4, d=1),
            case(tensor(3, 7), k=3, d=1),
            case(tensor(7, 3, batch=3), k=2, d=0),
            case(tensor(3, 7, batch=2), k=5, d=1),
            case(tensor(2, 3, 5), k=2, d=2),
            case(tensor(2, 1, 2, 3, 2, 1, 4), k=2, d=6),
        ],
        sample=spread,
        extremes=[
            extreme(
                "ties", [1.0, 2, 2, 2, 0], value=[2.0, 2], gradients=([0, 1, 1, 0, 0],), k=2, d=0
            ),
            extreme(
                "nan", [1.0, np.nan, 3, 2], value=[np.nan, 3], gradients=([0, 1, 1, 0],), k=2, d=0
            ),
            extreme(
                "infinities",
                [-np.inf, np.inf, -np.inf, 0],
                value=[-np.inf, np.inf, 0],
                gradients=([1, 1, 0, 1],),
                k=3,
                d=0,
            ),
        ],
        errors=[
            refuses(
                lambda: dy.kmax_pooling(dy.zeros(5), 6, 0),
                ValueError,
                r"^kmax_pooling: k must be from 1 to 5, the size of dim 0 of x = \(5,\); got k = 6",
            ),
            refuses(
                lambda: dy.kmax_pooling(dy.zeros(5), 0, 0),
                ValueError,
                "^kmax_pooling: k must be from 1 to 5",
            ),
            refuses(
                lambda: dy.kmax_pooling(dy.zeros(5), 2),
                ValueError,
                r"^kmax_pooling: dim 1 is not a dim of x = \(5,\)",
            ),
            refuses(
                lambda: dy.kmax_pooling(3, 2),
                TypeError,
                "^kmax_pooling: takes expressions; got int",
            ),
        ],
    ),
    Row(
        "sample_categorical",
        "sample_categorical",
        drawn,
        None,
        [
            case(tensor(1), n=1, d=0),
            case(tensor(4), n=1, d=0),
            case(tensor(4), n=20_000, d=0),
            case(tensor(3, 2), n=5, d=1),
            case(tensor(3, 2, batch=2), n=10_000, d=0),
            case(tensor(2, 5, batch=2), n=10_000, d=1),
            case(tensor(3000), n=3, d=0),
        ],
        check=follows,
        has_gradient=False,
        per_element=False,
        errors=[
            refuses(
                lambda: dy.sample_categorical(dy.zeros(5), 0),
                ValueError,
                "^sample_categorical: the number of samples must be positive",
            ),
            refuses(
                lambda: dy.sample_categorical(dy.zeros(5), 1, 1),
                ValueError,
                "^sample_categorical: dim 1 is not a dim",
            ),
            refuses(
                lambda: dy.sample_categorical(3),
                TypeError,
                "^sample_categorical: takes expressions; got int",
            ),
        ],
        extremes=[
            extreme("one is certain", [-1000, 1000, 0], value=[1, 1, 1], n=3, d=0),
            extreme("one is possible", [-inf, -inf, 0], value=[2, 2, 2], n=3, d=0),
            extreme("NaN is never drawn", [nan, 0], value=[1, 1, 1], n=3, d=0),
        ],
    ),
]
