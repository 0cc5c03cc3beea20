"""Batches of shard(), which know what they are part of, and the loops that yield them: which steps
of an epoch are done.

A loop over a shard reports when it yields a batch and when the program asks for the next one.
sources.py follows both to find out which batch an update belongs to. Nothing here communicates.
"""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..._ffi import lib
from ..._manner import manner, warn
from ...graph import cg
from ..processes import failures
from ..processes.world import World
from . import batch_reads
from .division import checked_weight
from .micro_draws import Part
from .shard_settings import ShardSettings
from .watched_list import WatchedList

T = TypeVar("T")


class Description(NamedTuple):
    """Identifies a batch by numbers that must be equal on all ranks. If a rank is the only one of
    its shard, only epoch and step are set."""

    examples: int = 0  # number of examples in the data
    fingerprint: int = 0  # of the data
    settings: ShardSettings = ShardSettings()
    division: int = 0  # of the costs and weights that divide the step
    epoch: int = 0
    step: int = 0

    def named(self) -> dict[str, Any]:
        """By name, including the arguments of shard()."""
        return {**self._asdict(), "settings": self.settings._asdict()}


class Batch(WatchedList[T], Generic[T]):
    """The examples of one rank in one step: a list that knows what it is part of. shard() makes
    batches; `update(batch)` names one. Copies and slices are plain lists. `epoch` is that of
    shard(); `step` counts from 0 in each epoch; `part` is the micro-batch of a step; `description`
    is () for a batch that is not from shard().

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
        "_count",
        "_n",
        "description",
        "epoch",
        "is_weighted",
        "loop",
        "part",
        "problem",
        "ranks",
        "reading",
        "step",
        "total",
    )

    def __init__(
        self,
        examples: Iterable[T],
        n: float,
        total: float,
        epoch: int,
        step: int,
        *,
        is_weighted: bool = False,
        part: Part | None = None,
        description: Description | tuple[()] = (),
        loop: Loop | None = None,
        ranks: Sequence[int] | None = None,
    ) -> None:
        super().__init__(examples)
        self._n = float(n)
        self._count: int | None = len(self)  # None: n is the program's
        self.reading = batch_reads.ReadTracker[T]()
        """Which of the examples the program has read."""
        self.problem = ""
        """Why n is unknown, for an error."""
        self.ranks = ranks
        """The ranks of the job over which shard() has divided the data; None: unknown."""
        self.total: float | None = float(total)
        """n over all ranks; None: unknown, since n was set."""
        self.epoch = epoch
        self.step = step
        self.is_weighted = is_weighted
        """Whether n is a weight set by the program, rather than the number of examples."""
        self.part = part
        self.description = description
        self.loop = loop

    @property
    def ends_step(self) -> bool:
        """Whether its step ends with it: it is no micro-batch, or the last one of this rank."""
        return self.part is None or self.part.is_last

    @property
    def n(self) -> float:
        """How much the batch counts in an average over ranks: its number of examples, or its
        weight.

        Can be set before backward, for example to the number of tokens in the batch.
        """
        return self._n

    @n.setter
    def n(self, n: float) -> None:
        self._n, self.total, self.is_weighted = checked_weight(n, "batch.n"), None, True
        self._count, self.problem = None, ""

    def __iter__(self) -> Iterator[T]:
        self._on_read()
        return self.reading.loop(list.__iter__(self))

    @property
    def is_being_read(self) -> bool:
        """Whether a loop over the examples is running. A loop that has reached the last of several
        examples may be over: zip() asks for no more.

        >>> import dist_dynet as dy
        >>> for batch in dy.parallel.shard([1, 2], batch_size=2):
        ...     for example in batch:
        ...         print(batch.is_being_read)
        True
        False
        """
        return self.reading.is_under_way(len(self))

    def __bool__(self) -> bool:
        if self.part is not None:
            self.part.draws.begin()
        return len(self) > 0

    def _on_read(self, i: Any = None) -> None:
        """Notes that the program reads examples."""
        if self.part is not None:
            self.part.draws.begin()
        self.reading.look(i, len(self))
        for loop in process.loops:
            if loop.present is self:
                if len(process.loops) == 1:  # nearly always
                    return
                break
        else:
            process.readers.add(threading.get_ident())
        if len(self.ranks or ()) > 1:
            batch_reads.note(self)

    def _on_change(self) -> None:
        """Notes that the program has changed the list in place."""
        if self._count is not None:
            self.problem = "" if len(self) == self._count else _CHANGED


_CHANGED = (
    "a batch of shard() has another number of examples than it was given, so that its n is not"
    " known. Write trainer.update(n), with this rank's number of examples, or set batch.n."
)


# ---- loops -----------------------------------------------------------------------------


class Follower(Protocol):
    """What follows all loops: Sources of sources.py."""

    def begin(self) -> None:
        """Called when a loop yields another batch."""

    def look(self, batch: Batch[Any] | None) -> None:
        """Called with the batch that the backward passes since the last call belong to."""


class _Process:
    """What this process has seen of all loops."""

    def __init__(self) -> None:
        self.loops: list[Loop] = []
        """Loops that have yielded a batch and were not asked for another one yet."""
        self.asking: set[Loop] = set()  # loops that were asked and have not yielded yet
        self.sources: list[weakref.ref[Follower]] = []
        self.made = 0  # how many Sources were made
        self.new: list[Loop] = []
        """Loops that have yielded a batch, are not over, and have had no update since."""
        self.idle: list[_Idle] = []
        self.unclaimed = False
        """Whether a loop that had read ahead has ended without an update since: whoever updates
        next may use its batches."""
        self.claimed = 0
        """The gradients of the first so many Sources may come from the batches of such loops."""
        self.calls: dict[int, int] = {}  # by thread: calls of DistributedTrainer.update()
        self.newest: weakref.ref[Batch[Any]] | None = None
        """The batch that a loop has yielded last and not passed yet, if it has no examples."""
        self.readers: set[int] = set()
        """Threads that have read from a batch that was not the present one, since their last
        update."""

    def living(self) -> list[Follower]:
        """All Sources that still exist."""
        return [sources for ref in self.sources if (sources := ref()) is not None]

    def claim(self) -> None:
        """Called at an update: loops that exist by now belong to the trainers that exist by now,
        not to later ones."""
        if self.unclaimed:
            self.unclaimed, self.claimed = False, self.made
        for loop in (*self.new, *(idle.loop for idle in self.idle)):
            loop.claimed = loop.claimed or self.made
        self.new.clear()

    def holds_batches(self, serial: int) -> bool:
        """Whether the program still holds skipped batches that Sources with this number may use."""
        self.idle = [idle for idle in self.idle if idle.count()]
        return any(serial <= idle.loop.claimed for idle in self.idle)


class _Idle:
    """Batches that a loop has passed while their thread computed nothing."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.batches: list[weakref.ref[Batch[Any]]] = []

    def count(self) -> int:
        """How many of them the program still holds."""
        self.batches = [ref for ref in self.batches if ref() is not None]
        return len(self.batches)


