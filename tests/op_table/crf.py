"""The conditional random field's nodes, against sums over all tag sequences. The block is tested in
test_blocks_crf.py."""

import itertools

import numpy as np

import dist_dynet as dy
from dist_dynet.ops import _nodes

from .row import Row, case, refuses, tensor


def node(*inputs, tags=(), weights=(1.0, 0.0)):
    return _nodes.node(
        "crf", *inputs, [v for row in tags for v in row], [float(w) for w in weights]
    )


def viterbi(*inputs, tags=()):
    return _nodes.node("crf_viterbi", *inputs, [v for row in tags for v in row])


def score(A, start, stop, E, v):
    return (
        start[v[0]]
        + stop[v[-1]]
        + sum(E[j, t] for t, j in enumerate(v))
        + sum(A[i, j] for i, j in itertools.pairwise(v))
    )


def sequences(A, start, stop, E, steps):
    """All tag sequences, and the score of each."""
    every = list(itertools.product(range(len(start)), repeat=steps))
    return every, np.array([score(A, start, stop, E, v) for v in every])


def elements(A, start, stop, E, tags):
    """(A, start, stop, emissions, tags without what is beyond the end, number of steps) of each
    batch element."""
    k, batch = len(start), E.shape[-1]
    for b in range(batch):
        e = E[..., b].reshape(k, -1)
        row = [v for v in tags[b] if v >= 0] if tags else None
        yield (
            A[..., 0].reshape(k, k),
            start[..., 0],
            stop[..., 0],
            e,
            row,
            len(row) if tags else e.shape[1],
        )


def reference(*arrays, tags=(), weights=(1.0, 0.0)):
    a, b = weights
    values = []
    for *parameters, e, row, steps in elements(*arrays, tags):
        value = b * score(*parameters, e, row) if b else 0
        if a:
            scores = sequences(*parameters, e, steps)[1]
            top = scores.max()
            value += a * (top + np.log(np.exp(scores - top).sum()))
        values.append(value)
    return np.array([values])


def best(*arrays, tags=()):
    values = []
    for *parameters, e, _, steps in elements(*arrays, tags):
        every, scores = sequences(*parameters, e, steps)
        first = max(range(len(every)), key=lambda i: (scores[i], [-v for v in reversed(every[i])]))
        values.append([*every[first], *[-1] * (e.shape[1] - steps)])
    return np.array(values).T


def chain(k, steps, batch=1, **attributes):
    return case(tensor(k, k), tensor(k), tensor(k), tensor(k, steps, batch=batch), **attributes)


TAGS = [[2, 0, 1, 1], [0, 2, -1, -1], [1, -1, -1, -1]]
ENDS = [[0, 0, 0, 0], [0, 0, -1, -1], [0, -1, -1, -1]]


def zeros(k, *emissions):
    return dy.zeros((k, k)), dy.zeros(k), dy.zeros(k), dy.zeros(emissions)


def errors(build, name):
    return [
        refuses(
            lambda: build(*zeros(3, 4, 2)),
            ValueError,
            rf"^{name}: emissions must be \(tags, steps\), transitions \(tags, tags\), start and"
            r" stop \(tags,\); got \(4, 2\)",
        ),
        refuses(
            lambda: build(*zeros(3, 3, 0)), ValueError, f"^{name}: a sequence must have a step"
        ),
        refuses(
            lambda: build(*zeros(3, 3, 2), tags=[[0]]),
            ValueError,
            f"^{name}: takes one tag for each step of each batch element; got 1",
        ),
        refuses(
            lambda: build(*zeros(3, 3, 2), tags=[[0, 3]]),
            ValueError,
            f"^{name}: tag 3 is outside of the 3 tags. They run from 0 to 2",
        ),
        refuses(
            lambda: build(*zeros(3, 3, 2), tags=[[0, -2]]),
            ValueError,
            f"^{name}: tag -2 is outside",
        ),
        refuses(
            lambda: build(*zeros(3, 3, 2), tags=[[-1, -1]]),
            ValueError,
            f"^{name}: a sequence must have a step, and -1 only after",
        ),
        refuses(
            lambda: build(*zeros(3, 3, 3), tags=[[0, -1, 1]]),
            ValueError,
            "got 1 at step 2 of batch element 0",
        ),
        refuses(
            lambda: build(dy.zeros((3, 3), batch_size=2), *zeros(3, 3, 2)[1:]),
            ValueError,
            f"^{name}: transitions must not be batched; got input 0",
        ),
        refuses(lambda: build(None, *zeros(3, 3, 2)[1:]), (AssertionError, TypeError), "crf"),
    ]


ROWS = [
    Row(
        "crf",
        "crf",
        node,
        reference,
        [
            chain(1, 1),
            chain(3, 1),
            chain(3, 4),
            case(tensor(3, 3), tensor(3), tensor(3), tensor(3)),
            chain(3, 4, tags=[TAGS[0]], weights=(1.0, -1.0)),
            chain(2, 5, batch=3),
            chain(18, 2),
            chain(3, 4, tags=[TAGS[1]], weights=(0.5, 2.0)),
        ],
        errors=[
            *errors(node, "crf"),
            refuses(
                lambda: node(*zeros(3, 3, 2), weights=(1, 1)),
                ValueError,
                "^crf: the score needs tags; got none",
            ),
        ],
    ),
    Row(
        "crf",
        "crf of a padded batch",
        node,
        reference,
        [
            chain(1, 2, batch=2, tags=[[0, 0], [0, -1]], weights=(1.0, -1.0)),
            chain(3, 4, batch=3, tags=TAGS, weights=(1.0, -1.0)),
            chain(3, 4, batch=3, tags=TAGS, weights=(0.0, 1.0)),
            chain(3, 4, batch=3, tags=ENDS),
        ],
        batched_attributes=("tags",),
    ),
    Row(
        "crf_viterbi",
        "crf_viterbi",
        viterbi,
        best,
        [
            chain(1, 1),
            chain(3, 1),
            chain(3, 4),
            case(tensor(3, 3), tensor(3), tensor(3), tensor(3)),
            chain(2, 5, batch=3),
            chain(18, 2),
        ],
        has_gradient=False,
        errors=errors(viterbi, "crf_viterbi"),
    ),
    Row(
        "crf_viterbi",
        "crf_viterbi of a padded batch",
        viterbi,
        best,
        [chain(1, 2, batch=2, tags=[[0, 0], [0, -1]]), chain(3, 4, batch=3, tags=ENDS)],
        has_gradient=False,
        batched_attributes=("tags",),
    ),
]
