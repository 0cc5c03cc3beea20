"""Recurrent builders: a sequence as one node equals steps, states branch, masks are drawn once per
sequence; gradients in double.

How long: about three seconds, two of them for the double build.
"""

import numpy as np
import pytest
from gradients import jacobian_difference
from processes import passing_tests
from test_graph import close

import dist_dynet as dy
from dist_dynet.nn.sequences import inputs_of


def logistic(x):
    return 1 / (1 + np.exp(-x))


def lstm_reference(layers, xs, h=None, c=None, forget_bias=1.0):
    """h of the top layer after each input, and the last (c, h) of each layer; arrays (size,
    batch)."""
    last = []
    for k, (Wx, Wh, b) in enumerate(layers):
        n = Wh.shape[1]
        at_h, at_c = (np.zeros((n, 1)), np.zeros((n, 1))) if h is None else (h[k], c[k])
        out = []
        for x in xs:
            i, f, o, g = np.split(Wx @ x + Wh @ at_h + b[:, None], 4)
            at_c = logistic(f + forget_bias) * at_c + logistic(i) * np.tanh(g)
            at_h = logistic(o) * np.tanh(at_c)
            out.append(at_h)
        xs = out
        last.append((at_c, at_h))
    return xs, last


def arrays_of(builder):
    return [[p.as_array() for p in layer] for layer in builder.get_parameters()]


def inputs(rng, n, size, batch):
    return [rng.normal(size=(size, batch)) for _ in range(n)]


def as_expressions(arrays):
    return [dy.inputTensor(a, batched=True) for a in arrays]


def make(layers, forget_bias=1.0):
    m = dy.ParameterCollection()
    builder = dy.VanillaLSTMBuilder(layers, 4, 3, m, forget_bias=forget_bias)
    for layer in builder.get_parameters():
        layer[2].set_value(np.linspace(-1, 1, 12))
    return m, builder


def run(way, state, xs):
    """The states' outputs, made in one of the ways."""
    if way == "transduce":
        return state.transduce(xs)
    if way == "add_inputs":
        return [s.output() for s in state.add_inputs(xs)]
    if way == "step, then sequence":
        first = state.add_input(xs[0])
        return [first.output(), *first.transduce(xs[1:])]
    if way == "sequence without the call in C":
        return state._step.outputs(state, inputs_of(xs, None, None, "transduce"))
    if way == "states without the call in C":
        return [
            s.output() for s in state._step.states(state, inputs_of(xs, None, None, "add_inputs"))
        ]
    outputs = []
    for x in xs:
        state = state.add_input(x) if way == "add_input" else state._step.after(state, x)
        outputs.append(state.output())
    return outputs


WAYS = [
    "transduce",
    "add_inputs",
    "add_input",
    "step, then sequence",
    "step without the call in C",
    "sequence without the call in C",
    "states without the call in C",
]
"""What is frequent goes through one call of csrc/python/states.c; all else through the methods of
Step."""


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("state", ["none", "c", "c and h", "unbatched"])
def test_all_ways_give_the_same_values_and_gradients(layers, batch, state, rng):
    m, builder = make(layers, forget_bias=0.5)
    arrays = inputs(rng, 5, 4, batch)
    state_batch = 1 if state == "unbatched" else batch
    cs, hs = (
        [rng.normal(size=(3, state_batch)) for _ in range(layers)],
        [rng.normal(size=(3, state_batch)) for _ in range(layers)],
    )
    if state == "c":
        hs = [np.zeros_like(h) for h in hs]
    reference, _ = lstm_reference(
        arrays_of(builder), arrays, None if state == "none" else hs, cs, 0.5
    )
    targets = inputs(rng, 5, 3, batch)
    seen = []
    for way in WAYS:
        dy.renew_cg()
        m.reset_gradients()
        xs = as_expressions(arrays)
        vecs = (
            None
            if state == "none"
            else as_expressions(cs) + ([] if state == "c" else as_expressions(hs))
        )
        outputs = run(way, builder.initial_state(vecs), xs)
        for y, expected in zip(outputs, reference, strict=True):
            close(y.npvalue().reshape(3, batch), expected)
        loss = dy.sum_batches(
            dy.esum(
                [
                    dy.squared_distance(y, t)
                    for y, t in zip(outputs, as_expressions(targets), strict=True)
                ]
            )
        )
        loss.backward(full=True)
        gradients = [p.grad_as_array() for p in m.parameters_list()] + [
            e.gradient() for e in (*xs, *(vecs or []))
        ]
        assert all(
            np.abs(g).max() > 0 for g in gradients if g.size != 36 or state != "none" or layers > 0
        )
        seen.append(gradients)
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            close(a, b, 1e-4)


