"""Expressions that a program keeps in NumPy arrays, as objects: features of words, charts, beams that are sorted and drawn from."""

import dynet as dy
import numpy as np

WORDS, TAGS, LABELS = 6, 4, 3
pc = dy.ParameterCollection()
words = pc.add_lookup_parameters((WORDS, 5))
suffixes = pc.add_lookup_parameters((WORDS, 2))
first, last = pc.add_parameters((TAGS, 7)), pc.add_parameters((LABELS, TAGS))
rnn = dy.GRUBuilder(1, 7, 7, pc)
trainer = dy.SimpleSGDTrainer(pc, 0.1)


def kind(array):
    return array.shape, array.dtype.name, sorted({type(x).__name__.strip("_") for x in array.flat})


for step in range(3):
    dy.renew_cg()
    sentence = [1, 4, 2, 5]
    found = np.array([words[w] for w in sentence])
    lengths = dy.inputTensor(np.array([[w / 5, 1.0] for w in sentence]))
    features = [dy.concatenate([w, suffixes[k] + n]) for w, k, n in zip(found, sentence, lengths)]
    outputs = np.array(rnn.initial_state().transduce(features), dtype=object)
    scores = [last * dy.tanh(first * h) for h in outputs[::-1]]
    loss = dy.esum([dy.pickneglogsoftmax(s, k % LABELS) for k, s in enumerate(scores)])
    print(f"{loss.value():.5f}")
    loss.backward()
    trainer.update()
dy.renew_cg()
print(kind(found), kind(outputs))
# a chart of expressions, filled in and added up
chart = np.empty((3, 3), dtype=object)
for i in range(3):
    for j in range(i, 3):
        chart[i, j] = dy.dot_product(words[i], words[j])
print(kind(np.array([[chart[0, 0], chart[0, 1]], [chart[1, 1], chart[1, 2]]])), chart[2, 0])
print(f"{np.sum(chart[0]).value():.5f}", [f"{x.value():.5f}" for x in np.cumsum(chart[0])])
# expressions of different dims, parameters, and other things next to them
print(kind(np.array([words[0], dy.zeros(3), None])), kind(np.array([first, first])), kind(np.array(words[0])))
print(kind(np.stack([words[0], words[1]])), kind(np.array([dy.zeros(2, batch_size=3)])))
# drawn and permuted by NumPy: the expression itself comes back
np.random.seed(4)
rows = [words[k] for k in range(WORDS)]
print(rows.index(np.random.choice(rows)), [rows.index(x) for x in np.random.permutation(rows)])
