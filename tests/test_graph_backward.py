"""Backward: what gradient() shows, what parameters gather, products put off, parameters that die.

How long: about three seconds.
"""

import gc
import threading

import numpy as np
import pytest
from processes import output_of
from test_graph import close

import dist_dynet as dy
from dist_dynet._ffi import OPS, ffi, lib

# ---- gradient() ------------------------------------------------------------------------


def test_gradient_before_backward_is_an_error():
    x = dy.ParameterCollection().add_parameters(2) * 2
    with pytest.raises(
        RuntimeError, match=r"Requested gradient for node 1, but backward\(\) has not been called"
    ):
        x.gradient()


def test_gradient_of_a_node_made_after_the_loss_is_an_error():
    w = dy.ParameterCollection().add_parameters(2)
    loss = dy.sum_elems(w)
    later = w * 2
    loss.backward()
    with pytest.raises(RuntimeError, match="made after the loss"):
        later.gradient()
    assert w.gradient().tolist() == [1, 1]


def test_gradient_after_renew_revert_and_new_backward():
    w = dy.ParameterCollection().add_parameters(2, init=1)
    a, b = w * 2, w * 3
    dy.sum_elems(a).backward()
    assert (a.gradient().tolist(), b.gradient().tolist()) == ([1, 1], [0, 0])
    dy.sum_elems(b).backward()
    assert (a.gradient().tolist(), b.gradient().tolist()) == ([0, 0], [1, 1])
    dy.cg_checkpoint()
    dy.sum_elems(a).backward()
    dy.cg_revert()
    with pytest.raises(RuntimeError, match="has not been called"):
        a.gradient()


def test_gradient_of_inputs_only_with_full():
    w = dy.ParameterCollection().add_parameters(2, init=3)
    x = dy.inputVector([5, 6])
    y = x * 2
    loss = dy.dot_product(w, y)
    loss.backward()
    assert (x.gradient().tolist(), y.gradient().tolist(), w.gradient().tolist()) == (
        [0, 0],
        [0, 0],
        [10, 12],
    )
    loss.backward(full=True)
    assert (x.gradient().tolist(), y.gradient().tolist(), w.gradient().tolist()) == (
        [6, 6],
        [3, 3],
        [10, 12],
    )


@pytest.mark.parametrize("batching", [False, True])
def test_gradient_of_constants_with_full(batching):
    m = dy.ParameterCollection()
    W, frozen = m.add_parameters((2, 3), init=2), m.add_parameters(2, init=1)
    table = m.add_lookup_parameters((4, 3), init=1)
    frozen.set_updated(False)
    dy.renew_cg(autobatching=batching)
    constant, whole = W.expr(update=False), table.expr()
    row, rows = dy.lookup(table, 1, update=False), dy.lookup_batch(table, [0, 2], update=False)
    loss = dy.dot_product(dy.inputVector([1, 2]), constant * row + frozen)
    loss = loss + dy.sum_batches(dy.sum_elems(constant * rows)) + dy.sum_elems(whole)
    for full in (True, False, True):
        loss.backward(full=full)
        got = [x.gradient().tolist() for x in (constant, row, rows, frozen)]
        assert got == (
            [[[3] * 3, [4] * 3], [6] * 3, [[4] * 2] * 3, [1, 2]]
            if full
            else [[[0] * 3] * 2, [0] * 3, [[0] * 2] * 3, [0, 0]]
        )
    assert not W.has_gradient()
    assert not frozen.has_gradient()
    assert table.grad_as_array().tolist() == [[3] * 3] * 4


def test_node_gradients_are_replaced_parameter_gradients_accumulate():
    w = dy.ParameterCollection().add_parameters(2, init=1)
    loss = dy.sum_elems(dy.square(w))
    for k in (1, 2, 3):
        loss.backward()
        assert (w.gradient().tolist(), w.grad_as_array().tolist()) == ([2, 2], [2 * k, 2 * k])


def test_gradients_accumulate_over_graphs():
    m = dy.ParameterCollection()
    w, table = m.add_parameters(2, init=1), m.add_lookup_parameters((4, 2), init=1)
    for k in (1, 2, 3):
        dy.renew_cg()
        dy.dot_product(w, table[k % 2]).backward()
    assert w.grad_as_array().tolist() == [3, 3]
    assert table.grad_as_array().tolist() == [[1, 1], [2, 2], [0, 0], [0, 0]]


