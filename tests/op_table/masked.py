"""Softmax, losses and attention over part of the entries."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, column, extreme, refuses, tensor
from .softmax import log_softmax, softmax

inf, nan = np.inf, np.nan


def masked(f, nothing):
    """f(x, d) of each batch element where the mask is not 0; `nothing` where that leaves no score
    but -inf."""

    def reference(x, mask, d, each=False):
        masks = mask if each else [mask]
        result = []
        for b in range(max(x.shape[-1], len(masks))):
            a, m = x[..., b % x.shape[-1]], np.array(masks[b % len(masks)])
            m = np.broadcast_to(m.reshape(m.shape + (1,) * (a.ndim - m.ndim)), a.shape) != 0
            m &= a != -inf
            some = np.broadcast_to(m.any(axis=d, keepdims=True), a.shape)
            y = f(np.where(m, a, np.where(some, -inf, 0)), d)
            result.append(np.where(some, y, nothing))
        return np.stack(result, axis=-1)

    return reference


CASES = [
    case(tensor(1), mask=[1], d=0),
    case(tensor(1), mask=[0], d=0),
    case(tensor(5), mask=[1, 0, 1, 0.5, -1], d=0),
    case(tensor(67), mask=[i % 3 for i in range(67)], d=0),
    case(tensor(5, batch=3), mask=[1, 0, 1, 1, 0], d=0),
    case(tensor(2, 3), mask=[[1, 0, 0], [1, 1, 0]], d=0),
    case(tensor(2, 3), mask=[[1, 0, 0], [1, 1, 0]], d=1),
    case(tensor(3, 4), mask=[1, 0, 1], d=0),
    case(tensor(3, 4, batch=3), mask=[[1, 0, 1, 1]], d=1),
    case(tensor(2, 3, 2, batch=2), mask=[1, 0], d=0),
    case(tensor(2, 3, 2, batch=2), mask=[[[1, 1]], [[0, 1]]], d=2),
]
EACH = [
    case(tensor(1, batch=2), mask=[[1], [0]], d=0),
    case(tensor(5, batch=3), mask=[[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], d=0),
    case(tensor(5), mask=[[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], d=0),
    case(tensor(2, 3, batch=2), mask=[[[1, 0, 0], [1, 1, 0]], [[1, 1, 1], [1, 1, 0]]], d=1),
    case(tensor(2, 3), mask=[[[1, 0, 0], [1, 1, 0]], [[1, 1, 1], [1, 1, 0]]], d=1),
]


def stacked(mask):
    return np.stack([np.array(m, float) for m in mask], axis=-1)


def errors(name):
    def call(*args):
        return getattr(dy, name)(*args)

    return [
        refuses(
            lambda: call(dy.zeros((2, 3)), [1, 1, 1]),
            ValueError,
            rf"^{name}: sizes of the mask must be those of x or 1, counted from the first; got x ="
            r" \(2, 3\), mask = \(3,\)",
        ),
        refuses(
            lambda: call(dy.zeros(3, batch_size=2), np.ones((3, 3))),
            ValueError,
            f"^{name}: batch sizes must be equal or 1",
        ),
        refuses(
            lambda: call(dy.zeros(3), [1, 1, 1], 1),
            ValueError,
            rf"^{name}: dim 1 is not a dim of x = \(3,\)",
        ),
        refuses(lambda: call(dy.zeros(3), "abc"), TypeError, f"^{name}: takes numbers"),
        refuses(lambda: call([1, 2], [1, 1]), TypeError, f"^{name}: takes expressions; got list"),
    ]


def attention(q, k, v, mask=None, masks=None, scale=None):
    masks = [mask] if masks is None else masks
    result = []
    for b in range(max(q.shape[-1], k.shape[-1], v.shape[-1], len(masks))):
        qb, kb, vb = (a[..., b % a.shape[-1]] for a in (q, k, v))
        s = (len(qb) ** -0.5 if scale is None else scale) * column(kb).T @ column(qb)
        m = masks[b % len(masks)]
        keep = (True if m is None else column(np.array(m)) != 0) & (s != -inf)
        p = np.where(
            keep.any(axis=0), softmax(np.where(keep, s, np.where(keep.any(axis=0), -inf, 0)), 0), 0
        )
        y = column(vb) @ p
        result.append(y if qb.ndim > 1 else y[:, 0])
    return np.stack(result, axis=-1)


ATTENTION = [
    case(tensor(1), tensor(1, 1), tensor(1, 1)),
    case(tensor(2), tensor(2, 4), tensor(3, 4)),
    case(tensor(2, 3), tensor(2, 4), tensor(5, 4)),
    case(tensor(2), tensor(2), tensor(3)),
    case(tensor(2, 3), tensor(2, 3), tensor(2, 3), scale=0.7),
    case(tensor(2, 3), tensor(2, 4), tensor(3, 4), mask=[1, 0, 1, 1]),
    case(
        tensor(2, 3), tensor(2, 4), tensor(3, 4), mask=[[1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 1]]
    ),
    case(tensor(2, batch=3), tensor(2, 4, batch=3), tensor(3, 4, batch=3)),
    case(tensor(2, 3, batch=3), tensor(2, 4, batch=3), tensor(3, 4, batch=3), mask=[1, 0, 1, 1]),
    case(tensor(2, 3, batch=3), tensor(2, 4), tensor(3, 4)),
    case(
        tensor(2, 3, batch=3),
        tensor(2, 4),
        tensor(3, 4),
        mask=[[1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 1]],
    ),
    case(tensor(2, batch=3), tensor(2, 4), tensor(3, 4), mask=[1, 0, 1, 1]),
    case(tensor(2, 3), tensor(2, 4, batch=3), tensor(3, 4)),
    case(tensor(2, 3), tensor(2, 4), tensor(3, 4, batch=3)),
    case(tensor(2, 3, batch=3), tensor(2, 4), tensor(3, 4, batch=3)),
    case(tensor(16, 20), tensor(16, 35), tensor(24, 35)),
    case(tensor(16, 5, batch=4), tensor(16, 35, batch=4), tensor(24, 35, batch=4)),
]
ATTENTION_EACH = [
    case(tensor(1, batch=2), tensor(1, 2), tensor(1, 2), masks=[[1, 1], [1, 0]]),
    case(
        tensor(2, 3, batch=2),
        tensor(2, 4, batch=2),
        tensor(3, 4, batch=2),
        masks=[[1, 1, 1, 0], [1, 0, 0, 0]],
    ),
    case(tensor(2, 3, batch=2), tensor(2, 4), tensor(3, 4), masks=[[1, 1, 1, 0], [0, 0, 0, 0]]),
    case(tensor(2, 3), tensor(2, 4), tensor(3, 4), masks=[[1, 1, 1, 0], [1, 0, 0, 0]]),
]


def loss(x, vs, mask):
    pairs = zip(vs, mask, strict=True)
    return np.array(
        [
            [
                -m * log_softmax(x[..., b % x.shape[-1]].ravel(), 0)[v] if m else 0
                for b, (v, m) in enumerate(pairs)
            ]
        ]
    )


ROWS = [
    Row(
        "masked_softmax",
        "masked_softmax",
        lambda x, mask, d: dy.masked_softmax(x, mask, d),
        masked(softmax, 0),
        CASES,
        errors=errors("masked_softmax"),
        extremes=[
            extreme(
                "whatever is masked",
                [0, nan, inf, 0],
                value=[0.5, 0, 0, 0.5],
                mask=[1, 0, 0, 1],
                d=0,
            ),
            extreme(
                "far apart", [1000, -1000], value=[0, 1], gradients=([0, 0],), mask=[0, 1], d=0
            ),
            extreme("nothing is left", [1, 2], value=[0, 0], gradients=([0, 0],), mask=[0, 0], d=0),
        ],
    ),
    Row(
        "masked_softmax",
        "masked_softmax with a mask of each",
        lambda x, mask, d: dy.masked_softmax(x, stacked(mask), d),
        lambda x, mask, d: masked(softmax, 0)(x, mask, d, each=True),
        EACH,
        batched_attributes=("mask",),
    ),
    Row(
        "masked_softmax",
        "masked_softmax with an expression",
        lambda x, mask: dy.masked_softmax(x, dy.inputTensor(mask)),
        lambda x, mask: masked(softmax, 0)(x, mask, 0),
        [case(tensor(2), mask=[1, 0]), case(tensor(3, 4, batch=2), mask=[1, 0, 1])],
    ),
    Row(
        "masked_log_softmax",
        "masked_log_softmax",
        lambda x, mask, d: dy.masked_log_softmax(x, mask, d),
        masked(log_softmax, -inf),
        CASES,
        errors=errors("masked_log_softmax"),
        has_gradient=False,
        extremes=[
            extreme(
                "whatever is masked",
                [0, nan, inf, 0],
                value=[-np.log(2), -inf, -inf, -np.log(2)],
                mask=[1, 0, 0, 1],
                d=0,
            ),
            extreme(
                "far apart", [1000, -1000], value=[-inf, 0], gradients=([0, 0],), mask=[0, 1], d=0
            ),
            extreme(
                "nothing is left", [1, 2], value=[-inf, -inf], gradients=([0, 0],), mask=[0, 0], d=0
            ),
        ],
    ),
    Row(
        "masked_log_softmax",
        "masked_log_softmax with a mask of each",
        lambda x, mask, d: dy.exp(dy.masked_log_softmax(x, stacked(mask), d)),
        lambda x, mask, d: masked(softmax, 0)(x, mask, d, each=True),
        EACH,
        batched_attributes=("mask",),
    ),
    Row(
        "cross_entropy",
        "masked_pickneglogsoftmax_batch",
        lambda x, vs, mask: dy.masked_pickneglogsoftmax_batch(x, vs, mask),
        loss,
        [
            case(tensor(1, batch=3), vs=[0, 0, 0], mask=[1, 0, 1]),
            case(tensor(5, batch=3), vs=[4, -1, 4], mask=[1, 0, 0.5]),
            case(tensor(5, batch=3), vs=[99, 0, 1], mask=[False, True, True]),
            case(tensor(5), vs=[1, 2, 2], mask=[0, 1, 1]),
            case(tensor(40, batch=2), vs=[39, 0], mask=(0, 0)),
        ],
        batched_attributes=("vs", "mask"),
        errors=[
            refuses(
                lambda: dy.masked_pickneglogsoftmax_batch(
                    dy.zeros(5, batch_size=2), [0, 1], [1, 1, 1]
                ),
                ValueError,
                "^masked_pickneglogsoftmax_batch: the mask must have one number per class; got 3"
                " numbers, 2 classes",
            ),
            refuses(
                lambda: dy.masked_pickneglogsoftmax_batch(
                    dy.zeros(5, batch_size=2), [0, 5], [1, 1]
                ),
                ValueError,
                "class 5 is outside x = .5,",
            ),
            refuses(
                lambda: dy.masked_pickneglogsoftmax_batch(dy.zeros(5, batch_size=2), [0], [1]),
                ValueError,
                "one class per batch element",
            ),
            refuses(
                lambda: dy.masked_pickneglogsoftmax_batch(3, [0], [1]),
                TypeError,
                "takes expressions; got int",
            ),
        ],
    ),
    Row(
        "cross_entropy",
        "masked_pickneglogsoftmax_batch with an expression",
        lambda x, vs, mask: dy.masked_pickneglogsoftmax_batch(
            x, vs, dy.inputTensor([mask], batched=True)
        ),
        loss,
        [
            case(tensor(1, batch=2), vs=[0, 0], mask=[1, 0]),
            case(tensor(5, batch=3), vs=[4, 1, 4], mask=[1, 0, 0.5]),
        ],
        batched_attributes=("vs", "mask"),
    ),
    Row(
        "attention",
        "attention",
        lambda q, k, v, mask=None, scale=None: dy.attention(q, k, v, mask, scale),
        attention,
        ATTENTION,
        errors=[
            refuses(
                lambda: dy.attention(dy.zeros(2), dy.zeros((3, 4)), dy.zeros((2, 4))),
                ValueError,
                r"^attention: q must be \(d, nq\), k \(d, nk\) and v \(dv, nk\); got q = \(2,\), k"
                r" = \(3, 4\), v = \(2, 4\)",
            ),
            refuses(
                lambda: dy.attention(dy.zeros(2), dy.zeros((2, 4)), dy.zeros((2, 3))),
                ValueError,
                "^attention: q must be",
            ),
            refuses(
                lambda: dy.attention(
                    dy.zeros((2, 2)), dy.zeros((2, 4)), dy.zeros((2, 4)), mask=np.ones((4, 3))
                ),
                ValueError,
                r"^attention: the mask must be \(nk,\) or \(nk, nq\); got k = \(2, 4\), q = \(2,"
                r" 2\), mask = \(4, 3\)",
            ),
            refuses(
                lambda: dy.attention(
                    dy.zeros(2, batch_size=2), dy.zeros((2, 4), batch_size=3), dy.zeros((2, 4))
                ),
                ValueError,
                "^attention: batch sizes must be equal or 1",
            ),
            refuses(
                lambda: dy.attention([0.0], dy.zeros((1, 4)), dy.zeros((1, 4))),
                TypeError,
                "^attention: takes expressions; got list",
            ),
        ],
    ),
    Row(
        "attention",
        "attention with a mask of each",
        lambda q, k, v, masks: dy.attention(q, k, v, stacked(masks)[:, None]),
        attention,
        ATTENTION_EACH,
        batched_attributes=("masks",),
    ),
]
