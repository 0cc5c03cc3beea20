"""Overlap: the round of dense gradients that begins while backward runs, before update().

While backward runs, the main thread sends what is complete between its steps. If some gradients are
complete long before its end, a second thread sends, which need not wait for the end of a step;
otherwise the thread would cost more than it gains. Since gradients do not change until update(),
another backward() in between does no harm: what was sent early is dropped and sent again.
"""

from __future__ import annotations

import os
import weakref

import numpy as np
from numpy.typing import NDArray

from ..._ffi import lib
from ...expression import watchers
from ...params.root import Root
from ..agreement.message import Flag
from .backoff import Backoff
from .exchange import Weight
from .rounds import ExchangeThread, Round

WORTH = 5e-3
"""How many seconds before update() the first gradients must be complete on some rank for the thread
to pay: it costs a millisecond or two."""


class Overlap:
    """What part of the next sum is sent early, and who sends it.

    Args:
        is_possible: whether anything may be sent while backward runs.
    """

    def __init__(self, is_possible: bool) -> None:
        self._is_possible = is_possible
        self.round: Round | None = None
        """What begins before the negotiation, in backward or in update()."""
        self.used: NDArray[np.bool_] = np.zeros(0, np.bool_)
        """The parameters whose gradients it sends."""
        self.is_enabled = self.is_threaded = False
        """Whether the round may begin in backward; whether the thread drives it."""
        self.thread: ExchangeThread | None = None
        self.backoff = Backoff()
        self.held = self.dropped = 0
        """How many rounds that began before the negotiation were useful, and how many were
        dropped."""
        self._weight: Weight | None = None
        self._pays = False  # whether the thread would have paid in the last step

    def enable(self, weight: Weight) -> None:
        """The next backward is the last before update(): complete gradients may be sent, times this
        weight."""
        early = self.round
        if (
            early is None
            or early.weight is not None
            or early.complete
            or not self._is_possible
            or self.backoff.remaining > 0
        ):
            return
        root = early.structure.root
        self.is_enabled = True
        self.is_threaded = self._pays
        self._weight = weight
        lib.dn_store_set_hook(root.c, lib.DN_HOOK_ARMED if self._pays else lib.DN_HOOK_STEPS)
        if not self.is_threaded:
            if self not in watchers:
                watchers.add(self)
                weakref.finalize(self, _leave, root).atexit = False
            return
        if self.thread is None:
            self.thread = ExchangeThread()
            self.thread.start()
            weakref.finalize(self, self.thread.stop).atexit = False  # at exit rounds.py sees to it
        self.thread.watch(early, root, weight)

    def look(self) -> None:
        """Called after a step of any backward: sends what is complete."""
        early = self.round
        if (
            early is None
            or not self.is_enabled
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
        """The next backward is not the last before update()."""
        if self.is_enabled and self.round is not None and self.round.weight is None:
            lib.dn_store_set_hook(self.round.structure.root.c, lib.DN_HOOK_OFF)

    def flush(self, weight: float) -> int:
        """Called in update(): all gradients are complete, and have this weight. Returns Flag.EARLY
        and Flag.AHEAD, as far as they apply."""
        early, flags = self.round, 0
        if early is not None:
            with early.lock:
                if self._is_current(early, weight):
                    flags |= Flag.EARLY
                if early.head_start() >= WORTH:
                    flags |= Flag.AHEAD
                early.flush(weight)
        return flags

    def _is_current(self, early: Round, weight: float) -> bool:
        """Whether what was sent early still equals the gradients."""
        if not self.is_enabled:
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
        """Makes progress while messages are waited for. Returns a number that increases with it."""
        early = self.round
        if early is None or not early.lock.acquire(blocking=False):
            return 0
        try:
            early.advance()
        finally:
            early.lock.release()
        return early.moves

    def take(self) -> Round | None:
        """Takes what began before the negotiation."""
        taken, self.round = self.round, None
        self.is_enabled = self.is_threaded = False
        return taken

    def judge(self, was_enabled: bool, good: bool, pays: bool) -> None:
        """Notes whether the round of take() was useful, and whether the thread pays, for the next
        steps."""
        self.held, self.dropped = self.held + good, self.dropped + (not good)
        if was_enabled:
            self._pays = pays
            self.backoff.record(good)


os.register_at_fork(after_in_child=watchers.clear)  # a child's gradients go nowhere


def _leave(root: Root) -> None:
    lib.dn_store_set_hook(root.c, lib.DN_HOOK_OFF)
