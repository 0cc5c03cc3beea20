"""A tagger over lattices: characters in a chain and words that span some of them, each with cells
of its own, written for one sentence, the losses of 32 in one graph: 64 inputs, 64 hidden. Unit:
characters.

As the lattice LSTM (Zhang and Yang 2018): the state of a character takes in the words that end
there, each of which begins with the state before its first character. So the graph is no tree, and
cells of the two kinds wait for one another, in an order that differs between the sentences.
"""

import itertools
import random

import batching
import common
import numpy as np

CHARACTERS, WORDS, EMBEDDING, HIDDEN, TAGS = 500, 5_000, 64, 64, 5
WORD_SHARE = 0.5
"""Of the characters, how many begin a word."""


def lattices(count, shortest, longest, seed):
    """Lists of (character, [(begin, word), ...], tag): the words end at the character and begin at
    least one before it."""
    rng = random.Random(seed)
    result = []
    for characters in common.sentences(count, shortest, longest, CHARACTERS, seed):
        words = [[] for _ in characters]
        for begin in range(len(characters)):
            end = begin + rng.randint(1, 4)
            if end < len(characters) and rng.random() < WORD_SHARE:
                words[end].append((begin, rng.randrange(WORDS)))
        result.append(
            [(c, ws, rng.randrange(TAGS)) for c, ws in zip(characters, words, strict=True)]
        )
    return result


def initial_values():
    """By name: tables, and (b, of the input, of the state) of each gate."""
    rng, h = np.random.default_rng(8), HIDDEN

    def gate():
        return np.zeros(h, np.float32), common.glorot(rng, h, h), common.glorot(rng, h, h)

    return {
        "characters": common.glorot(rng, CHARACTERS, EMBEDDING),
        "words": common.glorot(rng, WORDS, EMBEDDING),
        "of_character": [gate() for _ in range(3)],
        "of_word": [gate() for _ in range(3)],
        "link": gate(),
        "W": common.glorot(rng, TAGS, h),
        "b": np.zeros(TAGS, np.float32),
    }


class Model:
    """States of characters and words by operations, a loss at each character."""

    def __init__(self, dy, m):
        values = initial_values()
        self.dy = dy
        self.C, self.L = (batching.table(m, values[name]) for name in ("characters", "words"))
        self.W, self.b = (batching.parameter(m, values[name]) for name in ("W", "b"))

        def gate(parts):
            return [batching.parameter(m, v) for v in parts]

        self.of_character, self.of_word = (
            [gate(parts) for parts in values[name]] for name in ("of_character", "of_word")
        )
        self.link = gate(values["link"])

    @staticmethod
    def data():
        """An endless stream of lattices."""
        return itertools.cycle(lattices(1000, 10, 40, seed=9))

    def gate(self, parts, x, h):
        """b + W x + U h."""
        b, W, U = parts
        return self.dy.affine_transform([b, W, x, U, h])

    def word_cell(self, x, h, c):
        """What a word carries to the character where it ends; h and c: before its first one."""
        dy, (i, f, u) = self.dy, self.of_word
        return dy.cmult(dy.logistic(self.gate(i, x, h)), dy.tanh(self.gate(u, x, h))) + dy.cmult(
            dy.logistic(self.gate(f, x, h)), c
        )

    def character(self, x, h, c, words):
        """h and c of a character; h, c: of the one before; words: what those that end here
        carry."""
        dy, (i, o, u) = self.dy, self.of_character
        gate = dy.logistic(self.gate(i, x, h))
        kept = dy.cmult(gate, dy.tanh(self.gate(u, x, h)))
        carried = [dy.cmult(dy.logistic(self.gate(self.link, x, w)), w) for w in words]
        c = kept + (dy.average(carried) if carried else c - dy.cmult(gate, c))
        return dy.cmult(dy.logistic(self.gate(o, x, h)), dy.tanh(c)), c

    def losses(self, lattice):
        """One per character."""
        dy, start = self.dy, self.dy.zeros(HIDDEN)
        states, losses = [(start, start)], []
        for character, words, tag in lattice:
            carried = [self.word_cell(self.L[word], *states[begin]) for begin, word in words]
            states.append(self.character(self.C[character], *states[-1], carried))
            losses.append(
                dy.pickneglogsoftmax(dy.affine_transform([self.b, self.W, states[-1][0]]), tag)
            )
        return losses

    def units(self, lattice):
        """Characters."""
        return len(lattice)


if __name__ == "__main__":
    batching.main("batch_lattice", "characters", Model, batch=32, loss_steps=4)
