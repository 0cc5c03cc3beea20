"""Joined nodes (csrc/schedule/batched_gemm.h) give what the same nodes give one by one.

Immediate mode computes each node when it is made: nothing is joined there.
"""

import itertools

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet._ffi import ffi, lib

TOLERANCE = 1e-5


@pytest.fixture
def model():
    m = dy.ParameterCollection()
    return (
        m,
        m.add_parameters((37, 20), name="W"),
        m.add_parameters(37, name="b"),
        m.add_lookup_parameters((9, 20)),
    )


def inputs(E, batch=1):
    """Five known vectors before any product: rows, and a function of rows."""
    rows = [dy.lookup_batch(E, [(i + k) % 9 for k in range(batch)]) for i in range(5)]
    return [*rows[:3], dy.tanh(rows[3] + rows[4]), rows[0]]


def losses(kind, W, b, xs):
    if kind == "affine":
        ys = [dy.affine_transform([b, W, x]) for x in xs]
    elif kind == "matmul":
        ys = [W * x for x in xs]
    else:  # a matrix that is computed, and the loss uses some of the products twice
        V = dy.transpose(dy.transpose(W) * 0.5)
        ys = [V * x for x in xs]
    return ys, [
        dy.sum_batches(dy.pickneglogsoftmax_batch(y, [k] * y.dim()[1])) for k, y in enumerate(ys)
    ]


def run(model, kind, batch, immediate, used=None):
    m, W, b, E = model
    m.reset_gradients()
    dy.renew_cg(immediate_compute=immediate)
    ys, parts = losses(kind, W, b, inputs(E, batch))
    loss = dy.esum([p for k, p in enumerate(parts) if used is None or k in used])
    value = loss.value()
    loss.backward()
    return [
        value,
        *(y.npvalue() for y in ys),
        *(y.gradient() for y in ys),
        *(p.grad_as_array() for p in (W, b, E)),
    ]


def assert_equal(a, b, tolerance=TOLERANCE):
    """Sums have errors of the size of their greatest terms, also where these cancel."""
    for x, y in zip(a, b, strict=True):
        size = np.abs(np.nan_to_num(y, posinf=0, neginf=0)).max(initial=1)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["affine", "matmul", "computed"])
def test_join_equals_one_by_one(model, kind, batch):
    assert_equal(run(model, kind, batch, True), run(model, kind, batch, False))


@pytest.mark.parametrize("used", [{0}, {4}, {1, 3}])
def test_join_with_unused_members_equals_one_by_one(model, used):
    assert_equal(run(model, "affine", 1, True, used), run(model, "affine", 1, False, used))


def test_join_waits_for_nothing_that_is_not_known(model):
    m, W, b, E = model
    P = m.add_parameters((20, 37))

    def chain(immediate):
        m.reset_gradients()
        dy.renew_cg(immediate_compute=immediate)
        x, total = E[0], []
        for _ in range(4):  # each product needs the one before
            y = dy.tanh(W * x + b)
            x = dy.tanh(P * y)
            total.append(dy.sum_elems(x))
        loss = dy.esum(total)
        loss.backward()
        return [loss.value(), W.grad_as_array(), P.grad_as_array()]

    assert_equal(chain(True), chain(False))


def test_join_keeps_to_what_was_asked_for(model):
    _, W, _, E = model
    dy.renew_cg()
    xs = [E[0], E[1], E[2]]
    ys = [W * x for x in xs]
    first = ys[0].npvalue()  # the others are not computed yet
    E.init_row(1, [1.0] * 20)
    np.testing.assert_allclose(ys[0].npvalue(), first)
    np.testing.assert_allclose(
        ys[2].npvalue(), W.as_array() @ E.row_as_array(2), rtol=1e-4, atol=1e-5
    )