process = _Process()


def update_called(batch: Batch[Any] | None, refused: bool = False) -> None:
    """Notes that DistributedTrainer.update() was called in this thread with the gradients of this
    batch. refused: it has raised an error, after which the program may go on."""
    me = threading.get_ident()
    process.calls[me] = process.calls.get(me, 0) + 1
    if refused:
        if batch is not None and batch.loop is not None:
            batch.loop.refuses(batch)
        return
    process.readers.discard(me)
    if batch is None:
        return
    batch_reads.forget(batch)
    if batch.part is not None:
        batch.part.draws.is_over = True
    if batch.loop is not None:
        batch.loop.is_used(batch.loop, batch)


class Loop:
    """One loop over a shard.

    Args:
        steps: number of steps in the epoch.
        epoch: number of the epoch.
        first: the first step.
        is_used: called with each of its batches that an update has used.
    """

    def __init__(
        self, steps: int, epoch: int, first: int, is_used: Callable[[Loop, Batch[Any]], None]
    ) -> None:
        self.steps, self.epoch, self.is_used = steps, epoch, is_used
        self.used = first
        """How many steps of the epoch are done: their batches were used by an update, as far as is
        known."""
        self.order = 0  # of the data; before the loop has begun, of the state that it resumes
        self.given = first  # number of steps that the loop has passed
        self.present: Batch[Any] | None = None
        self.runs_ahead = False  # it has passed a batch that nothing was done with on this rank
        self.exact = False  # updates have named the batches that they used
        self.late = False  # a named batch was not the present one
        self.strays = self.over = False
        self.refused: set[int] = set()  # steps whose update was refused
        self.whole = False  # it is over, and has yielded the last batch of its epoch
        self.updates = lib.dn_updates_made()
        """Number of updates of all trainers when the loop began, or began to run ahead."""
        self.thread = 0
        self.claimed = 0  # it belongs to the first so many Sources; 0: not known yet
        self._work: tuple[int, ...] = ()

    def give(self, batch: Batch[Any], asked: bool) -> None:
        """The loop yields this batch; asked: ask() has just been called."""
        if not self.thread:
            process.new.append(self)
        self.thread = threading.get_ident()
        if not asked:
            _look()
        for sources in process.living():
            sources.begin()
        self.present, self._work = batch, _work_of_thread()
        process.newest = None if len(batch) else weakref.ref(batch)
        process.loops.append(self)
        process.asking.discard(self)
        process.readers.discard(self.thread)

    def ask(self) -> None:
        """The program asks for the next batch, in any thread."""
        batch, process.newest = self.present, None
        if batch is None:
            return
        ends = batch.ends_step
        if not (self.exact and ends and batch.step < self.used):  # else updates have named it
            work, before = _work_of_thread(), self._work
            same = work[0] == before[0]
            if not (same and work[1:4] != before[1:4]) and len(batch):
                if not self.runs_ahead:
                    self.runs_ahead, self.updates = True, lib.dn_updates_made()
                if work == before:
                    self._put_by(batch)
            if ends and same and work[1:3] != before[1:3] and not (self.runs_ahead or self.exact):
                self.used = batch.step + 1
        _look()  # after runs_ahead is known: another thread may ask at any time
        process.asking.add(self)
        self._leave()
        if ends:
            self._pass_refused()
            self.given = batch.step + 1

    def end(self) -> None:
        """The loop has ended, or was left."""
        batch = self.present
        if batch is not None:
            _look()
            if self.steps_done() == batch.step + 1:
                self.used = self.given = batch.step + 1
        self.whole = self.given == self.steps or (
            batch is not None and batch.step + 1 == self.steps
        )
        self._leave()
        process.asking.discard(self)
        self.over = True
        if self.runs_ahead:
            process.unclaimed |= not self.claimed
            process.claimed = max(process.claimed, self.claimed)
        if self in process.new:
            process.new.remove(self)

    def uses(self, batch: Batch[Any]) -> None:
        """Notes that an update has used this batch."""
        self.exact = True
        self.late |= batch is not self.present
        if not batch.ends_step:
            return
        self._pass_refused()
        if batch.step == self.used:
            self.used += 1
        elif batch.step != self.used - 1:  # that of another trainer's update
            self.strays = True

    def refuses(self, batch: Batch[Any]) -> None:
        """Notes that an update has refused this batch: its step is done when the program goes on to
        another one."""
        self.exact = True
        self.refused.add(batch.step)

    def _pass_refused(self) -> None:
        while self.used in self.refused:
            self.used += 1

    def steps_done(self) -> int:
        """Number of steps of the epoch that are done; -1: unknown."""
        if self.exact:
            return -1 if self.strays else self.used
        if lib.dn_updates_made() == self.updates and not self._has_updated():  # nobody trains
            return self.given
        if self.runs_ahead:
            return -1
        batch = self.present
        return (
            batch.step + 1
            if batch is not None and batch.ends_step and self._has_updated()
            else self.used
        )

    def is_used_alone(self) -> bool:
        """Whether this thread has, since the batch was yielded, called update() of a single-process
        trainer and of no other."""
        work, before = _work_of_thread(), self._work
        return work[0] == before[0] and work[1] != before[1] and work[2] == before[2]

    def is_awaited(self) -> bool:
        """Whether batches that the loop has passed may still be used by an update."""
        return self.used < self.given and (self.exact or self.runs_ahead)

    def _put_by(self, batch: Batch[Any]) -> None:
        if not process.idle or process.idle[-1].loop is not self:
            process.idle = [*(idle for idle in process.idle if idle.count()), _Idle(self)]
        batches = process.idle[-1].batches
        batches.append(weakref.ref(batch))
        if len(batches) % 1024 == 0:
            process.idle[-1].count()  # drops those that are gone

    def _leave(self) -> None:
        self.present = None
        if self in process.loops:
            process.loops.remove(self)

    def _has_updated(self) -> bool:
        """Whether there was an update since the batch was yielded."""
        return _work_of_thread()[1:3] != self._work[1:3]


