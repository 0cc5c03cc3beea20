"""Networks of many kinds with dropout and noise in graphs that are batched on the fly: which draw comes first depends on the schedule."""

import dynet as dy

SENTENCES = [[1, 2, 3, 4], [2, 5], [3, 3, 1], [6], [4, 1, 2, 5, 6, 0]]
TREES = [((1, 2), (3, (4, 5))), ((0, 1), 2), (3, 4), (((1, 2), 3), ((4, 5), 6))]


def mlp(m):
    W, b, V = m.add_parameters((6, 3)), m.add_parameters(6), m.add_parameters((3, 6))

    def losses():
        for k in range(5):
            x = dy.inputVector([k, 1, -k])
            h = dy.dropout(dy.tanh(W * x + b), 0.5)
            yield dy.pickneglogsoftmax(V * dy.noise(h, 0.1), k % 3)

    return losses


def deep(m):
    layers = [(m.add_parameters((4, 4)), m.add_parameters(4)) for _ in range(3)]

    def losses():
        for k in range(4):
            h = dy.inputVector([k, 1, -k, 0.5])
            for W, b in layers:
                h = dy.dropout(dy.rectify(dy.affine_transform([b, W, h])), 0.3)
            yield dy.squared_distance(h, dy.inputVector([1, 0, 0, 1]))

    return losses


def embeddings(m):
    E, V = m.add_lookup_parameters((7, 4)), m.add_parameters((3, 4))

    def losses():
        for k, words in enumerate(SENTENCES):
            bag = dy.esum([dy.dropout(E[w], 0.5) for w in words])
            yield dy.pickneglogsoftmax(V * dy.tanh(bag), k % 3)

    return losses


def by_hand(m):
    E, W, U, V = m.add_lookup_parameters((7, 4)), m.add_parameters((5, 4)), m.add_parameters((5, 5)), m.add_parameters((3, 5))

    def losses():
        for words in SENTENCES:
            h = dy.zeros(5)
            for w in words:
                h = dy.dropout(dy.tanh(W * E[w] + U * h), 0.2)
                yield dy.pickneglogsoftmax(V * h, w % 3)

    return losses


def lstm(m):
    E, V, rnn = m.add_lookup_parameters((7, 4)), m.add_parameters((3, 5)), dy.VanillaLSTMBuilder(1, 4, 5, m)
    rnn.set_dropouts(0.2, 0.3)

    def losses():
        for words in SENTENCES:
            rnn.set_dropouts(0.2, 0.3)
            s = rnn.initial_state()
            for w in words:
                s = s.add_input(E[w])
                yield dy.pickneglogsoftmax(V * s.output(), w % 3)

    return losses


def lstm_outputs(m):
    E, V, rnn = m.add_lookup_parameters((7, 4)), m.add_parameters((3, 5)), dy.VanillaLSTMBuilder(2, 4, 5, m)

    def losses():
        for words in SENTENCES:
            s = rnn.initial_state()
            for w in words:
                s = s.add_input(E[w])
                yield dy.pickneglogsoftmax(V * dy.dropout(s.output(), 0.5), w % 3)

    return losses


def tagger(m):
    E, V, rnn = m.add_lookup_parameters((7, 4)), m.add_parameters((3, 6)), dy.BiRNNBuilder(1, 4, 6, m, dy.VanillaLSTMBuilder)

    def losses():
        for words in SENTENCES:
            for w, h in zip(words, rnn.transduce([dy.noise(E[w], 0.1) for w in words])):
                yield dy.pickneglogsoftmax(V * dy.dropout(h, 0.5), w % 3)

    return losses


def gru(m, layers=2):
    E, V, rnn = m.add_lookup_parameters((7, 4)), m.add_parameters((3, 5)), dy.GRUBuilder(layers, 4, 5, m)

    def losses():
        rnn.set_dropout(0.3)
        for words in SENTENCES:
            s = rnn.initial_state()
            for w in words:
                s = s.add_input(E[w])
                yield dy.pickneglogsoftmax(V * s.output(), w % 3)
            for h in s.h():
                yield dy.squared_norm(h)

    return losses


