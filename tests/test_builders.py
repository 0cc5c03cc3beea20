"""Recurrent builders: numbers of the real DyNet, all ways alike, dropout, initial values. The rest:
test_nets.py.

FACTORIES of net_table/recurrent.py lists them. How long: about two seconds.
"""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from net_table.recurrent import CLASSES, FACTORIES, cells
from oracle import replay
from test_graph import close
from test_rnn import WAYS, as_expressions, inputs, run

import dist_dynet as dy
from dist_dynet.nn.steps import NodeStep

RNN = Path(__file__).parent / "data" / "oracle" / "rnn.json"

LAST_VALUES = {
    "SimpleRNNBuilder": [1.047734, -0.855898, -0.338322, -0.573229],
    "GRUBuilder": [
        1.047734,
        -0.855898,
        0.392673,
        0.344635,
        0.941049,
        -0.539394,
        -0.230701,
        -0.018468,
        -0.106988,
        -0.094314,
        -0.133316,
        0.482238,
    ],
    "CoupledLSTMBuilder": [
        1.047734,
        -0.855898,
        -0.338322,
        0.377528,
        -0.950202,
        0.581527,
        -0.25272,
        -0.018468,
        -0.106988,
        -0.094314,
        -0.133316,
        0.482238,
        -0.481728,
        0.048691,
        -0.692522,
        0.890096,
    ],
    "CompactVanillaLSTMBuilder": [-0.221483, -0.505365, 0.37134, 0.46616],
    "FastLSTMBuilder": [
        1.047734,
        -0.855898,
        -1.185773,
        -0.370613,
        -0.573229,
        1.052125,
        -0.537,
        -0.733661,
        -0.799052,
        -0.268219,
        -0.131033,
        -0.094314,
        -0.133316,
        -0.213126,
        0.00791,
        -0.997146,
    ],
    "SparseLSTMBuilder": [-0.221483, -0.505365, 1.0, 1.0, 0.37134, 0.46616, 1.0, 1.0],
    "VanillaLSTMBuilder": [-0.221483, -0.505365, 0.37134, 0.46616],
}
"""Of the real DyNet: the last number of each matrix, for the sizes 2, 2, 3 after
reset_random_seed(7)."""


@pytest.fixture(params=FACTORIES)
def make(request):
    return FACTORIES[request.param]


def made(make, layers=2):
    """(collection, builder) with all parameters off their initial values, masks excepted."""
    dy.renew_cg()
    m = dy.ParameterCollection()
    builder = make(layers, 4, 3, m)
    rng = np.random.default_rng(5)
    for p in m.parameters_list():
        if p.is_updated():
            p.set_value(p.as_array() + rng.normal(size=p.shape()) / 4)
    return m, builder


# ---- the real DyNet's numbers ----------------------------------------------------------


@pytest.mark.float32
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["id"]) for case in json.loads(RNN.read_text())]
)
def test_oracle_builder_agrees(case):
    differences = replay.differences(replay.rnn_expected(case), replay.rnn(dy, case), 1e-5)
    assert not differences, "\n".join(differences[:20])


@pytest.mark.parametrize("name", LAST_VALUES)
def test_initial_values_are_those_of_dynet(name):
    dy.reset_random_seed(7)
    m = dy.ParameterCollection()
    getattr(dy, name)(2, 2, 3, m)
    close(
        [p.as_array().ravel()[-1] for p in m.parameters_list() if len(p.shape()) > 1],
        LAST_VALUES[name],
        1e-5,
    )


# ---- all ways --------------------------------------------------------------------------


