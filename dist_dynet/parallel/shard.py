"""shard(): which rank works on which examples in training.

It knows the order and costs of the data and the number of ranks. It does not communicate: every
rank computes the same division on its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._integers import integer_argument
from .._state import check_state, count_in, number_in
from ..params.dims import size
from .batch import Batch, Description, Loop, note_shard
from .division import Cost, Numbers, assign, bucketed, compact, deal, spread, total_of
from .fingerprint import fingerprint, is_sequence
from .micro_batches import MicroDraws, Outside, Part
from .processes import trial
from .processes.session import world
from .processes.world import hash_of

T = TypeVar("T")

_GRAPHS_BITS = 24
"""A micro-batch may build 2^24 graphs before its random draws overlap those of the next step."""


class Settings(NamedTuple):
    """What must be equal for a step to have the same examples: on all ranks, and after a resume."""

    batch_size: int
    seed: int
    drop_last: bool
    shuffle: bool
    micro_batches: int  # 0: none
    bucket: int  # 0: none


def _at_least(least: int, name: str, value: Any) -> int:
    """An integer argument.

    Raises:
        ValueError: it is too small.
        TypeError: it is no integer.
    """
    number = (
        size(value, "shard", f" for {name}") if least else integer_argument(value, "shard", name)
    )
    if number < least:
        raise ValueError(f"shard: {name} must be {least} or more; got {number}.")
    return number


class Listener(Protocol):
    """Follows the position of loops over a shard."""

    def step_ends(self) -> None:
        """Called when the loop asks for the batch after a step: everything in its body is done."""


class Shard(Generic[T]):
    """The batches of an epoch for this rank; made by shard(). Each loop over it is one epoch, and
    the next one is shuffled anew.

    A loop that is left by `break` before its last batch has not finished its epoch: the next loop
    starts the epoch again. After load_state() the next loop continues where state() was taken.

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
        weight: Cost | None,
        bucket: int | None,
    ) -> None:
        if not is_sequence(data):
            raise TypeError(
                f"shard: data must be a sequence of examples; got {type(data).__name__}. Write"
                " list(data)."
            )
        if bucket is not None and not shuffle:
            raise ValueError(
                "shard: bucket puts the examples into another order; got shuffle=False, which"
                " keeps it."
            )
        self._settings = Settings(
            _at_least(1, "batch_size", batch_size),
            _at_least(0, "seed", seed),
            bool(drop_last),
            bool(shuffle),
            0 if micro_batches is None else _at_least(1, "micro_batches", micro_batches),
            0 if bucket is None else _at_least(1, "bucket", bucket),
        )
        # numbers of micro-batches, in the order in which costs are divided over them
        self._groups = {number: i for i, number in enumerate(spread(micro_batches or 0))}
        self._data, self._comm, self._here = data, comm, world(comm)
        self._costs = Numbers(cost, data, "cost", kept=True)
        self._weights = None if weight is None else Numbers(weight, data, "weight", kept=False)
        self._epoch, self._position = _at_least(0, "epoch", epoch), 0
        self._resumes = False  # the next loop begins at _position
        self._loop: Loop | None = None  # the one that began last
        self._data_in_state: int | None = None  # their fingerprint, once it is wanted
        self._listeners: list[Listener] = []
        if self._here.size > 1:
            note_shard()

    @property
    def epoch(self) -> int:
        """The present epoch; between two loops, that of the next one. Setting another number starts
        that epoch."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._position = _at_least(0, "epoch", epoch), 0
            self._resumes, self._loop = False, None

    @property
    def position(self) -> int:
        """How many steps of the present epoch the loop has passed. A step ends when the loop asks
        for the next one."""
        return self._position

    def listen(self, listener: Listener) -> None:
        """Calls listener.step_ends() after each step from now on, and adds a checksum of the data
        to state().

        >>> import dist_dynet as dy
        >>> batches = dy.parallel.shard(range(4), batch_size=2, shuffle=False)
        >>> class Printer:
        ...     def step_ends(self):
        ...         print("steps done:", batches.position)
        >>> batches.listen(Printer())
        >>> for batch in batches:
        ...     print(batch)
        [0, 1]
        steps done: 1
        [2, 3]
        steps done: 2
        """
        self._listeners.append(listener)
        self._mark_data()

    def _mark_data(self) -> None:
        """Adds a checksum of the data to state(), so that a run that resumes with other data is
        refused."""
        if self._comm is None:  # otherwise each rank may have its own data
            self._data_in_state = _short(fingerprint(self._data))

    def _fixed(self) -> dict[str, int | bool]:
        """What must be equal for a position to mean the same examples."""
        data = {} if self._data_in_state is None else {"data": self._data_in_state}
        return {"examples": len(self._data), **self._settings._asdict(), **data}

    def state(self) -> dict[str, int | bool]:
        """Epoch, position, and the settings that they depend on, which do not include the number of
        ranks. The position counts the steps whose batches were used by updates.

        Raises:
            RuntimeError: the loop has gone past batches, as list(shard(...)) does, and updates did
                not name them.

        >>> import dist_dynet as dy
        >>> batches = dy.parallel.shard(range(6), batch_size=2)
        >>> for batch in batches:
        ...     if batches.position == 1:
        ...         state = batches.state()
        >>> state["epoch"], state["position"]
        (0, 1)
        """
        loop, epoch, position = self._loop, self._epoch, self._position
        if loop is not None and (loop.has_skipped or loop.batch is not None):
            if loop.has_skipped and loop.used < 0 and loop.is_used():
                raise RuntimeError(
                    "shard: the loop has gone past batches before an update used them, as"
                    " list(shard(...)) does, so that it is not known which are done. Name them:"
                    " trainer.update(batch) of a DistributedTrainer."
                )
            if (loop.batch is not None and loop.batch.epoch == epoch) or loop.used >= 0:
                position = loop.steps_done()
                if loop.batch is not None:
                    epoch = loop.batch.epoch
                if position == len(self) and self._epoch > epoch:
                    epoch, position = self._epoch, 0
        return {"epoch": epoch, "position": position, **self._fixed()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Makes the next loop continue from a state(), with any number of ranks.

        Raises:
            ValueError: it is of a shard with other settings or other data; nothing is changed then.
            TypeError: it is no state.

        >>> import dist_dynet as dy
        >>> batches, other = (dy.parallel.shard(range(6), batch_size=2, seed=1) for _ in range(2))
        >>> everything = list(batches)
        >>> other.load_state({**other.state(), "position": 1})
        >>> list(other) == everything[1:]
        True
        """
        check_state(state, "shard")
        for name, value in self._fixed().items():
            if name == "data" and name not in state:
                continue
            if number_in(state, name, "shard") != value:
                raise ValueError(
                    f"shard: {name} must be as it was when the state was taken, {state.get(name)};"
                    f" got {value}. Make the shard as at the first start."
                )
        epoch, position = (count_in(state, name, "shard") for name in ("epoch", "position"))
        if position > len(self):
            raise ValueError(f"shard: position must lie between 0 and {len(self)}; got {position}.")
        self._epoch, self._position, self._resumes, self._loop = epoch, position, True, None

    def __len__(self) -> int:
        """The number of steps of an epoch, the same on all ranks."""
        n, batch_size = len(self._data), self._settings.batch_size
        return n // batch_size if self._settings.drop_last else -(-n // batch_size)

    def _order(self, epoch: int) -> NDArray[Any]:
        settings = self._settings
        n = len(self._data)
        order = np.arange(n, dtype=np.int32 if n < 1 << 31 else np.int64)
        if settings.shuffle:
            generator = np.random.default_rng((settings.seed, epoch))
            generator.shuffle(order)
            if settings.bucket:
                order = bucketed(
                    order, self._costs.all(), settings.batch_size, settings.bucket, generator
                )
        return order

    def __iter__(self) -> Iterator[Batch[T]]:
        first = self._position if self._resumes else 0
        self._resumes = False
        return _Batches(self, first)

    def _begins(self, loop: Loop, epoch: int) -> None:
        """Called when a loop is asked for its first batch."""
        self._epoch, self._position, self._loop = epoch, loop.passed, loop

    def _step_ends(self, loop: Loop) -> None:
        if loop is self._loop:
            self._position = loop.passed
        for listener in self._listeners:
            listener.step_ends()

    def _loop_ends(self, loop: Loop, epoch: int, outside: Outside) -> None:
        """Called when the loop has ended or was left."""
        batch = loop.batch
        if batch is not None and batch.ends_step and (loop.is_used() or loop.used > batch.step):
            loop.passed = batch.step + 1
        whole = loop.passed == len(self) or (batch is not None and batch.step + 1 == len(self))
        if epoch == self._epoch and whole and (loop is self._loop or batch is None):
            self._epoch, self._position = epoch + 1, 0
            if not loop.has_skipped:
                self._loop = None
        elif loop is self._loop:
            self._position = loop.passed
        loop.end()
        cut = self._settings.micro_batches > 0
        outside.ends(self._counter(self._epoch, self._position) if cut else None)

    def _steps(self, loop: Loop, epoch: int) -> Iterator[Batch[T]]:
        """The batches of a loop for this rank."""
        here, order, settings = self._here, self._order(epoch), self._settings
        # `dist-dynet check` compares one rank with several
        several = here.size > 1 or trial.present() is not None
        data = fingerprint(self._data) if several and self._comm is None else 0
        hashed = hash_of(repr((len(self._data), settings))) if several else 0
        for step in range(loop.passed, len(self)):
            numbers = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            fetches = self._costs.fetches(numbers) or (
                self._weights is not None and self._weights.fetches(numbers)
            )
            # examples of other ranks are fetched only for their costs and weights
            examples = self._fetched(numbers) if fetches else None
            costs = self._costs.of(numbers, examples)
            weights = None if self._weights is None else self._weights.of(numbers, examples)
            total = len(numbers) if weights is None else total_of(weights)
            division = self._division(numbers, costs, weights) if several else 0
            described = Description(
                len(self._data), data, settings.batch_size, hashed, division, epoch, step
            )
            for positions, part in self._divided(costs, here.rank, here.size, loop, epoch, step):
                yield Batch(
                    self._fetched(numbers[positions])
                    if examples is None
                    else [examples[i] for i in positions.tolist()],
                    len(positions) if weights is None else total_of(weights[positions]),
                    total,
                    described,
                    loop,
                    here.members,
                    part,
                )

    def _fetched(self, numbers: NDArray[Any]) -> list[T]:
        return [self._data[i] for i in numbers.tolist()]

    def _division(
        self, numbers: NDArray[Any], costs: NDArray[Any], weights: NDArray[Any] | None
    ) -> int:
        """A checksum of everything that the division of a step depends on, the same in every
        process."""
        mark = zlib.crc32(compact(costs).data)
        if weights is not None:
            mark = zlib.crc32(weights.astype(np.float64).data, mark)
        return zlib.crc32(numbers.data, mark) if self._settings.bucket else mark

    def _divided(
        self, costs: NDArray[Any], rank: int, ranks: int, loop: Loop, epoch: int, step: int
    ) -> Iterator[tuple[NDArray[np.intp], Part | None]]:
        """The part of a step's examples for this rank: one batch, or several micro-batches."""
        count = self._settings.micro_batches
        if not count:
            every = np.arange(len(costs))
            yield every if ranks == 1 else every[assign(costs, ranks) == rank], None
            return
        counter = self._counter(epoch, step)
        of = assign(costs, count)
        mine = deal(count, rank, ranks)
        for turn, number in enumerate(mine):
            stream = count if number is None else number
            yield (
                np.flatnonzero(of == (-1 if number is None else self._groups[number])),
                Part(number, count, turn, len(mine), loop, MicroDraws(stream, counter)),
            )

    def _counter(self, epoch: int, step: int) -> int:
        """The counter for random draws in a step. It does not depend on the ranks, and leaves room
        for the graphs of a micro-batch."""
        return (epoch * len(self) + step) << _GRAPHS_BITS


