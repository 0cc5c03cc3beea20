"""Random draws: what repeats them, what makes them differ, what they do not depend on.

How long: about two seconds.
"""

import os
import threading

import numpy as np
import pytest
from processes import output_of

import dist_dynet as dy

KINDS = {
    "dropout": lambda: dy.dropout(dy.ones(64), 0.5),
    "normal": lambda: dy.random_normal(64),
    "uniform": lambda: dy.random_uniform(64, -1, 1),
    "bernoulli": lambda: dy.random_bernoulli(64, 0.5),
    "gumbel": lambda: dy.random_gumbel(64),
}
every_kind = pytest.mark.parametrize("draw", KINDS.values(), ids=list(KINDS))


@every_kind
def test_seed_repeats_draws(draw):
    def three():
        out = []
        for _ in range(3):
            dy.renew_cg()
            out += [draw().value(), draw().value()]
        return out

    dy.reset_random_seed(12)
    first = three()
    dy.reset_random_seed(12)
    assert three() == first
    dy.reset_random_seed(13)
    assert not any(a == b for a, b in zip(three(), first, strict=True))


def test_seed_repeats_initial_parameters():
    def values():
        m = dy.ParameterCollection()
        return [
            m.add_parameters((3, 4)).as_array(),
            m.add_lookup_parameters((5, 2)).as_array(),
            m.add_parameters(9, init="normal").as_array(),
        ]

    dy.reset_random_seed(4)
    first = values()
    assert not np.array_equal(first[0], values()[0])
    dy.reset_random_seed(4)
    for a, b in zip(first, values(), strict=True):
        assert np.array_equal(a, b)


def test_seed_0_takes_one_at_random():
    seen = set()
    for _ in range(3):
        dy.reset_random_seed(0)
        dy.renew_cg()
        seen.add(tuple(dy.random_uniform(4, 0, 1).value()))
    assert len(seen) == 3


def test_seeds_below_0_are_refused_and_change_nothing():
    dy.reset_random_seed(5)
    wanted = dy.ParameterCollection().add_parameters(4).as_array()
    dy.reset_random_seed(5)
    with pytest.raises(ValueError, match=r"^reset_random_seed: seed must be 0 or more; got -1"):
        dy.reset_random_seed(-1)
    assert (dy.ParameterCollection().add_parameters(4).as_array() == wanted).all()


@every_kind
def test_draws_differ_per_node_graph_and_recalculation(draw):
    seen = []
    for _ in range(2):
        dy.renew_cg()
        a, b = draw(), draw()
        seen += [a.value(), b.value()]
        seen += [a.value(recalculate=True), b.value()]
    dy.cg_checkpoint()
    seen.append(draw().value())
    dy.cg_revert()
    seen.append(draw().value())
    assert len({tuple(s) for s in seen}) == len(seen)


@every_kind
def test_draws_do_not_depend_on_how_forward_is_cut(draw):
    def nodes(look):
        dy.reset_random_seed(8)
        dy.renew_cg()
        made = []
        for _ in range(4):
            made.append(draw())
            if look == "each":
                made[-1].forward()
        if look == "backwards":
            return [e.value() for e in reversed(made)][::-1]
        return dy.values(made)

    assert nodes("each") == nodes("backwards") == nodes("last")


@every_kind
def test_draws_do_not_depend_on_other_nodes_values(draw):
    def value(x):
        dy.reset_random_seed(8)
        dy.renew_cg()
        dy.tanh(dy.inputVector([x] * 5)).forward()
        return draw().value()

    assert value(1) == value(2)


def test_backward_uses_the_draws_of_forward():
    w = dy.ParameterCollection().add_parameters(100, init=1)
    y = dy.dropout(w, 0.3)
    mask = y.value()
    dy.sum_elems(y).backward()
    assert w.grad_as_array().tolist() == mask


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_mean_and_variance(p, batch):
    y = dy.dropout(dy.ones(30_000, batch_size=batch), p).npvalue()
    keep, n = 1 - p, y.size
    assert np.allclose(np.unique(y), [0, 1 / keep])
    assert abs(y.mean() - 1) < 5 * np.sqrt(p / keep / n)
    np.testing.assert_allclose(y.var(), p / keep, rtol=0.1)
    if batch > 1:
        assert abs(np.corrcoef(y[:, 0], y[:, 1])[0, 1]) < 0.03
    # neighbours are independent
    flat = y.ravel(order="F")
    assert abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 0.03


def test_dropout_rates_at_the_ends():
    x = dy.inputVector([1, 2, 3])
    assert dy.dropout(x, 0).value() == [1, 2, 3]
    assert dy.dropout(x, 1).value() == [0, 0, 0]
    for p in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="dropout: the dropout rate"):
            dy.dropout(x, p)