def gru_tagger(m):
    E, V = m.add_lookup_parameters((7, 4)), m.add_parameters((3, 6))
    rnn = dy.BiRNNBuilder(1, 4, 6, m, dy.GRUBuilder)

    def losses():
        for builders in rnn.builder_layers:
            for builder in builders:
                builder.set_dropout(0.2)
        for words in SENTENCES:
            for w, h in zip(words, rnn.transduce([E[w] for w in words])):
                yield dy.pickneglogsoftmax(V * h, w % 3)

    return losses


def trees(m):
    E, W, V = m.add_lookup_parameters((7, 4)), m.add_parameters((4, 8)), m.add_parameters((3, 4))

    def node(tree):
        if isinstance(tree, int):
            return dy.dropout(E[tree], 0.2)
        return dy.dropout(dy.tanh(W * dy.concatenate([node(t) for t in tree])), 0.4)

    def losses():
        for k, tree in enumerate(TREES):
            yield dy.pickneglogsoftmax(V * node(tree), k % 3)

    return losses


def vae(m):
    A, B, C = m.add_parameters((2, 4)), m.add_parameters((2, 4)), m.add_parameters((4, 2))

    def losses():
        for k in range(4):
            x = dy.inputVector([k, 1, 0, -1])
            mu, s = A * x, dy.exp(B * x * 0.1)
            z = mu + dy.cmult(s, dy.random_normal((2,)))
            yield dy.squared_distance(dy.dropout(C * z, 0.1), x)

    return losses


def gumbel(m):
    V = m.add_parameters((4, 3))

    def losses():
        for k in range(4):
            p = dy.softmax(V * dy.inputVector([k, 1, 2]) + dy.random_gumbel((4,)))
            yield dy.dot_product(p, dy.random_uniform((4,), 0, 1) + dy.random_bernoulli((4,), 0.5))

    return losses


def sizes(m):
    W, U, V = m.add_parameters((6, 3)), m.add_parameters((4, 3)), m.add_parameters((3, 10))

    def losses():
        for k in range(5):
            x = dy.inputVector([k, 1, -k])
            yield dy.pickneglogsoftmax(
                V * dy.dropout(dy.concatenate([dy.dropout(dy.tanh(W * x), 0.5), dy.dropout(dy.tanh(U * x), 0.5)]), 0.5), k % 3
            )

    return losses


def mixed(m):
    W, V = m.add_parameters((4, 4)), m.add_parameters((2, 4))

    def losses():
        for k in range(6):
            h = dy.inputVector([k, 1, 2, 3])
            for j in range(k % 3 + 1):
                h = dy.dropout(dy.tanh(W * h), 0.4) if j % 2 else dy.noise(dy.rectify(W * h), 0.2)
            yield dy.sum_elems(dy.cmult(V * h, dy.random_normal((2,))))

    return losses


def incremental(m):
    W, V = m.add_parameters((4, 4)), m.add_parameters((2, 4))

    def losses():
        for k in range(6):
            h = dy.dropout(dy.tanh(W * dy.inputVector([k, 1, 2, 3])), 0.5)
            if k % 2:
                h.value()
            h = dy.dropout(dy.tanh(W * h), 0.5)
            yield dy.pickneglogsoftmax(V * h, k % 2)

    return losses


def decoder(m):
    E, V = m.add_lookup_parameters((7, 4)), m.add_parameters((7, 5))
    W, U, v = m.add_parameters((5, 5)), m.add_parameters((5, 5)), m.add_parameters((1, 5))
    encoder, rnn = dy.SimpleRNNBuilder(1, 4, 5, m), dy.VanillaLSTMBuilder(2, 9, 5, m)

    def losses():
        encoder.set_dropout(0.2)
        rnn.set_dropouts(0.2, 0.3)
        for words in SENTENCES:
            H = dy.concatenate_cols(encoder.initial_state().transduce([E[w] for w in words]))
            s = rnn.initial_state().add_input(dy.concatenate([dy.zeros(5), E[0]]))
            for w in words:
                scores = dy.transpose(v * dy.tanh(dy.colwise_add(W * H, U * s.output())))
                s = s.add_input(dy.concatenate([dy.dropout(H * dy.softmax(scores), 0.3), E[w]]))
                yield dy.pickneglogsoftmax(V * dy.dropout(s.output(), 0.3), w)

    return losses


