"""Tables of many dims, rows, initialisers, freezing, lifetime of collections and trainers."""

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet._ffi import DTYPE

# ---- tables ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3), (3, 2, 3, 2), (2, 1, 2, 1, 2, 1, 2)])
def test_tables_of_many_dims(shape, rng):
    values = rng.normal(size=shape).astype(DTYPE)
    m = dy.ParameterCollection()
    table = m.lookup_parameters_from_numpy(values)
    same = m.add_lookup_parameters(shape, init=values)
    filled = m.add_lookup_parameters(shape)
    filled.init_from_array(values)
    by_row = m.add_lookup_parameters(shape, init=0)
    for i, row in enumerate(values):
        by_row.init_row(i, row.ravel(order="F"))
    for t in (table, same, filled, by_row):
        assert t.shape() == shape and len(t) == shape[0]
        assert (t.as_array() == values).all()
        assert (t.row_as_array(1) == values[1]).all() and (
            t.rows_as_array([1, 0, 1]) == values[[1, 0, 1]]
        ).all()
        dy.renew_cg()
        assert (t[1].npvalue() == values[1]).all()
        assert (np.moveaxis(t.batch([1, 0]).npvalue(), -1, 0) == values[[1, 0]]).all()


def test_gradients_of_rows(rng):
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((6, 2, 3))
    weights = rng.normal(size=(2, 2, 3)).astype(DTYPE)
    dy.renew_cg()
    dy.esum(
        [dy.dot_product(table[i], dy.inputTensor(w)) for i, w in zip((4, 1), weights, strict=True)]
    ).backward()
    assert (table.row_grad_as_array(4) == weights[0]).all()
    assert (
        table.rows_grad_as_array([0, 1, 4, 1])
        == np.stack([np.zeros((2, 3)), weights[1], weights[0], weights[1]])
    ).all()
    assert (table.rows_grad_as_array(range(6)) == table.grad_as_array()).all()
    assert table.rows_grad_as_array([]).shape == (0, 2, 3)


def test_rows_out_of_range_are_refused():
    table = dy.ParameterCollection().add_lookup_parameters((3, 2))
    for call in (
        table.row_as_array,
        table.row_grad_as_array,
        lambda i: table.init_row(i, [1, 2]),
        lambda i: table.rows_as_array([0, i]),
    ):
        for i in (-1, 3, 1 << 40):
            with pytest.raises(ValueError, match="outside the table of 3 rows"):
                call(i)
    with pytest.raises(ValueError, match="2 numbers"):
        table.init_row(0, [1])
    for wrong in (np.zeros((4, 2)), np.zeros((2, 3)), np.zeros(2), 1.0):
        with pytest.raises(ValueError, match="init_from_array"):
            table.init_from_array(wrong)
    for wrong in (np.zeros(()), np.zeros((0, 2)), np.zeros((1,) * 8)):
        with pytest.raises(ValueError, match="lookup_parameters_from_numpy"):
            dy.ParameterCollection().lookup_parameters_from_numpy(wrong)


def test_parameters_from_arrays_of_any_order_and_type(rng):
    m = dy.ParameterCollection()
    a = rng.normal(size=(4, 6)).astype(DTYPE)
    for array in (
        a,
        np.asfortranarray(a),
        a[::2, ::-3],
        a.T,
        a.astype(np.float64),
        (10 * a).astype(np.int64),
    ):
        assert (m.parameters_from_numpy(array).as_array() == array).all()
        assert (m.lookup_parameters_from_numpy(array).as_array() == array).all()
    assert m.parameters_from_numpy([[1, 2, 3]]).as_array().tolist() == [[1, 2, 3]]


# ---- initialisers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "fan_in"),
    [((300, 200), 200), ((40_000,), 40_000), ((10, 8, 9, 60), 720), ((50, 20, 30), 600)],
)
def test_he_initializer_has_variance_2_over_fan_in(dims, fan_in):
    m = dy.ParameterCollection()
    a = m.add_parameters(dims, init=dy.HeInitializer()).as_array()
    assert abs(a.var() / (2 / fan_in) - 1) < 0.05 and abs(a.mean()) < 4 * np.sqrt(
        2 / fan_in / a.size
    )
    assert (
        abs(
            m.add_parameters(dims, init=dy.HeInitializer(gain=2)).as_array().var() / (8 / fan_in)
            - 1
        )
        < 0.05
    )


def test_he_as_a_word_is_the_formula_of_dynet():
    a = dy.ParameterCollection().add_parameters((300, 200), init="he").as_array()
    assert abs(a.var() * 2 * 200 - 1) < 0.05


def test_he_initializer_refuses_tables():
    with pytest.raises(ValueError, match="lookup"):
        dy.ParameterCollection().add_lookup_parameters((3, 2), init=dy.HeInitializer())


# ---- freezing --------------------------------------------------------------------------


