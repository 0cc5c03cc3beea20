"""States of recurrent networks: what the fast paths of csrc/python/states.c must leave to Python,
and what they must not lose."""

import copy
import functools
import gc
import pickle
import weakref

import numpy as np
import pytest
from processes import run_python

import dist_dynet as dy
from dist_dynet import _random
from dist_dynet.nn.sequences import inputs_of

BUILDERS = [
    dy.SimpleRNNBuilder,
    dy.GRUBuilder,
    dy.VanillaLSTMBuilder,
    dy.CompactVanillaLSTMBuilder,
    dy.SparseLSTMBuilder,
    dy.CoupledLSTMBuilder,
    dy.FastLSTMBuilder,
]
SIZE = 4


def network(kind, layers=2):
    """A builder of random weights, biases included, and five inputs of the graph that is begun."""
    dy.reset_random_seed(3)
    m = dy.ParameterCollection()
    builder = kind(layers, SIZE, SIZE, m)
    for p in m.parameters_list():
        if p.is_updated():
            p.set_value(np.random.default_rng(len(p.shape())).normal(size=p.shape()) * 0.7)
    dy.renew_cg()
    return m, builder, [dy.inputVector(x) for x in np.random.default_rng(1).normal(size=(5, SIZE))]


def arrays(expressions):
    return [e.npvalue() for e in expressions]


def stepped(state, xs):
    states = [state := state.add_input(x) for x in xs]
    return states


@pytest.mark.parametrize("layers", [1, 2, 9])
@pytest.mark.parametrize("kind", BUILDERS)
def test_lists_and_steps_give_the_same_states(kind, layers):
    _m, builder, xs = network(kind, layers)
    for _ in range(2):  # the second sequence is begun as the first one was
        for begin in (
            builder.initial_state(),
            builder.initial_state().add_input(xs[4]),
            builder.initial_state().add_inputs(xs)[-1],
        ):
            one_by_one = stepped(begin, xs)
            together = begin.add_inputs(xs)
            assert [len(state.s()) for state in together] == [
                len(state.s()) for state in one_by_one
            ]
            for a, b in zip(one_by_one, together, strict=True):
                np.testing.assert_allclose(arrays(a.s()), arrays(b.s()), rtol=1e-5, atol=1e-6)
                assert all(x is y for x, y in zip(b.s(), b.s(), strict=True))
            np.testing.assert_allclose(
                arrays(begin.transduce(xs)),
                arrays(s.output() for s in one_by_one),
                rtol=1e-5,
                atol=1e-6,
            )
            assert (
                together[0].prev() is begin
                and together[3].prev() is together[2]
                and together[0].b() is builder
            )
            after = stepped(together[2], xs[3:])
            np.testing.assert_allclose(
                arrays(after[-1].s()), arrays(one_by_one[-1].s()), rtol=1e-5, atol=1e-6
            )
        dy.renew_cg()
        xs = [dy.inputVector(x) for x in np.random.default_rng(2).normal(size=(5, SIZE))]


@pytest.mark.parametrize("kind", BUILDERS)
def test_gradients_of_steps_and_lists_agree(kind):
    gradients = []
    for way in (
        lambda state, xs: [s.output() for s in stepped(state, xs)],
        lambda state, xs: state.transduce(xs),
    ):
        m, builder, xs = network(kind)
        dy.squared_norm(dy.esum(way(builder.initial_state(), xs))).backward()
        gradients.append([p.grad_as_array() for p in m.parameters_list()])
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [dy.SimpleRNNBuilder, dy.VanillaLSTMBuilder, dy.CoupledLSTMBuilder]
)
def test_the_first_step_decides_whether_a_sequence_drops(kind):
    _m, builder, xs = network(kind)
    expected = arrays(s.output() for s in stepped(builder.initial_state(), xs))
    state = builder.initial_state().add_input(xs[0])
    builder.set_dropout(0.5)
    np.testing.assert_array_equal(arrays(s.output() for s in stepped(state, xs[1:])), expected[1:])
    dropped = stepped(builder.initial_state(), xs)
    builder.disable_dropout()
    before = arrays(s.output() for s in dropped)
    assert not np.array_equal(before, expected)
    # the masks stay, whatever the rates are
    for _ in range(2):  # one step after another, as before: together they are rounded otherwise
        later = arrays(s.output() for s in stepped(dropped[0], xs[1:]))
        np.testing.assert_array_equal(later, before[1:])
    np.testing.assert_array_equal(
        arrays(s.output() for s in stepped(builder.initial_state(), xs)), expected
    )


