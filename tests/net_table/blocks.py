"""Blocks: conditional random fields, trees, stacks, attention, layers."""

import dist_dynet as dy

from .row import Net

CRF_LENGTHS = {1: [4], 2: [4, 2]}


def crf_losses(crf, xs):
    """Every kind of a CRF's scores, of a batch padded to four steps."""
    batch = xs[0].dim()[1]
    tags, lengths = [[1, 2, 0, 1], [0, 1]][:batch], CRF_LENGTHS[batch]
    return dy.concatenate(
        [
            crf.neg_log_likelihood(xs[0], tags, lengths),
            crf.log_partition(xs[0], lengths),
            crf.score(xs[0], tags, lengths),
        ]
    )


def tree_states(tree, xs):
    """Of a tree of five nodes: one with a child missing, if places count, and one without input."""
    leaves = [tree.node(x) for x in xs[:2]]
    inner = (
        tree.node(xs[2], [leaves[0], None])
        if hasattr(tree, "arity")
        else tree.node(xs[2], leaves[:1])
    )
    low = tree.node(None, [leaves[1], inner])
    return dy.concatenate([*tree.node(xs[0], [low, leaves[0]]).s(), low.output()])


def stack_summaries(stacks, xs):
    """Of a stack that was pushed to after pops, of the one it came from, and of an empty one."""
    two = stacks.empty().push(xs[0]).push(xs[1])
    other = two.pop().push(xs[2]).push(xs[0])
    return dy.concatenate([other.summary(), two.summary(), dy.zeros(3) + two.pop().pop().summary()])


NETS = {
    "crf": Net(
        lambda m: dy.CRF(m, 3, [(1, 1), (None, 2), (0, None)]),
        [(3, 4)],
        crf_losses,
        per_element=False,
    ),
    "crf without constraints": Net(
        lambda m: dy.CRF(m, ["a", "b", "c"]),
        [(3, 4)],
        lambda crf, xs: crf.log_partition([xs[0][:, 0], xs[0][:, 2]]),
    ),
    "child-sum tree": Net(lambda m: dy.ChildSumTreeLSTMBuilder(4, 3, m), [(4,)] * 3, tree_states),
    "binary tree": Net(lambda m: dy.BinaryTreeLSTMBuilder(4, 3, m, 0.5), [(4,)] * 3, tree_states),
    "ternary tree": Net(
        lambda m: dy.NaryTreeLSTMBuilder(3, 2, 2, m),
        [(2,)] * 2,
        lambda tree, xs: tree.node(xs[0], [tree.node(xs[1]), None, tree.node(xs[0])]).output(),
    ),
    "stack": Net(lambda m: dy.StackLSTM(2, 4, 3, m), [(4,)] * 3, stack_summaries),
    "stack of a GRU": Net(
        lambda m: dy.StackLSTM(1, 2, 3, m, dy.GRUBuilder), [(2,)] * 3, stack_summaries
    ),
    "additive attention": Net(
        lambda m: dy.AdditiveAttention(3, 2, 4, m),
        [(3,), (2, 5)],
        lambda block, xs: block.attend(*xs, mask=[1, 0, 1, 1, 1]),
    ),
    "linear": Net(
        lambda m: dy.Linear(3, 2, m),
        [(3,), (3, 4)],
        lambda f, xs: dy.concatenate([f(xs[0]), dy.reshape(f(xs[1]), 8, xs[1].dim()[1])]),
    ),
    "linear without bias": Net(lambda m: dy.Linear(3, 2, m, False), [(3,)], lambda f, xs: f(xs[0])),
    "mlp": Net(lambda m: dy.MLP([3, 4, 5, 2], m, dy.tanh), [(3,)], lambda f, xs: f(xs[0])),
    "layer norm": Net(
        lambda m: dy.LayerNorm(4, m),
        [(4,), (4, 3)],
        lambda f, xs: dy.concatenate([f(xs[0]), dy.reshape(f(xs[1]), 12, xs[1].dim()[1])]),
    ),
    "dot attention": Net(
        lambda m: dy.DotAttention(3, 2, 4, m),
        [(3,), (2, 5), (3, 2)],
        lambda f, xs: dy.concatenate(
            [
                f.attend(*xs[:2], mask=[1, 0, 1, 1, 1]),
                f.weights(*xs[:2]),
                f.weights(xs[2], xs[1])[:, 1],
            ]
        ),
    ),
    "multi-head attention": Net(
        lambda m: dy.MultiHeadAttention(4, 2, m, 3),
        [(4,), (3, 5), (4, 3)],
        lambda f, xs: dy.concatenate(
            [
                f(*xs[:2]),
                f(xs[2], xs[1], mask=[1, 0, 1, 1, 1])[:, 2],
                f(xs[2], xs[1], xs[1] * 2)[:, 0],
            ]
        ),
    ),
}
