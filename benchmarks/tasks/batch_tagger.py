"""A BiLSTM tagger written for one sentence, the losses of 32 in one graph: sizes as tagger.py. Unit: words."""

import batching
import common
import tagger


class Model:
    """Look up each word, transduce, a loss per word."""

    data = staticmethod(tagger.data)

    def __init__(self, dy, m):
        embedding, forward, backward, w, bias = tagger.initial_values()
        self.dy = dy
        self.E = m.add_lookup_parameters(embedding.shape)
        self.E.init_from_array(embedding)
        self.birnn = dy.BiRNNBuilder(1, tagger.EMBEDDING, tagger.HIDDEN, m, dy.VanillaLSTMBuilder)
        common.set_dynet_lstm(self.birnn, forward, backward)
        self.W, self.b = m.add_parameters(w.shape), m.add_parameters(bias.shape)
        self.W.set_value(w)
        self.b.set_value(bias)

    def losses(self, example):
        """One per word."""
        dy, b, W, E = self.dy, self.b, self.W, self.E
        words, tags = example
        hs = self.birnn.transduce([E[i] for i in words])
        return [dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), t) for h, t in zip(hs, tags, strict=True)]

    def units(self, example):
        """Words."""
        return len(example[0])


if __name__ == "__main__":
    batching.main("batch_tagger", "words", Model, batch=32, loss_steps=4)
