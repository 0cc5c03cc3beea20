"""The graph: what is computed when, checkpoint and revert, stale expressions, the rules of
backward() and gradient().

How long: about five seconds.
"""

import threading

import numpy as np
import pytest
from processes import output_of

import dist_dynet as dy
from dist_dynet._ffi import DTYPE
from dist_dynet.expression import expressions_from


def close(a, b, tolerance=2e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# ---- laziness, caching -----------------------------------------------------------------


def test_nodes_are_not_computed_before_they_are_asked_for():
    memory = []

    def in_a_graph_that_holds_no_memory_yet():
        graph = dy.cg()
        big = dy.tanh(dy.zeros(3_000_000))
        assert dy.scalarInput(2).dim() == ((1,), 1) and big.dim() == ((3_000_000,), 1)
        memory.append(graph.memory())
        big.forward()
        memory.append(graph.memory())

    thread = threading.Thread(target=in_a_graph_that_holds_no_memory_yet)
    thread.start()
    thread.join()
    assert memory[0] < 1_000_000
    assert memory[1] > 10_000_000


def test_value_is_kept_when_a_parameter_changes():
    w = dy.ParameterCollection().add_parameters(2, init=1)
    y = w * 3
    assert y.value() == [3, 3]
    w.set_value([5, 6])
    assert y.value() == [3, 3]
    assert y.value(recalculate=True) == [15, 18]


def test_value_read_of_a_parameter_is_kept_and_used_by_later_nodes():
    w = dy.ParameterCollection().add_parameters(2, init=1)
    e = w.expr(True)
    assert e.value() == [1, 1]
    w.set_value([5, 6])
    assert e.value() == [1, 1]
    assert (e * 2).value() == [2, 2]
    assert (e * 2).value(recalculate=True) == [10, 12]


@pytest.mark.parametrize(
    "view", [lambda w: dy.reshape(w, (1, 2)), lambda w: dy.reshape(dy.reshape(w, (1, 2)), (2,))]
)
@pytest.mark.parametrize(
    "read", [dy.Expression.value, dy.Expression.npvalue, dy.Expression.vec_value]
)
def test_value_read_of_a_view_of_a_parameter_is_kept(view, read):
    w = dy.ParameterCollection().add_parameters(2, init=1)
    e = view(w)
    before = np.array(read(e)).tolist()
    w.set_value([5, 6])
    assert np.array(read(e)).tolist() == before
    assert np.ravel(e.value(recalculate=True)).tolist() == [5, 6]
    w.set_value([7, 8])
    assert np.ravel(read(e)).tolist() == [5, 6]


TABLE = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("make", "new", "set_name", "expected"),
    [
        (lambda t: dy.scalarInput(1), 4, "set", 4),
        (lambda t: dy.vecInput(2), [4, 5], "set", [4, 5]),
        (lambda t: dy.inputVector([1, 2]), (4, 5), "set", [4, 5]),
        (lambda t: dy.inputVector([1, 2]), np.array([4, 5]), "set", [4, 5]),
        (lambda t: dy.inputTensor([[1, 2]], reusable_expr=True), [4, 5], "set", [[4, 5]]),
        (lambda t: t[1], 2, "set", [6, 7, 8]),
        (lambda t: dy.lookup_batch(t, [0, 1]), [3, 2], "set", [9, 10, 11, 6, 7, 8]),
        (lambda t: dy.pick(dy.inputVector([1, 2, 3]), 0), 2, "set_index", 3),
        (lambda t: dy.pick_batch(dy.inputVector([1, 2, 3]), [0, 0]), [2, 1], "set_index", [3, 2]),
        (
            lambda t: dy.pickneglogsoftmax(dy.inputVector([0, np.log(3)]), 1),
            0,
            "set_index",
            np.log(4),
        ),
    ],
)
def test_set_forgets_values_that_depend_on_it(make, new, set_name, expected):
    e = make(dy.ParameterCollection().lookup_parameters_from_numpy(TABLE))
    doubled = 2 * e
    before = np.array(doubled.npvalue())
    getattr(e, set_name)(new)
    close(np.array(e.value()), expected)
    close(doubled.npvalue(), 2 * e.npvalue())
    assert np.abs(doubled.npvalue() - before).max() > 0.1


