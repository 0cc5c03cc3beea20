"""Joining and reshaping."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, per_batch, refuses, tensor


def reshaped(x, d, batch=1):
    dims = (d,) if isinstance(d, int) else tuple(d)
    if batch == 1 and int(np.prod(dims)) == int(np.prod(x.shape[:-1])):
        batch = x.shape[-1]
    return x.reshape((*dims, batch), order="F")


def transposed(x, dims):
    x = x.reshape(x.shape[: len(dims)] + x.shape[-1:]) if x.ndim > len(dims) + 1 else x
    x = x.reshape(x.shape[:-1] + (1,) * (len(dims) + 1 - x.ndim) + x.shape[-1:])
    return x.transpose(*dims, len(dims))


@per_batch
def joined_elements(*xs, d):
    n = max(d + 1, *(x.ndim for x in xs), 0)
    return np.concatenate([x.reshape(x.shape + (1,) * (n - x.ndim)) for x in xs], axis=d)


CONCATENATE = [
    case(tensor(1), tensor(1), d=0),
    case(tensor(1), d=0),
    case(tensor(5), tensor(2), d=0),
    case(tensor(5), tensor(2), tensor(40), d=0),
    case(tensor(3, 4), tensor(2, 4), d=0),
    case(tensor(3, 4), tensor(3, 2), d=1),
    case(tensor(3), tensor(3, 2), d=1),
    case(tensor(3), tensor(3), d=2),
    case(tensor(2, 3, 2), tensor(2, 1, 2), d=1),
    case(tensor(5, batch=3), tensor(2, batch=3), d=0),
    case(tensor(5, batch=3), tensor(2), d=0),
    case(tensor(3, 4), tensor(3, 2, batch=3), d=1),
    case(*[tensor(2)] * 20, d=0),
    case(tensor(2, 3), tensor(4, 3, batch=3), d=0),
    case(tensor(1, 3), tensor(1, 3), tensor(20, 3), d=0),
    case(tensor(*[1] * 6, 2), tensor(*[1] * 6, 1, batch=2), d=6),
]

ROWS = [
    Row(
        "reshape",
        "reshape",
        lambda x, d: dy.reshape(x, d),
        reshaped,
        [
            case(tensor(1), d=(1, 1)),
            case(tensor(6), d=(2, 3)),
            case(tensor(2, 3), d=6),
            case(tensor(2, 3), d=(3, 2)),
            case(tensor(2, 3, batch=3), d=[1, 6, 1]),
            case(tensor(2, 3, 2), d=(4, 3)),
        ],
        errors=[
            refuses(
                lambda: dy.reshape(dy.zeros(6), (2, 2)),
                ValueError,
                r"^reshape: the number of elements must stay the same; got x = \(6,\), new dims"
                r" \(2, 2\)",
            ),
            refuses(
                lambda: dy.reshape(dy.zeros(6), (3, 2), batch_size=2),
                ValueError,
                r"^reshape: the number of elements must stay the same; got x = \(6,\), new dims"
                r" \(3, 2\) x 2",
            ),
            refuses(lambda: dy.reshape(dy.zeros(6), (-1, 6)), ValueError, "reshape: .*-1"),
            refuses(lambda: dy.reshape(dy.zeros(6), "a"), TypeError, "^reshape"),
            refuses(lambda: dy.reshape(3, (1,)), TypeError, "^reshape: takes expressions; got int"),
            refuses(
                lambda: dy.reshape(dy.zeros(1), (1,) * 8),
                ValueError,
                r"^reshape: takes 1 to 7 dims; got \(1, 1",
            ),
        ],
    ),
    Row(
        "reshape",
        "reshape across the batch",
        lambda x, d, batch: dy.reshape(x, d, batch_size=batch),
        reshaped,
        [
            case(tensor(6), d=2, batch=3),
            case(tensor(2, batch=3), d=(3, 2), batch=1),
            case(tensor(4, batch=3), d=2, batch=6),
            case(tensor(1, batch=3), d=3, batch=1),
        ],
        per_element=False,
    ),
    Row(
        "transpose",
        "transpose",
        lambda x, dims: dy.transpose(x, dims),
        transposed,
        [
            case(tensor(1), dims=[1, 0]),
            case(tensor(5), dims=(1, 0)),
            case(tensor(3, 4), dims=[1, 0]),
            case(tensor(3, 4), dims=[0, 1]),
            case(tensor(3, 4, batch=3), dims=[1, 0]),
            case(tensor(2, 3, 4), dims=[2, 0, 1]),
            case(tensor(2, 3, 4, batch=3), dims=[1, 2, 0]),
            case(tensor(2, 3), dims=[2, 1, 0]),
            case(tensor(33, 20), dims=[1, 0]),
            case(tensor(1, 4), dims=[1, 0]),
            case(tensor(5, 1, 1), dims=[0]),
            case(tensor(2, 3, 2, 1, 2, 2, 3), dims=[6, 0, 2, 1, 5, 4, 3]),
            case(tensor(3, 2, 4, 2, batch=2), dims=[1, 0, 3, 2]),
            case(tensor(2, 17, 9), dims=[1, 0, 2]),
            case(tensor(9, 2, 17), dims=[2, 1, 0]),
        ],
        errors=[
            refuses(
                lambda: dy.transpose(dy.zeros((2, 3)), [0, 0]),
                ValueError,
                "^transpose: the dims must be a permutation of 0 ... 1; got 0 as entry 1",
            ),
            refuses(
                lambda: dy.transpose(dy.zeros((2, 3)), [0, 2]),
                ValueError,
                "^transpose: the dims must be a permutation",
            ),
            refuses(
                lambda: dy.transpose(dy.zeros((2, 3)), [-1, 0]),
                ValueError,
                "^transpose: the dims must be a permutation",
            ),
            refuses(
                lambda: dy.transpose(dy.zeros((2, 3)), [0]),
                ValueError,
                r"^transpose: takes one entry per dim of x; got 1 entries, x = \(2, 3\)",
            ),
            refuses(
                lambda: dy.transpose(dy.zeros((2, 3, 4))),
                ValueError,
                "^transpose: takes one entry per dim of x; got 2",
            ),
            refuses(
                lambda: dy.transpose(dy.zeros(2), range(8)),
                ValueError,
                "^transpose: takes one entry per dim of x; got 8",
            ),
            refuses(lambda: dy.transpose(3), TypeError, "^transpose: takes expressions; got int"),
        ],
    ),
    Row(
        "transpose",
        "transpose of a matrix",
        lambda x: dy.transpose(x),
        lambda x: transposed(x, (1, 0)),
        [case(tensor(1)), case(tensor(3, 4, batch=3))],
    ),
    Row(
        "concatenate",
        "concatenate",
        lambda *xs, d: dy.concatenate(xs, d),
        joined_elements,
        CONCATENATE,
        errors=[
            refuses(
                lambda: dy.concatenate([]), AssertionError, "List is empty, nothing to concatenate"
            ),
            refuses(
                lambda: dy.concatenate([dy.zeros(3), None]),
                AssertionError,
                "Empty element for concatenate: item 1",
            ),
            refuses(
                lambda: dy.concatenate([dy.zeros((3, 2)), dy.zeros((3, 4))]),
                ValueError,
                r"^concatenate: all dims but dim 0 must be equal; got x_0 = \(3, 2\), x_1 ="
                r" \(3, 4\)",
            ),
            refuses(
                lambda: dy.concatenate([dy.zeros(3)], -1),
                ValueError,
                "^concatenate: dim must be from 0 to 6; got -1",
            ),
            refuses(
                lambda: dy.concatenate([dy.zeros(3)], 7),
                ValueError,
                "^concatenate: dim must be from 0 to 6; got 7",
            ),
            refuses(
                lambda: dy.concatenate([dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=3)]),
                ValueError,
                "^concatenate: batch sizes must be equal or 1",
            ),
            refuses(
                lambda: dy.concatenate(dy.zeros(3)),
                TypeError,
                "^concatenate: takes a list of expressions",
            ),
            refuses(
                lambda: dy.concatenate(3), TypeError, "^concatenate: takes expressions; got int"
            ),
        ],
    ),
    Row(
        "concatenate",
        "concatenate_cols",
        lambda *xs: dy.concatenate_cols(xs),
        lambda *xs: joined_elements(*xs, d=1),
        [
            case(tensor(1), tensor(1)),
            case(tensor(3), tensor(3), tensor(3)),
            case(tensor(3, 2), tensor(3)),
            case(tensor(3, batch=3), tensor(3)),
        ],
        errors=[
            refuses(
                lambda: dy.concatenate_cols([dy.zeros(3), dy.zeros(4)]),
                ValueError,
                "^concatenate_cols: all dims but dim 1 must be equal",
            ),
        ],
    ),
    Row(
        "concatenate_to_batch",
        "concatenate_to_batch",
        lambda *xs: dy.concatenate_to_batch(xs),
        lambda *xs: np.concatenate(
            [x.reshape(xs[0].shape[:-1] + x.shape[-1:]) for x in xs], axis=-1
        ),
        [
            case(tensor(1)),
            case(tensor(1), tensor(1, batch=3)),
            case(tensor(5), tensor(5), tensor(5)),
            case(tensor(3, 4, batch=2), tensor(3, 4), tensor(3, 4, batch=3)),
            case(tensor(3), tensor(3, 1)),
            case(tensor(2, 1, 3, 1, 2, 1, 2), tensor(2, 1, 3, 1, 2, 1, 2)),
        ],
        per_element=False,
        errors=[
            refuses(
                lambda: dy.concatenate_to_batch([]),
                AssertionError,
                "List is empty, nothing to concatenate_to_batch",
            ),
            refuses(
                lambda: dy.concatenate_to_batch([dy.zeros((3, 2)), dy.zeros(6)]),
                ValueError,
                r"^concatenate_to_batch: all inputs must have the same dims; got x_0 = \(3, 2\),"
                r" x_1 = \(6,\)",
            ),
            refuses(
                lambda: dy.concatenate_to_batch(dy.zeros(3)),
                TypeError,
                "^concatenate_to_batch: takes a list of expressions",
            ),
        ],
    ),
]
