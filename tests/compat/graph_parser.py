"""A graph-based dependency parser: BiLSTM features, scores of all arcs, loss-augmented Eisner decoding, hinge loss over many sentences."""

import random
import sys
import tempfile
from pathlib import Path

import corpus
import dynet as dy
import numpy as np

LDIMS, WDIMS, PDIMS, HIDDEN = 16, 12, 6, 12


def eisner(scores, gold=None):
    """Heads of the best projective tree: scores[head, modifier]; with gold, every wrong arc counts 1 more."""
    n = scores.shape[0] - 1
    complete = np.zeros([n + 1, n + 1, 2])
    incomplete = np.zeros([n + 1, n + 1, 2])
    complete_back = -np.ones([n + 1, n + 1, 2], dtype=int)
    incomplete_back = -np.ones([n + 1, n + 1, 2], dtype=int)
    incomplete[0, :, 0] -= np.inf
    for k in range(1, n + 1):
        for s in range(n - k + 1):
            t = s + k
            values = complete[s, s:t, 1] + complete[(s + 1):(t + 1), t, 0]
            incomplete[s, t, 0] = np.max(values + scores[t, s] + (0.0 if gold is not None and gold[s] == t else 1.0))
            incomplete_back[s, t, 0] = s + np.argmax(values)
            incomplete[s, t, 1] = np.max(values + scores[s, t] + (0.0 if gold is not None and gold[t] == s else 1.0))
            incomplete_back[s, t, 1] = s + np.argmax(values)
            values = complete[s, s:t, 0] + incomplete[s:t, t, 0]
            complete[s, t, 0] = np.max(values)
            complete_back[s, t, 0] = s + np.argmax(values)
            values = incomplete[s, (s + 1):(t + 1), 1] + complete[(s + 1):(t + 1), t, 1]
            complete[s, t, 1] = np.max(values)
            complete_back[s, t, 1] = s + 1 + np.argmax(values)
    heads = [-1 for _ in range(n + 1)]

    def back(s, t, direction, is_complete):
        if s == t:
            return
        if is_complete:
            r = complete_back[s][t][direction]
            back(*((s, r, 0, 1) if direction == 0 else (s, r, 1, 0)))
            back(*((r, t, 0, 0) if direction == 0 else (r, t, 1, 1)))
        else:
            r = incomplete_back[s][t][direction]
            heads[t if direction else s] = s if direction else t
            back(s, r, 1, 1)
            back(r + 1, t, 0, 1)

    back(0, n, 1, 1)
    return heads