@pytest.mark.parametrize("vecs", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_all_ways_give_the_same_values_and_gradients(make, batch, vecs, rng):
    m, builder = made(make)
    arrays, weights = inputs(rng, 4, 4, batch), inputs(rng, 4, 3, batch)
    starts = inputs(rng, 4 if cells(builder) else 2, 3, batch)
    seen = []
    for way in WAYS:
        dy.renew_cg()
        m.reset_gradients()
        xs, given = as_expressions(arrays), as_expressions(starts)
        outputs = run(way, builder.initial_state(given if vecs else None), xs)
        dots = [
            dy.sum_batches(dy.dot_product(y, w))
            for y, w in zip(outputs, as_expressions(weights), strict=True)
        ]
        dy.esum(dots).backward(full=True)
        gradients = [p.grad_as_array() for p in m.parameters_list()] + [
            e.gradient() for e in xs + (given if vecs else [])
        ]
        seen.append([y.npvalue() for y in outputs] + gradients)
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            close(a, b, 1e-4)


def check_ways(builder, arrays, starts=None, share_masks=False):
    """All ways of reading a sequence, of one input, too, give the same values."""
    dy.renew_cg()
    if share_masks:
        builder.initial_state().add_input(as_expressions(arrays)[0])
    for xs in (arrays[:1], arrays):
        seen = {}
        for way in WAYS:
            given = as_expressions(starts) if starts else None
            outputs = run(
                way, builder.initial_state(given, share_masks=share_masks), as_expressions(xs)
            )
            seen[way] = [y.npvalue() for y in outputs]
            assert len(outputs) == len(xs), (
                f"{way} of {len(xs)} inputs: {len(outputs)} outputs of {type(builder).__name__}"
            )
            differs = not np.allclose(seen[way], seen[WAYS[0]], rtol=1e-5, atol=1e-6)
            assert not differs, (
                f"{way} of {len(xs)} inputs is not {WAYS[0]}: {type(builder).__name__}, see"
                f" {type(builder).__module__}"
            )
    return seen[WAYS[0]]


def test_one_step_is_a_sequence_of_one_input(make, rng):
    _, builder = made(make)
    check_ways(builder, inputs(rng, 1, 4, 2))
    check_ways(builder, inputs(rng, 1, 4, 2), inputs(rng, 4 if cells(builder) else 2, 3, 2))


def test_all_ways_drop_the_same_under_the_same_masks(make, rng):
    _, builder = made(make)
    arrays = inputs(rng, 4, 4, 3)
    plain = check_ways(builder, arrays)
    if isinstance(builder, dy.GRUBuilder):
        return  # draws anew at each step
    builder.set_dropout(0.5)
    dropped = check_ways(builder, arrays, share_masks=True)
    assert np.allclose(dropped, plain) == isinstance(builder, dy.FastLSTMBuilder)


class NoStep(dy.SimpleRNNBuilder):
    """Names an operation that its weights do not fit."""

    _op = dy.GRUBuilder._op


class TwoSteps(dy.SimpleRNNBuilder):
    """What makes its steps in Python is another network than the call in C."""

    def _new_step(self, update):
        return Twice(*super()._new_step(update))


class Twice(NodeStep):
    def after(self, state, x):
        return super().after(state, x * 2)


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        (NoStep, ValueError, "gru"),
        pytest.param(
            TwoSteps,
            AssertionError,
            "step without the call in C of 1 inputs is not transduce: TwoSteps, see test_b",
            marks=pytest.mark.fast_paths,
        ),
    ],
)
def test_a_builder_whose_steps_are_wrong_is_reported(kind, error, words, rng):
    _, builder = made(kind)
    with pytest.raises(error, match=words):
        check_ways(builder, inputs(rng, 2, 4, 1))


def test_states_know_where_they_are_and_branch(make, rng):
    _, builder = made(make)
    start = builder.initial_state()
    assert (start.output(), start.h(), start.s(), start.prev()) == (None, (), (), None)
    x, y = as_expressions(inputs(rng, 2, 4, 1))
    first = start.add_input(x)
    left, right = first.add_input(x), first.add_input(y)
    assert left.prev() is first and first.prev() is start and left.b() is builder
    assert len(left.h()) == 2 and len(left.s()) == (4 if cells(builder) else 2)
    assert left.output().value() == left.h()[-1].value() != right.output().value()
    close(start.add_inputs([x, y])[-1].output().npvalue(), right.output().npvalue())


