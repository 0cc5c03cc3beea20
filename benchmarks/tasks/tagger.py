"""A BiLSTM tagger, one sentence a step or --batch of them: embedding 128, 50 per direction, 17
tags, Adam. Unit: words."""

import itertools

import common
import jax_twins
import numpy as np
import twins

VOCABULARY, EMBEDDING, HIDDEN, TAGS = 10_000, 128, 100, 17


def data():
    """An endless stream of (words, tags)."""
    return itertools.cycle(corpus())


def batches(size):
    """The examples in batches; one by one in their own order."""
    if size == 1:
        return [[example] for example in corpus()]
    return common.batches(corpus(), size, lambda example: len(example[0]), seed=3)


def words_of(examples):
    """How many words."""
    return sum(len(words) for words, _ in examples)


def operations():
    """Floating-point operations per word."""
    examples = corpus()
    return sum(sentence_operations(words) for words, _ in examples) / words_of(examples)


def sentence_operations(words):
    """Of both LSTMs and the output layer."""
    return 2 * common.lstm_products(EMBEDDING, HIDDEN // 2, len(words)) + common.products(
        TAGS, HIDDEN, len(words)
    )


def corpus():
    """(words, tags) of each sentence."""
    return [
        (s, common.tags(s, TAGS, seed=i))
        for i, s in enumerate(common.sentences(1000, 5, 40, VOCABULARY, seed=1))
    ]


def initial_values():
    """(embedding, forward LSTM, backward LSTM, W, b)."""
    rng = np.random.default_rng(2)
    return (
        common.glorot(rng, VOCABULARY, EMBEDDING),
        common.lstm_values(rng, EMBEDDING, HIDDEN // 2),
        common.lstm_values(rng, EMBEDDING, HIDDEN // 2),
        common.glorot(rng, TAGS, HIDDEN),
        np.zeros(TAGS, dtype=np.float32),
    )


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

    style = common.style_of(args, dy)

    def outputs(xs):
        if style == "transduce":
            return birnn.transduce(xs)
        ((forward, backward),) = birnn.builder_layers
        f, g, ahead, back = forward.initial_state(), backward.initial_state(), [], []
        for x, y in zip(xs, xs[::-1], strict=True):
            f, g = f.add_input(x), g.add_input(y)
            ahead.append(f.output())
            back.append(g.output())
        return [dy.concatenate([x, y]) for x, y in zip(ahead, back[::-1], strict=True)]

    def loss_of(example):
        words, tags = example
        hs = outputs([E[i] for i in words])
        return dy.esum(
            [
                dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), t)
                for h, t in zip(hs, tags, strict=True)
            ]
        )

    def loss_of_batch(examples):
        if style == "packed":
            x = dy.lookup_batch(E, [i for words, _ in examples for i in words])
            h, _ = birnn.transduce_packed(x, [len(words) for words, _ in examples])
            return dy.sum_batches(
                dy.pickneglogsoftmax_batch(
                    dy.affine_transform([b, W, h]), [t for _, tags in examples for t in tags]
                )
            )
        words, real = common.padded([words for words, _ in examples])
        tags, _ = common.padded([tags for _, tags in examples])
        hs = outputs([dy.lookup_batch(E, column) for column in words])
        losses = [
            dy.pickneglogsoftmax_batch(dy.affine_transform([b, W, h]), column)
            for h, column in zip(hs, tags, strict=True)
        ]
        return common.sum_of_losses(dy, losses, real)

    if args.batch == 1:
        return common.training_step(dy, m, data(), trainer, loss_of, lambda e: len(e[0]))
    return common.training_step(
        dy, m, itertools.cycle(batches(args.batch)), trainer, loss_of_batch, words_of
    )


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
    update = common.torch_adam(torch, [E], others, args.embedding)

    def inputs_of(examples):
        words, _ = common.padded([words for words, _ in examples])
        tags, _ = common.padded([tags for _, tags in examples], -100)
        return torch.tensor(words), torch.tensor(tags).flatten()

    loss = twins.summed_loss(torch, args, lambda x: linear(lstm(x)[0]).flatten(0, 1))
    return twins.batches_task(
        args,
        batches(args.batch),
        inputs_of,
        lambda words, tags: loss(E(words), tags),
        update,
        words_of,
    )


torch_task.forms = twins.FORMS


def jax_task(jax, args):
    """Two LSTMs over the padded sentences, the second over the words turned around, each sentence
    from its own end; one product for the scores of all words."""
    embedding, forward, backward, w, bias = initial_values()
    dot, hidden = jax_twins.product(jax, args.precision), HIDDEN // 2

    def arrays_of(examples):
        words = jax_twins.padded(args, [words for words, _ in examples])
        tags = jax_twins.padded(args, [tags for _, tags in examples], -1).ravel()
        t, lengths = np.arange(len(words))[:, None], np.array([len(w) for w, _ in examples])
        turned = np.where(t < lengths, lengths - 1 - t, t).astype(np.int32)
        return *jax_twins.distinct(words, VOCABULARY), turned, tags

    def loss_of(parameters, rows, words, turned, tags):
        ahead, back, w, b = parameters
        x, at = rows[words], turned[:, :, None]
        take = jax.numpy.take_along_axis
        hs = [
            jax_twins.lstm(jax, dot, ahead, x),
            take(jax_twins.lstm(jax, dot, back, take(x, at, 0)), at, 0),
        ]
        scores = dot(jax.numpy.concatenate(hs, 2).reshape(-1, 2 * hidden), w) + b
        return jax_twins.cross_entropy(jax, scores, tags)

    lstms = [jax_twins.lstm_values(values) for values in (forward, backward)]
    return jax_twins.batches_task(
        jax,
        (*lstms, w.T.copy(), bias),
        batches(args.batch),
        arrays_of,
        loss_of,
        words_of,
        table=embedding,
    )


jax_task.forms = jax_twins.FORMS


if __name__ == "__main__":
    common.main(
        "tagger",
        "words",
        dynet_task,
        torch_task,
        loss_steps=100,
        options={**common.EMBEDDING_OPTION, **common.SEQUENCE_OPTIONS},
        jax_task=jax_task,
        operations=operations,
    )
