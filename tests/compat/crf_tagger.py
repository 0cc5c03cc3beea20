"""A BiLSTM-CRF tagger with characters: dropout in builders, the forward algorithm in expressions, Viterbi in NumPy, dy.save and dy.load."""

import random
import tempfile
from pathlib import Path

import corpus
import dynet as dy
import numpy as np


class BiLSTM_CRF:
    def __init__(self, words, tags, chars):
        self.model = dy.Model()
        self.w2i = {w: i for i, w in enumerate(["<unk>", *words])}
        self.t2i = {t: i for i, t in enumerate([*tags, "<s>", "</s>"])}
        self.c2i = {c: i for i, c in enumerate(["<*>", *chars])}
        self.ntags = len(self.t2i)
        self.word_lookup = self.model.add_lookup_parameters((len(self.w2i), 12), init=dy.UniformInitializer(0.1))
        self.char_lookup = self.model.add_lookup_parameters((len(self.c2i), 6))
        self.cfwd = dy.GRUBuilder(1, 6, 5, self.model)
        self.cbwd = dy.GRUBuilder(1, 6, 5, self.model)
        self.lstm = dy.BiRNNBuilder(2, 12 + 10, 20, self.model, dy.LSTMBuilder)
        self.W = self.model.add_parameters((self.ntags, 20), init=dy.NormalInitializer(0, 0.05))
        self.b = self.model.add_parameters(self.ntags, init=dy.ConstInitializer(0.0))
        self.trans = self.model.add_lookup_parameters((self.ntags, self.ntags))

    def set_dropout(self, p):
        self.lstm.set_dropout(p)

    def disable_dropout(self):
        self.lstm.disable_dropout()

    def word(self, word):
        ids = [0] + [self.c2i[c] for c in word] + [0]
        xs = [self.char_lookup[i] for i in ids]
        forward = self.cfwd.initial_state().transduce(xs)[-1]
        backward = self.cbwd.initial_state().transduce(xs[::-1])[-1]
        return dy.concatenate([self.word_lookup[self.w2i.get(word, 0)], forward, backward])

    def emissions(self, words, train):
        xs = [self.word(w) for w in words]
        if train:
            xs = [dy.noise(x, 0.1) for x in xs]
        return [dy.affine_transform([self.b, self.W, h]) for h in self.lstm.transduce(xs)]

    def score(self, emissions, tags):
        score, tags = dy.scalarInput(0), [self.t2i["<s>"], *tags]
        for i, emission in enumerate(emissions):
            score = score + dy.pick(self.trans[tags[i + 1]], tags[i]) + dy.pick(emission, tags[i + 1])
        return score + dy.pick(self.trans[self.t2i["</s>"]], tags[-1])

    def forward(self, emissions):
        init = [-1e10] * self.ntags
        init[self.t2i["<s>"]] = 0
        alpha = dy.inputVector(init)
        transitions = [self.trans[t] for t in range(self.ntags)]
        for emission in emissions:
            steps = []
            for t in range(self.ntags):
                broadcast = dy.concatenate([dy.pick(emission, t)] * self.ntags)
                steps.append(dy.logsumexp_dim(alpha + transitions[t] + broadcast))
            alpha = dy.concatenate(steps)
        return dy.logsumexp_dim(alpha + self.trans[self.t2i["</s>"]])

    def viterbi(self, words):
        back = []
        v = np.full(self.ntags, -1e10)
        v[self.t2i["<s>"]] = 0
        transitions = np.array([self.trans[t].npvalue() for t in range(self.ntags)])
        for emission in self.emissions(words, False):
            paths = v[None, :] + transitions
            back.append(paths.argmax(axis=1))
            v = paths.max(axis=1) + emission.npvalue()
        best = int((v + transitions[self.t2i["</s>"]]).argmax())
        path = [best]
        for pointers in reversed(back[1:]):
            path.append(int(pointers[path[-1]]))
        return path[::-1]


random.seed(5)
data = corpus.tagged(14)
words = sorted({w for s in data for w, _ in s})
tags = sorted({t for s in data for _, t in s})
chars = sorted({c for w in words for c in w})
tagger = BiLSTM_CRF(words, tags, chars)
trainer = dy.MomentumSGDTrainer(tagger.model, learning_rate=0.02, mom=0.8)
for epoch in range(3):
    random.shuffle(data)
    tagger.set_dropout(0.3)
    total = 0.0
    for sentence in data:
        dy.renew_cg()
        emissions = tagger.emissions([w for w, _ in sentence], True)
        loss = tagger.forward(emissions) - tagger.score(emissions, [tagger.t2i[t] for _, t in sentence])
        total += loss.scalar_value() / len(sentence)
        loss.backward()
        trainer.update()
    tagger.disable_dropout()
    right = n = 0
    for sentence in data[:6]:
        dy.renew_cg()
        path = tagger.viterbi([w for w, _ in sentence])
        right += sum(p == tagger.t2i[t] for p, (_, t) in zip(path, sentence))
        n += len(path)
    print("epoch %r: loss per word %r, right %d of %d" % (epoch, total / len(data), right, n))
with tempfile.TemporaryDirectory() as folder:
    base = str(Path(folder) / "tagger")
    dy.save(base, [tagger.lstm, tagger.W, tagger.word_lookup, tagger.cfwd])
    pc = dy.ParameterCollection()
    lstm, W, lookup, gru = dy.load(base, pc)
    dy.renew_cg()
    x = dy.inputTensor(np.linspace(-1, 1, 22))
    print((W * lstm.transduce([x, x])[1]).value(), gru.initial_state().add_input(dy.ones(6)).output().value(), lookup[3].value())
