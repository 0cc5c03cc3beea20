"""Windows over images and over the columns of matrices."""

import numpy as np

import dist_dynet as dy

from .choice import spread
from .row import Row, case, extreme, per_batch, refuses, tensor


def padded(x, window, stride, is_valid, value):
    """x with `value` around it, and the number of windows, in height and width."""
    counts, around = [], []
    for n, w, s in zip(x.shape, window, stride, strict=False):
        counts.append(-(-(n - w + 1) // s) if is_valid else -(-n // s))
        room = 0 if is_valid else max((counts[-1] - 1) * s + w - n, 0)
        around.append((room // 2, room - room // 2))
    return np.pad(x, [*around, *[(0, 0)] * (x.ndim - 2)], constant_values=value), counts


def windows(x, window, stride, is_valid, value):
    """(h, w, the window of the output at h, w) for each output."""
    x, (height, width) = padded(x, window, stride, is_valid, value)
    for h in range(height):
        for w in range(width):
            top, left = h * stride[0], w * stride[1]
            yield h, w, x[top : top + window[0], left : left + window[1]]


@per_batch
def correlated(x, f, b=0, *, stride, is_valid):
    f = f.reshape(f.shape + (1,) * (4 - f.ndim))
    x = x.reshape((*x.shape[:2], -1))
    seen = list(windows(x, f.shape[:2], stride, is_valid, 0))
    y = np.zeros((seen[-1][0] + 1, seen[-1][1] + 1, f.shape[3]))
    for h, w, part in seen:
        y[h, w] = np.tensordot(part, f, 3) + b
    return y


@per_batch
def greatest(x, *, ksize, stride, is_valid):
    seen = list(windows(x, ksize, stride, is_valid, -np.inf))
    y = np.zeros((seen[-1][0] + 1, seen[-1][1] + 1, *x.shape[2:]))
    for h, w, part in seen:
        y[h, w] = part.max((0, 1))
    return y


@per_batch
def filtered(x, f):
    f = f.reshape((*f.shape[:2], -1))
    n = x.shape[1] - f.shape[1] + 1
    return np.stack([np.einsum("il,ilk->k", x[:, j : j + f.shape[1]], f) for j in range(n)], axis=1)


def neighbours(x, v):
    return sum(x[:, j : x.shape[1] - v + 1 + j] for j in range(v))


def folded(x, nrows):
    x = x.reshape((x.shape[0], -1, x.shape[1])) if x.ndim == 2 else x
    return sum(x[j::nrows] for j in range(nrows))


def conv2d(x, f, stride, is_valid):
    return dy.conv2d(x, f, stride, is_valid)


def image():
    return dy.zeros((5, 4, 2))


def filters(*dims):
    return dy.zeros(dims)


CONVOLUTIONS = [
    case(tensor(1, 1), tensor(1, 1, 1, 1), stride=[1, 1], is_valid=True),
    case(tensor(5, 4, 2), tensor(3, 2, 2, 3), stride=[1, 1], is_valid=True),
    case(tensor(5, 4, 2), tensor(3, 2, 2, 3), stride=[1, 1], is_valid=False),
    case(tensor(7, 6, 2), tensor(3, 2, 2, 3), stride=(2, 3), is_valid=True),
    case(tensor(7, 6, 2), tensor(4, 4, 2, 3), stride=(3, 2), is_valid=False),
    case(tensor(5, 4), tensor(2, 3, 1, 2), stride=[1, 1], is_valid=True),
    case(tensor(5, 4), tensor(2, 3), stride=[1, 2], is_valid=False),
    case(tensor(3, 4, 2), tensor(1, 1, 2, 3), stride=[1, 1], is_valid=True),
    case(tensor(3, 4, 2), tensor(1, 1, 2, 3), stride=[2, 2], is_valid=False),
    case(tensor(3, 2, 2), tensor(6, 5, 2, 2), stride=[1, 1], is_valid=False),
    case(tensor(3, 2, 2), tensor(1, 2, 2, 2), stride=[2**31 - 1, 9], is_valid=True),
    case(tensor(5, 4, 2, batch=3), tensor(3, 2, 2, 3), stride=[1, 1], is_valid=True),
    case(tensor(5, 4, 2, batch=3), tensor(3, 3, 2, 3), stride=[2, 1], is_valid=False),
    case(tensor(3, 4, 2, batch=3), tensor(1, 1, 2, 3), stride=[1, 1], is_valid=True),
    case(tensor(5, 4, 2), tensor(3, 2, 2, 3, batch=2), stride=[1, 1], is_valid=True),
    case(tensor(5, 4, 2, batch=2), tensor(3, 2, 2, 3, batch=2), stride=[1, 1], is_valid=False),
    case(tensor(3, 4, 2), tensor(1, 1, 2, 3, batch=2), stride=[1, 1], is_valid=True),
    case(tensor(24, 30, 1), tensor(5, 5, 1, 2), stride=[1, 1], is_valid=False),
]

ROWS = [
    Row(
        "conv2d",
        "conv2d",
        conv2d,
        correlated,
        CONVOLUTIONS,
        errors=[
            refuses(
                lambda: dy.conv2d(image(), filters(2, 2, 2, 3), [0, 1]),
                ValueError,
                r"^conv2d: strides must be 1 or more; got stride = \[0, 1\]",
            ),
            refuses(
                lambda: dy.conv2d(image(), filters(2, 2, 2, 3), [1, -1]),
                ValueError,
                "^conv2d: strides must be 1 or more",
            ),
            refuses(
                lambda: dy.conv2d(image(), filters(2, 2, 2, 3), [1]),
                ValueError,
                r"^conv2d: stride must have two numbers.*; got \[1\]",
            ),
            refuses(
                lambda: dy.conv2d(image(), filters(2, 2, 2, 3), 1),
                ValueError,
                "^conv2d: stride must have two numbers",
            ),
            refuses(
                lambda: dy.conv2d(image(), filters(2, 2, 2, 3), [0.5, 1]),
                TypeError,
                "^conv2d: indices must be integers",
            ),
            refuses(
                lambda: dy.conv2d(image(), filters(6, 2, 2, 3), [1, 1]),
                ValueError,
                r"^conv2d: the filter must not be larger than x; got 6 x 2 for x = \(5, 4, 2\). Use"
                r" is_valid=False",
            ),
            refuses(
                lambda: dy.conv2d(image(), filters(0, 2, 2, 3), [1, 1]),
                ValueError,
                "^conv2d: the filter must be 1 or more in each dim",
            ),
            refuses(
                lambda: dy.conv2d(image(), filters(2, 2, 3, 3), [1, 1]),
                ValueError,
                r"^conv2d: f must have dims \(height, width, channels of x, output channels\); got"
                r" x = \(5, 4, 2\), f = \(2, 2, 3, 3\)",
            ),
            refuses(
                lambda: dy.conv2d(dy.zeros(5), filters(2, 1, 1, 3), [1, 1]),
                ValueError,
                r"^conv2d: x must have dims .*; got x = \(5,\)",
            ),
            refuses(
                lambda: dy.conv2d(dy.zeros((5, 4, 2, 1)), filters(2, 2, 2, 3), [1, 1]),
                ValueError,
                "^conv2d: x must have dims",
            ),
            refuses(
                lambda: dy.conv2d(
                    dy.zeros((5, 4), batch_size=2), dy.zeros((2, 2), batch_size=3), [1, 1]
                ),
                ValueError,
                "^conv2d: batch sizes must be equal or 1",
            ),
        ],
    ),
    Row(
        "conv2d_bias",
        "conv2d_bias",
        lambda x, f, b, stride, is_valid: dy.conv2d_bias(x, f, b, stride, is_valid),
        correlated,
        [
            case(tensor(1, 1), tensor(1, 1, 1, 1), tensor(1), stride=[1, 1], is_valid=True),
            case(tensor(5, 4, 2), tensor(3, 2, 2, 3), tensor(3), stride=[1, 1], is_valid=True),
            case(
                tensor(5, 4, 2, batch=3),
                tensor(3, 2, 2, 3),
                tensor(3),
                stride=[2, 1],
                is_valid=False,
            ),
            case(
                tensor(5, 4, 2),
                tensor(3, 2, 2, 3),
                tensor(3, batch=2),
                stride=[1, 1],
                is_valid=True,
            ),
            case(
                tensor(3, 4, 2, batch=3),
                tensor(1, 1, 2, 3),
                tensor(3),
                stride=[1, 1],
                is_valid=True,
            ),
        ],
        errors=[
            refuses(
                lambda: dy.conv2d_bias(image(), filters(2, 2, 2, 3), dy.zeros(2), [1, 1]),
                ValueError,
                r"^conv2d_bias: the bias must have one number per output channel; got f = \(2, 2,"
                r" 2, 3\), b = \(2,\)",
            ),
            refuses(
                lambda: dy.conv2d_bias(image(), filters(2, 2, 2, 3), dy.zeros((1, 3)), [1, 1]),
                ValueError,
                "^conv2d_bias: the bias must",
            ),
        ],
    ),
    Row(
        "maxpooling2d",
        "maxpooling2d",
        lambda x, ksize, stride, is_valid: dy.maxpooling2d(x, ksize, stride, is_valid),
        greatest,
        [
            case(tensor(1, 1), ksize=[1, 1], stride=[1, 1], is_valid=True),
            case(tensor(5, 4, 2), ksize=[2, 2], stride=[1, 1], is_valid=True),
            case(tensor(5, 4, 2), ksize=(2, 3), stride=(2, 2), is_valid=False),
            case(tensor(7, 6), ksize=[3, 2], stride=[2, 3], is_valid=True),
            case(tensor(3, 2), ksize=[6, 9], stride=[1, 1], is_valid=False),
            case(tensor(5, 4, 2, batch=3), ksize=[2, 2], stride=[2, 2], is_valid=True),
            case(tensor(5, 4, batch=3), ksize=[3, 3], stride=[1, 1], is_valid=False),
        ],
        sample=spread,
        errors=[
            refuses(
                lambda: dy.maxpooling2d(image(), [2, 2], [1, 0]),
                ValueError,
                "^maxpooling2d: strides must be 1 or more",
            ),
            refuses(
                lambda: dy.maxpooling2d(image(), [0, 2], [1, 1]),
                ValueError,
                "^maxpooling2d: the window must be 1 or more in each dim",
            ),
            refuses(
                lambda: dy.maxpooling2d(image(), [2], [1, 1]),
                ValueError,
                "^maxpooling2d: ksize must have two numbers",
            ),
            refuses(
                lambda: dy.maxpooling2d(image(), [2, 2], [1]),
                ValueError,
                "^maxpooling2d: stride must have two numbers",
            ),
            refuses(
                lambda: dy.maxpooling2d(image(), [6, 2], [1, 1]),
                ValueError,
                r"^maxpooling2d: the window must not be larger than x; got 6 x 2 for x = \(5,"
                r" 4, 2\)",
            ),
            refuses(
                lambda: dy.maxpooling2d(dy.zeros(5), [1, 1], [1, 1]),
                ValueError,
                "^maxpooling2d: x must have dims",
            ),
            refuses(
                lambda: dy.maxpooling2d(3, [1, 1], [1, 1]),
                TypeError,
                "^maxpooling2d: takes expressions; got int",
            ),
        ],
    ),
    Row(
        "maxpooling2d",
        "maxpooling2d of a column",
        lambda x, n: dy.reshape(dy.maxpooling2d(dy.reshape(x, (n, 1)), [2, 1], [2, 1]), n // 2),
        lambda x, n: np.stack([x[2 * i : 2 * i + 2].max(0) for i in range(n // 2)]),
        [case(tensor(2), n=2), case(tensor(5), n=5)],
        sample=spread,
        extremes=[
            extreme("ties", [2.0, 2, 0, 0], value=[2.0, 0], gradients=([1, 0, 1, 0],), n=4),
            extreme(
                "nan",
                [2.0, np.nan, np.nan, 3],
                value=[np.nan, np.nan],
                gradients=([0, 1, 1, 0],),
                n=4,
            ),
            extreme(
                "infinities",
                [-np.inf, -np.inf, np.inf, 0],
                value=[-np.inf, np.inf],
                gradients=([1, 0, 1, 0],),
                n=4,
            ),
        ],
    ),
    Row(
        "filter1d_narrow",
        "filter1d_narrow",
        lambda x, f: dy.filter1d_narrow(x, f),
        filtered,
        [
            case(tensor(1, 1), tensor(1, 1)),
            case(tensor(4, 5), tensor(4, 2)),
            case(tensor(4, 5), tensor(4, 2, 3)),
            case(tensor(4, 5), tensor(4, 5, 3)),
            case(tensor(20, 9), tensor(20, 3, 40)),
            case(tensor(4, 5, batch=3), tensor(4, 2, 3)),
            case(tensor(4, 5), tensor(4, 2, 3, batch=2)),
            case(tensor(4, 5, batch=2), tensor(4, 2, batch=2)),
        ],
        errors=[
            refuses(
                lambda: dy.filter1d_narrow(dy.zeros((4, 3)), dy.zeros((3, 2))),
                ValueError,
                r"^filter1d_narrow: takes x = \(rows, columns\) and f = .*; got x = \(4, 3\), f ="
                r" \(3, 2\)",
            ),
            refuses(
                lambda: dy.filter1d_narrow(dy.zeros((4, 3)), dy.zeros((4, 5))),
                ValueError,
                "^filter1d_narrow: the width of f must be from 1",
            ),
            refuses(
                lambda: dy.filter1d_narrow(dy.zeros(4), dy.zeros((4, 1))),
                ValueError,
                "^filter1d_narrow: takes x",
            ),
            refuses(
                lambda: dy.filter1d_narrow(dy.zeros((4, 3)), 3),
                TypeError,
                "^filter1d_narrow: takes expressions",
            ),
        ],
    ),
    Row(
        "kmh_ngram",
        "kmh_ngram",
        lambda x, v: dy.kmh_ngram(x, v),
        neighbours,
        [
            case(tensor(1, 1), v=1),
            case(tensor(3, 5), v=1),
            case(tensor(3, 5), v=2),
            case(tensor(3, 5), v=5),
            case(tensor(3, 5, batch=3), v=3),
            case(tensor(3, 4, 2, batch=2), v=2),
            case(tensor(2, 3, 1, 2, 1, 2, 2), v=2),
        ],
        errors=[
            refuses(
                lambda: dy.kmh_ngram(dy.zeros((3, 4)), 5),
                ValueError,
                r"^kmh_ngram: v must be from 1 to the columns of x; got v = 5, x = \(3, 4\)",
            ),
            refuses(
                lambda: dy.kmh_ngram(dy.zeros((3, 4)), 0),
                ValueError,
                "^kmh_ngram: v must be from 1",
            ),
            refuses(
                lambda: dy.kmh_ngram(dy.zeros(3), 1),
                ValueError,
                r"^kmh_ngram: x must be a matrix; got x = \(3,\)",
            ),
        ],
    ),
    Row(
        "fold_rows",
        "fold_rows",
        lambda x, nrows: dy.fold_rows(x, nrows),
        folded,
        [
            case(tensor(1), nrows=1),
            case(tensor(6), nrows=3),
            case(tensor(4, 3), nrows=2),
            case(tensor(4, 3), nrows=4),
            case(tensor(4, 3, batch=3), nrows=2),
            case(tensor(4, 3, 2, batch=2), nrows=2),
            case(tensor(4, 2, 1, 2, 1, 2, 3), nrows=2),
        ],
        errors=[
            refuses(
                lambda: dy.fold_rows(dy.zeros((4, 3)), 3),
                ValueError,
                r"^fold_rows: the rows of x must be a multiple of nrows; got nrows = 3, x ="
                r" \(4, 3\)",
            ),
            refuses(
                lambda: dy.fold_rows(dy.zeros((4, 3)), 0),
                ValueError,
                "^fold_rows: .* multiple of nrows; got nrows = 0",
            ),
            refuses(
                lambda: dy.fold_rows(dy.zeros((4, 3)), -2),
                ValueError,
                "^fold_rows: the rows of x must be a multiple",
            ),
        ],
    ),
]
