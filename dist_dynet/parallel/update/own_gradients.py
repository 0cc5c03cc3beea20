"""Warns if a program uses a rank's own gradients before they are averaged.

A factor that is computed from them, or values that are moved along them, differ from rank to rank:
the program runs, and its result differs from that of one process. No rank can tell on its own
whether a factor is of this kind. So rank 0 warns once if some rank sees one of these: gradients
were changed or dropped, or a second backward pass was made at other values, after they had been
read; a batch had no backward pass while other ranks made theirs; or the program moves parameters
along its own gradients, without any trainer that averages them.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

from ..._ffi import lib
from ..._manner import PACKAGE, manner, warn
from ..._weak import WeakSet
from ...params.collection import has_gradients, root_of
from ...params.root import Root, Watch, nobody, on_write
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ..agreement.message import Flag
from ..agreement.negotiation import Negotiation
from ..batches.batches import passes_of_thread, warn_of_alone, works_on_part
from ..processes.world import World
from .accumulation import Stash

_BETWEEN = (PACKAGE + "params" + os.sep, __file__)
"""Whose frames lie between a call of a method of a parameter and this module."""
_DIFFERS = (
    " What depends on their norm or direction differs between the ranks, which then do not end"
    " where one process ends"
)
_INSTEAD = (
    " Take the average first: g = dy.parallel.all_reduce(w.grad_as_array() * batch.n) /"
    " batch.total, then w.set_gradient(g * factor), the same on all ranks."
    " trainer.set_clip_threshold() clips the average by itself. This is said once."
)
_LEFT_OUT = (
    "update: on some rank there was no backward pass of a batch that has examples, and on others"
    " there was one of theirs. A step that is left out because of a rank's own loss, such as one"
    " that is NaN or too large, is left out on that rank alone, and the ranks do not end where one"
    " process ends. Decide by what all ranks know, such as dy.parallel.all_reduce(loss.value(),"
    " 'max'), leave out the step on all of them, and name the batch of the others:"
    " trainer.update(batch). It does no harm where each example is left out by itself, and losses"
    " are divided by len(batch); for the mean over those that are left write"
    " trainer.update(len(left)). This is said once."
)
_TOGETHER = (
    " Decide by what all ranks know, such as dy.parallel.all_reduce(norm, 'max')."
    " This is said once."
)


class OwnGradients(Watch):
    """For the parameters of one root: whether the program has read gradients since the last update,
    and what it did then. Calls from within the package do not count."""

    def __init__(self, root: Root, is_main: bool, stash: Stash) -> None:
        self.trainers: WeakSet[Trainer] = WeakSet()
        self.spread: WeakSet[Trainer] = WeakSet()
        """Also those whose values, not gradients, are averaged."""
        self._c, self._is_main, self._stash = root.c, is_main, stash
        self._tells = False  # it notifies rank 0 in the next update
        self._read: list[int] | None = None  # updates of the trainers when gradients were read
        self._passes = 0  # backward passes at that time
        self._moved: int | None = None  # backward passes when values were written after that

    def read(self, parameter: Any) -> None:
        """Called when the program reads the gradient of this parameter."""
        if self._stash.kept and not _is_own_call():
            self._stash.read(parameter)
        if self.trainers and not lib.dn_param_empty(parameter) and not _is_own_call():
            passes = lib.dn_store_passes(self._c)
            if self._is_read() and self._moved is not None and passes > self._moved:
                self._say_moved()
            self._read, self._moved, self._passes = self._updates(), None, passes

    def changed(self, what: str, parameter: Any) -> None:
        """Called when this method changes the gradient of this parameter.

        Raises:
            RuntimeError: it was read, and is set, without those of earlier passes.
        """
        if self._stash.kept and what == "set_gradient" and not _is_own_call():
            self._stash.replaces(parameter)
        if self._is_read() and not _is_own_call():
            self._say(
                f"{what}: the gradients were read before, and are this rank's own until update()"
                f" averages them.{_DIFFERS}; a factor or a mask that is the same on all ranks does"
                " no harm." + _INSTEAD
            )

    def written(self) -> None:
        """Called when the program writes values."""
        if not self._is_read() or _is_own_call():
            return
        passes = lib.dn_store_passes(self._c)
        if self._moved is None:
            self._moved = passes
        elif passes > self._moved:
            self._say_moved()

    def _say_moved(self) -> None:
        self._say(
            "backward: it was called at values that were written after this rank's own gradients"
            " had been read. If they were moved along these, they differ between the ranks, which"
            " do not end where one process ends." + _INSTEAD
        )

    def averaged(self) -> None:
        """What follows may be computed from averages."""
        self._read = None

    def flags(self, trainer: Trainer) -> int:
        """The flag that this rank sends in an update of this trainer."""
        if (
            self._is_read()
            and self._passes == lib.dn_store_passes(self._c)
            and not has_gradients(trainer.collection)
        ):
            self._say(
                "update: gradients were dropped after they had been read. Where a rank does so"
                " because of what they are, the step is left out on that rank alone, and the"
                " ranks do not end where one process ends." + _TOGETHER
            )
        tells, self._tells = self._tells, False
        return Flag.OWN * tells

    def on_flags(self, flags: int) -> None:
        """Called with the flags of all ranks."""
        # said on all ranks, so that none asks again
        if flags & Flag.LEAVES_OUT and manner.is_first("left out") and self._is_main:
            warn(_LEFT_OUT)
        if flags & Flag.OWN and self._is_main:
            self._say(
                "update: on another rank gradients were changed or dropped, or values were moved"
                " before a second backward pass, after that rank's own gradients had been read."
                f"{_DIFFERS}." + _INSTEAD
            )

    def _updates(self) -> list[int]:
        return sorted(trainer.updates for trainer in self.trainers)

    def _is_read(self) -> bool:
        return self._read is not None and self._read == self._updates()

    def _say(self, message: str) -> None:
        """Warns on rank 0; on other ranks, notifies rank 0."""
        if not manner.is_first("own gradients"):
            return
        if self._is_main:
            warn(message)
        else:
            self._tells = True


def left_out_flags(passes: int) -> int:
    """The flags of a rank that has made no backward pass of its examples in the passes whose bits
    are set; 0 after the warning."""
    return 0 if "left out" in manner.said else Flag.LEAVES_OUT | passes % (1 << 31) << 32


class _Alone(Watch):
    """Of parameters that no trainer of several ranks has: whether the program moves them, by itself
    or with a trainer of one process, along the gradients of this rank's part of a batch."""

    def __init__(self) -> None:
        self.ranks = 0
        self._passes: int | None = None  # when gradients of a part were read
        self._averaged = 0  # backward passes when the ranks exchanged something

    def read(self, parameter: Any) -> None:
        """The gradient of this one was read."""
        if works_on_part() and not lib.dn_param_empty(parameter) and not _is_own_call():
            self._passes = passes_of_thread()

    def written(self) -> None:
        """Values are written by the program."""
        passes, self._passes = self._passes, None
        if passes is None or not works_on_part() or _is_own_call():
            return
        if passes == passes_of_thread():
            warn_of_alone(
                self.ranks,
                "values are written after this rank's own gradients were read, by no trainer that"
                " averages them",
            )

    def updates(self, trainer: Trainer) -> None:
        """The update() of this trainer of one process is called."""
        if "shard" in manner.said or not works_on_part() or _is_spread(trainer):
            return
        if sys._getframe(2).f_code.co_filename.startswith(PACKAGE):  # as LocalSGD does
            return
        if passes_of_thread() > self._averaged and has_gradients(trainer.collection):
            warn_of_alone(
                self.ranks,
                "this update() is that of a trainer of one process, whose gradients are"
                " this rank's own",
            )

    def averaged(self) -> None:
        """What comes now may be computed from averages."""
        self._passes = None
        if self.ranks:
            self._averaged = passes_of_thread()