def branches(m):
    A, B, V = m.add_parameters((3, 4)), m.add_parameters((5, 4)), m.add_parameters((2, 8))

    def losses():
        for k in range(3):
            x = dy.inputVector([k, 1, 2, 3])
            both = [dy.dropout(dy.tanh(W * dy.dropout(x, 0.3)), 0.3) for W in (A, B)]
            yield dy.pickneglogsoftmax(V * dy.concatenate(both), k % 2)

    return losses


def leaves(m):
    E, F, W = m.add_lookup_parameters((4, 3)), m.add_lookup_parameters((4, 3)), m.add_parameters((2, 3))

    def losses():
        for k in range(3):
            xs = [E[k], dy.inputVector([k, 1, 2]), F[k], dy.ones(3), E[k + 1], dy.inputTensor([1, k, -1])]
            x = dy.concatenate([dy.dropout(x, 0.4) for x in (*xs, xs[0], dy.scalarInput(k + 1))])
            yield dy.squared_norm(dy.dropout(W, 0.4) * x[4:7]) + dy.squared_norm(x)

    return losses


def constants(m):
    E = m.add_lookup_parameters((7, 4))

    def losses():
        for words in SENTENCES:
            xs = [E[w] if w % 2 else dy.inputVector([w, 1, 2, 3]) for w in words]
            for a, b in zip(xs, xs[1:]):
                for x in dy.sum_dim(dy.concatenate_cols([a, dy.dropout(b, 0.4)]), [1]), a:
                    yield dy.squared_norm(dy.sum_dim(dy.concatenate_cols([dy.dropout(x, 0.4), b]), [1]))
            yield dy.squared_norm(dy.noise(dy.concatenate([xs[0], dy.dropout(xs[-1], 0.4)]), 0.3))

    return losses


def by_themselves(m):
    """What DyNet computes at once, since it batches none of it, and the functions that it batches."""
    E, W, b = m.add_lookup_parameters((4, 4)), m.add_parameters((4, 4)), m.add_parameters(4)
    functions = [
        lambda y: dy.cumsum(y), lambda y: dy.log_softmax(y), lambda y: dy.cdiv(y, y + 2), lambda y: dy.pow(y + 2, dy.scalarInput(2)),
        lambda y: dy.average([y, y]), lambda y: dy.logsumexp([y, y]), lambda y: dy.bmax(y, b), lambda y: dy.bmin(y, b),
        lambda y: y[0:2], lambda y: dy.pick(y, 1), lambda y: dy.dot_product(y, b), lambda y: dy.l1_distance(y, b), lambda y: dy.huber_distance(y, b),
        lambda y: dy.squared_norm(y), lambda y: dy.l2_norm(y), lambda y: dy.sum_elems(y), lambda y: dy.mean_elems(y), lambda y: dy.std_elems(y),
        lambda y: dy.sum_dim(y, [0]), lambda y: dy.max_dim(y), lambda y: dy.logsumexp_dim(y, 0), lambda y: dy.hinge(y, 1),
        lambda y: dy.binary_log_loss(dy.logistic(y), dy.logistic(b)), lambda y: dy.select_rows(y, [1]), lambda y: dy.circ_conv(y, b), lambda y: y + dy.pick(y, 0),
        lambda y: dy.exp(y), lambda y: W * y, lambda y: dy.affine_transform([b, W, y]), lambda y: y + b, lambda y: dy.cmult(y, y), lambda y: y * 0.5, lambda y: -y,
        lambda y: dy.softmax(y), lambda y: dy.squared_distance(y, b), lambda y: dy.pickneglogsoftmax(y, 2), lambda y: dy.concatenate([y, y]),
    ]  # fmt: skip

    def losses():
        for k, function in enumerate(functions):
            y, z = (dy.tanh(dy.tanh(E[(k + j) % 4])) for j in range(2))
            yield (dy.squared_norm(dy.dropout(E[k % 4], 0.3)) + dy.squared_norm(dy.dropout(z, 0.3))) * 0.05
            yield dy.squared_norm(dy.noise(function(y), 0.5)) * 0.05

    return losses


