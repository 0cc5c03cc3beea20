"""Which rank works on which examples: shard() for training, evaluate() for scoring.

It knows the data's order, costs and the number of ranks. It sends nothing while training: every rank computes the same division by itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ._session import world
from .collectives import gather

T = TypeVar("T")
R = TypeVar("R")
Cost = Callable[[Any], float]


@dataclass(frozen=True)
class Step:
    """The step that shard() gave out last: how many examples this rank has, and what must be alike on all ranks."""

    count: int
    description: tuple[int, ...]


class _Last:
    step: Step | None = None


def last_step() -> Step | None:
    """The step of the batch that this rank works on; None when no loop over shard() is under way."""
    return _Last.step


def divide(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Positions for each rank, so that the ranks' sums of costs are about equal: the dearest first, each to the least loaded rank.

    >>> divide([1, 9, 5, 5], 2)
    [[0, 1], [2, 3]]
    """
    loads = [(0.0, 0, rank) for rank in range(ranks)]
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, count, rank = loads[0]
        parts[rank].append(i)
        heapq.heapreplace(loads, (load + costs[i], count + 1, rank))
    return [sorted(part) for part in parts]


def _costs(examples: Sequence[Any], cost: Cost | None) -> list[float]:
    if cost is None or (cost is len and not all(hasattr(example, "__len__") for example in examples)):
        return [1.0] * len(examples)
    return [float(cost(example)) for example in examples]


class Shard(Generic[T]):
    """The batches of an epoch for this rank; made by shard(). Each loop over it is one epoch, and the next one is shuffled anew."""

    def __init__(self, data: Sequence[T], batch_size: int, seed: int, epoch: int, cost: Cost | None, drop_last: bool, shuffle: bool) -> None:
        if batch_size < 1:
            raise ValueError(f"shard: batch_size, over all ranks, must be at least 1; got {batch_size}.")
        self._data, self._batch_size, self._seed, self._cost = data, int(batch_size), int(seed), cost
        self._drop_last, self._shuffle = bool(drop_last), bool(shuffle)
        self.epoch = int(epoch)
        """The epoch of the next loop."""

    def __len__(self) -> int:
        """The number of steps of an epoch, the same on all ranks."""
        n = len(self._data)
        return n // self._batch_size if self._drop_last else -(-n // self._batch_size)

    def _order(self) -> list[int]:
        if not self._shuffle:
            return list(range(len(self._data)))
        return np.random.default_rng((self._seed, self.epoch)).permutation(len(self._data)).tolist()  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[list[T]]:
        here, order = world(), self._order()
        settings = (len(self._data), self._batch_size, self._seed, self.epoch, self._drop_last, self._shuffle)
        present = None
        try:
            for step in range(len(self)):
                examples = [self._data[i] for i in order[step * self._batch_size : (step + 1) * self._batch_size]]
                mine = [examples[i] for i in divide(_costs(examples, self._cost), here.size)[here.rank]]
                _Last.step = present = Step(len(mine), (*settings, step))
                yield mine
            self.epoch += 1
        finally:  # the end of the loop, or a break: what follows is not weighed like this batch
            if _Last.step is present:
                _Last.step = None


def shard(
    data: Sequence[T],
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    cost: Cost | None = len,
    drop_last: bool = False,
    shuffle: bool = True,
) -> Shard[T]:
    """For each step of an epoch, the list of examples of this rank; every example goes to exactly one rank.

    All ranks get the same number of steps. The order depends on seed and epoch only, not on the number of ranks. At the
    end of an epoch a rank's list may be empty: call update() all the same.

    Args:
        data: all examples, in the same order on every rank.
        batch_size: examples of a step over all ranks.
        seed: of the order; the same on all ranks.
        epoch: number of the epoch of the first loop; each further loop is the next one.
        cost: work of an example, by which the ranks' parts of each step are balanced; with `len`, examples without a length count alike.
            None: all count alike.
        drop_last: leave out the last step if it is smaller.
        shuffle: False keeps the order of the data.

    >>> from dist_dynet import parallel
    >>> [len(batch) for batch in parallel.shard(range(10), batch_size=4, seed=1, epoch=2)]
    [4, 4, 2]
    >>> list(parallel.shard("abcde", batch_size=2, shuffle=False))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    return Shard(data, batch_size, seed, epoch, cost, drop_last, shuffle)


def evaluate(fn: Callable[[T], R], data: Sequence[T], cost: Cost | None = len) -> list[R]:
    """[fn(example) for example in data] on every rank, computed by all of them together: each example once, results in data order.

    >>> from dist_dynet import parallel
    >>> parallel.evaluate(len, ["a", "bcd"])
    [1, 3]
    """
    here = world()
    parts = divide(_costs(data, cost), here.size)
    results: list[Any] = [None] * len(data)
    for part, values in zip(parts, gather([fn(data[i]) for i in parts[here.rank]]), strict=True):
        if len(part) != len(values):
            raise ValueError(f"{here.name} evaluate: the data must be the same on all ranks; here are {len(data)} examples.")
        for i, value in zip(part, values, strict=True):
            results[i] = value
    return results