class MSTParserLSTM:
    def __init__(self, words, tags):
        self.model = dy.ParameterCollection()
        random.seed(1)
        self.trainer = dy.AdamTrainer(self.model)
        self.vocab = {word: i + 3 for i, word in enumerate(words)}
        self.pos = {tag: i + 3 for i, tag in enumerate(tags)}
        self.vocab["*PAD*"], self.vocab["*INITIAL*"] = 1, 2
        self.pos["*PAD*"], self.pos["*INITIAL*"] = 1, 2
        self.counts = {word: 2 for word in words}
        dims = WDIMS + PDIMS
        self.builders = [dy.VanillaLSTMBuilder(1, dims, LDIMS, self.model), dy.VanillaLSTMBuilder(1, dims, LDIMS, self.model)]
        self.bbuilders = [dy.VanillaLSTMBuilder(1, LDIMS * 2, LDIMS, self.model), dy.VanillaLSTMBuilder(1, LDIMS * 2, LDIMS, self.model)]
        self.wlookup = self.model.add_lookup_parameters((len(words) + 3, WDIMS))
        self.plookup = self.model.add_lookup_parameters((len(tags) + 3, PDIMS))
        self.hidLayerFOH = self.model.add_parameters((HIDDEN, LDIMS * 2))
        self.hidLayerFOM = self.model.add_parameters((HIDDEN, LDIMS * 2))
        self.hidBias = self.model.add_parameters((HIDDEN))
        self.outLayer = self.model.add_parameters((1, HIDDEN))

    def expr(self, sentence, i, j):
        if sentence[i].headfov is None:
            sentence[i].headfov = self.hidLayerFOH.expr(True) * dy.concatenate([sentence[i].lstms[0], sentence[i].lstms[1]])
        if sentence[j].modfov is None:
            sentence[j].modfov = self.hidLayerFOM.expr(True) * dy.concatenate([sentence[j].lstms[0], sentence[j].lstms[1]])
        return self.outLayer.expr(True) * dy.tanh(sentence[i].headfov + sentence[j].modfov + self.hidBias.expr(True))

    def evaluate(self, sentence):
        exprs = [[self.expr(sentence, i, j) for j in range(len(sentence))] for i in range(len(sentence))]
        scores = np.array([[output.scalar_value() for output in row] for row in exprs])
        return scores, exprs

    def features(self, sentence, train):
        for entry in sentence:
            c = self.counts.get(entry.form, 0)
            dropped = (random.random() < (c / (0.25 + c))) if train else True
            wordvec = dy.lookup(self.wlookup, int(self.vocab.get(entry.form, 0)) if dropped else 0)
            posvec = dy.lookup(self.plookup, int(self.pos[entry.pos]))
            entry.vec = dy.concatenate(list(filter(None, [wordvec, posvec, None])))
            entry.lstms = [entry.vec, entry.vec]
            entry.headfov = entry.modfov = None
        for forward_builder, backward_builder in (self.builders, self.bbuilders):
            forward, backward = forward_builder.initial_state(), backward_builder.initial_state()
            for fentry, rentry in zip(sentence, reversed(sentence)):
                forward = forward.add_input(fentry.vec)
                backward = backward.add_input(rentry.vec)
                fentry.lstms[1] = forward.output()
                rentry.lstms[0] = backward.output()
            for entry in sentence:
                entry.vec = dy.concatenate(entry.lstms)

    def train(self, data):
        total, errs = 0.0, []
        dy.renew_cg()
        for sentence in data:
            sentence = [corpus.Entry(0, "*INITIAL*", "*INITIAL*", -1), *sentence]
            self.features(sentence, True)
            scores, exprs = self.evaluate(sentence)
            gold = [entry.head for entry in sentence]
            heads = eisner(scores, gold)
            errs += [exprs[h][i] - exprs[g][i] for i, (h, g) in enumerate(zip(heads, gold)) if h != g]
            if len(errs) > 8:
                eerrs = dy.esum(errs)
                total += eerrs.scalar_value()
                eerrs.backward()
                self.trainer.update()
                errs = []
                dy.renew_cg()
        if errs:
            eerrs = dy.esum(errs) * (1.0 / len(errs))
            total += eerrs.scalar_value()
            eerrs.backward()
            self.trainer.update()
        self.trainer.status()
        return total

    def predict(self, data):
        right = total = 0
        for sentence in data:
            dy.renew_cg()
            sentence = [corpus.Entry(0, "*INITIAL*", "*INITIAL*", -1), *sentence]
            self.features(sentence, False)
            scores, _ = self.evaluate(sentence)
            heads = eisner(scores)
            right += sum(h == entry.head for h, entry in zip(heads[1:], sentence[1:]))
            total += len(sentence) - 1
        return right / float(total)


if __name__ == "__main__":
    data = corpus.treebank(16)
    words = sorted({entry.form for s in data for entry in s})
    tags = sorted({entry.pos for s in data for entry in s})
    parser = MSTParserLSTM(words, tags)
    for epoch in range(4):
        print("epoch", epoch, "loss", parser.train(data), "accuracy", parser.predict(data[:6]))
        sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder) / "barchybrid.model")
        parser.model.save(name)
        again = MSTParserLSTM(words, tags)
        again.model.populate(name)
        print("read again", again.predict(data[:6]))