def test_moments_of_random_inputs():
    n = 100_000
    normal = np.array(dy.random_normal(n, 2, 3).value())
    np.testing.assert_allclose([normal.mean(), normal.std()], [2, 3], rtol=0.02)
    uniform = np.array(dy.random_uniform(n, -1, 3).value())
    np.testing.assert_allclose([uniform.mean(), uniform.std()], [1, 4 / np.sqrt(12)], rtol=0.02)
    assert uniform.min() >= -1 and uniform.max() <= 3
    coin = np.array(dy.random_bernoulli(n, 0.25, 4).value())
    np.testing.assert_allclose(coin.mean(), 1, rtol=0.03)
    gumbel = np.array(dy.random_gumbel(n).value())
    np.testing.assert_allclose(
        [gumbel.mean(), gumbel.std()], [0.5772, np.pi / np.sqrt(6)], rtol=0.02
    )


def test_random_inputs_take_dims_and_batch():
    for e in (
        dy.random_normal((2, 3), batch_size=4),
        dy.random_uniform((2, 3), 0, 1, batch_size=4),
        dy.random_gumbel((2, 3), batch_size=4),
    ):
        assert e.dim() == ((2, 3), 4)
        assert len(np.unique(e.npvalue())) == 24


@pytest.fixture
def in_dynets_order():
    dy.init(rng="dynet")
    yield
    dy.init(rng="keyed")


@pytest.mark.parametrize("n", [1, 3, 255, 257, 312, 313, 1025, 5000])
def test_dynets_draws_are_made_of_the_words_of_mt19937(in_dynets_order, n):
    # NumPy has the same generator; n crosses the ends of its state and of blocks.
    dy.reset_random_seed(11)
    words = np.random.RandomState(11).randint(0, 2**32, 8 * n, np.uint32)
    drawn = [
        dy.random_uniform(n, 0, 1),
        dy.random_bernoulli(n, 0.3, 2.5),
        dy.dropout(dy.ones(n), 0.25),
        dy.random_gumbel(n),
        dy.random_bernoulli(n, 1),
    ]
    uniform, bernoulli, dropped, gumbel, always = (x.npvalue() for x in drawn)

    def unit(start):
        return np.minimum(words[start : start + n].astype(np.float32) * 2.0**-32, 1 - 2.0**-24)

    def chance(start):
        low, high = words[start : start + 2 * n].astype(float).reshape(n, 2).T
        return np.minimum((low + high * 2.0**32) * 2.0**-64, 1 - 2.0**-53)

    assert np.array_equal(uniform, unit(0))
    assert np.array_equal(bernoulli, (chance(n) < np.float32(0.3)) * 2.5)
    kept = chance(3 * n) < np.float32(0.75)
    assert np.array_equal(dropped, kept * np.float32(1 / np.float32(0.75)))
    exact = -np.log(-np.log(np.maximum(unit(5 * n), 1e-20)))
    np.testing.assert_allclose(gumbel, exact, rtol=3e-7, atol=3e-7)
    assert np.array_equal(always, np.ones(n))


def test_draws_differ_per_thread():
    dy.reset_random_seed(3)
    dy.renew_cg()
    seen = [dy.random_uniform(8, 0, 1).value()]

    def other():
        dy.renew_cg()
        seen.append(dy.random_uniform(8, 0, 1).value())

    for _ in range(3):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len({tuple(s) for s in seen}) == 4


def test_draws_differ_per_forked_child_and_the_seed_governs_them():
    code = """
import os, sys, dist_dynet as dy
dy.reset_random_seed(6)
dy.renew_cg()
w = dy.ParameterCollection()
def draws():
    dy.renew_cg()
    return [round(v, 6) for v in dy.random_uniform(3, 0, 1).value()], w.add_parameters(2).as_array().round(6).tolist()
for level in ("a", "b"):
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        print(level, draws(), flush=True)
        if not os.fork():
            print(level + "a", draws(), flush=True)
            os._exit(0)
        os.wait()
        os._exit(0)
    os.waitpid(pid, 0)
print("p", draws())
"""  # noqa: E501
    first, second = output_of(code), output_of(code)
    assert first == second
    lines = [line.split(" ", 1)[1] for line in first.splitlines()]
    assert len(lines) == 5
    assert len({line.split("], [")[0] for line in lines}) == 5, first  # draws in graphs
    assert len({line.split("], [")[1] for line in lines}) == 5, first  # initial parameters


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_does_not_change_the_parents_draws():
    def values(fork):
        dy.reset_random_seed(6)
        dy.renew_cg()
        first = dy.random_uniform(3, 0, 1).value()
        if fork:
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
        return (
            first,
            dy.random_uniform(3, 0, 1).value(),
            dy.ParameterCollection().add_parameters(3).as_array().tolist(),
        )

    assert values(True) == values(False)


@pytest.mark.parametrize(
    "arguments", [("a", 0), (1, None), (1, 0, "a"), (1, -1), (1 << 64, 0), (1, 0, 1 << 64)]
)
def test_draws_from_no_place_change_nothing(arguments):
    before = dy.renew_cg().draws()
    with pytest.raises((TypeError, OverflowError), match=r"draw_from: (stream|counter|samples) "):
        dy.cg().draw_from(*arguments)
    assert dy.cg().draws() == before