@pytest.mark.parametrize(
    ("make", "new", "set_name"),
    [
        (lambda: dy.vecInput(2), [1, 2, 3], "set"),
        (lambda: dy.vecInput(2), [], "set"),
        (lambda: dy.inputTensor([[1, 2]]), [1, 2], "set"),
        (lambda: dy.pick(dy.inputVector([1, 2]), 0), 2, "set_index"),
        (lambda: dy.pick_batch(dy.inputVector([1, 2]), [0]), [0, 1], "set_index"),
        (lambda: dy.one_hot(3, 1), 2, "set"),
        (lambda: dy.pickneglogsoftmax(dy.inputVector([1, 2]), 0), -1, "set_index"),
    ],
)
def test_set_of_what_does_not_fit_is_refused(make, new, set_name):
    e = make()
    before = e.npvalue()
    with pytest.raises(ValueError, match=r"set|pick|index"):
        getattr(e, set_name)(new)
    assert np.array_equal(e.npvalue(), before)


def test_incremental_forward_equals_one_forward(rng):
    numbers = rng.normal(size=(6, 4))

    def chain(look):
        dy.reset_random_seed(11)
        dy.renew_cg()
        h, seen = dy.zeros(4), []
        for row in numbers:
            h = dy.tanh(dy.dropout(h + dy.inputVector(row), 0.3))
            if look:
                seen.append(h.value())
        return h.value(), seen

    last, seen = chain(True)
    assert last == seen[-1] == chain(False)[0]


def test_recalculate_draws_anew():
    x = dy.dropout(dy.ones(200), 0.5)
    first = x.value()
    assert x.value() == first
    assert x.value(recalculate=True) != first


def test_values_and_npvalues_compute_a_list():
    x = dy.inputVector([1, 2])
    assert dy.values((x, x * 2, dy.sum_elems(x))) == [[1, 2], [2, 4], 3]
    assert [v.tolist() for v in dy.npvalues([x, dy.sum_elems(x)])] == [[1, 2], [3]]
    assert dy.values([]) == []
    assert dy.forward([x]) is None


def test_forward_and_backward_over_more_than_one_slice_of_work():
    # DN_WORK (67 million numbers) is the longest that a C call runs: this takes several
    x = dy.ParameterCollection().add_parameters(1_000_000, init=0.5)
    y = x.expr(True)
    for _ in range(50):
        y = y * 1.01
    loss = dy.sum_elems(y)
    close(loss.value(), 500_000 * 1.01**50, 1e-4)
    loss.backward()
    close(x.grad_as_array()[[0, -1]], 1.01**50)


def test_chain_of_100000_nodes():
    w = dy.ParameterCollection().add_parameters(1, init=1)
    y = w.expr(True)
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert (y.value(), w.grad_as_array().tolist(), len(dy.cg())) == (100_001, [1], 100_001)


# ---- renew, version, immediate mode ----------------------------------------------------


def test_version_counts_renewals():
    before = dy.cg_version()
    assert dy.renew_cg() is dy.cg()
    assert dy.cg_version() == dy.cg().version() == before + 1
    dy.cg_checkpoint()
    dy.cg_revert()
    assert dy.cg_version() == before + 1
    dy.renew_cg(immediate_compute=True)
    assert dy.cg_version() == before + 2
    assert repr(dy.scalarInput(1)) == "input (1,)"


def test_graph_cannot_be_made_directly():
    with pytest.raises(RuntimeError, match=r"renew_cg\(\) or cg\(\)"):
        dy.ComputationGraph()


