"""A binary TreeLSTM over labelled trees, written for one tree, the losses of 32 in one graph: 128
inputs, 128 hidden. Unit: sentences.

--style=ops: each gate by operations; cells: dist_dynet's BinaryTreeLSTMBuilder, one node for a cell
(dyNET38, which has none, goes by operations); traced: leaves and inner nodes by operations in
functions decorated with dist_dynet's @traced. The same numbers are trained each way.
"""

import itertools
import random

import batching
import common
import numpy as np
import twins

VOCABULARY, EMBEDDING, HIDDEN, LABELS = 10_000, 128, 128, 5


def trees(count, shortest, longest, seed):
    """Trees as (label, word) and (label, left, right), cut at random, lengths spread evenly."""
    rng = random.Random(seed)

    def tree(words):
        if len(words) == 1:
            return rng.randrange(LABELS), words[0]
        cut = rng.randrange(1, len(words))
        return rng.randrange(LABELS), tree(words[:cut]), tree(words[cut:])

    return [tree(words) for words in common.sentences(count, shortest, longest, VOCABULARY, seed)]


def initial_values():
    """By name: the gates i, o, u of a leaf; i, o, u and twice f of a node with children; biases of
    i, o, u, f for both."""
    rng, h = np.random.default_rng(5), HIDDEN
    return {
        "E": common.glorot(rng, VOCABULARY, EMBEDDING),
        "leaf": [common.glorot(rng, h, EMBEDDING) for _ in range(3)],
        "left": [common.glorot(rng, h, h) for _ in range(5)],
        "right": [common.glorot(rng, h, h) for _ in range(5)],
        "biases": [np.full(h, 1.0 if gate == 3 else 0.0, np.float32) for gate in range(4)],
        "W": common.glorot(rng, LABELS, h),
        "b": np.zeros(LABELS, np.float32),
    }


class Model:
    """A state and a loss at each node of the tree."""

    style = "ops"

    def __init__(self, dy, m):
        values = initial_values()
        self.dy = dy
        self.E, self.W, self.b = (
            batching.table(m, values["E"]),
            batching.parameter(m, values["W"]),
            batching.parameter(m, values["b"]),
        )
        leaf, left, right, biases = (values[name] for name in ("leaf", "left", "right", "biases"))
        if Model.style == "cells" and hasattr(dy, "BinaryTreeLSTMBuilder"):
            self.cells = dy.BinaryTreeLSTMBuilder(EMBEDDING, HIDDEN, m)
            both = [np.concatenate(pair, axis=1) for pair in zip(left, right, strict=True)]
            W, U, b, _, Uf, bf = self.cells.get_parameters()
            for p, parts in (
                (W, leaf),
                (U, both[:3]),
                (b, biases[:3]),
                (Uf, both[3:]),
                (bf, biases[3:]),
            ):
                p.set_value(np.concatenate(parts))
        else:
            self.cells = None
            leaf, left, right, biases = (
                [batching.parameter(m, v) for v in part] for part in (leaf, left, right, biases)
            )
            self.leaf = list(zip(biases, leaf, strict=False))
            self.inner = list(zip(biases, left, right, strict=False))[:3]
            self.forget = [(biases[3], left[k], right[k]) for k in (3, 4)]
        traced = getattr(dy, "cell", None) if Model.style == "traced" else None
        self.of_word, self.of_children = (
            traced(f) if traced else f for f in (self.leaf_state, self.inner_state)
        )

    @staticmethod
    def data():
        """An endless stream of trees."""
        return itertools.cycle(trees(1000, 8, 30, seed=6))

    def losses(self, tree):
        """One per node of the tree."""
        return self.losses_by_cells(tree) if self.cells else self.losses_by_operations(tree)

    def losses_by_cells(self, tree):
        """A node for each cell."""
        dy, W, b, E, cell = self.dy, self.W, self.b, self.E, self.cells.node
        losses = []

        def visit(t):
            state = cell(E[t[1]]) if len(t) == 2 else cell(children=[visit(t[1]), visit(t[2])])
            losses.append(dy.pickneglogsoftmax(dy.affine_transform([b, W, state.output()]), t[0]))
            return state

        visit(tree)
        return losses

    def leaf_state(self, x):
        """h and c of a word."""
        affine, logistic, tanh, cmult = (
            self.dy.affine_transform,
            self.dy.logistic,
            self.dy.tanh,
            self.dy.cmult,
        )
        (bi, Wi), (bo, Wo), (bu, Wu) = self.leaf
        i, o, u = (
            logistic(affine([bi, Wi, x])),
            logistic(affine([bo, Wo, x])),
            tanh(affine([bu, Wu, x])),
        )
        c = cmult(i, u)
        return cmult(o, tanh(c)), c

    def inner_state(self, hl, cl, hr, cr):
        """h and c of a node with two children."""
        affine, logistic, tanh, cmult = (
            self.dy.affine_transform,
            self.dy.logistic,
            self.dy.tanh,
            self.dy.cmult,
        )
        (bi, Li, Ri), (bo, Lo, Ro), (bu, Lu, Ru) = self.inner
        i, o = logistic(affine([bi, Li, hl, Ri, hr])), logistic(affine([bo, Lo, hl, Ro, hr]))
        u = tanh(affine([bu, Lu, hl, Ru, hr]))
        fl, fr = (logistic(affine([bf, L, hl, R, hr])) for bf, L, R in self.forget)
        c = cmult(i, u) + cmult(fl, cl) + cmult(fr, cr)
        return cmult(o, tanh(c)), c

    def losses_by_operations(self, tree):
        """A node for each gate, activation and product, or for each call of the two functions
        above."""
        dy, W, b = self.dy, self.W, self.b
        losses = []

        def visit(t):
            h, c = (
                self.of_word(self.E[t[1]])
                if len(t) == 2
                else self.of_children(*visit(t[1]), *visit(t[2]))
            )
            losses.append(dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), t[0]))
            return h, c

        visit(tree)
        return losses

    def units(self, tree):
        """Sentences."""
        return 1