def _is_spread(trainer: Trainer) -> bool:
    """Whether a trainer of several ranks has all of these parameters: it compares what the program
    has made of them."""
    own, name = root_of(trainer.collection).own_gradients, trainer.collection.name()
    spread = own.spread if isinstance(own, OwnGradients) else ()
    return any(name.startswith(other.collection.name()) for other in spread)  # "/a/b/" is in "/a/"


_alone = _Alone()
_all: WeakSet[OwnGradients] = WeakSet()


def watch_unwatched(here: World) -> None:
    """From now on rank 0 looks at parameters that no trainer of several ranks has."""
    if here.size > 1 and here.rank == 0:
        _watch_writes()
        if not _alone.ranks:
            Hooks.on_update(Trainer, _alone.updates)
        _alone.ranks, nobody.told = here.size, _alone


def watch(here: World, trainer: Trainer, negotiation: Negotiation | None, stash: Stash) -> None:
    """Makes the ranks watch what the program does with the gradients of this trainer."""
    root = root_of(trainer.collection)
    own = root.own_gradients
    if not isinstance(own, OwnGradients):
        root.own_gradients = own = OwnGradients(root, here.rank == 0, stash)
        _watch_writes()
        _all.add(own)
    if negotiation is None:  # one process, whose gradients are the average
        return
    own.trainers.add(trainer)
    own.spread.add(trainer)
    negotiation.asks.append(partial(own.flags, trainer))
    negotiation.on_flags.append(own.on_flags)


def _watch_writes() -> None:
    if _on_write not in on_write:
        on_write.append(_on_write)


def _on_write(root: Root, is_one: bool) -> None:
    if is_one:
        root.own_gradients.written()


def leave(trainer: Trainer) -> None:
    """Ends this for a trainer that each rank uses on its own."""
    own = root_of(trainer.collection).own_gradients
    if isinstance(own, OwnGradients):
        own.trainers.discard(trainer)


def averaged() -> None:
    """Called when the ranks have exchanged something: perhaps gradients."""
    _alone.averaged()
    for own in list(_all):
        own.averaged()


def _is_own_call() -> bool:
    """Whether the method of a parameter that has called this was called from within the package."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(PACKAGE)