def test_renewed_graph_keeps_its_memory():
    def work():
        dy.renew_cg()
        dy.sum_elems(dy.tanh(dy.ones(100_000))).forward()
        return dy.cg().memory()

    assert work() == work() > 400_000


def test_immediate_compute_gives_equal_values_and_gradients():
    w = dy.ParameterCollection().add_parameters(3, init=0.5)
    results = []
    for immediate in (False, True):
        dy.renew_cg(immediate_compute=immediate)
        loss = dy.squared_distance(dy.tanh(w * 2), dy.ones(3))
        loss.backward()
        results.append((loss.value(), w.grad_as_array().tolist()))
        w.clear_gradient()
    assert results[0] == results[1]


def test_check_validity_raises_where_the_node_is_made():
    dy.renew_cg(immediate_compute=True, check_validity=True)
    x = dy.inputVector([1, -1])
    with pytest.raises(RuntimeError, match=r"log: NaN or Inf detected at element 1"):
        dy.log(x)
    assert dy.square(x).value() == [1, 1]
    dy.renew_cg(immediate_compute=True)
    assert np.isnan(dy.log(dy.scalarInput(-1)).value())


def test_shape_error_leaves_the_graph_usable():
    x = dy.inputVector([1, 2])
    with pytest.raises(ValueError, match="matmul: columns of a must equal rows of b"):
        x * x
    assert (x + x).value() == [2, 4]


# ---- checkpoint, revert ----------------------------------------------------------------


def test_revert_drops_nodes_in_nested_order():
    x = dy.inputVector([1, 2])
    sizes = []
    for _ in range(3):
        x = x * 2
        sizes.append(len(dy.cg()))
        dy.cg_checkpoint()
    dy.tanh(x)
    for size in reversed(sizes):
        dy.cg_revert()
        assert len(dy.cg()) == size
        assert x.value() == [8, 16] if size == sizes[2] else True
    dy.cg_revert()
    assert len(dy.cg()) == sizes[0]


def test_revert_keeps_values_from_before_and_recomputes_those_after():
    x = dy.inputVector([0.5, 1])
    a, b = dy.dropout(dy.tanh(x), 0.5), dy.dropout(dy.square(x), 0.5)
    known_a = a.value()
    dy.cg_checkpoint()
    known_b = b.value()
    c = dy.dropout(a + b, 0.5)
    known_c = c.value()
    dy.cg_revert()
    assert (a.value(), b.value()) == (known_a, known_b)
    close((a + b).npvalue(), np.add(known_a, known_b))
    assert len(known_c) == 2


def test_draws_from_before_the_mark_are_the_same_after_partial_recomputation():
    masks = [dy.dropout(dy.ones(64), 0.5) for _ in range(4)]
    masks[0].forward()
    dy.cg_checkpoint()
    before = dy.values(masks)
    dy.cg_revert()
    dy.tanh(dy.ones(1000)).forward()
    assert dy.values(masks) == before


def test_draws_after_a_revert_are_new():
    seen = []
    for _ in range(5):
        dy.cg_checkpoint()
        seen.append(tuple(dy.dropout(dy.ones(64), 0.5).value()))
        dy.cg_revert()
    assert len(set(seen)) == 5


def test_parameter_first_used_after_the_mark_is_used_again_after_revert(rng):
    m = dy.ParameterCollection()
    w, v = m.add_parameters(3), m.add_parameters(3)
    (w * 1).forward()
    for _ in range(3):
        dy.cg_checkpoint()
        loss = dy.dot_product(v, w)
        loss.backward()
        close(v.grad_as_array(), w.as_array())
        close(w.grad_as_array(), v.as_array())
        m.reset_gradients()
        dy.cg_revert()
    close((v + w).npvalue(), v.as_array() + w.as_array())


