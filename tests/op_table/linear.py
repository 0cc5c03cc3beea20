"""Linear algebra. Sizes beyond a few columns reach each of the kernels: plain, small_n, BLAS's gemv
and gemm."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, column, extreme, per_batch, ranges, refuses, tensor

inf, nan = np.inf, np.nan


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


# ---- inverse, determinant --------------------------------------------------------------

SQUARE = [
    case(tensor(1)),
    case(tensor(1, 1)),
    case(tensor(2, 2)),
    case(tensor(3, 3, batch=3)),
    case(tensor(32, 32)),
    case(tensor(33, 33)),
    case(tensor(70, 70)),
]


def near_identity(rng, inputs, **_):
    """Well-conditioned matrices of positive determinant whose rows must be exchanged: none of them
    has its largest number at the top."""
    n = inputs[0].dims[0]
    order = [1, 2, 0, *range(3, n)] if n >= 3 else range(n)  # an even permutation
    identity = np.eye(n)[list(order)].reshape(*inputs[0].dims, 1)
    return [2 * identity + rng.uniform(-1, 1, inputs[0].shape) / n]


@per_batch
def inverse(x):
    x_matrix = column(x)
    return (
        np.full(x.shape, nan)
        if np.linalg.det(x_matrix) == 0
        else np.linalg.inv(x_matrix).reshape(x.shape)
    )


@per_batch
def logdet(x):
    sign, log = np.linalg.slogdet(column(x))
    return np.array([nan if sign < 0 else log])


def not_square(name):
    return [
        refuses(
            lambda: getattr(dy, name)(dy.zeros((2, 3))),
            ValueError,
            rf"^{name}: the matrix must be square; got x = \(2, 3\)",
        ),
        refuses(
            lambda: getattr(dy, name)(dy.zeros(3)),
            ValueError,
            rf"^{name}: the matrix must be square; got x = \(3,\)",
        ),
        refuses(
            lambda: getattr(dy, name)(dy.zeros((2, 2, 2))),
            ValueError,
            f"^{name}: the matrix must be square",
        ),
        refuses(lambda: getattr(dy, name)(3), TypeError, f"^{name}: takes expressions; got int"),
    ]


def check_inverse(value, x):
    """What is left of the identity: of matrices without zeros, which need no exchange by chance."""
    for b in range(x.shape[-1]):
        if np.isfinite(value[..., b]).all():
            np.testing.assert_allclose(
                column(value[..., b]) @ column(x[..., b]), np.eye(x.shape[0]), atol=2e-5
            )


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


# ---- circular convolution --------------------------------------------------------------

CIRCULAR = [
    case(tensor(1), tensor(1)),
    case(tensor(2), tensor(2)),
    case(tensor(5), tensor(5)),
    case(tensor(7), tensor(7, 1)),
    case(tensor(40), tensor(40)),
    case(tensor(5, batch=3), tensor(5, batch=3)),
    case(tensor(5, batch=3), tensor(5)),
    case(tensor(5), tensor(5, batch=3)),
]


def circular(sign):
    def reference(u, v):
        u, v = u.ravel(), v.ravel()
        n = len(u)
        return np.array(
            [
                sum(
                    u[i] * v[(k + sign * i) % n] if sign > 0 else u[i] * v[(k - i) % n]
                    for i in range(n)
                )
                for k in range(n)
            ]
        )

    return per_batch(reference)


def circular_row(name, sign):
    def call(u, v):
        return getattr(dy, name)(u, v)

    return Row(
        name,
        name,
        call,
        circular(sign),
        CIRCULAR,
        errors=[
            refuses(
                lambda: call(dy.zeros(3), dy.zeros(4)),
                ValueError,
                rf"^{name}: u and v must be vectors of the same size; got u = \(3,\)",
            ),
            refuses(
                lambda: call(dy.zeros((3, 2)), dy.zeros((3, 2))),
                ValueError,
                f"^{name}: u and v must be vectors",
            ),
            refuses(
                lambda: call(dy.zeros(3, batch_size=2), dy.zeros(3, batch_size=3)),
                ValueError,
                f"^{name}: batch sizes must be equal or 1",
            ),
            refuses(
                lambda: call(dy.zeros(3), 0.5),
                TypeError,
                f"^{name}: takes expressions; got .*float",
            ),
        ],
    )


# ---- normalisation ---------------------------------------------------------------------

WEIGHT_NORM = [
    case(tensor(1), tensor(1)),
    case(tensor(5), tensor(1)),
    case(tensor(3, 4), tensor(1)),
    case(tensor(2, 3, 4), tensor(1, 1)),
    case(tensor(67), tensor(1)),
    case(tensor(3, 4, batch=3), tensor(1)),
    case(tensor(3, 4), tensor(1, batch=3)),
    case(tensor(3, 4, batch=3), tensor(1, batch=3)),
]
LAYER_NORM = [
    case(tensor(2), tensor(2), tensor(2)),
    case(tensor(5), tensor(5), tensor(5)),
    case(tensor(67), tensor(67), tensor(67)),
    case(tensor(3, 4), tensor(3, 4), tensor(3, 4)),
    case(tensor(3, 4), tensor(3), tensor(3, 1)),
    case(tensor(3, 4), tensor(3, 4), tensor(1)),
    case(tensor(3, 4), tensor(1), tensor(3)),
    case(tensor(2, 3, 4), tensor(2, 3), tensor(2)),
    case(tensor(5, batch=3), tensor(5), tensor(5)),
    case(tensor(5), tensor(5, batch=3), tensor(5)),
    case(tensor(3, 4, batch=3), tensor(3), tensor(3, 4, batch=3)),
]


Z = 1000 / (1000 + 1e-8)


@per_batch
def layer_norm(x, g, b):
    def shaped(a):
        return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))

    return shaped(g) * (x - x.mean()) / (x.std() + 1e-8) + shaped(b)


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
        "inverse",
        "inverse",
        lambda x: dy.inverse(x),
        inverse,
        SQUARE,
        sample=near_identity,
        check=check_inverse,
        errors=not_square("inverse"),
        extremes=[
            extreme("large", [1000], value=[1e-3], gradients=([-1e-6],)),
            extreme("negative", [-0.5], value=[-2], gradients=([-4],)),
            extreme("singular", [0], value=[nan]),
            extreme("NaN", [nan], value=[nan]),
            extreme("infinite", [inf], value=[0]),
        ],
    ),
    Row(
        "inverse",
        "inverse without a diagonal",
        lambda x: dy.inverse(x),
        inverse,
        SQUARE[:4],
        check=check_inverse,
    ),
    Row(
        "logdet",
        "logdet",
        lambda x: dy.logdet(x),
        logdet,
        SQUARE,
        sample=near_identity,
        errors=not_square("logdet"),
        extremes=[
            extreme("one", [1], value=[0], gradients=([1],)),
            extreme("large", [1000], value=[np.log(1000)], gradients=([1e-3],)),
            extreme("negative", [-1], value=[nan]),
            extreme("singular", [0], value=[-inf]),
            extreme("NaN", [nan], value=[nan]),
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
    circular_row("circ_conv", -1),
    circular_row("circ_corr", 1),
    Row(
        "weight_norm",
        "weight_norm",
        lambda w, g: dy.weight_norm(w, g),
        per_batch(lambda w, g: g.ravel()[0] * w / np.sqrt(np.sum(w * w))),
        WEIGHT_NORM,
        sample=ranges((0.3, 2), (-2, 2)),
        errors=[
            refuses(
                lambda: dy.weight_norm(dy.zeros(3), dy.zeros(3)),
                ValueError,
                r"^weight_norm: g must be one number; got w = \(3,\)",
            ),
            refuses(
                lambda: dy.weight_norm(dy.zeros(3), 2),
                TypeError,
                "^weight_norm: takes expressions; got .*int",
            ),
        ],
        extremes=[
            extreme(
                "large",
                [1000, 0, -1000],
                [1],
                value=[0.5**0.5, 0, -(0.5**0.5)],
                gradients=([0.5**0.5 / 1000] * 3, [0]),
            ),
            extreme("zero", [0, 0], [1], value=[nan, nan]),
        ],
    ),
    Row(
        "layer_norm",
        "layer_norm",
        lambda x, g, b: dy.layer_norm(x, g, b),
        layer_norm,
        LAYER_NORM,
        errors=[
            refuses(
                lambda: dy.layer_norm(dy.zeros((3, 4)), dy.zeros(4), dy.zeros(3)),
                ValueError,
                r"^layer_norm: g and b must have the dims of x, or the first ones of them; got x ="
                r" \(3, 4\), g = \(4,\), b = \(3,\)",
            ),
            refuses(
                lambda: dy.layer_norm(dy.zeros(3), dy.zeros((3, 2)), dy.zeros(3)),
                ValueError,
                "^layer_norm: g and b must",
            ),
            refuses(
                lambda: dy.layer_norm(dy.zeros(3), dy.zeros(3), 0),
                TypeError,
                "^layer_norm: takes expressions; got int",
            ),
        ],
        extremes=[
            extreme("one element", [5], [3], [2], value=[2], gradients=([0], [0], [1])),
            extreme(
                "equal",
                [0.1] * 7,
                [3.0] * 7,
                [2.0] * 7,
                value=[2] * 7,
                gradients=(None, [0] * 7, [1] * 7),
            ),
            extreme(
                "far apart",
                [1000, -1000],
                [1, 1],
                [0, 0],
                value=[Z, -Z],
                gradients=([0, 0], [Z, -Z], [1, 1]),
            ),
        ],
    ),
]