def test_set_h_and_set_s_keep_what_is_not_given(make, rng):
    _, builder = made(make)
    x, y = as_expressions(inputs(rng, 2, 4, 1))
    state = builder.initial_state().add_input(x)
    builder.initial_state().add_input(y)
    expected = state.add_input(y).output().npvalue()
    close(state.set_h(state.h()).add_input(y).output().npvalue(), expected)
    close(state.set_s(state.s()).add_input(y).output().npvalue(), expected)
    close(state.set_s(state.s()[:2]).add_input(y).output().npvalue(), expected)
    close(builder.initial_state(state.s()).add_input(y).output().npvalue(), expected)
    close(
        builder.initial_state_from_raw_vectors([e.value() for e in state.s()])
        .add_input(y)
        .output()
        .npvalue(),
        expected,
    )
    for use in (state.set_h, state.set_s, builder.initial_state):
        with pytest.raises(ValueError, match=r"takes 2"):
            use([dy.zeros(3)])


def test_update_false_gives_no_gradient(make):
    m, builder = made(make)
    dy.sum_elems(builder.initial_state(update=False).transduce([dy.ones(4)] * 2)[-1]).backward()
    assert not any(p.has_gradient() for p in m.parameters_list())


def test_parameters_and_their_expressions(make):
    _, builder = made(make)
    with pytest.raises(ValueError, match=r"call initial_state\(\)"):
        builder.get_parameter_expressions()
    builder.initial_state()
    for parameters, nodes in zip(
        builder.get_parameters(), builder.get_parameter_expressions(), strict=True
    ):
        assert [e.dim()[0] for e in nodes] == [p.shape() for p in parameters[: len(nodes)]]
    dy.renew_cg()
    with pytest.raises(ValueError, match=r"call initial_state\(\)"):
        builder.get_parameter_expressions()


def test_bad_inputs_are_refused(make):
    _, builder = made(make)
    for bad in (None, 3, np.ones(4), "x"):
        with pytest.raises(TypeError):
            builder.initial_state().add_input(bad)
    with pytest.raises(ValueError, match="positive"):
        make(1, 0, 3, dy.ParameterCollection())
    assert builder.initial_state().transduce([]) == []
    assert (
        make(0, 4, 3, dy.ParameterCollection()).initial_state().add_input(dy.ones(4)).output()
        is None
    )


# ---- dropout ---------------------------------------------------------------------------


def test_masks_are_per_sequence_and_shared_on_demand(make):
    _, builder = made(make)
    builder.set_dropout(0.5)
    xs = [dy.ones(4, batch_size=20)] * 2
    first, second, shared = (
        builder.initial_state(share_masks=share).transduce(xs)[-1].npvalue()
        for share in (False, False, True)
    )
    builder.disable_dropout()
    plain = builder.initial_state().transduce(xs)[-1].npvalue()
    if isinstance(builder, dy.FastLSTMBuilder):
        assert np.array_equal(first, plain)
        return
    assert not np.array_equal(first, second) and not np.array_equal(first, plain)
    assert np.array_equal(second, shared) != isinstance(builder, dy.GRUBuilder)
    for rate in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            builder.set_dropout(rate)


def test_simple_rnn_masks():
    m = dy.ParameterCollection()
    rnn = dy.SimpleRNNBuilder(1, 40, 40, m)
    Wx, Wh, _b = rnn.get_parameters()[0]
    Wx.set_value(np.eye(40))
    Wh.set_value(np.eye(40))
    rnn.set_dropouts(0.5, d_h=0)
    states = rnn.initial_state().add_inputs([dy.ones(40) * 0.1] * 2)
    passed = [s.output().npvalue() > 0.01 for s in states]
    assert np.array_equal(*passed) and 5 < passed[0].sum() < 35
    rnn.set_dropouts(0, 0.5)
    start = rnn.initial_state([dy.ones(40)])
    rnn.set_dropout_masks(3)
    state = start.add_input(dy.zeros(40))
    assert state.output().dim() == ((40,), 3)
    close(np.unique(state.output().npvalue().round(4)), [0, round(np.tanh(2), 4)], 1e-3)


