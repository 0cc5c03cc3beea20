"""Habits of programs that speak to several toolkits: strides of four numbers, a graph that is made
where there is none, builders found by their base class; and pruned LSTMs, whose masks of ones change
nothing."""

import dynet as dy

HIDDEN, WORDS = 8, 12


def images():
    """Windows over time, [1, width, 1] and strides of four."""
    dy.renew_cg()
    x = dy.inputTensor([[[float(i + 2 * c) for c in range(2)] for i in range(7)]])
    f = dy.inputTensor([[[[0.1 * (i + c + o) for o in range(2)] for c in range(2)] for i in range(3)]])
    b = dy.inputVector([1.0, 2.0])
    for stride in (1, 1), (1, 2), (1, 1, 1, 1), (1, 2, 3, 4), [1, 3, 1]:
        for valid in True, False:
            y = dy.conv2d_bias(x, f, b, stride, is_valid=valid)
            print("conv2d", valid, y.dim(), round(float(y.npvalue().sum()), 4))
            y = dy.conv2d(x, f, stride, is_valid=valid)
            print("conv2d", valid, y.dim(), round(float(y.npvalue().sum()), 4))
    for size, stride in ([1, 7], [1, 1]), ([1, 7, 1], (1, 1, 1, 1)), ([1, 3, 1], (1, 2, 5)):
        y = dy.maxpooling2d(x, size, stride)
        print("maxpooling2d", y.dim(), float(y.npvalue().sum()))


def builders():
    """By the first base class of one of them."""
    base = dy.VanillaLSTMBuilder.__bases__[0]
    for name in (
        "SimpleRNNBuilder GRUBuilder LSTMBuilder CoupledLSTMBuilder FastLSTMBuilder"
        " CompactVanillaLSTMBuilder SparseLSTMBuilder"
    ).split():
        print(name, issubclass(getattr(dy, name), base))
    print(issubclass(dy.ParameterCollection, base))


def train(builder, clip):
    """A language model of one kind of sentence; what the masks, if there are any, have gathered."""
    dy.reset_random_seed(7)
    m = dy.ParameterCollection()
    table, W = m.add_lookup_parameters((WORDS, HIDDEN)), m.add_parameters((WORDS, HIDDEN))
    rnn, trainer = builder(1, HIDDEN, HIDDEN, m), dy.SimpleSGDTrainer(m, 0.05)
    trainer.set_clip_threshold(clip)
    for i in range(61):
        cg = dy.renew_cg()
        cg = cg or None  # a graph without nodes is one
        assert cg is not None
        state, losses = rnn.initial_state(), []
        for t in range(6):
            state = state.add_input(table[(i * 5 + t) % WORDS])
            losses.append(dy.pickneglogsoftmax(W * state.output(), t))
        loss = dy.esum(losses)
        value = loss.value()
        loss.backward()
        trainer.update()
        if i % 20 == 0:
            masks = rnn.get_parameters()[0][3:]
            gathered = [float(abs(p.grad_as_array()).sum()) for p in masks]
            print(builder.__name__, clip, i, round(value, 3), gathered)


if __name__ == "__main__":
    images()
    builders()
    for clip in 1.0, 0.0:
        for builder in dy.VanillaLSTMBuilder, dy.SparseLSTMBuilder:
            train(builder, clip)