def test_gradient_of_the_loss_itself_and_of_shared_views():
    w = dy.ParameterCollection().add_parameters(4, init=2)
    v = dy.reshape(w, (2, 2))
    loss = dy.sum_elems(dy.square(v))
    loss.backward()
    assert (loss.gradient().tolist(), v.gradient().tolist()) == ([1], [[4, 4], [4, 4]])


def test_gradient_of_states_that_one_node_gives():
    """It has what states get from one another, as if each step was a node."""
    m = dy.ParameterCollection()
    builder = dy.VanillaLSTMBuilder(1, 2, 3, m)
    gradients = []
    for immediate in (False, True):
        dy.renew_cg(immediate_compute=immediate)
        states = [builder.initial_state()]
        xs = [dy.inputVector([1, 2])] * 3
        if immediate:
            for x in xs:
                states.append(states[-1].add_input(x))
        else:
            states += states[0].add_inputs(xs)
        h = [s.output() for s in states[1:]]
        dy.dot_product(h[1], dy.inputVector([1, 2, 3])).backward()
        assert np.array_equal(h[1].gradient(), [1, 2, 3])
        assert np.abs(h[0].gradient()).min() > 0
        assert np.abs(h[2].gradient()).max() == 0
        gradients.append([e.gradient() for s in states[1:] for e in s.s()])
        dy.esum([dy.sum_elems(h[0]), dy.sum_elems(h[2] * 2)]).backward()
        assert h[2].gradient().tolist() == [2, 2, 2]
        gradients[-1] += [e.gradient() for s in states[1:] for e in s.s()]
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-7)
    # an output that is named only now has its gradient all the same
    assert np.array_equal(states[3].h()[0].gradient(), [2, 2, 2])


def test_gradient_reads_moved_memory_of_no_chunk():
    m = dy.ParameterCollection()
    w = m.add_parameters(1000, init=1)
    dy.sum_elems(w).backward()
    memory = np.zeros(lib.dn_chunk_capacity(m._root.c, 0) + 16, w.storage().dtype)
    start = -memory.ctypes.data % 64 // memory.itemsize
    assert (
        lib.dn_chunk_move_gradients(m._root.c, 0, ffi.cast("dn_real *", memory[start:].ctypes.data))
        == 0
    )
    assert w.gradient().tolist() == w.grad_as_array().tolist() == [1] * 1000
    assert lib.dn_chunk_move_gradients(m._root.c, 0, ffi.NULL) == 0
    memory[:] = np.nan
    assert w.gradient().tolist() == [1] * 1000


def shared_matrix():
    """Three products of one matrix, computed as one, a row of a table, and their sum."""
    m = dy.ParameterCollection()
    W, E = (
        m.parameters_from_numpy(np.arange(6.0).reshape(3, 2)),
        m.add_lookup_parameters((5, 2), init=1),
    )
    xs = [dy.inputVector([i, 1.0]) for i in range(3)]
    ys = [W * x for x in (*xs, E[1])]
    return m, W, E, xs, ys, dy.sum_elems(dy.esum([dy.square(y) for y in ys]))


def in_another_thread(f):
    thread = threading.Thread(target=f)
    thread.start()
    thread.join()


def reverted(ys):
    dy.cg_checkpoint()
    dy.tanh(ys[0]).value()
    dy.cg_revert()


NO_BACKWARD = r"backward\(\) has not been called on this graph since its values were computed"
# what is done between backward() and gradient(): what inner nodes and the matrix then answer; None:
# the gradients of that backward
AFTERWARDS = {
    "nothing": (lambda s: None, None, None),
    "set": (lambda s: s[3][0].set([1, 2]), NO_BACKWARD, NO_BACKWARD),
    "set after all is computed": (
        lambda s: (s[3][0].set([1, 2]), s[5].value()),
        NO_BACKWARD,
        NO_BACKWARD,
    ),
    "recalculate": (lambda s: s[5].value(recalculate=True), NO_BACKWARD, NO_BACKWARD),
    "recalculate of an inner node": (
        lambda s: s[4][0].npvalue(recalculate=True),
        NO_BACKWARD,
        NO_BACKWARD,
    ),
    "revert": (lambda s: reverted(s[4]), NO_BACKWARD, NO_BACKWARD),
    "new nodes": (lambda s: dy.esum([s[1] * x for x in s[3]]).value(), None, None),
    "update": (lambda s: dy.MomentumSGDTrainer(s[0]).update(), None, None),
    "new values": (lambda s: s[1].set_value(np.ones((3, 2))), None, None),
    "clear": (lambda s: s[1].clear_gradient(), None, None),
    "scale": (
        lambda s: s[1].scale_gradient(10),
        None,
        "was added to, scaled, clipped or replaced since backward",
    ),
    "replaced": (
        lambda s: s[1].set_gradient(np.ones((3, 2))),
        None,
        "was added to, scaled, clipped or replaced since backward",
    ),
    "another graph": (
        lambda s: in_another_thread(lambda: dy.sum_elems(s[1] * dy.ones(2)).backward()),
        None,
        "was added to, scaled, clipped or replaced since backward",
    ),
    "the same again": (lambda s: s[5].backward(), None, None),
}