def _short(number: int) -> int:
    """A 32-bit checksum of a fingerprint, which fits into any file; 0 stays 0."""
    return zlib.crc32(number.to_bytes(8, "little")) if number else 0


class _Batches(Iterator[Batch[T]], Generic[T]):
    """A loop over a shard, as an iterator. A loop that is left ends when nobody refers to it any
    more."""

    def __init__(self, shard_: Shard[T], first: int) -> None:
        self._shard, self._loop, self._epoch = shard_, Loop(first), shard_.epoch
        self._steps = shard_._steps(self._loop, self._epoch)
        self._outside = Outside()
        self._begun = self._ended = False  # last: what has no _ended has no loop to end

    def __next__(self) -> Batch[T]:
        if self._ended:
            raise StopIteration
        if not self._begun:
            self._begun = True
            self._shard._begins(self._loop, self._epoch)
        if self._loop.go_on():
            self._shard._step_ends(self._loop)
        try:
            batch = next(self._steps)
        except BaseException:
            self.close()
            raise
        self._outside.begin_batch(None if batch.part is None else batch.part.draws)
        self._loop.give(batch)
        return batch

    def close(self) -> None:
        """Ends the loop."""
        if not self._ended:
            self._ended = True
            self._shard._loop_ends(self._loop, self._epoch, self._outside)

    def __del__(self) -> None:
        if getattr(self, "_ended", True) is False:
            self.close()


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
    weight: Cost | None = None,
    bucket: int | None = None,
) -> Shard[T]:
    """For each step of an epoch, the examples of this rank, as a Batch, which is a list. Every
    example goes to exactly one rank.

    All ranks get the same number of steps. The order depends only on seed and epoch, not on the
    number of ranks. A rank's list may be empty: call update() all the same.

    Args:
        data: all examples, in the same order on every rank.
        batch_size: number of examples in a step, over all ranks.
        seed: of the order; the same on all ranks.
        epoch: the epoch of the first loop; each further loop is the next epoch.
        cost: work per example, by which the ranks' parts of each step are balanced: a function,
            called once for each example, or an array with one number per example, 0 or more. With
            `len`, examples without a length count as 1. None: all count alike.
        drop_last: leave out the last step if it is smaller.
        shuffle: False keeps the order of the data.
        micro_batches: for DistributedTrainer(reproducible=True): each step is cut into so many
            micro-batches, whatever the number of ranks, and the loop yields this rank's one after
            the other; the last of them may be empty. len() still counts steps.
        comm: an mpi4py communicator whose ranks divide the data; None: all.
        weight: how much an example counts in an average over ranks, such as its number of tokens,
            for losses that are means over tokens: a function, called in each step, or an
            array, read in each step. None: all count alike.
        bucket: puts examples of about equal cost into the same step: the shuffled examples of
            every `bucket` steps are sorted by cost, and these steps follow in random order. None:
            no sorting.

    With arrays for cost and weight, and from the second epoch on with only a cost function, a rank
    fetches only its own examples, as `data[i]`. So the data may be on disk.

    >>> from dist_dynet import parallel
    >>> [len(batch) for batch in parallel.shard(range(10), batch_size=4, seed=1, epoch=2)]
    [4, 4, 2]
    >>> list(parallel.shard("abcde", batch_size=2, shuffle=False))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    return Shard(
        data, batch_size, seed, epoch, cost, drop_last, shuffle, micro_batches, comm, weight, bucket
    )