def test_states_know_h_s_prev_and_builder(rng):
    _, builder = make(2)
    start = builder.initial_state()
    assert (start.output(), start.h(), start.s(), start.prev()) == (None, (), (), None)
    arrays = inputs(rng, 3, 4, 1)
    for states in (
        [start.add_input(x) for x in as_expressions(arrays[:1])],
        start.add_inputs(as_expressions(arrays)),
    ):
        state = states[-1]
        _, last = lstm_reference(arrays_of(builder), arrays[: len(states)])
        assert state.b() is builder and states[0].prev() is start
        assert len(state.h()) == 2 and len(state.s()) == 4
        for layer, (c, h) in enumerate(last):
            close(state.h()[layer].npvalue(), h[:, 0])
            close(state.s()[layer].npvalue(), c[:, 0])
            close(state.s()[2 + layer].npvalue(), h[:, 0])
        close(state.output().npvalue(), last[-1][1][:, 0])


def test_states_branch(rng):
    _, builder = make(2)
    a, b, c = inputs(rng, 3, 4, 1)
    first = builder.initial_state().add_input(as_expressions([a])[0])
    left = first.add_input(as_expressions([b])[0])
    right = first.add_inputs(as_expressions([c, b]))[-1]
    again = first.transduce(as_expressions([b]))[-1]
    values = [e.npvalue() for e in (left.output(), right.output(), again)]
    close(values[0], lstm_reference(arrays_of(builder), [a, b])[0][-1][:, 0])
    close(values[1], lstm_reference(arrays_of(builder), [a, c, b])[0][-1][:, 0])
    close(values[2], values[0])


def test_middle_state_of_a_sequence_continues(rng):
    _, builder = make(2)
    arrays = inputs(rng, 4, 4, 2)
    xs = as_expressions(arrays)
    states = builder.initial_state().add_inputs(xs[:3])
    y = states[1].add_input(xs[3]).output()
    close(y.npvalue(), lstm_reference(arrays_of(builder), [arrays[0], arrays[1], arrays[3]])[0][-1])


@pytest.mark.parametrize("at_start", [True, False])
def test_set_h_and_set_s(at_start, rng):
    _, builder = make(2)
    x0, x = inputs(rng, 2, 4, 1)
    cs, hs = inputs(rng, 2, 3, 1), inputs(rng, 2, 3, 1)
    state, before = builder.initial_state(), [(np.zeros((3, 1)),) * 2] * 2
    if not at_start:
        state = state.add_input(as_expressions([x0])[0])
        _, before = lstm_reference(arrays_of(builder), [x0])
    for new, h, c in (
        (state.set_h(as_expressions(hs)), hs, [b[0] for b in before]),
        (state.set_s(as_expressions(cs)), [b[1] for b in before], cs),
        (state.set_s(as_expressions(cs + hs)), hs, cs),
    ):
        assert new.prev() is state
        y = new.add_input(as_expressions([x])[0]).output()
        close(y.npvalue(), lstm_reference(arrays_of(builder), [x], h, c)[0][0][:, 0])


@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_wrong_number_of_vectors_is_refused(n):
    _, builder = make(2)
    vecs = [dy.zeros(3)] * n
    for use in (
        builder.initial_state,
        builder.initial_state().set_h,
        builder.initial_state().set_s,
    ):
        with pytest.raises((ValueError, AssertionError), match=r"takes .* expressions|empty"):
            use(vecs)