def clipped_by_value(s):
    trainer = dy.SimpleSGDTrainer(s[0])
    trainer.set_clip_value(0.001)
    trainer.update()


AFTERWARDS["clip"] = (
    clipped_by_value,
    None,
    "was added to, scaled, clipped or replaced since backward",
)


@pytest.mark.parametrize("autobatching", [0, 1, 2])
@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_gradient_is_that_of_the_last_backward_or_an_error(afterwards, autobatching):
    act, of_nodes, of_matrix = AFTERWARDS[afterwards]
    dy.renew_cg(autobatching=autobatching)
    s = shared_matrix()
    _, W, _, xs, ys, loss = s
    loss.backward()
    expected = [2 * y.npvalue() for y in ys]
    matrix = sum(
        np.outer(g, x)
        for g, x in zip(expected, [*(x.npvalue() for x in xs), np.ones(2)], strict=True)
    )
    act(s)
    for node, error, right in [
        *((y, of_nodes, g) for y, g in zip(ys, expected, strict=True)),
        (W, of_matrix, matrix),
    ]:
        if error is None:
            close(node.gradient(), right)
        else:
            with pytest.raises(RuntimeError, match=error):
                node.gradient()


def test_gradient_after_a_backward_of_another_root_is_of_that():
    _, W, _, xs, ys, loss = shared_matrix()
    loss.backward()
    dy.sum_elems(ys[1]).backward()
    assert [y.gradient().tolist() for y in ys] == [[0] * 3, [1] * 3, [0] * 3, [0] * 3]
    assert W.gradient().tolist() == [[1, 1]] * 3
    loss.backward()
    xs[1].set([5, 6])
    dy.sum_elems(ys[3]).backward()
    assert [y.gradient().tolist() for y in ys] == [[0] * 3] * 3 + [[1] * 3]
    assert W.gradient().tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("act", ["set", "renew", "revert", "again"])
def test_backward_that_loses_its_values_midway_leaves_no_gradients(act):
    from dist_dynet.expression import watchers

    class Interrupts:
        def look(self):
            steps.append(
                {
                    "set": lambda: x.set([1, 2]),
                    "renew": dy.renew_cg,
                    "revert": dy.cg_revert,
                    "again": lambda: y.value(True),
                }[act]()
            )

    steps = []
    m = dy.ParameterCollection()
    w, last = m.add_parameters(1_000_000, init=1), m.add_parameters(2, init=1)
    dy.cg_checkpoint()
    x = dy.inputVector([3, 4])
    y = dy.dot_product(last, x)
    z = dy.cmult(w, w)
    for _ in range(40):
        z = dy.cmult(z, w)
    loss = dy.sum_elems(z) + y
    loss.forward()
    interrupts = Interrupts()
    watchers.add(interrupts)
    try:
        with pytest.raises(RuntimeError, match=r"renewed, reverted or set anew meanwhile|Stale"):
            loss.backward()
    finally:
        watchers.discard(interrupts)
    assert len(steps) == 1
    assert not w.has_gradient() and not last.has_gradient()


# ---- what backward() refuses -----------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: dy.zeros(2),
        lambda: dy.zeros((1, 1), batch_size=2),
        lambda: dy.zeros(0),
        lambda: dy.zeros(1, batch_size=0),
    ],
)
def test_backward_of_what_is_not_one_number_is_refused(make):
    with pytest.raises(ValueError, match="backward: the loss must be one number"):
        make().backward()


def test_backward_of_constants_alone_does_nothing():
    dy.sum_elems(dy.inputVector([1, 2])).backward()
    w = dy.ParameterCollection().add_parameters(2)
    dy.sum_elems(w.expr()).backward()
    assert not w.has_gradient()


