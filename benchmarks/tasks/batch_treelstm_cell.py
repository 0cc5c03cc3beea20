"""The TreeLSTM of batch_treelstm.py with leaves, inner nodes and losses as cells (dist_dynet's `@dy.cell`). Unit: sentences.

Peers without cells run the same functions as they are.
"""

import batch_treelstm
import batching


class Model(batch_treelstm.Model):
    """Each function is one node per call."""

    def __init__(self, dy, m):
        super().__init__(dy, m)
        affine, logistic, tanh, cmult = dy.affine_transform, dy.logistic, dy.tanh, dy.cmult
        cell = getattr(dy, "cell", lambda function: function)

        @cell
        def leaf(x):
            (bi, Wi), (bo, Wo), (bu, Wu) = self.leaf
            i, o, u = logistic(affine([bi, Wi, x])), logistic(affine([bo, Wo, x])), tanh(affine([bu, Wu, x]))
            c = cmult(i, u)
            return cmult(o, tanh(c)), c

        @cell
        def inner(hl, cl, hr, cr):
            (bi, Li, Ri), (bo, Lo, Ro), (bu, Lu, Ru) = self.inner
            i, o = logistic(affine([bi, Li, hl, Ri, hr])), logistic(affine([bo, Lo, hl, Ro, hr]))
            u = tanh(affine([bu, Lu, hl, Ru, hr]))
            fl, fr = (logistic(affine([bf, L, hl, R, hr])) for bf, L, R in self.forget)
            c = cmult(i, u) + cmult(fl, cl) + cmult(fr, cr)
            return cmult(o, tanh(c)), c

        self.leaf_node, self.inner_node = leaf, inner

    def losses(self, tree):
        """One per node of the tree."""
        dy, W, b = self.dy, self.W, self.b
        losses = []

        def visit(t):
            h, c = self.leaf_node(self.E[t[1]]) if len(t) == 2 else self.inner_node(*visit(t[1]), *visit(t[2]))
            losses.append(dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), t[0]))
            return h, c

        visit(tree)
        return losses


if __name__ == "__main__":
    batching.main("batch_treelstm_cell", "sentences", Model, batch=32, loss_steps=4)