def test_inputs_and_attributes_after_revert_are_right():
    keep = dy.inputVector([7, 8, 9])
    dy.cg_checkpoint()
    dy.inputVector(list(range(5000))).forward()
    dy.cg_revert()
    x = dy.inputVector([1, 2, 3])
    assert dy.pick(x * 5, 2).value() == 15
    assert keep.value() == [7, 8, 9]
    keep.set([1, 1, 1])
    assert (keep + x).value() == [2, 3, 4]


def test_set_under_a_mark_is_seen_after_revert():
    x = dy.scalarInput(1)
    y = x * 2
    y.forward()
    dy.cg_checkpoint()
    x.set(5)
    assert (y + 1).value() == 11
    dy.cg_revert()
    assert y.value() == 10


def test_revert_and_update_of_a_node_not_computed_before_the_mark():
    m = dy.ParameterCollection()
    w = m.add_parameters(3, init=1)
    trainer = dy.SimpleSGDTrainer(m, learning_rate=1)
    e = w.expr(True)
    for step in range(1, 4):
        dy.cg_checkpoint()
        dy.sum_elems(e).backward()
        trainer.update()
        dy.cg_revert()
        assert w.as_array().tolist() == [1 - step] * 3


def test_value_of_a_parameter_read_after_the_mark_survives_revert():
    m = dy.ParameterCollection()
    w, v = m.add_parameters(3, init=1), m.add_parameters(5, init=2)
    e = w.expr(True)
    (e * 1).forward()
    dy.cg_checkpoint()
    assert v.value() == [2] * 5
    assert e.value() == [1] * 3
    dy.cg_revert()
    dy.cg_checkpoint()
    assert v.value() == [2] * 5
    assert e.value() == [1] * 3
    dy.cg_revert()
    assert e.value() == [1] * 3


def in_a_thread(f):
    """What f() returns in a thread of its own: in a graph of its own, with fresh memory."""
    out = []
    thread = threading.Thread(target=lambda: out.append(f()))
    thread.start()
    thread.join()
    assert out, "f raised an exception"
    return out[0]


@pytest.mark.parametrize("mode", ["nodes", "parameters", "lookups", "backward", "set"])
def test_memory_does_not_grow_over_10000_rounds(mode):
    def rounds():
        m = dy.ParameterCollection()
        w, table = m.add_parameters(300, init=0.1), m.add_lookup_parameters((3, 300))
        x = dy.inputVector([0.5] * 300)
        x.forward()
        for i in range(10_000):
            dy.cg_checkpoint()
            if mode == "nodes":
                dy.pick(dy.tanh(x + dy.inputVector([i] * 300)), 7).forward()
            elif mode == "parameters":
                w.value()
            elif mode == "lookups":
                table[i % 3].value()
            elif mode == "backward":
                dy.dot_product(x, dy.tanh(w)).backward()
            else:
                x.set([i] * 300)
                dy.tanh(x).forward()
            dy.cg_revert()
            if i == 100:
                before = dy.cg().memory()
        return dy.cg().memory() - before, len(dy.cg())

    assert in_a_thread(rounds) == (0, 1)


# ---- stale expressions -----------------------------------------------------------------


def _lstm(x=None, vecs=None):
    state = dy.VanillaLSTMBuilder(1, 2, 2, dy.ParameterCollection()).initial_state(vecs)
    return state.add_input(x if x is not None else dy.zeros(2))


