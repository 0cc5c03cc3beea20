"""shard(): which rank works on which examples in training.

It knows the order and costs of the data and the number of ranks. It does not communicate while
training: every rank computes the same division on its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..._ffi import lib
from ..._state import check_state, count_in, number_in
from ..batches.batches import Batch, Description, Loop, warn_if_alone
from ..batches.division import Cost, Numbers, assign, bucketed, compact, deal, spread, total_of
from ..batches.micro_draws import MicroDraws, Outside, Part
from ..batches.shard_settings import checked_settings, from_zero
from ..processes import trial
from ..processes.forks import forks
from ..processes.session import world
from .data_marks import DataMarks
from .fingerprint import is_sequence

T = TypeVar("T")

_GRAPHS_BITS = 24
"""A micro-batch may build 2^24 graphs before its random draws overlap those of the next step."""


class Listener(Protocol):
    """Follows the position of loops over a shard."""

    def step_ends(self) -> None:
        """Called when the loop asks for the batch after a step: everything in its body is done."""


class Shard(Generic[T]):
    """The batches of an epoch for this rank; made by shard(). Each loop over it is one epoch, and
    the next one is shuffled anew.

    A loop that is left by `break` before its last batch has not finished its epoch: the next loop
    starts the epoch again. After load_state() the next loop continues where state() was taken; at
    the very end of an epoch it yields no batch, so that the code after the loop runs.

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
        self._settings = checked_settings(
            batch_size, seed, drop_last, shuffle, micro_batches, bucket
        )
        # numbers of micro-batches, in the order in which costs are divided over them
        self._groups = {number: i for i, number in enumerate(spread(micro_batches or 0))}
        self._data, self._comm = data, comm
        self._costs = Numbers(cost, data, "cost", kept=True)
        self._weights = None if weight is None else Numbers(weight, data, "weight", kept=False)
        self._epoch, self._position = from_zero("epoch", epoch), 0
        self._resumes = False  # the next loop begins at _position
        # without bucket, costs only divide a step among ranks, whose number may change anyway
        numbers = {"cost": self._costs if bucket else None, "weight": self._weights}
        self._marks = DataMarks(data, {k: n for k, n in numbers.items() if n is not None})
        self._order_of_state = 0  # of the data, in the loop that load_state() resumes
        self._loop: Loop | None = None  # the one that state() describes
        self._newest: Loop | None = None
        self._listeners: list[Listener] = []
        self._begin_anew()

    def _begin_anew(self) -> None:
        """There is no loop yet, nor one in a child."""
        self._loop = self._newest = None
        self._before = forks.loops(), lib.dn_updates_made()

    @property
    def epoch(self) -> int:
        """The present epoch; between two loops, that of the next one. Setting another number starts
        that epoch."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._position, self._resumes = from_zero("epoch", epoch), 0, False
            self._begin_anew()

    @property
    def position(self) -> int:
        """How many steps of the present epoch the loop has passed. A step ends when the loop asks
        for the next one."""
        return self._position

    @property
    def is_begun(self) -> bool:
        """Whether a loop in this process has asked for a batch.

        >>> from dist_dynet import parallel
        >>> batches = parallel.shard(range(4), batch_size=2)
        >>> before = batches.is_begun
        >>> _ = next(iter(batches))
        >>> before, batches.is_begun
        (False, True)
        """
        return self._newest is not None

    @property
    def runs_ahead(self) -> bool:
        """Whether a loop has passed a batch before its update: it may ask for the next one in the
        middle of its body, or never.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> trainer = dy.parallel.DistributedTrainer(trainer)
        >>> batches = dy.parallel.shard(range(4), batch_size=2)
        >>> first, second = batches
        >>> updated = trainer.update(first)
        >>> batches.runs_ahead
        True
        """
        loop = self._loop
        return loop is not None and (loop.late or loop.steps_done() < 0)

    def listen(self, listener: Listener) -> None:
        """Calls the listener after each step from now on.

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
        self.mark_data()

    def mark_data(self) -> None:
        """Adds checksums of the data to state(), so that a run that resumes with other data, or in
        the middle of an epoch with another order, is refused. Call it before the first loop.

        >>> import dist_dynet as dy
        >>> batches = dy.parallel.shard("abc", batch_size=1)
        >>> batches.mark_data()
        >>> "data" in batches.state()
        True
        """
        if self._comm is None:  # otherwise each rank may have its own data
            self._marks.begin()

    def _fixed(self) -> dict[str, int | bool]:
        """What must be equal for a position to mean the same examples."""
        return {"examples": len(self._data), **self._settings._asdict()}

    def state(self) -> dict[str, int | bool]:
        """Epoch, position, and the settings that they depend on, which do not include the number of
        ranks.

        The position counts the steps whose batches were used by updates: those that the loop has
        passed, the present one if an update was made since it was yielded, and for a loop that
        reads ahead those that `update(batch)` has named in order.

        Raises:
            RuntimeError: the loop has read ahead, and updates did not name their batches, or not in
                the order in which they were given; or it runs in a forked process.

        >>> import dist_dynet as dy
        >>> batches = dy.parallel.shard(range(6), batch_size=2)
        >>> for batch in batches:
        ...     if batches.position == 1:
        ...         state = batches.state()
        >>> state["epoch"], state["position"]
        (0, 1)
        """
        epoch, position, order = self._place()
        marks = self._marks.state(order if position else 0)
        return {"epoch": epoch, "position": position, **self._fixed(), **marks}

    def _place(self) -> tuple[int, int, int]:
        """Epoch, position, and the order of the data there, if known."""
        loop = self._loop
        if loop is None:
            loops, updates = self._before
            if forks.loops() != loops and lib.dn_updates_made() != updates:
                raise RuntimeError(
                    "shard: a forked process loops over it, so that it is not known here which"
                    " batches are done. Loop over it in this process; or use a Checkpointer without"
                    " sampler, and keep the epoch in its extra."
                )
            return self._epoch, self._position, self._order_of_state if self._resumes else 0
        done = loop.steps_done()
        if loop.whole and not loop.late and (done == loop.steps or not loop.runs_ahead):
            newest = self._newest or loop
            return self._epoch, self._position, newest.order
        if done < 0:
            raise RuntimeError(
                "shard: the loop has gone past batches that no update had used yet, as"
                " list(shard(...)) and loops that read ahead do, so that it is not known which are"
                " done. Name them, in the order in which they were given: trainer.update(batch) of"
                " a DistributedTrainer."
            )
        return loop.epoch, done, loop.order

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
            if number_in({"bucket": 0, **state}, name, "shard") != value:  # older ones have none
                raise ValueError(
                    f"shard: {name} must be as it was when the state was taken, {state.get(name)};"
                    f" got {value}. Make the shard as at the first start."
                )
        epoch, position = (count_in(state, name, "shard") for name in ("epoch", "position"))
        order = self._marks.order_in(state)
        if position > len(self):
            raise ValueError(f"shard: position must lie between 0 and {len(self)}; got {position}.")
        self._epoch, self._position, self._resumes = epoch, position, True
        self._order_of_state = order
        self._begin_anew()

    def __len__(self) -> int:
        """The number of steps of an epoch, the same on all ranks."""
        n, batch_size = len(self._data), self._settings.batch_size
        return n // batch_size if self._settings.drop_last else -(-n // batch_size)

    def _order(self) -> NDArray[Any]:
        settings = self._settings
        n = len(self._data)
        order = np.arange(n, dtype=np.int32 if n < 1 << 31 else np.int64)
        if settings.shuffle:
            generator = np.random.default_rng((settings.seed, self._epoch))
            generator.shuffle(order)
            if settings.bucket:
                order = bucketed(
                    order, self._costs.all(), settings.batch_size, settings.bucket, generator
                )
        return order

    def __iter__(self) -> Iterator[Batch[T]]:
        first = self._position if self._resumes else 0
        loop = Loop(len(self), self._epoch, first, self._is_used)
        loop.order = self._order_of_state if self._resumes else 0
        self._resumes = False
        return _Batches(self, loop)

    def _begins(self, loop: Loop) -> None:
        """Called when a loop is asked for its first batch."""
        self._epoch, self._position, self._newest = loop.epoch, loop.given, loop
        if self._loop is None or not self._loop.is_awaited():
            self._loop = loop

    def _is_used(self, loop: Loop, batch: Batch[T]) -> None:
        """Called when an update has used this batch of a loop."""
        if loop is not self._loop and loop is self._newest:
            self._loop = loop
        loop.uses(batch)

    def _step_ends(self, step: int) -> None:
        self._position = step + 1
        for listener in self._listeners:
            listener.step_ends()

    def _loop_ends(self, loop: Loop, begun: bool, outside: Outside) -> None:
        """Called when the loop has ended or was left; begun: it was asked for a batch, which one
        made by zip() may never be."""
        loop.end()
        if loop.epoch == self._epoch and loop.whole and (loop is self._newest or not begun):
            self._epoch, self._position = loop.epoch + 1, 0
        cut = self._settings.micro_batches > 0
        outside.ends(self._counter(self._epoch, self._position) if cut else None)

    def _steps(self, loop: Loop) -> Iterator[Batch[T]]:
        """The batches of a loop for this rank."""
        here, order = world(self._comm), self._order()
        compares = here.size > 1 or trial.present() is not None
        forks.note_loop()
        number, loop.order = self._marks.look(loop.order, compares)
        described = Description()
        if compares:  # what must be equal on all ranks in all steps
            described = Description(len(self._data), number, self._settings)
        batch_size = self._settings.batch_size
        for step in range(loop.given, loop.steps):
            numbers = order[step * batch_size : (step + 1) * batch_size]
            fetches = self._costs.fetches(numbers) or (
                self._weights is not None and self._weights.fetches(numbers)
            )
            # examples of other ranks are fetched only for their costs and weights
            examples = self._fetched(numbers) if fetches else None
            costs = self._costs.of(numbers, examples)
            weights = None
            if self._weights is not None:
                weights = self._weights.of(numbers, examples)
            total = len(numbers) if weights is None else total_of(weights)
            division = self._division(numbers, costs, weights) if compares else 0
            description = Description(*described[:3], division, loop.epoch, step)
            for positions, part in self._divided(costs, here.rank, here.size, loop, step):
                yield Batch(
                    self._fetched(numbers[positions])
                    if examples is None
                    else [examples[i] for i in positions.tolist()],
                    len(positions) if weights is None else total_of(weights[positions]),
                    total,
                    loop.epoch,
                    step,
                    is_weighted=weights is not None,
                    part=part,
                    description=description,
                    loop=loop,
                    ranks=here.members,
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
        self, costs: NDArray[Any], rank: int, ranks: int, loop: Loop, step: int
    ) -> Iterator[tuple[NDArray[np.intp], Part | None]]:
        """The part of a step's examples for this rank: one batch, or several micro-batches."""
        count = self._settings.micro_batches
        if not count:
            every = np.arange(len(costs))
            yield every if ranks == 1 else every[assign(costs, ranks) == rank], None
            return
        counter = self._counter(loop.epoch, step)
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