@pytest.mark.parametrize("change", ["update", "set_value", "scale", "zero", "clip", "table"])
def test_backward_after_a_change_without_new_forward_is_an_error(change):
    m = dy.ParameterCollection()
    w, table = m.add_parameters(2, init=1), m.add_lookup_parameters((3, 2), init=1)
    trainer = dy.SimpleSGDTrainer(m)
    loss = dy.sum_elems(dy.cmult(dy.square(w), table[0]))
    loss.backward()
    {
        "update": trainer.update,
        "set_value": lambda: w.set_value([2, 2]),
        "scale": lambda: w.scale(2),
        "zero": w.zero,
        "clip": lambda: w.clip_inplace(0, 0.5),
        "table": lambda: table.init_row(0, [2, 2]),
    }[change]()
    m.reset_gradients()
    with pytest.raises(
        RuntimeError,
        match="backward: parameters were changed after the values of this graph had been computed",
    ):
        loss.backward()
    assert not w.has_gradient()
    loss.value(recalculate=True)
    loss.backward()
    close(w.grad_as_array(), 2 * w.as_array() * table.as_array()[0])


@pytest.mark.parametrize("change", ["set_value", "scale", "zero", "storage", "row", "update"])
@pytest.mark.parametrize("autobatching", [0, 2])
def test_change_of_what_the_loss_does_not_use_is_none(change, autobatching):
    """Statistics kept in a parameter, vectors of new words, a part of the model that is trained by
    itself: all in the collection of the others."""
    m = dy.ParameterCollection()
    w, v, table = m.add_parameters(2, init=1), m.add_parameters(2), m.add_lookup_parameters((3, 2))
    trainer = dy.SimpleSGDTrainer(m)
    dy.renew_cg(autobatching=autobatching)
    rows = dy.sum_batches(dy.sum_elems(dy.lookup_batch(table, [2, 0])))
    loss = dy.sum_elems(dy.cmult(dy.square(w), table[0])) + rows * 0
    other = dy.squared_norm(v)
    loss.value()
    right = 2 * table.as_array()[0]

    def storage():
        v.storage()[:] = 3
        v.changed()

    def update():
        other.backward()
        trainer.update()

    {
        "set_value": lambda: v.set_value([2, 2]),
        "scale": lambda: v.scale(2),
        "zero": v.zero,
        "storage": storage,
        "row": lambda: table.init_row(1, [2, 2]),
        "update": update,
    }[change]()
    loss.backward()
    close(w.grad_as_array(), right)
    table.init_row(2, [7, 7])  # which the loss uses
    with pytest.raises(RuntimeError, match="parameters were changed"):
        loss.backward()


def test_values_that_are_read_after_a_change_are_those_of_the_loss():
    """A word that comes up while the graph is made, with a vector of its own."""
    m = dy.ParameterCollection()
    w, table = m.add_parameters((2, 2), init=1), m.add_lookup_parameters((3, 2), init=1)
    h = w * table[1]
    h.value()
    table.init_row(0, [5, 6])
    loss = dy.dot_product(h, table[0])
    loss.backward()
    close(w.grad_as_array(), [[5, 5], [6, 6]])
    table.init_row(0, [7, 7])
    again = loss + dy.sum_elems(h)
    assert again.value() == 26  # what is computed stays
    with pytest.raises(RuntimeError, match="parameters were changed"):
        again.backward()


FORMS = (
    lambda W, v, w, row: W * v,
    lambda W, v, w, row: W * row,
    lambda W, v, w, row: dy.square(v),
    lambda W, v, w, row: dy.cmult(dy.tanh(v), w),
    lambda W, v, w, row: dy.affine_transform([w, W, dy.tanh(v)]),
    lambda W, v, w, row: dy.concatenate([v, w, row])[1:4],
)


