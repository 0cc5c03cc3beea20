"""Convolution over sentences in the cnn_train manner, `from dynet import *`, pre-trained rows, frozen tables, weight decay, batches by hand."""

import random

import corpus
import numpy as np
from dynet import *

random.seed(2)
np.random.seed(2)
vocabulary = ["<pad>", "good", "great", "fine", "bad", "poor", "awful", "film", "plot", "very"]
w2i = {w: i for i, w in enumerate(vocabulary)}


def leaves(tree):
    return [tree[1]] if len(tree) == 2 else leaves(tree[1]) + leaves(tree[2])




def no_twins(words):  # equal windows would tie in kmax_pooling
    return [w for i, w in enumerate(words) if i == 0 or w != words[i - 1]]


data = [([w2i[w] for w in no_twins(leaves(t))], t[0]) for t in corpus.trees(48, seed=6)]
EMB, WIN, FILTERS = 8, 3, 10
model = ParameterCollection()
W_emb = model.add_lookup_parameters((len(vocabulary), 1, 1, EMB))
W_fixed = model.lookup_parameters_from_numpy(np.random.uniform(-1, 1, (len(vocabulary), EMB)))
W_fixed.set_updated(False)
for i in range(len(vocabulary)):
    W_emb.init_row(i, np.random.normal(0, 0.2, EMB).tolist())
W_cnn = model.add_parameters((1, WIN, EMB, FILTERS))
b_cnn = model.add_parameters((FILTERS), init=0)
F = model.add_parameters((EMB, WIN, 4))
W_sm = model.add_parameters((3, FILTERS + 8))
b_sm = model.add_parameters(3, init=0.0)
model.set_weight_decay_lambda(1e-3)
trainer = RMSPropTrainer(model, 0.005)


def scores(words, drop):
    words = words + [0] * max(0, WIN - len(words))
    cnn_in = concatenate([W_emb[x] for x in words], d=1)
    cnn_out = conv2d_bias(cnn_in, parameter(W_cnn), parameter(b_cnn), stride=(1, 1), is_valid=False)
    pool = max_dim(cnn_out, d=1)
    pool = rectify(reshape(pool, (FILTERS,)))
    narrow = filter1d_narrow(concatenate_cols([lookup(W_fixed, x, update=False) for x in words]), parameter(F))
    other = kmax_pooling(narrow, 2 if narrow.dim()[0][1] > 1 else 1)
    other = reshape(other, (4 * other.dim()[0][1],))
    if other.dim()[0][0] < 8:
        other = concatenate([other, zeros(4)])
    features = concatenate([pool, tanh(other)])
    if drop:
        features = dropout(features, 0.3)
    return affine_transform([b_sm, W_sm, features])


for epoch in range(4):
    random.shuffle(data)
    train_loss, correct = 0.0, 0.0
    for i in range(0, len(data), 4):
        renew_cg()
        losses = [pickneglogsoftmax(scores(words, True), tag) for words, tag in data[i:i + 4]]
        loss = average(losses)
        train_loss += loss.value()
        loss.backward()
        trainer.update()
    for words, tag in data[:16]:
        renew_cg(autobatching=True)
        correct += np.argmax(scores(words, False).npvalue()) == tag
    print("iter %r: train loss/sent=%.5f, acc=%.4f" % (epoch, train_loss / len(data), correct / 16))
renew_cg()
print(W_emb[1].value(), W_fixed[2].npvalue().tolist(), len(W_emb), W_sm.shape(), model.parameter_count())
