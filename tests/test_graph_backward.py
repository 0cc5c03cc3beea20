"""Backward: what it refuses, what parameters gather, parameters that die.

How long: about three seconds.
"""

import gc
import threading

import numpy as np
import pytest
from processes import output_of
from test_graph import close

import dist_dynet as dy
from dist_dynet._ffi import OPS, lib

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