def ranges(m):
    W, b, V = m.add_parameters((6, 3)), m.add_parameters(6), m.add_parameters((2, 4))

    def losses():
        for k in range(5):
            y = dy.affine_transform([b, W, dy.inputVector([k, 1, -k])])
            parts = [dy.pick_range(y, j, j + 2) for j in (0, 2, 4)][: 2 + k % 2]
            h = dy.dropout(dy.concatenate([dy.tanh(x) for x in parts[-2:]]), 0.5)
            yield dy.pickneglogsoftmax(V * dy.dropout(dy.logistic(h), 0.5), k % 2)

    return losses


def sums(m):
    W, b = m.add_parameters((3, 3)), m.add_parameters(3)

    def losses():
        for k in range(5):
            x = dy.inputVector([k, 1, -k])
            h = dy.tanh(W * x + b) if k % 2 else dy.tanh(dy.esum([W * x, b]))
            pair = [dy.squared_norm(dy.dropout(h, 0.5)), dy.squared_norm(dy.noise(h, 0.1))]
            yield dy.esum(pair) if k % 3 else pair[0] + pair[1]

    return losses


def in_parts(m):
    W, V = m.add_parameters((4, 3)), m.add_parameters((2, 4))

    def losses():
        xs = [dy.inputVector([k, -k, 1]) for k in range(3)]
        first = [dy.pickneglogsoftmax(V * dy.dropout(dy.tanh(W * x), 0.5), 0) for x in xs]
        first = dy.esum(first)
        second = dy.esum([dy.squared_norm(W * dy.dropout(x, 0.3)) for x in xs])
        dy.esum([first]).value()  # all that was made so far is computed with it
        return [first, second]

    return losses


def by_hand_and_alone(m):
    """Batches made by hand, whose products DyNet does not batch, beside single vectors; and draws that it makes one by one."""
    W = m.add_parameters((4, 4))

    def losses():
        for k in range(4):
            x = dy.inputTensor([[k, 1, 2], [1, k, 0], [2, 1, k], [0, 1, 1]])
            y = dy.inputTensor([[k, 1], [1, k], [2, -1], [0, 1]], batched=True)
            draws = [
                lambda: dy.block_dropout(W * dy.pick_batch_elem(y, 1), 0.4), lambda: dy.dropout(W * y, 0.25),
                lambda: dy.noise(y, 0.1), lambda: dy.dropout_dim(W * x, k % 2, 0.4), lambda: dy.dropout_batch(W * y, 0.5),
                lambda: dy.dropout(dy.noise(y, 0.1), 0.5), lambda: dy.cmult(W, dy.random_bernoulli((4, 4), 0.7, 2)) * y,
            ]  # fmt: skip
            for draw in draws[k:] + draws[:k]:
                yield dy.sum_batches(dy.squared_norm(draw())) * 0.05

    return losses


def switched_late(m):
    """Dropout that is switched on after initial_state(), for states made before and after; and what was evaluated without it, in the same graph."""
    E, V = m.add_lookup_parameters((7, 4)), m.add_parameters((3, 5))
    rnns = [dy.LSTMBuilder(2, 4, 5, m), dy.GRUBuilder(2, 4, 5, m), dy.SimpleRNNBuilder(1, 4, 5, m)]

    def losses():
        for rnn in rnns:
            rnn.disable_dropout()
            start = rnn.initial_state()
            held = start.add_input(E[0])
            held.output().value()
            rnn.set_dropout(0.3)
            for words in SENTENCES:
                xs = [dy.dropout(E[w], 0.2) for w in words]
                for s in start, held, rnn.initial_state():
                    for h in s.transduce(xs):
                        yield dy.pickneglogsoftmax(V * dy.dropout(h, 0.4), len(words) % 3)

    return losses