USES = {
    "unary": lambda s, x: dy.tanh(s),
    "left": lambda s, x: s + x,
    "right": lambda s, x: x + s,
    "both": lambda s, x: dy.cmult(s, s),
    "with a parameter": lambda s, x: dy.ParameterCollection().add_parameters((2, 2)) * s,
    "left of a parameter": lambda s, x: s + dy.ParameterCollection().add_parameters(2),
    "with a number": lambda s, x: s * 2,
    "number first": lambda s, x: 2 - s,
    "power": lambda s, x: s**2,
    "exponent": lambda s, x: dy.pow(x, s),
    "negated": lambda s, x: -s,
    "array first": lambda s, x: np.ones(2) + s,
    "first in a list": lambda s, x: dy.esum([s, x]),
    "last in a list": lambda s, x: dy.concatenate([x, x, s]),
    "alone in a list": lambda s, x: dy.concatenate_cols([s]),
    "in a long list": lambda s, x: dy.esum([x] * 30 + [s]),
    "affine bias": lambda s, x: dy.affine_transform([s, dy.zeros((2, 2)), x]),
    "affine input": lambda s, x: dy.affine_transform([x, dy.zeros((2, 2)), s]),
    "pick": lambda s, x: dy.pick(s, 0),
    "index": lambda s, x: s[0],
    "slice": lambda s, x: s[0:1],
    "iteration": lambda s, x: list(s),
    "dropout": lambda s, x: dy.dropout(s, 0.5),
    "reshape": lambda s, x: dy.reshape(s, (1, 2)),
    "loss": lambda s, x: dy.pickneglogsoftmax(s, 0),
    "lstm input": lambda s, x: _lstm(s),
    "lstm state": lambda s, x: _lstm(x, [s, x]),
    "value": lambda s, x: s.value(),
    "recalculated": lambda s, x: s.value(recalculate=True),
    "npvalue": lambda s, x: s.npvalue(),
    "vec_value": lambda s, x: s.vec_value(),
    "scalar_value": lambda s, x: s.scalar_value(),
    "values": lambda s, x: dy.values([x, s]),
    "forward": lambda s, x: s.forward(),
    "dim": lambda s, x: s.dim(),
    "gradient": lambda s, x: s.gradient(),
    "backward": lambda s, x: s.backward(),
    "full backward": lambda s, x: s.backward(full=True),
    "set": lambda s, x: s.set([1, 2]),
}


def _closed_by_renew():
    s = dy.inputVector([1, 2])
    dy.renew_cg()
    return s


def _closed_by_revert():
    dy.cg_checkpoint()
    s = dy.inputVector([1, 2])
    dy.cg_revert()
    return s


def _closed_with_its_thread():
    made = []
    thread = threading.Thread(target=lambda: made.append(dy.inputVector([1, 2])))
    thread.start()
    thread.join()
    return made[0]


