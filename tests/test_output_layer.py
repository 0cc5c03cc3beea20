"""The gradient of a wide output layer is written in blocks of columns (csrc/backward/put_off.c):
numbers are those of backward(full=True), which writes it whole, and of NumPy.

How long: a few seconds.
"""

import numpy as np
import pytest
from processes import output_of

import dist_dynet as dy
from dist_dynet._ffi import DTYPE

WORDS, HIDDEN, COLUMNS = 5000, 8, 300  # more than one block, and more numbers than are kept whole


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture
def model(rng):
    m = dy.ParameterCollection()
    return (
        m,
        m.parameters_from_numpy(rng.normal(size=(WORDS, HIDDEN)), name="W"),
        m.parameters_from_numpy(rng.normal(size=WORDS), name="b"),
        m.lookup_parameters_from_numpy(rng.normal(size=(50, HIDDEN)), name="E"),
    )


def ids(first, n):
    return [(7 * i + first) % 50 for i in range(n)]


def one_batch(model, picked=None):
    """One product of all columns."""
    _, W, b, E = model
    x = dy.tanh(dy.lookup_batch(E, ids(0, COLUMNS)))
    y = dy.affine_transform([b, W, x])
    return [x, y], dy.pickneglogsoftmax_batch(y, ids(3, COLUMNS))


def many_products(model, picked=range(6)):
    """Joined products, each with a loss."""
    _, W, b, E = model
    xs = [dy.tanh(dy.lookup_batch(E, ids(i, COLUMNS // 6))) for i in range(6)]
    ys = [dy.affine_transform([b, W, x]) for x in xs]
    losses = [dy.pickneglogsoftmax_batch(ys[i], ids(i + 3, COLUMNS // 6)) for i in picked]
    return [*xs, *ys], dy.esum(losses)


def some_products(model):
    """Two of them are not part of the loss."""
    return many_products(model, [0, 2, 3, 5])


def other_uses(model):
    """The scores are used by something else, too, and one of them by two losses."""
    nodes, loss = many_products(model)
    more = dy.pickneglogsoftmax_batch(nodes[7], ids(9, COLUMNS // 6))
    return nodes, loss + more + 1e-3 * dy.sum_elems(dy.square(nodes[-1]))


def without_bias(model):
    _, W, _, E = model
    xs = [dy.lookup_batch(E, ids(i, COLUMNS // 3)) for i in range(3)]
    ys = [W * x for x in xs]
    losses = [
        dy.pickneglogsoftmax_batch(y, ids(i, COLUMNS // 3)) * (i - 1) for i, y in enumerate(ys)
    ]
    return [*xs, *ys], dy.esum(losses)


def word_by_word(model):
    """A product and a loss for each word."""
    _, W, b, E = model
    xs = [dy.tanh(E[i]) for i in ids(0, COLUMNS)]
    ys = [dy.affine_transform([b, W, x]) for x in xs]
    return [*xs[:3], *ys[:3]], dy.esum(
        [dy.pickneglogsoftmax(y, i) for y, i in zip(ys, ids(3, COLUMNS), strict=True)]
    )


def two_matrices(model):
    """The same words through two matrices, and the matrix itself in the loss."""
    m, W, b, E = model
    V = (
        m.add_parameters((WORDS, HIDDEN), init=0.1, name="V")
        if len(m.parameters_list()) < 3
        else m.parameters_list()[2]
    )
    x = dy.tanh(dy.lookup_batch(E, ids(0, COLUMNS)))
    y = dy.affine_transform([b, W, x, V, dy.square(x), W, x])
    loss = dy.pickneglogsoftmax_batch(y, ids(3, COLUMNS))
    return [x, y], loss + 1e-6 * dy.squared_norm(W)


NETWORKS = [
    one_batch,
    many_products,
    some_products,
    other_uses,
    without_bias,
    word_by_word,
    two_matrices,
]


def run(model, network, full, autobatching=None, immediate=False):
    """The loss, gradients of nodes, gradients of parameters."""
    m = model[0]
    m.reset_gradients()
    dy.renew_cg(autobatching=autobatching, immediate_compute=immediate)
    nodes, loss = network(model)
    loss = dy.sum_batches(loss)
    value = loss.value()
    loss.backward(full=full)
    found = [p.grad_as_array() for p in (*m.parameters_list(), *m.lookup_parameters_list())]
    return [value, *(n.gradient() for n in nodes), *found]


@pytest.mark.parametrize("autobatching", [0, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_blocks_equal_the_whole(model, network, autobatching):
    expected = run(model, network, True)
    for a, b in zip(expected, run(model, network, False, autobatching), strict=True):
        close(a, b)


def test_blocks_equal_numpy(model):
    _, W, b, E = model
    found = run(model, one_batch, False)
    words, picked = ids(0, COLUMNS), ids(3, COLUMNS)
    x = np.tanh(E.as_array()[words])
    scores = x @ W.as_array().T + b.as_array()
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    close(found[0], -np.log(p[range(COLUMNS), picked]).sum())
    p[range(COLUMNS), picked] -= 1
    dx = p @ W.as_array() * (1 - x * x)
    de = np.zeros((50, HIDDEN))
    np.add.at(de, words, dx)
    close(found[2], p.T)
    for a, expected in zip(found[3:], (p.T @ x, p.sum(axis=0), de), strict=True):
        close(a, expected)


def test_whole_gradient_is_not_in_memory():
    """Until it is asked for."""
    program = """
import dist_dynet as dy
m = dy.ParameterCollection()
W, x = m.add_parameters((5000, 8)), m.add_parameters((8, 1000))
y = W * dy.concatenate_to_batch([dy.pick(x, i, 1) for i in range(1000)])
dy.sum_batches(dy.pickneglogsoftmax_batch(y, [3] * 1000)).backward()
before = dy.cg().memory()
y.gradient()
print(before, dy.cg().memory())
"""
    before, after = map(int, output_of(program).split())
    assert after - before >= 5000 * 1000 * np.dtype(DTYPE).itemsize


def test_backward_again_and_in_part(model):
    """A later backward finds nothing of an earlier one."""
    m = model[0]
    dy.renew_cg()
    nodes, loss = many_products(model)
    whole, part = dy.sum_batches(loss), dy.sum_batches(dy.squared_norm(nodes[0]))
    results = []
    for root in (whole, part, whole):
        root.value()
        m.reset_gradients()
        root.backward()
        results.append([p.grad_as_array() for p in (*m.parameters_list(), model[3])])
    for a, b in zip(results[0], results[2], strict=True):
        close(a, b)
    assert not results[1][0].any()


def test_scores_and_their_gradient_after_an_update(model):
    """What was computed stays what it was."""
    m = model[0]
    trainer = dy.SimpleSGDTrainer(m, 0.5)
    dy.renew_cg()
    nodes, loss = many_products(model)
    loss = dy.sum_batches(loss)
    before = nodes[8].npvalue()
    loss.backward()
    gradient = nodes[9].gradient()
    trainer.update()
    close(nodes[8].npvalue(), before)
    close(nodes[9].gradient(), gradient)
    close(nodes[10].gradient().sum(axis=0), np.zeros(COLUMNS // 6))