def test_gru_drops_its_output_but_not_h():
    m = dy.ParameterCollection()
    gru = dy.GRUBuilder(1, 2, 50, m)
    for p in m.parameters_list():
        p.zero()
    gru.set_dropout(0.5)
    state = gru.initial_state([dy.ones(50)]).add_input(dy.ones(2))
    assert set(state.h()[0].value()) == {0.5} and set(state.output().value()) == {0.0, 1.0}


def test_coupled_masks_the_c_that_peepholes_see():
    m = dy.ParameterCollection()
    lstm = dy.CoupledLSTMBuilder(1, 2, 50, m)
    for p in m.parameters_list():
        p.zero()
    lstm.set_dropout(0.5)
    ones = dy.ones(50)
    assert set(lstm.initial_state([ones, ones]).add_input(dy.ones(2)).s()[0].value()) == {0.5}
    lstm.get_parameters()[0][2].set_value(np.eye(50) * 100)
    c = lstm.initial_state([ones, ones]).add_input(dy.ones(2)).s()[0].npvalue()
    close(np.unique(c.round(5)), [0, 0.5])


# ---- what only some have ---------------------------------------------------------------


def test_compact_weight_noise():
    _, builder = made(dy.CompactVanillaLSTMBuilder)
    xs = [dy.ones(4)] * 3
    plain = builder.initial_state().transduce(xs)[-1].npvalue()
    builder.set_weightnoise(1e-6)
    close(builder.initial_state().transduce(xs)[-1].npvalue(), plain, 1e-4)
    builder.set_weightnoise(0.5)
    a, b = (builder.initial_state().transduce(xs)[-1].npvalue() for _ in range(2))
    assert not np.allclose(a, b)
    with pytest.raises(ValueError, match="negative"):
        builder.set_weightnoise(-1)


def test_sparsity_prunes_the_smallest_of_all_layers():
    m, builder = made(dy.SparseLSTMBuilder)
    for share in (0.25, 0.5, 0, 1, 0.5):
        builder.set_sparsity(share)
        pairs = [
            (layer[i].as_array(), layer[i + 3].as_array())
            for layer in builder.get_parameters()
            for i in (0, 1)
        ]
        sizes, kept = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
        assert (kept == 0).sum() == round(len(kept) * share)
        assert not 0 < share < 1 or np.abs(sizes)[kept == 0].max() <= np.abs(sizes)[kept == 1].min()
    trainer = dy.SimpleSGDTrainer(m)
    state = builder.initial_state().add_input(dy.ones(4))
    close(builder.get_parameter_expressions()[0][0].npvalue(), pairs[0][0] * pairs[0][1])
    dy.sum_elems(state.output()).backward()
    trainer.update()
    layer = builder.get_parameters()[0]
    assert np.array_equal(layer[3].as_array(), pairs[0][1])
    assert np.array_equal(layer[0].as_array()[pairs[0][1] == 0], pairs[0][0][pairs[0][1] == 0])
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        builder.set_sparsity(1.1)