def frozen_and_free():
    m = dy.ParameterCollection()
    return (
        m,
        m.add_parameters((2, 2), init=1),
        m.add_lookup_parameters((50, 2), init=1),
        m.add_parameters(2, init=1),
    )


def loss_of(W, E, b, row=3):
    dy.renew_cg()
    return dy.sum_elems(W * E[row] + b)


@pytest.mark.parametrize("full", [False, True])
def test_frozen_parameters_gather_nothing_and_do_not_count(full):
    m, W, E, b = frozen_and_free()
    W.set_updated(False)
    E.set_updated(False)
    trainer = dy.SimpleSGDTrainer(m, 1.0)
    loss_of(W, E, b).backward(full=full)
    assert not W.has_gradient() and not E.has_gradient() and not E.touched_rows().size
    assert abs(trainer.gradient_norm() - np.sqrt(2)) < 1e-6
    trainer.update()
    assert (W.as_array() == 1).all() and (E.as_array() == 1).all() and (b.as_array() == 0).all()
    assert (W.is_updated(), E.is_updated(), b.is_updated()) == (False, False, True)


def test_freezing_drops_what_is_pending_and_thawing_continues():
    m, W, E, b = frozen_and_free()
    trainer = dy.MomentumSGDTrainer(m, 0.1, 0.5)
    loss_of(W, E, b).backward()
    trainer.update()
    moved = W.as_array(), E.as_array()
    loss_of(W, E, b).backward()
    W.set_updated(False)
    E.set_updated(False)
    assert not W.has_gradient() and not E.has_gradient() and b.has_gradient()
    m.set_weight_decay(0.1)
    trainer.update()  # neither momentum nor decay moves them
    assert (W.as_array() == moved[0]).all() and (E.as_array() == moved[1]).all()
    W.set_updated(True)
    loss_of(W, E, b).backward()
    trainer.update()
    assert not (W.as_array() == moved[0]).any() and (E.as_array() == moved[1]).all()


def test_what_lies_below_frozen_parameters_still_learns():
    _, W, E, b = frozen_and_free()
    W.set_updated(False)
    loss_of(W, E, b).backward()
    assert E.row_grad_as_array(3).tolist() == [2, 2]


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the size of the process from /proc"
)
def test_training_with_frozen_parameters_does_not_grow():
    m, W, E, b = frozen_and_free()
    big = m.add_lookup_parameters((200_000, 32), init=0)
    dense = m.add_parameters((1000, 1000), init=0)
    for p in (big, dense, E):
        p.set_updated(False)
    trainer = dy.AdamTrainer(m)

    def step(i):
        dy.renew_cg()
        loss = (
            dy.sum_elems(W * E[i % 50] + b)
            + dy.sum_elems(big[i * 37 % 200_000])
            + dy.sum_elems(dy.pick(dense, i % 1000))
        )
        loss.backward()
        trainer.update()

    for i in range(50):
        step(i)
    before = resident()
    for i in range(3000):
        step(i)
    assert resident() - before < 2e6


# ---- lifetime --------------------------------------------------------------------------


def test_a_trainer_keeps_its_collection():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=1)
    trainer = dy.SimpleSGDTrainer(m.add_subcollection("sub"), 1.0)
    v = trainer.collection.add_parameters(1, init=1)
    gone = weakref.ref(m)
    del m
    gc.collect()
    dy.renew_cg()
    (w + v).backward()
    trainer.update()
    assert v.as_array().tolist() == [0] and w.as_array().tolist() == [1] and gone() is not None
    del trainer, w, v
    gc.collect()
    assert gone() is None


def test_parameters_and_graphs_outlive_collection_and_trainer():
    def made():
        m = dy.ParameterCollection()
        w = m.add_parameters(3, init=2)
        dy.AdamTrainer(m).update()
        return w, dy.sum_elems(w)

    dy.renew_cg()
    w, e = made()
    gc.collect()
    assert e.value() == 6 and w.as_array().tolist() == [2, 2, 2]
    del w
    gc.collect()
    e.backward()
    assert e.value() == 6


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the size of the process from /proc"
)
@pytest.mark.parametrize(
    "make", [dy.SimpleSGDTrainer, dy.AdamTrainer, dy.AmsgradTrainer, dy.CyclicalSGDTrainer]
)
def test_ten_thousand_models_made_trained_and_dropped_do_not_grow_memory(make):
    def life(i):
        m = dy.ParameterCollection()
        W, b, E = (
            m.add_parameters((4, 4)),
            m.add_subcollection("s").add_parameters(4),
            m.add_lookup_parameters((10, 4)),
        )
        trainer = make(m)
        average = dy.MovingAverage(trainer) if i % 2 else None
        dy.renew_cg()
        dy.sum_elems(W * E[i % 10] + b).backward()
        trainer.update()
        return average

    gc.collect()
    gc.disable()  # nothing must wait for the collector of cycles
    try:
        for i in range(500):
            life(i)
        before = resident()
        for i in range(10_000):
            life(i)
        assert resident() - before < 2e6
    finally:
        gc.enable()


