"""TreeLSTMs and additive attention: values against NumPy, batches, masks, saving; gradients in double.

How long: about two seconds, most of them for the double build.
"""

import numpy as np
import pytest
from gradients import jacobian_difference
from processes import run_python
from test_graph import close
from test_rnn import as_expressions, logistic

import dist_dynet as dy

BUILDERS = [dy.ChildSumTreeLSTMBuilder, dy.BinaryTreeLSTMBuilder]


def made(block, *sizes):
    """(collection, block) with all parameters off their initial values."""
    dy.renew_cg()
    m = dy.ParameterCollection()
    built = block(*sizes, m)
    rng = np.random.default_rng(4)
    for p in m.parameters_list():
        p.set_value(rng.normal(size=p.shape()) / 2)
    return m, built


def tree_reference(parameters, binary, x, children):
    """(h, c) of a node from the arrays of x (or None) and of (h, c) of each child (None: missing)."""
    W, U, b, Wf, *Us, bf = parameters
    n = len(bf)
    gates, forget = b + (0 if x is None else W @ x), bf + (0 if x is None else Wf @ x)
    kept = np.zeros(n)
    if children:
        hs = [np.zeros(n) if child is None else child[0] for child in children]
        gates = gates + U @ (np.concatenate(hs) if binary else np.sum(hs, 0))
        for k, child in enumerate(children):
            if child is not None:
                kept = kept + logistic(forget + (Us[k] @ np.concatenate(hs) if binary else Us[0] @ hs[k])) * child[1]
    i, o, u = np.split(gates, 3)
    c = logistic(i) * np.tanh(u) + kept
    return logistic(o) * np.tanh(c), c


@pytest.mark.parametrize("builder", BUILDERS)
def test_tree_states_are_those_of_the_paper(builder, rng):
    m, tree = made(builder, 4, 3)
    binary = builder is dy.BinaryTreeLSTMBuilder
    parameters = [p.as_array() for p in m.parameters_list()]
    a, b, c = rng.normal(size=(3, 4))
    leaves, expected = [tree.node(dy.inputVector(x)) for x in (a, b)], [tree_reference(parameters, binary, x, []) for x in (a, b)]
    cases = [(None, (0, 1)), (c, (1, 0)), (c, (0, None) if binary else (0,)), (None, (None, 1) if binary else (1, 0, 1))]
    for x, which in cases:
        state = tree.node(None if x is None else dy.inputVector(x), [None if k is None else leaves[k] for k in which])
        h, c1 = tree_reference(parameters, binary, x, [None if k is None else expected[k] for k in which])
        close(state.output().npvalue(), h, 1e-5)
        close(state.s()[0].npvalue(), c1, 1e-5)
    assert tree.get_parameters() == m.parameters_list()


@pytest.mark.parametrize("builder", BUILDERS)
def test_tree_batched_equals_unbatched(builder, rng):
    _, tree = made(builder, 4, 3)
    arrays = rng.normal(size=(3, 4, 5))

    def top(xs):
        return tree.node(xs[2], [tree.node(xs[0]), tree.node(xs[1])]).output().npvalue()

    together = top(as_expressions(arrays))
    for k in range(5):
        close(together[:, k], top(as_expressions(arrays[:, :, k : k + 1])), 1e-5)


@pytest.mark.parametrize("builder", BUILDERS)
def test_tree_is_saved_and_refuses_what_is_no_tree(builder, tmp_path):
    _, tree = made(builder, 4, 3)
    dy.save(tmp_path / "tree", [tree])
    (loaded,) = dy.load(tmp_path / "tree", dy.ParameterCollection())
    close(*[t.node(children=[t.node(dy.ones(4))] * 2).output().npvalue() for t in (tree, loaded)])
    assert loaded.spec == tree.spec and loaded.whoami() == builder.__name__
    with pytest.raises(ValueError, match="got neither"):
        tree.node()
    for bad in (3, "x", [1.0] * 4):
        with pytest.raises(TypeError):
            tree.node(bad)
        with pytest.raises(TypeError, match="children must be states"):
            tree.node(dy.ones(4), [bad])
    if builder is dy.BinaryTreeLSTMBuilder:
        with pytest.raises(ValueError, match="got 1"):
            tree.node(dy.ones(4), [tree.node(dy.ones(4))])
    with pytest.raises(ValueError, match="positive"):
        builder(0, 3, dy.ParameterCollection())


def test_tree_forget_bias_is_where_it_starts():
    for builder in BUILDERS:
        assert builder(2, 3, dy.ParameterCollection(), forget_bias=0.5).get_parameters()[-1].as_array().tolist() == [0.5] * 3


