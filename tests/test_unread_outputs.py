"""Outputs of a call that the loss does not read add nothing to its gradients, whatever their
values: of a traced function, and of a recurrent network over a sequence.

The same made of single nodes gives what must come. How long: some seconds.
"""

import numpy as np
import pytest
from test_states import BUILDERS

import dist_dynet as dy

SIZE = 3


def _gradients(parameters, loss):
    """After backward from it."""
    parameters.reset_gradients()
    loss.backward()
    every = parameters.parameters_list() + parameters.lookup_parameters_list()
    return [p.grad_as_array() for p in every]


def _assert_equal(got, want):
    for g, w in zip(got, want, strict=True):
        assert np.isfinite(w).all()
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


def _outputs(x, y):
    """Infinite where a number is 0; the second leads to the third, inputs are outputs, too."""
    h = dy.tanh(x)
    logs = dy.log(y)
    return h, logs, dy.cdiv(h, logs), dy.sqrt(x), y


@pytest.mark.parametrize("autobatching", [0, 1, 2])
@pytest.mark.parametrize("seed", range(25))
def test_traced_function_unread(seed, autobatching):
    rng = np.random.default_rng(seed)
    parameters = dy.ParameterCollection()
    w = parameters.parameters_from_numpy(rng.uniform(0.5, 1, (SIZE, SIZE)))
    calls, batch = rng.integers(1, 5), rng.choice([1, 2])
    numbers = rng.uniform(1, 2, (calls, 2, SIZE, batch))
    read = [set(rng.permutation(5)[: rng.integers(1, 4)].tolist()) for _ in range(calls)]
    for call, outputs in enumerate(read):
        if not outputs & {3}:
            numbers[call, 0] *= rng.choice([0, 1])
        if not outputs & {1, 2, 4}:
            numbers[call, 1] *= rng.choice([0, 1])
    read[0].add(0)

    def gradients(function):
        dy.renew_cg(autobatching=autobatching)
        made = []
        for x, y in numbers:
            x, y = (w * dy.inputTensor(a, batched=True) for a in (x, y))
            made.append(function(x, y))
        losses = [
            dy.squared_norm(ys[k]) for ys, which in zip(made, read, strict=True) for k in which
        ]
        return _gradients(parameters, dy.sum_batches(dy.esum(losses)))

    dy.renew_cg()
    want = gradients(lambda x, y: _outputs(x, y))
    _assert_equal(gradients(dy.traced(_outputs)), want)


def _by_loop(builder, xs):
    states, s = [], builder.initial_state()
    for x in xs:
        s = s.add_input(x)
        states.append(s)
    return states