def test_rates_set_between_the_start_and_the_first_step_count():
    _m, builder, xs = network(dy.VanillaLSTMBuilder)
    plain = builder.initial_state().add_input(xs[0]).output().npvalue()
    state = builder.initial_state()
    builder.set_dropouts(1, 0)  # no input passes
    assert not np.array_equal(state.add_input(xs[0]).output().npvalue(), plain)


def test_a_gru_draws_by_the_rate_of_each_step():
    _m, builder, xs = network(dy.GRUBuilder)
    state = builder.initial_state().add_input(xs[0])
    plain = state.add_input(xs[1]).output().npvalue()
    builder.set_dropout(1)
    dropped = state.add_input(xs[1])
    assert not dropped.output().npvalue().any() and not np.array_equal(
        dropped.h()[-1].npvalue(), plain
    )
    assert not any(e.npvalue().any() for e in state.transduce(xs))
    builder.disable_dropout()
    np.testing.assert_array_equal(state.add_input(xs[1]).output().npvalue(), plain)


def test_masks_that_are_drawn_by_hand_count_for_all_that_share_them():
    _m, builder, xs = network(dy.SimpleRNNBuilder)
    one = builder.initial_state().add_input(xs[0])
    two = builder.initial_state(share_masks=True)
    plain = [state.add_input(xs[1]).output().npvalue() for state in (one, two)]
    builder.set_dropouts(1, 1)
    builder.set_dropout_masks()
    builder.disable_dropout()
    for state, before in zip((one, two), plain, strict=True):
        assert not np.array_equal(state.add_input(xs[1]).output().npvalue(), before)


def by_python(state, x):
    return state._step.after(state, x)


def by_python_over(state, xs):
    return state._step.states(state, inputs_of(xs, None, None, "add_inputs"))


def dropping(kind, order, rates, way, over, steps):
    """What a network gives that drops: all states, the size of the graph, gradients.
    `way(state, x)` makes a step, `over(state, xs)` the states of a list."""
    m, builder, _ = network(kind)
    table = m.lookup_parameters_from_numpy(np.random.default_rng(5).normal(size=(4, SIZE)))
    dy.reset_random_seed(7)
    dy.renew_cg(autobatching=order == "batched")
    builder.dropout_x, builder.dropout_h = rates[0]
    numbers = np.random.default_rng(1).normal(size=(SIZE, 3))
    results, losses = [], []
    for x in (dy.inputVector(numbers[:, 0]), dy.inputTensor(numbers, batched=True), table[1]):
        start = [
            [
                dy.inputVector(row)
                for row in np.random.default_rng(2).normal(
                    size=(len(builder.initial_state().add_input(x).s()), SIZE)
                )
            ]
        ]
        for vectors in (None, *start):
            state = builder.initial_state(vectors)
            for i in range(steps):
                builder.dropout_x, builder.dropout_h = rates[i % len(rates)]
                state = way(state, x)
                results += [e.npvalue() for e in (*state.s(), state.output())]
            for each in over(state, [x] * 3):
                results += [e.npvalue() for e in (*each.s(), each.output())]
            losses.append(dy.squared_norm(dy.sum_batches(state.output())))
    dy.esum(losses).backward()
    return [
        *results,
        len(dy.cg()),
        *(p.grad_as_array() for p in m.parameters_list()),
        table.grad_as_array(),
    ]