# ---- attention -----------------------------------------------------------------------------------------------------------------------


def attention_weights(parameters, q, K, mask=None):
    Wq, Wk, b, v = parameters
    scores = np.exp((v @ np.tanh(Wk @ K + (Wq @ q + b)[:, None]))[0]) * (1 if mask is None else mask)
    return scores / scores.sum()


@pytest.mark.parametrize("masked", [False, True])
def test_additive_attention_is_that_of_the_paper(masked, rng):
    m, block = made(dy.AdditiveAttention, 3, 2, 4)
    parameters = [p.as_array() for p in m.parameters_list()]
    q, K, V = rng.normal(size=(3, 5)), rng.normal(size=(2, 6, 5)), rng.normal(size=(4, 6, 5))
    mask = (rng.random(size=(6, 5)) < 0.6).astype(float) if masked else None
    if masked:
        mask[0] = 1
    query, keys, values = (dy.inputTensor(a, batched=True) for a in (q, K, V))
    given = block.weights(query, keys, mask)
    found, projected = block.attend(query, keys, values, mask), block.attend(query, keys, None, mask, block.project(keys))
    for k in range(5):
        w = attention_weights(parameters, q[:, k], K[:, :, k], None if mask is None else mask[:, k])
        close(given.npvalue()[:, k], w, 1e-5)
        close(found.npvalue()[:, k], V[:, :, k] @ w, 1e-5)
        close(projected.npvalue()[:, k], K[:, :, k] @ w, 1e-5)


def test_additive_attention_is_saved_and_refuses_what_cannot_be(tmp_path):
    _, block = made(dy.AdditiveAttention, 3, 2, 4)
    dy.save(tmp_path / "block", [block])
    (loaded,) = dy.load(tmp_path / "block", dy.ParameterCollection())
    keys = dy.inputTensor([[1, 2, 3], [4, 5, 7]])
    close(*[b.attend(dy.ones(3), keys).npvalue() for b in (block, loaded)])
    assert loaded.spec == block.spec and loaded.whoami() == "AdditiveAttention"
    close(block.attend(dy.ones(3), dy.inputVector([4, 5])).npvalue(), [4, 5])
    for use in (lambda: block.weights(None, keys), lambda: block.weights(dy.ones(3), None)):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(ValueError, match="positive"):
        dy.AdditiveAttention(3, 0, 4, dy.ParameterCollection())


# ---- gradients in double -------------------------------------------------------------------------------------------------------------


def use_tree(tree, xs):
    leaves = [tree.node(x) for x in xs[:2]]
    low = tree.node(None, leaves)
    return dy.concatenate([*tree.node(xs[2], [leaves[0], low]).s(), low.output()])


CASES = {
    "child-sum": (dy.ChildSumTreeLSTMBuilder, (4, 3), [(4, 2)] * 3, use_tree),
    "binary": (dy.BinaryTreeLSTMBuilder, (4, 3), [(4, 2)] * 3, use_tree),
    "attention": (
        dy.AdditiveAttention, (3, 2, 4), [(3, 2), (2, 5, 2)],
        lambda block, xs: block.attend(*xs, mask=[[1, 1], [1, 0], [0, 1], [1, 1], [1, 1]]),
    ),
}  # fmt: skip


@pytest.mark.float64
@pytest.mark.parametrize("case", CASES)
def test_double_jacobian_of_blocks(case, rng):
    block, sizes, shapes, use = CASES[case]
    m, built = made(block, *sizes)
    parameters = m.parameters_list()
    arrays = [p.as_array() for p in parameters] + [rng.normal(size=shape) for shape in shapes]

    def outputs(*arrays):
        dy.renew_cg()
        for p, a in zip(parameters, arrays, strict=False):
            p.set_value(a)
        xs = as_expressions(arrays[len(parameters) :])
        return use(built, xs), xs

    def gradients_of(w):
        m.reset_gradients()
        y, xs = outputs(*arrays)
        dy.sum_batches(dy.dot_product(y, dy.inputTensor(w.reshape(-1, 2), batched=True))).backward(full=True)
        return [p.grad_as_array() for p in parameters] + [e.gradient() for e in xs]

    difference = jacobian_difference(lambda *a: outputs(*a)[0].npvalue(), arrays, gradients_of)
    assert difference is None, difference


@pytest.mark.float32
def test_gradients_in_the_double_build():
    result = run_python("-m", "pytest", "-q", "-m", "float64", "-p", "no:cacheprovider", __file__, DIST_DYNET_DTYPE="float64")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert "3 passed" in result.stdout
