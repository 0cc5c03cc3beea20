"""A shift-reduce parser with stack LSTMs that decides at every action; --batch sentences advance together. Unit: words.

Embedding 100, LSTMs of 128 over stack and buffer, trees composed by a layer of 100, three actions (Dyer et al. 2015, without labels).
"""

import itertools

import batching
import common
import numpy as np

VOCABULARY, EMBEDDING, HIDDEN, ACTIONS = 10_000, 100, 128, 3
SHIFT = 0


class Run:
    """One sentence: stacks of (LSTM state, its input)."""

    def __init__(self, empty, buffer, golden):
        self.stack, self.buffer, self.golden, self.step = [(empty, None)], buffer, golden, 0

    def done(self):
        """Nothing to shift, one tree on the stack."""
        return len(self.buffer) == 1 and len(self.stack) < 3


class Model:
    """All sentences of the step advance by an action each, whose scores are read together."""

    def __init__(self, dy, m):
        rng = np.random.default_rng(13)
        self.dy = dy
        self.E = m.add_lookup_parameters((VOCABULARY, EMBEDDING))
        self.E.init_from_array(common.glorot(rng, VOCABULARY, EMBEDDING))
        self.stack_lstm, self.buffer_lstm = (dy.VanillaLSTMBuilder(1, EMBEDDING, HIDDEN, m) for _ in range(2))
        for lstm in (self.stack_lstm, self.buffer_lstm):
            common.set_dynet_lstm(lstm, common.lstm_values(rng, EMBEDDING, HIDDEN))
        shapes = ((EMBEDDING, 1), (EMBEDDING, 1), (EMBEDDING, 2 * EMBEDDING), (HIDDEN, 2 * HIDDEN), (ACTIONS, HIDDEN))
        self.root, self.end, self.compose, self.W1, self.W2 = (m.add_parameters(s if s[1] > 1 else s[0]) for s in shapes)
        for p, shape in zip((self.root, self.end, self.compose, self.W1, self.W2), shapes, strict=True):
            p.set_value(common.glorot(rng, *shape).reshape(p.shape()))
        self.bc, self.b1, self.b2 = (m.add_parameters(n) for n in (EMBEDDING, HIDDEN, ACTIONS))
        for p in (self.bc, self.b1, self.b2):
            p.set_value(np.zeros(p.shape(), np.float32))

    @staticmethod
    def data():
        """An endless stream of (words, the action for each step)."""
        corpus = common.sentences(500, 10, 40, VOCABULARY, seed=14)
        return itertools.cycle([(words, common.tags(words * 2, ACTIONS, seed=i)) for i, words in enumerate(corpus)])

    def begin(self, words, golden):
        """The buffer is read from its end."""
        state = self.buffer_lstm.initial_state().add_input(self.end)
        buffer = [(state, None)]
        for w in reversed(words):
            x = self.E[w]
            state = state.add_input(x)
            buffer.append((state, x))
        return Run(self.stack_lstm.initial_state().add_input(self.root), buffer, golden)

    def act(self, run, scores):
        """Does the best legal action."""
        legal = ([SHIFT] if len(run.buffer) > 1 else []) + ([1, 2] if len(run.stack) >= 3 else [])
        action = max(legal, key=lambda a: scores[a])
        if action == SHIFT:
            x = run.buffer.pop()[1]
        else:
            right, left = run.stack.pop()[1], run.stack.pop()[1]
            pair = [right, left] if action == 1 else [left, right]
            x = self.dy.tanh(self.dy.affine_transform([self.bc, self.compose, self.dy.concatenate(pair)]))
        run.stack.append((run.stack[-1][0].add_input(x), x))
        run.step += 1

    def losses_of(self, examples):
        """A loss for each action of each sentence."""
        dy = self.dy
        runs = [self.begin(*example) for example in examples]
        losses = []
        while runs:
            scores = []
            for run in runs:
                state = dy.concatenate([run.stack[-1][0].output(), run.buffer[-1][0].output()])
                layer = dy.rectify(dy.affine_transform([self.b1, self.W1, state]))
                scores.append(dy.affine_transform([self.b2, self.W2, layer]))
            losses += [dy.pickneglogsoftmax(s, run.golden[run.step]) for s, run in zip(scores, runs, strict=True)]
            dy.forward(scores)
            for s, run in zip(scores, runs, strict=True):
                self.act(run, s.value())
            runs = [run for run in runs if not run.done()]
        return losses

    def units(self, example):
        """Words."""
        return len(example[0])


if __name__ == "__main__":
    batching.main("parser_stack", "words", Model, batch=1, loss_steps=10)
