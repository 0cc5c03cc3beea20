"""A traced function gives the values and gradients of the function that it was made of: by itself,
joined, and batched on the fly."""

import copy
import pickle
import random
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_table import FAMILIES
from op_table.run import NAMES, Run, array_of, drawn
from processes import passing_tests, predicted, run_example
from together import together

import dist_dynet as dy
from dist_dynet._ffi import DTYPE_NAME, FAST_PATHS, lib
from dist_dynet.params.modes import switch

TOLERANCE = 1e-7 if DTYPE_NAME == "float64" else 1e-4
OFF, BY_DEPTH, BY_AGENDA = 0, 1, 2


@pytest.fixture
def model():
    return dy.ParameterCollection()


def close(got, want):
    assert len(got) == len(want)
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        scale = 1 + np.abs(w).max(initial=0)
        np.testing.assert_allclose(
            g, w, rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=f"result {k}"
        )


def results(build, parameters, autobatching=OFF, immediate=False):
    """The loss, the values and gradients of the expressions that `build` returns with it, the
    gradients of parameters."""
    for p in parameters:
        p.clear_gradient()
    dy.reset_random_seed(3)
    dy.renew_cg(immediate_compute=immediate, autobatching=autobatching)
    loss, exprs = build()
    total = loss.value()
    loss.backward(full=True)
    return [
        total,
        *(e.npvalue() for e in exprs),
        *(e.gradient() for e in exprs),
        *(p.grad_as_array() for p in parameters),
    ]


def nodes_of(op):
    graph = dy.cg()
    return sum(NAMES[lib.dn_node_op(graph.expression(i)._h)] == op for i in range(len(graph)))


# ---- every row of the op table as a traced function ------------------------------------

COPIES = 3


def three_of_a_case(row, case, arrays, weights, make, autobatching):
    """Values and gradients of three nodes in one graph; `make` makes of row.build what is
    called."""
    dy.reset_random_seed(1)
    dy.renew_cg(autobatching=autobatching)
    run = Run.__new__(Run)
    run.row, run.case, run.collection = row, case, dy.ParameterCollection()
    fixed = {
        j: run._input(spec, arrays[0][j], False)
        for j, spec in enumerate(case.inputs)
        if spec.kind != "tensor"
    }

    def function(*tensors):
        rest = iter(tensors)
        return row.build(
            *(fixed[j] if j in fixed else next(rest) for j in range(len(case.inputs))),
            **case.attributes,
        )

    call = make(function)
    inputs = [
        [
            run._input(spec, a, False)
            for spec, a in zip(case.inputs, copy, strict=True)
            if spec.kind == "tensor"
        ]
        for copy in arrays
    ]
    exprs = [call(*xs) for xs in inputs]
    dy.esum([run.loss(w, e) for w, e in zip(weights, exprs, strict=True)]).backward(full=True)
    parameters = [p for p in fixed.values() if isinstance(p, dy.Parameters | dy.LookupParameters)]
    gradients = [x.gradient() for xs in inputs for x in xs] + [
        p.grad_as_array() for p in parameters
    ]
    return [array_of(e) for e in exprs] + gradients


READ_INSIDE = {"topk"}
"""Rows that read the indices of their own result."""

CASES = [
    pytest.param(row, case, id=f"{family}-{row.label(case)}")
    for family, module in FAMILIES.items()
    for row in module.ROWS
    # fast paths are of calls, whatever the shapes
    for case in (row.cases if FAST_PATHS else row.cases[:2])
    if row.has_gradient
    and row.op not in ("function", "traced")
    and row.name not in READ_INSIDE
    and any(i.kind == "tensor" for i in case.inputs)
]


@together(("row", "case"), CASES)
def test_cell_of_an_operation_equals_it(row, case):
    rng = np.random.default_rng(5)
    arrays = [drawn(row, case, rng) for _ in range(COPIES)]
    dy.renew_cg()
    shape = Run(row, case, arrays[0]).value().shape
    weights = [rng.uniform(0.5, 1.5, shape) for _ in range(COPIES)]
    cells = [three_of_a_case(row, case, arrays, weights, dy.traced, a) for a in (OFF, BY_AGENDA)]
    # other draws
    plain = (
        cells[0]
        if row.reference is None
        else three_of_a_case(row, case, arrays, weights, lambda f: f, OFF)
    )
    for got in cells:
        close(got, plain)


