"""A shift-reduce parser over BiLSTM features that decides at every action; --batch sentences advance together. Unit: words.

Embedding 100, BiLSTM of 250, four features into a hidden layer of 100, three actions. The parser follows its own best legal action, as in
training with exploration; the loss is that of the action the example names for the step.
"""

import itertools

import batching
import common
import numpy as np

VOCABULARY, EMBEDDING, HIDDEN, LAYER, ACTIONS = 10_000, 100, 250, 100, 3
SHIFT = 0


class Run:
    """One sentence on its way: stack and buffer hold positions."""

    def __init__(self, states, golden):
        self.states, self.golden = states, golden
        self.stack, self.buffer, self.step = [], list(range(len(states))), 0

    def done(self):
        """Nothing to shift, one tree on the stack."""
        return not self.buffer and len(self.stack) < 2

    def features(self, padding):
        """The states of the stack's three uppermost and of the next word."""
        top = [self.states[i] for i in self.stack[-3:]]
        return [padding] * (3 - len(top)) + top + [self.states[self.buffer[0]] if self.buffer else padding]

    def act(self, scores):
        """Does the best legal action."""
        legal = ([SHIFT] if self.buffer else []) + ([1, 2] if len(self.stack) >= 2 else [])
        action = max(legal, key=lambda a: scores[a])
        if action == SHIFT:
            self.stack.append(self.buffer.pop(0))
        else:
            self.stack.pop(-2 if action == 1 else -1)
        self.step += 1


class Model:
    """All sentences of the step advance by an action each, whose scores are read together."""

    def __init__(self, dy, m):
        rng = np.random.default_rng(11)
        self.dy = dy
        self.E = m.add_lookup_parameters((VOCABULARY, EMBEDDING))
        self.E.init_from_array(common.glorot(rng, VOCABULARY, EMBEDDING))
        self.birnn = dy.BiRNNBuilder(1, EMBEDDING, HIDDEN, m, dy.VanillaLSTMBuilder)
        common.set_dynet_lstm(self.birnn, *(common.lstm_values(rng, EMBEDDING, HIDDEN // 2) for _ in range(2)))
        self.padding = m.add_parameters(HIDDEN)
        self.W1, self.b1 = m.add_parameters((LAYER, 4 * HIDDEN)), m.add_parameters(LAYER)
        self.W2, self.b2 = m.add_parameters((ACTIONS, LAYER)), m.add_parameters(ACTIONS)
        for p, shape in ((self.padding, (HIDDEN, 1)), (self.W1, (LAYER, 4 * HIDDEN)), (self.W2, (ACTIONS, LAYER))):
            p.set_value(common.glorot(rng, *shape).reshape(p.shape()))
        for p in (self.b1, self.b2):
            p.set_value(np.zeros(p.shape(), np.float32))

    @staticmethod
    def data():
        """An endless stream of (words, the action for each step)."""
        corpus = common.sentences(500, 10, 40, VOCABULARY, seed=12)
        return itertools.cycle([(words, common.tags(words * 2, ACTIONS, seed=i)) for i, words in enumerate(corpus)])

    def begin(self, words, golden):
        """A run at its start."""
        return Run(self.birnn.transduce([self.E[w] for w in words]), golden)

    def losses_of(self, examples):
        """A loss for each action of each sentence."""
        dy = self.dy
        runs = [self.begin(*example) for example in examples]
        losses = []
        while runs:
            scores = []
            for run in runs:
                layer = dy.tanh(dy.affine_transform([self.b1, self.W1, dy.concatenate(run.features(self.padding))]))
                scores.append(dy.affine_transform([self.b2, self.W2, layer]))
            losses += [dy.pickneglogsoftmax(s, run.golden[run.step]) for s, run in zip(scores, runs, strict=True)]
            dy.forward(scores)
            for s, run in zip(scores, runs, strict=True):
                run.act(s.value())
            runs = [run for run in runs if not run.done()]
        return losses

    def units(self, example):
        """Words."""
        return len(example[0])


if __name__ == "__main__":
    batching.main("parser_bilstm", "words", Model, batch=1, loss_steps=10)
