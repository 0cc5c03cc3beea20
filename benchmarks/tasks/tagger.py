"""A BiLSTM tagger, one sentence a step, not batched: embedding 128, 50 per direction, 17 tags, Adam. Unit: words."""

import itertools

import common
import numpy as np

VOCABULARY, EMBEDDING, HIDDEN, TAGS = 10_000, 128, 100, 17


def data():
    """An endless stream of (words, tags)."""
    corpus = common.sentences(1000, 5, 40, VOCABULARY, seed=1)
    return itertools.cycle([(s, common.tags(s, TAGS, seed=i)) for i, s in enumerate(corpus)])


def initial_values():
    """(embedding, forward LSTM, backward LSTM, W, b)."""
    rng = np.random.default_rng(2)
    return (common.glorot(rng, VOCABULARY, EMBEDDING),
            common.lstm_values(rng, EMBEDDING, HIDDEN // 2), common.lstm_values(rng, EMBEDDING, HIDDEN // 2),
            common.glorot(rng, TAGS, HIDDEN), np.zeros(TAGS, dtype=np.float32))


def dynet_task(dy, args):
    """Plain DyNet: look up each word, transduce, a loss per word, esum."""
    embedding, forward, backward, w, bias = initial_values()
    m = dy.ParameterCollection()
    E = m.add_lookup_parameters((VOCABULARY, EMBEDDING))
    E.init_from_array(embedding)
    birnn = dy.BiRNNBuilder(1, EMBEDDING, HIDDEN, m, dy.VanillaLSTMBuilder)
    common.set_dynet_lstm(birnn, forward, backward)
    W = m.add_parameters((TAGS, HIDDEN))
    W.set_value(w)
    b = m.add_parameters(TAGS)
    b.set_value(bias)
    trainer = dy.AdamTrainer(m)
    stream = data()

    def step(model=m):
        words, tags = next(stream)
        dy.renew_cg()
        hs = birnn.transduce([E[i] for i in words])
        losses = [dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), t) for h, t in zip(hs, tags, strict=True)]
        loss = dy.esum(losses)
        value = loss.value()
        loss.backward()
        trainer.update()
        return len(words), value

    return step


def torch_task(torch, args):
    """nn.LSTM over the sentence, one linear layer, summed cross-entropy."""
    embedding, forward, backward, w, bias = initial_values()
    E = torch.nn.Embedding(VOCABULARY, EMBEDDING, sparse=args.embedding == "sparse")
    lstm = torch.nn.LSTM(EMBEDDING, HIDDEN // 2, bidirectional=True)
    linear = torch.nn.Linear(HIDDEN, TAGS)
    common.set_torch_lstm(torch, lstm, forward, "l0")
    common.set_torch_lstm(torch, lstm, backward, "l0_reverse")
    with torch.no_grad():
        E.weight.copy_(torch.from_numpy(embedding))
        linear.weight.copy_(torch.from_numpy(w))
        linear.bias.copy_(torch.from_numpy(bias))
    others = [p for p in [*lstm.parameters(), *linear.parameters()] if p.requires_grad]
    update = common.torch_adam(torch, E, others, args.embedding)
    stream = data()

    def step():
        words, tags = next(stream)
        hs, _ = lstm(E(torch.tensor(words)))
        loss = torch.nn.functional.cross_entropy(linear(hs), torch.tensor(tags), reduction="sum")
        value = loss.item()
        loss.backward()
        update()
        return len(words), value

    return step


if __name__ == "__main__":
    common.main("tagger", "words", dynet_task, torch_task, loss_steps=100, options=common.EMBEDDING_OPTION)
