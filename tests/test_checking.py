"""check_gradient: right gradients pass, wrong ones are found and named, everything is as before
afterwards.

How long: about two seconds.
"""

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet import checking
from dist_dynet._ffi import DTYPE


@pytest.fixture
def model(rng):
    m = dy.ParameterCollection()
    m.parameters_from_numpy(rng.normal(size=(3, 4)), name="W")
    m.parameters_from_numpy(rng.normal(size=3), name="b")
    m.lookup_parameters_from_numpy(rng.normal(size=(5, 4)), name="E")
    return m


def loss_of(m, words=(1, 3, 1)):
    W, b = m.parameters_list()
    (E,) = m.lookup_parameters_list()
    return dy.esum([dy.pickneglogsoftmax(dy.tanh(W * E[w] + b), w % 3) for w in words])


def wrong_by(factor):
    """y = x with a gradient that is wrong by this factor."""
    return dy.function(lambda x: x, lambda xs, y, d: [factor * d], lambda d: d)


def test_expression_and_function_pass(model):
    assert dy.check_gradient(loss_of(model), model) is True
    assert dy.check_gradient(lambda: loss_of(model), model) is True
    for chosen in (
        model.parameters_list(),
        tuple(model.parameters_list()),
        model.lookup_parameters_list()[0],
        iter(model.parameters_list()),
    ):
        assert dy.check_gradient(loss_of(model), chosen) is True


@pytest.mark.parametrize("factor", [1.1, 0.0, -1.0, float("nan")])
def test_wrong_gradients_are_found_and_named(model, factor):
    W, b = model.parameters_list()
    loss = dy.sum_elems(dy.square(W * dy.ones(4) + wrong_by(factor)(b * 1.0) + 5))
    assert dy.check_gradient(loss, W)
    with pytest.raises(
        dy.GradientCheckError,
        match=(
            r"^check_gradient: 3 of 3 derivatives differ by more than .*\n  /b\[\d\]: backward\(\)"
            r" gives"
        ),
    ) as caught:
        dy.check_gradient(loss, b)
    worst = caught.value.worst
    assert [d.parameter for d in worst] == ["/b"] * 3 and {d.index for d in worst} == {
        (0,),
        (1,),
        (2,),
    }
    assert worst[0].excess >= worst[-1].excess or np.isnan(factor)
    assert issubclass(dy.GradientCheckError, AssertionError)


@pytest.mark.float64
def test_an_error_of_half_a_per_mille_is_found_in_double(model):
    b = model.parameters_list()[1]
    with pytest.raises(dy.GradientCheckError):
        dy.check_gradient(dy.sum_elems(dy.square(wrong_by(1.0005)(b * 1.0) + 5)), b)


def test_indices_are_those_of_as_array():
    m = dy.ParameterCollection()
    W, E = (
        m.parameters_from_numpy(np.ones((2, 3))),
        m.lookup_parameters_from_numpy(np.ones((4, 2, 3))),
    )

    def mask(x, y, d):
        right = d.copy()
        right[1, 2] = 0
        return [right]

    f = dy.function(lambda x: x, mask, lambda d: d)
    with pytest.raises(dy.GradientCheckError) as caught:
        dy.check_gradient(lambda: dy.sum_elems(dy.square(f(W * 1.0) + f(E[3] * 1.0))), m)
    assert sorted((d.parameter, d.index) for d in caught.value.worst) == [
        ("/_0", (1, 2)),
        ("/_1", (3, 1, 2)),
    ]
    assert caught.value.compared == 6 + 12


def test_gradient_of_a_row_that_is_missing_is_found():
    E = dy.ParameterCollection().lookup_parameters_from_numpy(np.ones((4, 2)))
    with pytest.raises(dy.GradientCheckError, match=r"/_0\[0, 0\]"):
        dy.check_gradient(lambda: dy.sum_elems(dy.square(E[1] + dy.lookup(E, 0, update=False))), E)


def test_everything_is_as_before(model):
    loss = loss_of(model)
    dy.sum_elems(model.parameters_list()[0]).backward()
    parameters = [*model.parameters_list(), *model.lookup_parameters_list()]
    before = [(p.as_array(), p.grad_as_array(), p.has_gradient()) for p in parameters]
    value = loss.value()
    dy.check_gradient(loss, model)
    assert loss.value() == value
    for p, (v, g, has) in zip(parameters, before, strict=True):
        np.testing.assert_array_equal(p.as_array(), v)
        np.testing.assert_array_equal(p.grad_as_array(), g)
        assert p.has_gradient() == has


def test_values_and_gradients_are_restored_after_an_error(model):
    parameters = [*model.parameters_list(), *model.lookup_parameters_list()]
    before = [p.as_array() for p in parameters]
    runs = []

    def build():
        runs.append(1)
        if len(runs) == 5:
            raise KeyError("mine")
        return loss_of(model)

    with pytest.raises(KeyError, match="mine"):
        dy.check_gradient(build, model)
    for p, v in zip(parameters, before, strict=True):
        np.testing.assert_array_equal(p.as_array(), v)
        assert not p.has_gradient()


