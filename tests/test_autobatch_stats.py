"""How many batches on-the-fly batching makes, and what autobatch_stats() says of them."""

import random

import numpy as np
import pytest

import dist_dynet as dy

BY_DEPTH, BY_AGENDA, AUTO = STRATEGIES = 1, 2, 3


@pytest.fixture
def model():
    return dy.ParameterCollection()


def products(model, n):
    W = model.add_parameters((3, 3))
    return [dy.tanh(W * dy.inputVector([i, 1.0, -i])) for i in range(n)]


def test_autobatch_stats_count_nodes_batches_and_gathers(model):
    dy.renew_cg(autobatching=BY_AGENDA)
    assert dy.autobatch_stats()[:4] == (0, 0, 0, 0)
    ys = products(model, 10)
    dy.forward(ys)
    stats = dy.autobatch_stats()
    assert (stats.nodes, stats.batches) == (31, 13)  # W, ten inputs, a product, a tanh
    assert (stats.gathers_copied, stats.gathers_avoided) == (1, 1)
    assert stats.schedule_seconds > 0 and stats.execution_seconds > 0
    dy.esum(ys[::-1]).forward()
    assert dy.autobatch_stats()[:2] == (32, 14)
    dy.renew_cg()
    dy.forward(products(model, 10))
    assert dy.autobatch_stats() == (0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(("n", "batches"), [(3, 10), (40, 43)])
def test_automatic_choice_batches_what_is_wide(model, n, batches):
    dy.renew_cg(autobatching=AUTO)
    dy.forward(products(model, n))
    assert dy.autobatch_stats()[:2] == (3 * n + 1, batches)


def test_automatic_choice_leaves_chains_as_they_are():
    dy.renew_cg(autobatching=AUTO)
    x = dy.inputVector([1, 2])
    for _ in range(100):
        x = dy.tanh(x)
    x.forward()
    assert dy.autobatch_stats()[:2] == (101, 101)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chains_take_as_many_batches_as_the_bound_says(strategy):
    dy.renew_cg(autobatching=strategy)
    xs = [dy.inputVector([i, 2]) for i in range(12)]
    for _ in range(7):
        xs = [dy.tanh(dy.square(x)) for x in xs]
    dy.forward(xs)
    stats = dy.autobatch_stats()
    assert stats.least_batches == stats.batches == 12 + 2 * 7


def test_the_bound_is_of_the_longest_chain_of_each_signature():
    dy.renew_cg(autobatching=BY_AGENDA)
    x, y = dy.inputVector([1, 2]), dy.inputVector([3, 4])
    long = dy.tanh(dy.square(dy.tanh(dy.square(dy.tanh(x)))))  # three tanh in a row, two squares
    wide = [dy.square(dy.square(dy.square(y))), dy.tanh(y)]  # three squares
    long.forward()
    assert dy.autobatch_stats().least_batches <= dy.autobatch_stats().batches
    dy.forward([long, *wide])
    assert dy.autobatch_stats().least_batches == 2 + 3 + 3
    dy.renew_cg(autobatching=False)
    dy.tanh(dy.inputVector([1, 2])).forward()
    assert dy.autobatch_stats().least_batches == 0


def lattice(seed, sentences=24, length=20):
    """Chains of states, some of which take in what one before them says by another way."""
    m, rng, ends = dy.ParameterCollection(), random.Random(seed), []
    W, V, U = (m.add_parameters((3, 3)) for _ in range(3))
    for s in range(sentences):
        states = [dy.inputVector([s, 1, -1])]
        for _ in range(length + s % 5):
            state = dy.tanh(W * states[-1])
            if rng.random() < 0.4:
                other = dy.logistic(V * rng.choice(states))
                state = state + dy.cmult(other, dy.tanh(U * state))
            states.append(state)
        ends.append(dy.squared_norm(states[-1]))
    return dy.esum(ends), (W, V, U)


@pytest.mark.parametrize("seed", range(3))
def test_automatic_choice_needs_the_fewest_batches_where_kinds_wait_for_one_another(seed):
    found, batches = {}, {}
    for strategy in (0, *STRATEGIES):
        dy.reset_random_seed(1)
        dy.renew_cg(autobatching=strategy)
        loss, parameters = lattice(seed)
        value = loss.value()
        loss.backward()
        found[strategy] = [value, *(p.grad_as_array() for p in parameters)]
        stats = dy.autobatch_stats()
        batches[strategy] = stats.batches
        assert stats.least_batches <= stats.batches
    for strategy in STRATEGIES:
        for a, b in zip(found[0], found[strategy], strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())
    assert batches[AUTO] < min(batches[BY_AGENDA], batches[BY_DEPTH])


def test_sequences_of_different_lengths_are_one_batch(model):
    E, lstm = model.add_lookup_parameters((9, 4)), dy.VanillaLSTMBuilder(1, 4, 3, model)
    dy.renew_cg(autobatching=BY_AGENDA)
    ends = [
        lstm.initial_state().transduce([E[(i + k) % 9] for k in range(n)])[-1]
        for i, n in enumerate([5, 2, 7, 3])
    ]
    dy.forward(ends)
    stats = dy.autobatch_stats()
    assert stats.nodes - stats.batches == 3


def test_inputs_are_gathered_once_for_all_that_read_them(model):
    W, V = model.add_parameters((3, 3)), model.add_parameters((3, 3))
    dy.renew_cg(autobatching=BY_AGENDA)
    xs = [dy.inputVector([i, 1.0, -i]) for i in range(8)]
    dy.forward([f(w * x) for x in xs for w, f in ((W, dy.tanh), (V, dy.logistic))])
    assert dy.autobatch_stats()[2:4] == (1, 3)
