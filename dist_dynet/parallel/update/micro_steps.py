"""What must not change between the micro-batches of a step, with reproducible=True: how many of
them a rank has before the change depends on the number of ranks, and so would the result.

The program may be right: these are warnings, each said once. This module sees updates, settings and
writes; it changes nothing.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..._ffi import lib
from ..._manner import manner, warn
from ..._weak import WeakSet
from ...params.collection import handles_of, members_of, root_of
from ...params.root import Root, on_write
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ...trainers.state import Settings
from ..batches.batches import Batch, passes_of_thread
from ..batches.micro_draws import Part
from ..processes.user_line import user_line

_ELSEWHERE = " depends on the number of ranks: another number ends elsewhere."
_NAMES = {
    "learning_rate": "the learning rate",
    "clip_threshold": "the clip threshold",
    "clip_value": "the clip value",
    "weight_decay": "the weight decay",
    "sparse_updates": "set_sparse_updates()",
    "skip_nonfinite": "skip_nonfinite",
    "accumulation": "the accumulation",
    "moments": "the trainer's state, as by restart(),",
    "frozen": "what is frozen",
}
"""What a message calls a setting."""


class _Write(NamedTuple):
    """The first write into the parameters of a root within a step."""

    before: list[int]  # the checksums of all its parameters
    passes: int  # backward passes of the thread
    line: str


class _End(NamedTuple):
    """The end of a trainer's last step."""

    time: int
    loop: weakref.ref[Any]
    step: int
    passes: int  # backward passes of the thread
    own: int  # and into its parameters


class MicroSteps:
    """The steps of one trainer, whose micro-batches it is shown."""

    def __init__(self, trainer: Trainer, is_main: bool) -> None:
        self._trainer, self._is_main = trainer, is_main
        self._root = root_of(trainer.collection)
        self._known: dict[str, Any] = {}  # settings at the last micro-batch
        self._changed = False  # they were, when the last of two micro-batches came
        self._begun = 0  # when the present step had its first micro-batch
        self._end: _End | None = None
        self._is_under_way = False  # between the first update() of a step and its last
        self._passes = passes_of_thread()  # backward passes when the last step ended
        self._writes: dict[Root, _Write] = {}  # since the first backward pass of the present step
        if not _all:
            _watch()
        _all.add(self)

    def look(self, batch: Batch[Any], part: Part) -> None:
        """Called at each update() of a micro-batch."""
        now, passes = next(_clock), passes_of_thread()
        if not part.turn:
            self._begun = now
            self._forget_writes_before(passes)
        self._look_at_settings(part)
        if any(self._is_other(root, write, passes) for root, write in self._writes.items()):
            line = next(iter(self._writes.values())).line
            self._say(
                "values within a step",
                f"values were written between the micro-batches of a step,{line}, so that the later"
                f" ones were computed with other values. Which ones{_ELSEWHERE} Write values where"
                " update() returns True.",
            )
        if part.is_last and any(self._follows(other, batch, passes) for other in _all):
            self._say(
                "trainers in turn",
                "another trainer has made its update between the micro-batches of this one's step,"
                " so that the later ones were computed with newer values of its model. Which ones"
                f"{_ELSEWHERE} Put the batches of a step into a list, and if batch.ends_step go"
                " through it with one trainer, then with the other, by update(batch). It does no"
                " harm if neither model is used for the loss of the other.",
            )
        self._is_under_way = not part.is_last
        if part.is_last:
            own = lib.dn_store_passes(self._root.c)
            self._end = _End(now, weakref.ref(part.loop), batch.step, passes, own)
            self._passes = passes
            self._writes.clear()

    def note(self, root: Root, passes: int) -> None:
        """Called before values of this root are written."""
        if not self._is_under_way:
            self._forget_writes_before(passes)
        if root not in self._writes and (self._is_under_way or passes > self._passes):
            line = user_line(sys._getframe(2))
            self._writes[root] = _Write(_checksums(root), passes, line)

    def _forget_writes_before(self, passes: int) -> None:
        """Forgets those that came before so many passes: the last may be a step's first."""
        for root in [root for root, write in self._writes.items() if write.passes < passes]:
            del self._writes[root]

    def _look_at_settings(self, part: Part) -> None:
        before, self._known = self._known, dict(self._settings())
        changed = [name for name, value in before.items() if value != self._known[name]]
        within = changed and 0 < part.turn < part.turns - 1
        twice = changed and self._changed and not part.turn
        self._changed = bool(changed) and part.turn == 1 and part.turns == 2
        if within or twice:
            self._say(
                "settings within a step",
                f"{_NAMES[changed[0]]} was changed between the micro-batches of a step. If that is"
                f" done for each micro-batch, or counts them, when{_ELSEWHERE} Change it where"
                " update() returns True, and count steps by trainer.updates.",
            )

    def _settings(self) -> Iterator[tuple[str, Any]]:
        yield from Settings.of(self._trainer)._asdict().items()
        yield "moments", lib.dn_trainer_resets(Hooks(self._trainer).c)
        handles = handles_of(members_of(self._trainer.collection))
        yield "frozen", [lib.dn_param_updated(handle) for handle in handles]

    def _is_other(self, root: Root, write: _Write, passes: int) -> bool:
        """Whether a backward pass was made at values that a write has changed."""
        if passes == write.passes or _VALUES in manner.said:
            return False
        return _checksums(root)[: len(write.before)] != write.before

    def _follows(self, other: MicroSteps, batch: Batch[Any], passes: int) -> bool:
        """Whether another trainer has ended a step within this one, and a backward pass has come
        after that."""
        end = other._end
        if other is self or end is None or end.time < self._begun:
            return False
        if batch.loop is end.loop() and batch.step == end.step:
            return passes > end.passes
        return bool(lib.dn_store_passes(other._root.c) > end.own)

    def _say(self, key: str, words: str) -> None:
        if manner.is_first(key) and self._is_main:
            warn(f"update: with reproducible=True {words} This is said once.")


_VALUES = "values within a step"
_clock = itertools.count(1)
_all: WeakSet[MicroSteps] = WeakSet()


def _watch() -> None:
    if _note not in on_write:
        on_write.append(_note)
        Hooks.on_update(Trainer, lambda trainer: _note(root_of(trainer.collection)))


def _note(root: Root, is_one: bool = False) -> None:
    """Called before values of this root are written, or updated by a trainer of one process."""
    if _VALUES in manner.said:
        return
    passes = passes_of_thread()
    for steps in _all:
        steps.note(root, passes)


def _checksums(root: Root) -> list[int]:
    return [lib.dn_param_checksum(c) for c, *_ in root.made]
