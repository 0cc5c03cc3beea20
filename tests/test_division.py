"""Who gets which of a step's examples, as on one of many ranks: what is computed, and what is
fetched."""

import heapq
import importlib
from types import SimpleNamespace

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet.parallel import batch
from dist_dynet.parallel.division import assign, bucketed, divide, total_of

RNG = np.random.default_rng(5)


@pytest.fixture
def as_rank(monkeypatch):
    """Makes shard() believe that this is a rank of many."""

    def become(rank, ranks):
        here = SimpleNamespace(rank=rank, size=ranks, members=range(ranks))
        module = importlib.import_module("dist_dynet.parallel.shard")
        monkeypatch.setattr(module, "world", lambda comm: here)
        monkeypatch.setattr(module, "fingerprint", lambda data: 0)  # which looks at eight more
        monkeypatch.setattr(batch, "_divided", batch._divided)

    return become


class OnDisk:
    """Data of which each access is counted."""

    def __init__(self, examples):
        self.examples, self.fetched = examples, []

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        self.fetched.append(i)
        return self.examples[i]


def by_heap(costs, ranks):
    """The definition: the dearest first, each to the least loaded rank; of these to the one with
    the fewest examples, then to the first."""
    loads = [(0.0, 0, rank) for rank in range(ranks)]
    parts = [[] for _ in range(ranks)]
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, count, rank = loads[0]
        parts[rank].append(i)
        heapq.heapreplace(loads, (load + costs[i], count + 1, rank))
    return [sorted(part) for part in parts]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 64, 100])
@pytest.mark.parametrize(
    "costs",
    [
        RNG.integers(0, 40, 300),
        RNG.lognormal(3, 1, 300),
        RNG.integers(-5, 100_000, 300),
        np.full(300, -0.0),
        np.ones(300),
        np.empty(0),
        RNG.integers(1, 50, 70_000),
        RNG.integers(1, 50, 5000),
        np.where(RNG.random(3000) < 0.02, 1023, RNG.integers(1, 4, 3000)),
    ],
    ids=["lengths", "fractions", "large", "zeros", "alike", "none", "many", "short", "unlike"],
)
def test_the_dearest_go_first_to_the_least_loaded(costs, ranks):
    costs = np.asarray(costs, np.float64)
    assert divide(costs, ranks) == by_heap(costs.tolist(), ranks)


def test_an_example_goes_to_the_same_rank_however_its_cost_is_stored():
    costs = RNG.integers(0, 60_000, 500)
    assert (assign(costs.astype(np.uint16), 9) == assign(costs.astype(np.float64), 9)).all()
    for parts in (65_534, 65_535, 65_536, 200_000):  # beside the greatest that 16 bits hold
        assert assign(np.array([1.0, 3, 2]), parts).tolist() == [2, 0, 1]


def test_weights_are_added_up_from_the_first_on():
    for weights in ([], [2.5], [1e16, 1, -1e16, 1]):
        assert total_of(np.array(weights)) == sum(weights)


def test_the_order_of_an_epoch_is_numpys_permutation_in_four_bytes_an_example():
    order = dy.parallel.shard(range(1000), 10, seed=3, epoch=2)._order(2)
    assert order.tolist() == np.random.default_rng((3, 2)).permutation(1000).tolist()
    assert order.nbytes == 4 * 1000


def test_a_rank_fetches_its_own_examples_alone_where_costs_and_weights_are_arrays(as_rank):
    as_rank(3, 16)
    examples = [[i] * (1 + i % 7) for i in range(256)]
    lengths = [len(example) for example in examples]
    data = OnDisk(examples)
    batches = dy.parallel.shard(data, 64, cost=lengths, weight=np.array(lengths))
    expected = dy.parallel.shard(examples, 64, weight=len)
    for part, other in zip(batches, expected, strict=True):
        assert part == other and (part.n, part.total) == (other.n, other.total)
    assert len(data.fetched) == 16


def test_a_function_is_asked_once_for_the_cost_of_each_example(as_rank):
    as_rank(1, 4)
    asked, data = [], OnDisk([[i] * (1 + i % 7) for i in range(40)])

    def cost(example):
        asked.append(example)
        return len(example)

    batches = dy.parallel.shard(data, 20, cost=cost)
    first = [*batches]
    assert len(asked) == len(data.fetched) == 40
    second = [*batches]
    assert len(asked) == 40 and len(data.fetched) == 40 + sum(map(len, second))
    assert len(first) == len(second) == 2


def test_examples_without_a_length_cost_one(as_rank):
    as_rank(0, 2)
    assert sorted(map(str, next(iter(dy.parallel.shard([[1, 2], 3, 4], 3))))) == ["[1, 2]"]


def test_costs_and_weights_are_numbers_from_zero_on():
    for name in ("cost", "weight"):
        with pytest.raises(ValueError, match=rf"{name} must be a function or hold a number"):
            dy.parallel.shard("abc", 2, **{name: [1, 2]})
        for wrong in (-1, -0.5, np.inf, np.nan, None, "x"):
            error = TypeError if wrong in (None, "x") else ValueError
            words = rf"shard: {name}\(example\) must be a number.*; got '?{wrong}"
            for data in ("abc", [*"abc"]):  # the latter is asked at once
                with pytest.raises(error, match=words):
                    [*dy.parallel.shard(data, 2, **{name: {"a": 1, "b": wrong, "c": 0}.get})]
            if error is ValueError:
                with pytest.raises(ValueError, match=words):
                    dy.parallel.shard("abc", 2, **{name: [1, 2, wrong]})


def test_buckets_hold_each_example_once_and_steps_of_about_equal_costs():
    data = [[i] * int(n) for i, n in enumerate(RNG.integers(1, 41, 330))]
    batches = dy.parallel.shard(data, 16, bucket=5, seed=2)
    seen = [*batches]
    assert [len(batch) for batch in seen] == [16] * 20 + [10]
    assert sorted(example[0] for batch in seen for example in batch) == [*range(330)]

    def spread(batch):
        lengths = [len(example) for example in batch]
        return max(lengths) - min(lengths)

    plain = [*dy.parallel.shard(data, 16, seed=2)]
    assert np.median([*map(spread, seen)]) < np.median([*map(spread, plain)]) / 2
    for first in (0, 5, 10, 15):  # a bucket's examples are those of as many steps in shuffled order
        assert {x[0] for batch in seen[first : first + 5] for x in batch} == {
            x[0] for batch in plain[first : first + 5] for x in batch
        }
    # the next epoch has others, and the steps are not in the order of their lengths
    assert [*batches] != seen
    means = [np.mean([*map(len, batch)]) for batch in seen[:5]]
    assert means != sorted(means)
    # of one step each, the steps are those of before
    order, costs = RNG.permutation(23), RNG.random(23)
    alone = bucketed(order, costs, 4, 1, RNG)
    assert [{*alone[i : i + 4]} for i in range(0, 23, 4)] == [
        {*order[i : i + 4]} for i in range(0, 23, 4)
    ]


def test_a_state_knows_the_buckets():
    batches = dy.parallel.shard("abcdef", 2, bucket=2)
    with pytest.raises(ValueError, match="bucket must be as it was"):
        dy.parallel.shard("abcdef", 2).load_state(batches.state())
    with pytest.raises(ValueError, match="bucket must be 1 or more"):
        dy.parallel.shard("abc", 2, bucket=0)
    with pytest.raises(ValueError, match="got shuffle=False"):
        dy.parallel.shard("abc", 2, bucket=2, shuffle=False)