def test_stacked_states(rng):
    m = dy.ParameterCollection()
    builders = [dy.GRUBuilder(1, 4, 3, m), dy.VanillaLSTMBuilder(1, 3, 2, m)]
    start = dy.StackedRNNState([b.initial_state() for b in builders])
    xs = as_expressions(inputs(rng, 3, 4, 2))
    expected = builders[1].initial_state().transduce(builders[0].initial_state().transduce(xs))
    stepped = start
    for x, y in zip(xs, expected, strict=True):
        before, stepped = stepped, stepped.add_input(x)
        assert stepped.prev() is before
        close(stepped.output().npvalue(), y.npvalue())
    states = start.add_inputs(xs)
    assert states[0].prev() is start and states[1].prev() is states[0]
    for a, b, c in zip(states, start.transduce(xs), expected, strict=True):
        close(a.output().npvalue(), c.npvalue())
        close(b.npvalue(), c.npvalue())
    assert [len(s) for s in stepped.s()] == [1, 2] and [len(h) for h in stepped.h()] == [1, 1]
    with pytest.raises(ValueError, match="at least one"):
        dy.StackedRNNState([])


@pytest.mark.parametrize("factory", [dy.GRUBuilder, dy.FastLSTMBuilder, dy.SparseLSTMBuilder])
def test_birnn_of_other_builders(factory):
    m = dy.ParameterCollection()
    network = dy.BiRNNBuilder(2, 4, 6, m, factory)
    network.set_dropout(0.3)
    dy.sum_elems(network.transduce([dy.ones(4)] * 3)[1]).backward()
    network.disable_dropout()
    pairs = network.add_inputs([dy.ones(4)] * 3)
    close(
        np.concatenate([s.output().npvalue() for s in pairs[1]]),
        network.transduce([dy.ones(4)] * 3)[1].npvalue(),
    )


# ---- sequences in one call -------------------------------------------------------------


def network(kind, layers=2):
    m = dy.ParameterCollection()
    builder = kind(layers, 3, 4, m)
    dy.renew_cg()
    return builder, [dy.inputVector([i, 1, -i]) for i in range(5)]


@pytest.mark.parametrize("kind", CLASSES)
def test_transduce_of_lists_and_tuples_is_what_steps_give(kind):
    builder, xs = network(kind)
    expected = [state.output().npvalue() for state in builder.initial_state().add_inputs(xs)]
    for given_as in (list, tuple, iter):
        outputs = builder.initial_state().transduce(given_as(xs))
        np.testing.assert_array_equal([e.npvalue() for e in outputs], expected)


@pytest.mark.parametrize("kind", CLASSES)
def test_rates_of_the_first_input_count_for_the_whole_sequence(kind):
    builder, xs = network(kind)
    plain = [e.npvalue() for e in builder.initial_state().transduce(xs)]
    undropped = builder.initial_state()
    first = undropped.transduce(xs[:1])
    if kind is not dy.GRUBuilder:  # which draws at each step
        builder.set_dropout(0.5)
        np.testing.assert_array_equal(undropped.transduce(xs)[-1].npvalue(), plain[-1])
    builder.set_dropout(0.9)
    dropped = [e.npvalue() for e in builder.initial_state().transduce(xs)]
    # which drops nothing, as in DyNet
    assert np.array_equal(dropped, plain) == (kind is dy.FastLSTMBuilder)
    builder.disable_dropout()
    np.testing.assert_array_equal(
        [e.npvalue() for e in builder.initial_state().transduce(xs)], plain
    )
    # a product of one column, not of five
    np.testing.assert_allclose(first[0].npvalue(), plain[0], rtol=1e-5, atol=1e-7)


def test_shared_masks_are_used_by_the_second_sequence():
    builder, xs = network(dy.VanillaLSTMBuilder)
    builder.set_dropout(0.5)
    one = builder.initial_state().transduce(xs)
    builder.disable_dropout()
    two = builder.initial_state(share_masks=True).transduce(xs)
    np.testing.assert_array_equal([e.npvalue() for e in two], [e.npvalue() for e in one])


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda xs: [*xs, 3], TypeError, "takes expressions; got .*int"),
        (lambda xs: [*xs, dy.inputVector([1, 2])], ValueError, r"x_6 = \(2,\)"),
        (lambda xs: (dy.renew_cg(), xs)[1], RuntimeError, "Stale"),
        (lambda xs: [xs[0], None], TypeError, "takes expressions; got .*NoneType"),
    ],
)
def test_what_cannot_be_transduced(spoil, error, words):
    builder, xs = network(dy.VanillaLSTMBuilder)
    with pytest.raises(error, match=words):
        builder.initial_state().transduce(spoil(xs))


