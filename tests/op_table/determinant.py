"""Inverse and determinant."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, column, extreme, per_batch, refuses, tensor

inf, nan = np.inf, np.nan


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


ROWS = [
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
]
