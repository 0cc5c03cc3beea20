"""What every block promises: gradients, batches, batching on the fly, saving, copies. What each computes is tested in test_blocks_*.py.

How long: about five seconds, most of them for the double build.
"""

import copy

import numpy as np
import pytest
from gradients import jacobian_difference
from processes import passing_tests
from test_graph import close

import dist_dynet as dy

CRF_LENGTHS = {1: [4], 2: [4, 2]}


def crf_losses(crf, xs):
    """Every kind of a CRF's scores, of a batch padded to four steps."""
    batch = xs[0].dim()[1]
    tags, lengths = [[1, 2, 0, 1], [0, 1]][:batch], CRF_LENGTHS[batch]
    return dy.concatenate([crf.neg_log_likelihood(xs[0], tags, lengths), crf.log_partition(xs[0], lengths), crf.score(xs[0], tags, lengths)])


def tree_states(tree, xs):
    """Of a tree of five nodes: one with a child missing, if places count, and one without input."""
    leaves = [tree.node(x) for x in xs[:2]]
    inner = tree.node(xs[2], [leaves[0], None]) if hasattr(tree, "arity") else tree.node(xs[2], leaves[:1])
    low = tree.node(None, [leaves[1], inner])
    return dy.concatenate([*tree.node(xs[0], [low, leaves[0]]).s(), low.output()])


def stack_summaries(stacks, xs):
    """Of a stack that was pushed to after pops, of the one it came from, and of an empty one."""
    two = stacks.empty().push(xs[0]).push(xs[1])
    other = two.pop().push(xs[2]).push(xs[0])
    return dy.concatenate([other.summary(), two.summary(), dy.zeros(3) + two.pop().pop().summary()])


CASES = {
    "crf": (lambda m: dy.CRF(m, 3, [(1, 1), (None, 2), (0, None)]), [(3, 4)], crf_losses),
    "crf without constraints": (lambda m: dy.CRF(m, ["a", "b", "c"]), [(3, 4)], lambda crf, xs: crf.log_partition([xs[0][:, 0], xs[0][:, 2]])),
    "child-sum tree": (lambda m: dy.ChildSumTreeLSTMBuilder(4, 3, m), [(4,)] * 3, tree_states),
    "binary tree": (lambda m: dy.BinaryTreeLSTMBuilder(4, 3, m, 0.5), [(4,)] * 3, tree_states),
    "ternary tree": (
        lambda m: dy.NaryTreeLSTMBuilder(3, 2, 2, m), [(2,)] * 2,
        lambda tree, xs: tree.node(xs[0], [tree.node(xs[1]), None, tree.node(xs[0])]).output(),
    ),
    "stack": (lambda m: dy.StackLSTM(2, 4, 3, m), [(4,)] * 3, stack_summaries),
    "stack of a GRU": (lambda m: dy.StackLSTM(1, 2, 3, m, dy.GRUBuilder), [(2,)] * 3, stack_summaries),
    "additive attention": (
        lambda m: dy.AdditiveAttention(3, 2, 4, m), [(3,), (2, 5)],
        lambda block, xs: block.attend(*xs, mask=[1, 0, 1, 1, 1]),
    ),
    "linear": (lambda m: dy.Linear(3, 2, m), [(3,), (3, 4)], lambda f, xs: dy.concatenate([f(xs[0]), dy.reshape(f(xs[1]), 8, xs[1].dim()[1])])),
    "linear without bias": (lambda m: dy.Linear(3, 2, m, False), [(3,)], lambda f, xs: f(xs[0])),
    "mlp": (lambda m: dy.MLP([3, 4, 5, 2], m, dy.tanh), [(3,)], lambda f, xs: f(xs[0])),
    "layer norm": (
        lambda m: dy.LayerNorm(4, m), [(4,), (4, 3)],
        lambda f, xs: dy.concatenate([f(xs[0]), dy.reshape(f(xs[1]), 12, xs[1].dim()[1])]),
    ),
    "dot attention": (
        lambda m: dy.DotAttention(3, 2, 4, m), [(3,), (2, 5), (3, 2)],
        lambda f, xs: dy.concatenate([f.attend(*xs[:2], mask=[1, 0, 1, 1, 1]), f.weights(*xs[:2]), f.weights(xs[2], xs[1])[:, 1]]),
    ),
    "multi-head attention": (
        lambda m: dy.MultiHeadAttention(4, 2, m, 3), [(4,), (3, 5), (4, 3)],
        lambda f, xs: dy.concatenate([f(*xs[:2]), f(xs[2], xs[1], mask=[1, 0, 1, 1, 1])[:, 2], f(xs[2], xs[1], xs[1] * 2)[:, 0]]),
    ),
}  # fmt: skip
"""Name: (the block made in a collection, dims of its inputs, what is computed of them)."""