def test_a_copied_builder_uses_parameters_of_its_own():
    builder, xs = network(dy.VanillaLSTMBuilder, layers=1)
    builder.initial_state().transduce(xs)
    copied = copy.deepcopy(builder)
    for p in copied.get_parameters()[0]:
        p.zero()
    assert not any(e.npvalue().any() for e in copied.initial_state().transduce(xs))
    assert builder.initial_state().transduce(xs)[0].npvalue().any()


def test_both_directions_of_inputs_of_any_kind():
    m = dy.ParameterCollection()
    table, builder = (
        m.add_lookup_parameters((5, 3)),
        dy.BiRNNBuilder(2, 3, 8, m, dy.VanillaLSTMBuilder),
    )
    dy.renew_cg()
    xs = [table[i] for i in (1, 4, 2)]
    expected = [
        dy.concatenate([f.output(), b.output()]).npvalue() for f, b in builder.add_inputs(xs)
    ]
    np.testing.assert_array_equal([e.npvalue() for e in builder.transduce(xs)], expected)
    np.testing.assert_array_equal([e.npvalue() for e in builder.transduce(x for x in xs)], expected)
    assert builder.transduce([]) == []


def test_both_directions_by_builders_of_the_users_own():
    class Twice:
        """Each input twice as large, as any sequence."""

        def initial_state(self):
            return self

        def transduce(self, xs):
            return tuple(2 * x for x in xs)

    m = dy.ParameterCollection()
    builder = dy.BiRNNBuilder(1, 1, 2, m, None, builder_layers=[(Twice(), Twice())])
    dy.renew_cg()
    assert [e.value() for e in builder.transduce([dy.scalarInput(1), dy.scalarInput(3)])] == [
        [2, 2],
        [6, 6],
    ]


def test_no_start_is_a_start_at_zero(make, rng):
    m, builder = made(make)
    if getattr(builder, "ln_lstm", False):
        pytest.skip("as in DyNet there is no bias of normalised states where there is no state")
    xs, n = rng.normal(size=(3, 4)), 2 * (1 + cells(builder))
    ends = []
    for zeros in ([], [np.zeros(3)] * n):
        dy.renew_cg()
        m.reset_gradients()
        state = builder.initial_state([dy.inputVector(x) for x in zeros] or None)
        last = dy.concatenate([*state.add_inputs([dy.inputVector(x) for x in xs])[-1].s()])
        dy.sum_elems(dy.square(last)).backward()
        ends.append([last.npvalue(), *[p.grad_as_array() for p in m.parameters_list()]])
    for without, zero in zip(*ends, strict=True):
        close(without, zero)


def test_each_rate_of_dropout_counts(make, rng):
    """Where nearly every element is dropped, inputs are zeros; states are others than they were."""
    _, builder = made(make, 1)
    if not hasattr(builder, "set_dropouts"):
        pytest.skip("has one rate, or none")
    xs, start = rng.normal(size=(2, 4)), rng.normal(size=(1 + cells(builder), 3))

    def steps(of_x, of_h, xs):
        builder.set_dropouts(of_x, of_h)
        dy.renew_cg()
        state = builder.initial_state([dy.inputVector(v) for v in start])
        return np.array([s.output().value() for s in state.add_inputs([*map(dy.inputVector, xs)])])

    where = f"{type(builder).__name__}, see {type(builder).__module__}"
    dropped = steps(1 - 1e-6, 0, xs)
    assert np.allclose(dropped, steps(0, 0, 0 * xs), atol=1e-5), f"inputs are not dropped: {where}"
    plain = steps(0, 0, xs)
    assert not np.allclose(plain, steps(0, 1 - 1e-6, xs)), f"states are not dropped: {where}"
