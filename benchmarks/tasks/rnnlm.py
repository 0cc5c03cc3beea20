"""A language model, one sentence a step or --batch of them: embedding 128, LSTM 256, softmax over
10,000 words, Adam. Unit: words."""

import itertools

import common
import numpy as np

VOCABULARY, EMBEDDING, HIDDEN = 10_000, 128, 256
START = 0


def data():
    """An endless stream of sentences (15 to 35 words)."""
    return itertools.cycle(common.sentences(1000, 15, 35, VOCABULARY, seed=3))


def batch_data(size):
    """The same in batches."""
    return itertools.cycle(
        common.batches(common.sentences(1000, 15, 35, VOCABULARY, seed=3), size, len, seed=5)
    )


def initial_values():
    """(embedding, LSTM, W, b)."""
    rng = np.random.default_rng(4)
    return (
        common.glorot(rng, VOCABULARY, EMBEDDING),
        common.lstm_values(rng, EMBEDDING, HIDDEN),
        common.glorot(rng, VOCABULARY, HIDDEN),
        np.zeros(VOCABULARY, dtype=np.float32),
    )


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

    style = common.style_of(args, dy)

    def outputs(xs):
        state = lstm.initial_state()
        if style == "transduce":
            return state.transduce(xs)
        hs = []
        for x in xs:
            state = state.add_input(x)
            hs.append(state.output())
        return hs

    def loss_of(words):
        hs = outputs([E[i] for i in (START, *words[:-1])])
        return dy.esum(
            [
                dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), i)
                for h, i in zip(hs, words, strict=True)
            ]
        )

    def loss_of_batch(sentences):
        if style == "packed":
            x = dy.lookup_batch(E, [i for s in sentences for i in (START, *s[:-1])])
            h, _ = lstm.initial_state().transduce_packed(x, [len(s) for s in sentences])
            return dy.sum_batches(
                dy.pickneglogsoftmax_batch(
                    dy.affine_transform([b, W, h]), [i for s in sentences for i in s]
                )
            )
        targets, real = common.padded(sentences)
        hs = outputs(
            [dy.lookup_batch(E, column) for column in [[START] * len(sentences), *targets[:-1]]]
        )
        losses = [
            dy.pickneglogsoftmax_batch(dy.affine_transform([b, W, h]), column)
            for h, column in zip(hs, targets, strict=True)
        ]
        return common.sum_of_losses(dy, losses, real)

    return common.training_step(
        dy,
        m,
        stream if args.batch == 1 else batch_data(args.batch),
        trainer,
        loss_of if args.batch == 1 else loss_of_batch,
        len if args.batch == 1 else lambda b: sum(map(len, b)),
    )


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
    update = common.torch_adam(torch, [E], others, args.embedding)
    stream = data() if args.batch == 1 else batch_data(args.batch)

    def step():
        sentences = [next(stream)] if args.batch == 1 else next(stream)
        targets, _ = common.padded(sentences, -100)
        words, _ = common.padded([(START, *s[:-1]) for s in sentences])
        hs, _ = lstm(E(torch.tensor(words)))
        loss = torch.nn.functional.cross_entropy(
            linear(hs).flatten(0, 1), torch.tensor(targets).flatten(), reduction="sum"
        )
        value = loss.item()
        loss.backward()
        update()
        return sum(map(len, sentences)), value

    return step


if __name__ == "__main__":
    common.main(
        "rnnlm",
        "words",
        dynet_task,
        torch_task,
        loss_steps=20,
        options={**common.EMBEDDING_OPTION, **common.SEQUENCE_OPTIONS},
    )
