"""The tagger with a BiLSTM over the characters of rare words, the losses of 32 sentences in one
graph. Unit: words.

Embeddings of words 128 and of characters 20; 64 per direction over characters, 50 over words. Rare
words are a fifth of all.
"""

import functools
import random

import batching
import common
import numpy as np
import tagger
import twins

EMBEDDING, CHARACTERS, CHARACTER_EMBEDDING, FREQUENT = 128, 60, 20, 1500


@functools.cache
def spelling(word):
    """3 to 12 characters, the same for each use of a word."""
    rng = random.Random(word)
    return [rng.randrange(1, CHARACTERS) for _ in range(rng.randint(3, 12))]


def initial_values():
    """(words, characters, LSTMs over characters, LSTMs over words, W, b); of the LSTMs, one per
    direction."""
    rng = np.random.default_rng(10)
    words, characters = (
        common.glorot(rng, tagger.VOCABULARY, EMBEDDING),
        common.glorot(rng, CHARACTERS, CHARACTER_EMBEDDING),
    )
    over_characters = [
        common.lstm_values(rng, CHARACTER_EMBEDDING, EMBEDDING // 2) for _ in range(2)
    ]
    over_words = [common.lstm_values(rng, EMBEDDING, tagger.HIDDEN // 2) for _ in range(2)]
    return (
        words,
        characters,
        over_characters,
        over_words,
        common.glorot(rng, tagger.TAGS, tagger.HIDDEN),
        np.zeros(tagger.TAGS, np.float32),
    )


class Model:
    """Words by embedding or by characters, then the tagger."""

    data = staticmethod(tagger.data)

    def __init__(self, dy, m):
        words, characters, over_characters, over_words, w, bias = initial_values()
        self.dy = dy
        self.E, self.L = batching.table(m, words), batching.table(m, characters)
        lstm = dy.VanillaLSTMBuilder
        self.forward, self.backward = (
            lstm(1, CHARACTER_EMBEDDING, EMBEDDING // 2, m) for _ in range(2)
        )
        self.birnn = dy.BiRNNBuilder(1, EMBEDDING, tagger.HIDDEN, m, lstm)
        for one, values in zip((self.forward, self.backward), over_characters, strict=True):
            common.set_dynet_lstm(one, values)
        common.set_dynet_lstm(self.birnn, *over_words)
        self.W, self.b = batching.parameter(m, w), batching.parameter(m, bias)

    def word(self, w):
        """A row of the table, or the last states of both directions over the characters."""
        if w <= FREQUENT:
            return self.E[w]
        characters = [self.L[i] for i in spelling(w)]
        ends = [
            lstm.initial_state().transduce(xs)[-1]
            for lstm, xs in ((self.forward, characters), (self.backward, characters[::-1]))
        ]
        return self.dy.concatenate(ends)

    def losses(self, example):
        """One per word."""
        dy = self.dy
        words, tags = example
        hs = self.birnn.transduce([self.word(w) for w in words])
        return [
            dy.pickneglogsoftmax(dy.affine_transform([self.b, self.W, h]), t)
            for h, t in zip(hs, tags, strict=True)
        ]

    def units(self, example):
        """Words."""
        return len(example[0])


def torch_task(torch, args):
    """The rare words of all sentences padded characters by characters, then the sentences; the
    characters' table, all of it used, is dense."""
    words, characters, over_characters, over_words, w, bias = initial_values()
    E, L, linear = (
        twins.embedding(torch, words),
        twins.embedding(torch, characters, sparse=False),
        twins.linear(torch, w, bias),
    )
    spell, lstms = (
        [twins.lstm(torch, values) for values in over] for over in (over_characters, over_words)
    )

    def vectors_of(ids):
        """A row for each word: those of the table and those that are spelt are made apart, then
        brought to their places."""
        is_rare = np.array(ids) > FREQUENT
        rows, spellings = (
            E(torch.tensor(ids)[torch.from_numpy(~is_rare)]),
            [spelling(i) for i in ids if i > FREQUENT],
        )
        if not spellings:
            return rows
        ends = twins.Padded(torch, spellings).last(
            torch, spell, L(torch.tensor(twins.flat(spellings)))
        )
        return torch.cat([rows, ends]).index_select(
            0, torch.from_numpy(is_rare.argsort(kind="stable").argsort())
        )

    def loss_of(examples):
        words, tags = zip(*examples, strict=True)
        hs = twins.Padded(torch, words).outputs(torch, lstms, vectors_of(twins.flat(words)))
        return len(hs), twins.cross_entropy(torch, linear(hs), twins.flat(tags))

    return twins.task(torch, args, Model, [E], twins.trained(L, *spell, *lstms, linear), loss_of)


if __name__ == "__main__":
    batching.main("batch_characters", "words", Model, batch=32, loss_steps=4, torch_task=torch_task)