def biaffine(m):
    """A graph with dropout, then one without."""
    E, f, b = m.add_lookup_parameters((7, 4)), dy.VanillaLSTMBuilder(1, 4, 5, m), dy.VanillaLSTMBuilder(1, 4, 5, m)
    U, W = m.add_parameters((10, 10)), m.add_parameters((1, 10))

    def heads(words, rates):
        forward, backward = f.initial_state(), b.initial_state()
        for rnn in (f, b):
            rnn.set_dropouts(*rates)
            rnn.set_dropout_masks(1)
        xs = [E[w] for w in words]
        hs = [dy.concatenate(list(pair)) for pair in zip(forward.transduce(xs), backward.transduce(xs[::-1])[::-1])]
        H = dy.concatenate_cols([dy.dropout(h, 0.3) for h in hs] if rates[0] else hs)
        return dy.transpose(H) * U * H + dy.transpose(dy.concatenate_cols([W * h for h in hs]))

    def losses():
        for words in SENTENCES:
            scores = heads(words, (0.3, 0.2))
            for k in range(len(words)):
                yield dy.pickneglogsoftmax(scores[k], (k + 1) % len(words))
        yield dy.sum_elems(heads(SENTENCES[0], (0, 0))) * 0.01

    return losses


def convolutions(m):
    """Of inputs of many sizes and, for functions that DyNet does not batch, at many depths."""
    E, O = m.add_lookup_parameters((7, 1, 1, 4)), m.add_parameters((3, 6))
    kernels, biases = [m.add_parameters((1, w, 4, 3)) for w in (2, 3)], [m.add_parameters(3) for _ in range(2)]
    F, b = m.add_parameters((4, 2)), m.add_parameters(4)
    functions = [
        lambda y: dy.maxpooling2d(dy.reshape(y, (2, 2, 1)), (1, 2), (1, 1)), lambda y: dy.filter1d_narrow(dy.concatenate_cols([y, b]), F),
        lambda y: dy.kmax_pooling(dy.reshape(y, (2, 2)), 1), lambda y: dy.fold_rows(dy.concatenate_cols([y]), 2),
        lambda y: dy.kmh_ngram(dy.reshape(y, (2, 2)), 2), lambda y: dy.pairwise_rank_loss(y[0], y[1]),
        lambda y: dy.conv2d(dy.concatenate_to_batch([dy.reshape(y, (1, 1, 4))] * 2), dy.reshape(F, (1, 1, 4, 2)), (1, 1)),
    ]  # fmt: skip

    def losses():
        for k, words in enumerate(SENTENCES):
            x, parts = dy.concatenate([E[w] for w in words + [0, 0]], d=1), []
            for f, bias in zip(kernels, biases):
                h = dy.conv2d_bias(x, f, bias, (1, 1)) if k % 2 else dy.conv2d(x, f, (1, 1))
                width = h.dim()[0][1]
                parts.append(dy.reshape(dy.maxpooling2d(dy.rectify(h), (1, width), (1, 1)), (3,)))
            yield dy.hinge(O * dy.dropout(dy.concatenate(parts), 0.4), k % 3)
        for k, function in enumerate(functions):
            for j in range(4):
                y = dy.reshape(E[(k + j) % 7], (4,))
                for _ in range(j % 3 + 1):
                    y = dy.tanh(y)
                yield dy.squared_norm(dy.dropout(y, 0.3)) * 0.05
                z = function(y)
                yield dy.sum_batches(dy.squared_norm(dy.dropout(z, 0.5)) + dy.squared_norm(dy.dropout(dy.tanh(z), 0.5))) * 0.05

    return losses


