"""Products rounded to bfloat16 have the values and gradients of a model in NumPy (bf16_model.py),
which rounds what must be rounded.

Its elementwise functions differ from the kernels' in the last bit, so that now and then a number is
rounded to the other side: agree() allows for that. What the kernels themselves promise is tested in
test_bf16_kernels.py. How long: a few seconds.
"""

import bf16_model as model
import numpy as np
import pytest
from bf16_model import Value

import dist_dynet as dy

pytestmark = pytest.mark.float32

LAYER = (24, 20)


def agree(got, want, floats):
    """Whether the numbers are those of the model that rounds, much nearer to it than to the one
    that does not."""
    got, want, floats = (np.asarray(a, float).ravel() for a in (got, want, floats))
    rounding = np.linalg.norm(floats - want)
    assert rounding > 1e-4 * np.linalg.norm(want)
    assert np.linalg.norm(got - want) <= rounding / 4


def of_a_product(m):
    w = m.add_parameters(LAYER)
    return [w], lambda xs: w * xs[0], lambda p, v, xs: p(v[0], xs[0])


def of_an_affine_transform(m):
    b, w, v = m.add_parameters(LAYER[0]), m.add_parameters(LAYER), m.add_parameters(LAYER)
    return (
        [b, w, v],
        lambda xs: dy.affine_transform([b, w, xs[0], v, xs[1]]),
        lambda p, ws, xs: ws[0] + p(ws[1], xs[0]) + p(ws[2], xs[1]),
    )


def of_layers(m):
    ws = [m.add_parameters((20, 20)) for _ in range(3)]

    def deep(multiply, tanh, weights, x):
        for w in weights:
            x = tanh(multiply(w, x))
        return x

    return (
        ws,
        lambda xs: deep(lambda w, x: w * x, dy.tanh, ws, xs[0]),
        lambda p, vs, xs: deep(p, model.tanh, vs, xs[0]),
    )


def of_a_traced_function(m):
    w, v, b = m.add_parameters(LAYER), m.add_parameters((20, 24)), m.add_parameters(24)

    @dy.traced
    def f(x, y):
        return dy.tanh(v * dy.tanh(dy.affine_transform([b, w, x])) + y)

    def like(p, ws, xs):
        state = xs[0]
        for x in xs[1:]:
            state = model.tanh(p(ws[1], model.tanh(p(ws[0], state) + ws[2])) + x)
        return state

    def run(xs):
        state = xs[0]
        for x in xs[1:]:
            state = f(state, x)
        return state

    return [w, v, b], run, like


def recurrent(builder_class, network, run):
    def make(m):
        builder = builder_class(1, LAYER[1], 16, m)
        weights = builder.get_parameters()[0]
        return weights, lambda xs: run(builder, xs), lambda p, ws, xs: network(ws, xs)

    return make


def step_by_step(builder, xs):
    return builder.initial_state().add_inputs(xs)[-1].output()


def transduced(builder, xs):
    return builder.initial_state().transduce(xs)[-1]


def of_a_tree(arity):
    def make(m):
        builder = (
            dy.NaryTreeLSTMBuilder(arity, LAYER[1], 16, m)
            if arity
            else dy.ChildSumTreeLSTMBuilder(LAYER[1], 16, m)
        )
        weights = builder.get_parameters()

        def run(xs):
            leaves = [builder.node(x, []) for x in xs[1:]]
            return builder.node(xs[0], leaves).output()

        return weights, run, lambda p, ws, xs: model.tree(ws, xs, arity)

    return make


PROGRAMS = {
    "product": of_a_product,
    "affine transform": of_an_affine_transform,
    "layers": of_layers,
    "traced function": of_a_traced_function,
    "LSTM step by step": recurrent(dy.VanillaLSTMBuilder, model.lstm, step_by_step),
    "LSTM transduced": recurrent(dy.VanillaLSTMBuilder, model.lstm, transduced),
    "compact LSTM": recurrent(dy.CompactVanillaLSTMBuilder, model.lstm, step_by_step),
    "simple RNN": recurrent(dy.SimpleRNNBuilder, model.simple, transduced),
    "GRU": recurrent(dy.GRUBuilder, model.gru, transduced),
    "child-sum tree": of_a_tree(0),
    "n-ary tree": of_a_tree(3),
}
INPUTS = 4


def of_the_model(like, weights, xs, grad, multiply):
    """[value, gradients of weights, of inputs] for one example."""
    ws, vs = [Value(p.as_array()) for p in weights], [Value(x) for x in xs]
    before = model.product
    model.product = multiply
    try:
        y = like(multiply, ws, vs)
    finally:
        model.product = before
    model.backward(y, grad)
    return [y.array, *[w.grad for w in ws], *[v.grad for v in vs]]


def not_rounded(w, x):
    return Value(
        w.array @ x.array,
        (w, lambda d: np.outer(d, x.array)),
        (x, lambda d: w.array.T @ d),
    )


@pytest.mark.parametrize("autobatching", [0, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("program", PROGRAMS)
def test_products_are_those_of_the_model(program, batch, autobatching, rng, precision):
    precision("bf16")
    m = dy.ParameterCollection()
    weights, run, like = PROGRAMS[program](m)
    for p in weights:
        p.set_value(rng.normal(size=p.shape()) / 3)
    dy.renew_cg(autobatching=autobatching)
    groups = 2  # of examples: two nodes that may become one
    arrays = rng.normal(size=(groups, INPUTS, LAYER[1], batch))
    given = [
        [dy.inputTensor(x, batched=True, reusable_expr=True) for x in group] for group in arrays
    ]
    ys = [run(xs) for xs in given]
    grads = rng.normal(size=(groups, ys[0].dim()[0][0], batch))
    loss = dy.esum(
        [
            dy.sum_batches(dy.dot_product(y, dy.inputTensor(g, batched=True)))
            for y, g in zip(ys, grads, strict=True)
        ]
    )
    loss.backward(full=True)
    found = {}
    for name, multiply in (("bf16", model.product), ("float32", not_rounded)):
        found[name] = [
            [
                of_the_model(like, weights, arrays[g, ..., k], grads[g, :, k], multiply)
                for k in range(batch)
            ]
            for g in range(groups)
        ]

    def both(pick):
        return [pick(found[name]) for name in ("bf16", "float32")]

    n = len(weights)
    value = np.array([y.npvalue().reshape(-1, batch) for y in ys])
    agree(value, *both(lambda f: [np.transpose([one[0] for one in group]) for group in f]))
    for k, p in enumerate(weights):
        summed = both(lambda f, k=k: sum(one[1 + k] for group in f for one in group))
        if len(p.shape()) == 2 and np.any(summed[0]):
            agree(p.grad_as_array(), *summed)
    for k in range(INPUTS):
        each = both(lambda f, k=k: [np.transpose([one[1 + n + k] for one in g]) for g in f])
        if np.any(each[0]):
            got = [given[g][k].gradient().reshape(LAYER[1], batch) for g in range(groups)]
            agree(got, *each)
