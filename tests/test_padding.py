"""Sequences of different lengths in one batch, of every builder: each sentence gives what it gives
alone; rows of tables are multiplied once.

How long: about ten seconds, half of them for the double build.
"""

import itertools

import numpy as np
import pytest
from gradients import directional_difference
from net_table.recurrent import FACTORIES, cells
from processes import passing_tests
from test_builders import made
from test_graph import close
from test_rnn import as_expressions

import dist_dynet as dy

LENGTHS = [2, 4, 0, 3]
STEPS, BATCH, K, H = 4, len(LENGTHS), 4, 3
MASKS = {
    "lengths": np.arange(STEPS)[:, None] < LENGTHS,
    "padded before": np.arange(STEPS)[::-1, None] < LENGTHS,
    "holes": np.array([[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1], [1, 0, 1, 1]], bool),
}
WAYS = ["list", "matrix", "packed"]


@pytest.fixture(params=[*FACTORIES, "both ways", "two layers both ways"])
def network(request):
    """(collection, network), whose size of h is H; both ways: 2 H."""
    if request.param in FACTORIES:
        return made(FACTORIES[request.param])
    dy.renew_cg()
    m = dy.ParameterCollection()
    return m, dy.BiRNNBuilder(
        1 + request.param.startswith("two"), K, 2 * H, m, dy.VanillaLSTMBuilder
    )


def start(network):
    """What has transduce() and its like: a new sequence."""
    return network if isinstance(network, dy.BiRNNBuilder) else network.initial_state()


def alone(network, x, b, mask):
    """The outputs of batch element b alone, one for each of its real positions."""
    steps = [dy.inputTensor(x[t, b]) for t in range(STEPS) if mask[t, b]]
    return start(network).transduce(steps) if steps else []


def at_real_positions(network, way, xs, mask):
    """For each batch element the outputs at its real positions, as (h,) expressions."""
    lengths = mask.sum(0).tolist()
    if way == "packed":
        y, _ = start(network).transduce_packed(xs, lengths)
        ends = np.cumsum([0, *lengths])
        return [
            [dy.pick_batch_elem(y, i) for i in range(a, b)] for a, b in itertools.pairwise(ends)
        ]
    if way == "matrix":
        y, _ = start(network).transduce_matrix(xs, mask=mask)
        return [
            [dy.pick(dy.pick_batch_elem(y, b), t, 1) for t in range(STEPS) if mask[t, b]]
            for b in range(BATCH)
        ]
    outputs = start(network).transduce(xs, mask=mask)
    return [
        [dy.pick_batch_elem(outputs[t], b) for t in range(STEPS) if mask[t, b]]
        for b in range(BATCH)
    ]


def expressions(way, x, mask):
    """x (steps, batch, k) in one of the forms."""
    if way == "packed":
        return dy.inputTensor(
            np.array([x[t, b] for b in range(BATCH) for t in range(STEPS) if mask[t, b]]).T,
            batched=True,
        )
    return (
        dy.inputTensor(x.transpose(2, 0, 1), batched=True)
        if way == "matrix"
        else as_expressions(x.transpose(0, 2, 1))
    )


def loss_of(outputs, weights):
    dots = [
        dy.dot_product(y, dy.inputTensor(w))
        for row, ws in zip(outputs, weights, strict=True)
        for y, w in zip(row, ws, strict=False)
    ]
    return dy.esum(dots)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("way", WAYS)
def test_sentence_in_a_batch_gives_what_it_gives_alone(network, way, kind, rng):
    if way == "packed" and kind != "lengths":
        kind = "lengths"  # it has no padding
    m, network = network
    mask, x = MASKS[kind], rng.normal(size=(STEPS, BATCH, K))
    size = 2 * H if isinstance(network, dy.BiRNNBuilder) else H
    weights = rng.normal(size=(BATCH, STEPS, size))
    loss_of([alone(network, x, b, mask) for b in range(BATCH)], weights).backward()
    expected = [p.grad_as_array() for p in m.parameters_list()]
    values = [[y.npvalue() for y in alone(network, x, b, mask)] for b in range(BATCH)]
    dy.renew_cg()
    m.reset_gradients()
    xs = expressions(way, x, mask)
    outputs = at_real_positions(network, way, xs, mask)
    loss_of(outputs, weights).backward(full=True)
    for row, wanted in zip(outputs, values, strict=True):
        assert len(row) == len(wanted)
        for y, value in zip(row, wanted, strict=True):
            close(y.npvalue(), value)
    for p, gradient in zip(m.parameters_list(), expected, strict=True):
        close(p.grad_as_array(), gradient, 1e-4)
    if way == "list":
        for t, e in enumerate(xs):
            assert not e.gradient()[:, ~mask[t]].any()


