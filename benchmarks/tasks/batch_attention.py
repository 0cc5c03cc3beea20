"""An encoder-decoder with additive attention, written for one pair of sentences, the losses of 16
in one graph. Unit: target words.

Vocabularies of 5,000, embeddings 128, BiLSTM encoder of 256, LSTM decoder of 256 fed with the last
context, attention of 128.
"""

import itertools

import batching
import common
import numpy as np
import twins

VOCABULARY, EMBEDDING, HIDDEN, ATTENTION = 5_000, 128, 256, 128
START = 0


def initial_values():
    """By name; two LSTMs for the encoder, one for the decoder."""
    rng = np.random.default_rng(7)
    values = {name: common.glorot(rng, VOCABULARY, EMBEDDING) for name in ("source", "target")}
    values["encoder"] = [common.lstm_values(rng, EMBEDDING, HIDDEN // 2) for _ in range(2)]
    values["decoder"] = common.lstm_values(rng, EMBEDDING + HIDDEN, HIDDEN)
    shapes = {
        "K": (ATTENTION, HIDDEN),
        "Q": (ATTENTION, HIDDEN),
        "v": (1, ATTENTION),
        "C": (HIDDEN, 2 * HIDDEN),
        "W": (VOCABULARY, HIDDEN),
    }
    return {
        **values,
        **{name: common.glorot(rng, *shape) for name, shape in shapes.items()},
        "b": np.zeros(VOCABULARY, np.float32),
    }


class Model:
    """A decoder's step: attend with the state, then a word."""

    def __init__(self, dy, m):
        values = initial_values()
        self.dy = dy
        self.source, self.target = (
            batching.table(m, values[name]) for name in ("source", "target")
        )
        self.encoder = dy.BiRNNBuilder(1, EMBEDDING, HIDDEN, m, dy.VanillaLSTMBuilder)
        common.set_dynet_lstm(self.encoder, *values["encoder"])
        self.decoder = dy.VanillaLSTMBuilder(1, EMBEDDING + HIDDEN, HIDDEN, m)
        common.set_dynet_lstm(self.decoder, values["decoder"])
        self.K, self.Q, self.v, self.C, self.W, self.b = (
            batching.parameter(m, values[name]) for name in ("K", "Q", "v", "C", "W", "b")
        )

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


def pair_operations(source, target):
    """Floating-point operations of a pair of sentences; the first context is taken like any."""
    s, t, products = len(source), len(target), common.products
    return (
        2 * common.lstm_products(EMBEDDING, HIDDEN // 2, s)
        + products(ATTENTION, HIDDEN, s)
        + common.lstm_products(EMBEDDING + HIDDEN, HIDDEN, t)
        + products(ATTENTION, HIDDEN, t)
        + products(1, ATTENTION, s * t)
        + products(HIDDEN, s, t)
        + products(HIDDEN, 2 * HIDDEN, t)
        + products(VOCABULARY, HIDDEN, t)
    )


def torch_task(torch, args, batches=None):
    """All pairs padded, a decoder's step for all at once; what the recurrence does not need, for
    all target words at once."""
    values = initial_values()
    source, target = (twins.embedding(torch, values[name]) for name in ("source", "target"))
    encoder, decoder = (
        [twins.lstm(torch, v) for v in values["encoder"]],
        twins.Cell(torch, values["decoder"]),
    )
    K, Q, v, C = (twins.linear(torch, values[name]) for name in ("K", "Q", "v", "C"))
    linear = twins.linear(torch, values["W"], values["b"])

    def loss_of(examples):
        sources, targets = zip(*examples, strict=True)
        read, write = twins.Padded(torch, sources), twins.Padded(torch, targets)
        H = (
            read.padded(read.outputs(torch, encoder, source(torch.tensor(twins.flat(sources)))))
            .transpose(0, 1)
            .contiguous()
        )
        keys, nowhere = K(H), torch.zeros(read.real.shape).masked_fill(~read.real, -torch.inf).T
        of_word, of_state = (
            decoder.wx[:, :EMBEDDING],
            torch.cat([decoder.wx[:, EMBEDDING:], decoder.wh], 1).T,
        )
        before = target(torch.tensor(twins.flat([(START, *words[:-1]) for words in targets])))
        gates = write.padded(torch.nn.functional.linear(before, of_word, decoder.b))
        h = c = context = torch.zeros(len(examples), HIDDEN)
        outs = []
        for gate in gates.unbind():
            h, c = decoder.step(torch.addmm(gate, torch.cat([context, h], 1), of_state), c)
            scores = v(torch.tanh(keys + Q(h).unsqueeze(1))).squeeze(2) + nowhere
            context = torch.bmm(torch.softmax(scores, 1).unsqueeze(1), H).squeeze(1)
            outs.append(torch.cat([h, context], 1))
        out = torch.tanh(C(torch.cat(outs).index_select(0, write.items[0])))
        return len(out), twins.cross_entropy(torch, linear(out), twins.flat(targets))

    return twins.task(
        torch,
        args,
        Model,
        [source, target],
        twins.trained(*encoder, decoder, K, Q, v, C, linear),
        loss_of,
        batches,
    )


if __name__ == "__main__":
    batching.main("batch_attention", "words", Model, batch=16, loss_steps=2, torch_task=torch_task)
