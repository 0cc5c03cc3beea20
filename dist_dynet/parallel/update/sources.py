"""Which batch the gradients of a collection come from, as each update asks.

Backward passes between the time when a loop yields a batch and when it is asked for the next one
belong to that batch, as long as only one loop runs and does something with each batch before it
asks for the next. Otherwise (lists of batches, loops that read ahead, several loops at once) only
the program knows: the answer says so, and what to write. Nothing here communicates.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isclose
from typing import Any

from ..._ffi import lib
from ...params.collection import ParameterCollection, handles_of, has_gradients, members_of, root_of
from ..batches import batch_reads
from ..batches.batches import SEVERAL, Batch, Loop, present_batch, process
from ..processes.forks import forks
from .gradients import marks_of

_UNKNOWN = (
    ", so that it is not known which batch the gradients come from."
    " Write trainer.update(batch), with the batch of shard() that the gradients come from, or"
    " trainer.update(n), with this rank's number of examples, once for every batch."
)

_SEVERAL = (
    "the gradients come from several batches of shard(). Call update() after each batch"
    " (accumulate=k gathers k of them), or forget the gradients of a batch that was left by"
    " reset_gradients()."
)
_NUMBER = (
    " A number serves if it is that of all their examples. Where it counts something else, such as"
    " words, use accumulate=k, and write batch.n = words before each backward() or give shard()"
    " weight=."
)
_ANOTHER = (
    "the gradients come from another batch of shard() than the one that update() was given."
    " Name the one that they come from."
)

_MIXED = (
    "before it made the loss, the program has looked into another batch of shard(), too, of which"
    " this rank has another share: no one weight is right for both. Call backward() and"
    ' update(batch) for each by itself; or take average="sum", and divide the sum of the losses'
    " over each batch by its total. If the loss is that of one batch alone, write"
    " trainer.update(len(batch))."
)
_INSIDE = (
    "update() was called inside of a loop over the examples of a batch, of which each rank has"
    " some: the ranks would make other updates than one process does. Call it once behind that"
    " loop, with the gradients of the whole batch."
)
_IN_PART = (
    "update() was called when the program had looked at a part of the batch alone, as by"
    " batch[i : i + k], of which each rank has some: the ranks would make other updates than one"
    " process does. Call it once for the whole batch, whose parts' gradients add up; for smaller"
    " updates give shard() another batch_size."
)
_EVALUATED = (
    "gradients come from evaluate(), which gives each rank a part of the examples: no average over"
    ' the ranks is what one process has. Take average="sum", and divide the losses by the number of'
    " all examples, or write a loop over shard(). If they are not needed, call reset_gradients()"
    " after evaluate()."
)

_OF_EVALUATION = Batch[Any]((), 0, 0, 0, 0)
"""Stands for the examples of evaluate()."""


@contextmanager
def within_evaluation(ranks: int) -> Iterator[None]:
    """Backward passes inside of the block are those of evaluate() on so many ranks, not of a
    batch."""
    if ranks == 1:
        yield
        return
    batch = present_batch()
    for sources in process.living():
        sources.look(batch)
    try:
        yield
    finally:
        for sources in process.living():
            sources.look(_OF_EVALUATION)


def _is_among(batch: Batch[Any] | None, batches: list[Batch[Any] | None]) -> bool:
    """Equal lists are not the same batch. No generator: Python 3.13 crashes where it has no memory
    for one."""
    for known in batches:  # noqa: SIM110
        if batch is known:
            return True
    return False


class Sources:
    """The batches that the gradients of a collection come from.

    Args:
        m: the collection.
        is_last: returns whether the update comes with the present pass.
    """

    def __init__(self, m: ParameterCollection, is_last: Callable[[], bool]) -> None:
        self._m, self._root, self._is_last = m, root_of(m), is_last
        self._in_part: Batch[Any] | None = None  # the batch of the passes before this one
        self._passes = lib.dn_store_passes(self._root.c)
        self._batches: list[Batch[Any] | None] = []
        # the loop that gradients came from last; its last batch without examples that no update
        # has used; the one before it, which was used
        self._loop: weakref.ref[Loop] | None = None
        self._empty: Batch[Any] | None = None
        self._used: weakref.ref[Batch[Any]] | None = None
        # handles of parameters with gradients of evaluate(), and how often each was cleared before
        self._evaluated: tuple[list[Any], Any] = [], None
        process.made += 1
        self._serial = process.made
        process.sources.append(weakref.ref(self, process.sources.remove))

    def look(self, batch: Batch[Any] | None) -> None:
        """Assigns the backward passes since the last look to this batch."""
        passes = lib.dn_store_passes(self._root.c)
        if passes != self._passes:
            self._passes = passes
            if batch is _OF_EVALUATION and not self._keeps_evaluated():
                self._batches.clear()
            elif not _is_among(batch, self._batches):
                self._batches.append(batch)
                self._follow(batch)
        elif batch is not None and not len(batch):
            is_used = self._used is not None and self._used() is batch
            if self._loop is not None and self._loop() is batch.loop and not is_used:
                self._empty = batch

    def _keeps_evaluated(self) -> bool:
        """Whether the program has not dropped all gradients by the end of evaluate()."""
        handles = [h for h in handles_of(members_of(self._m)) if not lib.dn_param_empty(h)]
        self._evaluated = handles, marks_of(handles)[0]
        return bool(handles)

    def _has_evaluated(self) -> bool:
        """Whether some of the gradients are those of evaluate(): the program has not dropped
        them."""
        handles, clears = self._evaluated
        if not handles:
            return False
        if _is_among(_OF_EVALUATION, self._batches) and (marks_of(handles)[0] == clears).any():
            return True
        self._batches = [batch for batch in self._batches if batch is not _OF_EVALUATION]
        self._evaluated = [], None
        return False

    def _follow(self, batch: Batch[Any] | None) -> None:
        if batch is not None and batch.loop is not None:
            self._loop = weakref.ref(batch.loop)
            self._empty = None if len(batch) else batch

    def begin(self) -> None:
        """Called when a loop yields another batch."""
        if self._batches and not has_gradients(self._m):
            self._batches.clear()  # an update has used them, or the program has dropped them

    def find(self, named: object = None) -> tuple[Batch[Any] | None, str]:
        """The one batch that the gradients come from, None if there is none; and a message if that
        cannot be known.

        Args:
            named: what the program names itself; then the batch is None.
        """
        present = present_batch() if process.loops else None
        self.look(present)
        process.unclaimed |= forks.have_looped()
        if process.unclaimed or process.new or process.idle:
            process.claim()
        inside = self._inside(present)
        if named is not present and isinstance(named, Batch):
            inside = inside or self._inside(named)
        if self._has_evaluated() and not inside and (named is None or isinstance(named, Batch)):
            return None, _EVALUATED
        if named is not None or inside:
            return None, inside
        if len(self._batches) > 1:
            return None, _SEVERAL
        # a loop that has ended may have left gradients for this update, on ranks with examples
        if self._batches:
            batch = self._batches[0]
        else:
            batch = self._empty if present is None else present
            self._follow(batch)
        doubt = self._doubt(batch)
        if not doubt:
            return batch, ""
        return None, doubt + _UNKNOWN

    def _inside(self, batch: Batch[Any] | None) -> str:
        """Why an update is refused if the program is in the middle of a batch's examples, or has
        read only a part of them; empty if it is not."""
        before, self._in_part = self._in_part, None
        if before is not None and before is not batch and before.reading.is_in_part(len(before)):
            before.reading.end()
            return _IN_PART
        if batch is None or batch is SEVERAL or len(batch.ranks or ()) < 2:
            return ""
        part, size = batch.reading, len(batch)
        words = _INSIDE if part.is_under_way(size) else ""
        if not words and part.is_in_part(size):
            if not self._is_last():  # each pass may be of a part of the batch
                self._in_part = batch
                return ""
            words = _IN_PART
        part.end()
        return words

    def contradict(self, named: Batch[Any], by_share: bool = True) -> str:
        """Why the gradients that find() has looked at do not come from the batch that the program
        names, or not from it alone; empty if that is not certain.

        Args:
            named: the batch.
            by_share: accept other batches of which this rank has the same share.
        """
        others = [b for b in self._batches if b is not None and b is not named]
        if others and not any(self._doubt(b) for b in others):
            if by_share and all(_share_alike(b, named) for b in others):
                return ""
            return _SEVERAL if len(self._batches) > 1 else _ANOTHER
        alike = all(_share_alike(b, named) for b in batch_reads.others_read(named, self._root))
        return "" if alike else _MIXED

    def contradict_number(self, n: float) -> str:
        """Why gradients that find() has looked at are not those of n examples, or of so much
        weight; empty if that is not certain."""
        known = [batch for batch in self._batches if batch is not None]
        present = present_batch()
        if not known or any(self._doubt(batch) for batch in known):
            return ""
        is_of_one = any(isclose(n, batch.n) for batch in known)  # else it counts something else
        if isclose(n, sum(batch.n for batch in known)) or (is_of_one and _all_alike(known)):
            return ""
        if len(known) > 1:
            return _SEVERAL + _NUMBER
        if present is None or present is known[0] or present.loop is not known[0].loop:
            return ""
        return _ANOTHER if n in (0, present.n) else ""

    def _doubt(self, batch: Batch[Any] | None) -> str:
        """Why gradients that seem to come from this batch may come from another one; empty if they
        do not."""
        if batch is SEVERAL:
            return "several loops over shard() are under way"
        if batch is None:
            loops, me = (*process.loops, *process.asking), threading.get_ident()
            if loops and any(loop.thread != me and self._serial <= loop.claimed for loop in loops):
                return "a loop over shard() is under way in another thread"
            if self._serial <= process.claimed:
                return (
                    "a loop over shard() has gone past batches without a backward pass, as"
                    " list(shard(...)) and forked processes do"
                )
        elif batch.loop is not None:
            if batch.loop.runs_ahead:
                return (
                    "the loop over shard() has gone past a batch without a backward pass, as loops"
                    " do that read ahead or leave out a batch"
                )
            if process.idle and process.holds_batches(self._serial):
                return (
                    "there are batches of shard() that nothing was done with yet, as"
                    " list(shard(...)) gives them"
                )
        if process.readers and threading.get_ident() in process.readers:
            return (
                "the program has looked into a batch of shard() that is not the loop's present one"
            )
        return ""

    def peek(self, thread: int) -> tuple[Batch[Any] | None, bool]:
        """While a thread runs backward: the batch that it belongs to, and whether that is
        certain."""
        loops = process.loops
        mine = [loop.present for loop in loops if loop.thread == thread]
        batch = mine[0] if mine else None
        return batch, not self._batches and len(mine) == len(loops) <= 1 and not self._doubt(batch)

    def clear(self) -> None:
        """Called when the gradients were used."""
        self._passes = lib.dn_store_passes(self._root.c)
        self._batches.clear()
        if self._empty is not None:
            self._used, self._empty = weakref.ref(self._empty), None


def _all_alike(batches: list[Batch[Any]]) -> bool:
    """Whether there are several, and this rank has the same share of all."""
    return len(batches) > 1 and all(_share_alike(batch, batches[0]) for batch in batches)


def _share_alike(a: Batch[Any], b: Batch[Any]) -> bool:
    """Whether this rank has the same share of both batches, so that one weight is right for
    both."""
    return a.total is not None and b.total is not None and a.n * b.total == b.n * a.total
