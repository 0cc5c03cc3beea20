"""A BiLSTM tagger written for one sentence, the losses of 32 in one graph: sizes as tagger.py.
Unit: words."""

import batching
import common
import tagger
import twins


class Model:
    """Look up each word, transduce, a loss per word."""

    data = staticmethod(tagger.data)

    def __init__(self, dy, m):
        embedding, forward, backward, w, bias = tagger.initial_values()
        self.dy = dy
        self.E = batching.table(m, embedding)
        self.birnn = dy.BiRNNBuilder(1, tagger.EMBEDDING, tagger.HIDDEN, m, dy.VanillaLSTMBuilder)
        common.set_dynet_lstm(self.birnn, forward, backward)
        self.W, self.b = batching.parameter(m, w), batching.parameter(m, bias)

    def losses(self, example):
        """One per word."""
        dy, b, W, E = self.dy, self.b, self.W, self.E
        words, tags = example
        hs = self.birnn.transduce([E[i] for i in words])
        return [
            dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), t)
            for h, t in zip(hs, tags, strict=True)
        ]

    def units(self, example):
        """Words."""
        return len(example[0])


def torch_task(torch, args):
    """The sentences padded for each direction, one product for the scores of all words."""
    embedding, forward, backward, w, bias = tagger.initial_values()
    E, linear = twins.embedding(torch, embedding), twins.linear(torch, w, bias)
    lstms = [twins.lstm(torch, values) for values in (forward, backward)]

    def loss_of(examples):
        words, tags = zip(*examples, strict=True)
        hs = twins.Padded(torch, words).outputs(torch, lstms, E(torch.tensor(twins.flat(words))))
        return len(hs), twins.cross_entropy(torch, linear(hs), twins.flat(tags))

    return twins.task(torch, args, Model, [E], twins.trained(*lstms, linear), loss_of)


if __name__ == "__main__":
    batching.main("batch_tagger", "words", Model, batch=32, loss_steps=4, torch_task=torch_task)