PADDED = {"crf"}
"""Cases whose batch elements are not alike: a batch of them is not compared with its elements alone."""


def made(case):
    """(collection, block) with all parameters off their initial values."""
    dy.renew_cg()
    m = dy.ParameterCollection()
    block = CASES[case][0](m)
    rng = np.random.default_rng(4)
    for p in m.parameters_list():
        p.set_value(rng.normal(size=p.shape()) / 2)
    for table in m.lookup_parameters_list():
        table.init_from_array(rng.normal(size=table.shape()) / 2)
    return m, block


def inputs(case, rng, batch):
    return [rng.normal(size=(*dims, batch)) for dims in CASES[case][1]]


def expressions(arrays):
    return [dy.inputTensor(a, batched=True, reusable_expr=True) for a in arrays]


def value_of(case, block, arrays):
    return CASES[case][2](block, expressions(arrays)).npvalue()


def parameters_of(m):
    return [*m.parameters_list(), *m.lookup_parameters_list()]


@pytest.mark.parametrize("case", [c for c in CASES if c not in PADDED])
def test_block_batched_equals_unbatched(case, rng):
    _, block = made(case)
    arrays = inputs(case, rng, 5)
    together = value_of(case, block, arrays)
    for k in range(5):
        close(together[..., k], value_of(case, block, [a[..., k : k + 1] for a in arrays]), 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_block_autobatched_equals_plain(case, rng):
    m, block = made(case)
    arrays = [inputs(case, rng, 1) for _ in range(4)]
    found = []
    for autobatching in (False, True):
        m.reset_gradients()
        dy.renew_cg(autobatching=autobatching)
        ys = [CASES[case][2](block, expressions(a)) for a in arrays]
        loss = dy.esum([dy.sum_elems(dy.square(y)) * (k + 1) for k, y in enumerate(ys)])
        loss.backward()
        found.append([loss.npvalue(), *[p.grad_as_array() for p in parameters_of(m)]])
    for plain, batched in zip(*found, strict=True):
        close(batched, plain, 2e-5)


@pytest.mark.parametrize("case", CASES)
def test_block_is_saved_and_copied(case, rng, tmp_path):
    m, block = made(case)
    dy.save(tmp_path / "block", [block])
    other = dy.ParameterCollection()
    (loaded,) = dy.load(tmp_path / "block", other)
    assert loaded.spec == block.spec and loaded.whoami() == type(block).__name__
    assert list(other.named_parameters()) == list(m.named_parameters())
    assert sorted(p.name() for p in block.param_collection().parameters_list()) == sorted(p.name() for p in m.parameters_list())
    arrays = inputs(case, rng, 2)
    for same in (loaded, copy.deepcopy(block)):
        close(value_of(case, same, arrays), value_of(case, block, arrays))


def gradients_of(case, m, block, arrays, w):
    m.reset_gradients()
    dy.renew_cg()
    xs = expressions(arrays)
    y = CASES[case][2](block, xs)
    dy.sum_batches(dy.dot_product(y, dy.inputTensor(w.reshape((*y.dim()[0], y.dim()[1])), batched=True))).backward(full=True)
    return [p.grad_as_array() for p in parameters_of(m)] + [x.gradient() for x in xs]


@pytest.mark.float64
@pytest.mark.parametrize("case", CASES)
def test_double_jacobian_of_blocks(case, rng):
    m, block = made(case)
    parameters, xs = parameters_of(m), inputs(case, rng, 2)

    def f(*arrays):
        dy.renew_cg()
        for p, a in zip(parameters, arrays, strict=False):
            p.init_from_array(a) if isinstance(p, dy.LookupParameters) else p.set_value(a)
        return value_of(case, block, arrays[len(parameters) :])

    arrays = [p.as_array() for p in parameters] + xs
    difference = jacobian_difference(f, arrays, lambda w: gradients_of(case, m, block, xs, w))
    f(*arrays)
    assert difference is None, difference


@pytest.mark.float32
def test_gradients_of_blocks_in_the_double_build():
    assert passing_tests("-m", "float64", __file__, DIST_DYNET_DTYPE="float64") == len(CASES)