def test_wrong_dims_name_the_op():
    _, builder = make(1)
    for use in (
        lambda: builder.initial_state().add_input(dy.zeros(5)),
        lambda: builder.initial_state().transduce([dy.zeros(4), dy.zeros(5)]),
        lambda: builder.initial_state([dy.zeros(2)]).add_input(dy.zeros(4)),
        lambda: builder.initial_state().transduce(
            [dy.zeros(4, batch_size=2), dy.zeros(4, batch_size=3)]
        ),
    ):
        with pytest.raises(ValueError, match="lstm: "):
            use()


def test_update_false_makes_parameters_constant(rng):
    m, builder = make(2)
    for way in WAYS:
        dy.renew_cg()
        x = as_expressions(inputs(rng, 3, 4, 1))
        dy.sum_elems(run(way, builder.initial_state(update=False), x)[-1]).backward(full=True)
        assert not any(p.has_gradient() for p in m.parameters_list())
        assert np.abs(x[0].gradient()).max() > 0
        dy.sum_elems(run(way, builder.initial_state(), x)[-1]).backward()
        assert all(p.has_gradient() for p in m.parameters_list())
        m.reset_gradients()


def test_raw_vectors_and_parameters_as_start(rng):
    m, builder = make(1)
    c, h = rng.normal(size=3), rng.normal(size=3)
    x = inputs(rng, 1, 4, 1)
    y = builder.initial_state_from_raw_vectors([c, h]).transduce(as_expressions(x))[-1]
    close(
        y.npvalue(), lstm_reference(arrays_of(builder), x, [h[:, None]], [c[:, None]])[0][0][:, 0]
    )
    start = [m.add_parameters(3, init=c), m.add_parameters(3, init=h)]
    y = builder.initial_state(start).transduce(as_expressions(x))[-1]
    close(
        y.npvalue(), lstm_reference(arrays_of(builder), x, [h[:, None]], [c[:, None]])[0][0][:, 0]
    )
    dy.sum_elems(y).backward()
    assert all(p.has_gradient() for p in start)


def test_parameter_expressions():
    _, builder = make(2)
    with pytest.raises(ValueError, match=r"call initial_state\(\)"):
        builder.get_parameter_expressions()
    builder.initial_state()
    shapes = [[e.dim()[0] for e in layer] for layer in builder.get_parameter_expressions()]
    assert shapes == [[(12, 4), (12, 3), (12,)], [(12, 3), (12, 3), (12,)]]
    assert [p.name() for p in builder.get_parameters()[1]] == [
        f"/vanilla-lstm-builder/_{i}" for i in (3, 4, 5)
    ]
    assert builder.spec == (2, 4, 3, False, 1)
    copy = dy.VanillaLSTMBuilder.from_spec(builder.spec, dy.ParameterCollection())
    assert copy.spec == builder.spec and copy.whoami() == "VanillaLSTMBuilder"


def test_builder_without_layers_and_sequence_without_inputs():
    _, builder = make(1)
    assert builder.initial_state().transduce([]) == builder.initial_state().add_inputs([]) == []
    empty = dy.VanillaLSTMBuilder(0, 2, 2, dy.ParameterCollection()).initial_state()
    assert empty.add_input(dy.zeros(2)).output() is None


# ---- dropout ---------------------------------------------------------------------------


def masked(rates, layers=1):
    """A builder whose h shows which inputs passed: each unit of h copies one input number, with
    next to no memory."""
    m = dy.ParameterCollection()
    builder = dy.VanillaLSTMBuilder(layers, 64, 64, m)
    for Wx, Wh, b in builder.get_parameters():
        Wx.set_value(np.vstack([np.zeros((192, 64)), np.eye(64)]))
        Wh.zero()
        b.set_value(np.repeat([20.0, -40.0, 20.0, 0.0], 64))
    builder.set_dropouts(*rates)
    return builder


@pytest.mark.parametrize("way", WAYS)
def test_input_mask_is_constant_within_a_sequence_and_its_own_per_sequence(way):
    builder = masked((0.5, 0))
    xs = [dy.ones(64)] * 4
    sequences = [
        [np.array(y.value()) > 0.1 for y in run(way, builder.initial_state(), xs)] for _ in range(2)
    ]
    for sequence in sequences:
        assert all(np.array_equal(sequence[0], s) for s in sequence)
        assert 15 < sequence[0].sum() < 49
    assert not np.array_equal(sequences[0][0], sequences[1][0])


