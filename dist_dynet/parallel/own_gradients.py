"""What a program does with a rank's own gradients before they are averaged.

A factor that is computed from them, or values that are moved along them, differ from rank to rank:
the program runs, and ends elsewhere than in one process. No rank can tell by itself whether a
factor is of that kind. So rank 0 says once what it has seen: that gradients were changed, or a
second backward pass was made at other values, after they had been read.
"""

from __future__ import annotations

import os
import sys
import weakref

from .._ffi import lib
from .._manner import PACKAGE, manner, warn
from ..params.collection import root_of
from ..params.root import Root
from ..trainers import Trainer
from ._world import World

_OF_PARAMETERS = PACKAGE + "params" + os.sep
_INSTEAD = (
    " Take the average first: g = dy.parallel.all_reduce(w.grad_as_array() * batch.n) /"
    " batch.total, then w.set_gradient(g * factor), the same on all ranks."
    " trainer.set_clip_threshold() clips the average by itself. This is said once."
)


class OwnGradients:
    """Of the parameters of one root: whether the program has read gradients since the last update,
    and what it did then. Calls from within the package do not count."""

    def __init__(self, root: Root) -> None:
        self.trainers: weakref.WeakSet[Trainer] = weakref.WeakSet()
        self._c = root.c
        self._read: list[int] | None = None  # the updates of the trainers at that time
        self._moved: int | None = None  # backward passes at the time when values were written then

    def read(self) -> None:
        """Gradients were read."""
        if not _is_own_call():
            self._read, self._moved = self._updates(), None

    def changed(self, what: str) -> None:
        """They were changed by this method."""
        if self._is_read() and not _is_own_call():
            _say(
                f"{what}: the gradients were read before, and are this rank's own until update()"
                " averages them. What is computed from them, as a factor from their norm, differs"
                " between the ranks, and they do not end where one process ends." + _INSTEAD
            )

    def written(self) -> None:
        """Values are written by the program."""
        if not self._is_read() or _is_own_call():
            return
        passes = lib.dn_store_passes(self._c)
        if self._moved is None:
            self._moved = passes
        elif passes > self._moved:
            _say(
                "backward: it was called at values that were written after this rank's own"
                " gradients had been read. If they were moved along these, they differ between the"
                " ranks, which do not end where one process ends." + _INSTEAD
            )

    def averaged(self) -> None:
        """What comes now may be computed from averages."""
        self._read = None

    def _updates(self) -> list[int]:
        return sorted(trainer.updates for trainer in self.trainers)

    def _is_read(self) -> bool:
        return self._read is not None and self._read == self._updates()


_all: weakref.WeakSet[OwnGradients] = weakref.WeakSet()


def watch(here: World, trainer: Trainer) -> None:
    """From now on rank 0 looks at what the program does with the gradients of this trainer."""
    if here.rank:
        return
    root = root_of(trainer.collection)
    if not isinstance(root.own_gradients, OwnGradients):
        root.own_gradients = OwnGradients(root)
        _all.add(root.own_gradients)
    root.own_gradients.trainers.add(trainer)


def averaged() -> None:
    """The ranks have summed something: perhaps gradients."""
    for own in list(_all):
        own.averaged()


def _is_own_call() -> bool:
    """Whether the method of a parameter that has told of this was called from within the
    package."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OF_PARAMETERS):
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(PACKAGE)


def _say(message: str) -> None:
    if "own gradients" not in manner.said:
        manner.said.add("own gradients")
        warn(message)