@pytest.mark.parametrize("autobatching", [0, 1, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("of", BUILDERS)
def test_steps_behind_the_loss(of, layers, autobatching, rng):
    """Sequences of several lengths, of which some are read to the end."""
    parameters = dy.ParameterCollection()
    builder = of(layers, SIZE, SIZE, parameters)
    w = parameters.parameters_from_numpy(rng.normal(size=(SIZE, SIZE)))
    lengths, read = (1, 3, 5, 5, 20), (1, 2, 5, 1, 18)
    numbers = [rng.normal(size=(n, SIZE)) for n in lengths]
    for sequence, n in zip(numbers, read, strict=True):
        sequence[n:] = rng.choice([np.inf, np.nan, 1], size=sequence[n:].shape)

    def gradients(states_over, count=5):
        dy.renew_cg(autobatching=autobatching)
        losses = []
        for sequence, n in zip(numbers[:count], read, strict=False):
            states = states_over([w * dy.inputVector(x) for x in sequence])
            losses += [dy.squared_norm(s.output()) for s in states[: n - 1]]
            losses += [dy.squared_norm(part) for part in states[n - 1].s()]  # of an LSTM, c too
        return _gradients(parameters, dy.esum(losses))

    for count in (2, 5):
        want = gradients(lambda xs: _by_loop(builder, xs), count)
        _assert_equal(gradients(lambda xs: builder.initial_state().add_inputs(xs), count), want)


@pytest.mark.parametrize("autobatching", [0, 1, 2])
@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("of", BUILDERS)
def test_rows_behind_the_loss(of, others, autobatching, rng):
    """Equal rows of a table are multiplied once; some are read behind the loss alone. Also beside a
    sequence that is read to its end."""
    parameters = dy.ParameterCollection()
    builder = of(1, SIZE, SIZE, parameters)
    numbers = rng.normal(size=(6, SIZE))
    if not others:
        numbers[5] = np.inf, 1, np.nan
    table = parameters.lookup_parameters_from_numpy(numbers)
    words, more = [*rng.integers(5, size=30), 5, 1, 5], [*rng.integers(5, size=33 * others)]

    def gradients(outputs_over):
        dy.renew_cg(autobatching=autobatching)
        read = outputs_over([table[i] for i in words])[:30]
        read += outputs_over([table[i] for i in more]) if more else []
        return _gradients(parameters, dy.squared_norm(dy.esum(read))), sorted(table.touched_rows())

    want = gradients(lambda xs: [s.output() for s in _by_loop(builder, xs)])
    got = gradients(lambda xs: builder.initial_state().transduce(xs))
    _assert_equal(got[0], want[0])
    assert got[1] == want[1] == [*range(5)]


@pytest.mark.parametrize("autobatching", [0, 1, 2, 3])
@pytest.mark.parametrize("between", ["product", "traced", "function"])
def test_rows_of_what_is_behind_the_loss(between, autobatching, rng):
    """What is computed of rows, of equal ones once, and read behind the loss alone."""
    parameters = dy.ParameterCollection()
    builder = dy.GRUBuilder(1, SIZE, SIZE, parameters)
    w = parameters.parameters_from_numpy(rng.normal(size=(SIZE, SIZE)))
    table = parameters.lookup_parameters_from_numpy(rng.normal(size=(6, SIZE)))
    words = rng.integers(5, size=(3, 12))
    words[:, 10:] = 5, 1
    words[0, :10] %= 4  # 4 is behind the loss in one of them alone
    words[0, 11] = 4
    of = {"product": lambda x: w * x, "function": dy.tanh}.get(between)
    of = of or dy.traced(lambda x: dy.cmult(dy.tanh(w * x), x))

    def gradients(n):
        dy.renew_cg(autobatching=autobatching)
        hs = [builder.initial_state().transduce([of(table[i]) for i in s[:n]]) for s in words]
        losses = [dy.squared_norm(h) for sequence in hs for h in sequence[:10]]
        got = _gradients(parameters, dy.esum(losses))
        return got, sorted(table.touched_rows())

    want, got = gradients(10), gradients(12)
    _assert_equal(got[0], want[0])
    assert got[1] == want[1]


@pytest.mark.parametrize("of", BUILDERS)
def test_padded_steps_behind_the_loss(of, rng):
    parameters = dy.ParameterCollection()
    builder = of(1, SIZE, SIZE, parameters)
    numbers = rng.normal(size=(6, SIZE, 2))

    def gradients(steps, lengths):
        dy.renew_cg()
        xs = [dy.inputTensor(x, batched=True) for x in numbers[:steps]]
        states = builder.initial_state().add_inputs(xs, lengths=lengths)[:3]
        losses = [dy.squared_norm(part) for s in states for part in s.s()]
        return _gradients(parameters, dy.sum_batches(dy.esum(losses)))

    want = gradients(3, [3, 2])
    numbers[3:] = np.inf
    _assert_equal(gradients(6, [6, 2]), want)


@pytest.mark.parametrize("of", BUILDERS)
def test_reversed_steps_behind_the_loss(of, rng):
    parameters = dy.ParameterCollection()
    builder = dy.BiRNNBuilder(1, SIZE, 2 * SIZE, parameters, of)
    numbers = rng.normal(size=(6, SIZE, 2))

    def gradients(first):
        dy.renew_cg()
        xs = [dy.inputTensor(x, batched=True) for x in numbers[first:]]
        states = builder.add_inputs(xs, lengths=[len(xs)] * 2)[2 - first :]
        losses = [dy.squared_norm(part) for _, back in states for part in back.s()]
        return _gradients(parameters, dy.sum_batches(dy.esum(losses)))

    want = gradients(2)
    numbers[0], numbers[1] = np.inf, np.nan
    _assert_equal(gradients(0), want)


@pytest.mark.parametrize("of", BUILDERS)
def test_steps_behind_the_loss_in_a_traced_function(of, rng):
    parameters = dy.ParameterCollection()
    builder = of(2, SIZE, SIZE, parameters)
    w = parameters.parameters_from_numpy(np.abs(rng.normal(size=(SIZE, SIZE))))

    def first_two(x, over):
        h = over([x, dy.tanh(x), dy.log(x - x), x])
        return h[0] + h[1]

    def gradients(over, call):
        dy.renew_cg()
        losses = [
            dy.squared_norm(call(w * dy.inputVector(a), over))
            for a in rng.uniform(size=(3, SIZE)) * 0 + 0.5
        ]
        return _gradients(parameters, dy.esum(losses))

    def over_list(xs):
        return builder.initial_state().transduce(xs)

    want = gradients(lambda xs: [s.output() for s in _by_loop(builder, xs)], first_two)
    traced = dy.traced(lambda x: first_two(x, over_list))
    _assert_equal(gradients(None, lambda x, over: traced(x)), want)