# ---- random functions ------------------------------------------------------------------


def line(op, x, y, c, A, table, i):
    """The value of one line of a random function of vectors of 4."""
    return [
        lambda: x + y,
        lambda: x - y,
        lambda: dy.cmult(x, y),
        lambda: dy.tanh(x),
        lambda: dy.logistic(x) * 2 - 1,
        lambda: A * x,
        lambda: dy.affine_transform([c, A, x, A, y]),
        lambda: dy.softmax(x),
        lambda: dy.transpose(A) * y,
        lambda: dy.concatenate([dy.pick_range(x, 0, 2), dy.pick_range(y, 2, 4)]),
        lambda: dy.esum([x, y, x]),
        lambda: table[i % 6],
        lambda: dy.rectify(x) + dy.pick(y, i % 4),
        lambda: dy.inputVector([0.5, -0.2, 1, i % 3]) + x,
        lambda: dy.reshape(dy.reshape(x, (2, 2)) * dy.reshape(y, (2, 2)), (4,)),
        lambda: dy.scale_gradient(x, 0.5),
        lambda: c,
        lambda: (A + dy.transpose(A)) * x,
        lambda: dy.nobackprop(x) + y,
        lambda: dy.cmult(c, c),
    ][op]()


LINES = 20


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cell_of_a_random_function_equals_it(data):
    draw, numbers = data.draw, st.integers(0, 99)
    m = dy.ParameterCollection()
    A, c, table = m.add_parameters((4, 4)), m.add_parameters(4), m.add_lookup_parameters((6, 4))
    program = draw(
        st.lists(st.tuples(st.integers(0, LINES - 1), numbers, numbers), min_size=1, max_size=12)
    )
    outputs = draw(st.lists(numbers, min_size=1, max_size=3))
    calls = draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
    batch = draw(st.sampled_from([1, 1, 3]))

    def function(x, y):
        vectors = [x, y]
        for op, i, j in program:
            vectors.append(
                line(op, vectors[i % len(vectors)], vectors[j % len(vectors)], c, A, table, i)
            )
        made = [vectors[-1 - o % len(vectors)] for o in outputs]
        return made[0] if len(made) == 1 else made

    def build(f):
        rows = [
            dy.lookup_batch(table, [k, *range(1, batch)]) if batch > 1 else table[k]
            for k in range(3)
        ]
        vectors = [*rows, dy.inputVector([0.5, -1, 2, 0.1])]
        for i, j in calls:
            made = f(vectors[i % len(vectors)], vectors[j % len(vectors)])
            # kept in range, so that products of products do not grow
            vectors += [dy.tanh(e) for e in (made if isinstance(made, list) else [made])]
        return dy.esum([dy.sum_batches(dy.squared_norm(v)) for v in vectors]), vectors

    parameters = [A, c, table]
    plain, made = results(lambda: build(function), parameters), dy.traced(function)
    for autobatching in (OFF, BY_DEPTH, BY_AGENDA):
        close(results(lambda: build(made), parameters, autobatching), plain)
    close(results(lambda: build(made), parameters, immediate=True), plain)


# ---- draws -----------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_cell_draws_for_each_call_the_same_however_batched(model, shared):
    W = model.add_parameters((50, 50))

    @dy.traced
    def noisy(x, y):
        return dy.dropout(x, 0.5) + W * dy.noise(y, 0.1), dy.dropout(dy.dropout(y, 0.3), 0.5)

    def build():
        x = dy.ones(50)
        pairs = [
            noisy(x if shared else dy.ones(50), dy.inputVector([k + 1.0] * 50)) for k in range(4)
        ]
        exprs = [e for pair in pairs for e in pair]
        return dy.esum([dy.squared_norm(e) for e in exprs]), [*exprs, x]

    plain = results(build, [W])
    for autobatching in (BY_DEPTH, BY_AGENDA):
        close(results(build, [W], autobatching), plain)
    masks = [tuple(v != 0) for v in plain[2:9:2]]
    assert len(set(masks)) == 4
    dy.renew_cg()
    assert tuple(build()[1][1].npvalue() != 0) not in masks  # a new graph draws anew