# ---- gradients by hand -----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("is_table", [False, True])
def test_set_gradient_is_what_the_update_takes(shape, is_table, rng):
    m = dy.ParameterCollection()
    p = m.add_lookup_parameters((5, *shape)) if is_table else m.add_parameters(shape)
    trainer = dy.SimpleSGDTrainer(m, 0.5)
    trainer.set_clip_threshold(0)
    gradient = rng.normal(size=p.shape())
    if is_table:
        gradient[[0, 3]] = 0
    before = p.as_array()
    dy.renew_cg()
    dy.sum_elems(dy.square(p[1] if is_table else p)).backward()  # is replaced
    p.set_gradient(gradient)
    np.testing.assert_allclose(p.grad_as_array(), gradient, rtol=1e-6)
    if is_table:
        assert sorted(p.touched_rows().tolist()) == [1, 2, 4]
    dy.renew_cg()
    (dy.sum_elems(p[1]) if is_table else dy.sum_elems(p)).backward()  # is added
    trainer.update()
    one = np.zeros(p.shape())
    one[1 if is_table else ...] = 1
    np.testing.assert_allclose(p.as_array(), before - 0.5 * (gradient + one), rtol=1e-5, atol=1e-6)
    assert not p.has_gradient()


def test_set_gradient_refuses_another_shape_and_leaves_frozen_parameters():
    m = dy.ParameterCollection()
    W, E = m.add_parameters((2, 3)), m.add_lookup_parameters((4, 2))
    for p, words in (
        (W, r"got array \(6,\), parameter \(2, 3\)"),
        (E, r"got array \(6,\), parameter \(4, 2\)"),
    ):
        with pytest.raises(
            ValueError, match="set_gradient: the array must have the parameter's shape; " + words
        ):
            p.set_gradient(np.ones(6))
        p.set_updated(False)
        p.set_gradient(np.ones(p.shape()))
        assert not p.has_gradient()


# ---- parameters as expressions ---------------------------------------------------------

OF_ONE = {
    "a function": lambda x: dy.tanh(x),
    "of two": lambda x: x + x,
    "with a number": lambda x: x * 2,
    "with a dim": lambda x: dy.softmax(x),
    "with floats": lambda x: dy.elu(x, 0.5),
    "an index": lambda x: x[1],
    "an index from the end": lambda x: x[-1],
    "a slice": lambda x: x[0:2],
    "picked": lambda x: dy.pick(x, 1),
    "a list": lambda x: dy.esum([x, x]),
    "a list and a number": lambda x: dy.concatenate([x, x]),
    "ints": lambda x: dy.reshape(x, (1, 3)),
    "a list of any length": lambda x: dy.emax([x, x]),
    "ints and floats": lambda x: dy.hinge(x, 0, 0.5),
}


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("make", OF_ONE.values(), ids=OF_ONE)
def test_parameters_alone_make_nodes_of_the_current_graph(make, in_thread):
    p = dy.ParameterCollection().parameters_from_numpy([1, 2, 3])
    read = []

    def run():  # in a new thread: before it has a graph
        made = make(p)
        dy.squared_norm(made).backward()
        read.append((made.npvalue(), make(dy.inputVector([1, 2, 3])).npvalue(), made.index()))

    if in_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        dy.renew_cg()
        run()
    value, expected, index = read[0]
    assert value.tolist() == expected.tolist()
    assert index == 1  # after the parameter's own
    assert p.grad_as_array().any()


@pytest.mark.parametrize("call", ["add_gradients", "rows_as_array", "rows_grad_as_array"])
def test_rows_of_a_table_are_checked_alike(call):
    table = dy.ParameterCollection().add_lookup_parameters((3, 2))
    table.init_from_array(np.arange(6).reshape(3, 2))

    def called(rows):
        if call == "add_gradients":
            return table.add_gradients(rows, np.ones((len(rows), 2)))
        return getattr(table, call)(rows)

    for outside in ([0, 3], np.array([0, 3]), np.array([-1]), np.array([2**32]), [2**32], [-1]):
        with pytest.raises(ValueError, match=f"^{call}: row .* is outside the table of 3 rows"):
            called(outside)
    for wrong in ([0.5], np.array([0.5]), ["1"], np.array([True, False])):
        with pytest.raises(TypeError, match=f"^{call}: row must be an integer"):
            called(wrong)
    assert not len(table.touched_rows())
    for right in ([2, 0], np.array([2, 0]), np.array([2.0, 0.0]), np.array([2, 9, 0])[::2], []):
        for kind in (list, np.array):
            got = called(kind(right))
            if call == "rows_as_array":
                assert got.tolist() == [[2.0 * i, 2.0 * i + 1] for i in right]