def test_padding_carries_the_state(network, rng):
    _, network = network
    x = as_expressions(rng.normal(size=(STEPS, K, BATCH)))
    states = start(network).add_inputs(x, lengths=LENGTHS)
    ahead = [s[0] for s in states] if isinstance(network, dy.BiRNNBuilder) else states
    for t in range(1, STEPS):
        stays = np.array(LENGTHS) <= t
        for before, after in zip(ahead[t - 1].s(), ahead[t].s(), strict=True):
            assert np.array_equal(after.npvalue()[:, stays], before.npvalue()[:, stays])
            assert (after.npvalue()[:, ~stays] != before.npvalue()[:, ~stays]).all()
    assert not any(e.npvalue()[:, 2].any() for e in ahead[-1].s()), (
        "the empty sentence stays at the initial state"
    )
    if isinstance(network, dy.BiRNNBuilder):
        back = [s[1].s()[0].npvalue() for s in states]
        assert not back[3][:, [0, 2, 3]].any() and back[3][:, 1].all(), (
            "the backward direction begins at each sentence's own end"
        )
        assert states[0][1].prev() is states[1][1]


@pytest.mark.parametrize("name", FACTORIES)
def test_last_state_continues(name, rng):
    _, builder = made(FACTORIES[name])
    x, more = rng.normal(size=(STEPS, BATCH, K)), as_expressions(rng.normal(size=(1, K, BATCH)))[0]
    mask = MASKS["lengths"]
    listed = builder.initial_state().add_inputs(expressions("list", x, mask), lengths=LENGTHS)[-1]
    _, packed = builder.initial_state().transduce_packed(expressions("packed", x, mask), LENGTHS)
    _, matrix = builder.initial_state().transduce_matrix(
        expressions("matrix", x, mask), lengths=LENGTHS
    )
    for state in (packed, matrix):
        assert len(state.s()) == len(listed.s()) == (4 if cells(builder) else 2)
        for a, b in zip(state.s(), listed.s(), strict=True):
            close(a.npvalue(), b.npvalue())
        close(state.add_input(more).output().npvalue(), listed.add_input(more).output().npvalue())


@pytest.mark.parametrize("name", FACTORIES)
def test_matrix_without_batch_is_a_list_of_columns(name, rng):
    _, builder = made(FACTORIES[name])
    x = rng.normal(size=(K, STEPS))
    listed = builder.initial_state().add_inputs([dy.inputTensor(c) for c in x.T])
    y, last = builder.initial_state().transduce_matrix(dy.inputTensor(x))
    close(y.npvalue(), np.stack([s.output().npvalue() for s in listed], 1))
    for a, b in zip(last.s(), listed[-1].s(), strict=True):
        close(a.npvalue(), b.npvalue())
    for a, b in zip(builder.initial_state().transduce(dy.inputTensor(x)), listed, strict=True):
        close(a.npvalue(), b.output().npvalue())
    y, _ = builder.initial_state().transduce_matrix(dy.inputTensor(x[:, 0]))
    close(y.npvalue().ravel(), listed[0].output().npvalue())


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("way", WAYS)
def test_dropout_with_lengths(name, way, rng):
    _, builder = made(FACTORIES[name])
    x, mask = rng.normal(size=(STEPS, BATCH, K)), MASKS["lengths"]
    builder.set_dropout(0.5)
    values = [
        [
            y.npvalue()
            for row in at_real_positions(builder, way, expressions(way, x, mask), mask)
            for y in row
        ]
        for _ in range(2)
    ]
    assert np.isfinite(values).all()
    assert np.array_equal(*values) == isinstance(builder, dy.FastLSTMBuilder)
    dy.sum_elems(at_real_positions(builder, way, expressions(way, x, mask), mask)[1][-1]).backward()