@pytest.mark.parametrize(
    "rates",
    [
        [(0.5, 0.3)],
        [(0.0, 0.4)],
        [(0.6, 0.0)],
        [(1.0, 1.0)],
        [(0.3, 0.3), (0, 0), (0.0, 0.5), (1, 0)],
    ],
)
@pytest.mark.parametrize("order", ["keyed", "dynet", "batched"])
@pytest.mark.parametrize("kind", BUILDERS)
def test_steps_that_drop_make_the_same_nodes_as_in_python(kind, order, rates):
    """batched: in DyNet's order and with autobatching, where steps are DyNet's operations."""
    _random.use_dynet_order(order != "keyed")
    try:
        ours, general = (
            dropping(kind, order, rates, *ways, 4)
            for ways in (
                (dy.RNNState.add_input, dy.RNNState.add_inputs),
                (by_python, by_python_over),
            )
        )
        assert len(ours) == len(general)
        for a, b in zip(ours, general, strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        _random.use_dynet_order(False)


@pytest.mark.fast_paths
@pytest.mark.parametrize("order", ["keyed", "dynet", "batched"])
@pytest.mark.parametrize(
    "kind", [dy.SimpleRNNBuilder, dy.GRUBuilder, dy.VanillaLSTMBuilder, dy.CoupledLSTMBuilder]
)
def test_steps_that_drop_do_not_call_python(kind, order, monkeypatch):
    _random.use_dynet_order(order != "keyed")
    try:
        _m, builder, _xs = network(kind)
        dy.renew_cg(autobatching=order == "batched")
        xs = [dy.ones(SIZE)] * 3
        builder.set_dropout(0.5)
        state = builder.initial_state()
        for name in "after", "states", "outputs":
            monkeypatch.setattr(
                type(state._step), name, lambda *arguments: pytest.fail("a Step was called")
            )
        assert len(stepped(state, xs)) == len(state.add_inputs(xs)) == len(state.transduce(xs))
    finally:
        _random.use_dynet_order(False)


@pytest.mark.parametrize("dynet", [False, True], ids=["", "dynet"])
# which drops nothing
@pytest.mark.parametrize("kind", [kind for kind in BUILDERS if kind is not dy.FastLSTMBuilder])
def test_rates_that_cannot_be_are_errors(kind, dynet):
    _random.use_dynet_order(dynet)
    try:
        _m, builder, _xs = network(kind)
        for rate in (1.5, -0.5, float("nan")):
            for name in ("dropout_x", "dropout_h") if kind is not dy.GRUBuilder else ("dropout_x",):
                builder.disable_dropout()
                setattr(builder, name, rate)
                dy.renew_cg()
                x = dy.inputVector([1] * SIZE)
                with pytest.raises(ValueError, match=r"rate|probability"):
                    builder.initial_state().add_input(x)
    finally:
        _random.use_dynet_order(False)


def test_forget_bias_and_update_are_those_of_the_sequence():
    m, builder, xs = network(dy.VanillaLSTMBuilder)
    first = builder.initial_state()
    values = [first.add_inputs(xs)[-1].output().npvalue()]
    builder.forget_bias = 0.0
    values += [
        state.add_inputs(xs)[-1].output().npvalue() for state in (builder.initial_state(), first)
    ]
    assert not np.array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])
    x, weights, trainer = (
        m.add_parameters(SIZE),
        builder.get_parameters()[0][0],
        dy.SimpleSGDTrainer(m, 0.0),
    )
    for update in (False, True, False, False):
        dy.renew_cg()
        dy.squared_norm(builder.initial_state(update=update).add_input(x).output()).backward()
        assert x.grad_as_array().any() and weights.grad_as_array().any() == update
        trainer.update()


@pytest.mark.parametrize("kind", BUILDERS)
def test_what_cannot_be_an_input_is_an_error_and_changes_nothing(kind):
    _m, builder, xs = network(kind)
    state = builder.initial_state().add_input(xs[0])
    expected = state.add_input(xs[1]).output().npvalue()
    for way in (
        state.add_input,
        lambda x: state.add_inputs([x]),
        lambda x: state.transduce([xs[1], x]),
    ):
        for x in (3, None, [1.0], "x"):
            with pytest.raises(TypeError, match="add_input: takes expressions"):
                way(x)
        with pytest.raises(ValueError, match=r"x.* = \(3,\)"):
            way(dy.inputVector([1, 2, 3]))
    for wrong in (
        lambda: state.add_input(),
        lambda: state.add_input(xs[1], xs[1]),
        lambda: state.add_input(y=xs[1]),
    ):
        with pytest.raises(TypeError, match=r"takes|argument"):
            wrong()
    np.testing.assert_array_equal(state.add_input(x=xs[1]).output().npvalue(), expected)
    dy.renew_cg()
    for way in (state.add_input, lambda x: state.add_inputs([x]), lambda x: state.transduce([x])):
        with pytest.raises(RuntimeError, match="Stale"):
            way(xs[0])
        with pytest.raises(RuntimeError, match="Stale"):
            way(dy.inputVector([0] * SIZE))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("of", BUILDERS)
def test_rows_in_one_list_may_be_updated_and_constants(of, first, rng):
    """Equal rows of a list are multiplied once, where none or all of them are constants."""
    m = dy.ParameterCollection()
    builder = of(1, SIZE, SIZE, m)
    table = m.lookup_parameters_from_numpy(rng.normal(size=(5, SIZE)))
    words, updated = rng.integers(5, size=30).tolist(), [first, *rng.choice([False, True], 29)]
    found = []
    for way in (
        lambda s, xs: s.add_inputs(xs)[-1],
        lambda s, xs: functools.reduce(dy.RNNState.add_input, xs, s),
    ):
        dy.renew_cg()
        m.reset_gradients()
        xs = [dy.lookup(table, w, bool(u)) for w, u in zip(words, updated, strict=True)]
        dy.squared_norm(way(builder.initial_state(), xs).output()).backward()
        found.append(table.grad_as_array())
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)


