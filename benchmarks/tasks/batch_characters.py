"""The tagger with a BiLSTM over the letters of rare words, the losses of 32 sentences in one graph. Unit: words.

Embeddings of words 128 and of letters 20; 64 per direction over letters, 50 over words. Rare words are a fifth of all.
"""

import random

import batching
import common
import numpy as np
import tagger

LETTERS, LETTER_EMBEDDING, LETTER_HIDDEN, FREQUENT = 60, 20, 128, 1500


def spelling(word):
    """3 to 12 letters, the same for each use of a word."""
    rng = random.Random(word)
    return [rng.randrange(1, LETTERS) for _ in range(rng.randint(3, 12))]


class Model:
    """Words by embedding or by letters, then the tagger."""

    data = staticmethod(tagger.data)

    def __init__(self, dy, m):
        rng = np.random.default_rng(10)
        self.dy = dy
        self.E = m.add_lookup_parameters((tagger.VOCABULARY, 128))
        self.E.init_from_array(common.glorot(rng, tagger.VOCABULARY, 128))
        self.L = m.add_lookup_parameters((LETTERS, LETTER_EMBEDDING))
        self.L.init_from_array(common.glorot(rng, LETTERS, LETTER_EMBEDDING))
        lstm = dy.VanillaLSTMBuilder
        self.forward, self.backward = lstm(1, LETTER_EMBEDDING, LETTER_HIDDEN // 2, m), lstm(1, LETTER_EMBEDDING, LETTER_HIDDEN // 2, m)
        self.birnn = dy.BiRNNBuilder(1, 128, tagger.HIDDEN, m, lstm)
        for one in (self.forward, self.backward):
            common.set_dynet_lstm(one, common.lstm_values(rng, LETTER_EMBEDDING, LETTER_HIDDEN // 2))
        common.set_dynet_lstm(self.birnn, *(common.lstm_values(rng, 128, tagger.HIDDEN // 2) for _ in range(2)))
        self.W, self.b = m.add_parameters((tagger.TAGS, tagger.HIDDEN)), m.add_parameters(tagger.TAGS)
        self.W.set_value(common.glorot(rng, tagger.TAGS, tagger.HIDDEN))
        self.b.set_value(np.zeros(tagger.TAGS, np.float32))

    def word(self, w):
        """A row of the table, or the last states of both directions over the letters."""
        if w <= FREQUENT:
            return self.E[w]
        letters = [self.L[i] for i in spelling(w)]
        ends = [lstm.initial_state().transduce(xs)[-1] for lstm, xs in ((self.forward, letters), (self.backward, letters[::-1]))]
        return self.dy.concatenate(ends)

    def losses(self, example):
        """One per word."""
        dy = self.dy
        words, tags = example
        hs = self.birnn.transduce([self.word(w) for w in words])
        return [dy.pickneglogsoftmax(dy.affine_transform([self.b, self.W, h]), t) for h, t in zip(hs, tags, strict=True)]

    def units(self, example):
        """Words."""
        return len(example[0])


if __name__ == "__main__":
    batching.main("batch_characters", "words", Model, batch=32, loss_steps=4)
