"""Selection by index and by range; indexing of expressions."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, refuses, tensor


def picked(x, index, dim=0):
    indices = [index] * x.shape[-1] if not hasattr(index, "__len__") else index
    y = np.stack(
        [np.take(x[..., b % x.shape[-1]], i, axis=dim) for b, i in enumerate(indices)], axis=-1
    )
    return y if y.ndim > 1 else y[None]


def indexed(x, index):
    """x[index] as in NumPy, the batch being the last axis; an axis of each kind stays."""
    items = index if isinstance(index, tuple) else (index,)
    y = x[items]
    if len(items) == x.ndim and hasattr(items[-1], "__index__"):
        y = y[..., None]
    return y if y.ndim > 1 else y[None]


def strided(x, strides, start, stop):
    """Per axis, the batch's last; what the lists do not name is whole."""

    def entry(values, d):
        return values[d] if d < len(values) else None

    return x[
        tuple(slice(entry(start, d), entry(stop, d), entry(strides, d)) for d in range(x.ndim))
    ]


INDEX_ONE = [
    case(tensor(1), index=0),
    case(tensor(5), index=2),
    case(tensor(5), index=-1),
    case(tensor(3, 4), index=1),
    case(tensor(3, 4, batch=3), index=1),
    case(tensor(3, 4), index=np.int32(-2)),
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
    case(tensor(5), index=slice(0, 5, 2**40)),
    case(tensor(5, 4, 3), index=(slice(1, 5, 3), slice(None), slice(0, 3, 2))),
    case(tensor(4, 2, 3, 2, 2, 1, 3), index=(slice(0, 2), slice(None), slice(1, 3), 0)),
]
INDEX_BATCH = [
    case(tensor(5, batch=3), index=(slice(None), slice(0, 2))),
    case(tensor(5, batch=3), index=(slice(1, 4), 1)),
    case(tensor(5, batch=3), index=(2, slice(None, None, 2))),
    case(tensor(1, batch=3), index=(0, -1)),
    case(tensor(4, 3, batch=3), index=(slice(0, 2), slice(1, 3), slice(0, 3, 2))),
]