def test_a_parameter_can_be_the_input():
    m = dy.ParameterCollection()
    builder, p = dy.GRUBuilder(1, SIZE, SIZE, m), m.add_parameters(SIZE)
    dy.renew_cg()
    values = [
        f(builder.initial_state()).npvalue()
        for f in (lambda s: s.add_input(p).output(), lambda s: s.transduce([p])[0])
    ]
    np.testing.assert_array_equal(*values)


def test_no_state_is_made_by_hand():
    state = network(dy.GRUBuilder)[1].initial_state()
    for wrong in (
        lambda: dy.RNNState(),
        lambda: dy.RNNState(3),
        lambda: dy.RNNState(run=3),
        lambda: pickle.dumps(state),
    ):
        with pytest.raises(TypeError):
            wrong()


def test_states_are_those_of_python_where_fast_paths_are_off():
    program = (
        "import dist_dynet as dy; State = dy.RNNState.__bases__[0]; print(State.__module__,"
        " *vars(State))"
    )
    said = [
        run_python("-c", program, DIST_DYNET_FAST_PATHS=switch).stdout.split() for switch in "01"
    ]
    assert [of_module for of_module, *_ in said] == [
        "dist_dynet.nn.state",
        "dist_dynet._expression",
    ]
    python, c = ({name for name in names if not name.startswith("__")} for _, *names in said)
    assert c <= python, "csrc/python/states.c has what the twin in nn/state.py lacks"


def test_the_copy_of_a_state_is_the_state():
    state = network(dy.GRUBuilder)[1].initial_state()
    assert copy.copy(state) is state and copy.deepcopy([state])[0] is state


def test_a_long_chain_of_states_is_freed():
    _m, builder, xs = network(dy.SimpleRNNBuilder, 1)
    state = builder.initial_state()
    for _ in range(200_000):
        state = state.add_input(xs[0])
    length, last = 0, state.prev()
    while last is not None:
        length, last = length + 1, last.prev()
    assert length == 200_000
    del state  # without recursion, which would end the process here


@pytest.mark.parametrize("dynet", [False, True])
def test_nothing_is_left_of_builders_and_their_states(dynet):
    _random.use_dynet_order(dynet)
    try:
        _m, builder, xs = network(dy.VanillaLSTMBuilder)
        state = (
            builder.initial_state()
            .add_input(xs[0])
            .add_inputs(xs)[-1]
            .set_h(xs[:2])
            .add_input(xs[0])
        )
        assert (state._step.last == [state]) is dynet
        gone = weakref.ref(builder)
        del builder, state
        gc.collect()
        assert gone() is None
    finally:
        _random.use_dynet_order(False)


@pytest.mark.parametrize("rate", [0, 0.5])
@pytest.mark.parametrize("kind", BUILDERS)
def test_states_outlive_a_revert_of_what_they_keep(kind, rate):
    """The c of a list and the masks of a sequence, made when they are asked for."""
    _m, builder, xs = network(kind)
    builder.set_dropout(rate)
    other = builder.initial_state().add_inputs(xs)
    begin = builder.initial_state()

    def read():
        shared = builder.initial_state(share_masks=True)
        return arrays(
            [
                begin.add_input(xs[0]).output(),
                *begin.add_inputs(xs)[1].s(),
                *shared.add_input(xs[2]).s(),
                *other[1].s(),
                *other[2].add_input(xs[0]).s(),
            ]
        )

    for _ in range(3):
        dy.cg_checkpoint()
        values = read()
        dy.cg_revert()
        again = read()
        assert np.isfinite(np.concatenate(again)).all()
        if rate and kind is dy.GRUBuilder:  # it draws at each step
            continue
        # masks are drawn anew, and are then those of the sequence
        for a, b in zip(again, read() if rate else values, strict=True):
            np.testing.assert_array_equal(a, b)


def test_states_outlive_a_revert_in_the_order_of_dynet(monkeypatch):
    monkeypatch.setattr(_random._state, "dynet_order", True)
    _m, builder, xs = network(dy.VanillaLSTMBuilder)
    builder.set_dropout(0.5)
    begin = builder.initial_state()
    for _ in range(2):
        dy.cg_checkpoint()
        assert np.isfinite(arrays(begin.transduce(xs))).all()
        dy.cg_revert()