def test_draws_inside_and_outside_differ():
    drop = dy.traced(lambda x: dy.dropout(x, 0.5))
    dy.renew_cg()
    x = dy.ones(64)
    masks = [
        tuple(e.npvalue())
        for e in (drop(x), drop(x), dy.dropout(x, 0.5), drop(x), dy.dropout(x, 0.5))
    ]
    assert len(set(masks)) == 5


# ---- signatures ------------------------------------------------------------------------


def test_function_runs_once_for_each_signature(model):
    runs = []

    @dy.traced
    def f(x, scale=1.0, rest=()):
        runs.append(x.dim())
        return scale * dy.esum([x, *rest])

    dy.renew_cg()
    x, longer, batch = (
        dy.inputVector([1, 2]),
        dy.inputVector([1, 2, 3]),
        dy.inputTensor(np.ones((2, 3)), batched=True),
    )
    for _ in range(3):
        assert f(x).value() == [1, 2]
        assert f(x, 3).value() == f(x, scale=3).value() == [3, 6]
        assert f(x, 3.0).value() == [3, 6]
        assert f(longer).value() == [1, 2, 3]
        assert f(batch).npvalue().tolist() == [[1] * 3] * 2
        assert f(x, 2, [x, x]).value() == [6, 12]
    assert runs == [((2,), 1), ((2,), 1), ((2,), 1), ((2,), 1), ((3,), 1), ((2,), 3), ((2,), 1)]
    assert f.traces == 7


def test_what_exceeds_the_traces_is_called_plainly(model, monkeypatch):
    monkeypatch.setattr("dist_dynet.traced_functions.MOST_TRACES", 3)
    f = dy.traced(lambda x, k: k * x)
    dy.renew_cg()
    x = dy.inputVector([1, 2])
    assert [f(x, k).value() for k in range(6)] == [[k, 2 * k] for k in range(6)]
    assert f.traces == 3
    assert nodes_of("traced") == 3


def test_parameters_may_be_arguments(model):
    W, V = model.add_parameters((2, 2), init=1), model.add_parameters((2, 2), init=2)
    E = model.add_lookup_parameters((3, 2), init=1)
    f = dy.traced(lambda P, T, x: P * x + T[2])
    dy.renew_cg()
    x = dy.inputVector([1, 2])
    loss = dy.sum_elems(f(W, E, x) + f(V, E, x) + f(W, E, x))
    assert loss.value() == 2 * (3 + 6 + 3 + 3)
    loss.backward()
    assert W.grad_as_array().tolist() == [[2, 4], [2, 4]] and V.grad_as_array().tolist() == [
        [1, 2],
        [1, 2],
    ]
    assert E.grad_as_array().tolist() == [[0, 0], [0, 0], [3, 3]]


def test_result_has_the_form_that_the_function_returns():
    dy.renew_cg()
    x = dy.inputVector([1, 2])
    one, pair, several = (
        dy.traced(lambda x: x + 1)(x),
        dy.traced(lambda x: (x, x))(x),
        dy.traced(lambda x: [x, x + 1, dy.pick(x, 1), x])(x),
    )
    assert isinstance(one, dy.Expression) and isinstance(pair, tuple) and isinstance(several, list)
    assert [e.value() for e in several] == [[1, 2], [2, 3], 2, [1, 2]]
    with pytest.raises(TypeError, match="must return an expression"):
        dy.traced(lambda x: None)(x)
    with pytest.raises(ValueError, match="as many expressions for all dims"):
        by_dims = dy.traced(list)
        by_dims(x)
        by_dims(dy.inputVector([1, 2, 3]))


def test_cells_within_cells_become_part_of_them():
    inner = dy.traced(lambda x: dy.tanh(x))
    outer = dy.traced(lambda x: inner(x) + inner(2 * x))
    dy.renew_cg()
    value = outer(dy.inputVector([1, 2])).npvalue()
    np.testing.assert_allclose(value, np.tanh([1, 2]) + np.tanh([2, 4]), rtol=1e-5)
    assert (inner.traces, outer.traces, nodes_of("traced")) == (0, 1, 1)


