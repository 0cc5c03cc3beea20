"""The softmax family, and losses on one chosen entry."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, extreme, per_batch, ranges, refuses, tensor

inf, nan = np.inf, np.nan

ALONG = [
    case(tensor(1), d=0),
    case(tensor(5), d=0),
    case(tensor(67), d=0),
    case(tensor(5, batch=3), d=0),
    case(tensor(1, batch=3), d=0),
    case(tensor(3, 4), d=0),
    case(tensor(3, 4), d=1),
    case(tensor(3, 4, batch=3), d=1),
    case(tensor(2, 3, 4), d=1),
    case(tensor(2, 3, 4, batch=3), d=2),
    case(tensor(4, 40), d=1),
    case(tensor(37, 3), d=1),
    case(tensor(6, 3, 3, batch=2), d=2),
]
PICKED = [
    case(tensor(1), v=0),
    case(tensor(5), v=3),
    case(tensor(67), v=66),
    case(tensor(5, 1), v=0),
]
PICKED_BATCH = [
    case(tensor(1, batch=3), vs=[0, 0, 0]),
    case(tensor(5, batch=3), vs=[4, 0, 4]),
    case(tensor(5), vs=[1, 2, 2]),
    case(tensor(5), vs=[2]),
    case(tensor(40, batch=2), vs=[39, 0]),
]


def log_softmax(x, d):
    top = x.max(axis=d, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(axis=d, keepdims=True))


def softmax(x, d):
    e = np.exp(x - x.max(axis=d, keepdims=True))
    return e / e.sum(axis=d, keepdims=True)


def restricted(x, restrict, d=0):
    """restrict: one list of indices, or one for each batch element."""
    lists = restrict if np.ndim(restrict[0]) else [restrict]
    result = []
    for b in range(max(x.shape[-1], len(lists))):
        keep = np.isin(np.arange(x.shape[d]), lists[b % len(lists)])
        keep = keep.reshape([-1 if k == d else 1 for k in range(x.ndim - 1)])
        result.append(log_softmax(np.where(keep, x[..., b % x.shape[-1]], -inf), d))
    return np.stack(result, axis=-1)


def kept(x, restrict):
    """The entries that compete, so that there are no infinities to be multiplied by weights."""
    rows = restrict if np.ndim(restrict[0]) else [restrict] * x.dim()[1]
    return dy.concatenate([dy.pick_batch(x, [r[k] for r in rows]) for k in range(len(rows[0]))])


def kept_reference(y, restrict):
    rows = restrict if np.ndim(restrict[0]) else [restrict] * y.shape[-1]
    return np.array([[y[r[k], b] for b, r in enumerate(rows)] for k in range(len(rows[0]))])


def sparsemax(x, d):
    """By sorting: the greatest k with 1 + k x_(k) > sum of the k largest."""

    def line(v):
        u = np.sort(v)[::-1]
        sums, k = np.cumsum(u - u[0]), np.arange(1, len(u) + 1)
        most = k[1 + k * (u - u[0]) > sums].max()
        return np.maximum(0, v - u[0] - (sums[most - 1] - 1) / most)

    return np.apply_along_axis(line, d, x)


def not_at_kinks(rng, inputs, d):
    """Numbers whose sparsemax leaves none near 0: spread over a grid that the threshold, a mean of
    its points less 1 / k, seldom meets."""
    while True:
        x = rng.uniform(-1, 1, inputs[0].shape)
        y = sparsemax(x, d)
        moved = [
            sparsemax(x + step, d) > 0
            for step in 1e-3 * np.array([rng.uniform(-1, 1, x.shape) for _ in range(20)])
        ]
        if all((m == (y > 0)).all() for m in moved):
            return [x]


@per_batch
def constrained(x, u):
    """The scale s from the breakpoints u / e: below one of them this entry follows s e, above it is
    at its bound."""
    u = u.reshape(x.shape)
    if u.sum() <= 1:
        return u
    e = np.exp(x - x.max())
    order = np.argsort(u / e)
    for k in range(len(x)):
        bound, free = order[:k], order[k:]
        s = (1 - u[bound].sum()) / e[free].sum()
        if s <= (u / e)[order[k]]:
            return np.minimum(u, s * e)
    raise AssertionError


def picked(f):
    """f(vector, index) for each index, of the batch element it belongs to."""

    def reference(x, v=None, vs=None, **attributes):
        indices = [v] * x.shape[-1] if vs is None else vs
        return np.array(
            [
                [
                    f(x[..., i % x.shape[-1]].ravel(), index, **attributes)
                    for i, index in enumerate(indices)
                ]
            ]
        )

    return reference


def hinge(x, v, m=1.0):
    return np.maximum(0, m - x[v] + np.delete(x, v)).sum()


def hinge_lines(x, v, d=0, m=1.0):
    """The hinge of each line along d; v: indices in the order of the lines, for all batch elements
    or one list for each."""
    lists = v if np.ndim(v[0]) else [v] * x.shape[-1]
    result = []
    for b, indices in enumerate(lists):
        a = np.moveaxis(x[..., b], d, 0)
        losses = [
            hinge(line, i, m)
            for line, i in zip(a.reshape(a.shape[0], -1, order="F").T, indices, strict=True)
        ]
        result.append(np.reshape(losses, a.shape[1:] or (1,), order="F"))
    return np.stack(result, axis=-1)


def stepped(rng, inputs, **_):
    """Numbers near multiples of 0.3, so that no two differ by about 1 or 2.5, the margins: there
    hinge has its kinks."""
    return [0.3 * rng.integers(-4, 5, i.shape) + rng.uniform(-0.02, 0.02, i.shape) for i in inputs]


def bad_dims(name):
    return [
        refuses(
            lambda: getattr(dy, name)(dy.zeros(3), d=1),
            ValueError,
            rf"^{name}: dim 1 is not a dim of x = \(3,\)",
        ),
        refuses(
            lambda: getattr(dy, name)(dy.zeros(3), d=-1),
            ValueError,
            f"^{name}: dim -1 is not a dim",
        ),
        refuses(lambda: getattr(dy, name)(3), TypeError, f"^{name}: takes expressions; got int"),
    ]


def bad_indices(name, function, batch_function):
    return [
        refuses(
            lambda: function(dy.zeros(5), 7),
            ValueError,
            rf"^{name}: index 7 is outside x = \(5,\). Indices run from 0 to 4",
        ),
        refuses(lambda: function(dy.zeros(5), -1), ValueError, f"^{name}: index -1 is outside"),
        refuses(
            lambda: function(dy.zeros((2, 3)), 0),
            ValueError,
            rf"^{name}: x must be a vector; got x = \(2, 3\)",
        ),
        refuses(
            lambda: function(dy.zeros(5, batch_size=2), 0),
            ValueError,
            f"^{name}: takes one index per batch element; got 1 indices",
        ),
        refuses(lambda: function(3, 0), TypeError, f"^{name}: takes expressions; got int"),
        refuses(lambda: function(dy.zeros(5), "a"), TypeError, "."),
        refuses(
            lambda: batch_function(dy.zeros(5, batch_size=2), [0, 1, 2]),
            ValueError,
            rf"^{name}_batch: takes one index per batch element; got 3 indices, x = \(5,\) x 2",
        ),
        refuses(
            lambda: batch_function(dy.zeros(5, batch_size=2), [0, 5]),
            ValueError,
            f"^{name}_batch: index 5 is outside",
        ),
        refuses(lambda: batch_function(dy.zeros(5), [0.5]), TypeError, "indices must be integers"),
    ]


ROWS = [
    Row(
        "softmax",
        "softmax",
        lambda x, d: dy.softmax(x, d),
        softmax,
        ALONG,
        errors=bad_dims("softmax"),
        extremes=[
            extreme("ties", [1000, 1000], value=[0.5, 0.5], gradients=([0, 0],), d=0),
            extreme("far apart", [1000, -1000], value=[1, 0], gradients=([0, 0],), d=0),
            extreme("masked", [0, -inf, 0], value=[0.5, 0, 0.5], gradients=([0, 0, 0],), d=0),
        ],
    ),
    Row(
        "softmax",
        "softmax along dim 0",
        lambda x: dy.softmax(x),
        lambda x: softmax(x, 0),
        [case(tensor(1)), case(tensor(3, 4, batch=3))],
    ),
    Row(
        "log_softmax",
        "log_softmax",
        lambda x, d: dy.log_softmax(x, d=d),
        log_softmax,
        ALONG,
        errors=bad_dims("log_softmax"),
        extremes=[
            extreme("ties", [1000, 1000], value=[-np.log(2), -np.log(2)], gradients=([0, 0],), d=0),
            extreme("far apart", [1000, -1000], value=[0, -2000], gradients=([-1, 1],), d=0),
            extreme("masked", [0, -inf], value=[0, -inf], d=0),
        ],
    ),
    Row(
        "pickneglogsoftmax",
        "pickneglogsoftmax",
        lambda x, v: dy.pickneglogsoftmax(x, v),
        picked(lambda x, v: -log_softmax(x, 0)[v]),
        PICKED,
        errors=bad_indices(
            "pickneglogsoftmax",
            lambda x, v: dy.pickneglogsoftmax(x, v),
            lambda x, vs: dy.pickneglogsoftmax_batch(x, vs),
        ),
        extremes=[
            extreme("ties", [1000, 1000], value=[np.log(2)], gradients=([-0.5, 0.5],), v=0),
            extreme("right", [1000, -1000], value=[0], gradients=([0, 0],), v=0),
            extreme("wrong", [1000, -1000], value=[2000], gradients=([1, -1],), v=1),
            extreme("masked", [0, -inf], value=[0], gradients=([0, 0],), v=0),
            extreme("the masked one", [0, -inf], value=[inf], v=1),
        ],
    ),
    Row(
        "pickneglogsoftmax",
        "pickneglogsoftmax_batch",
        lambda x, vs: dy.pickneglogsoftmax_batch(x, vs),
        picked(lambda x, v: -log_softmax(x, 0)[v]),
        PICKED_BATCH,
        batched_attributes=("vs",),
    ),
    Row(
        "hinge",
        "hinge",
        lambda x, v, m: dy.hinge(x, v, m),
        picked(hinge),
        [case(*c.inputs, **c.attributes, m=m) for c in PICKED for m in (1.0, 2.5)],
        sample=stepped,
        errors=[
            *bad_indices("hinge", lambda x, v: dy.hinge(x, v), lambda x, vs: dy.hinge_batch(x, vs)),
            refuses(
                lambda: dy.hinge(dy.zeros(5), 0, -1),
                ValueError,
                "^hinge: the margin must not be negative; got m = -1",
            ),
            refuses(
                lambda: dy.hinge(dy.zeros(5), 0, float("nan")),
                ValueError,
                "^hinge: the margin must not be negative",
            ),
        ],
        extremes=[
            extreme("right", [1000, -1000, 0], value=[0], gradients=([0, 0, 0],), v=0, m=1.0),
            extreme("wrong", [-1000, 1000], value=[2001], gradients=([-1, 1],), v=0, m=1.0),
            extreme("ties", [1, 1, 1], value=[2], gradients=([1, -2, 1],), v=1, m=1.0),
            extreme("nan", [nan, 1, 2], value=[nan], v=1, m=1.0),
            extreme("no margin", [1, 1], value=[0], gradients=([0, 0],), v=1, m=0.0),
        ],
    ),
    Row(
        "hinge",
        "hinge_batch",
        lambda x, vs: dy.hinge_batch(x, vs),
        picked(hinge),
        PICKED_BATCH,
        sample=stepped,
        batched_attributes=("vs",),
    ),
    Row(
        "restricted_log_softmax",
        "log_softmax with restrict",
        lambda x, restrict: kept(dy.log_softmax(x, restrict), restrict),
        lambda x, restrict: kept_reference(restricted(x, restrict), restrict),
        [
            case(tensor(1), restrict=[0]),
            case(tensor(5), restrict=[3, 0]),
            case(tensor(5, batch=3), restrict=[1, 2, 4]),
            case(tensor(67), restrict=[66, 0, 1]),
            case(tensor(4, batch=2), restrict=[2, 0, 2]),
        ],
        extremes=[
            extreme(
                "whatever does not compete",
                [nan, 0, inf, 0],
                value=[-np.log(2), -np.log(2)],
                restrict=[1, 3],
            ),
            extreme(
                "far apart",
                [1000, 0, -1000],
                value=[0, -2000],
                gradients=([-1, 0, 1],),
                restrict=[0, 2],
            ),
            extreme(
                "nothing is left",
                [-inf, 5, -inf],
                value=[-inf, -inf],
                gradients=([0, 0, 0],),
                restrict=[0, 2],
            ),
        ],
        errors=[
            refuses(
                lambda: dy.log_softmax(dy.zeros(5), []),
                ValueError,
                "^log_softmax: restrict must name at least one entry",
            ),
            refuses(
                lambda: dy.log_softmax(dy.zeros(5), [[1], []]),
                ValueError,
                "^log_softmax: restrict must name at least one entry",
            ),
            refuses(
                lambda: dy.log_softmax(dy.zeros(5), [1, 5]),
                ValueError,
                r"^log_softmax: index 5 of restrict is outside dim 0 of x = \(5,\). Indices run"
                r" from 0 to 4",
            ),
            refuses(
                lambda: dy.log_softmax(dy.zeros(5), [-1]),
                ValueError,
                "^log_softmax: index -1 of restrict is outside",
            ),
            refuses(
                lambda: dy.log_softmax(dy.zeros(5), [0.5]),
                TypeError,
                "^log_softmax: indices must be integers",
            ),
            refuses(
                lambda: dy.log_softmax(dy.zeros(5), [1], d=1),
                ValueError,
                "^log_softmax: dim 1 is not a dim",
            ),
            refuses(
                lambda: dy.log_softmax(3, [1]),
                TypeError,
                "^log_softmax: takes expressions; got int",
            ),
            refuses(
                lambda: dy.log_softmax(dy.zeros(5, batch_size=3), [[1], [2]]),
                ValueError,
                "batch sizes must be equal or 1",
            ),
        ],
    ),
    Row(
        "masked_log_softmax",
        "log_softmax with a restrict of each",
        lambda x, restrict: kept(dy.log_softmax(x, restrict), restrict),
        lambda x, restrict: kept_reference(restricted(x, restrict), restrict),
        [
            case(tensor(3, batch=2), restrict=[[0, 1], [2, 1]]),
            case(tensor(5), restrict=[[0, 1], [2, 4], [3, 4]]),
        ],
        batched_attributes=("restrict",),
    ),
    Row(
        "masked_log_softmax",
        "log_softmax with restrict, all entries",
        lambda x, restrict, d: dy.log_softmax(x, restrict, d),
        restricted,
        [
            case(tensor(2, 2), restrict=[0], d=1),
            case(tensor(5, 3, batch=2), restrict=[2, 4], d=0),
            case(tensor(2, 3, 4), restrict=(1, 1), d=1),
        ],
        has_gradient=False,
    ),
    Row(
        "sparsemax",
        "sparsemax",
        lambda x, d: dy.sparsemax(x, d),
        sparsemax,
        ALONG,
        sample=not_at_kinks,
        errors=bad_dims("sparsemax"),
        extremes=[
            extreme("ties", [1000, 1000], value=[0.5, 0.5], gradients=([0, 0],), d=0),
            extreme("far apart", [1000, -1000], value=[1, 0], gradients=([0, 0],), d=0),
            extreme("masked", [0, -inf, 0], value=[0.5, 0, 0.5], gradients=([0, 0, 0],), d=0),
            extreme("NaN", [0, nan], value=[nan, nan], d=0),
            extreme(
                "none falls",
                [0.1, 0, -0.1],
                value=[1 / 3 + 0.1, 1 / 3, 1 / 3 - 0.1],
                gradients=([0, 0, 0],),
                d=0,
            ),
        ],
    ),
    Row(
        "sparsemax",
        "sparsemax of a vector",
        lambda x: dy.sparsemax(x),
        lambda x: sparsemax(x, 0),
        [case(tensor(1)), case(tensor(3, 1)), case(tensor(4, batch=2))],
        errors=[
            refuses(
                lambda shape=shape: dy.sparsemax(dy.inputTensor(np.ones(shape))),
                ValueError,
                r"^sparsemax: x must be a vector where d is not given; got x = \(.*\)\. Name the"
                r" dim: sparsemax\(x, 0\)\.$",
            )
            for shape in [(2, 3), (1, 2), (2, 1, 2)]
        ],
    ),
    Row(
        "constrained_softmax",
        "constrained_softmax",
        lambda x, u: dy.constrained_softmax(x, u),
        constrained,
        [
            case(tensor(1), tensor(1)),
            case(tensor(5), tensor(5)),
            case(tensor(6), tensor(6, 1)),
            case(tensor(40), tensor(40)),
            case(tensor(5, batch=3), tensor(5, batch=3)),
            case(tensor(5, batch=3), tensor(5)),
            case(tensor(5), tensor(5, batch=3)),
        ],
        sample=ranges((-1, 1), (0.15, 0.5)),
        errors=[
            refuses(
                lambda: dy.constrained_softmax(dy.zeros(3), dy.zeros(4)),
                ValueError,
                r"^constrained_softmax: x and the bounds must be vectors of the same size; got x ="
                r" \(3,\), bounds = \(4,\)",
            ),
            refuses(
                lambda: dy.constrained_softmax(dy.zeros((3, 2)), dy.zeros((3, 2))),
                ValueError,
                "^constrained_softmax: x and the bounds",
            ),
            refuses(
                lambda: dy.constrained_softmax(dy.zeros(3), 1),
                TypeError,
                "^constrained_softmax: takes expressions; got .*int",
            ),
        ],
        extremes=[
            extreme("loose", [1000, 1000], [1, 1], value=[0.5, 0.5], gradients=([0, 0], [0, 0])),
            extreme(
                "one bound",
                [0, 0, 1000],
                [1, 1, 0.5],
                value=[0.25, 0.25, 0.5],
                gradients=([0, 0, 0], [0, 0, 0]),
            ),
            extreme(
                "one after another",
                [0, 1, 3, 9],
                [1, 0.2, 0.3, 0.4],
                value=[0.1, 0.2, 0.3, 0.4],
                gradients=([0] * 4, [0] * 4),
            ),
            extreme(
                "far apart",
                [-1000, 1000],
                [1, 0.25],
                value=[0.75, 0.25],
                gradients=([0, 0], [0, 0]),
            ),
            extreme(
                "bounds too low", [0, 0], [0.25, 0.5], value=[0.25, 0.5], gradients=([0, 0], [1, 1])
            ),
            extreme("NaN", [nan, 0], [1, 1], value=[nan, nan]),
        ],
    ),
    Row(
        "hinge_dim",
        "hinge_dim",
        lambda x, v, d, m: dy.hinge_dim(x, v, d, m),
        hinge_lines,
        [
            case(tensor(1), v=[0], d=0, m=1.0),
            case(tensor(5), v=[3], d=0, m=1.0),
            case(tensor(5, 3), v=[3, 0, 4], d=0, m=2.5),
            case(tensor(5, 3), v=[2, 0, 1, 1, 2], d=1, m=1.0),
            case(tensor(5, 3, batch=2), v=[3, 0, 4], d=0, m=1.0),
            case(tensor(2, 4, 3), v=[3, 0, 1, 1, 2, 2], d=1, m=1.0),
        ],
        sample=stepped,
        errors=[
            refuses(
                lambda: dy.hinge_dim(dy.zeros((5, 3)), [0, 1]),
                ValueError,
                r"^hinge_dim: takes 3 indices, one per line along dim 0 of x = \(5, 3\), once or"
                r" for each batch element; got 2",
            ),
            refuses(
                lambda: dy.hinge_dim(dy.zeros((5, 3)), [0, 1, 5]),
                ValueError,
                r"^hinge_dim: index 5 is outside dim 0 of x = \(5, 3\). Indices run from 0 to 4",
            ),
            refuses(
                lambda: dy.hinge_dim(dy.zeros((5, 3)), [0, 1, 2, 0, 3], 1),
                ValueError,
                "^hinge_dim: index 3 is outside dim 1",
            ),
            refuses(
                lambda: dy.hinge_dim(dy.zeros((5, 3)), [0, -1, 0]),
                ValueError,
                "^hinge_dim: index -1 is outside",
            ),
            refuses(
                lambda: dy.hinge_dim(dy.zeros((5, 3)), [0, 1, 2], 0, -1),
                ValueError,
                "^hinge_dim: the margin must not be negative",
            ),
            refuses(
                lambda: dy.hinge_dim(dy.zeros((5, 3)), [0, 1, 2], 2),
                ValueError,
                "^hinge_dim: dim 2 is not a dim of x",
            ),
            refuses(
                lambda: dy.hinge_dim(3, [0]), TypeError, "^hinge_dim: takes expressions; got int"
            ),
        ],
        extremes=[
            extreme("wrong", [-1000, 1000], value=[2001], gradients=([-1, 1],), v=[0], d=0, m=1.0)
        ],
    ),
    Row(
        "hinge_dim",
        "hinge_dim with indices of each",
        lambda x, v: dy.hinge_dim(x, v),
        hinge_lines,
        [
            case(tensor(2, batch=3), v=[[0], [1], [0]]),
            case(tensor(5, 3, batch=2), v=[[3, 0, 4], [1, 1, 2]]),
        ],
        sample=stepped,
        batched_attributes=("v",),
    ),
]