@pytest.mark.parametrize("name", ["vanilla", "coupled", "simple"])
def test_masks_of_dropout_are_the_same_in_all_forms(name, rng):
    _, builder = made(FACTORIES[name])
    x, mask = rng.normal(size=(STEPS, BATCH, K)), MASKS["lengths"]
    builder.set_dropout(0.5)
    seen = []
    for way in ["steps", *WAYS]:
        dy.reset_random_seed(3)
        dy.renew_cg()
        state = builder.initial_state()
        state._step.draw(state._masks, BATCH)
        if way == "steps":
            outputs = [state := state.add_input(e) for e in expressions("list", x, mask)]
            seen.append(
                [
                    outputs[t].output().npvalue()[:, b]
                    for b in range(BATCH)
                    for t in range(LENGTHS[b])
                ]
            )
        elif way == "list":
            outputs = state.transduce(expressions(way, x, mask), lengths=LENGTHS)
            seen.append(
                [outputs[t].npvalue()[:, b] for b in range(BATCH) for t in range(LENGTHS[b])]
            )
        elif way == "matrix":
            y = state.transduce_matrix(expressions(way, x, mask), lengths=LENGTHS)[0].npvalue()
            seen.append([y[:, t, b] for b in range(BATCH) for t in range(LENGTHS[b])])
        else:
            seen.append(
                list(state.transduce_packed(expressions(way, x, mask), LENGTHS)[0].npvalue().T)
            )
    for other in seen[1:]:
        close(np.array(seen[0]), np.array(other))