def test_other_threads_may_draw_while_a_function_is_traced():
    done, draws = threading.Event(), iter([1])
    lives_on = threading.Thread(target=done.wait)
    lives_on.start()

    @dy.traced
    def double(x):
        for _ in draws:  # while it is traced for the first time
            other = threading.Thread(target=random.random)
            other.start()
            other.join()
        return 2 * x

    try:
        dy.renew_cg()
        assert double(dy.scalarInput(3)).value() == 6 and double.traces == 1
    finally:
        done.set()
        lives_on.join()


# ---- what cannot be traced -------------------------------------------------------------


def errors():
    outside = dy.inputVector([1, 2])
    return {
        "value": (lambda x: x * x.value(), RuntimeError, "no value is known"),
        "npvalue": (lambda x: x + dy.inputVector(x.npvalue()), RuntimeError, "no value is known"),
        "scalar_value": (
            lambda x: x * dy.sum_elems(x).scalar_value(),
            RuntimeError,
            "no value is known",
        ),
        "backward": (lambda x: dy.sum_elems(x).backward(), RuntimeError, "no value is known"),
        "renew_cg": (lambda x: dy.renew_cg() and x, RuntimeError, "no graph begun"),
        "outside": (lambda x: x + outside, RuntimeError, "not among its arguments"),
        "outside first": (lambda x: outside + x, RuntimeError, "not among its arguments"),
        "outside alone": (lambda x: dy.tanh(outside), RuntimeError, "not among its arguments"),
        "outside returned": (lambda x: outside, RuntimeError, "not among its arguments"),
        "random": (lambda x: x * random.random(), RuntimeError, "draws random numbers in Python"),
        "numpy": (
            lambda x: x * float(np.random.rand()),
            RuntimeError,
            "draws random numbers in Python",
        ),
        "function": (dy.function(lambda x: x, None, 2), ValueError, "written in Python"),
        "own error": (lambda x: x.nothing, AttributeError, "nothing"),
    }


@pytest.mark.parametrize("which", errors())
@pytest.mark.parametrize("name", ["general", "plain"])
def test_what_cannot_be_traced_is_an_error(which, name):
    function, exception, message = errors()[which]
    dy.renew_cg()
    function = errors()[which][0]
    x = dy.inputVector([1, 2])
    f = dy.traced(function if name == "plain" else lambda x, k: function(x))
    for _ in range(2):
        with pytest.raises(exception, match=message):
            f(*([x] if name == "plain" else [x, 1]))
    assert (x + 1).value() == [2, 3]  # the graph is as it was


def test_arguments_that_are_neither_expressions_nor_hashable_are_refused():
    dy.renew_cg()
    with pytest.raises(TypeError, match="or hashable"):
        dy.traced(lambda x, a: x)(dy.ones(2), np.ones(2))
    with pytest.raises(TypeError, match="takes a function"):
        dy.traced(3)


def test_stale_arguments_are_refused():
    f = dy.traced(lambda x: x + 1)
    dy.renew_cg()
    x = dy.ones(2)
    f(x)
    dy.renew_cg()
    for g in (f, dy.traced(lambda x: x + 2)):
        with pytest.raises(RuntimeError, match="Stale"):
            g(x)


# ---- graphs ----------------------------------------------------------------------------


@pytest.fixture
def step(model):
    W, U, b = model.add_parameters((3, 3)), model.add_parameters((3, 3)), model.add_parameters(3)

    def function(x, h):
        z = dy.tanh(dy.affine_transform([b, W, x, U, h]))
        return dy.cmult(z, h), dy.logistic(z)

    return function


@pytest.mark.parametrize("autobatching", [OFF, BY_DEPTH, BY_AGENDA])
def test_cell_with_checkpoints_set_and_later_nodes_equals_plain(model, step, autobatching):
    def build(f):
        xs = [dy.inputVector([k, 1.0, -k]) for k in range(5)]
        h, seen = dy.inputVector([1.0, 2.0, 3.0]), []
        firsts = [f(x, h) for x in xs]
        firsts[1][0].forward()
        for repeat in range(3):
            dy.cg_checkpoint()
            tries = [f(a, b)[repeat % 2] for a, b in firsts]
            seen.append(dy.esum(tries).npvalue())
            if repeat:
                xs[repeat].set([0.5, repeat, 1.0])
            dy.cg_revert()
        last = [f(a, b)[1] for a, b in firsts]
        return (
            dy.esum([dy.squared_norm(e) for e in last]),
            [*(e for pair in firsts for e in pair), *last],
            seen,
        )

    seen = []

    def build_with(f):
        loss, exprs, values = build(f)
        seen.append(values)
        return loss, exprs

    parameters = model.parameters_list()
    plain = results(lambda: build_with(step), parameters)
    close(results(lambda: build_with(dy.traced(step)), parameters, autobatching), plain)
    close(seen[1], seen[0])


