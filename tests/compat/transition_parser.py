"""A greedy arc-hybrid parser: BiLSTM features, a dynamic oracle, decisions by scores that are read at every action, exploration."""

import random

import corpus
import dynet as dy
import numpy as np

DIM, HID = 16, 20
SHIFT, LEFT, RIGHT = range(3)


class Parser:
    def __init__(self, words, tags):
        self.pc = dy.ParameterCollection()
        self.trainer = dy.AdamTrainer(self.pc, 0.002)
        self.trainer.set_sparse_updates(True)
        self.words = {w: i + 1 for i, w in enumerate(words)}
        self.tags = {t: i for i, t in enumerate(tags)}
        self.E = self.pc.add_lookup_parameters((len(words) + 1, DIM), name="words")
        self.T = self.pc.add_lookup_parameters((len(tags), 4), name="tags")
        self.bilstm = dy.BiRNNBuilder(1, DIM + 4, 2 * HID, self.pc, dy.VanillaLSTMBuilder)
        self.pad = self.pc.add_parameters(2 * HID, name="pad")
        self.W1 = self.pc.add_parameters((HID, 2 * HID * 3))
        self.b1 = self.pc.add_parameters(HID, init=dy.ConstInitializer(0))
        self.W2 = self.pc.add_parameters((3, HID), init="glorot")
        self.b2 = self.pc.add_parameters(3, init=0.0)
        self.pc_name = self.pc.name()

    def represent(self, sentence, train):
        vectors = []
        for entry in sentence:
            i = self.words.get(entry.form, 0) if not train or random.random() > 0.1 else 0
            vectors.append(dy.concatenate([self.E[i], dy.lookup(self.T, self.tags[entry.pos])]))
        return self.bilstm.transduce(vectors)

    def scores(self, hs, stack, buffer):
        pad = dy.parameter(self.pad)
        top = [hs[stack[-2]] if len(stack) > 1 else pad, hs[stack[-1]] if stack else pad, hs[buffer[0]] if buffer else pad]
        return dy.affine_transform([self.b2, self.W2, dy.tanh(dy.affine_transform([self.b1, self.W1, dy.concatenate(top)]))])

    @staticmethod
    def costs(stack, buffer, heads, n):
        """How many arcs of the tree each action loses; None where it cannot be done. Node n is the root, at the end of the buffer."""
        b = buffer[0] if buffer else None
        rest = set(buffer[1:])
        costs = [None, None, None]
        if len(buffer) > 1:
            costs[SHIFT] = sum(heads[s] == b for s in stack) + sum(heads[b] == s for s in stack[:-1])
        if stack and buffer:
            s = stack[-1]
            costs[LEFT] = sum(heads[k] == s for k in buffer) + (heads[s] in rest) + (len(stack) > 1 and heads[s] == stack[-2])
        if len(stack) > 1:
            s = stack[-1]
            costs[RIGHT] = sum(heads[k] == s for k in buffer) + (heads[s] in set(buffer))
        return costs

    def parse(self, sentence, train):
        n = len(sentence)
        hs = [*self.represent(sentence, train), self.pad.expr(True)]
        gold = [entry.head - 1 if entry.head else n for entry in sentence] + [None]
        heads, losses = [None] * n, []
        stack, buffer = [], list(range(n + 1))
        while stack or len(buffer) > 1:
            output = self.scores(hs, stack, buffer)
            values = output.npvalue()
            costs = self.costs(stack, buffer, gold, n)
            possible = [a for a in range(3) if costs[a] is not None]
            best = max(possible, key=lambda a: values[a])
            if train:
                good = [a for a in possible if costs[a] == min(costs[b] for b in possible)]
                bad = [a for a in possible if a not in good]
                best_good = max(good, key=lambda a: values[a])
                if bad:
                    worst = max(bad, key=lambda a: values[a])
                    if values[best_good] < values[worst] + 1.0:
                        losses.append(output[worst] - output[best_good] + 1.0)
                    if values[worst] - values[best_good] > 0 and random.random() > 0.1:
                        best = best_good
                    else:
                        best = best_good if values[best_good] >= values[worst] else worst
            if best == SHIFT:
                stack.append(buffer.pop(0))
            elif best == LEFT:
                heads[stack.pop()] = buffer[0]
            else:
                dependent = stack.pop()
                heads[dependent] = stack[-1]
        return heads, gold, losses


def main():
    random.seed(7)
    data = corpus.treebank(16, seed=5)
    parser = Parser(sorted({e.form for s in data for e in s}), sorted({e.pos for s in data for e in s}))
    for epoch in range(4):
        random.shuffle(data)
        total, errors = 0.0, []
        dy.renew_cg()
        for sentence in data:
            _, _, losses = parser.parse(sentence, True)
            errors += losses
            if len(errors) > 20:
                loss = dy.esum(errors)
                total += loss.scalar_value()
                loss.backward()
                parser.trainer.update()
                errors = []
                dy.renew_cg()
        right, words = 0, 0
        for sentence in data[:6]:
            dy.renew_cg()
            heads, gold, _ = parser.parse(sentence, False)
            right += sum(np.array(heads) == np.array(gold[:-1]))
            words += len(heads)
        print("epoch %d loss %.6f accuracy %.4f" % (epoch, total, right / words))
    for p in parser.pc.parameters_list():
        print(p.name(), p.shape(), np.linalg.norm(p.as_array()))


main()
