"""A language model, one sentence a step or --batch of them: embedding 128, LSTM 256, softmax over
10,000 words, Adam. Unit: words."""

import itertools

import common
import jax_twins
import numpy as np
import twins

VOCABULARY, EMBEDDING, HIDDEN = 10_000, 128, 256
START = 0


def data():
    """An endless stream of sentences (15 to 35 words)."""
    return itertools.cycle(corpus())


def corpus():
    """All sentences."""
    return common.sentences(1000, 15, 35, VOCABULARY, seed=3)


def batches(size):
    """The sentences in batches; one by one in their own order."""
    return [[s] for s in corpus()] if size == 1 else common.batches(corpus(), size, len, seed=5)


def words_of(sentences):
    """How many."""
    return sum(map(len, sentences))


def operations():
    """Floating-point operations per word."""
    sentences = corpus()
    return sum(map(sentence_operations, sentences)) / words_of(sentences)


def sentence_operations(words):
    """Of the LSTM and the output layer."""
    return common.lstm_products(EMBEDDING, HIDDEN, len(words)) + common.products(
        VOCABULARY, HIDDEN, len(words)
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
        data() if args.batch == 1 else itertools.cycle(batches(args.batch)),
        trainer,
        loss_of if args.batch == 1 else loss_of_batch,
        len if args.batch == 1 else words_of,
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

    def inputs_of(sentences):
        words, _ = common.padded([(START, *s[:-1]) for s in sentences])
        targets, _ = common.padded(sentences, -100)
        return torch.tensor(words), torch.tensor(targets).flatten()

    loss = twins.summed_loss(torch, args, lambda x: linear(lstm(x)[0]).flatten(0, 1))
    return twins.batches_task(
        args,
        batches(args.batch),
        inputs_of,
        lambda words, targets: loss(E(words), targets),
        update,
        words_of,
    )


torch_task.forms = twins.FORMS


def jax_task(jax, args):
    """An LSTM over the padded sentences, one product for the scores of all words."""
    embedding, lstm_values, w, bias = initial_values()
    dot = jax_twins.product(jax, args.precision)

    def arrays_of(sentences):
        words = jax_twins.padded(args, [(START, *s[:-1]) for s in sentences])
        targets = jax_twins.padded(args, sentences, -1).ravel()
        return *jax_twins.distinct(words, VOCABULARY), targets

    def loss_of(parameters, rows, words, targets):
        lstm, w, b = parameters
        hs = jax_twins.lstm(jax, dot, lstm, rows[words])
        scores = dot(hs.reshape(-1, HIDDEN), w) + b
        return jax_twins.cross_entropy(jax, scores, targets)

    values = jax_twins.lstm_values(lstm_values), w.T.copy(), bias
    return jax_twins.batches_task(
        jax, values, batches(args.batch), arrays_of, loss_of, words_of, table=embedding
    )


jax_task.forms = jax_twins.FORMS


if __name__ == "__main__":
    common.main(
        "rnnlm",
        "words",
        dynet_task,
        torch_task,
        loss_steps=20,
        options={**common.EMBEDDING_OPTION, **common.SEQUENCE_OPTIONS},
        jax_task=jax_task,
        operations=operations,
    )