def warn_if_alone(loop: Loop, here: World) -> None:
    """Warns if each rank trains on its own examples of this loop, with a trainer that is not
    distributed."""
    if here.size > 1 and here.rank == 0 and loop.is_used_alone():
        warn_of_alone(here.size, "the update() that was called is that of a trainer of one process")


def warn_of_alone(ranks: int, what: str) -> None:
    """Warns once that each rank trains a model of its own; what: how the program does so."""
    if manner.is_first("shard"):
        warn(
            f"shard: the examples are divided among {ranks} ranks, and {what}, so that each rank"
            " trains a model of its own on its part. Write trainer ="
            " dy.parallel.DistributedTrainer(trainer), and call update() of that, unless the"
            " program averages gradients itself, or takes these steps back. This is said once."
        )


def without_examples(error: BaseException) -> str:
    """Explains an exception on a rank whose batch has no examples; empty where the batch has some,
    or the exception mentions it."""
    batch = None if process.newest is None else process.newest()
    if batch is None or len(batch.ranks or ()) < 2:
        return ""
    words = "".join(traceback.format_exception_only(error))  # str(error) may raise
    if isinstance(error, (KeyboardInterrupt, RuntimeError)) or "if batch:" in words:
        return ""
    return (
        f"The batch of this rank in step {batch.step} of epoch {batch.epoch} of shard() has no"
        " examples. Write `if batch:` before what needs some, and call update() all the same."
    )


def _work_of_thread() -> tuple[int, ...]:
    """The id of this thread, its updates, its calls of update(), its backward passes, and the
    activity of its graph."""
    me = threading.get_ident()
    work = lib.dn_thread_work(cg().number)
    return me, work.updates, process.calls.get(me, 0), work.passes, work.activity


SEVERAL = Batch[Any]((), 0, 0, 0, 0)
"""Stands for the batch where several loops are running."""


def present_batch() -> Batch[Any] | None:
    """The batch that this thread works on; None: there is none."""
    me, loops = threading.get_ident(), tuple(process.loops)
    if len(loops) == 1:  # nearly always
        return loops[0].present if loops[0].thread == me else None
    mine = [loop.present for loop in loops if loop.thread == me]
    return (mine[0] if len(mine) == 1 else SEVERAL) if mine else None


def _look() -> None:
    """Assigns the backward passes so far to the present batch."""
    batch = present_batch()
    for sources in process.living():
        sources.look(batch)


failures.add_exception_note(without_examples)
