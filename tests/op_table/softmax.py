"""The softmax family, and losses on one chosen entry."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, extreme, refuses, tensor

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
]
PICKED = [case(tensor(1), v=0), case(tensor(5), v=3), case(tensor(67), v=66), case(tensor(5, 1), v=0)]
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


def picked(f):
    """f(vector, index) for each index, of the batch element it belongs to."""

    def reference(x, v=None, vs=None, **attributes):
        indices = [v] * x.shape[-1] if vs is None else vs
        return np.array([[f(x[..., i % x.shape[-1]].ravel(), index, **attributes) for i, index in enumerate(indices)]])

    return reference


def hinge(x, v, m=1.0):
    return np.maximum(0, m - x[v] + np.delete(x, v)).sum()


def stepped(rng, inputs, **_):
    """Numbers near multiples of 0.3, so that no two differ by about 1 or 2.5, the margins: there hinge has its kinks."""
    return [0.3 * rng.integers(-4, 5, i.shape) + rng.uniform(-0.02, 0.02, i.shape) for i in inputs]


def bad_dims(name):
    return [
        refuses(lambda: getattr(dy, name)(dy.zeros(3), 1), ValueError, rf"^{name}: dim 1 is not a dim of x = \(3,\)"),
        refuses(lambda: getattr(dy, name)(dy.zeros(3), -1), ValueError, f"^{name}: dim -1 is not a dim"),
        refuses(lambda: getattr(dy, name)(3), TypeError, f"^{name}: takes expressions; got int"),
    ]


def bad_indices(name, function, batch_function):
    return [
        refuses(lambda: function(dy.zeros(5), 7), ValueError, rf"^{name}: index 7 is outside x = \(5,\). Indices run from 0 to 4"),
        refuses(lambda: function(dy.zeros(5), -1), ValueError, f"^{name}: index -1 is outside"),
        refuses(lambda: function(dy.zeros((2, 3)), 0), ValueError, rf"^{name}: x must be a vector; got x = \(2, 3\)"),
        refuses(lambda: function(dy.zeros(5, batch_size=2), 0), ValueError, f"^{name}: takes one index per batch element; got 1 indices"),
        refuses(lambda: function(3, 0), TypeError, f"^{name}: takes expressions; got int"),
        refuses(lambda: function(dy.zeros(5), "a"), TypeError, "."),
        refuses(
            lambda: batch_function(dy.zeros(5, batch_size=2), [0, 1, 2]),
            ValueError,
            rf"^{name}: takes one index per batch element; got 3 indices, x = \(5,\) x 2",
        ),
        refuses(lambda: batch_function(dy.zeros(5, batch_size=2), [0, 5]), ValueError, f"^{name}: index 5 is outside"),
        refuses(lambda: batch_function(dy.zeros(5), [0.5]), TypeError, "indices must be whole numbers"),
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
    Row("softmax", "softmax along dim 0", lambda x: dy.softmax(x), lambda x: softmax(x, 0), [case(tensor(1)), case(tensor(3, 4, batch=3))]),
    Row(
        "log_softmax",
        "log_softmax",
        lambda x, d: dy.log_softmax(x, d),
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
        errors=bad_indices("pickneglogsoftmax", lambda x, v: dy.pickneglogsoftmax(x, v), lambda x, vs: dy.pickneglogsoftmax_batch(x, vs)),
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
            refuses(lambda: dy.hinge(dy.zeros(5), 0, -1), ValueError, "^hinge: the margin must not be negative; got m = -1"),
            refuses(lambda: dy.hinge(dy.zeros(5), 0, float("nan")), ValueError, "^hinge: the margin must not be negative"),
        ],
        extremes=[
            extreme("right", [1000, -1000, 0], value=[0], gradients=([0, 0, 0],), v=0, m=1.0),
            extreme("wrong", [-1000, 1000], value=[2001], gradients=([-1, 1],), v=0, m=1.0),
            extreme("ties", [1, 1, 1], value=[2], gradients=([1, -2, 1],), v=1, m=1.0),
            extreme("no margin", [1, 1], value=[0], gradients=([0, 0],), v=1, m=0.0),
        ],
    ),
    Row("hinge", "hinge_batch", lambda x, vs: dy.hinge_batch(x, vs), picked(hinge), PICKED_BATCH, sample=stepped, batched_attributes=("vs",)),
]