def test_what_does_not_fit_is_refused():
    _, builder = made(FACTORIES["vanilla"])
    state, xs = builder.initial_state(), [dy.zeros(K, batch_size=2)] * 3
    for arguments, message in (
        (dict(lengths=[3]), "one length for each batch element; got 1 for a batch of 2"),
        (dict(lengths=[3, 4]), "between 0 and the number of steps, 3; got 4"),
        (dict(lengths=[3, -1]), "between 0 and the number of steps, 3; got -1"),
        (dict(lengths=[3, 1], mask=np.ones((3, 2))), "a mask or lengths; got both"),
        (dict(mask=np.ones((2, 2))), r"the mask must be \(steps, batch size\)"),
        (dict(mask=np.full((3, 2), 0.5)), "of zeros and ones"),
        (dict(mask=np.ones((3, 3))), r"the mask must be \(3, 2\)"),
    ):
        for use in (state.transduce, state.add_inputs):
            with pytest.raises(ValueError, match=message):
                use(xs, **arguments)
    with pytest.raises(TypeError):
        state.transduce(xs, lengths=[3, 1.5])
    x = dy.zeros(K, batch_size=4)
    for lengths, message in (
        ([2, 1], "add up to the batch of x; got 3"),
        ([], "at least one"),
        ([0, 0], "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            state.transduce_packed(x, lengths)
    with pytest.raises(ValueError, match="one expression must be a matrix"):
        state.transduce(dy.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="columns of a matrix"):
        state.transduce(dy.zeros((K + 1, 3)))
    for use in (
        state.transduce_matrix,
        lambda x: state.transduce_packed(x, [1]),
        lambda x: state.transduce_matrix([x]),
    ):
        with pytest.raises(TypeError):
            use(5)


# ---- rows of tables --------------------------------------------------------------------


WORDS = [[1, 2, 1, 3, 1, 1, 2], [2, 2], [3, 1, 2, 3, 3, 3], [], [1, 1, 1, 1]]


def tagger(network, table, rows, way):
    """The sum of weighted outputs over all words, and the expressions of words."""
    lengths = [len(s) for s in WORDS]
    if way == "packed":
        xs = [rows(table, [w for s in WORDS for w in s])]
        y, _ = start(network).transduce_packed(xs[0], lengths)
        return dy.sum_batches(dy.sum_elems(dy.square(y))), xs
    if way == "list":
        xs = [rows(table, [s[t] if t < len(s) else 0 for s in WORDS]) for t in range(max(lengths))]
        ys = start(network).transduce(xs, lengths=lengths)
        real = [
            dy.pick_batch_elems(y, [b for b, n in enumerate(lengths) if n > t])
            for t, y in enumerate(ys)
        ]
        return dy.esum([dy.sum_batches(dy.sum_elems(dy.square(y))) for y in real]), xs
    xs, total = [], []
    for s in WORDS:
        xs += (words := [rows(table, w) for w in s * 3])
        total += [dy.sum_elems(dy.square(y)) for y in start(network).transduce(words)] if s else []
    return dy.esum(total), xs


def looked_up(table, rows):
    return dy.lookup_batch(table, rows) if isinstance(rows, list) else dy.lookup(table, rows)


def plain(table, rows):
    """The same numbers as an input, which nobody takes for rows."""
    return dy.inputTensor(table.npvalue()[:, rows], batched=isinstance(rows, list))


@pytest.fixture
def table(rng):
    return dy.ParameterCollection().lookup_parameters_from_numpy(rng.normal(size=(5, K)))


@pytest.mark.parametrize("way", ["packed", "list", "one by one"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("autobatching", [False, True])
def test_rows_give_what_other_inputs_give(network, way, full, autobatching, table, rng):
    m, network = network
    results = []
    for rows in (plain, looked_up):
        dy.renew_cg(autobatching=autobatching)
        m.reset_gradients()
        loss, xs = tagger(network, table, rows, way)
        loss.backward(full=full or rows is plain)
        results.append(
            (
                [loss.value()],
                [p.grad_as_array() for p in m.parameters_list()],
                [x.gradient() for x in xs],
            )
        )
    for a, b in zip(*results, strict=True):
        for u, v in zip(a, b, strict=True):
            close(u, v, 1e-4)
    dense = table.grad_as_array()
    expected = np.zeros_like(dense)
    for e, words in zip(results[0][2], positions(way), strict=True):
        for column, word in zip(e.reshape(K, -1).T, words, strict=True):
            expected[word] += column
    close(dense, expected, 1e-4)


def positions(way):
    """The rows of each of the expressions that tagger() makes."""
    if way == "packed":
        return [[w for s in WORDS for w in s]]
    if way == "list":
        return [[s[t] if t < len(s) else 0 for s in WORDS] for t in range(max(map(len, WORDS)))]
    return [[w] for s in WORDS for w in s * 3]


def test_gradient_of_a_row_is_not_asked_for_too_late(table):
    m = dy.ParameterCollection()
    lstm = dy.VanillaLSTMBuilder(1, K, H, m)
    trainer = dy.SimpleSGDTrainer(m)
    loss, xs = tagger(lstm, table, looked_up, "packed")
    loss.backward()
    before = xs[0].gradient()
    assert before.any()
    dy.sum_elems(xs[0])
    close(xs[0].gradient(), before)
    trainer.update()
    with pytest.raises(RuntimeError, match="Ask before the update"):
        xs[0].gradient()


@pytest.mark.parametrize("frozen", ["update=False", "set_updated"])
def test_frozen_table_gets_no_gradient(table, frozen):
    lstm = dy.VanillaLSTMBuilder(1, K, H, dy.ParameterCollection())
    table.set_updated(frozen != "set_updated")
    loss, _ = tagger(
        lstm, table, lambda t, r: dy.lookup_batch(t, r, update=frozen != "update=False"), "packed"
    )
    loss.backward()
    assert not table.grad_as_array().any() and all(
        p.has_gradient() for p in lstm.param_collection().parameters_list()
    )


# ---- gradients in double ---------------------------------------------------------------


@pytest.mark.float64
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MASKS)
def test_double_gradient_with_padding(network, way, kind, rng):
    m, network = network
    mask = MASKS["lengths" if way == "packed" else kind]
    parameters = [p for p in m.parameters_list() if p.is_updated()]
    x = rng.normal(size=(STEPS, BATCH, K))
    x[~mask] = 0
    arrays = [*(p.as_array() for p in parameters), x]

    def output(*arrays):
        dy.renew_cg()
        for p, a in zip(parameters, arrays, strict=False):
            p.set_value(a)
        xs = expressions(way, arrays[-1], mask)
        return dy.concatenate(
            [y for row in at_real_positions(network, way, xs, mask) for y in row]
        ), xs

    m.reset_gradients()
    y, xs = output(*arrays)
    w = rng.uniform(-1, 1, y.dim()[0])
    dy.dot_product(y, dy.inputTensor(w)).backward(full=True)
    dx = np.zeros_like(x)
    if way == "packed":
        for column, (b, t) in zip(
            xs.gradient().T,
            [(b, t) for b in range(BATCH) for t in range(STEPS) if mask[t, b]],
            strict=True,
        ):
            dx[t, b] = column
    else:
        dx = (
            xs.gradient().transpose(1, 2, 0)
            if way == "matrix"
            else np.stack([e.gradient().T for e in xs])
        )
    gradients = [*(p.grad_as_array() for p in parameters), dx]
    # layer normalisation of three numbers is steep: a smaller step than the usual one
    difference = directional_difference(
        lambda *a: output(*a)[0].npvalue(), arrays, w, gradients, rng, step=2e-5
    )
    assert difference is None, difference


@pytest.mark.float32
def test_gradients_in_the_double_build():
    assert passing_tests("-m", "float64", __file__, DIST_DYNET_DTYPE="float64") == 9 * (
        len(FACTORIES) + 2
    )
