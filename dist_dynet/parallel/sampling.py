"""Which rank works on which examples: shard() for training, evaluate() for scoring.

It knows the data's order, costs and the number of ranks. It sends nothing while training: every rank computes the same division by itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..graph import cg
from ..params.dims import size
from ._session import world
from .collectives import gather

T = TypeVar("T")
R = TypeVar("R")
Cost = Callable[[Any], float]

_GRAPHS_BITS = 24
"""A micro-batch may have 2^24 graphs before its random draws meet those of the next step."""


@dataclass(frozen=True)
class Step:
    """The step that shard() gave out last: how many examples this rank has, and what must be alike on all ranks."""

    count: int
    description: tuple[int, ...]
    part: Part | None = None


@dataclass(frozen=True)
class Part:
    """Which of a step's micro-batches this is: the turn-th of `turns` that this rank is given."""

    number: int | None
    """Among those of all ranks, from 0 to of - 1; None: none is left for this turn."""
    of: int
    turn: int
    turns: int
    loop: object
    """The loop over the shard that it comes from."""


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


def deal(micro_batches: int, rank: int, ranks: int) -> list[int | None]:
    """The numbers of a rank's micro-batches: neighbours, so that most of the tree over the numbers is added up within the rank.

    All ranks get equally long lists; None: nothing to do.

    >>> [deal(8, rank, 3) for rank in range(3)]
    [[0, 1, None], [2, 3, 4], [5, 6, 7]]
    """
    numbers: list[int | None] = [*range(micro_batches * rank // ranks, micro_batches * (rank + 1) // ranks)]
    return numbers + [None] * (-(-micro_batches // ranks) - len(numbers))


def spread(n: int) -> list[int]:
    """0 to n - 1 in an order of which each beginning is spread evenly over them: that of the reversed bits.

    >>> spread(6)
    [0, 4, 2, 1, 5, 3]
    """
    bits = max(n - 1, 1).bit_length()
    return sorted(range(n), key=lambda i: f"{i:0{bits}b}"[::-1])


def _costs(examples: Sequence[Any], cost: Cost | None) -> list[float]:
    if cost is None or (cost is len and not all(hasattr(example, "__len__") for example in examples)):
        return [1.0] * len(examples)
    return [float(cost(example)) for example in examples]


def _is_sequence(data: object) -> bool:
    """Whether examples have numbers from 0."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping)


class Listener(Protocol):
    """What wants to know where a loop over a shard is."""

    def step_begins(self) -> None:
        """The loop is about to be given its next batch."""

    def step_ends(self) -> None:
        """The loop asks for the batch after it: all that its body does is done, and `position` counts the step."""


class Shard(Generic[T]):
    """The batches of an epoch for this rank; made by shard(). Each loop over it is one epoch, and the next one is shuffled anew.

    A loop that is left by `break` has not ended its epoch: the next loop begins it anew. After load_state() the next loop goes on where
    state() was taken, at the very end of an epoch with no batch at all, so that what stands behind the loop is done.

    >>> from dist_dynet import parallel
    >>> batches = parallel.shard(range(6), batch_size=2, shuffle=False)
    >>> for batch in batches:
    ...     print(batch, batches.epoch, batches.position)
    ...     if batches.position == 1:
    ...         state = batches.state()
    [0, 1] 0 0
    [2, 3] 0 1
    [4, 5] 0 2
    >>> resumed = parallel.shard(range(6), batch_size=2, shuffle=False)
    >>> resumed.load_state(state)
    >>> list(resumed), resumed.epoch
    ([[2, 3], [4, 5]], 1)
    """

    def __init__(
        self,
        data: Sequence[T],
        batch_size: int,
        seed: int,
        epoch: int,
        cost: Cost | None,
        drop_last: bool,
        shuffle: bool,
        micro_batches: int | None,
        comm: Any,
    ) -> None:
        if not _is_sequence(data):
            raise TypeError(f"shard: data must be a sequence of examples; got {type(data).__name__}. Write list(data).")
        self._batch_size = size(batch_size, "shard", " for batch_size")
        if batch_size < 1:
            raise ValueError(f"shard: batch_size, over all ranks, must be at least 1; got {batch_size}.")
        self._micro_batches = None if micro_batches is None else size(micro_batches, "shard", " for micro_batches")
        if micro_batches is not None and micro_batches < 1:
            raise ValueError(f"shard: micro_batches, over all ranks, must be at least 1; got {micro_batches}.")
        self._data, self._seed, self._cost = data, int(seed), cost
        self._drop_last, self._shuffle, self._comm = bool(drop_last), bool(shuffle), comm
        self._epoch, self._position = int(epoch), 0
        self._goes_on = False  # the next loop begins at _position
        self._listeners: list[Listener] = []

    @property
    def epoch(self) -> int:
        """The present epoch; between two loops that of the next one. Another number begins that epoch."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._position, self._goes_on = int(epoch), 0, False

    @property
    def position(self) -> int:
        """How many steps of the present epoch are done. A step is done when the loop asks for the next one."""
        return self._position

    def listen(self, listener: Listener) -> None:
        """Tells the listener of each step from now on."""
        self._listeners.append(listener)

    def _settings(self) -> dict[str, int | bool]:
        """What must be alike for a position to mean the same examples."""
        return {
            "examples": len(self._data), "batch_size": self._batch_size, "seed": self._seed, "drop_last": self._drop_last,
            "shuffle": self._shuffle, "micro_batches": self._micro_batches or 0,
        }  # fmt: skip

    def state(self) -> dict[str, int | bool]:
        """Epoch, position, and the settings that they depend on. The number of ranks is not among them."""
        return {"epoch": self._epoch, "position": self._position, **self._settings()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Makes the next loop go on from a state(), with any number of ranks.

        Raises:
            ValueError: it is of a shard with other settings or other data; nothing is changed then.
        """
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise ValueError(
                    f"shard: {name} must be as it was when the state was taken, {state.get(name)}; got {value}. "
                    "Make the shard as at the first start."
                )
        epoch, position = state.get("epoch"), state.get("position")
        if not isinstance(epoch, int) or not isinstance(position, int) or not 0 <= position <= len(self):
            raise ValueError(f"shard: position must lie between 0 and {len(self)}, epoch be a number; got {position!r}, {epoch!r}.")
        self._epoch, self._position, self._goes_on = epoch, position, True

    def __len__(self) -> int:
        """The number of steps of an epoch, the same on all ranks."""
        n = len(self._data)
        return n // self._batch_size if self._drop_last else -(-n // self._batch_size)

    def _order(self) -> list[int]:
        if not self._shuffle:
            return list(range(len(self._data)))
        return np.random.default_rng((self._seed, self._epoch)).permutation(len(self._data)).tolist()  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[list[T]]:
        here, order, epoch = world(self._comm), self._order(), self._epoch
        first = self._position if self._goes_on else 0
        self._position, self._goes_on = first, False
        present, loop = None, object()
        try:
            for step in range(first, len(self)):
                for batch, part in self._batches(order, step, here.rank, here.size, loop):
                    _Last.step = present = Step(len(batch), (*self._settings().values(), epoch, step), part)
                    if part:
                        cg()._draw_from(part.of if part.number is None else part.number, self._counter(epoch, step))
                    if not part or part.turn == 0:
                        for listener in self._listeners:
                            listener.step_begins()
                    yield batch
                self._position = step + 1
                for listener in self._listeners:
                    listener.step_ends()
            self._epoch, self._position = epoch + 1, 0
        finally:  # the end of the loop, or a break: what follows is not weighed like this batch
            if _Last.step is present:
                _Last.step = None
            if self._micro_batches:
                cg()._draw_from(None, self._counter(self._epoch, self._position))

    def _batches(self, order: list[int], step: int, rank: int, ranks: int, loop: object) -> Iterator[tuple[list[T], Part | None]]:
        """What this rank is given in a step: one batch, or micro-batches one after the other."""
        examples = [self._data[i] for i in order[step * self._batch_size : (step + 1) * self._batch_size]]
        costs = _costs(examples, self._cost)
        if not self._micro_batches:
            yield [examples[i] for i in divide(costs, ranks)[rank]], None
            return
        parts = dict(zip(spread(self._micro_batches), divide(costs, self._micro_batches), strict=True))
        mine = deal(self._micro_batches, rank, ranks)
        for turn, number in enumerate(mine):
            batch = [] if number is None else [examples[i] for i in parts[number]]
            yield batch, Part(number, self._micro_batches, turn, len(mine), loop)

    def _counter(self, epoch: int, step: int) -> int:
        """Of random draws: a number of the step that does not depend on the ranks, with room for the graphs of a micro-batch."""
        return (epoch * len(self) + step) << _GRAPHS_BITS


def shard(
    data: Sequence[T],
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    cost: Cost | None = len,
    drop_last: bool = False,
    shuffle: bool = True,
    micro_batches: int | None = None,
    comm: Any = None,
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
        micro_batches: for DistributedTrainer(reproducible=True): each step is cut into so many micro-batches, whatever the number of ranks, and
            the loop gives this rank's one after the other; the last of them may be empty. len() still counts steps.
        comm: an mpi4py communicator whose ranks divide the data; None: all.

    >>> from dist_dynet import parallel
    >>> [len(batch) for batch in parallel.shard(range(10), batch_size=4, seed=1, epoch=2)]
    [4, 4, 2]
    >>> list(parallel.shard("abcde", batch_size=2, shuffle=False))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    return Shard(data, batch_size, seed, epoch, cost, drop_last, shuffle, micro_batches, comm)


def evaluate(fn: Callable[[T], R], data: Iterable[T], cost: Cost | None = len, comm: Any = None) -> list[R]:
    """[fn(example) for example in data] on every rank, computed by all of them together: each example once, results in data order.

    Args:
        fn: computes one result; results are pickled.
        data: the same on all ranks. What is not a sequence, such as a generator, is made a list first.
        cost: work of an example, as in shard().
        comm: an mpi4py communicator; None: all ranks.

    Raises:
        ValueError: the ranks hold different numbers of examples.
        RuntimeError: fn has raised an exception on another rank; here it passes through.

    >>> from dist_dynet import parallel
    >>> parallel.evaluate(len, ["a", "bcd"])
    [1, 3]
    """
    here = world(comm)
    examples: Any = data if _is_sequence(data) else list(data)
    mine = divide(_costs(examples, cost), here.size)[here.rank]
    failure: Exception | None = None
    values: list[Any] = []
    try:
        values = [fn(examples[i]) for i in mine]
    except Exception as error:
        failure = error
    every = gather((len(examples), mine, values, failure and f"{type(failure).__name__}: {failure}"), comm)
    if failure:
        raise failure
    for rank, (count, _, _, words) in enumerate(every):
        if words:
            raise RuntimeError(f"{here.name} evaluate: on rank {here.members[rank]} fn has raised {words}")
        if count != len(examples):
            raise ValueError(
                f"{here.name} evaluate: the data must be the same on all ranks; got {len(examples)} examples here, {count} on rank "
                f"{here.members[rank]}."
            )
    results: list[Any] = [None] * len(examples)
    for _, part, theirs, _ in every:
        for i, value in zip(part, theirs, strict=True):
            results[i] = value
    return results