@pytest.mark.parametrize("autobatching", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_graph_that_is_continued_after_changes(seed, autobatching):
    """Each part of a graph, before and after changes of the parameters that all of them read, gives
    what it gives by itself; a loss that depends on several parts has no gradient."""
    rng = np.random.default_rng(seed)
    m = dy.ParameterCollection()
    W, table = m.add_parameters((3, 3)), m.add_lookup_parameters((4, 3))
    vectors = [m.add_parameters(3) for _ in range(3)]
    form = FORMS[rng.integers(len(FORMS))]
    forms = [form if rng.random() < 0.7 else f for f in rng.choice(FORMS, 15)]
    parts = [
        [(f, *rng.permutation(3)[:2], int(rng.integers(4))) for f in forms[k::3]] for k in range(3)
    ]

    if seed % 2:  # equal lists of inputs
        parts[1] = parts[2] = parts[0]

    def of(part):
        made = [f(W, vectors[i], vectors[j], table[row]) for f, i, j, row in part]
        return dy.esum([dy.squared_norm(y) for y in made])

    def numbers_of(loss):
        m.reset_gradients()
        loss.backward()
        every = (W, *vectors, table)
        return [loss.value(), *(p.grad_as_array().copy() for p in every)]

    def change(k):
        numbers = np.random.default_rng([seed, k])
        for p in (W, *vectors):
            p.set_value(numbers.normal(size=p.shape()))
        table.init_from_array(numbers.normal(size=(4, 3)))

    dy.renew_cg(autobatching=autobatching)
    losses, got = [], []
    for k, part in enumerate(parts):
        change(k)
        if seed % 3 == 0:  # what is computed and reverted is no part of it
            dy.cg_checkpoint()
            of(part).value()
            change(k + 3)
            of(part).value()
            dy.cg_revert()
            change(k)
        losses.append(of(part))
        got.append(numbers_of(losses[-1]))
    for loss in (losses[0], losses[1] + losses[2]):
        with pytest.raises(RuntimeError, match="parameters were changed"):
            loss.backward()
    for k, part in enumerate(parts):
        change(k)
        dy.renew_cg(autobatching=0)
        for g, want in zip(got[k], numbers_of(of(part)), strict=True):
            close(g, want)


def test_parameters_that_backward_itself_changes_are_an_error():
    m = dy.ParameterCollection()
    w, v = m.add_parameters((3, 3)), m.add_parameters((3, 3))

    def backward(xs, y, d):
        v.set_value(np.zeros((3, 3)))
        return [d]

    f = dy.function(lambda x: x * 1, backward, lambda d: d)
    loss = dy.sum_elems(f(v * (w * dy.inputVector([1, 2, 3]))))
    with pytest.raises(RuntimeError, match="parameters were changed"):
        loss.backward()
    assert not w.has_gradient() and not v.has_gradient()


@pytest.mark.parametrize("used", ["not at all", "in the graph", "in the loss", "as a constant"])
def test_change_of_another_model_matters_where_the_loss_depends_on_it(used):
    m, other = dy.ParameterCollection(), dy.ParameterCollection()
    w, v = m.add_parameters(2, init=1), other.add_parameters(2, init=1)
    loss = dy.sum_elems(dy.square(w))
    if used == "in the graph":
        dy.dot_product(v, w).forward()
    elif used == "in the loss":
        loss = dy.cmult(loss, dy.dot_product(v, w))
    elif used == "as a constant":
        loss = dy.cmult(loss, dy.sum_elems(v.expr()))
    loss.forward()
    v.set_value([5, 5])
    if used in ("in the loss", "as a constant"):
        with pytest.raises(RuntimeError, match="parameters were changed"):
            loss.backward()
    else:
        loss.backward()
        assert w.grad_as_array().tolist() == [2, 2]


# ---- constants and frozen parameters ---------------------------------------------------


def test_parameter_as_constant_and_as_variable_in_one_graph():
    w = dy.ParameterCollection().add_parameters(2, init=3)
    dy.dot_product(w.expr(), w.expr(True)).backward()
    assert w.grad_as_array().tolist() == [3, 3]


@pytest.mark.parametrize("full", [False, True])
def test_frozen_parameter_gathers_nothing(full):
    m = dy.ParameterCollection()
    w, v, table = (
        m.add_parameters(2, init=3),
        m.add_parameters(2, init=1),
        m.add_lookup_parameters((3, 2), init=2),
    )
    for p in (w, table):
        p.set_updated(False)
    dy.esum([dy.dot_product(w, v), dy.sum_elems(table[1]), dy.sum_elems(table)]).backward(full=full)
    assert not w.has_gradient() and not table.has_gradient()
    assert np.abs(w.grad_as_array()).max() == np.abs(table.grad_as_array()).max() == 0
    assert v.grad_as_array().tolist() == [3, 3]
    close(dy.SimpleSGDTrainer(m).gradient_norm(), np.sqrt(18))


def test_parameter_frozen_between_forward_and_backward():
    w = dy.ParameterCollection().add_parameters((2, 2), init=3)
    loss = dy.sum_elems(w * dy.ones(2))
    loss.forward()
    w.set_updated(False)
    loss.backward()
    assert not w.has_gradient()
    w.set_updated(True)
    loss.backward()
    assert w.grad_as_array().tolist() == [[1, 1], [1, 1]]


def test_lookup_without_update_gathers_nothing():
    table = dy.ParameterCollection().add_lookup_parameters((3, 2), init=2)
    dy.esum([dy.sum_elems(dy.lookup(table, 0, update=False)), dy.sum_elems(table[1])]).backward()
    assert table.touched_rows().tolist() == [1]
    dy.sum_elems(dy.sum_batches(dy.lookup_batch(table, [0, 2], update=False))).backward(full=True)
    assert table.touched_rows().tolist() == [1]


def test_empty_batches_give_gradients_of_zero():
    m = dy.ParameterCollection()
    w, W = m.add_parameters(4, init=1), m.add_parameters((4, 4), init=1)
    dy.tanh(dy.ones(5000) * float("nan")).forward()  # memory that is not zero
    x = dy.zeros(4, batch_size=0)
    losses = [
        dy.dot_product(w * 1, x),
        dy.sum_elems(W * x),
        dy.sum_elems(dy.esum([w * 1, x])),
        dy.squared_distance(x, w * 1),
        dy.sum_elems(dy.concatenate([w * 1, x])),
        dy.pickneglogsoftmax_batch(w * 1, []),
        dy.sum_elems(dy.affine_transform([w * 1, W, x])),
    ]
    for loss in losses:
        dy.sum_batches(loss).backward()
        assert np.array_equal(w.grad_as_array(), np.zeros(4)) and np.array_equal(
            W.grad_as_array(), np.zeros((4, 4))
        )
        w.clear_gradient()
        W.clear_gradient()


# ---- products of one matrix are put off ------------------------------------------------


def test_deferred_gradient_of_a_matrix_used_by_many_nodes(rng):
    W = dy.ParameterCollection().add_parameters((5, 3))
    xs = [rng.normal(size=(3, n)) for n in (1, 4, 2, 7, 1)]
    gs = [rng.normal(size=(5, n)) for n in (1, 4, 2, 7, 1)]
    dy.esum(
        [
            dy.dot_product(W * dy.inputTensor(x), dy.inputTensor(g))
            for x, g in zip(xs, gs, strict=True)
        ]
    ).backward()
    close(W.grad_as_array(), sum(g @ x.T for x, g in zip(xs, gs, strict=True)))
    close(W.gradient(), W.grad_as_array())


def test_deferred_gradient_through_a_computed_matrix(rng):
    m = dy.ParameterCollection()
    A, B = m.add_parameters((5, 2)), m.add_parameters((2, 3))
    W = A * B
    xs, gs = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    dy.esum(
        [
            dy.dot_product(W * dy.inputVector(x), dy.inputVector(g))
            for x, g in zip(xs.T, gs.T, strict=True)
        ]
    ).backward()
    dW = gs @ xs.T
    close(W.gradient(), dW)
    close(A.grad_as_array(), dW @ B.as_array().T)
    close(B.grad_as_array(), A.as_array().T @ dW)


def test_deferred_gradient_through_a_transposed_parameter(rng):
    P = dy.ParameterCollection().add_parameters((3, 5))
    T = dy.transpose(P)
    xs, gs = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    dy.esum(
        [
            dy.dot_product(T * dy.inputVector(x), dy.inputVector(g))
            for x, g in zip(xs.T, gs.T, strict=True)
        ]
    ).backward()
    close(P.grad_as_array(), (gs @ xs.T).T)


def test_deferred_gradient_of_a_matrix_used_elementwise_too(rng):
    W = dy.ParameterCollection().add_parameters((4, 4))
    x, g, c = rng.normal(size=4), rng.normal(size=4), rng.normal(size=(4, 4))
    first = dy.dot_product(W, dy.inputTensor(c))
    product = dy.dot_product(W * dy.inputVector(x), dy.inputVector(g))
    last = dy.sum_elems(dy.square(W))
    chained = dy.dot_product(W * (W * dy.inputVector(x)), dy.inputVector(g))
    w = W.as_array()
    dy.esum([first, product, last, chained]).backward()
    close(
        W.grad_as_array(),
        c + np.outer(g, x) + 2 * w + np.outer(g, w @ x) + np.outer(w.T @ g, x),
        1e-4,
    )


def test_deferred_gradient_over_batches(rng):
    m = dy.ParameterCollection()
    W, b = m.add_parameters((4, 3)), m.add_parameters(4, init=0)
    x, g = rng.normal(size=(3, 2, 5)), rng.normal(size=(4, 2, 5))
    y = dy.affine_transform([b, W, dy.inputTensor(x, batched=True)])
    dy.sum_batches(dy.dot_product(y, dy.inputTensor(g, batched=True))).backward()
    close(W.grad_as_array(), np.einsum("inb,jnb->ij", g, x))
    close(b.grad_as_array(), g.sum(axis=(1, 2)))


@pytest.mark.parametrize(
    ("size", "batch"), [(4, 5), (128, 400)], ids=["kept", "too large to be kept"]
)
def test_deferred_gradients_of_matrices_that_share_outputs_and_inputs(rng, size, batch):
    gates, times = 6, 3  # more lists of columns than are kept
    m = dy.ParameterCollection()
    b = m.add_parameters(size, init=0)
    L, R = ([m.add_parameters((size, size)) for _ in range(gates)] for _ in range(2))
    xs, zs, gs = (
        rng.normal(size=shape)
        for shape in ((times, size, batch), (times, size, batch), (gates, times, size, batch))
    )
    losses = []
    for t in range(times):
        x, z = dy.inputTensor(xs[t], batched=True), dy.inputTensor(zs[t], batched=True)
        for k in range(gates):
            y = dy.affine_transform([b, L[k], x, R[k], z])
            losses.append(dy.sum_batches(dy.dot_product(y, dy.inputTensor(gs[k, t], batched=True))))
    loss = dy.esum(losses)
    for again in (1, 2):  # the second backward of a graph begins anew
        loss.backward()
        for k in range(gates):
            close(
                L[k].grad_as_array(),
                again * np.einsum("tib,tjb->ij", gs[k], xs, optimize=True),
                1e-3,
            )
            close(
                R[k].grad_as_array(),
                again * np.einsum("tib,tjb->ij", gs[k], zs, optimize=True),
                1e-3,
            )


@pytest.mark.parametrize("seed", range(30))
def test_deferred_gradients_of_columns_of_any_width(seed):
    """Columns that are wide enough are multiplied by themselves, others side by side: from 64 on,
    from more on with larger matrices. So one list of columns is parted in other ways for matrices
    of other sizes."""
    rng = np.random.default_rng(seed)
    m = dy.ParameterCollection()
    rows = int(rng.choice([3, 64, 200, 300]))
    sizes = rng.choice([2, 65, 100, 300], 2)
    matrices = [m.add_parameters((rows, int(k))) for k in sizes]
    want = [np.zeros((rows, k)) for k in sizes]
    losses = []
    for width in rng.choice([1, 3, 63, 64, 65, 66, 67, 80, 119, 120, 121, 150], 4):
        g, *xs = (rng.normal(size=(k, width)) for k in (rows, *sizes))
        pairs = zip(matrices, [dy.inputTensor(x, batched=True) for x in xs], strict=True)
        y = dy.affine_transform([dy.zeros(rows), *(e for pair in pairs for e in pair)])
        losses.append(dy.sum_batches(dy.dot_product(y, dy.inputTensor(g, batched=True))))
        for total, x in zip(want, xs, strict=True):
            total += g @ x.T
    dy.esum(losses).backward()
    for p, total in zip(matrices, want, strict=True):
        close(p.grad_as_array(), total, 1e-3)


def test_gradient_of_a_batched_matrix(rng):
    W = dy.ParameterCollection().add_parameters((4, 3))
    scale, x, g = rng.normal(size=5), rng.normal(size=(3, 2)), rng.normal(size=(4, 2, 5))
    batched = dy.cmult(W, dy.inputTensor(scale[None], batched=True))
    dy.sum_batches(
        dy.dot_product(batched * dy.inputTensor(x), dy.inputTensor(g, batched=True))
    ).backward()
    close(W.grad_as_array(), np.einsum("b,inb,jn->ij", scale, g, x))
    close(batched.gradient(), np.einsum("inb,jn->ijb", g, x))


def test_deferred_gradients_add_to_earlier_ones(rng):
    W = dy.ParameterCollection().add_parameters((4, 3))
    total = np.zeros((4, 3))
    for _ in range(3):
        dy.renew_cg()
        x, g = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
        dy.esum(
            [dy.dot_product(W * dy.inputVector(x[:, j]), dy.inputVector(g[:, j])) for j in range(2)]
        ).backward()
        total += g @ x.T
        close(W.gradient(), g @ x.T)
    close(W.grad_as_array(), total)


# ---- parameters that die ---------------------------------------------------------------


def test_expressions_outlive_their_collection():
    w = dy.ParameterCollection().add_parameters(1000, init=2)
    table = dy.ParameterCollection().add_lookup_parameters((5, 1000), init=3)
    loss = dy.dot_product(w, table[2])
    half = w * 0.5
    del w, table
    gc.collect()
    [dy.ParameterCollection().add_parameters(1000, init=7) for _ in range(20)]
    assert loss.value() == 6000
    loss.backward()
    assert half.value() == [1] * 1000
    dy.renew_cg()
    with pytest.raises(RuntimeError, match="Stale"):
        half.value()


def test_trainer_and_builder_keep_what_they_need():
    m = dy.ParameterCollection()
    trainer, lstm = dy.AdamTrainer(m), dy.VanillaLSTMBuilder(2, 3, 4, m)
    network = dy.BiRNNBuilder(1, 3, 4, m.add_subcollection("b"), dy.VanillaLSTMBuilder)
    del m
    gc.collect()
    before = lstm.get_parameters()[0][0].as_array()
    for _ in range(3):
        dy.renew_cg()
        xs = [dy.inputVector([1, 2, 3])] * 2
        dy.sum_elems(lstm.initial_state().transduce(xs)[-1] + network.transduce(xs)[0]).backward()
        trainer.update()
    assert np.abs(lstm.get_parameters()[0][0].as_array() - before).max() > 1e-4


def test_storage_outlives_its_parameter():
    views = [
        dy.ParameterCollection().add_parameters(100_000, init=i).storage() for i in range(1, 5)
    ]
    views.append(dy.ParameterCollection().add_lookup_parameters((10, 10_000), init=5).storage())
    gc.collect()
    [dy.ParameterCollection().add_parameters(100_000, init=9) for _ in range(5)]
    assert [(v.min(), v.max()) for v in views] == [(i, i) for i in range(1, 6)]


def test_parameters_dying_in_many_orders_never_crash():
    code = """
import gc, random, dist_dynet as dy
random.seed(3)
held = []
for step in range(800):
    m = dy.ParameterCollection()
    w, t, s = m.add_parameters((8, 8)), m.add_lookup_parameters((9, 8)), m.add_subcollection("s")
    l = dy.VanillaLSTMBuilder(1, 8, 8, s)
    trainer = dy.SimpleSGDTrainer(random.choice([m, s]))
    if random.random() < 0.3: dy.renew_cg()
    if random.random() < 0.2: dy.cg_checkpoint()
    h = l.initial_state().transduce([t[1], w * t[3]])[-1]
    loss = dy.sum_elems(h)
    held += random.sample([m, w, t, l, h, loss, trainer, w.expr(True), s.parameters_list()], 4)
    del m, w, t, s, l
    if random.random() < 0.2: gc.collect()
    try: loss.backward(); trainer.update()
    except RuntimeError as error:
     assert "parameters were changed" in str(error), error  # by an older trainer
    del trainer, h, loss
    if random.random() < 0.2: dy.cg_revert()
    random.shuffle(held)
    del held[30:]
    for e in held:
        try:
            if isinstance(e, dy.Expression): e.value()
            elif isinstance(e, dy.Trainer): e.update()
        except RuntimeError as error: assert "Stale" in str(error), error
print("alive")
"""
    assert output_of(code) == "alive\n"


def test_parameter_of_another_thread_dies_while_a_graph_holds_it():
    made = []
    thread = threading.Thread(
        target=lambda: made.append(
            dy.sum_elems(dy.ParameterCollection().add_parameters(500, init=2) * 2)
        )
    )
    thread.start()
    thread.join()
    gc.collect()
    with pytest.raises(RuntimeError, match="Stale"):
        made[0].value()


def test_parameters_below_what_sends_no_gradient_have_none():
    flags = {name: lib.dn_op_flags(code) for name, code in OPS.items()}
    silent = {n for n, f in flags.items() if f & lib.DN_NO_GRAD and not f & lib.DN_LEAF}
    assert silent == {"crf_viterbi", "nobackprop", "sample_categorical"}
    m = dy.ParameterCollection()
    w, v = m.add_parameters(4), m.add_parameters(1, init=2)
    for f in (dy.nobackprop, dy.sample_categorical):
        for below in (lambda: w, lambda: w + 0):
            dy.renew_cg()
            dy.sum_elems(v * dy.transpose(f(below()))).backward()
            assert (w.has_gradient(), v.has_gradient()) == (False, True), f
            m.reset_gradients()
