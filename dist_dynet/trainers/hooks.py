"""Hooks: the steps of a trainer's update one by one, for code that makes, follows or saves updates.

Users call the trainer itself. DistributedTrainer averages gradients before `apply()`; schedules,
moving averages and checkpoints are notified of each update. This module knows neither ranks nor
files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..params.collection import has_gradients
from .arguments import Follower, Schedule

if TYPE_CHECKING:
    from .base import Trainer


class Hooks:
    """A trainer's update in steps: `prepare()`, then, if `apply()` has changed something, `done()`
    and `conclude()`."""

    __slots__ = (
        "_trainer",
        "apply",
        "catch_up",
        "chosen",
        "conclude",
        "done",
        "fail",
        "first",
        "followers",
        "members",
        "prepare",
    )

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        # () -> the parameters that are trained, then the lookup tables
        self.members = trainer._members
        # (parameters, tables) -> those that update_subset() is to update
        self.chosen = trainer._chosen
        self.prepare = trainer._prepare
        """Refuses the update by an exception, or passes changed settings to C."""
        self.apply = trainer._change
        """Changes all parameters, or the chosen ones, by their gradients; False: skip_nonfinite."""
        self.fail = trainer._fail
        """Handles an update that C has refused, given its error and the parameters; returns as
        apply()."""
        self.first = trainer._first  # the callbacks of before()
        self.done = trainer._done  # notifies all followers of an applied update
        self.catch_up = trainer._catch_up  # as done(), if an exception has ended that
        self.conclude = trainer._conclude  # what may take longer: checkpoints
        self.followers = trainer._followers

    @property
    def c(self) -> Any:
        """The dn_trainer * of C."""
        return self._trainer._c

    @property
    def constants(self) -> str:
        """The constants of the trainer, for messages: all arguments but collection and learning
        rate.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> Hooks(dy.AdamWTrainer(m, no_decay=[m.add_parameters(1, name="b")])).constants
        'AdamWTrainer with constants 0.9, 0.999, 1e-08, 0.01, without decay of /b'
        """
        constants = ", ".join(repr(float(constant)) for constant in self._trainer._constants)
        excluded = sorted({p.readable_name() for p in getattr(self._trainer, "_excluded", ())})
        return (
            self._trainer.whoami()
            + (f" with constants {constants}" if constants else "")
            + (f", without decay of {', '.join(excluded)}" if excluded else "")
        )

    @property
    def made(self) -> str:
        """The constants, and the schedule of the learning rate, if there is one.

        >>> import dist_dynet as dy
        >>> trainer = dy.AdagradTrainer(dy.ParameterCollection())
        >>> schedule = dy.schedules.Constant(trainer, warmup=5)
        >>> Hooks(trainer).made
        'AdagradTrainer with constants 1e-20; Constant(warmup=5)'
        """
        schedule = self.schedule
        return self.constants + (f"; {schedule.made}" if schedule else "; no schedule")

    @property
    def moments(self) -> int:
        """Number of moments per parameter element."""
        return len(self._trainer._moments)

    @property
    def gathered(self) -> int:
        """Number of passes done in the present accumulation."""
        return self._trainer._gathered

    @gathered.setter
    def gathered(self, passes: int) -> None:
        self._trainer._gathered = passes

    def waits(self) -> bool:
        """Whether an accumulation is under way, or gradients wait to be applied."""
        return self.gathered > 0 or has_gradients(self._trainer.collection)

    def follow(self, follower: Follower) -> None:
        """Calls follower.update() after each update. If that raises, it is called again before the
        next update or the trainer's state()."""
        trainer = self._trainer
        self.catch_up()
        trainer._followed = trainer.updates
        trainer._followers.append(follower)
        self._trainer._set_plain()

    def refuse(self, refusal: Callable[[], None]) -> None:
        """Calls `refusal` in prepare(). It refuses an update by an exception."""
        self._trainer._refusals.append(refusal)
        self._trainer._set_plain()

    def before(self, first: Callable[[], None]) -> None:
        """Calls `first` before each update, when gradients are as they will be applied."""
        self._trainer._first.append(first)
        self._trainer._set_plain()

    def after(self, last: Callable[[], None]) -> None:
        """Calls `last` at the end of each update, after the followers."""
        self._trainer._last.append(last)
        self._trainer._set_plain()

    @staticmethod
    def on_new(trainers: type[Trainer], callback: Callable[[Trainer], object]) -> None:
        """Calls `callback` with each trainer that is made from now on."""
        trainers._on_new.append(callback)

    def take_logged(self) -> dict[str, float]:
        """The means of the values given to log() since the last call."""
        logged = {name: sum_ / n for name, (sum_, n) in self._trainer._logged.items()}
        self._trainer._logged.clear()
        return logged

    @property
    def schedule(self) -> Schedule | None:
        """The schedule of the learning rate, if it still exists."""
        return self._trainer._schedule() if self._trainer._schedule else None
