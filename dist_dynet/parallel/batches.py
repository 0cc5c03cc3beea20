"""Batches of shard(), which know what they are part of, and the loops that give them: which steps
of an epoch are done.

A loop over a shard says when it gives a batch and when it asks for the next one. Whose gradients an
update has is the business of sources.py, which is told of both. No rank is asked.
"""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from .._ffi import lib
from .._manner import manner, warn
from ..graph import cg
from ..params.root import loops_at_work
from . import _failures, looks
from ._world import World
from .division import checked_weight
from .looks import Reading
from .micro_draws import Part
from .shard_settings import ShardSettings
from .watched_list import WatchedList

T = TypeVar("T")


class Description(NamedTuple):
    """What a batch is part of, of numbers that must be alike on all ranks: if a rank is the only
    one of its shard, epoch and step alone."""

    examples: int = 0  # how many the data have
    fingerprint: int = 0  # of the data
    settings: ShardSettings = ShardSettings()
    division: int = 0  # of what costs and weights divide the step by
    epoch: int = 0
    step: int = 0

    def named(self) -> dict[str, Any]:
        """By name, that of shard()'s arguments among them."""
        return {**self._asdict(), "settings": self.settings._asdict()}


class Batch(WatchedList[T], Generic[T]):
    """The examples of one rank in one step: a list that knows what it is part of. shard() makes
    them; `update(batch)` names one. Copies and slices are plain lists. epoch is that of shard();
    step counts from 0 in each; part is the micro-batch of a step; description (): not of shard().

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
        self.reading = Reading[T]()
        """What the program has looked at of the examples."""
        self.problem = ""
        """Why n is not known, for an error."""
        self.ranks = ranks
        """Of the job, among which shard() has divided the data; None: not known."""
        self.total: float | None = float(total)
        """The same over all ranks; None: not known, since n was set."""
        self.epoch = epoch
        self.step = step
        self.is_weighted = is_weighted
        """Whether n is a weight that the program gave, rather than the number of examples."""
        self.part = part
        self.description = description
        self.loop = loop

    @property
    def ends_step(self) -> bool:
        """Whether its step ends with it: it is not a micro-batch, or the last of this rank's."""
        return self.part is None or self.part.is_last

    @property
    def n(self) -> float:
        """How much it counts in an average over ranks: its number of examples, or its weight.

        May be set, before backward, to the number of tokens in it, say.
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
        """Whether a loop over its examples is under way. One that has come to the last of several
        may be over: zip() asks for no more.

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
        """The program looks at the examples."""
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
            looks.note(self)

    def _on_change(self) -> None:
        """The program has changed the list in place."""
        if self._count is not None:
            self.problem = "" if len(self) == self._count else _CHANGED


_CHANGED = (
    "a batch of shard() has another number of examples than it was given, so that its n is not"
    " known. Write trainer.update(n), with this rank's number of examples, or set batch.n."
)


# ---- loops -----------------------------------------------------------------------------


class Follower(Protocol):
    """What is told of all loops: Sources of sources.py."""

    def begin(self) -> None:
        """A loop gives another batch."""

    def look(self, batch: Batch[Any] | None) -> None:
        """Backward passes since the last look belong to this batch."""