CLOSERS = {
    "renew": _closed_by_renew,
    "revert": _closed_by_revert,
    "thread": _closed_with_its_thread,
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
@pytest.mark.parametrize("closer", CLOSERS.values(), ids=list(CLOSERS))
def test_stale_expression_is_found(closer, use):
    s = closer()
    filler = [dy.inputVector([5, 6]) for _ in range(3)]  # takes its index
    with pytest.raises(RuntimeError, match="Stale Expression: expression belongs to a graph that"):
        use(s, filler[-1])
    assert filler[0].value() == [5, 6]
    assert "stale" in repr(s)


MIXED = [
    "left",
    "right",
    "first in a list",
    "last in a list",
    "in a long list",
    "affine bias",
    "affine input",
    "lstm state",
]


@pytest.mark.parametrize("use", MIXED)
def test_expression_of_another_living_thread_is_not_mixed_in(use):
    made, go_on = [], threading.Event()

    def other():
        made.append(dy.inputVector([1, 2]))
        made.append(True)
        go_on.wait()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        while len(made) < 2:
            pass
        with pytest.raises(RuntimeError, match="Stale Expression"):
            USES[use](made[0], dy.inputVector([5, 6]))
    finally:
        go_on.set()
        thread.join()


def test_expression_made_by_hand_stands_for_nothing():
    e = dy.Expression()
    for use in (
        e.dim,
        e.value,
        e.npvalue,
        e.gradient,
        e.backward,
        lambda: repr(e) and dy.values([e]),
    ):
        with pytest.raises(ValueError, match="made by hand"):
            use()
    for use in (
        lambda: e + dy.zeros(1),
        lambda: dy.tanh(e),
        lambda: dy.esum([e, e]),
        lambda: dy.zeros(1) * e,
    ):
        with pytest.raises(TypeError):
            use()


def test_signal_handler_that_renews_in_the_middle_of_backward():
    code = """
import signal, dist_dynet as dy
seen = []
signal.signal(signal.SIGALRM, lambda *_: (dy.renew_cg(), dy.zeros(3).value()))
for delay in (0.05, 0.1, 0.15, 0.2, 0.3):
    dy.renew_cg()
    w = dy.ParameterCollection().add_parameters(1_000_000, init=0.5)
    y = w.expr(True)
    for _ in range(100): y = dy.tanh(y)
    loss = dy.sum_elems(y)
    signal.setitimer(signal.ITIMER_REAL, delay)
    try: loss.backward(); seen.append("done")
    except RuntimeError as error: seen.append(str(error)[:5])
    signal.setitimer(signal.ITIMER_REAL, 0)
dy.renew_cg()
print(set(seen) <= {"done", "Stale", "backw"}, dy.scalarInput(3).value(), seen)
"""
    assert output_of(code).startswith("True 3.0")


@pytest.mark.parametrize("autobatching", [0, 3])
def test_numbers_of_a_large_graph_are_read_one_by_one(autobatching):
    """The first read has much to compute, the others little or nothing; all are equal, also after
    set() and recalculate."""
    dy.renew_cg(autobatching=autobatching)
    x = dy.inputVector([1.0] * 1000)
    scores = [dy.sum_elems(x * k) + k for k in range(100)]
    assert [s.scalar_value() for s in scores[::-1]] == [1001.0 * k for k in range(100)][::-1]
    x.set([2.0] * 1000)
    assert [s.value() for s in scores] == [2001.0 * k for k in range(100)]
    assert scores[3].scalar_value(recalculate=True) == 6003.0
    more = dy.esum(scores) * 2
    assert more.scalar_value() == 2 * 2001.0 * 4950


@pytest.mark.parametrize(
    "shape", [(1,), (3,), (1, 1), (2, 3), (1, 5), (256,), (257,), (16, 17), (0,), (2, 0)]
)
@pytest.mark.parametrize("batched", [False, True])
def test_quick_reading_gives_what_the_slow_path_gives(shape, batched):
    """recalculate=True always takes the slow path."""
    dy.renew_cg()
    array = np.arange(np.prod(shape), dtype=float).reshape(shape)
    array[..., :1] = np.nan
    x = -dy.inputTensor(array, batched=batched)
    for read in (x.value, x.npvalue, x.vec_value):
        quick, slow = read(), read(recalculate=True)
        assert type(quick) is type(slow)
        assert np.shape(quick) == np.shape(slow)
        np.testing.assert_array_equal(quick, slow)
    x.npvalue()[...] = 7  # a copy that can be written to
    np.testing.assert_array_equal(x.npvalue(), x.npvalue(recalculate=True))


def test_large_values_that_grow_from_graph_to_graph_do_not_pile_up():
    before = dy.renew_cg().memory()
    for megabytes in range(65, 81):
        graph = dy.renew_cg()
        dy.zeros((megabytes << 20) // DTYPE.itemsize).forward()
    assert graph.memory() - before < 200 << 20


def test_expressions_of_handles_that_follow_one_another():
    dy.renew_cg()
    first, *others = [dy.scalarInput(x) for x in (1, 2, 3)]
    same = expressions_from(first._h, 3)
    assert [type(e) for e in same] == [dy.Expression] * 3 and [e.value() for e in same] == [1, 2, 3]
    assert [e._h for e in same] == [e._h for e in (first, *others)] and expressions_from(
        first._h, 0
    ) == []
    for nonsense in ((first._h, "2"), ("1", 1), (first._h, 1.5)):
        with pytest.raises(TypeError):
            expressions_from(*nonsense)
    dy.renew_cg()
    with pytest.raises(RuntimeError, match="Stale"):
        expressions_from(first._h, 1)[0].value()
