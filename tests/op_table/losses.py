"""Losses and distances: one number for each batch element."""

import math

import numpy as np

import dist_dynet as dy

from .row import Row, case, extreme, per_batch, ranges, refuses, tensor

inf, nan = np.inf, np.nan

CASES = [
    case(tensor(1), tensor(1)),
    case(tensor(5), tensor(5)),
    case(tensor(67), tensor(67)),
    case(tensor(3, 4), tensor(3, 4)),
    case(tensor(5), tensor(5, 1)),
    case(tensor(2, 3, 2), tensor(2, 3, 2)),
    case(tensor(5, batch=3), tensor(5, batch=3)),
    case(tensor(5, batch=3), tensor(5)),
    case(tensor(5), tensor(5, batch=3)),
    case(tensor(3, 4, batch=3), tensor(3, 4)),
    case(tensor(1, batch=3), tensor(1)),
]


def pair(f):
    """f(x, y) of two flat arrays -> a number, for each batch element."""
    return per_batch(lambda x, y: np.array([f(x.ravel("F"), y.ravel("F"))]))


LEAST, EPSILON = (float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "eps"))
WORST = -np.log(LEAST)
"""What DyNet has a wrong prediction of exactly 0 or 1 cost."""


def log_loss(x, t):
    def term(p, q):
        return np.where(p == 0, 0, p * np.log(q))

    return -np.sum(term(t, x) + term(1 - t, 1 - x))


def huber(x, y, c=1.345):
    a = np.abs(x - y)
    return np.sum(np.where(a < c, a * a / 2, c * a - c * c / 2))


def apart(rng, inputs, **_):
    """Differences x - y that keep away from 0, 1, and what else is a kink in this module."""
    x, y = (np.round(rng.uniform(-2, 2, i.shape), 1) for i in inputs)
    return [x + rng.uniform(0.02, 0.03, x.shape), y]


def poisson(x, ks):
    rates, ks = np.broadcast_to(x.ravel(), len(ks)), np.array(ks)
    return (np.exp(rates) + [math.lgamma(k + 1) for k in ks] - np.where(ks == 0, 0, ks * rates))[
        None
    ]


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def smoothed(x, vs, e):
    """(1 - e) of the cross entropy with each class v, and e of the mean over all classes."""
    result = []
    for i, v in enumerate(vs):
        y = -log_softmax(x[..., i % x.shape[-1]].ravel())
        result.append(((1 - e) * y[v] if e < 1 else 0) + (e * y.mean() if e else 0))
    return np.array([result])


@per_batch
def soft(x, t):
    y = -log_softmax(x)
    t = t.reshape(x.shape)
    return np.array([np.sum(np.where(t == 0, 0, t * y))])


def row(name, f, **keywords):
    def call(x, y):
        return getattr(dy, name)(x, y)

    return Row(
        name,
        name,
        call,
        pair(f),
        CASES,
        errors=[
            refuses(
                lambda: call(dy.zeros(3), dy.zeros(4)),
                ValueError,
                rf"^{name}: x and y must have the same dims; got x = \(3,\), y = \(4,\)",
            ),
            refuses(
                lambda: call(dy.zeros(3), dy.zeros(1)),
                ValueError,
                rf"^{name}: x and y must have the same dims",
            ),
            refuses(
                lambda: call(dy.zeros((2, 3)), dy.zeros((3, 2))),
                ValueError,
                rf"^{name}: x and y must have the same dims; got x = \(2, 3\), y = \(3, 2\)",
            ),
            refuses(
                lambda: call(dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=3)),
                ValueError,
                f"^{name}: batch sizes must be equal or 1; got 2 and 3",
            ),
            refuses(
                lambda: call(dy.zeros(3), 0.5),
                TypeError,
                f"^{name}: takes expressions; got .*float",
            ),
        ],
        **keywords,
    )


