"""On-the-fly batching gives the values, gradients and random draws of the same graph without it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_table import FAMILIES
from op_table.run import Run, array_of, drawn
from processes import output_of
from together import together

import dist_dynet as dy
from dist_dynet._ffi import OPS, lib

TOLERANCE = 2e-5
BY_DEPTH, BY_AGENDA, AUTO = 1, 2, 3
STRATEGIES = (BY_DEPTH, BY_AGENDA, AUTO)


def results_of(build, parameters):
    """[value, values of all nodes returned, gradients] without batching, and by each strategy."""
    results = []
    for autobatching in (0, *STRATEGIES):
        for p in parameters:
            p.clear_gradient()
        dy.reset_random_seed(3)
        dy.renew_cg(autobatching=autobatching)
        loss, exprs = build()
        values = [e.npvalue() for e in exprs] if not autobatching else None
        total = loss.value()
        loss.backward()
        if autobatching:
            values = [e.npvalue() for e in exprs]
        results.append(
            [
                np.array(total),
                *values,
                *(e.gradient() for e in exprs),
                *(p.grad_as_array() for p in parameters),
            ]
        )
    return results


def assert_equal(build, parameters):
    plain, *batched = results_of(build, parameters)
    for results in batched:
        for a, b in zip(plain, results, strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture
def model():
    m = dy.ParameterCollection()
    return m


def test_autobatch_of_a_tagger_equals_plain(model):
    E = model.add_lookup_parameters((30, 6))
    network = dy.BiRNNBuilder(2, 6, 8, model, dy.VanillaLSTMBuilder)
    W, b = model.add_parameters((5, 8)), model.add_parameters(5, init=0.1)
    sentences = [[(7 * i + 3 * k) % 30 for k in range(n)] for i, n in enumerate([4, 7, 4, 1, 6])]

    def build():
        losses, hs = [], []
        for words in sentences:
            for h, w in zip(network.transduce([E[w] for w in words]), words, strict=True):
                hs.append(h)
                losses.append(dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), w % 5))
        return dy.esum(losses), hs

    assert_equal(build, [*model.parameters_list(), *model.lookup_parameters_list()])


def test_autobatch_of_stepwise_lstms_equals_plain(model):
    E = model.add_lookup_parameters((30, 6))
    lstm = dy.VanillaLSTMBuilder(2, 6, 5, model)
    W = model.add_parameters((4, 5))
    sentences = [[(5 * i + k) % 30 for k in range(n)] for i, n in enumerate([3, 5, 2, 5])]

    def build():
        losses, states = [], []
        for words in sentences:
            s = lstm.initial_state()
            for w in words:
                s = s.add_input(E[w])
                states += s.s()
                losses.append(dy.hinge(W * s.output(), w % 4))
        return dy.average(losses), states

    assert_equal(build, [*model.parameters_list(), *model.lookup_parameters_list()])


def test_autobatch_of_trees_equals_plain(model):
    E = model.add_lookup_parameters((20, 6))
    Wl, Wr, b = (
        model.add_parameters((6, 6)),
        model.add_parameters((6, 6)),
        model.add_parameters(6, init=0.1),
    )
    V = model.add_parameters((3, 6))
    rng = np.random.default_rng(1)

    def tree(n):
        return (
            int(rng.integers(20)) if n == 1 else (tree(k := int(rng.integers(1, n))), tree(n - k))
        )

    trees = [tree(n) for n in (5, 9, 3, 9, 1)]

    def encode(t, exprs):
        if isinstance(t, int):
            return E[t]
        left, right = (encode(x, exprs) for x in t)
        exprs.append(
            dy.tanh(dy.affine_transform([b, Wl, left, Wr, right]))
            + dy.cmult(left, dy.logistic(right))
        )
        return exprs[-1]

    def build():
        exprs = []
        losses = [dy.pickneglogsoftmax(V * encode(t, exprs), i % 3) for i, t in enumerate(trees)]
        return dy.esum(losses), exprs

    assert_equal(build, [*model.parameters_list(), *model.lookup_parameters_list()])


def step(op, table, x, y, c, matrix, i, j):
    """The value of line `op` of a random program."""
    return [
        lambda: x + y,
        lambda: x - y,
        lambda: dy.cmult(x, y),
        lambda: dy.tanh(x),
        lambda: dy.logistic(x) * 2 - 1,
        lambda: matrix * x,
        lambda: dy.affine_transform([c, matrix, x]),
        lambda: dy.softmax(x),
        lambda: dy.concatenate([dy.pick_range(x, 0, 2), dy.pick_range(y, 2, 4)]),
        lambda: dy.esum([x, y, x]),
        lambda: dy.average([x, y]),
        lambda: table[(i + j) % 6],
        lambda: dy.rectify(x) + dy.pick(y, j % 4),
        lambda: dy.dropout(x, 0.5),
        lambda: dy.reshape(dy.reshape(x, (2, 2)) * dy.reshape(y, (2, 2)), (4,)),
        lambda: dy.log_softmax(x),
    ][op]()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_autobatch_of_random_graphs_equals_plain(data):
    draw = data.draw
    m = dy.ParameterCollection()
    parameters = [
        m.add_parameters(4),
        m.add_parameters((4, 4)),
        m.add_parameters(4),
        m.add_parameters((4, 4)),
    ]
    table = m.add_lookup_parameters((6, 4))
    program = draw(
        st.lists(
            st.tuples(st.integers(0, 15), st.integers(0, 99), st.integers(0, 99)),
            min_size=3,
            max_size=40,
        )
    )

    def build():
        a, A, c, C = parameters
        vectors = [
            table[0],
            table[1],
            dy.lookup_batch(table, [2, 3]),
            a,
            dy.inputVector([0.5, -1, 2, 0.1]),
        ]
        for op, i, j in program:
            x, y = vectors[i % len(vectors)], vectors[j % len(vectors)]
            matrix = (A, C, dy.transpose(A))[j % 3]
            vectors.append(step(op, table, x, y, c, matrix, i, j))
        losses = [
            (
                dy.sum_batches(dy.sum_elems(dy.cmult(v, v)))
                if k % 2
                else dy.sum_batches(dy.pickneglogsoftmax_batch(v, [k % 4] * v.dim()[1]))
            )
            for k, v in enumerate(vectors)
        ]
        # products of products grow: keep the loss of moderate size
        return dy.log(1 + dy.esum([dy.rectify(x) for x in losses])), vectors

    plain, *batched = results_of(build, [*parameters, table])
    for results in batched:
        for p, q in zip(plain, results, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-3, atol=1e-4 * (1 + np.abs(p).max()))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_autobatch_continues_after_values_were_read(model, strategy):
    W = model.add_parameters((3, 3))
    dy.renew_cg(autobatching=strategy)
    xs = [dy.inputVector([i, 1.0, -i]) for i in range(4)]
    ys = [dy.tanh(W * x) for x in xs]
    np.testing.assert_allclose(ys[1].npvalue(), np.tanh(W.as_array() @ xs[1].npvalue()), rtol=1e-5)
    zs = [dy.tanh(W * y) for y in ys]
    loss = dy.esum([dy.sum_elems(z) for z in zs])
    loss.backward()
    first = W.grad_as_array()
    xs[2].set([9.0, 9.0, 9.0])
    np.testing.assert_allclose(
        ys[2].npvalue(), np.tanh(W.as_array() @ [9, 9, 9]), rtol=1e-5, atol=1e-6
    )
    assert np.abs(first).sum() > 0


def test_autobatch_with_checkpoints_equals_plain(model):
    W = model.add_parameters((3, 3))
    results = []
    for autobatching in (0, BY_AGENDA):
        W.clear_gradient()
        dy.renew_cg(autobatching=autobatching)
        ys = [dy.tanh(W * dy.inputVector([i, 1.0, -i])) for i in range(4)]
        ys[0].forward()
        dy.cg_checkpoint()
        dy.forward([dy.tanh(W * y) for y in ys])
        dy.cg_revert()
        zs = [dy.logistic(W * y) for y in ys]
        loss = dy.esum([dy.sum_elems(z) for z in zs])
        loss.backward()
        results.append([loss.npvalue(), W.grad_as_array()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_autobatch_of_losses_and_attention_equals_plain(model):
    W, b, K, V = (
        model.add_parameters((5, 4)),
        model.add_parameters(5, init=0.1),
        model.add_parameters((4, 7)),
        model.add_parameters((4, 7)),
    )
    G, U, R = (
        model.add_parameters((5, 5), init=np.eye(5) + 0.1),
        model.add_parameters((20, 4)),
        model.add_parameters((20, 5)),
    )
    rng = np.random.default_rng(1)
    xs = rng.uniform(-1, 1, (6, 4))

    def build():
        hs, losses = [], []
        for i, numbers in enumerate(xs):
            x = dy.inputVector(numbers)
            h = dy.layer_norm(W * dy.attention(dy.tanh(x), K, V) + dy.circ_conv(b, b), b, b)
            gates = dy.vanilla_lstm_gates(x, h, U, R, dy.zeros(20))
            p = dy.masked_softmax(h, [1, 1, 1, 0, i % 2])
            best = dy.topk(h + p, 2)
            hs += [
                h,
                p,
                best,
                dy.sparsemax(h),
                dy.constrained_softmax(h, p + 0.2),
                dy.weight_norm(h, dy.pick(h, 0)),
                gates,
            ]
            losses += [
                dy.cross_entropy(h, i % 5, 0.1),
                dy.masked_pickneglogsoftmax_batch(h, [i % 5], [i % 3]),
                dy.cross_entropy_soft(h, p),
                dy.huber_distance(h, p, 0.5),
                dy.l1_distance(h, b),
                dy.poisson_loss(dy.pick(h, 1), i % 4),
                dy.sum_elems(best),
                dy.sum_elems(dy.pairwise_rank_loss(h, p)),
                dy.logdet(G + dy.concatenate_cols([p] * 5)),
                dy.pick(dy.inverse(G) * h, 1),
            ]
            losses.append(
                dy.sum_elems(dy.cmult(dy.sparsemax(h), dy.constrained_softmax(h, p + 0.2)))
            )
            losses.append(dy.sum_elems(dy.vanilla_lstm_h(dy.vanilla_lstm_c(h, gates), gates)))
        return dy.esum(losses), hs

    assert_equal(build, model.parameters_list())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_indices_are_those_of_their_node(dtype):
    code = """