ROWS = [
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
            case(tensor(2, 1, 3, 2, 2, 2, 3), index=np.int64(2), dim=6),
            case(tensor(2, 1, 3, 2, 2, 2, 3, batch=2), index=1, dim=3),
        ],
        errors=[
            refuses(
                lambda: dy.pick(dy.zeros(5), 7),
                ValueError,
                r"^pick: index 7 is outside dim 0 of x = \(5,\). Indices run from 0 to 4",
            ),
            refuses(
                lambda: dy.pick(dy.zeros(5), -1), ValueError, "^pick: index -1 is outside dim 0"
            ),
            refuses(
                lambda: dy.pick(dy.zeros(5), 0, 1),
                ValueError,
                r"^pick: dim 1 is not a dim of x = \(5,\)",
            ),
            refuses(lambda: dy.pick(dy.zeros(5), 0, -1), ValueError, "^pick: dim -1 is not a dim"),
            refuses(lambda: dy.pick(dy.zeros(5), 0.5), TypeError, "."),
            refuses(lambda: dy.pick(3, 0), TypeError, "^pick: takes expressions; got int"),
            refuses(
                lambda: dy.pick(dy.zeros(5), 0).set_index(5),
                ValueError,
                "^pick: index 5 is outside",
            ),
        ],
    ),
    Row(
        "pick",
        "pick along dim 0",
        lambda x: dy.pick(x, 1),
        lambda x: picked(x, 1),
        [case(tensor(2)), case(tensor(3, 4, batch=3))],
    ),
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
                r"^pick_batch: takes one index, or one per batch element; got 2 indices, x ="
                r" \(5,\) x 3",
            ),
            refuses(
                lambda: dy.pick_batch(dy.zeros(5, batch_size=3), [0]),
                ValueError,
                "^pick_batch: takes one index per batch element",
            ),
            refuses(
                lambda: dy.pick_batch(dy.zeros(5), [0, 5]),
                ValueError,
                "^pick_batch: index 5 is outside",
            ),
            refuses(
                lambda: dy.pick_batch(dy.zeros(5), 0),
                TypeError,
                "^pick_batch: indices must be integers",
            ),
            refuses(
                lambda: dy.pick_batch(dy.zeros(5), [0, 1]).set_index([0]),
                ValueError,
                "^pick: set takes as many indices",
            ),
        ],
    ),
    Row(
        "pick_range",
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
                "^pick_range: s must be less than e; got s = 2, e = 2",
            ),
            refuses(
                lambda: dy.pick_range(dy.zeros(5), -1, 2),
                ValueError,
                r"^pick_range: range -1:2 is outside dim 0 of x = \(5,\), which has size 5",
            ),
            refuses(
                lambda: dy.pick_range(dy.zeros(5), 0, 6),
                ValueError,
                "^pick_range: range 0:6 is outside dim 0",
            ),
            refuses(
                lambda: dy.pick_range(dy.zeros(5), 0, 1, 1),
                ValueError,
                r"^pick_range: dim 1 is not a dim of x = \(5,\)",
            ),
            refuses(
                lambda: dy.pick_range(dy.zeros(5), 0, 1, -1),
                ValueError,
                r"^pick_range: dim -1 is not a dim of x = \(5,\)",
            ),
            refuses(
                lambda: dy.pick_range(3, 0, 1), TypeError, "^pick_range: takes expressions; got int"
            ),
        ],
    ),
    Row(
        "pick_range",
        "pickrange",
        lambda x: dy.pickrange(x, 1, 2),
        lambda x: x[1:2],
        [case(tensor(2)), case(tensor(3, 4))],
    ),
    Row(
        "pick_batch_elems",
        "pick_batch_elem",
        lambda x, v: dy.pick_batch_elem(x, v),
        lambda x, v: x[..., v : v + 1],
        [
            case(tensor(1), v=0),
            case(tensor(5), v=0),
            case(tensor(5, batch=3), v=2),
            case(tensor(3, 4, batch=3), v=0),
        ],
        per_element=False,
        errors=[
            refuses(
                lambda: dy.pick_batch_elem(dy.zeros(5), 1),
                ValueError,
                r"^pick_batch_elem: index 1 is outside the batch of x = \(5,\)",
            ),
            refuses(
                lambda: dy.pick_batch_elem(dy.zeros(5, batch_size=3), -1),
                ValueError,
                "^pick_batch_elem: index -1 is outside the batch",
            ),
            refuses(
                lambda: dy.pick_batch_elem(3, 0),
                TypeError,
                "^pick_batch_elem: takes expressions; got int",
            ),
        ],
    ),
    Row(
        "slice",
        "an element of 2 dims",
        lambda x: x[0, 0],
        lambda x: x[0, 0][None],
        [case(tensor(1, 1)), case(tensor(3, 4, batch=3))],
    ),
    Row("pick", "index of one number", lambda x, index: x[index], indexed, INDEX_ONE),
    Row(
        "slice",
        "index",
        lambda x, index: x[index],
        indexed,
        INDEX,
        errors=[
            refuses(
                lambda: dy.zeros(5)[5],
                IndexError,
                r"^Index too large: 5 > 4, the last index of dim 0 of \(5,\)",
            ),
            refuses(lambda: dy.zeros(5)[-6], IndexError, "^Index too small: -6 < -5"),
            refuses(
                lambda: dy.zeros((2, 3))[0, 3],
                IndexError,
                "^Index too large: 3 > 2, the last index of dim 1",
            ),
            refuses(lambda: dy.zeros(5)[0, 0, 0], IndexError, "^too many indices: 3"),
            refuses(
                lambda: dy.zeros(5)[::-1],
                ValueError,
                "^slice: the step must be positive; got -1 in dim 0",
            ),
            refuses(lambda: dy.zeros((5, 5))[0, ::0], ValueError, "slice"),
            refuses(
                lambda: dy.zeros(5)[None],
                TypeError,
                "^x\\[i\\]: an index must be an integer or a slice; got None",
            ),
            refuses(
                lambda: dy.zeros(5)[...],
                TypeError,
                "^x\\[i\\]: an index must be an integer or a slice; got Ellipsis",
            ),
            refuses(lambda: dy.zeros(5)[[0, 1]], TypeError, "Use select_rows"),
            refuses(lambda: dy.zeros(5)[2**70], IndexError, "^Index too large"),
            refuses(
                lambda: dy.zeros(5)["a"],
                TypeError,
                "^x\\[i\\]: an index must be an integer or a slice; got 'a' for dim 0",
            ),
            refuses(
                lambda: dy.zeros(5)[0.5],
                TypeError,
                "^x\\[i\\]: an index must be an integer or a slice; got 0.5",
            ),
        ],
    ),
    Row(
        "slice_batch",
        "index of the batch",
        lambda x, index: x[index],
        indexed,
        INDEX_BATCH,
        per_element=False,
    ),
    Row(
        "pick",
        "iteration",
        lambda x: dy.concatenate(list(x)[::-1]),
        lambda x: x[::-1],
        [case(tensor(1)), case(tensor(5)), case(tensor(5, batch=3))],
    ),
    Row(
        "slice",
        "strided_select",
        lambda x, strides, start, stop: dy.strided_select(x, strides, start, stop),
        strided,
        [
            case(tensor(1), strides=[1], start=[0], stop=[1]),
            case(tensor(5), strides=[2], start=[0], stop=[5]),
            case(tensor(5), strides=(3,), start=(), stop=()),
            case(tensor(5, 4), strides=[2, 1], start=[0, 1], stop=[5, 3]),
            case(tensor(5, 4), strides=[], start=[1], stop=[]),
            case(tensor(5, 4), strides=[], start=[], stop=[3, 2]),
            case(tensor(5, 4, 3, batch=3), strides=[1, 2], start=[0, 1], stop=[5, 4]),
            case(tensor(20, 3, 4), strides=[1, 1, 2], start=[0, 0, 1], stop=[20, 3, 4]),
            case(
                tensor(2, 2, 3, 1, 2, 2, 3), strides=[1, 2, 2, 1, 1, 1, 2], start=[0, 1], stop=[1]
            ),
        ],
        errors=[
            refuses(
                lambda: dy.strided_select(dy.zeros(5), [0], [0], [5]),
                ValueError,
                "^strided_select: the step must be positive; got 0",
            ),
            refuses(
                lambda: dy.strided_select(dy.zeros(5), [1], [0], [6]),
                ValueError,
                "^strided_select: range 0:6 is outside dim 0",
            ),
            refuses(
                lambda: dy.strided_select(dy.zeros(5), [1], [-1], [5]),
                ValueError,
                "^strided_select: range -1:5 is outside dim 0",
            ),
            refuses(
                lambda: dy.strided_select(dy.zeros(5), [1], [7], [5]),
                ValueError,
                "^strided_select: range 7:5 is outside dim 0",
            ),
            refuses(
                lambda: dy.strided_select(dy.zeros(5), [1, 1], [0, 0], [5, 2]),
                ValueError,
                "^strided_select: range 0:2 is outside the",
            ),
            refuses(
                lambda: dy.strided_select(dy.zeros(5), [1] * 3, [0], [5]),
                ValueError,
                "^strided_select: takes at most one entry per dim",
            ),
            refuses(
                lambda: dy.strided_select(dy.zeros(5), [0.5], [0], [5]),
                TypeError,
                "^strided_select: indices must be integers",
            ),
            refuses(
                lambda: dy.strided_select(3, [1], [0], [5]),
                TypeError,
                "^strided_select: takes expressions; got int",
            ),
        ],
    ),
    Row(
        "slice_batch",
        "strided_select of the batch",
        lambda x, strides, start, stop: dy.strided_select(x, strides, start, stop),
        strided,
        [
            case(tensor(1), strides=[1, 1], start=[0], stop=[1]),
            case(tensor(5, batch=3), strides=[2, 2], start=[0, 0], stop=[5, 3]),
            case(tensor(5, 4, batch=3), strides=[1, 1, 1], start=[0, 1, 1], stop=[5, 3, 2]),
        ],
        per_element=False,
    ),
    Row(
        "select",
        "select_rows",
        lambda x, rows: dy.select_rows(x, rows),
        lambda x, rows: x[list(rows)],
        [
            case(tensor(1), rows=[0]),
            case(tensor(5), rows=[4, 0, 4]),
            case(tensor(4, 3), rows=(2, 0, 2)),
            case(tensor(4, 3, batch=3), rows=[1, 1, 3, 0, 2]),
            case(tensor(4, 3, 2), rows=[np.int64(3)]),
            case(tensor(2, 2, 3, 1, 2, 1, 2), rows=[1, 0, 1]),
        ],
        errors=[
            refuses(
                lambda: dy.select_rows(dy.zeros((4, 3)), [0, 4]),
                ValueError,
                r"^select_rows: index 4 is outside dim 0 of x = \(4, 3\). Indices run from 0 to 3",
            ),
            refuses(
                lambda: dy.select_rows(dy.zeros((4, 3)), [-1]),
                ValueError,
                "^select_rows: index -1 is outside dim 0",
            ),
            refuses(
                lambda: dy.select_rows(dy.zeros((4, 3)), 1),
                TypeError,
                "^select_rows: indices must be integers",
            ),
            refuses(
                lambda: dy.select_rows(3, [0]),
                TypeError,
                "^select_rows: takes expressions; got int",
            ),
        ],
    ),
    Row(
        "select",
        "select_cols",
        lambda x, columns: dy.select_cols(x, columns),
        lambda x, columns: x[:, list(columns)],
        [
            case(tensor(1, 1), columns=[0]),
            case(tensor(3, 4), columns=[2, 0, 2]),
            case(tensor(20, 4, batch=3), columns=(3, 3)),
            case(tensor(3, 4, 2), columns=[1, 0]),
            case(tensor(1, 4, 3), columns=[1, 0, 3]),
        ],
        errors=[
            refuses(
                lambda: dy.select_cols(dy.zeros((3, 4)), [4]),
                ValueError,
                "^select_cols: index 4 is outside dim 1",
            ),
            refuses(
                lambda: dy.select_cols(dy.zeros(3), [0]),
                ValueError,
                r"^select_cols: dim 1 is not a dim of x = \(3,\)",
            ),
        ],
    ),
    Row(
        "pick_batch_elems",
        "pick_batch_elems",
        lambda x, vs: dy.pick_batch_elems(x, vs),
        lambda x, vs: x[..., list(vs)],
        [
            case(tensor(1), vs=[0]),
            case(tensor(5), vs=[0, 0]),
            case(tensor(5, batch=3), vs=[2, 0, 2, 2]),
            case(tensor(3, 4, batch=3), vs=(1,)),
            case(tensor(2, 1, 2, 1, 2, 1, 3, batch=2), vs=[1, 1, 0]),
        ],
        per_element=False,
        errors=[
            refuses(
                lambda: dy.pick_batch_elems(dy.zeros(5, batch_size=3), [0, 3]),
                ValueError,
                r"^pick_batch_elems: index 3 is outside the batch of x = \(5,\) x 3. Batch elements"
                r" are counted from 0 to 2",
            ),
            refuses(
                lambda: dy.pick_batch_elems(dy.zeros(5), 0),
                TypeError,
                "^pick_batch_elems: indices must be integers",
            ),
        ],
    ),
]