class _Process:
    """What this process has seen of all loops."""

    def __init__(self) -> None:
        self.loops: list[Loop] = loops_at_work
        """Those that have given a batch and not asked for another one yet."""
        self.asking: set[Loop] = set()  # those that have, and not got it yet
        self.sources: list[weakref.ref[Follower]] = []
        self.made = 0  # how many Sources were made
        self.new: list[Loop] = []
        """Those that have given a batch, are not over, and of which no update was told since."""
        self.idle: list[_Idle] = []
        self.unclaimed = False
        """A loop has ended that had read ahead, and no update came since then: whoever updates next
        may have its batches."""
        self.claimed = 0
        """Of so many Sources, from the first, gradients may come from the batches of such loops."""
        self.calls: dict[int, int] = {}  # by thread: calls of DistributedTrainer.update()
        self.newest: weakref.ref[Batch[Any]] | None = None
        """That a loop has given last and not gone past yet, if it has no examples."""
        self.readers: set[int] = set()
        """Threads that have looked into a batch which was not present, since their last update."""

    def living(self) -> list[Follower]:
        """All Sources that there still are."""
        return [sources for ref in self.sources if (sources := ref()) is not None]

    def claim(self) -> None:
        """An update comes: loops that there are by now are the business of the trainers that there
        are, not of later ones."""
        if self.unclaimed:
            self.unclaimed, self.claimed = False, self.made
        for loop in (*self.new, *(idle.loop for idle in self.idle)):
            loop.claimed = loop.claimed or self.made
        self.new.clear()

    def holds_batches(self, serial: int) -> bool:
        """Whether the program still has batches that were passed over, which Sources of this number
        may come to."""
        self.idle = [idle for idle in self.idle if idle.count()]
        return any(serial <= idle.loop.claimed for idle in self.idle)


