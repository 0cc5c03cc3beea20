"""Functions along a dim of tensors of any size: lines that lie side by side, that are copied, and
that are contiguous give what NumPy gives."""

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet._ffi import DTYPE, lib

EPS = float(np.finfo(DTYPE).eps)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def log_softmax(x, axis):
    return np.log(softmax(x, axis))


def softmax_grad(y, dy_, axis):
    return y * (dy_ - (y * dy_).sum(axis, keepdims=True))


def log_softmax_grad(y, dy_, axis):
    return dy_ - np.exp(y) * dy_.sum(axis, keepdims=True)


ALL = np.ones(1)
FUNCTIONS = {
    "softmax": (dy.softmax, softmax, softmax_grad),
    "log_softmax": (lambda x, d: dy.log_softmax(x, None, d), log_softmax, log_softmax_grad),
    "masked_softmax": (lambda x, d: dy.masked_softmax(x, ALL, d), softmax, softmax_grad),
    "masked_log_softmax": (
        lambda x, d: dy.masked_log_softmax(x, ALL, d),
        log_softmax,
        log_softmax_grad,
    ),
}
# how many lines lie side by side: copied, in one block, in several, with and without a rest
WIDTHS = (1, 2, 15, 16, 17, 100, 256, 257, 600)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("width", WIDTHS)
def test_values_and_gradients_are_those_of_numpy(name, width, rng):
    f, value, gradient = FUNCTIONS[name]
    length, rest, batch = (int(n) for n in rng.integers(1, 9, 3))
    length = length * 20 if width % 2 else length
    numbers = (rng.normal(size=(width, length, rest, batch)) * 3).astype(DTYPE)
    weights = rng.normal(size=numbers.shape).astype(DTYPE)
    m = dy.ParameterCollection()
    p = m.parameters_from_numpy(numbers)
    y = f(dy.reshape(p, numbers.shape[:3], batch_size=batch), 1)
    right = value(numbers.astype(float), 1)
    np.testing.assert_allclose(
        y.npvalue().reshape(numbers.shape), right, rtol=20 * EPS, atol=20 * EPS
    )
    for _ in range(2):  # the second adds to the first
        weighted = dy.cmult(y, dy.inputTensor(weights, batched=True))
        dy.sum_batches(dy.sum_elems(weighted)).backward()
    np.testing.assert_allclose(
        p.grad_as_array(),
        2 * gradient(right, weights.astype(float), 1),
        rtol=100 * EPS,
        atol=200 * EPS,
    )


@pytest.mark.parametrize("f", [dy.softmax, lambda x, d: dy.log_softmax(x, None, d)])
def test_sums_of_long_lines_lose_no_digits(f):
    """0.1 added up a million times, one after another, would be 1 % wrong in float32."""
    x = dy.zeros((16, 1_000_000))
    found = f(x, 1).npvalue()
    right = f(dy.zeros(1_000_000), 0).npvalue()[0]
    np.testing.assert_allclose(found, np.full_like(found, right), rtol=10 * EPS)


ODD = {
    "nan": [1, np.nan, 2],
    "nan and inf": [np.inf, np.nan, 2],
    "inf": [1, np.inf, 2],
    "two inf": [np.inf, np.inf, 2],
    "-inf": [1, -np.inf, 2],
    "-inf alone": [-np.inf] * 3,
    "huge": [3e38, -3e38, 3e38],
    "tiny": [1e-45, -1e-45, 0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_lines_are_alike_wherever_they_lie(name, odd):
    """And the lines beside them are as they were."""
    f = FUNCTIONS[name][0]
    line = np.array(ODD[odd])
    alone = f(dy.inputVector(line), 0).npvalue()
    for width in (2, 16, 300):
        x = np.zeros((width, 3))
        x[width // 2] = line
        y = f(dy.inputTensor(x), 1).npvalue()
        np.testing.assert_allclose(y[width // 2], alone, rtol=20 * EPS)
        others = np.delete(y, width // 2, 0)
        right = f(dy.zeros(3), 0).npvalue()
        np.testing.assert_allclose(others, np.tile(right, (width - 1, 1)), rtol=20 * EPS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_more_threads_give_the_same_bits(name, rng, usual_threads):
    f = FUNCTIONS[name][0]
    m = dy.ParameterCollection()
    p = m.parameters_from_numpy(rng.normal(size=(700, 300)))

    def bits():
        dy.renew_cg()
        p.clear_gradient()
        y = f(p, 1)
        dy.sum_elems(dy.square(y)).backward()
        return y.npvalue().tobytes(), p.grad_as_array().tobytes()

    dy.init(threads=1)
    one = bits()
    lib.dn_share_work(0, 0)  # however small a computation is
    dy.init(threads=3)
    assert bits() == one


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("k", [1, 3, 40])
def test_k_greatest_are_those_of_a_stable_sort(width, k, rng):
    """nan comes first, the earlier of equal ones before the later."""
    x = rng.integers(-9, 10, (width, 40, 2)).astype(DTYPE)
    x[rng.random(x.shape) < 0.05] = np.nan
    order = np.argsort(np.where(np.isnan(x), -np.inf, -x), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(
        dy.topk(dy.inputTensor(x), k, 1).npvalue().reshape(width, k, 2),
        np.take_along_axis(x, order, 1),
    )
    np.testing.assert_array_equal(
        dy.kmax_pooling(dy.inputTensor(x), k, 1).npvalue().reshape(width, k, 2),
        np.take_along_axis(x, np.sort(order, 1), 1),
    )