def test_kept_inputs_are_scaled():
    y = np.array(masked((0.75, 0)).initial_state().transduce([dy.ones(64) * 0.1])[0].value())
    close(np.unique(np.round(y, 4)), [0, round(np.tanh(np.tanh(0.4)), 4)], 1e-3)


def test_all_ways_draw_masks_once_with_dropout_on_h(rng):
    _, builder = make(2)
    builder.set_dropout(0.5)
    arrays = inputs(rng, 4, 4, 2)
    seen = []
    for way in WAYS:
        dy.reset_random_seed(7)
        dy.renew_cg()
        xs = as_expressions(arrays)
        seen.append([y.npvalue() for y in run(way, builder.initial_state(), xs)])
    for other in seen[1:]:
        for a, b in zip(seen[0], other, strict=True):
            close(a, b)
    builder.disable_dropout()
    assert not np.allclose(builder.initial_state().transduce(xs)[-1].npvalue(), seen[0][-1])


def test_mask_belongs_to_batch_elements_and_is_shared_over_branches():
    builder = masked((0.5, 0))
    x = dy.ones(64, batch_size=2)
    start = builder.initial_state()
    first = start.add_input(x)
    y = first.output().npvalue() > 0.1
    assert not np.array_equal(y[:, 0], y[:, 1])
    assert np.array_equal(start.add_input(x).output().npvalue() > 0.1, y)
    assert np.array_equal(first.add_input(x).output().npvalue() > 0.1, y)
    builder.initial_state()
    builder.set_dropout_masks(batch_size=2)


def test_rates_outside_are_refused():
    _, builder = make(1)
    for rates in ((-0.1, 0), (0, 1.1), (float("nan"), 0)):
        with pytest.raises(ValueError, match="must lie in"):
            builder.set_dropouts(*rates)
    with pytest.raises(ValueError, match="must lie in"):
        builder.set_dropout(2)
    builder.set_dropout(1)
    assert np.isfinite(builder.initial_state().transduce([dy.ones(4)] * 2)[-1].value()).all()


def test_all_masked_sequences_do_not_share_state_over_graphs():
    builder = masked((0.5, 0.5))
    state = builder.initial_state().add_input(dy.ones(64))
    dy.renew_cg()
    with pytest.raises(RuntimeError, match="Stale"):
        state.add_input(dy.ones(64))


# ---- both ways -------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
def test_birnn_is_two_networks(layers, rng):
    m = dy.ParameterCollection()
    network = dy.BiRNNBuilder(layers, 4, 6, m, dy.VanillaLSTMBuilder)
    arrays = inputs(rng, 5, 4, 2)
    below = arrays
    for forward, backward in network.builder_layers:
        ahead, _ = lstm_reference(arrays_of(forward), below)
        back, _ = lstm_reference(arrays_of(backward), below[::-1])
        below = [np.vstack(pair) for pair in zip(ahead, back[::-1], strict=True)]
    xs = as_expressions(arrays)
    outputs = network.transduce(xs)
    for y, expected in zip(outputs, below, strict=True):
        close(y.npvalue(), expected)
    for (f, b), expected in zip(network.add_inputs(xs), below, strict=True):
        close(np.vstack([f.output().npvalue(), b.output().npvalue()]), expected)
    dy.sum_batches(dy.sum_elems(outputs[2])).backward()
    assert all(p.has_gradient() for p in m.parameters_list())
    assert m.parameters_list()[0].name() == "/birnn/vanilla-lstm-builder/_0"


def test_birnn_refuses_what_cannot_be():
    m = dy.ParameterCollection()
    with pytest.raises(AssertionError, match="must be even"):
        dy.BiRNNBuilder(1, 2, 3, m, dy.VanillaLSTMBuilder)
    with pytest.raises(AssertionError, match="at least one layer"):
        dy.BiRNNBuilder(0, 2, 4, m, dy.VanillaLSTMBuilder)