import dist_dynet as dy
for mode in range(4):
    dy.renew_cg(autobatching=mode)
    best = [dy.topk(dy.inputVector([1, 5, 2, 4, k]), 2) for k in (3, 9, 0)]
    dy.esum(best).value()
    assert [e.indices().tolist() for e in best] == [[1, 3], [4, 1], [1, 3]], mode
"""
    output_of(code, DIST_DYNET_DTYPE=dtype)


# ---- every row of the op table: three nodes of each case in one graph, which may be computed as
# one

COPIES = 3


def three_of_a_case(row, case, arrays, weights, autobatching):
    dy.reset_random_seed(1)
    dy.renew_cg(autobatching=autobatching)
    m = dy.ParameterCollection()
    own = {}
    exprs, inputs, losses = [], [], []
    for k in range(COPIES):
        run = Run.__new__(Run)
        run.row, run.case, run.collection = row, case, m
        xs = []
        for j, (spec, a) in enumerate(zip(case.inputs, arrays[k], strict=True)):
            if spec.kind in ("parameter", "table"):  # shared by all, as weights are
                if j not in own:
                    own[j] = run._input(spec, arrays[0][j], False)
                xs.append(own[j])
            else:
                xs.append(run._input(spec, a, False))
        run.inputs = xs
        run.expression = run.build()
        exprs.append(run.expression)
        inputs.append(xs)
        losses.append(run.loss(weights[k]))
    loss = dy.esum(losses)
    loss.backward(full=True)
    values = [array_of(e) for e in exprs]
    gradients = [
        Run._gradient(spec, x) for xs in inputs for spec, x in zip(case.inputs, xs, strict=True)
    ]
    return values, gradients


CASES = [
    pytest.param(row, case, id=f"{family}-{row.label(case)}")
    for family, module in FAMILIES.items()
    for row in module.ROWS
    for case in row.cases
    if row.has_gradient and all(all(spec.dims) for spec in case.inputs)
]


@together(("row", "case"), CASES)
def test_autobatch_of_like_nodes_equals_plain(row, case):
    rng = np.random.default_rng(5)
    arrays = [drawn(row, case, rng) for _ in range(COPIES)]
    dy.renew_cg()
    shape = Run(row, case, arrays[0]).value().shape
    weights = [rng.uniform(0.5, 1.5, shape) for _ in range(COPIES)]
    plain, batched = (three_of_a_case(row, case, arrays, weights, a) for a in (0, BY_AGENDA))
    for a, b in zip([*plain[0], *plain[1]], [*batched[0], *batched[1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# ---- which operations run singly -------------------------------------------------------

ALONE = {
    "concatenate_to_batch": "its result is a batch made of other batches",
    "function": "Python sees one node at a time",
    "hinge_dim": "its indices belong to lines, not to batch elements",
    "mean_batches": "batch elements meet",
    "mean_dim_and_batch": "batch elements meet",
    "moment_dim_and_batch": "batch elements meet",
    "pick_batch_elems": "its result is another choice of batch elements",
    "slice_batch": "its result is another choice of batch elements",
    "std_dim_and_batch": "batch elements meet",
    "sum_batches": "batch elements meet",
    "sum_dim_and_batch": "batch elements meet",
}
"""Operations that never become members of a group, each with the reason. Leaves and views have
nothing to compute."""


def test_operations_that_run_singly():
    flags = {name: lib.dn_op_flags(number) for name, number in OPS.items()}
    nothing_to_compute = lib.DN_LEAF | lib.DN_VIEW
    assert {
        name for name, f in flags.items() if not f & (lib.DN_BATCHES | nothing_to_compute)
    } == set(ALONE)


# ---- sums over many columns, and draws -------------------------------------------------

SHAPES = {
    "product": lambda A, b, x: A * x,
    "affine": lambda A, b, x: dy.affine_transform([b, A, x, A, dy.tanh(x)]),
    "traced": dy.traced(lambda A, b, x: dy.affine_transform([b, A, x])),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("rows", "columns"), [(20, 33), (5, 40), (64, 16), (17, 7)])
def test_gradients_through_a_matrix_with_many_columns(model, name, rows, columns):
    """Enough of them for the transpose of the matrix, in several groups."""
    A, b, back = (
        model.add_parameters((rows, columns)),
        model.add_parameters(rows),
        model.add_parameters((columns, rows)),
    )

    def gradients(strategy):
        dy.renew_cg(autobatching=strategy)
        rng = np.random.default_rng(1)
        xs = [dy.inputTensor(rng.normal(size=columns)) for _ in range(40)]
        ys, states = [], [dy.tanh(x) for x in xs]
        for _ in range(3):
            ys += states
            states = [dy.tanh(back * dy.tanh(SHAPES[name](A, b, x))) for x in states]
        loss = dy.esum([dy.squared_norm(y) for y in ys + states])
        for _ in range(2):  # the second as the first
            for p in (A, b, back):
                p.clear_gradient()
            loss.backward(full=True)
        return [
            *(x.gradient() for x in xs + ys),
            *(p.grad_as_array() for p in (A, b, back)),
        ]

    unbatched = gradients(0)
    for strategy in STRATEGIES:
        for a, g in zip(unbatched, gradients(strategy), strict=True):
            np.testing.assert_allclose(g, a, rtol=0, atol=1e-5 * max(1, np.abs(a).max()))


def gated(weights, n):
    """n vectors, each of the products of one input with three matrices: two kinds of gates."""
    ys = []
    for i in range(n):
        x = dy.inputVector([i / n, 1.0, -i])
        a, b, c = (w * x for w in weights)
        u = dy.tanh(b)
        ys.append(dy.cmult(dy.logistic(a), u) + dy.cmult(dy.logistic(c), u))
    return ys


@pytest.mark.parametrize(("rows", "kinds"), [(8, 1), (128, 2)])
def test_automatic_choice_reads_large_values_where_they_lie(model, rows, kinds):
    weights = [model.add_parameters((rows, 3)) for _ in range(3)]
    n = 40
    dy.renew_cg(autobatching=AUTO)
    dy.forward(gated(weights, n))
    stats = dy.autobatch_stats()
    # beside parameters and inputs: three products, one tanh, one sum; logistic and cmult where
    # there are few numbers once, else once for each of the values that they read
    assert stats.batches == 3 + n + 5 + 2 * kinds
    assert stats.gathers_copied == (1 if kinds == 2 else 3)  # one: the inputs
    assert_equal(lambda: (dy.sum_elems(dy.esum(gated(weights, n))), []), weights)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_draws_of_batched_nodes_are_those_of_single_ones(strategy):
    drawn = []
    for autobatching in (0, strategy):
        dy.reset_random_seed(4)
        dy.renew_cg(autobatching=autobatching)
        xs = [dy.inputVector([1.0] * 5) for _ in range(30)]
        drawn.append([f(x, 0.5).npvalue() for x in xs for f in (dy.dropout, dy.noise)])
    np.testing.assert_array_equal(*drawn)