def pairs_of_vectors(m):
    """Pairs joined as one vector and as two columns, at unequal depths: to DyNet both are alike."""
    E, W, V = m.add_lookup_parameters((7, 4)), m.add_parameters((4, 8)), m.add_parameters((3, 4))

    def losses():
        for words in SENTENCES:
            h = E[words[0]]
            for w in words:
                x = dy.dropout(E[w], 0.3)
                best = dy.max_dim(dy.concatenate_cols([h, x]), 1)
                h = dy.tanh(W * dy.concatenate([dy.dropout(h, 0.2), best]))
                yield dy.pickneglogsoftmax(V * dy.dropout(dy.sum_dim(dy.concatenate_cols([h, best]), [1]), 0.5), w % 3)
            both = dy.pick_range(dy.concatenate([dy.tanh(E[words[0]]), E[words[-1]]]), 1, 5)
            yield dy.squared_norm(dy.dropout(both, 0.3)) + dy.squared_norm(dy.noise(dy.max_dim(dy.concatenate_cols([E[0], E[1]]), 1), 0.2))

    return losses


def differences(m):
    """Of two expressions and of one and a number: in DyNet a negation and a sum, the negation of number minus expression."""
    E = m.add_lookup_parameters((7, 4))

    def losses():
        for of in (lambda x, y: x - 1, lambda x, y: x - y, lambda x, y: -x, lambda x, y: dy.tanh(x - y) - 0.5):
            for x in (E[1], dy.tanh(E[2]), dy.square(dy.tanh(E[3]))):
                seen, low = dy.dropout(dy.dropout(x, 0.3), 0.3), of(dy.tanh(x), x)
                for y in (dy.tanh(low), dy.dropout(low, 0.3), dy.dropout(seen + x, 0.3)):
                    yield dy.squared_norm(y)

    return losses


def transposed(m):
    """DyNet defers transposes, as it does products."""
    W, U = m.add_parameters((3, 3)), m.add_parameters((3, 3))

    def turned(x, W):
        return dy.reshape(dy.transpose(dy.transpose(x) * W), (3,))

    def losses():
        x = dy.inputVector([1, -2, 3])
        twice = dy.cmult(x, dy.scalarInput(2))
        once = dy.dropout(twice, 0.3)
        _ = dy.cmult(once, dy.scalarInput(2))
        y = turned(x, W)
        first, _, third, _ = (dy.dropout(e, 0.3) for e in (x, twice, y, once))
        z = turned(x, U)
        return [dy.squared_norm(e) for e in (first, third, z, dy.dropout(y, 0.3))]

    return losses


def later(m):
    """In a graph that goes on: what draws for a value that is there, and what draws for none, take turns as they were made."""
    E, V = m.add_lookup_parameters((7, 4)), m.add_parameters((3, 4))

    def losses():
        xs = [dy.tanh(E[w]) for w in range(3)]
        dy.esum(xs).value()
        for k, x in enumerate(xs):
            y = dy.noise(x, 0.1) + dy.random_normal(4, stddev=0.2) + dy.dropout(x, 0.3)
            yield dy.pickneglogsoftmax(V * y, k)

    return losses


def contracted(m):
    T, B = m.add_parameters((3, 3, 3)), m.add_parameters((3, 3))

    def losses():
        x = dy.inputVector([1, -2, 3])
        for k in range(3):
            y = dy.tanh(x * (k + 1))
            z = dy.contract3d_1d_bias(T, dy.dropout(y, 0.2), B)
            for e in (dy.tanh(y), z, dy.dropout(dy.tanh(dy.contract3d_1d_bias(T, y, B)), 0.3), y):
                yield dy.squared_norm(dy.dropout(e, 0.3))

    return losses


def main():
    for make in (mlp, deep, embeddings, by_hand, lstm, lstm_outputs, tagger, trees, vae, gumbel, sizes, mixed, incremental, gru, gru_tagger, decoder, branches, leaves, constants, by_themselves, ranges, sums, in_parts, by_hand_and_alone, switched_late, biaffine, convolutions, pairs_of_vectors, differences, transposed, later, contracted):
        dy.reset_random_seed(5)
        m = dy.ParameterCollection()
        losses, trainer = make(m), dy.SimpleSGDTrainer(m, learning_rate=0.05)
        for step in range(3):
            dy.renew_cg(autobatching=True)
            loss = dy.esum(list(losses()))
            print(f"{make.__name__} {step}: {loss.value():.4f}")
            loss.backward()
            trainer.update()


main()
