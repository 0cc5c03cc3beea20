"""Scores so large that they are not kept in memory (csrc/schedule/unkept.c): losses and gradients
are the same bits whatever was foreseen, and whoever asks for the scores gets them.

How long: some seconds; a step computes 8 million scores.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet._ffi import DTYPE

WORDS, HIDDEN, COLUMNS = 5000, 4, 1700
SIZE = WORDS * COLUMNS * np.dtype(DTYPE).itemsize


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def on_a_new_graph(test):
    """In a thread of its own, whose graph foresees nothing."""

    @functools.wraps(test)
    def run(**fixtures):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(test, **fixtures).result()

    return run


class Model:
    """An output layer over rows of a table."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.m = m = dy.ParameterCollection()
        self.W = m.parameters_from_numpy(rng.normal(size=(WORDS, HIDDEN)))
        self.b = m.parameters_from_numpy(rng.normal(size=WORDS))
        self.E = m.lookup_parameters_from_numpy(rng.normal(size=(50, HIDDEN)))
        self.words, self.picked = rng.integers(50, size=(2, COLUMNS)).tolist()

    def scores(self):
        self.x = dy.tanh(dy.lookup_batch(self.E, self.words))
        return dy.affine_transform([self.b, self.W, self.x])

    def loss(self, y):
        return dy.pickneglogsoftmax_batch(y, self.picked)

    def gradients(self):
        return [p.grad_as_array() for p in (self.W, self.b, self.E)]

    def step(self, scale=1, full=False):
        """The loss and the gradients of one step; the scores are self.y."""
        self.m.reset_gradients()
        dy.renew_cg()
        self.y = self.scores()
        total = dy.sum_batches(self.loss(self.y)) * scale
        value = total.value()
        total.backward(full=full)
        return [value, *self.gradients()]

    def expected(self):
        """Of a step; and the scores, a row for each word."""
        x = np.tanh(self.E.as_array()[self.words])
        y = x @ self.W.as_array().T + self.b.as_array()
        p = np.exp(y - y.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[range(COLUMNS), self.picked]).sum()
        p[range(COLUMNS), self.picked] -= 1
        rows = np.zeros((50, HIDDEN))
        np.add.at(rows, self.words, p @ self.W.as_array() * (1 - x * x))
        return [loss, p.T @ x, p.sum(axis=0), rows], y


@pytest.fixture
def model():
    return Model()


def equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@on_a_new_graph
def test_steps_give_the_same_bits_whatever_was_foreseen(model):
    """The first step computes the scores twice, the second does backward's work in forward, the
    third has done it for another loss, after which scores are kept; evaluation comes between."""
    first = model.step()
    for a, b in zip(first, model.expected()[0], strict=True):
        close(a, b)
    equal(model.step(), first)
    half = model.step(0.5)
    equal(model.step(), first)
    equal(model.step(0.5), half)
    equal(model.step(0.5), half)
    dy.renew_cg()
    assert dy.sum_batches(model.loss(model.scores())).value() == first[0]
    equal(model.step(0.5), half)
    for a, b in zip(model.step(full=True), first, strict=True):
        close(a, b)


@on_a_new_graph
def test_parameters_that_are_frozen_before_backward_get_no_gradient(model):
    first = model.step()
    model.step()
    model.m.reset_gradients()
    dy.renew_cg()
    total = dy.sum_batches(model.loss(model.scores()))
    total.value()
    model.W.set_updated(False)
    total.backward()
    assert not model.W.has_gradient()
    equal(model.gradients()[1:], first[2:])


@on_a_new_graph
def test_scores_are_not_in_memory(model):
    for _ in range(3):
        model.step()
        assert dy.cg().memory() < SIZE


@on_a_new_graph
def test_gradients_are_added_and_backward_can_be_called_again(model):
    first = model.step()
    model.step()
    total = dy.sum_batches(model.loss(model.y))  # the scores have two losses now
    total.backward()
    for a, b in zip(model.gradients(), first[1:], strict=True):
        close(a, 2 * b)


@on_a_new_graph
def test_each_batch_element_may_have_a_gradient_of_its_own(model):
    weights = np.arange(COLUMNS) % 3 / 2
    for _ in range(3):
        model.m.reset_gradients()
        dy.renew_cg()
        loss = model.loss(model.scores())
        dy.sum_batches(dy.cmult(loss, dy.inputTensor(weights[None], batched=True))).backward()
    x = np.tanh(model.E.as_array()[model.words])
    scores = model.expected()[1]
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[range(COLUMNS), model.picked] -= 1
    close(model.W.grad_as_array(), (p * weights[:, None]).T @ x)


@pytest.mark.parametrize("steps", [1, 2])
@on_a_new_graph
def test_scores_are_computed_for_whoever_asks(model, steps):
    for _ in range(steps):
        model.step()
    expected = model.expected()[1]
    close(model.y.npvalue().T, expected)
    close(model.y.gradient().sum(axis=0), np.zeros(COLUMNS))
    model.step()
    close(dy.max_dim(model.y).npvalue()[0], expected.max(axis=1))
    dy.renew_cg()
    y = model.scores()
    loss = model.loss(y)
    close(y.npvalue().T, expected)
    assert dy.sum_batches(loss).value() == model.step()[0]


@on_a_new_graph
def test_a_gradient_is_written_out_for_whoever_asks(model):
    model.step()
    model.step()
    close(model.y.gradient().sum(axis=0), np.zeros(COLUMNS))


@on_a_new_graph
def test_scores_are_lost_after_an_update(model):
    trainer = dy.SimpleSGDTrainer(model.m, 0.1)
    model.step()
    trainer.update()
    with pytest.raises(RuntimeError, match="parameters have changed since this value was computed"):
        model.y.npvalue()
    close(model.y.npvalue(recalculate=True).T, model.expected()[1])


@on_a_new_graph
def test_checkpoints(model):
    model.step()
    dy.renew_cg()
    y = model.scores()
    loss = dy.sum_batches(model.loss(y))
    value = loss.value()
    dy.cg_checkpoint()
    assert dy.sum_batches(dy.max_dim(y)).value() == pytest.approx(
        model.expected()[1].max(axis=1).sum(), rel=1e-4
    )
    dy.cg_revert()
    assert loss.value() == value
    model.m.reset_gradients()
    loss.backward()
    equal(model.gradients(), model.step()[1:])


@on_a_new_graph
def test_the_first_number_that_is_not_finite_is_found(model):
    huge = np.full(WORDS, np.finfo(DTYPE).max)
    model.b.set_value(huge)
    model.W.set_value(np.full((WORDS, HIDDEN), huge[0] / 4))
    model.words = [k for k in range(50) if model.E.as_array()[k].sum() > 3][:1] * COLUMNS
    dy.renew_cg()
    loss = dy.sum_batches(model.loss(model.scores()))
    assert "affine_transform" in str(dy.find_nonfinite(loss))
