"""Batches of shard(), the loops that yield them, and which batch an update uses.

An update uses the batch that the one running loop over shard() in this thread yielded last. Where
that is not so, the program must name the batch. Nothing else is watched: neither reads of batches
nor gradients. Nothing here communicates.
"""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from .._ffi import lib
from ..graph import cg
from .division import checked_weight
from .micro_batches import Part
from .processes import failures
from .processes.rank_names import format_ranks
from .processes.world import World

T = TypeVar("T")


class Description(NamedTuple):
    """Identifies a batch by integers that must be equal on all ranks."""

    examples: int  # number of examples in the data
    fingerprint: int  # of the data
    batch_size: int
    settings: int  # a hash of the arguments of shard()
    division: int  # of the costs and weights that divide the step
    epoch: int
    step: int

    def parts(self) -> dict[str, str]:
        """As strings for an error, each with a remedy for when the ranks differ in it."""
        return {
            f"step {self.step} of epoch {self.epoch} of shard()": "Call update() once for each"
            " batch of a loop, on all ranks.",
            f"data of {self.examples} examples with fingerprint {self.fingerprint:x}": "Give"
            " shard() the same data in the same order on all ranks: it divides them itself.",
            f"arguments of shard() {self.settings & 0xFFFFFFFF:x}": "Give shard() the same"
            " batch_size, seed and other arguments on all ranks.",
            f"costs and weights {self.division:x}": "Give shard() the same cost= and weight= on"
            " all ranks: arrays, or functions of the example alone.",
        }


class Batch(list[T], Generic[T]):
    """The examples of one rank in one step: a list that knows what it is part of. shard() makes
    batches; `update(batch)` names one. `epoch` is that of shard(), `step` counts from 0 in each
    epoch. Copies and slices are plain lists.

    >>> from dist_dynet import parallel
    >>> for batch in parallel.shard(
    ...     [[1, 2], [3], [4, 5, 6]], batch_size=2, shuffle=False, weight=len
    ... ):
    ...     print(batch, batch.n, batch.total, batch.epoch, batch.step)
    [[1, 2], [3]] 3.0 3.0 0 0
    [[4, 5, 6]] 3.0 3.0 0 1
    """

    __slots__ = (
        "__weakref__",
        "_n",
        "description",
        "epoch",
        "loop",
        "number",
        "part",
        "ranks",
        "step",
        "total",
    )

    def __init__(
        self,
        examples: Iterable[T],
        n: float,
        total: float,
        description: Description,
        loop: Loop,
        ranks: Sequence[int],
        part: Part | None = None,
    ) -> None:
        super().__init__(examples)
        self._n = float(n)
        self.total: float | None = float(total)
        """n over all ranks; None: unknown, since the program has set n."""
        self.epoch = description.epoch
        self.step = description.step
        self.description = description
        self.loop = loop
        self.part = part
        self.ranks = ranks
        """The ranks of the job over which shard() has divided the data."""
        self.number = 0
        """Its number among the batches that the loop has yielded, from 1."""

    @property
    def n(self) -> float:
        """How much the batch counts in an average over ranks: its number of examples, or its
        weight. Can be set, for example to the number of tokens in the batch."""
        return self._n

    @n.setter
    def n(self, n: float) -> None:
        self._n, self.total = checked_weight(n, "batch.n"), None

    @property
    def ends_step(self) -> bool:
        """Whether its step ends with it: it is no micro-batch, or the last one of this rank."""
        return self.part is None or self.part.is_last

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class Loop:
    """One loop over a shard, from its first batch to its end."""

    def __init__(self, first: int) -> None:
        self.thread = 0
        self.batch: Batch[Any] | None = None  # the one that it has yielded last
        self.count = 0  # how many it has yielded
        self.passed = first  # steps of the epoch that it has gone past
        self.used = -1
        """Steps of the epoch whose batches updates of DistributedTrainers have used, in order; -1:
        none of its batches was used."""
        self.has_skipped = False  # it has gone past a batch without backward pass and update
        self._updates = self._passes = 0

    def give(self, batch: Batch[Any]) -> None:
        """The loop yields this batch."""
        global _empty
        _empty = None if batch else weakref.ref(batch)
        if not self.thread:
            self.thread = threading.get_ident()
            running.setdefault(self.thread, []).append(self)
        self.count += 1
        batch.number, self.batch = self.count, batch
        self._updates, self._passes = lib.dn_updates_made(), _passes()

    def go_on(self) -> bool:
        """The program asks for the next batch. Returns whether a step has ended."""
        global _empty
        batch, _empty = self.batch, None
        if batch is None or not batch.ends_step:
            return False
        worked = self.is_used() or _passes() != self._passes
        self.has_skipped |= not worked and self.used <= batch.step
        self.passed = batch.step + 1
        return True

    def end(self) -> None:
        """The loop has ended or was left."""
        loops = running.get(self.thread, [])
        if self in loops:
            loops.remove(self)
            if not loops:
                del running[self.thread]

    def is_used(self) -> bool:
        """Whether there was an update since the batch was yielded."""
        return bool(lib.dn_updates_made() != self._updates)

    def steps_done(self) -> int:
        """Steps of the epoch whose batches were used by updates, as far as is known."""
        batch = self.batch
        if self.used >= 0:
            return self.used
        return (
            batch.step + 1
            if batch is not None and batch.ends_step and self.is_used()
            else (self.passed)
        )


