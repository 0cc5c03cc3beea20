"""gradient(): what it shows after backward(), and when it is an error."""

import threading

import numpy as np
import pytest
from test_graph import close

import dist_dynet as dy
from dist_dynet._ffi import ffi, lib


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
