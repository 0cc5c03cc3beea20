"""Sums and means over elements, and over the batch."""

import dist_dynet as dy

from .row import Row, case, refuses, tensor

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
    return [refuses(lambda: getattr(dy, function)([1.0]), TypeError, f"^{function}: takes expressions; got list")]


ROWS = [
    Row("sum_elems", "sum_elems", lambda x: dy.sum_elems(x), elements(lambda x: x.sum(0)), CASES, errors=refusals("sum_elems")),
    Row("mean_elems", "mean_elems", lambda x: dy.mean_elems(x), elements(lambda x: x.mean(0)), CASES, errors=refusals("mean_elems")),
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
]