ROWS = [
    row(
        "squared_distance",
        lambda x, y: np.sum((x - y) ** 2),
        extremes=[
            extreme("equal", [1000, -1000], [1000, -1000], value=[0], gradients=([0, 0], [0, 0])),
            extreme(
                "far",
                [1000, -1000],
                [-1000, 1000],
                value=[8e6],
                gradients=([4000, -4000], [-4000, 4000]),
            ),
        ],
    ),
    row(
        "dot_product",
        np.dot,
        extremes=[
            extreme(
                "large",
                [1000, -1000],
                [1000, -1000],
                value=[2e6],
                gradients=([1000, -1000], [1000, -1000]),
            )
        ],
    ),
    row(
        "binary_log_loss",
        log_loss,
        sample=ranges((0.1, 0.9)),
        extremes=[
            extreme("right", [0, 1], [0, 1], value=[0], gradients=([0, 0], [WORST, -WORST])),
            extreme("wrong", [0], [1], value=[WORST], gradients=([-1 / LEAST], [WORST])),
            extreme(
                "wrong the other way", [1], [0], value=[WORST], gradients=([1 / EPSILON], [-WORST])
            ),
            extreme(
                "wrong of soft targets",
                [0, 1],
                [0.5, 0.5],
                value=[2 * WORST],
                gradients=([-0.5 / LEAST, 0.5 / EPSILON - 0.5 / (1 - EPSILON)], None),
            ),
            extreme("confident", [1e-9], [0], value=[1e-9], gradients=([1 / (1 - 1e-9)], None)),
            extreme("even", [0.5], [0.5], value=[np.log(2)], gradients=([0], [0])),
            extreme("outside of its domain", [2], [1], value=[-np.log(2)]),
            extreme(
                "tiny prediction", [1e-30], [1], value=[30 * np.log(10)], gradients=([-1e30], None)
            ),
        ],
    ),
    row(
        "l1_distance",
        lambda x, y: np.sum(np.abs(x - y)),
        sample=apart,
        extremes=[
            extreme("equal", [1000, -1000], [1000, -1000], value=[0], gradients=([0, 0], [0, 0])),
            extreme(
                "far", [1000, -1000], [-1000, 1000], value=[4000], gradients=([1, -1], [-1, 1])
            ),
            extreme("NaN", [nan, 1], [0, 0], value=[nan]),
        ],
    ),
    row(
        "huber_distance",
        huber,
        sample=apart,
        extremes=[
            extreme("equal", [1000, -1000], [1000, -1000], value=[0], gradients=([0, 0], [0, 0])),
            extreme(
                "far",
                [1000],
                [-1000],
                value=[1.345 * 2000 - 1.345**2 / 2],
                gradients=([1.345], [-1.345]),
            ),
            extreme("NaN", [nan, 1], [0, 0], value=[nan]),
        ],
    ),
    Row(
        "huber_distance",
        "huber_distance with c",
        lambda x, y, c: dy.huber_distance(x, y, c),
        per_batch(lambda x, y, c: np.array([huber(x.ravel("F"), y.ravel("F"), c)])),
        [case(*k.inputs, c=0.5) for k in CASES] + [case(tensor(3), tensor(3), c=0)],
        sample=apart,
        errors=[
            refuses(
                lambda: dy.huber_distance(dy.zeros(3), dy.zeros(3), -1),
                ValueError,
                "^huber_distance: c must not be negative; got c = -1",
            ),
            refuses(
                lambda: dy.huber_distance(dy.zeros(3), dy.zeros(3), nan),
                ValueError,
                "^huber_distance: c must not be negative",
            ),
        ],
    ),
    Row(
        "pairwise_rank_loss",
        "pairwise_rank_loss",
        lambda x, y, m: dy.pairwise_rank_loss(x, y, m),
        per_batch(lambda x, y, m: np.maximum(0, m - x + y.reshape(x.shape))),
        [case(*k.inputs, m=m) for k in CASES for m in (1.0, 0.25)],
        sample=apart,
        errors=[
            refuses(
                lambda: dy.pairwise_rank_loss(dy.zeros(3), dy.zeros(4)),
                ValueError,
                r"^pairwise_rank_loss: x and y must have the same dims; got x = \(3,\), y = \(4,\)",
            ),
            refuses(
                lambda: dy.pairwise_rank_loss(dy.zeros(3), 0.5),
                TypeError,
                "^pairwise_rank_loss: takes expressions; got float",
            ),
        ],
        extremes=[
            extreme(
                "right and wrong",
                [1000, -1000],
                [-1000, 1000],
                value=[0, 2001],
                gradients=([0, -1], [0, 1]),
                m=1.0,
            ),
            extreme("NaN", [nan], [0], value=[nan], m=1.0),
        ],
    ),
    Row(
        "pairwise_rank_loss",
        "pairwise_rank_loss by default",
        lambda x, y: dy.pairwise_rank_loss(x, y),
        lambda x, y: np.maximum(0, 1 - x + y),
        CASES[:2],
        sample=apart,
    ),
    Row(
        "poisson_loss",
        "poisson_loss",
        lambda x, k: dy.poisson_loss(x, k),
        lambda x, k: poisson(x, [k]),
        [case(tensor(1), k=k) for k in (0, 1, 2, 170)] + [case(tensor(1, 1), k=3)],
        errors=[
            refuses(
                lambda: dy.poisson_loss(dy.zeros(1), -1),
                ValueError,
                "^poisson_loss: counts must not be negative; got -1",
            ),
            refuses(
                lambda: dy.poisson_loss(dy.zeros(2), 1),
                ValueError,
                "^poisson_loss: the logarithm of the rate must be one number",
            ),
            refuses(
                lambda: dy.poisson_loss(dy.zeros(1, batch_size=2), 1),
                ValueError,
                "^poisson_loss: takes one count per batch element; got 1",
            ),
            refuses(
                lambda: dy.poisson_loss(dy.zeros(1), 0.5),
                TypeError,
                "^poisson_loss: indices must be integers",
            ),
            refuses(
                lambda: dy.poisson_loss(3, 1),
                TypeError,
                "^poisson_loss: takes expressions; got int",
            ),
        ],
        extremes=[
            extreme("rate 0", [-inf], value=[0], gradients=([0],), k=0),
            extreme("never", [-inf], value=[inf], k=1),
        ],
    ),
    Row(
        "poisson_loss",
        "poisson_loss of a batch",
        lambda x, ks: dy.poisson_loss(x, ks),
        lambda x, ks: poisson(x, ks),
        [case(tensor(1), ks=[3, 0]), case(tensor(1, batch=3), ks=[4, 0, 2])],
        batched_attributes=("ks",),
    ),
    Row(
        "cross_entropy",
        "cross_entropy",
        lambda x, v, e: dy.cross_entropy(x, v, label_smoothing=e),
        lambda x, v, e: smoothed(x, [v] * x.shape[-1], e),
        [case(tensor(n), v=v, e=e) for n, v in ((1, 0), (5, 3), (67, 66)) for e in (0.0, 0.1, 1.0)]
        + [case(tensor(5, 1), v=0, e=0.25)],
        errors=[
            refuses(
                lambda: dy.cross_entropy(dy.zeros(5), 5),
                ValueError,
                r"^cross_entropy: class 5 is outside x = \(5,\). Classes run from 0 to 4",
            ),
            refuses(
                lambda: dy.cross_entropy(dy.zeros(5), -1),
                ValueError,
                "^cross_entropy: class -1 is outside",
            ),
            refuses(
                lambda: dy.cross_entropy(dy.zeros((2, 3)), 0),
                ValueError,
                r"^cross_entropy: x must be a vector; got x = \(2, 3\)",
            ),
            refuses(
                lambda: dy.cross_entropy(dy.zeros(5, batch_size=2), 0),
                ValueError,
                "^cross_entropy: takes one class per batch element",
            ),
            refuses(
                lambda: dy.cross_entropy(dy.zeros(5), 0, 1.5),
                ValueError,
                r"^cross_entropy: label_smoothing must lie in \[0, 1\]; got 1.5",
            ),
            refuses(
                lambda: dy.cross_entropy(dy.zeros(5), 0, nan),
                ValueError,
                "^cross_entropy: label_smoothing must lie in",
            ),
            refuses(
                lambda: dy.cross_entropy(dy.zeros(5), 0.5),
                TypeError,
                "^cross_entropy: indices must be integers",
            ),
            refuses(
                lambda: dy.cross_entropy(3, 0),
                TypeError,
                "^cross_entropy: takes expressions; got int",
            ),
        ],
        extremes=[
            extreme("ties", [1000, 1000], value=[np.log(2)], gradients=([-0.4, 0.4],), v=0, e=0.2),
            extreme("wrong", [1000, -1000], value=[1800], gradients=([0.9, -0.9],), v=1, e=0.2),
            extreme("masked", [0, -inf], value=[0], gradients=([0, 0],), v=0, e=0.0),
            extreme("masked and smoothed", [0, -inf], value=[inf], v=0, e=0.1),
        ],
    ),
    Row(
        "cross_entropy",
        "cross_entropy of a batch",
        lambda x, vs, e=0.0: dy.cross_entropy(x, vs, e),
        lambda x, vs, e=0.0: smoothed(x, vs, e),
        [
            case(tensor(1, batch=3), vs=[0, 0, 0]),
            case(tensor(5, batch=3), vs=[4, 0, 4], e=0.1),
            case(tensor(5), vs=[1, 2, 2], e=0.1),
            case(tensor(5), vs=[1, 2, 2]),
            case(tensor(40, batch=2), vs=[39, 0], e=0.3),
        ],
        batched_attributes=("vs",),
    ),
    Row(
        "cross_entropy_soft",
        "cross_entropy_soft",
        lambda x, t: dy.cross_entropy_soft(x, t),
        soft,
        [c for c in CASES if len(c.inputs[0].dims) == 1],
        errors=[
            refuses(
                lambda: dy.cross_entropy_soft(dy.zeros(3), dy.zeros(4)),
                ValueError,
                r"^cross_entropy_soft: x and the target distribution must be vectors of the same"
                r" size; got x = \(3,\), target = \(4,\)",
            ),
            refuses(
                lambda: dy.cross_entropy_soft(dy.zeros((3, 2)), dy.zeros((3, 2))),
                ValueError,
                "^cross_entropy_soft: x and the target",
            ),
            refuses(
                lambda: dy.cross_entropy_soft(3, [1]),
                TypeError,
                "^cross_entropy_soft: takes expressions; got int",
            ),
        ],
        extremes=[
            extreme(
                "ties",
                [1000, 1000],
                [0.25, 0.75],
                value=[np.log(2)],
                gradients=([0.25, -0.25], [np.log(2), np.log(2)]),
            ),
            extreme("masked", [0, -inf], [1, 0], value=[0], gradients=([0, 0], None)),
        ],
        undefined_gradient="the target's, where x is -inf, is infinite",
    ),
    Row(
        "cross_entropy_soft",
        "cross_entropy_soft with numbers",
        lambda x, t: dy.cross_entropy_soft(x, t),
        lambda x, t: soft(x, np.array(t).reshape(x.shape[0], -1)),
        [
            case(tensor(2), t=[0.25, 0.75]),
            case(tensor(2, batch=3), t=(0.25, 0.75)),
            case(tensor(2, batch=3), t=[[0.5, 0, 1], [0.5, 1, 0]]),
        ],
        per_element=False,
    ),
]
