"""The gradient checker finds wrong gradients: by 0.05 %, of wrong sign, with a term missing,
transposed. And lets right ones pass."""

import gradients
import numpy as np
import pytest
from op_table.row import Row, case, tensor
from op_table.run import Run, drawn

import dist_dynet as dy


def stop(x):
    """The value of x as a constant: a node whose gradient is gone."""
    return dy.inputTensor(x.npvalue())


W = np.array([[0.5, -1.2, 0.3], [0.9, 0.4, -0.7], [-0.2, 1.1, 0.8]])


def linear(x):
    return dy.inputTensor(W) * x


def transposed(x):
    """W x in value, transpose(W) x in gradient."""
    y = dy.inputTensor(W.T) * x
    return y + stop(linear(x)) - stop(y)


RIGHT = {
    "identity": lambda x: x * 1,
    "tanh": lambda x: dy.tanh(x),
    "product": lambda x: dy.cmult(x, x),
    "matrix": linear,
}
WRONG = {
    "too small by 0.05 %": lambda x: dy.tanh(x) + 0.0005 * stop(dy.tanh(x)),
    "too large by 0.05 %": lambda x: dy.tanh(x) - 0.0005 * stop(dy.tanh(x)),
    "wrong sign": lambda x: x - 2 * stop(x),
    "missing term": lambda x: dy.cmult(x, stop(x)),
    "missing altogether": lambda x: stop(x) + 0 * x,
    "one element wrong by 0.05 %": lambda x: (
        x + dy.cmult(dy.inputVector([0.0, 0.0005, 0.0]), stop(x))
    ),
    "transposed": transposed,
}


def checked(build, rng):
    """What the two checks find in an operation over a vector of 3."""
    c = case(tensor(3))
    row = Row("", "", build, lambda x: x, [c])
    arrays = drawn(row, c, rng)
    run = Run(row, c, arrays)
    w = rng.uniform(0.5, 1, run.value().shape)

    def f(*xs):
        return Run(row, c, xs).value()

    return (
        gradients.directional_difference(f, arrays, w, run.gradients(w), rng),
        gradients.jacobian_difference(f, arrays, lambda v: Run(row, c, arrays).gradients(v)),
    )


@pytest.mark.float64
@pytest.mark.parametrize("name", RIGHT)
def test_checker_lets_right_gradients_of_nodes_pass(name, rng):
    assert checked(RIGHT[name], rng) == (None, None)


@pytest.mark.float64
@pytest.mark.parametrize("name", WRONG)
def test_checker_finds_wrong_gradients_of_nodes(name, rng):
    along, jacobian = checked(WRONG[name], rng)
    assert along is not None
    assert along.startswith("slope along a random direction: by differences")
    assert jacobian is not None
    assert jacobian.startswith("Jacobian: d(element")


# ---- without nodes: the gradients of f(A, x) = tanh(A x) * x_1, spoiled ----------------


def f(a, x):
    return np.tanh(a @ x) * x[0]


def right(a, x, w):
    y = np.tanh(a @ x)
    da = np.outer(w * (1 - y**2) * x[0], x)
    dx = a.T @ (w * (1 - y**2) * x[0])
    dx[0] += w @ y
    return [da, dx]


def first(g):
    """Of one matrix element only."""
    spoiled = g.copy()
    spoiled[1, 2] *= 1.0005
    return spoiled


SPOILED = {
    "too large by 0.05 %": lambda da, dx: [1.0005 * da, 1.0005 * dx],
    "one input too small by 0.05 %": lambda da, dx: [da, 0.9995 * dx],
    "one element by 0.05 %": lambda da, dx: [first(da), dx],
    "wrong sign": lambda da, dx: [da, -dx],
    "transposed": lambda da, dx: [da.T, dx],
    "forgotten": lambda da, dx: [da, np.zeros_like(dx)],
    "twice": lambda da, dx: [2 * da, dx],
    "nan": lambda da, dx: [np.full_like(da, np.nan), dx],
}


@pytest.fixture
def point(rng):
    return [rng.uniform(-1, 1, (3, 3)), rng.uniform(0.5, 1, 3)], rng.uniform(0.5, 1, 3)


def test_checker_lets_right_gradients_pass(point, rng):
    arrays, w = point
    assert gradients.directional_difference(f, arrays, w, right(*arrays, w), rng) is None
    assert gradients.jacobian_difference(f, arrays, lambda v: right(*arrays, v)) is None


@pytest.mark.parametrize("name", SPOILED)
def test_checker_finds_spoiled_gradients(name, point, rng):
    arrays, w = point
    spoil = SPOILED[name]
    assert (
        gradients.directional_difference(f, arrays, w, spoil(*right(*arrays, w)), rng) is not None
    )
    assert gradients.jacobian_difference(f, arrays, lambda v: spoil(*right(*arrays, v))) is not None


def test_checker_finds_a_term_that_is_missing(point, rng):
    arrays, w = point
    da, dx = right(*arrays, w)
    dx[0] -= w @ np.tanh(arrays[0] @ arrays[1])
    assert gradients.directional_difference(f, arrays, w, [da, dx], rng) is not None


@pytest.mark.parametrize("seed_of_direction", range(20))
def test_checker_finds_errors_along_any_direction(seed_of_direction, point):
    arrays, w = point
    spoiled = SPOILED["one element by 0.05 %"](*right(*arrays, w))
    found = gradients.directional_difference(
        f, arrays, w, spoiled, np.random.default_rng(seed_of_direction)
    )
    assert found is not None