def test_join_after_set_is_computed_anew(model):
    _, W, _, _ = model
    dy.renew_cg()
    xs = [dy.inputVector([float(i)] * 20) for i in range(3)]
    ys = [W * x for x in xs]
    dy.forward(ys)
    xs[1].set([5.0] * 20)
    for x, y in zip(xs, ys, strict=True):
        np.testing.assert_allclose(y.npvalue(), W.as_array() @ x.npvalue(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["product of a product", "traced call of a traced call"])
@pytest.mark.parametrize("values", ["as they were", "changed"])
def test_chain_that_was_computed_before_is_computed_anew_from_its_beginning(kind, values, rng):
    m = dy.ParameterCollection()
    V, W, E = m.add_parameters((2, 3)), m.add_parameters((3, 3)), m.add_lookup_parameters((5, 3))
    cell = dy.traced(lambda x, y: dy.cmult(dy.tanh(W * x), dy.logistic(y)))
    early, late = rng.normal(size=3), rng.normal(size=3)

    def graph(x, row):
        m.reset_gradients()
        dy.renew_cg()
        known = dy.inputVector(x)
        product = V * known  # is joined with that of the loss, for which the chain is computed
        looked_up = E[row]
        first = dy.tanh(looked_up)
        if kind == "product of a product":
            last = W * (W * first)
        else:
            last = cell(known, cell(first, first))
        return known, looked_up, product, last

    def results(product, last):
        loss = dy.sum_elems(V * last) + dy.sum_elems(product)
        value = loss.value()
        loss.backward()
        return [value, last.npvalue(), *(p.grad_as_array() for p in (V, W, E))]

    known, looked_up, product, last = graph(early, 2)
    last.npvalue()
    x, row = (early, 2) if values == "as they were" else (late, 4)
    known.set(x)
    looked_up.set(row)
    found = results(product, last)
    wanted = results(*graph(x, row)[2:])
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=1e-7)


def test_join_over_a_checkpoint_is_computed_anew(model):
    m, W, _, E = model
    dy.renew_cg()
    xs = [E[i] for i in range(4)]
    kept = [W * x for x in xs[:2]]
    for evaluate_before in (False, True):
        if evaluate_before:
            dy.forward(kept)
        dy.cg_checkpoint()
        dropped = [W * x for x in xs]
        dy.forward(dropped)
        dy.cg_revert()
        again = [W * x for x in xs[2:]]
        m.reset_gradients()
        loss = dy.esum([dy.sum_elems(dy.square(y)) for y in (*kept, *again)])
        loss.backward()
        X = np.stack([E.row_as_array(i) for i in range(4)], axis=1)
        np.testing.assert_allclose(
            W.grad_as_array(), 2 * W.as_array() @ X @ X.T, rtol=1e-4, atol=1e-5
        )


def test_join_does_not_mix_other_dims_or_weights(model):
    m, W, _, E = model
    V = m.add_parameters((37, 20))
    dy.renew_cg()
    wide = dy.concatenate_cols([E[0], E[1]])
    batch = dy.lookup_batch(E, [2, 3])
    exprs = [W * E[0], V * E[1], W * wide, W * batch, W * E[2], V * wide]
    dy.forward(exprs)
    expected = [
        W.as_array() @ E.row_as_array(0),
        V.as_array() @ E.row_as_array(1),
        W.as_array() @ wide.npvalue(),
        W.as_array() @ batch.npvalue(),
        W.as_array() @ E.row_as_array(2),
        V.as_array() @ wide.npvalue(),
    ]
    for e, x in zip(exprs, expected, strict=True):
        np.testing.assert_allclose(e.npvalue(), x, rtol=1e-4, atol=1e-5)


def test_join_beside_a_long_chain_equals_one_by_one(model):
    """Searches along a chain, where nothing fits, get shorter; what comes after it is found all the
    same."""
    m, _, _, E = model
    V, U = m.add_parameters((20, 20)), m.add_parameters((20, 20))

    def run(immediate):
        m.reset_gradients()
        dy.renew_cg(immediate_compute=immediate)
        ends = []
        for length, row in ((400, 0), (7, 1), (1, 2), (60, 3), (7, 4), (0, 5)):
            x = E[row]
            for _ in range(length):
                x = dy.tanh(dy.affine_transform([E[row], V, x]) + U * x)
            ends.append(x)
        loss = dy.esum([dy.squared_norm(x) for x in ends])
        loss.backward()
        return [*(x.npvalue() for x in ends), *(p.grad_as_array() for p in (V, U, E))]

    assert_equal(run(True), run(False))


