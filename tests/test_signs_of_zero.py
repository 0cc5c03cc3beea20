"""The sign of a zero: 1 / x tells 0.0 from -0.0."""

import numpy as np
import pytest

import dist_dynet as dy

ZEROS = np.array([0.0, -0.0, 1.0, -1.0])


def has(expression, expected):
    value = np.asarray(expression.npvalue())
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(np.signbit(value), np.signbit(expected))


@pytest.mark.parametrize(
    "scale",
    [
        lambda x: -x,
        lambda x: x * -2,
        lambda x: x * 0.0,
        lambda x: 3.0 * x,
        lambda x: x / -4,
        lambda x: x * np.float32(-1),
        lambda x: np.float64(-2) * x,
    ],
    ids=["-x", "x * -2", "x * 0.0", "3.0 * x", "x / -4", "float32", "float64"],
)
def test_products_with_numbers(scale):
    x = dy.inputVector(ZEROS)
    has(scale(x), scale(ZEROS))
    has(dy.traced(scale)(x), scale(ZEROS))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33])
def test_copies(n):
    x = np.resize(np.array([-0.0, 0.0, -0.0]), (n, n + 1))
    e = dy.inputTensor(x)
    has(dy.transpose(e), x.T)
    has(e[:, 1:], x[:, 1:])
    has(dy.transpose(e)[1:], x.T[1:])
    has(dy.pick_range(e, 0, n, 1), x[:, :n])
    has(dy.select_rows(e, [0, n - 1]), x[[0, n - 1]])
    has(dy.concatenate([e, e]), np.concatenate([x, x]))
