"""Selection, joining, reshaping; indexing."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, per_batch, refuses, tensor


def reshaped(x, d, batch=1):
    dims = (d,) if isinstance(d, int) else tuple(d)
    if int(np.prod(dims)) == int(np.prod(x.shape[:-1])):
        batch = x.shape[-1]
    return x.reshape((*dims, batch), order="F")


def transposed(x, dims):
    x = x.reshape(x.shape[:-1] + (1,) * (len(dims) + 1 - x.ndim) + x.shape[-1:])
    return x.transpose(*dims, len(dims))


@per_batch
def joined_elements(*xs, d):
    n = max(d + 1, *(x.ndim for x in xs), 0)
    return np.concatenate([x.reshape(x.shape + (1,) * (n - x.ndim)) for x in xs], axis=d)


def picked(x, index, dim=0):
    indices = [index] * x.shape[-1] if isinstance(index, int) else index
    y = np.stack([np.take(x[..., b % x.shape[-1]], i, axis=dim) for b, i in enumerate(indices)], axis=-1)
    return y if y.ndim > 1 else y[None]


def indexed(x, index):
    """x[index] as in NumPy, the batch being the last axis; an axis of each kind stays."""
    items = index if isinstance(index, tuple) else (index,)
    y = x[items]
    if len(items) == x.ndim and isinstance(items[-1], int):
        y = y[..., None]
    return y if y.ndim > 1 else y[None]


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
]
INDEX_ONE = [
    case(tensor(1), index=0),
    case(tensor(5), index=2),
    case(tensor(5), index=-1),
    case(tensor(3, 4), index=1),
    case(tensor(3, 4, batch=3), index=1),
]
INDEX = [
    case(tensor(1), index=slice(0, 1)),
    case(tensor(5), index=slice(1, 3)),
    case(tensor(5), index=slice(None, None, 2)),
    case(tensor(5), index=slice(-3, 100)),
    case(tensor(3, 4), index=(slice(None), 2)),
    case(tensor(3, 4), index=(1, 2)),
    case(tensor(3, 4), index=(slice(0, 2), slice(1, 4, 2))),
    case(tensor(2, 3, 4), index=(1, slice(None), -1)),
    case(tensor(3, 4, batch=3), index=(slice(1, 3), 0)),
    case(tensor(5, batch=3), index=slice(0, 4, 3)),
    case(tensor(3, 4, batch=3), index=(1, 2)),
]
INDEX_BATCH = [
    case(tensor(5, batch=3), index=(slice(None), slice(0, 2))),
    case(tensor(5, batch=3), index=(slice(1, 4), 1)),
    case(tensor(5, batch=3), index=(2, slice(None, None, 2))),
    case(tensor(1, batch=3), index=(0, -1)),
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
                r"^reshape: the number of elements must stay the same; got x = \(6,\), new dims \(2, 2\)",
            ),
            refuses(lambda: dy.reshape(dy.zeros(6), (-1, 6)), ValueError, "reshape: .*-1"),
            refuses(lambda: dy.reshape(dy.zeros(6), "a"), TypeError, "^reshape"),
            refuses(lambda: dy.reshape(3, (1,)), TypeError, "^reshape: takes expressions; got int"),
            refuses(lambda: dy.reshape(dy.zeros(1), (1,) * 8), ValueError, r"^reshape: takes 1 to 7 dims; got \(1, 1"),
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
        ],
        errors=[
            refuses(
                lambda: dy.transpose(dy.zeros((2, 3)), [0, 0]),
                ValueError,
                "^transpose: the dims must be a permutation of 0 ... 1; got 0 as entry 1",
            ),
            refuses(lambda: dy.transpose(dy.zeros((2, 3)), [0, 2]), ValueError, "^transpose: the dims must be a permutation"),
            refuses(lambda: dy.transpose(dy.zeros((2, 3)), [-1, 0]), ValueError, "^transpose: the dims must be a permutation"),
            refuses(
                lambda: dy.transpose(dy.zeros((2, 3)), [0]),
                ValueError,
                r"^transpose: takes one entry per dim of x; got 1 entries, x = \(2, 3\)",
            ),
            refuses(lambda: dy.transpose(dy.zeros((2, 3, 4))), ValueError, "^transpose: takes one entry per dim of x; got 2"),
            refuses(lambda: dy.transpose(dy.zeros(2), range(8)), ValueError, "^transpose: takes one entry per dim of x; got 8"),
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
            refuses(lambda: dy.concatenate([]), AssertionError, "List is empty, nothing to concatenate"),
            refuses(lambda: dy.concatenate([dy.zeros(3), None]), AssertionError, "Empty element for concatenate: item 1"),
            refuses(
                lambda: dy.concatenate([dy.zeros((3, 2)), dy.zeros((3, 4))]),
                ValueError,
                r"^concatenate: all dims but dim 0 must be equal; got x_0 = \(3, 2\), x_1 = \(3, 4\)",
            ),
            refuses(lambda: dy.concatenate([dy.zeros(3)], -1), ValueError, "^concatenate: dim must be from 0 to 6; got -1"),
            refuses(lambda: dy.concatenate([dy.zeros(3)], 7), ValueError, "^concatenate: dim must be from 0 to 6; got 7"),
            refuses(
                lambda: dy.concatenate([dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=3)]),
                ValueError,
                "^concatenate: batch sizes must be equal or 1",
            ),
            refuses(lambda: dy.concatenate(dy.zeros(3)), TypeError, "^concatenate: takes a list of expressions"),
            refuses(lambda: dy.concatenate(3), TypeError, "^concatenate: takes expressions; got int"),
        ],
    ),
    Row(
        "concatenate",
        "concatenate_cols",
        lambda *xs: dy.concatenate_cols(xs),
        lambda *xs: joined_elements(*xs, d=1),
        [case(tensor(1), tensor(1)), case(tensor(3), tensor(3), tensor(3)), case(tensor(3, 2), tensor(3)), case(tensor(3, batch=3), tensor(3))],
        errors=[
            refuses(lambda: dy.concatenate_cols([dy.zeros(3), dy.zeros(4)]), ValueError, "^concatenate: all dims but dim 1 must be equal"),
        ],
    ),
    Row(
        "pick",
        "pick",
        lambda x, index, dim: dy.pick(x, index, dim),
        picked,
        [
            case(tensor(1), index=0, dim=0),
            case(tensor(5), index=4, dim=0),
            case(tensor(3, 4), index=2, dim=0),
            case(tensor(3, 4), index=3, dim=1),
            case(tensor(2, 3, 4), index=1, dim=1),
            case(tensor(5, batch=3), index=2, dim=0),
            case(tensor(3, 4, batch=3), index=1, dim=1),
        ],
        errors=[
            refuses(lambda: dy.pick(dy.zeros(5), 7), ValueError, r"^pick: index 7 is outside dim 0 of x = \(5,\). Indices run from 0 to 4"),
            refuses(lambda: dy.pick(dy.zeros(5), -1), ValueError, "^pick: index -1 is outside dim 0"),
            refuses(lambda: dy.pick(dy.zeros(5), 0, 1), ValueError, r"^pick: dim 1 is not a dim of x = \(5,\)"),
            refuses(lambda: dy.pick(dy.zeros(5), 0, -1), ValueError, "^pick: dim -1 is not a dim"),
            refuses(lambda: dy.pick(dy.zeros(5), 0.5), TypeError, "."),
            refuses(lambda: dy.pick(3, 0), TypeError, "^pick: takes expressions; got int"),
            refuses(lambda: dy.pick(dy.zeros(5), 0).set_index(5), ValueError, "^pick: index 5 is outside"),
        ],
    ),
    Row("pick", "pick along dim 0", lambda x: dy.pick(x, 1), lambda x: picked(x, 1), [case(tensor(2)), case(tensor(3, 4, batch=3))]),
    Row(
        "pick",
        "pick_batch",
        lambda x, index, dim: dy.pick_batch(x, index, dim),
        picked,
        [
            case(tensor(1), index=[0], dim=0),
            case(tensor(5), index=[4, 0, 4], dim=0),
            case(tensor(5, batch=3), index=[4, 0, 1], dim=0),
            case(tensor(3, 4, batch=2), index=[3, 0], dim=1),
            case(tensor(3, 4), index=[1, 1], dim=0),
        ],
        batched_attributes=("index",),
        errors=[
            refuses(
                lambda: dy.pick_batch(dy.zeros(5, batch_size=3), [0, 1]),
                ValueError,
                r"^pick: takes one index, or one per batch element; got 2 indices, x = \(5,\) x 3",
            ),
            refuses(lambda: dy.pick_batch(dy.zeros(5), [0, 5]), ValueError, "^pick: index 5 is outside"),
            refuses(lambda: dy.pick_batch(dy.zeros(5), 0), TypeError, "^pick_batch: indices must be whole numbers"),
            refuses(lambda: dy.pick_batch(dy.zeros(5), [0, 1]).set_index([0]), ValueError, "^pick: set takes as many indices"),
        ],
    ),
    Row(
        "slice",
        "pick_range",
        lambda x, s, e, d: dy.pick_range(x, s, e, d),
        lambda x, s, e, d: np.take(x, range(s, e), axis=d),
        [
            case(tensor(1), s=0, e=1, d=0),
            case(tensor(5), s=1, e=3, d=0),
            case(tensor(3, 4), s=1, e=4, d=1),
            case(tensor(2, 3, 4), s=0, e=2, d=1),
            case(tensor(5, batch=3), s=4, e=5, d=0),
            case(tensor(3, 4, batch=3), s=0, e=2, d=1),
        ],
        errors=[
            refuses(
                lambda: dy.pick_range(dy.zeros(5), 2, 2),
                ValueError,
                "^pick_range: must be 0 <= s < e <= 5, the size of dim 0; got s = 2, e = 2",
            ),
            refuses(lambda: dy.pick_range(dy.zeros(5), -1, 2), ValueError, "^pick_range: must be 0 <= s < e"),
            refuses(lambda: dy.pick_range(dy.zeros(5), 0, 6), ValueError, "^pick_range: must be 0 <= s < e"),
            refuses(lambda: dy.pick_range(dy.zeros(5), 0, 1, 1), ValueError, r"^pick_range: dim 1 is not a dim of x = \(5,\)"),
            refuses(lambda: dy.pick_range(3, 0, 1), TypeError, "^pick_range: takes expressions; got int"),
        ],
    ),
    Row("slice", "pickrange", lambda x: dy.pickrange(x, 1, 2), lambda x: x[1:2], [case(tensor(2)), case(tensor(3, 4))]),
    Row(
        "slice",
        "pick_batch_elem",
        lambda x, v: dy.pick_batch_elem(x, v),
        lambda x, v: x[..., v : v + 1],
        [case(tensor(1), v=0), case(tensor(5), v=0), case(tensor(5, batch=3), v=2), case(tensor(3, 4, batch=3), v=0)],
        per_element=False,
        errors=[
            refuses(lambda: dy.pick_batch_elem(dy.zeros(5), 1), ValueError, "^pick_batch_elem: batch element 1 is outside of the batch of 1"),
            refuses(lambda: dy.pick_batch_elem(dy.zeros(5, batch_size=3), -1), ValueError, "^pick_batch_elem: batch element -1 is outside"),
            refuses(lambda: dy.pick_batch_elem(3, 0), TypeError, "^pick_batch_elem: takes expressions; got int"),
        ],
    ),
    Row("slice", "an element of 2 dims", lambda x: x[0, 0], lambda x: x[0, 0][None], [case(tensor(1, 1)), case(tensor(3, 4, batch=3))]),
    Row("pick", "index of one number", lambda x, index: x[index], indexed, INDEX_ONE),
    Row(
        "slice",
        "index",
        lambda x, index: x[index],
        indexed,
        INDEX,
        errors=[
            refuses(lambda: dy.zeros(5)[5], IndexError, r"^Index too large: 5 > 4, the last index of dim 0 of \(5,\)"),
            refuses(lambda: dy.zeros(5)[-6], IndexError, "^Index too small: -6 < -5"),
            refuses(lambda: dy.zeros((2, 3))[0, 3], IndexError, "^Index too large: 3 > 2, the last index of dim 1"),
            refuses(lambda: dy.zeros(5)[0, 0, 0], IndexError, "^too many indices: 3"),
            refuses(lambda: dy.zeros(5)[::-1], ValueError, "^slice: the step must be positive; got -1 in dim 0"),
            refuses(lambda: dy.zeros(5)["a"], TypeError, "^an index must be a whole number or a slice; got 'a' for dim 0"),
            refuses(lambda: dy.zeros(5)[0.5], TypeError, "^an index must be a whole number or a slice; got 0.5"),
        ],
    ),
    Row("slice", "index of the batch", lambda x, index: x[index], indexed, INDEX_BATCH, per_element=False),
    Row(
        "pick",
        "iteration",
        lambda x: dy.concatenate(list(x)[::-1]),
        lambda x: x[::-1],
        [case(tensor(1)), case(tensor(5)), case(tensor(5, batch=3))],
    ),
]