def _passes() -> int:
    """How many backward passes this thread has begun."""
    return int(lib.dn_thread_work(cg().number).passes)


running: dict[int, list[Loop]] = {}
"""By thread: loops that have yielded a batch and have not ended."""

_empty: weakref.ref[Batch[Any]] | None = None
"""The batch that a loop has yielded last, if it has no examples and its body has not ended."""

_divided = False
"""Whether this process has made a shard() over several ranks."""


def note_shard() -> None:
    """Called when a shard() over several ranks is made: from now on every update has a batch."""
    global _divided
    _divided = True


_NAME_IT = (
    " Write trainer.update(batch), with the batch that the gradients come from, or"
    " trainer.update(n), with this rank's number of examples; accumulate=k gathers k batches."
)


class Use(NamedTuple):
    """What an update uses."""

    batch: Batch[Any] | None
    n: float
    """How much this rank's gradients count."""
    total: float | None
    """n over all ranks; None: only the ranks together know it."""
    problem: str = ""
    """Why the batch is not known."""


class BatchUse:
    """Finds the batch of each update of one trainer.

    Args:
        here: the trainer's ranks.
    """

    def __init__(self, here: World) -> None:
        self._here = here
        # of the batch used last: its loop, and its number there
        self._loop: Loop | None = None
        self._count = 0
        self.is_number = False
        """The last update was given a number, as the next one may be."""
        loops = running.get(threading.get_ident(), [])
        if len(loops) == 1:
            self._loop, self._count = loops[0], loops[0].count - 1

    def find(self, named: Batch[Any] | float | None = None) -> Use:
        """The batch of this update.

        Args:
            named: the argument of update(): a batch, a number of examples, or None.

        Raises:
            TypeError, ValueError: it is neither a batch nor a number of 0 or more.
            RuntimeError: the batch is of a shard() that divides its data among other ranks.
        """
        if isinstance(named, Batch):
            return self._of(named)
        if named is not None:
            n = checked_weight(named, "update: the weight")
            return Use(None, n, n if self._here.size == 1 else None)
        loops = running.get(threading.get_ident(), [])
        if self._here.size == 1:
            batch = loops[-1].batch if loops else None
            return Use(None, 1.0, 1.0) if batch is None else self._of(batch)
        if not loops and not _divided:
            return Use(None, 1.0, float(self._here.size))
        if len(loops) == 1 and (batch := loops[0].batch) is not None:
            before = self._count if self._loop is loops[0] else 0
            if loops[0].count == before + 1 and batch.ranks is self._here.members:
                return Use(batch, batch._n, batch.total)
        if problem := self._problem(loops):
            return Use(None, 1.0, None, f"{problem}{_NAME_IT}")
        batch = loops[0].batch
        assert batch is not None
        return self._of(batch)

    def _problem(self, loops: list[Loop]) -> str:
        """Why these running loops do not say which batch it is; empty: they do."""
        if not loops:
            return "update: no loop over shard() is running in this thread."
        if len(loops) > 1:
            return f"update: {len(loops)} loops over shard() are running in this thread."
        loop = loops[0]
        before = self._count if self._loop is loop else 0
        if loop.count == before:
            return "update: the batch that the loop over shard() yielded last was used already."
        if loop.count > before + 1:
            return (
                f"update: the loop over shard() has yielded {loop.count - before} batches since"
                " the last update of this trainer."
            )
        return ""

    def _of(self, batch: Batch[Any]) -> Use:
        members = [*self._here.members]
        if [*batch.ranks] == members:
            return Use(batch, batch.n, batch.n if self._here.size == 1 else batch.total)
        if len(batch.ranks) > 1 and not {*batch.ranks} <= {*members}:
            raise RuntimeError(
                f"{self._here.name} update: the batch must be of a shard() over the trainer's"
                f" {format_ranks(members)}; got one over {format_ranks(batch.ranks)}. Give shard()"
                " the same comm= as the trainer."
            )
        return Use(batch, batch.n, None)  # each rank, or group of ranks, has its own data

    def done(self, use: Use) -> None:
        """Notes that an update has used it, or was refused with it."""
        self.is_number = use.batch is None and use.total is None
        if use.batch is not None:
            self._loop, self._count = use.batch.loop, use.batch.number
            if use.batch.part is None or use.batch.part.is_last:
                self._loop.used = max(self._loop.used, use.batch.step + 1)
        else:  # a number: it counts for whatever the one running loop has yielded
            loops = running.get(threading.get_ident(), [])
            if len(loops) == 1:
                self._loop, self._count = loops[0], loops[0].count
                if (batch := loops[0].batch) is not None and batch.ends_step:
                    self._loop.used = max(self._loop.used, batch.step + 1)


def _without_examples(error: BaseException) -> str:
    """Explains an exception on a rank whose batch has no examples."""
    batch = None if _empty is None else _empty()
    if batch is None or len(batch.ranks) < 2:
        return ""
    message = "".join(traceback.format_exception_only(error))  # str(error) may raise
    if isinstance(error, (KeyboardInterrupt, RuntimeError)) or "if batch:" in message:
        return ""
    return (
        f"The batch of this rank in step {batch.step} of epoch {batch.epoch} of shard() has no"
        " examples. Write `if batch:` before what needs some, and call update() all the same."
    )


failures.add_exception_note(_without_examples)
