"""A binary TreeLSTM over labelled trees, written for one tree, the losses of 32 in one graph: 128 inputs, 128 hidden. Unit: sentences.

--style=ops: each gate by operations; builder: dist_dynet's BinaryTreeLSTMBuilder (which dyNET38 has not).
"""

import itertools
import random

import batching
import common
import numpy as np

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


class Model:
    """A state and a loss at each node of the tree."""

    def __init__(self, dy, m):
        rng = np.random.default_rng(5)
        self.dy = dy
        self.E = m.add_lookup_parameters((VOCABULARY, EMBEDDING))
        self.E.init_from_array(common.glorot(rng, VOCABULARY, EMBEDDING))

        def matrix(rows, columns):
            p = m.add_parameters((rows, columns))
            p.set_value(common.glorot(rng, rows, columns))
            return p

        def bias(n, value=0.0):
            p = m.add_parameters(n)
            p.set_value(np.full(n, value, np.float32))
            return p

        h = HIDDEN
        self.leaf = [(bias(h), matrix(h, EMBEDDING)) for _ in range(3)]
        self.inner = [(bias(h), matrix(h, h), matrix(h, h)) for _ in range(3)]
        self.forget = [(bias(h, 1.0), matrix(h, h), matrix(h, h)) for _ in range(2)]
        self.W, self.b = matrix(LABELS, h), bias(LABELS)

    @staticmethod
    def data():
        """An endless stream of trees."""
        return itertools.cycle(trees(1000, 8, 30, seed=6))

    def losses(self, tree):
        """One per node of the tree."""
        dy, W, b = self.dy, self.W, self.b
        affine, logistic, tanh, cmult = dy.affine_transform, dy.logistic, dy.tanh, dy.cmult
        losses = []

        def visit(t):
            if len(t) == 2:
                x = self.E[t[1]]
                (bi, Wi), (bo, Wo), (bu, Wu) = self.leaf
                i, o, u = logistic(affine([bi, Wi, x])), logistic(affine([bo, Wo, x])), tanh(affine([bu, Wu, x]))
                c = cmult(i, u)
            else:
                (hl, cl), (hr, cr) = visit(t[1]), visit(t[2])
                (bi, Li, Ri), (bo, Lo, Ro), (bu, Lu, Ru) = self.inner
                i, o = logistic(affine([bi, Li, hl, Ri, hr])), logistic(affine([bo, Lo, hl, Ro, hr]))
                u = tanh(affine([bu, Lu, hl, Ru, hr]))
                fl, fr = (logistic(affine([bf, L, hl, R, hr])) for bf, L, R in self.forget)
                c = cmult(i, u) + cmult(fl, cl) + cmult(fr, cr)
            h = cmult(o, tanh(c))
            losses.append(dy.pickneglogsoftmax(affine([b, W, h]), t[0]))
            return h, c

        visit(tree)
        return losses

    def units(self, tree):
        """Sentences."""
        return 1


if __name__ == "__main__":
    batching.main("batch_treelstm", "sentences", Model, batch=32, loss_steps=4)
