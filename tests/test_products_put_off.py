"""Products of one matrix, and others that backward puts off: the gradients are those of sums in
NumPy."""

import numpy as np
import pytest
from test_graph import close

import dist_dynet as dy


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
