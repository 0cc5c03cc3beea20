"""A language model, one sentence a step: embedding 128, LSTM 256, softmax over 10,000 words, Adam. Unit: words."""

import itertools

import common
import numpy as np

VOCABULARY, EMBEDDING, HIDDEN = 10_000, 128, 256
START = 0


def data():
    """An endless stream of sentences (15 to 35 words)."""
    return itertools.cycle(common.sentences(1000, 15, 35, VOCABULARY, seed=3))


def initial_values():
    """(embedding, LSTM, W, b)."""
    rng = np.random.default_rng(4)
    return (common.glorot(rng, VOCABULARY, EMBEDDING), common.lstm_values(rng, EMBEDDING, HIDDEN),
            common.glorot(rng, VOCABULARY, HIDDEN), np.zeros(VOCABULARY, dtype=np.float32))


def dynet_task(dy, args):
    """Plain DyNet: a state per word, an affine transform and a loss per word, esum."""
    embedding, lstm_values, w, bias = initial_values()
    m = dy.ParameterCollection()
    E = m.add_lookup_parameters((VOCABULARY, EMBEDDING))
    E.init_from_array(embedding)
    lstm = dy.VanillaLSTMBuilder(1, EMBEDDING, HIDDEN, m)
    common.set_dynet_lstm(lstm, lstm_values)
    W = m.add_parameters((VOCABULARY, HIDDEN))
    W.set_value(w)
    b = m.add_parameters(VOCABULARY)
    b.set_value(bias)
    trainer = dy.AdamTrainer(m)
    stream = data()

    def outputs(words):
        state = lstm.initial_state()
        xs = [E[i] for i in (START, *words[:-1])]
        if args.style == "transduce":
            return state.transduce(xs)
        hs = []
        for x in xs:
            state = state.add_input(x)
            hs.append(state.output())
        return hs

    def step(model=m):
        words = next(stream)
        dy.renew_cg()
        losses = [dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), i)
                  for h, i in zip(outputs(words), words, strict=True)]
        loss = dy.esum(losses)
        value = loss.value()
        loss.backward()
        trainer.update()
        return len(words), value

    return step


def torch_task(torch, args):
    """nn.LSTM over the sentence, one linear layer, summed cross-entropy."""
    embedding, lstm_values, w, bias = initial_values()
    E = torch.nn.Embedding(VOCABULARY, EMBEDDING, sparse=args.embedding == "sparse")
    lstm = torch.nn.LSTM(EMBEDDING, HIDDEN)
    linear = torch.nn.Linear(HIDDEN, VOCABULARY)
    common.set_torch_lstm(torch, lstm, lstm_values)
    with torch.no_grad():
        E.weight.copy_(torch.from_numpy(embedding))
        linear.weight.copy_(torch.from_numpy(w))
        linear.bias.copy_(torch.from_numpy(bias))
    others = [p for p in [*lstm.parameters(), *linear.parameters()] if p.requires_grad]
    update = common.torch_adam(torch, E, others, args.embedding)
    stream = data()

    def step():
        words = next(stream)
        hs, _ = lstm(E(torch.tensor([START, *words[:-1]])))
        loss = torch.nn.functional.cross_entropy(linear(hs), torch.tensor(words), reduction="sum")
        value = loss.item()
        loss.backward()
        update()
        return len(words), value

    return step


if __name__ == "__main__":
    common.main("rnnlm", "words", dynet_task, torch_task, loss_steps=20, options={
        **common.EMBEDDING_OPTION,
        "--style": {"choices": ["transduce", "add_input"], "default": "transduce",
                    "help": "DyNet's API only: how the states are made"}})
