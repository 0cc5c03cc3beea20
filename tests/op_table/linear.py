"""Linear algebra. Sizes beyond a few columns reach each of the kernels: plain, small_n, BLAS's gemv
and gemm."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, column, per_batch, refuses, tensor


@per_batch
def matmul(a, b):
    y = column(a) @ column(b)
    return y if b.ndim > 1 else y[:, 0]


@per_batch
def affine(b, *pairs):
    if not pairs:
        return b
    y = sum(column(w) @ column(x) for w, x in zip(pairs[::2], pairs[1::2], strict=True)) + column(b)
    return y if y.shape[1] > 1 else y[:, 0]


MATMUL = [
    case(tensor(1), tensor(1)),
    case(tensor(3, 4), tensor(4)),
    case(tensor(3, 4), tensor(4, 2)),
    case(tensor(4, 4), tensor(4, 4)),
    case(tensor(1, 4), tensor(4)),
    case(tensor(4), tensor(1, 3)),
    case(tensor(4), tensor(1)),
    case(tensor(3, 4), tensor(4, 1)),
    case(tensor(3, 4), tensor(4, batch=3)),
    case(tensor(3, 4), tensor(4, 2, batch=3)),
    case(tensor(3, 4, batch=3), tensor(4, batch=3)),
    case(tensor(3, 4, batch=3), tensor(4, 2)),
    case(tensor(3, 4, batch=3), tensor(4, 2, batch=3)),
    case(tensor(70, 65), tensor(65)),
    case(tensor(70, 65), tensor(65, 3)),
    case(tensor(33, 17), tensor(17, 70)),
    case(tensor(40, 35), tensor(35, 3, batch=7)),
    case(tensor(35, 40, batch=3), tensor(40)),
    case(tensor(35, 40, batch=3), tensor(40, 9, batch=3)),
    case(tensor(2, 300), tensor(300, 2)),
    case(tensor(300, 2), tensor(2)),
]
AFFINE = [
    case(tensor(1), tensor(1), tensor(1)),
    case(tensor(3)),
    case(tensor(3, 2, batch=3)),
    case(tensor(3), tensor(3, 4), tensor(4)),
    case(tensor(3), tensor(3, 4), tensor(4, 1)),
    case(tensor(3), tensor(3, 4), tensor(4), tensor(3, 2), tensor(2)),
    case(tensor(3), tensor(3, 4), tensor(4, 2)),
    case(tensor(3, 2), tensor(3, 4), tensor(4, 2)),
    case(tensor(3, 1), tensor(3, 4), tensor(4, 2)),
    case(tensor(3), tensor(3, 4), tensor(4, batch=3)),
    case(tensor(3), tensor(3, 4), tensor(4), tensor(3, 2), tensor(2, batch=3)),
    case(tensor(3, batch=3), tensor(3, 4), tensor(4)),
    case(tensor(3), tensor(3, 4, batch=3), tensor(4)),
    case(tensor(3, batch=3), tensor(3, 4, batch=3), tensor(4, 2, batch=3)),
    case(tensor(70), tensor(70, 65), tensor(65, batch=7)),
    case(tensor(33), tensor(33, 20), tensor(20, 5, batch=3), tensor(33, 17), tensor(17, 5)),
]


def pair(f):
    """f(x, y) of two flat arrays -> a number, for each batch element."""
    return per_batch(lambda x, y: np.array([f(x.ravel("F"), y.ravel("F"))]))


PAIRS = [
    case(tensor(1), tensor(1)),
    case(tensor(5), tensor(5)),
    case(tensor(67), tensor(67)),
    case(tensor(3, 4), tensor(3, 4)),
    case(tensor(2, 3, 2), tensor(2, 3, 2)),
    case(tensor(5, batch=3), tensor(5, batch=3)),
    case(tensor(5, batch=3), tensor(5)),
    case(tensor(3, 4), tensor(3, 4, batch=3)),
]


# ---- tensors of three dims -------------------------------------------------------------

CONTRACT = [
    case(tensor(1, 1, 1), tensor(1)),
    case(tensor(2, 3, 4), tensor(4)),
    case(tensor(2, 3, 4), tensor(4, 1)),
    case(tensor(2, 3, 4, batch=3), tensor(4, batch=3)),
    case(tensor(2, 3, 4, batch=3), tensor(4)),
    case(tensor(2, 3, 4), tensor(4, batch=3)),
    case(tensor(9, 8, 35), tensor(35, batch=4)),
]


def contract(x, y, *bias):
    return np.einsum("ijk,k->ij", x, y.ravel()) + (bias[0] if bias else 0)


def contract_twice(x, y, z, *bias):
    return contract(x, y) @ z.ravel() + (bias[0] if bias else 0)


def more(cases, *inputs):
    """The cases with these functions of the dims of x as further inputs; every second one with a
    batch where x or y has one."""
    return [
        case(
            *c.inputs,
            *[
                tensor(*f(c.inputs[0].dims), batch=c.batch if (i + k) % 2 else 1)
                for k, f in enumerate(inputs)
            ],
        )
        for i, c in enumerate(cases)
    ]


ROWS = [
    Row(
        "matmul",
        "matmul",
        lambda a, b: dy.matmul(a, b),
        matmul,
        MATMUL,
        errors=[
            refuses(
                lambda: dy.matmul(dy.zeros((3, 2)), 2),
                TypeError,
                "^matmul: takes expressions; got .*int",
            ),
        ],
    ),
    Row(
        "matmul",
        "times",
        lambda a, b: a * b,
        matmul,
        MATMUL[:3],
        errors=[
            refuses(
                lambda: dy.zeros((4, 3)) * dy.zeros((4, 2)),
                ValueError,
                r"^matmul: columns of a must equal rows of b; got a = \(4, 3\), b = \(4, 2\). Did"
                r" you mean transpose\(a\) \* b\?",
            ),
            refuses(
                lambda: dy.zeros((3, 4)) * dy.zeros((2, 4)),
                ValueError,
                r"^matmul: columns of a.*Did you mean a \* transpose\(b\)\?",
            ),
            refuses(
                lambda: dy.zeros(4) * dy.zeros(4),
                ValueError,
                r"^matmul: .*Did you mean transpose\(a\) \* b, dot_product\(a, b\) or cmult\(a,"
                r" b\)\?",
            ),
            refuses(
                lambda: dy.zeros((2, 3)) * dy.zeros(7),
                ValueError,
                r"^matmul: columns of a must equal rows of b; got a = \(2, 3\), b = \(7,\)\.$",
            ),
            refuses(
                lambda: dy.zeros((2, 3, 4)) * dy.zeros(4),
                ValueError,
                r"^matmul: both inputs must be matrices or vectors; got a = \(2, 3, 4\)",
            ),
            refuses(
                lambda: dy.zeros((2, 3), batch_size=2) * dy.zeros(3, batch_size=3),
                ValueError,
                "^matmul: batch sizes must be equal or 1; got 2 and 3",
            ),
            refuses(lambda: dy.zeros(3) * "a", TypeError, "unsupported operand|can't multiply"),
        ],
    ),
    Row("matmul", "at", lambda a, b: a @ b, matmul, MATMUL[:3]),
    Row(
        "matmul",
        "times an array",
        lambda x: x * np.eye(3) * 2.0,
        per_batch(lambda x: x @ (np.eye(3) * 2.0)),
        [case(tensor(1, 3)), case(tensor(3, 3)), case(tensor(2, 3, batch=3))],
    ),
    Row(
        "matmul",
        "an array times",
        lambda x: np.array([[1.0, 2, 3], [4, 5, 6]]) * x,
        per_batch(lambda x: np.array([[1.0, 2, 3], [4, 5, 6]]) @ x),
        [case(tensor(3)), case(tensor(3, 2)), case(tensor(3, batch=3))],
    ),
    Row(
        "affine_transform",
        "affine_transform",
        lambda *xs: dy.affine_transform(xs),
        affine,
        AFFINE,
        errors=[
            refuses(
                lambda: dy.affine_transform([]),
                AssertionError,
                "List is empty, nothing to affine_transform",
            ),
            refuses(
                lambda: dy.affine_transform([dy.zeros(3), dy.zeros((3, 4))]),
                ValueError,
                "^affine_transform: takes an odd number of expressions.*got 2",
            ),
            refuses(
                lambda: dy.affine_transform([dy.zeros(3), dy.zeros((3, 4)), dy.zeros(5)]),
                ValueError,
                r"^affine_transform: columns of W_1 must equal rows of x_1; got W_1 = \(3, 4\), x_1"
                r" = \(5,\)",
            ),
            refuses(
                lambda: dy.affine_transform([dy.zeros(2), dy.zeros((3, 4)), dy.zeros(4)]),
                ValueError,
                r"^affine_transform: the bias must have the dims of the products.*b = \(2,\),"
                r" products \(3, 1\)",
            ),
            refuses(
                lambda: dy.affine_transform([dy.zeros((3, 3)), dy.zeros((3, 4)), dy.zeros((4, 2))]),
                ValueError,
                "^affine_transform: the bias must",
            ),
            refuses(
                lambda: dy.affine_transform(
                    [dy.zeros(3), dy.zeros((3, 4)), dy.zeros(4), dy.zeros((2, 4)), dy.zeros(4)]
                ),
                ValueError,
                r"^affine_transform: all products must have the same dims; got \(3, 1\) and W_2 x_2"
                r" = \(2, 1\)",
            ),
            refuses(
                lambda: dy.affine_transform([dy.zeros(3), dy.zeros((3, 4, 2)), dy.zeros(4)]),
                ValueError,
                "^affine_transform: columns of W_1",
            ),
            refuses(
                lambda: dy.affine_transform([dy.zeros(3), 2, dy.zeros(4)]),
                TypeError,
                "^affine_transform: takes expressions; got int",
            ),
            refuses(
                lambda: dy.affine_transform(dy.zeros(3)),
                TypeError,
                "^affine_transform: takes a list of expressions",
            ),
        ],
    ),
    Row(
        "dot_product",
        "trace_of_product",
        lambda x, y: dy.trace_of_product(x, y),
        pair(np.dot),
        PAIRS,
        errors=[
            refuses(
                lambda: dy.trace_of_product(dy.zeros((2, 3)), dy.zeros((3, 2))),
                ValueError,
                "must have the same dims",
            )
        ],
    ),
    Row(
        "contract3d_1d",
        "contract3d_1d",
        lambda x, y: dy.contract3d_1d(x, y),
        per_batch(contract),
        CONTRACT,
        errors=[
            refuses(
                lambda: dy.contract3d_1d(dy.zeros((2, 3, 4)), dy.zeros(3)),
                ValueError,
                r"^contract3d_1d: x must be \(a, b, c\) and y a vector \(c,\); got x = \(2, 3, 4\),"
                r" y = \(3,\)",
            ),
            refuses(
                lambda: dy.contract3d_1d(dy.zeros((2, 3)), dy.zeros(3)),
                ValueError,
                r"^contract3d_1d: x must be \(a, b, c\)",
            ),
            refuses(
                lambda: dy.contract3d_1d(dy.zeros((2, 3, 4)), 2),
                TypeError,
                "^contract3d_1d: takes expressions; got int",
            ),
        ],
    ),
    Row(
        "contract3d_1d",
        "contract3d_1d_bias",
        lambda x, y, b: dy.contract3d_1d_bias(x, y, b),
        per_batch(contract),
        more(CONTRACT, lambda d: d[:2]),
        errors=[
            refuses(
                lambda: dy.contract3d_1d_bias(dy.zeros((2, 3, 4)), dy.zeros(4), dy.zeros(2)),
                ValueError,
                r"^contract3d_1d_bias: the bias must have the first two dims of x; got x = \(2, 3,"
                r" 4\), b = \(2,\)",
            ),
        ],
    ),
    Row(
        "contract3d_1d",
        "contract3d_1d_1d",
        lambda x, y, z: dy.contract3d_1d_1d(x, y, z),
        per_batch(contract_twice),
        more(CONTRACT, lambda d: d[1:2]),
        errors=[
            refuses(
                lambda: dy.contract3d_1d_1d(dy.zeros((2, 3, 4)), dy.zeros(4), dy.zeros(2)),
                ValueError,
                "^contract3d_1d_1d: columns of a",
            )
        ],
    ),
    Row(
        "contract3d_1d",
        "contract3d_1d_1d_bias",
        lambda x, y, z, b: dy.contract3d_1d_1d_bias(x, y, z, b),
        per_batch(contract_twice),
        more(CONTRACT, lambda d: d[1:2], lambda d: d[:1]),
    ),
]