class _Idle:
    """Batches of a loop that were passed over while their thread computed nothing."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.batches: list[weakref.ref[Batch[Any]]] = []

    def count(self) -> int:
        """How many the program still has."""
        self.batches = [ref for ref in self.batches if ref() is not None]
        return len(self.batches)


process = _Process()


def update_called(batch: Batch[Any] | None, refused: bool = False) -> None:
    """DistributedTrainer.update() was called in this thread, with the gradients of this batch;
    refused: it has raised an error, after which the program may go on."""
    me = threading.get_ident()
    process.calls[me] = process.calls.get(me, 0) + 1
    if refused:
        if batch is not None and batch.loop is not None:
            batch.loop.refuses(batch)
        return
    process.readers.discard(me)
    if batch is None:
        return
    looks.forget(batch)
    if batch.part is not None:
        batch.part.draws.is_over = True
    if batch.loop is not None:
        batch.loop.is_used(batch.loop, batch)


class Loop:
    """One loop over a shard.

    Args:
        steps: how many the epoch has.
        epoch: its number.
        first: the step that it begins with.
        is_used: told of each batch of it that an update has used.
    """

    def __init__(
        self, steps: int, epoch: int, first: int, is_used: Callable[[Loop, Batch[Any]], None]
    ) -> None:
        self.steps, self.epoch, self.is_used = steps, epoch, is_used
        self.used = first
        """How many steps of the epoch are done: their batches went into an update, as far as is
        known."""
        self.order = 0  # of the data; before it has begun, of the state that it goes on from
        self.given = first  # how many the loop has gone past
        self.present: Batch[Any] | None = None
        self.runs_ahead = False  # it has gone past a batch that nothing was done with, on this rank
        self.exact = False  # updates have told which of its batches they used
        self.late = False  # one was not the present batch
        self.strays = self.over = False
        self.refused: set[int] = set()  # steps whose update was
        self.whole = False  # it is over, and was given the last batch of its epoch
        self.updates = lib.dn_updates_made()
        """How many updates of any trainer there were when it began, or began to run ahead."""
        self.thread = 0
        self.claimed = 0  # it is the business of so many Sources, from the first; 0: not known yet
        self._work: tuple[int, ...] = ()

    def give(self, batch: Batch[Any], asked: bool) -> None:
        """The program gets this batch; asked: ask() has just been called."""
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
        """The program asks for the next one, in whatever thread."""
        batch, process.newest = self.present, None
        if batch is None:
            return
        ends = batch.ends_step
        if not (self.exact and ends and batch.step < self.used):  # what updates have told suffices
            work, before = _work_of_thread(), self._work
            same = work[0] == before[0]
            if not (same and work[1:4] != before[1:4]) and len(batch):
                if not self.runs_ahead:
                    self.runs_ahead, self.updates = True, lib.dn_updates_made()
                if work == before:
                    self._put_by(batch)
            if ends and same and work[1:3] != before[1:3] and not (self.runs_ahead or self.exact):
                self.used = batch.step + 1
        _look()  # now that it is known whether it runs ahead: another thread may ask at any time
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
        """An update has used this batch of it."""
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
        """An update has refused this batch of it: that is done when the program goes on to another
        one."""
        self.exact = True
        self.refused.add(batch.step)

    def _pass_refused(self) -> None:
        while self.used in self.refused:
            self.used += 1

    def steps_done(self) -> int:
        """How many steps of its epoch are done now; -1: that cannot be known."""
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
        """Whether this thread has, since the batch was given, called the update() of a trainer of
        one process, and of no other."""
        work, before = _work_of_thread(), self._work
        return work[0] == before[0] and work[1] != before[1] and work[2] == before[2]

    def is_awaited(self) -> bool:
        """Whether batches that it has gone past may still come to an update."""
        return self.used < self.given and (self.exact or self.runs_ahead)

    def _put_by(self, batch: Batch[Any]) -> None:
        if not process.idle or process.idle[-1].loop is not self:
            process.idle = [*(idle for idle in process.idle if idle.count()), _Idle(self)]
        batches = process.idle[-1].batches
        batches.append(weakref.ref(batch))
        if len(batches) % 1024 == 0:
            process.idle[-1].count()  # forgets those that are gone

    def _leave(self) -> None:
        self.present = None
        if self in process.loops:
            process.loops.remove(self)

    def _has_updated(self) -> bool:
        """Whether there was an update since the batch was given."""
        return _work_of_thread()[1:3] != self._work[1:3]


def warn_if_alone(loop: Loop, here: World) -> None:
    """Warns if each rank trains on its examples of this loop and by itself."""
    if here.size > 1 and here.rank == 0 and loop.is_used_alone():
        warn_of_alone(here.size, "the update() that was called is that of a trainer of one process")


def warn_of_alone(ranks: int, what: str) -> None:
    """Warns, once, that each rank trains by itself, as it does this."""
    if "shard" not in manner.said:
        manner.said.add("shard")
        warn(
            f"shard: the examples are divided among {ranks} ranks, and {what}, so that each rank"
            " trains a model of its own on its part. Write trainer ="
            " dy.parallel.DistributedTrainer(trainer), and call update() of that, unless the"
            " program averages gradients itself. This is said once."
        )


def without_examples(error: BaseException) -> str:
    """What to do about an exception where the rank has a batch without examples, which nothing can
    be computed from; nothing where it has some, or the exception speaks of it."""
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
    """Which thread this is, how many updates it has made, how often it has called for one, backward
    passes, and what its graph has done."""
    me = threading.get_ident()
    work = lib.dn_thread_work(cg().number)
    return me, work.updates, process.calls.get(me, 0), work.passes, work.activity


SEVERAL = Batch[Any]((), 0, 0, 0, 0)
"""Stands for the batch where several loops are under way."""


def present_batch() -> Batch[Any] | None:
    """The batch that this thread works on; None: there is none."""
    me, loops = threading.get_ident(), tuple(process.loops)
    if len(loops) == 1:  # nearly always
        return loops[0].present if loops[0].thread == me else None
    mine = [loop.present for loop in loops if loop.thread == me]
    return (mine[0] if len(mine) == 1 else SEVERAL) if mine else None


def works_on_part() -> bool:
    """Whether this thread works on a batch whose examples were divided among several ranks."""
    batch = present_batch()
    if batch is None:
        return threading.get_ident() in process.readers
    return batch is SEVERAL or len(batch.ranks or ()) > 1


def passes_of_thread() -> int:
    """How many backward passes this thread has made."""
    return _work_of_thread()[3]


def _look() -> None:
    """What backward passes there were belong to what is present now."""
    batch = present_batch()
    for sources in process.living():
        sources.look(batch)


_failures.explain_by(without_examples)