def test_long_chain_of_cells_needs_no_recursion(model, step):
    f = dy.traced(step)
    dy.renew_cg()
    x, h = dy.inputVector([0.1, 0.2, 0.3]), dy.ones(3)
    for _ in range(20_000):
        _, h = f(x, h)
    dy.sum_elems(h).backward()
    assert np.isfinite(h.npvalue()).all() and f.traces == 1


def test_calls_whose_arguments_are_known_are_joined(model, step):
    f = dy.traced(step)

    def build(f):
        h = dy.ones(3)
        exprs = [f(dy.inputVector([k, 0.5, 1]), h)[0] for k in range(4)]
        exprs += [f(e, h)[1] for e in exprs]
        return dy.esum([dy.squared_norm(e) for e in exprs]), exprs

    close(
        results(lambda: build(f), model.parameters_list()),
        results(lambda: build(step), model.parameters_list()),
    )


def test_parameters_changed_between_forward_and_backward_are_an_error(model, step):
    f, trainer = dy.traced(step), dy.SimpleSGDTrainer(model)
    dy.renew_cg()
    loss = dy.sum_elems(f(dy.ones(3), dy.ones(3))[0])
    loss.backward()
    trainer.update()
    with pytest.raises(RuntimeError, match="parameters were changed"):
        loss.backward()


def test_traces_see_the_values_of_now(model):
    W = model.add_parameters(2, init=1)
    f = dy.traced(lambda x: dy.cmult(W, x))
    for value in (1.0, 5.0):
        W.set_value([value, value])
        dy.renew_cg()
        assert f(dy.inputVector([1, 2])).value() == [value, 2 * value]


def test_traces_see_whether_a_collection_is_trained(model, monkeypatch):
    """Also by the first eval() of a process, before which nobody asks. What asks for no mode is
    traced once, and so is what asks while nothing changes."""
    monkeypatch.setattr(switch, "used", False)
    lstm, block = dy.LSTMBuilder(1, 4, 4, model), dy.MLP([4, 8, 4], model, dropout=0.5)
    lstm.set_dropout(0.5)
    of_all = {
        "builder": dy.traced(lambda x: lstm.initial_state().add_input(x).output()),
        "block": dy.traced(lambda x: dy.tanh(block(x))),
        "own": dy.traced(lambda x: dy.dropout(x, 0.5) if model.training else x),
        "neither": dy.traced(lambda x: dy.tanh(dy.noise(x, 1.0))),
    }
    before = {}
    for mode in (True, True, False, False, True, False):
        model.train(mode)
        for name, function in of_all.items():
            drawn = set()
            for _ in range(12):
                dy.renew_cg()
                drawn.add(tuple(function(dy.ones(4)).value()))
            assert (len(drawn) > 1) == (mode or name == "neither"), (name, mode)
        before[len(before)] = {name: function.traces for name, function in of_all.items()}
    assert before[0] == before[1] and before[2] == before[3]
    assert before[5]["neither"] == before[2]["neither"]


def test_frozen_parameters_get_no_gradient(model, step):
    f, (W, U, b) = dy.traced(step), model.parameters_list()
    U.set_updated(False)
    dy.renew_cg()
    dy.squared_norm(f(dy.ones(3), dy.ones(3))[0]).backward()
    assert np.abs(W.grad_as_array()).sum() > 0 and np.abs(b.grad_as_array()).sum() > 0
    assert not U.grad_as_array().any()


def test_graph_outlives_the_cell_and_its_parameters():
    dy.renew_cg()

    def value():
        W = dy.ParameterCollection().add_parameters((2, 2), init=1)
        return dy.traced(lambda x: W * x)(dy.inputVector([1, 2]))

    e = value()
    assert e.value() == [3, 3]


