"""A language model written for one sentence, the losses of 16 in one graph: sizes as rnnlm.py. Unit: words."""

import batching
import common
import rnnlm


class Model:
    """A state per word, an affine transform and a loss per word."""

    data = staticmethod(rnnlm.data)

    def __init__(self, dy, m):
        embedding, lstm_values, w, bias = rnnlm.initial_values()
        self.dy = dy
        self.E = m.add_lookup_parameters(embedding.shape)
        self.E.init_from_array(embedding)
        self.lstm = dy.VanillaLSTMBuilder(1, rnnlm.EMBEDDING, rnnlm.HIDDEN, m)
        common.set_dynet_lstm(self.lstm, lstm_values)
        self.W, self.b = m.add_parameters(w.shape), m.add_parameters(bias.shape)
        self.W.set_value(w)
        self.b.set_value(bias)

    def losses(self, words):
        """One per word."""
        dy, b, W, E = self.dy, self.b, self.W, self.E
        hs = self.lstm.initial_state().transduce([E[i] for i in (rnnlm.START, *words[:-1])])
        return [dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), i) for h, i in zip(hs, words, strict=True)]

    def units(self, words):
        """Words."""
        return len(words)


if __name__ == "__main__":
    batching.main("batch_rnnlm", "words", Model, batch=16, loss_steps=2)