def test_random_draws_are_the_same_in_every_evaluation_and_afterwards(model):
    W = model.parameters_list()[0]

    def build():
        return dy.sum_elems(dy.square(dy.dropout(W * dy.random_normal(4), 0.5)))

    loss = build()
    value = loss.value()
    assert dy.check_gradient(loss, W)
    assert loss.value() == value
    dy.renew_cg()
    following = build().value()
    dy.reset_random_seed(7)
    dy.renew_cg()
    first = build().value()
    dy.renew_cg()
    second = build().value()
    dy.reset_random_seed(7)
    dy.renew_cg()
    assert build().value() == first
    assert dy.check_gradient(build, W)
    dy.renew_cg()
    assert build().value() == second and following != value


def test_a_loss_that_changes_by_itself_is_refused(model):
    state = []

    def build():
        state.append(1)
        return dy.sum_elems(model.parameters_list()[0] * float(len(state)))

    with pytest.raises(
        ValueError, match=r"^check_gradient: the loss differs from one evaluation to the next"
    ):
        dy.check_gradient(build, model)


def test_frozen_parameters_are_left_out(model):
    W, b = model.parameters_list()
    W.set_updated(False)
    assert dy.check_gradient(loss_of(model), model)
    b.set_updated(False)
    with pytest.raises(ValueError, match="there is no parameter to check"):
        dy.check_gradient(loss_of(model), [W, b])


def test_large_parameters_are_checked_at_some_places(monkeypatch):
    w = dy.ParameterCollection().add_parameters((50, 50))
    seen = []
    original = checking._differences

    def spy(loss, p, numbers, epsilon):
        seen.extend(numbers)
        return original(loss, p, numbers, epsilon)

    monkeypatch.setattr(checking, "_differences", spy)
    assert dy.check_gradient(dy.sum_elems(dy.square(w)), w, max_entries=20)
    assert len(set(seen)) == 20


def test_large_and_small_numbers(rng):
    w = dy.ParameterCollection().parameters_from_numpy([1e4, -1e-3, 0.0, 3.0])
    assert dy.check_gradient(dy.sum_elems(w * 2), w)
    assert dy.check_gradient(dy.sum_elems(w + 1e4), w)


def test_epsilon_and_tolerance():
    w = dy.ParameterCollection().parameters_from_numpy([1.0])
    loss = dy.sum_elems(wrong_by(1.2)(w * 1.0))
    with pytest.raises(dy.GradientCheckError):
        dy.check_gradient(loss, w)
    assert dy.check_gradient(loss, w, tolerance=0.5)
    coarse = dy.sum_elems(dy.square(dy.square(w)))
    with pytest.raises(dy.GradientCheckError):
        dy.check_gradient(coarse, w, epsilon=1.0)
    assert (1e-2, 1e-7)[DTYPE.itemsize == 8] == checking.TOLERANCE


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (
            lambda m: dy.check_gradient(3, m),
            TypeError,
            "^check_gradient: takes an expression or a function that builds one; got int",
        ),
        (
            lambda m: dy.check_gradient(lambda: 3, m),
            TypeError,
            "^check_gradient: the function must return the loss, an expression; got int",
        ),
        (
            lambda m: dy.check_gradient(dy.zeros(2), m),
            ValueError,
            r"^check_gradient: the loss must be one number; got \(2,\) x 1",
        ),
        (
            lambda m: dy.check_gradient(dy.zeros(1, batch_size=2), m),
            ValueError,
            r"^check_gradient: the loss must be one number; got \(1,\) x 2",
        ),
        (
            lambda m: dy.check_gradient(dy.scalarInput(1), [dy.scalarInput(2)]),
            TypeError,
            "^check_gradient: takes a collection, or parameters; got",
        ),
        (
            lambda m: dy.check_gradient(dy.scalarInput(1), []),
            ValueError,
            "^check_gradient: there is no parameter",
        ),
        (
            lambda m: dy.check_gradient(dy.scalarInput(1), m, max_entries=0),
            ValueError,
            "^check_gradient: max_entries must be 1 or more; got 0",
        ),
        (
            lambda m: dy.check_gradient(dy.scalarInput(1), m, max_entries=1.5),
            TypeError,
            "^check_gradient: max_entries must be an integer; got 1.5",
        ),
        (
            lambda m: dy.check_gradient(dy.scalarInput(1), m.add_parameters(0)),
            ValueError,
            "^check_gradient: there must be numbers to compare; got none",
        ),
    ],
)
def test_bad_calls(model, call, exception, message):
    with pytest.raises(exception, match=message):
        call(model)