# ---- methods, copies, threads ----------------------------------------------------------


class Network:
    def __init__(self, model, scale):
        self.W, self.scale = model.add_parameters((2, 2), init=1), scale

    @dy.traced
    def layer(self, x):
        """W x, scaled."""
        return self.scale * (self.W * x)


class Slotted:
    __slots__ = ()
    layer = Network.layer


class Deeper(Network):
    @dy.traced
    def layer(self, x):
        return super().layer(x) + 1


@dy.traced
def doubled(x):
    return 2 * x


def test_methods_are_traced_for_each_object(model):
    dy.renew_cg()
    a, b, c = Network(model, 1), Network(model, 10), Deeper(model, 100)
    x = dy.inputVector([1, 2])
    assert [n.layer(x).value() for n in (a, b, c, a)] == [[3, 3], [30, 30], [301, 301], [3, 3]]
    assert a.layer.traces == 1 and Network.layer.__doc__ == a.layer.__doc__ == "W x, scaled."
    assert (c.layer(x) + a.layer(x)).value() == [304, 304]
    with pytest.raises(TypeError, match="__slots__"):
        Slotted().layer(x)


def test_cells_and_objects_with_cells_can_be_pickled_and_copied(model):
    dy.renew_cg()
    x = dy.inputVector([1, 2])
    assert pickle.loads(pickle.dumps(doubled)) is doubled and copy.deepcopy(doubled) is doubled
    network = Network(model, 2)
    network.layer(x)
    twin = pickle.loads(pickle.dumps(network))
    assert twin.layer is not network.layer
    assert twin.layer(x).value() == network.layer(x).value() == [6, 6]
    twin.W.set_value(np.zeros((2, 2)))
    dy.renew_cg()
    x = dy.inputVector([1, 2])
    assert (twin.layer(x).value(), network.layer(x).value()) == ([0, 0], [6, 6])
    assert pickle.loads(pickle.dumps(network.layer))(x).value() == [6, 6]


def test_threads_share_a_cell(model, step):
    f, wrong = dy.traced(step), []

    def expected(k, make):
        dy.renew_cg()
        return make(dy.inputVector([k, 1, 2]), dy.ones(3))[0].npvalue()

    def work(k):
        for _ in range(50):
            if not np.allclose(expected(k, f), expected(k, step), rtol=1e-4, atol=1e-5):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and f.traces == 1


def test_a_trace_in_one_thread_is_none_in_another():
    tracing, done, ran = threading.Event(), threading.Event(), []

    @dy.traced
    def slow(x):
        tracing.set()
        assert done.wait(30)
        return dy.tanh(x)

    @dy.traced
    def several(xs):
        ran.append(1)
        return dy.esum(xs)

    def meet(values):
        dy.renew_cg()
        return several([dy.inputVector(v) for v in values]).value()

    meet([[0], [0]])
    other = threading.Thread(target=lambda: (dy.renew_cg(), slow(dy.ones(1))))
    other.start()
    try:
        assert tracing.wait(30)
        assert meet([[1], [2]]) == 3 and len(ran) == several.traces == 1
    finally:
        done.set()
        other.join()
    assert slow.traces == 1


@pytest.mark.float32
def test_double_build_passes():
    assert passing_tests(__file__, DIST_DYNET_DTYPE="float64")


@pytest.mark.float32
def test_the_example_learns(tmp_path):
    script = Path(__file__).parents[1] / "examples" / "treelstm.py"
    result = run_example(
        script,
        *("--epochs", "2", "--size", "32", "--limit", "1500"),
        *("--save", str(tmp_path / "model"), "--metrics", str(tmp_path / "metrics.jsonl")),
    )
    assert result.returncode == 0, result.stderr
    accuracy = [float(x) for x in re.findall(r"accuracy (\S+)", result.stdout)]
    assert len(accuracy) == 3 and accuracy[0] < accuracy[1] and accuracy[2] > 0.3, result.stdout
    found = predicted(script, tmp_path, "(0 (0 (0 MAX) (0 3)) (0 4))\n\n(0 3)")
    assert re.fullmatch(r"[0-4]\n[0-4]\n", found)


def test_the_former_name_is_the_same_function():
    assert dy.cell is dy.traced and "cell" in dy.__all__