def test_birnn_of_an_empty_sentence_is_empty():
    assert (
        dy.BiRNNBuilder(2, 2, 4, dy.ParameterCollection(), dy.VanillaLSTMBuilder).transduce([])
        == []
    )


# ---- arguments that are no expressions -------------------------------------------------


@pytest.mark.parametrize("rate", [0, 0.5])
@pytest.mark.parametrize("bad", [None, 1, "x", [1, 2, 3, 4], np.ones(4)])
def test_what_is_no_expression_is_refused(bad, rate):
    _, builder = make(1)
    builder.set_dropout(rate)
    state = builder.initial_state()
    good = dy.zeros(3)
    for use in (
        lambda: state.add_input(bad),
        lambda: state.add_inputs([dy.zeros(4), bad]),
        lambda: state.transduce([bad]),
        lambda: builder.initial_state([bad]).add_input(dy.zeros(4)),
        lambda: builder.initial_state([good, bad]).add_input(dy.zeros(4)),
        lambda: state.set_h([bad]).add_input(dy.zeros(4)),
        lambda: state.set_s([bad]).add_input(dy.zeros(4)),
        lambda: state.set_s([bad, good]).add_input(dy.zeros(4)),
    ):
        with pytest.raises((TypeError, AssertionError)):
            use()


def test_builder_needs_a_collection():
    for m in (None, 5, dy.ParameterCollection):
        with pytest.raises(TypeError, match="ParameterCollection"):
            dy.VanillaLSTMBuilder(1, 2, 3, m)
        with pytest.raises(TypeError, match="ParameterCollection"):
            dy.BiRNNBuilder(1, 2, 4, m, dy.VanillaLSTMBuilder)


# ---- gradients in double ---------------------------------------------------------------


@pytest.mark.float64
@pytest.mark.parametrize(("batch", "state_batch"), [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("way", WAYS)
def test_double_jacobian_of_the_lstm(way, batch, state_batch, rng):
    m = dy.ParameterCollection()
    builder = dy.VanillaLSTMBuilder(2, 3, 2, m)
    parameters = m.parameters_list()
    arrays = [rng.normal(size=p.shape()) for p in parameters]
    arrays += inputs(rng, 3, 3, batch) + [rng.normal(size=(2, state_batch)) for _ in range(4)]

    def outputs(*arrays):
        dy.renew_cg()
        for p, a in zip(parameters, arrays, strict=False):
            p.set_value(a)
        rest = as_expressions(arrays[len(parameters) :])
        states, x = [], builder.initial_state(rest[3:])
        if way == "add_input":
            for e in rest[:3]:
                x = x.add_input(e)
                states.append(x)
        else:
            states = x.add_inputs(rest[:3])
        h = run(way, builder.initial_state(rest[3:]), rest[:3])
        return dy.concatenate([*h, states[1].s()[0], states[2].s()[1]]), rest

    def f(*arrays):
        return outputs(*arrays)[0].npvalue()

    def gradients_of(w):
        m.reset_gradients()
        y, rest = outputs(*arrays)
        dy.sum_batches(
            dy.dot_product(y, dy.inputTensor(w.reshape(-1, batch), batched=True))
        ).backward(full=True)
        return [p.grad_as_array() for p in parameters] + [e.gradient() for e in rest]

    difference = jacobian_difference(f, arrays, gradients_of)
    assert difference is None, difference


@pytest.mark.float32
def test_gradients_in_the_double_build():
    assert passing_tests("-m", "float64", __file__, DIST_DYNET_DTYPE="float64") == 3 * len(WAYS)


@pytest.mark.parametrize("cls", [dy.VanillaLSTMBuilder, dy.GRUBuilder, dy.SimpleRNNBuilder])
def test_state_of_given_vectors_comes_after_the_empty_one(cls):
    """As in DyNet: programs go back over prev() until it is None."""
    builder = cls(1, 3, 4, dy.ParameterCollection())
    start = builder.initial_state([dy.ones(4)])
    assert start.prev().s() == () and start.prev().prev() is None
    raw = builder.initial_state_from_raw_vectors([np.ones(4)])
    assert raw.prev().s() == () and raw.add_input(dy.ones(3)).prev() is raw