def levels(examples):
    """The nodes of trees by height: (words, labels) of the leaves, then (left, right, labels) of
    each height above.

    Nodes are numbered in this order; left and right are such numbers.
    """
    by_height = []

    def visit(t):
        height, entry = 0, t
        if len(t) == 3:
            left, right = visit(t[1]), visit(t[2])
            height, entry = 1 + max(left[0], right[0]), (t[0], left, right)
        if height == len(by_height):
            by_height.append([])
        by_height[height].append(entry)
        return height, len(by_height[height]) - 1

    for tree in examples:
        visit(tree)
    first = [0, *itertools.accumulate(len(nodes) for nodes in by_height)]
    leaves, *above = by_height
    number = [
        [[first[h] + i for h, i in (entry[side] for entry in nodes)] for side in (1, 2)]
        for nodes in above
    ]
    return ([word for _, word in leaves], [label for label, _ in leaves]), [
        (left, right, [entry[0] for entry in nodes])
        for nodes, (left, right) in zip(above, number, strict=True)
    ]


def torch_task(torch, args):
    """All nodes of a height at once, over all trees: one product for the leaves, one for each
    height above."""
    h, values, F = HIDDEN, initial_values(), torch.nn.functional
    E, linear = twins.embedding(torch, values["E"]), twins.linear(torch, values["W"], values["b"])
    both = [
        np.concatenate(pair, axis=1) for pair in zip(values["left"], values["right"], strict=True)
    ]
    leaf, inner, bias = (
        torch.nn.Parameter(torch.from_numpy(np.concatenate(parts)))
        for parts in (values["leaf"], both, values["biases"])
    )

    def loss_of(examples):
        (words, labels), above = levels(examples)
        i, o, u = F.linear(E(torch.tensor(words)), leaf, bias[: 3 * h]).chunk(3, 1)
        c = torch.sigmoid(i) * torch.tanh(u)
        hs, cs = torch.sigmoid(o) * torch.tanh(c), c
        biases = torch.cat([bias, bias[3 * h :]])
        for left, right, more in above:
            labels = labels + more
            left, right = torch.tensor(left), torch.tensor(right)
            i, o, u, fl, fr = F.linear(
                torch.cat([hs.index_select(0, left), hs.index_select(0, right)], 1), inner, biases
            ).chunk(5, 1)
            c = (
                torch.sigmoid(i) * torch.tanh(u)
                + torch.sigmoid(fl) * cs.index_select(0, left)
                + torch.sigmoid(fr) * cs.index_select(0, right)
            )
            hs, cs = torch.cat([hs, torch.sigmoid(o) * torch.tanh(c)]), torch.cat([cs, c])
        return len(examples), twins.cross_entropy(torch, linear(hs), labels)

    return twins.task(torch, args, Model, [E], [leaf, inner, bias, *twins.trained(linear)], loss_of)


if __name__ == "__main__":
    batching.main(
        "batch_treelstm",
        "sentences",
        Model,
        batch=32,
        loss_steps=4,
        torch_task=torch_task,
        options={
            "--style": {
                "choices": ["ops", "cells", "traced"],
                "default": "ops",
                "help": "how a cell is written",
            }
        },
    )