def test_join_of_many_products_stays_within_memory(model):
    m, W, b, E = model
    dy.renew_cg()
    rows = [E[i % 9] for i in range(1000)]  # more columns than one product takes
    loss = dy.esum([dy.sum_elems(dy.affine_transform([b, W, x])) for x in rows])
    m.reset_gradients()
    loss.backward()
    X = sum(E.row_as_array(i % 9) for i in range(1000))
    np.testing.assert_allclose(W.grad_as_array(), np.tile(X, (37, 1)), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(b.grad_as_array(), 1000)


# ---- products whose inputs are computed ahead of their turn -----------------------------


def step_by_step(model, between, immediate, steps=6, batch=1):
    """A recurrent network with a product per step in between: (numbers of interest, whether all
    products were computed as one)."""
    m, W, b, E = model
    m.reset_gradients()
    dy.reset_random_seed(3)
    dy.renew_cg(immediate_compute=immediate)
    h = dy.inputVector([0.0] * 20)
    parts, ys = [], []
    for i in range(steps):
        x = dy.lookup_batch(E, [(i + k) % 9 for k in range(batch)])
        h = dy.tanh(x + between(h))
        ys.append(dy.affine_transform([b, W, h]))
        parts.append(dy.pickneglogsoftmax_batch(ys[-1], [i] * batch))
    loss = dy.sum_batches(dy.esum(parts))
    value = loss.value()
    at = [int(ffi.cast("uintptr_t", lib.dn_value(y._node()))) for y in ys]
    joined = {b - a for a, b in itertools.pairwise(at)} == {ffi.sizeof("dn_real") * 37 * batch}
    loss.backward()
    gradients = [p.grad_as_array() for p in (W, b, E)]
    return [value, *(y.npvalue() for y in ys), *(y.gradient() for y in ys), *gradients], joined


in_python = dy.function(lambda x: x / 2, lambda xs, y, dy: [dy / 2], lambda d: d)


BETWEEN = {
    "elementwise": lambda h: 0.5 * h,
    "dropout": lambda h: dy.dropout(h, 0.5),
    "Python": in_python,
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", BETWEEN)
def test_products_between_steps_equal_one_by_one(model, kind, batch):
    expected, _ = step_by_step(model, BETWEEN[kind], True, batch=batch)
    found, joined = step_by_step(model, BETWEEN[kind], False, batch=batch)
    assert_equal(expected, found)
    assert joined == (kind != "Python")  # which has its turn


def test_products_between_steps_that_feed_the_next_step_wait_for_it(model):
    m, W, _, _ = model
    P = m.add_parameters((20, 37))

    def between(h):
        return dy.tanh(P * dy.tanh(W * h))

    expected, _ = step_by_step(model, between, True)
    found, _ = step_by_step(model, between, False)
    assert_equal(expected, found)


def test_values_asked_for_between_steps_leave_what_follows_right(model):
    _, W, b, E = model

    def run(immediate, ask):
        dy.renew_cg(immediate_compute=immediate)
        h, ys = E[0], []
        for i in range(12):
            h = dy.tanh(E[i % 9] + 0.5 * h)
            ys.append(dy.affine_transform([b, W, h]))
            if i in ask:
                ys[i // 2].npvalue()
        loss = dy.esum([dy.squared_norm(y) for y in ys])
        model[0].reset_gradients()
        loss.backward()
        return [loss.value(), *(p.grad_as_array() for p in (W, b, E))]

    for ask in ((), (3,), (4, 9), tuple(range(12))):
        assert_equal(run(True, ()), run(False, ask))


def test_checkpoints_between_steps(model):
    """What was computed ahead belongs to the nodes that it was made with."""
    m, W, b, E = model

    def steps(h, first, n):
        ys = []
        for i in range(first, first + n):
            h = dy.tanh(E[i % 9] + 0.5 * h)
            ys.append(dy.affine_transform([b, W, h]))
        return h, ys

    dy.renew_cg()
    h, kept = steps(E[0], 0, 4)
    for evaluate_before in (False, True):
        if evaluate_before:
            dy.forward(kept)
        dy.cg_checkpoint()
        dy.forward(steps(h, 4, 5)[1])
        dy.cg_revert()
        m.reset_gradients()
        loss = dy.esum([dy.squared_norm(y) for y in (*kept, *steps(h, 4, 3)[1])])
        value = loss.value()
        loss.backward()
        found = [value, *(p.grad_as_array() for p in (W, b, E))]
    m.reset_gradients()
    dy.renew_cg(immediate_compute=True)
    _, ys = steps(E[0], 0, 7)
    loss = dy.esum([dy.squared_norm(y) for y in ys])
    loss.backward()
    assert_equal([loss.value(), *(p.grad_as_array() for p in (W, b, E))], found)