class _Batches(Iterator[Batch[T]], Generic[T]):
    """A loop over a shard, as an iterator. A loop that is left ends when nobody refers to it any
    more."""

    def __init__(self, shard_: Shard[T], loop: Loop) -> None:
        self._shard, self._loop = shard_, loop
        self._steps = shard_._steps(loop)
        self._outside = Outside()
        self._begun = self._ended = False  # last: what has no _ended has no loop to end

    def __next__(self) -> Batch[T]:
        if self._ended:
            raise StopIteration
        shard_, loop, before = self._shard, self._loop, self._loop.present
        if not self._begun:
            self._begun = True
            shard_._begins(loop)
        if before is not None:
            warn_if_alone(loop, world(shard_._comm))
        loop.ask()
        if before is not None and before.ends_step:
            shard_._step_ends(before.step)
        try:
            batch = next(self._steps)
        except StopIteration:
            self.close()
            raise
        self._outside.begin_batch(None if batch.part is None else batch.part.draws)
        loop.give(batch, before is not None)
        return batch

    def close(self) -> None:
        """Ends the loop."""
        if not self._ended:
            self._ended = True
            self._shard._loop_ends(self._loop, self._begun, self._outside)

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
    number of ranks. At the end of an epoch a rank's list may be empty: call update() all the same.

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
    fetches only its own examples, as `data[i]`. So the data may be on disk, and mapped into
    memory.

    >>> from dist_dynet import parallel
    >>> [len(batch) for batch in parallel.shard(range(10), batch_size=4, seed=1, epoch=2)]
    [4, 4, 2]
    >>> list(parallel.shard("abcde", batch_size=2, shuffle=False))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    return Shard(
        data, batch_size, seed, epoch, cost, drop_last, shuffle, micro_batches, comm, weight, bucket
    )
