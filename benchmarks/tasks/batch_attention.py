"""An encoder-decoder with additive attention, written for one pair of sentences, the losses of 16 in one graph. Unit: target words.

Vocabularies of 5,000, embeddings 128, BiLSTM encoder of 256, LSTM decoder of 256 fed with the last context, attention of 128.
"""

import itertools

import batching
import common
import numpy as np

VOCABULARY, EMBEDDING, HIDDEN, ATTENTION = 5_000, 128, 256, 128
START = 0


class Model:
    """A decoder's step: attend with the state, then a word."""

    def __init__(self, dy, m):
        rng = np.random.default_rng(7)
        self.dy = dy

        def given(add, *shape, zero=False):
            value = np.zeros(shape, np.float32) if zero else common.glorot(rng, *shape)
            p = add(shape)
            (p.init_from_array if add == m.add_lookup_parameters else p.set_value)(value)
            return p

        self.source, self.target = (given(m.add_lookup_parameters, VOCABULARY, EMBEDDING) for _ in range(2))
        self.encoder = dy.BiRNNBuilder(1, EMBEDDING, HIDDEN, m, dy.VanillaLSTMBuilder)
        common.set_dynet_lstm(self.encoder, *(common.lstm_values(rng, EMBEDDING, HIDDEN // 2) for _ in range(2)))
        self.decoder = dy.VanillaLSTMBuilder(1, EMBEDDING + HIDDEN, HIDDEN, m)
        common.set_dynet_lstm(self.decoder, common.lstm_values(rng, EMBEDDING + HIDDEN, HIDDEN))
        add = m.add_parameters
        self.K, self.Q, self.v = given(add, ATTENTION, HIDDEN), given(add, ATTENTION, HIDDEN), given(add, 1, ATTENTION)
        self.C, self.W, self.b = given(add, HIDDEN, 2 * HIDDEN), given(add, VOCABULARY, HIDDEN), given(add, VOCABULARY, zero=True)

    @staticmethod
    def data():
        """An endless stream of (source words, target words)."""
        sources, targets = (common.sentences(1000, 10, 30, VOCABULARY, seed) for seed in (8, 9))
        return itertools.cycle(zip(sources, targets, strict=True))

    def losses(self, example):
        """One per target word."""
        dy = self.dy
        source, target = example
        H = dy.concatenate_cols(self.encoder.transduce([self.source[i] for i in source]))
        keys = self.K * H
        state = self.decoder.initial_state()
        context = dy.zeros(HIDDEN)
        losses = []
        for before, word in zip((START, *target[:-1]), target, strict=True):
            state = state.add_input(dy.concatenate([self.target[before], context]))
            h = state.output()
            scores = dy.transpose(self.v * dy.tanh(dy.colwise_add(keys, self.Q * h)))
            context = H * dy.softmax(scores)
            out = dy.tanh(self.C * dy.concatenate([h, context]))
            losses.append(dy.pickneglogsoftmax(dy.affine_transform([self.b, self.W, out]), word))
        return losses

    def units(self, example):
        """Target words."""
        return len(example[1])


if __name__ == "__main__":
    batching.main("batch_attention", "words", Model, batch=16, loss_steps=2)
