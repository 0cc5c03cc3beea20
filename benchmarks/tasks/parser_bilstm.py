"""A shift-reduce parser over BiLSTM features that decides at every action; --batch sentences
advance together. Unit: words.

Embedding 100, BiLSTM of 250, four features into a hidden layer of 100, three actions. The parser
follows its own best legal action, as in training with exploration; the loss is that of the action
the example names for the step.
"""

import itertools

import batching
import common
import numpy as np
import twins

VOCABULARY, EMBEDDING, HIDDEN, LAYER, ACTIONS = 10_000, 100, 250, 100, 3
SHIFT = 0


def initial_values():
    """By name; an LSTM for each direction."""
    rng = np.random.default_rng(11)
    return {
        "E": common.glorot(rng, VOCABULARY, EMBEDDING),
        "lstms": [common.lstm_values(rng, EMBEDDING, HIDDEN // 2) for _ in range(2)],
        "padding": common.glorot(rng, HIDDEN, 1)[:, 0],
        "W1": common.glorot(rng, LAYER, 4 * HIDDEN),
        "b1": np.zeros(LAYER, np.float32),
        "W2": common.glorot(rng, ACTIONS, LAYER),
        "b2": np.zeros(ACTIONS, np.float32),
    }


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
        return (
            [padding] * (3 - len(top))
            + top
            + [self.states[self.buffer[0]] if self.buffer else padding]
        )

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
        values = initial_values()
        self.dy = dy
        self.E = batching.table(m, values["E"])
        self.birnn = dy.BiRNNBuilder(1, EMBEDDING, HIDDEN, m, dy.VanillaLSTMBuilder)
        common.set_dynet_lstm(self.birnn, *values["lstms"])
        names = ("padding", "W1", "b1", "W2", "b2")
        self.padding, self.W1, self.b1, self.W2, self.b2 = (
            batching.parameter(m, values[name]) for name in names
        )

    @staticmethod
    def data():
        """An endless stream of (words, the action for each step)."""
        corpus = common.sentences(500, 10, 40, VOCABULARY, seed=12)
        return itertools.cycle(
            [(words, common.tags(words * 2, ACTIONS, seed=i)) for i, words in enumerate(corpus)]
        )

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
                layer = dy.tanh(
                    dy.affine_transform(
                        [self.b1, self.W1, dy.concatenate(run.features(self.padding))]
                    )
                )
                scores.append(dy.affine_transform([self.b2, self.W2, layer]))
            losses += [
                dy.pickneglogsoftmax(s, run.golden[run.step])
                for s, run in zip(scores, runs, strict=True)
            ]
            dy.forward(scores)
            for s, run in zip(scores, runs, strict=True):
                run.act(s.value())
            runs = [run for run in runs if not run.done()]
        return losses

    def units(self, example):
        """Words."""
        return len(example[0])


def torch_task(torch, args):
    """Decisions without gradients, those of all sentences at once; then all scores again at once,
    for the loss.

    A state is its row in an array of all words' states, which the padding begins.
    """
    values = initial_values()
    E, lstms = twins.embedding(torch, values["E"]), [twins.lstm(torch, v) for v in values["lstms"]]
    padding = torch.nn.Parameter(torch.from_numpy(values["padding"]))
    first, second = (
        twins.linear(torch, values["W1"], values["b1"]),
        twins.linear(torch, values["W2"], values["b2"]),
    )

    def scores_of(H, features):
        return second(
            torch.tanh(first(H.index_select(0, torch.tensor(features)).view(-1, 4 * HIDDEN)))
        )

    def loss_of(examples):
        words = [words for words, _ in examples]
        states = twins.Padded(torch, words).outputs(
            torch, lstms, E(torch.tensor(twins.flat(words)))
        )
        H = torch.cat([padding.unsqueeze(0), states])
        ends = itertools.accumulate(map(len, words))
        runs = [
            Run(range(1 + end - len(golden) // 2, 1 + end), golden)
            for end, (_, golden) in zip(ends, examples, strict=True)
        ]
        features, labels = [], []
        with torch.no_grad():
            while runs:
                now = [i for run in runs for i in run.features(0)]
                features += now
                labels += [run.golden[run.step] for run in runs]
                for run, scores in zip(runs, scores_of(H, now).tolist(), strict=True):
                    run.act(scores)
                runs = [run for run in runs if not run.done()]
        return len(states), twins.cross_entropy(torch, scores_of(H, features), labels)

    return twins.task(
        torch, args, Model, [E], [padding, *twins.trained(*lstms, first, second)], loss_of
    )


if __name__ == "__main__":
    batching.main("parser_bilstm", "words", Model, batch=1, loss_steps=10, torch_task=torch_task)
