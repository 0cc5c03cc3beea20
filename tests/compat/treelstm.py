"""Sentiment over binary trees: a TreeLSTM written op by op, dropout, a loss at every node, sparse embeddings."""

import random

import corpus
import dynet as dy
import numpy as np


class TreeLSTMBuilder:
    def __init__(self, pc, vocabulary, wdim, hdim):
        self.WS = [pc.add_parameters((hdim, wdim)) for _ in "iou"]
        self.US = [pc.add_parameters((hdim, 2 * hdim)) for _ in "iou"]
        self.UFS = [pc.add_parameters((hdim, hdim)) for _ in "ffff"]
        self.BS = [pc.add_parameters(hdim) for _ in "iouf"]
        self.E = pc.add_lookup_parameters((len(vocabulary), wdim))
        self.w2i = {w: i for i, w in enumerate(vocabulary)}

    def expr_for_tree(self, tree, decorate, drop):
        if len(tree) == 2:
            emb = dy.lookup(self.E, self.w2i.get(tree[1], 0))
            if drop:
                emb = dy.dropout(emb, 0.2)
            Wi, Wo, Wu = [dy.parameter(w) for w in self.WS]
            bi, bo, bu, _ = [dy.parameter(b) for b in self.BS]
            i = dy.logistic(dy.affine_transform([bi, Wi, emb]))
            o = dy.logistic(dy.affine_transform([bo, Wo, emb]))
            u = dy.tanh(dy.affine_transform([bu, Wu, emb]))
            c = dy.cmult(i, u)
            h = dy.cmult(o, dy.tanh(c))
            decorate.append((tree[0], h))
            return h, c
        (e1, c1), (e2, c2) = self.expr_for_tree(tree[1], decorate, drop), self.expr_for_tree(tree[2], decorate, drop)
        Ui, Uo, Uu = [dy.parameter(u) for u in self.US]
        Uf1, Uf2, Uf3, Uf4 = [dy.parameter(u) for u in self.UFS]
        bi, bo, bu, bf = [dy.parameter(b) for b in self.BS]
        e = dy.concatenate([e1, e2])
        i = dy.logistic(dy.affine_transform([bi, Ui, e]))
        o = dy.logistic(dy.affine_transform([bo, Uo, e]))
        f1 = dy.logistic(dy.affine_transform([bf, Uf1, e1, Uf2, e2]))
        f2 = dy.logistic(dy.affine_transform([bf, Uf3, e1, Uf4, e2]))
        u = dy.tanh(dy.affine_transform([bu, Uu, e]))
        c = dy.cmult(i, u) + dy.cmult(f1, c1) + dy.cmult(f2, c2)
        h = dy.cmult(o, dy.tanh(c))
        decorate.append((tree[0], h))
        return h, c


random.seed(3)
train = corpus.trees(40)
vocabulary = ["_UNK_", "good", "great", "fine", "bad", "poor", "awful", "film", "plot", "very"]
pc = dy.ParameterCollection()
builder = TreeLSTMBuilder(pc, vocabulary, 10, 12)
W_ = pc.add_parameters((3, 12))
trainer = dy.AdamTrainer(pc, alpha=0.003)
trainer.set_clip_threshold(-1.0)
for epoch in range(4):
    random.shuffle(train)
    closs, cwords = 0.0, 0
    for tree in train:
        dy.renew_cg()
        W = dy.parameter(W_)
        nodes = []
        builder.expr_for_tree(tree, nodes, True)
        losses = [dy.pickneglogsoftmax(W * h, label) for label, h in nodes]
        loss = dy.esum(losses)
        closs += loss.value()
        cwords += len(losses)
        loss.backward()
        trainer.update()
    good = 0
    for tree in train:
        dy.renew_cg()
        h, _ = builder.expr_for_tree(tree, [], False)
        good += int(np.argmax((dy.parameter(W_) * h).npvalue()) == tree[0])
    print("epoch", epoch, "loss", closs / cwords, "accuracy", good / len(train))
