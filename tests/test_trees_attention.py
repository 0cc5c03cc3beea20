"""TreeLSTMs and additive attention: values against NumPy, and against the same written op by op;
masks. The rest: test_nets.py.

How long: a second.
"""

import copy
import pickle

import numpy as np
import pytest
from test_graph import close
from test_rnn import logistic

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
    """(h, c) of a node from the arrays of x (or None) and of (h, c) of each child (None:
    missing)."""
    W, U, b, Wf, Uf, bf = parameters
    n = len(bf)
    Us = np.split(Uf, len(Uf) // n)
    gates, forget = b + (0 if x is None else W @ x), bf + (0 if x is None else Wf @ x)
    kept = np.zeros(n)
    if children:
        hs = [np.zeros(n) if child is None else child[0] for child in children]
        gates = gates + U @ (np.concatenate(hs) if binary else np.sum(hs, 0))
        for k, child in enumerate(children):
            if child is not None:
                kept = (
                    kept
                    + logistic(forget + (Us[k] @ np.concatenate(hs) if binary else Us[0] @ hs[k]))
                    * child[1]
                )
    i, o, u = np.split(gates, 3)
    c = logistic(i) * np.tanh(u) + kept
    return logistic(o) * np.tanh(c), c


@pytest.mark.parametrize("builder", BUILDERS)
def test_tree_states_are_those_of_the_paper(builder, rng):
    m, tree = made(builder, 4, 3)
    binary = builder is dy.BinaryTreeLSTMBuilder
    parameters = [p.as_array() for p in m.parameters_list()]
    a, b, c = rng.normal(size=(3, 4))
    leaves, expected = (
        [tree.node(dy.inputVector(x)) for x in (a, b)],
        [tree_reference(parameters, binary, x, []) for x in (a, b)],
    )
    cases = [
        (None, (0, 1)),
        (c, (1, 0)),
        (c, (0, None) if binary else (0,)),
        (None, (None, 1) if binary else (1, 0, 1)),
    ]
    for x, which in cases:
        state = tree.node(
            None if x is None else dy.inputVector(x),
            [None if k is None else leaves[k] for k in which],
        )
        h, c1 = tree_reference(
            parameters, binary, x, [None if k is None else expected[k] for k in which]
        )
        close(state.output().npvalue(), h, 1e-5)
        close(state.s()[0].npvalue(), c1, 1e-5)
    assert tree.get_parameters() == m.parameters_list()


def node_by_ops(builder, x, children):
    """(h, c) of a node, op by op, from the parameters, an input (or None) and (h, c) of each child
    (None: missing)."""
    W, U, b, Wf, Uf, bf = builder.get_parameters()
    n, present = builder.hidden_dim, [child for child in children if child is not None]
    binary = isinstance(builder, dy.BinaryTreeLSTMBuilder)

    def affine(bias, weights, *more):
        return (
            dy.affine_transform([bias, *([] if x is None else [weights, x]), *more])
            if more or x is not None
            else bias
        )

    forget, gates = [], affine(b, W)
    if present and binary:
        s = dy.concatenate([dy.zeros(n) if child is None else child[0] for child in children])
        gates, seen = affine(b, W, U, s), Uf * s
        forget = [
            affine(bf, Wf) + seen[k * n : (k + 1) * n]
            for k, child in enumerate(children)
            if child is not None
        ]
    elif present:
        gates, forget = (
            affine(b, W, U, dy.esum([h for h, _ in present])),
            [affine(bf, Wf, Uf, h) for h, _ in present],
        )
    i, o, u = dy.logistic(gates[:n]), dy.logistic(gates[n : 2 * n]), dy.tanh(gates[2 * n :])
    c = dy.esum(
        [
            dy.cmult(i, u),
            *[dy.cmult(dy.logistic(f), c) for f, (_, c) in zip(forget, present, strict=True)],
        ]
    )
    return dy.cmult(o, dy.tanh(c)), c


@pytest.mark.parametrize("autobatching", [False, True])
@pytest.mark.parametrize("builder", BUILDERS)
def test_cell_gives_values_and_gradients_of_its_ops(builder, autobatching, rng):
    m, tree = made(builder, 4, 3)
    table = m.lookup_parameters_from_numpy(rng.normal(size=(7, 4)))
    shapes = [
        (0, (1, 2)),
        ((3, 4), 5),
        (6, None) if builder is dy.BinaryTreeLSTMBuilder else ((6,), 1),
        ((0, 1), ((2, 3), 4)),
    ]

    def by_ops(t):
        return (
            None
            if t is None
            else node_by_ops(tree, table[t], [])
            if isinstance(t, int)
            else node_by_ops(tree, inner(t), [by_ops(s) for s in t])
        )

    def by_cells(t):
        return (
            None
            if t is None
            else tree.node(table[t])
            if isinstance(t, int)
            else tree.node(inner(t), [by_cells(s) for s in t])
        )

    def inner(t):
        return table[len(str(t)) % 7] if len(str(t)) > 8 else None  # some inner nodes have an input

    found = []
    for encode in (lambda t: by_ops(t), lambda t: by_cells(t).s()[::-1]):
        m.reset_gradients()
        dy.renew_cg(autobatching=autobatching)
        states = [encode(t) for t in shapes]
        loss = dy.esum([dy.sum_elems(dy.square(h) + 2 * dy.tanh(c)) for h, c in states])
        loss.backward()
        found.append(
            [
                loss.value(),
                *[e.npvalue() for state in states for e in state],
                *[p.grad_as_array() for p in (*m.parameters_list(), table)],
            ]
        )
    for ops, cells in zip(*found, strict=True):
        close(cells, ops, 1e-5)


@pytest.mark.parametrize("builder", BUILDERS)
def test_tree_refuses_what_is_no_tree(builder):
    _, tree = made(builder, 4, 3)
    for nothing in ([], [None, None]):
        with pytest.raises(ValueError, match="got neither"):
            tree.node(None, nothing)
    for bad in (3, "x", [1.0] * 4, dy.Expression()):
        with pytest.raises(TypeError):
            tree.node(bad)
        with pytest.raises(TypeError, match="children must be states"):
            tree.node(dy.ones(4), [bad])
    with pytest.raises(TypeError, match="children must be a list of states"):
        tree.node(dy.ones(4), tree.node(dy.ones(4)))
    with pytest.raises(ValueError, match="inputs have dim"):
        tree.node(dy.ones(5))
    if builder is dy.BinaryTreeLSTMBuilder:
        with pytest.raises(ValueError, match="got 1"):
            tree.node(dy.ones(4), [tree.node(dy.ones(4))])
    old = tree.node(dy.ones(4))
    dy.renew_cg()
    with pytest.raises(RuntimeError, match="Stale"):
        tree.node(None, [old, old])
    with pytest.raises(ValueError, match="positive"):
        builder(0, 3, dy.ParameterCollection())
    with pytest.raises(ValueError, match="arity=0"):
        dy.NaryTreeLSTMBuilder(0, 2, 3, dy.ParameterCollection())


@pytest.mark.parametrize("first", [False, True])
def test_leaf_of_a_parameter_is_made_in_the_current_graph(first):
    m = dy.ParameterCollection()
    tree, w = dy.NaryTreeLSTMBuilder(2, 3, 4, m), m.add_parameters(3)
    dy.renew_cg()
    leaves = [tree.node(w), tree.node(dy.inputVector(w.as_array()))]
    if first:  # once more, with weights that are known
        dy.renew_cg()
        leaves = [tree.node(w), tree.node(dy.inputVector(w.as_array()))]
    got, want = (leaf.output().npvalue() for leaf in leaves)
    np.testing.assert_array_equal(got, want)


def test_tree_forget_bias_is_where_it_starts():
    for builder in BUILDERS:
        assert (
            builder(2, 3, dy.ParameterCollection(), forget_bias=0.5)
            .get_parameters()[-1]
            .as_array()
            .tolist()
            == [0.5] * 3
        )


# ---- attention -------------------------------------------------------------------------


def attention_weights(parameters, q, K, mask=None):
    Wq, Wk, b, v = parameters
    scores = np.exp((v @ np.tanh(Wk @ K + (Wq @ q + b)[:, None]))[0]) * (
        1 if mask is None else mask
    )
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
    found, projected = (
        block.attend(query, keys, values, mask),
        block.attend(query, keys, None, mask, block.project(keys)),
    )
    for k in range(5):
        w = attention_weights(parameters, q[:, k], K[:, :, k], None if mask is None else mask[:, k])
        close(given.npvalue()[:, k], w, 1e-5)
        close(found.npvalue()[:, k], V[:, :, k] @ w, 1e-5)
        close(projected.npvalue()[:, k], K[:, :, k] @ w, 1e-5)


def test_additive_attention_refuses_what_cannot_be():
    _, block = made(dy.AdditiveAttention, 3, 2, 4)
    keys = dy.inputTensor([[1, 2, 3], [4, 5, 7]])
    close(block.attend(dy.ones(3), dy.inputVector([4, 5])).npvalue(), [4, 5])
    for use in (lambda: block.weights(None, keys), lambda: block.weights(dy.ones(3), None)):
        with pytest.raises(TypeError):
            use()
    with pytest.raises(ValueError, match="positive"):
        dy.AdditiveAttention(3, 0, 4, dy.ParameterCollection())


@pytest.mark.parametrize("builder", BUILDERS)
def test_trees_of_one_child_twice_and_of_unbatched_children_have_the_gradients_of_operations(
    builder, rng
):
    m, tree = made(builder, 4, 3)
    binary = builder is dy.BinaryTreeLSTMBuilder
    W, U, b, Wf, Uf, bf = tree.get_parameters()
    E = m.add_lookup_parameters((2, 4))
    batch = rng.normal(size=(4, 5))

    def by_operations(x, children=()):
        hs, cs = [h for _, h in children], [c for c, _ in children]
        gates, forget = b + W * x, bf + Wf * x
        if hs:
            s = dy.concatenate(hs) if binary else dy.esum(hs)
            gates = gates + U * s
            both = Uf * s if binary else None
        kept = [
            dy.cmult(
                dy.logistic(forget + (dy.pick_range(both, 3 * k, 3 * k + 3) if binary else Uf * h)),
                cs[k],
            )
            for k, h in enumerate(hs)
        ]
        i, o, u = (dy.pick_range(gates, 3 * k, 3 * k + 3) for k in range(3))
        c = dy.esum([dy.cmult(dy.logistic(i), dy.tanh(u)), *kept])
        return c, dy.cmult(dy.logistic(o), dy.tanh(c))

    def gradients(node, both):
        """The loss and all gradients; both(state): its c and h."""
        for p in (*m.parameters_list(), E):
            p.clear_gradient()
        dy.renew_cg()
        x = dy.inputTensor(batch, batched=True)
        leaf = node(E[1])
        twice = node(x, [leaf, leaf])  # of one unbatched child
        c, h = both(node(E[0], [twice, twice]))
        loss = dy.sum_batches(dy.sum_elems(h) + dy.squared_norm(c))
        loss.backward()
        return [loss.npvalue(), *(p.grad_as_array() for p in (*m.parameters_list(), E))]

    by_builder = gradients(tree.node, lambda state: state.s())
    for got, want in zip(by_builder, gradients(by_operations, tuple), strict=True):
        close(got, want, 1e-4)


@pytest.mark.parametrize("builder", BUILDERS)
def test_copies_of_tree_builders_compute_with_their_own_parameters(builder):
    _, tree = made(builder, 4, 3)
    for twin in (copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))):
        for p in twin.get_parameters():
            p.set_value(2 * p.as_array())
        for k in range(2):  # the first call finds the weights, the second knows them
            dy.renew_cg()
            x = dy.inputVector([1, 2, -1, k])
            a, b = tree.node(x), twin.node(x)
            want = tree_reference(
                [p.as_array() for p in twin.get_parameters()],
                builder is dy.BinaryTreeLSTMBuilder,
                x.npvalue(),
                [],
            )[0]
            close(b.output().npvalue(), want, 1e-5)
            assert not np.allclose(a.output().npvalue(), want)
