"""Sums of so many numbers that one of float32 loses them: it takes up nothing any more once it is
2^24 times as large as what is added (csrc/dn_real.h, DN_MANY). In each, all terms are equal.

How long: half a minute.
"""

import numpy as np
import pytest

import dist_dynet as dy

N = 3_000_000
"""Numbers: added one after another, those of float32 are 3 in 1,000 off."""
STEP = float(np.float32(0.1))
TOLERANCE = 1e-4


def close(got, want):
    """To the rounding of sums of a few thousand."""
    np.testing.assert_allclose(np.asarray(got, float), want, rtol=TOLERANCE)


def steps(*dims, batched=False):
    """These dims, all 0.1."""
    return dy.inputTensor(np.full(dims, STEP, np.float32), batched=batched)


def lines(dims, batched=False):
    """An input and, of its first dim, each line's sum."""
    return steps(*dims, batched=batched), np.full(dims[0], dims[1] * STEP)


SUMS = {
    "sum_elems": (lambda x: dy.sum_elems(x), N * STEP),
    "mean_elems": (lambda x: dy.mean_elems(x), STEP),
    "moment_elems": (lambda x: dy.moment_elems(x, 2), STEP**2),
    "std_elems": (lambda x: dy.std_elems(x) + 1, 1),
    "squared_norm": (lambda x: dy.squared_norm(x), N * STEP**2),
    "l2_norm": (lambda x: dy.l2_norm(x), N**0.5 * STEP),
    "dot_product": (lambda x: dy.dot_product(x, x), N * STEP**2),
    "squared_distance": (lambda x: dy.squared_distance(x, -x), 4 * N * STEP**2),
    "l1_distance": (lambda x: dy.l1_distance(x, -x), 2 * N * STEP),
    "huber_distance": (lambda x: dy.huber_distance(x, -x), 2 * N * STEP**2),
    "binary_log_loss": (
        lambda x: dy.binary_log_loss(x, x),
        -N * (STEP * np.log(STEP) + (1 - STEP) * np.log(1 - STEP)),
    ),
    "hinge": (lambda x: dy.hinge(x, 0), N - 1),
    "logsumexp_dim": (lambda x: dy.exp(dy.logsumexp_dim(x)), N * np.exp(STEP)),
    "softmax": (lambda x: dy.pick(dy.softmax(x), 5), 1 / N),
    "cumsum": (lambda x: dy.pick(dy.cumsum(x), N - 1), N * STEP),
    "matmul": (lambda x: dy.transpose(x) * x, N * STEP**2),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_many_numbers_keep_them(name):
    f, want = SUMS[name]
    close(f(steps(N)).value(), want)


ROWS = {
    "sum_batches": (True, lambda x: dy.sum_batches(x), 1),
    "mean_batches": (True, lambda x: dy.mean_batches(x), None),
    "sum_dim": (False, lambda x: dy.sum_dim(x, [1]), 1),
    "sum_dim of the batch": (True, lambda x: dy.sum_dim(x, [], b=True), 1),
    "cumsum": (False, lambda x: dy.transpose(dy.pick(dy.cumsum(x, 1), x.dim()[0][1] - 1, 1)), 1),
    "matmul": (False, lambda x: x * dy.ones(x.dim()[0][1]), 1),
    "log of logsumexp_dim": (False, lambda x: dy.exp(dy.logsumexp_dim(x, 1)), np.exp(STEP) / STEP),
    "softmax": (False, lambda x: 1 / dy.pick(dy.softmax(x, 1), 3, 1), 1 / STEP),
    "log_softmax": (False, lambda x: dy.exp(-dy.log_softmax(x, d=1)[:, 4]), 1 / STEP),
}


@pytest.mark.parametrize("rows", [1, 2, 7, 40, 300])
@pytest.mark.parametrize("name", ROWS)
def test_sums_over_many_columns_keep_them(name, rows):
    batched, f, factor = ROWS[name]
    if name == "log_softmax" and rows == 1:
        pytest.skip("takes a column as a vector")
    x, want = lines((rows, N // rows), batched)
    close(np.ravel(f(x).value()), want * (STEP / want if factor is None else factor))


def test_sums_of_many_expressions_keep_them():
    x = steps(3)
    many = [x] * N
    close(dy.esum(many).value(), [N * STEP] * 3)
    close(dy.average(many).value(), [STEP] * 3)
    close(dy.exp(dy.logsumexp(many)).value(), [N * np.exp(STEP)] * 3)
    batch = steps(3, 2, batched=True)
    close(dy.esum([batch, *many[:100_000]]).npvalue(), np.full((3, 2), 100_001 * STEP))


# ---- gradients -----------------------------------------------------------------------------

ELEMENT = np.array([0.25, 0.5], np.float32)
"""What an input that is not batched has in the tests below."""


SHARES = np.exp(ELEMENT) / np.exp(ELEMENT).sum()
"""softmax(ELEMENT)"""


def batch(*dims):
    return steps(*dims, N // 2, batched=True)


def filters(p):
    """Two of size 1 x 1."""
    return dy.reshape(p, (1, 1, 1, 2))


OVER_BATCH = {
    "add": (lambda p: batch(2) + p, 1),
    "subtract": (lambda p: batch(2) - p, -1),
    "cmult": (lambda p: dy.cmult(batch(2), p), STEP),
    "cdiv": (lambda p: dy.cdiv(batch(2), p), -STEP / ELEMENT**2),
    "concatenate": (lambda p: dy.concatenate([batch(2), p]), 1),
    "esum": (lambda p: dy.esum([batch(2), p]), 1),
    "average": (lambda p: dy.average([batch(2), p]), 0.5),
    "affine_transform": (lambda p: dy.affine_transform([p, dy.zeros((2, 1)), batch(1)]), 1),
    "affine_transform of columns": (
        lambda p: dy.affine_transform([p, dy.zeros((2, 1)), steps(1, N // 2)]),
        1,
    ),
    "colwise_add": (lambda p: dy.colwise_add(steps(2, N // 2), p), 1),
    "dot_product": (lambda p: dy.dot_product(p, batch(2)), STEP),
    "matmul of a batch": (lambda p: batch(1, 2) * p, STEP),
    "matmul as W": (lambda p: dy.reshape(p, (1, 2)) * batch(2), STEP),
    "squared_distance": (lambda p: dy.squared_distance(p, batch(2)), 2 * (ELEMENT - STEP)),
    "l1_distance": (lambda p: dy.l1_distance(p, batch(2)), 1),
    "huber_distance": (lambda p: dy.huber_distance(p, batch(2)), ELEMENT - STEP),
    "bmax": (lambda p: dy.bmax(p, batch(2)), 1),
    "bmin": (lambda p: dy.bmin(batch(2), p + (-1)), 1),
    "emax": (lambda p: dy.emax([p, batch(2), batch(2)]), 1),
    "logsumexp": (
        lambda p: dy.logsumexp([p, batch(2)]),
        np.exp(ELEMENT) / (np.exp(ELEMENT) + np.exp(STEP)),
    ),
    "pairwise_rank_loss": (lambda p: dy.pairwise_rank_loss(batch(2), p), 1),
    "circ_conv": (lambda p: dy.circ_conv(p, batch(2)), 2 * STEP),
    "weight_norm's gain": (lambda p: dy.weight_norm(batch(2), p[0]), [2**0.5, 0]),
    "layer_norm's bias": (lambda p: dy.layer_norm(batch(2), dy.ones(2), p), 1),
    "attention's values": (
        lambda p: dy.attention(batch(1, 2), dy.zeros((1, 1)) + batch(1, 1), dy.reshape(p, (2, 1))),
        2,
    ),
    "hinge_batch": (lambda p: dy.hinge_batch(p, [1] * (N // 2)), [1, -1]),
    "cdiv by one number": (lambda p: dy.cdiv(batch(2), p[0]), [-2 * STEP / ELEMENT[0] ** 2, 0]),
    "cdiv of one number": (lambda p: dy.cdiv(p[0], batch(2)), [2 / STEP, 0]),
    "cdiv by one number of a vector": (
        lambda p: dy.cdiv(steps(N), p[0]),
        [-2 * STEP / ELEMENT[0] ** 2, 0],
    ),
    "conv2d's filter": (lambda p: dy.conv2d(batch(1, 1, 1), filters(p), [1, 1]), STEP),
    "conv2d's image": (
        lambda p: dy.conv2d(dy.reshape(p, (2, 1, 1)), batch(1, 1, 1, 1), [1, 1]),
        STEP,
    ),
    "conv2d_bias": (
        lambda p: dy.conv2d_bias(batch(1, 1, 1), dy.zeros((1, 1, 1, 2)), p, [1, 1]) * STEP,
        STEP,
    ),
    "filter1d_narrow's filter": (
        lambda p: dy.filter1d_narrow(batch(2, 1), dy.reshape(p, (2, 1))),
        STEP,
    ),
    "filter1d_narrow's matrix": (
        lambda p: dy.filter1d_narrow(dy.reshape(p, (2, 1)), batch(2, 1)),
        STEP,
    ),
    "poisson_loss": (
        lambda p: dy.poisson_loss(p[0], [3] * (N // 2)),
        [np.exp(ELEMENT[0]) - 3, 0],
    ),
    "pick_batch": (lambda p: dy.pick_batch(p, [1] * (N // 2)) * STEP, [0, STEP]),
    "pick_batch of a matrix": (
        lambda p: dy.pick_batch(dy.reshape(p, (2, 1)), [0] * (N // 2), 1) * STEP,
        STEP,
    ),
    "pickneglogsoftmax_batch": (
        lambda p: dy.pickneglogsoftmax_batch(p, [1] * (N // 2)) * STEP,
        STEP * SHARES[0] * np.array([1, -1]),
    ),
    "constrained_softmax": (
        lambda p: dy.constrained_softmax(p, dy.ones(2, batch_size=N // 2))[0],
        SHARES[0] * SHARES[1] * np.array([1, -1]),
    ),
    "constrained_softmax's bounds": (
        lambda p: dy.constrained_softmax(batch(2), p) * STEP,
        STEP,
    ),
}


@pytest.mark.parametrize("name", OVER_BATCH)
def test_gradients_of_what_a_large_batch_shares_keep_all_of_it(name):
    f, want = OVER_BATCH[name]
    p = dy.inputTensor(ELEMENT)
    dy.sum_elems(dy.sum_batches(f(p))).backward(full=True)
    close(p.gradient(), np.broadcast_to(np.multiply(want, N // 2), 2))
    p = dy.inputTensor(ELEMENT)  # which has a gradient when this one is added
    (dy.sum_elems(dy.sum_batches(f(p))) + dy.sum_elems(p * 2)).backward(full=True)
    close(p.gradient(), np.multiply(want, N // 2) + 2)


def test_the_gradient_of_a_crf_keeps_all_of_a_large_batch():
    size = N // 3
    m = dy.ParameterCollection()
    crf = dy.CRF(m, 2)
    scores = dy.zeros((2, 3), batch_size=size)  # each tag has the probability 1/2, each pair 1/4
    (dy.sum_batches(crf.neg_log_likelihood(scores, [[0, 0, 1]] * size)) * STEP).backward()
    transitions, start, stop = (p.grad_as_array() for p in m.parameters_list())
    every = STEP * size
    close(transitions / every, [[-0.5, -0.5], [0.5, 0.5]])
    close(start / every, [-0.5, 0.5])
    close(stop / every, [0.5, -0.5])


@pytest.mark.parametrize("n", [N // 10, N // 80])
@pytest.mark.parametrize(
    "m, k", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (3, 5), (9, 7), (20, 3), (30, 1), (70, 30)]
)
def test_products_of_many_terms_keep_them(m, k, n):
    w = dy.inputTensor(np.ones((m, k)))
    y = w * steps(k, n)
    dy.sum_elems(y).backward(full=True)
    close(w.gradient(), np.full((m, k), n * STEP))
    long = steps(n, k)
    y = dy.transpose(long) * dy.ones((n, m))
    close(y.npvalue().reshape(k, m), np.full((k, m), n * STEP))
    row = dy.ones((m, n))
    close((row * long).npvalue().reshape(m, k), np.full((m, k), n * STEP))
    dy.sum_elems(row * long).backward(full=True)
    close(row.gradient(), np.full((m, n), k * STEP))


def test_an_empty_batch_gives_no_gradient():
    for f in (
        lambda p, x: dy.squared_distance(p, x),
        lambda p, x: dy.concatenate([p, x]),
        lambda p, x: dy.esum([p, x]),
        lambda p, x: dy.layer_norm(x, p, p),
        lambda p, x: dy.bmax(p, x),
    ):
        p = dy.inputTensor(ELEMENT)
        empty = dy.zeros(2, batch_size=0)
        (dy.sum_elems(dy.sum_batches(f(p, empty))) + dy.sum_elems(p)).backward(full=True)
        np.testing.assert_array_equal(p.gradient(), 1)
