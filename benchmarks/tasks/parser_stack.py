"""A shift-reduce parser with stack LSTMs that decides at every action; --batch sentences advance
together. Unit: words.

Embedding 100, LSTMs of 128 over stack and buffer, trees composed by a layer of 100, three actions
(Dyer et al. 2015, without labels).
"""

import itertools

import batching
import common
import numpy as np
import twins

VOCABULARY, EMBEDDING, HIDDEN, ACTIONS = 10_000, 100, 128, 3
SHIFT = 0


def initial_values():
    """By name; two LSTMs."""
    rng = np.random.default_rng(13)
    values = {"E": common.glorot(rng, VOCABULARY, EMBEDDING)}
    values.update(
        (name, common.lstm_values(rng, EMBEDDING, HIDDEN)) for name in ("stack", "buffer")
    )
    values.update((name, common.glorot(rng, EMBEDDING, 1)[:, 0]) for name in ("root", "end"))
    shapes = {
        "compose": (EMBEDDING, 2 * EMBEDDING),
        "W1": (HIDDEN, 2 * HIDDEN),
        "W2": (ACTIONS, HIDDEN),
    }
    values.update((name, common.glorot(rng, *shape)) for name, shape in shapes.items())
    return {
        **values,
        **{
            name: np.zeros(n, np.float32)
            for name, n in (("bc", EMBEDDING), ("b1", HIDDEN), ("b2", ACTIONS))
        },
    }


class Run:
    """One sentence: stacks of (LSTM state, its input)."""

    def __init__(self, empty, buffer, golden):
        self.stack, self.buffer, self.golden, self.step = [(empty, None)], buffer, golden, 0

    def done(self):
        """Nothing to shift, one tree on the stack."""
        return len(self.buffer) == 1 and len(self.stack) < 3

    def take(self, scores):
        """Takes off what the best legal action works on: one input to shift, or two for composing,
        the head first."""
        legal = ([SHIFT] if len(self.buffer) > 1 else []) + ([1, 2] if len(self.stack) >= 3 else [])
        action = max(legal, key=lambda a: scores[a])
        self.step += 1
        if action == SHIFT:
            return [self.buffer.pop()[1]]
        right, left = self.stack.pop()[1], self.stack.pop()[1]
        return [right, left] if action == 1 else [left, right]


class Model:
    """All sentences of the step advance by an action each, whose scores are read together."""

    def __init__(self, dy, m):
        values = initial_values()
        self.dy = dy
        self.E = batching.table(m, values["E"])
        self.stack_lstm, self.buffer_lstm = (
            dy.VanillaLSTMBuilder(1, EMBEDDING, HIDDEN, m) for _ in range(2)
        )
        for lstm, name in ((self.stack_lstm, "stack"), (self.buffer_lstm, "buffer")):
            common.set_dynet_lstm(lstm, values[name])
        self.root, self.end, self.compose, self.bc = (
            batching.parameter(m, values[name]) for name in ("root", "end", "compose", "bc")
        )
        self.W1, self.b1, self.W2, self.b2 = (
            batching.parameter(m, values[name]) for name in ("W1", "b1", "W2", "b2")
        )

    @staticmethod
    def data():
        """An endless stream of (words, the action for each step)."""
        corpus = common.sentences(500, 10, 40, VOCABULARY, seed=14)
        return itertools.cycle(
            [(words, common.tags(words * 2, ACTIONS, seed=i)) for i, words in enumerate(corpus)]
        )

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
        x, *other = run.take(scores)
        if other:
            x = self.dy.tanh(
                self.dy.affine_transform([self.bc, self.compose, self.dy.concatenate([x, *other])])
            )
        run.stack.append((run.stack[-1][0].add_input(x), x))

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
            losses += [
                dy.pickneglogsoftmax(s, run.golden[run.step])
                for s, run in zip(scores, runs, strict=True)
            ]
            dy.forward(scores)
            for s, run in zip(scores, runs, strict=True):
                self.act(run, s.value())
            runs = [run for run in runs if not run.done()]
        return losses

    def units(self, example):
        """Words."""
        return len(example[0])


def torch_task(torch, args):
    """An action of all sentences at once: states are rows, which are put together for a step and
    taken apart after it."""
    values = initial_values()
    E, buffer_lstm, stack_cell = (
        twins.embedding(torch, values["E"]),
        twins.lstm(torch, values["buffer"]),
        twins.Cell(torch, values["stack"]),
    )
    root, end = (torch.nn.Parameter(torch.from_numpy(values[name])) for name in ("root", "end"))
    compose, first, second = (
        twins.linear(torch, values[w], values[b])
        for w, b in (("compose", "bc"), ("W1", "b1"), ("W2", "b2"))
    )

    def together(rows):
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def runs_of(examples, push):
        """The runs at their start: the buffers' LSTM reads all words, the last first."""
        words = [words[::-1] for words, _ in examples]
        xs = E(torch.tensor(twins.flat(words)))
        places = iter(range(1, 1 + len(xs)))
        read = [[0, *(next(places) for _ in ids)] for ids in words]
        inputs = torch.cat([end.unsqueeze(0), xs]).index_select(0, torch.tensor(twins.flat(read)))
        states = iter(twins.Padded(torch, read).outputs(torch, [buffer_lstm], inputs).split(1))
        rows = [None, *xs.split(1)]
        (h,), (c,) = push(root.unsqueeze(0), torch.zeros(1, HIDDEN), torch.zeros(1, HIDDEN))
        return [
            Run((h, c), [(next(states), rows[k]) for k in of], golden)
            for of, (_, golden) in zip(read, examples, strict=True)
        ]

    def loss_of(examples):
        w = torch.cat([stack_cell.wx, stack_cell.wh], 1).T

        def push(x, h, c):
            h, c = stack_cell.step(torch.addmm(stack_cell.b, torch.cat([x, h], 1), w), c)
            return h.split(1), c.split(1)

        runs, all_scores, labels = runs_of(examples, push), [], []
        while runs:
            state = torch.cat(
                [
                    together([run.stack[-1][0][0] for run in runs]),
                    together([run.buffer[-1][0] for run in runs]),
                ],
                1,
            )
            scores = second(torch.relu(first(state)))
            all_scores.append(scores)
            labels += [run.golden[run.step] for run in runs]
            taken = [run.take(s) for run, s in zip(runs, scores.tolist(), strict=True)]
            going = [
                (run, xs)
                for run, xs in zip(runs, taken, strict=True)
                if len(run.buffer) > 1 or len(run.stack) > 1
            ]
            pairs = [xs for _, xs in going if len(xs) == 2]
            if pairs:
                heads, others = zip(*pairs, strict=True)
                composed = iter(
                    torch.tanh(compose(torch.cat([together(heads), together(others)], 1))).split(1)
                )
            runs, xs = (
                [run for run, _ in going],
                [xs[0] if len(xs) == 1 else next(composed) for _, xs in going],
            )
            if runs:
                hs, cs = push(
                    together(xs), *(together([run.stack[-1][0][k] for run in runs]) for k in (0, 1))
                )
                for run, x, h, c in zip(runs, xs, hs, cs, strict=True):
                    run.stack.append(((h, c), x))
        return sum(len(words) for words, _ in examples), twins.cross_entropy(
            torch, torch.cat(all_scores), labels
        )

    return twins.task(
        torch,
        args,
        Model,
        [E],
        [root, end, *twins.trained(stack_cell, buffer_lstm, compose, first, second)],
        loss_of,
    )


if __name__ == "__main__":
    batching.main("parser_stack", "words", Model, batch=1, loss_steps=10, torch_task=torch_task)
