"""Overlap: the round of dense gradients that begins while backward goes on, before update().

While backward goes on the main thread sends what is complete between its steps. Where some
gradients are complete long before its end a second thread does, which need not wait for a step to
end; otherwise that would cost more than it brings. Since gradients stay as they are until update(),
another backward() in between does no harm: what was sent early is dropped then, and sent again.
"""

from __future__ import annotations

import os
import weakref

import numpy as np
from numpy.typing import NDArray

from .._ffi import lib
from ..expression import watchers
from ..params.root import Root
from .backoff import Backoff
from .exchange import Weight
from .message import Flag
from .rounds import Helper, Round

WORTH = 5e-3
"""Seconds before update() at which the first gradients must be complete on some rank for the thread
to pay: it costs a millisecond or two."""


class Overlap:
    """What of the next sum is sent early, and who drives it.

    Args:
        is_possible: whether anything may be sent while backward goes on.
    """

    def __init__(self, is_possible: bool) -> None:
        self._is_possible = is_possible
        self.round: Round | None = None
        """What begins before the ranks agree, in backward or in update()."""
        self.used: NDArray[np.bool_] = np.zeros(0, np.bool_)
        """Whose gradients it takes."""
        self.is_armed = self.is_threaded = False
        """Whether it may begin in backward; whether the thread drives it."""
        self.helper: Helper | None = None
        self.backoff = Backoff()
        self.held = self.dropped = 0
        """How many rounds that began before the agreement were of use, and how many were not."""
        self._weight: Weight | None = None
        self._pays = False  # whether the thread would have paid in the last step

    def enable(self, weight: Weight) -> None:
        """The next backward is the last before update(): what is complete may be sent, times this
        weight."""
        early = self.round
        if (
            early is None
            or early.weight is not None
            or early.complete
            or not self._is_possible
            or self.backoff.left > 0
        ):
            return
        root = early.structure.root
        self.is_armed = True
        self.is_threaded = self._pays
        self._weight = weight
        lib.dn_store_set_hook(root.c, lib.DN_HOOK_ARMED if self._pays else lib.DN_HOOK_STEPS)
        if not self.is_threaded:
            if self not in watchers:
                watchers.add(self)
                weakref.finalize(self, _leave, root).atexit = False
            return
        if self.helper is None:
            self.helper = Helper()
            self.helper.start()
            weakref.finalize(self, self.helper.stop).atexit = False  # at exit rounds.py sees to it
        self.helper.watch(early, root, weight)

    def look(self) -> None:
        """A step of a backward has ended, perhaps of ours: sends what is complete."""
        early = self.round
        if (
            early is None
            or not self.is_armed
            or self.is_threaded
            or not early.lock.acquire(blocking=False)
        ):
            return
        try:
            if (
                early.weight is None
                and lib.dn_store_await(early.structure.root.c, 0.0) == lib.DN_HOOK_BEGUN
            ):
                weight = self._weight() if self._weight else None
                if weight is not None:
                    early.open(weight)
            early.advance()
        except Exception as error:  # update() raises it
            early.error = error
        finally:
            early.lock.release()

    def disable(self) -> None:
        """The next backward is not the last."""
        if self.is_armed and self.round is not None and self.round.weight is None:
            lib.dn_store_set_hook(self.round.structure.root.c, lib.DN_HOOK_OFF)

    def flush(self, weight: float) -> int:
        """update() has come: all gradients are complete, and this is their weight. What of
        Flag.EARLY and Flag.AHEAD is so."""
        early, flags = self.round, 0
        if early is not None:
            with early.lock:
                if self._is_good(early, weight):
                    flags |= Flag.EARLY
                if early.head_start() >= WORTH:
                    flags |= Flag.AHEAD
                early.hurry(weight)
        return flags

    def _is_good(self, early: Round, weight: float) -> bool:
        """Whether what has been sent early is what the gradients are now."""
        if not self.is_armed:
            return True
        structure = early.structure
        state = lib.dn_store_await(structure.root.c, 0.0)
        lib.dn_store_set_hook(structure.root.c, lib.DN_HOOK_OFF)
        return (
            early.weight is None
            or (
                early.weight == weight
                and state == lib.DN_HOOK_COMPLETE
                # not of a backward before the last, for another trainer's update
                and early.watched == lib.dn_store_hook_count(structure.root.c)
                and all(
                    lib.dn_param_unchanged(handle)
                    for handle in structure.handles[: len(structure.dense)]
                )
            )
        )

    def advance(self) -> int:
        """While messages are waited for: does what can be done; a number that rises with it."""
        early = self.round
        if early is None or not early.lock.acquire(blocking=False):
            return 0
        try:
            early.advance()
        finally:
            early.lock.release()
        return early.moves

    def take(self) -> Round | None:
        """What began before the agreement; nothing is left here."""
        taken, self.round = self.round, None
        self.is_armed = self.is_threaded = False
        return taken

    def judge(self, was_armed: bool, good: bool, pays: bool) -> None:
        """Whether what take() gave was of use, and whether the thread pays: the next steps begin
        accordingly."""
        self.held, self.dropped = self.held + good, self.dropped + (not good)
        if was_armed:
            self._pays = pays
            self.backoff.note(good)


os.register_at_fork(after_in_child=watchers.clear)  # a child's gradients go nowhere


def _leave(root: Root) -> None:
    lib.dn_store_set_hook(root.c, lib.DN_HOOK_OFF)
