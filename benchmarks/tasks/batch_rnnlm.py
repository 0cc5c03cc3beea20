"""A language model written for one sentence, the losses of 16 in one graph: sizes as rnnlm.py.
Unit: words."""

import batching
import common
import rnnlm
import twins


class Model:
    """A state per word, an affine transform and a loss per word."""

    data = staticmethod(rnnlm.data)

    def __init__(self, dy, m):
        embedding, lstm_values, w, bias = rnnlm.initial_values()
        self.dy = dy
        self.E = batching.table(m, embedding)
        self.lstm = dy.VanillaLSTMBuilder(1, rnnlm.EMBEDDING, rnnlm.HIDDEN, m)
        common.set_dynet_lstm(self.lstm, lstm_values)
        self.W, self.b = batching.parameter(m, w), batching.parameter(m, bias)

    def losses(self, words):
        """One per word."""
        dy, b, W, E = self.dy, self.b, self.W, self.E
        hs = self.lstm.initial_state().transduce([E[i] for i in (rnnlm.START, *words[:-1])])
        return [
            dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), i)
            for h, i in zip(hs, words, strict=True)
        ]

    def units(self, words):
        """Words."""
        return len(words)


def torch_task(torch, args):
    """The sentences padded, one product for the scores of all words."""
    embedding, lstm_values, w, bias = rnnlm.initial_values()
    E, lstm, linear = (
        twins.embedding(torch, embedding),
        twins.lstm(torch, lstm_values),
        twins.linear(torch, w, bias),
    )

    def loss_of(sentences):
        before = torch.tensor(twins.flat([(rnnlm.START, *words[:-1]) for words in sentences]))
        hs = twins.Padded(torch, sentences).outputs(torch, [lstm], E(before))
        return len(hs), twins.cross_entropy(torch, linear(hs), twins.flat(sentences))

    return twins.task(torch, args, Model, [E], twins.trained(lstm, linear), loss_of)


if __name__ == "__main__":
    batching.main("batch_rnnlm", "words", Model, batch=16, loss_steps=2, torch_task=torch_task)
