"""Gradients of what a program looks at: words in saliency maps and adversarial examples, constants and what follows nobackprop() included; files saved before the update."""

import os
import tempfile

import dynet as dy
import numpy as np


def R(x):
    return np.round(np.asarray(x, dtype=float).ravel(), 4).tolist()


pc = dy.ParameterCollection()
E = pc.add_lookup_parameters((10, 4))
W, b, V = pc.add_parameters((6, 4)), pc.add_parameters(6), pc.add_parameters((3, 6))
unused = pc.add_parameters(3)
trainer = dy.MomentumSGDTrainer(pc)


def scores(words):
    return V * dy.tanh(dy.affine_transform([b, W, dy.average(words)]))


for autobatching in False, True:
    for full in False, True:
        for update in True, False:
            dy.renew_cg(autobatching=autobatching)
            words = [dy.lookup(E, i, update=update) for i in (1, 5, 7)]
            loss = dy.pickneglogsoftmax(scores(words), 1)
            loss.backward(full=full)
            if update or not autobatching:
                print(R([w.gradient() for w in words]), R(W.gradient()))

# adversarial examples: the gradient of the words, then a loss of the words moved along it
for step in range(5):
    dy.renew_cg()
    words = [dy.lookup(E, (step + k) % 10, update=False) for k in range(3)]
    dy.pickneglogsoftmax(scores(words), step % 3).backward(full=True)
    moves = [0.1 * np.sign(w.gradient()) for w in words]
    dy.renew_cg()
    words = [E[(step + k) % 10] + dy.inputTensor(move) for k, move in enumerate(moves)]
    loss = dy.pickneglogsoftmax(scores(words), step % 3)
    print(round(loss.value(), 4))
    loss.backward()
    trainer.update()

for full in False, True:
    dy.renew_cg()
    word = E[2]
    fixed = dy.nobackprop(W * word)
    h = dy.tanh(fixed + b)
    aside = dy.sum_elems(dy.square(unused))
    constant = V.expr(False)
    loss = dy.squared_norm(constant * h + unused.expr(False))
    loss.backward(full=full)
    print(R(h.gradient()), R(fixed.gradient()), R(constant.gradient()), R(word.gradient()))

with tempfile.TemporaryDirectory() as folder:
    file = os.path.join(folder, "model")
    pc.save(file)
    with open(file) as lines:
        print([line.strip() for line in lines if line.startswith("#")])
