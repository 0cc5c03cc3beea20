"""A trial: watches the first updates of a script for `dist-dynet check`, then ends its process.

DIST_DYNET_CHECK=UPDATES:TIMED:STREAM:FOLDER asks for a trial. The first UPDATES updates are made
with check=True and recorded for a comparison; TIMED more are timed. Then the script is ended by
SystemExit, on all ranks in the same update. Each rank writes FOLDER/rank-R.json, and rank 0 also
the values of the parameters. STREAM selects the random draws of graphs, as the number of a rank
does.

This module knows what to record of a run, and not what the difference between two runs means.
Without the variable nothing here is called.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from ... import _launcher, _random, meter
from ..._ffi import DTYPE_NAME
from ...params.parameters import AnyParameter
from ...trainers import Trainer
from ...trainers.hooks import Hooks

if TYPE_CHECKING:
    from ..agreement.negotiation import Step
    from ..update.sync import Sync

_P = ParamSpec("_P")

VARIABLE = "DIST_DYNET_CHECK"


class Watched:
    """The updates of one DistributedTrainer."""

    def __init__(self, trial: Trial, trainer: Trainer, sync: Sync, average: str) -> None:
        self._trial, self._trainer, self._sync = trial, trainer, sync
        self.first: list[NDArray[Any]] = []
        """The parameter values before the first update, and after the last one that is compared, on
        the rank that records them."""
        self.last: list[NDArray[Any]] = []
        self.names: list[tuple[str, Any]] = []
        self.average, self.norms, self.steps = average, list[float](), list[Any]()
        self.times: list[tuple[float, float, float, float]] = []
        """Seconds of each timed update: computing, negotiation including the wait for other ranks,
        exchange, update."""
        self.updates = 0
        self._step: dict[str, Any] = {}
        self._read = meter.read()
        self._chosen: Sequence[AnyParameter] | None = None  # parameters of the update; None: all
        step = sync.step

        def watched_step(
            weight: float,
            what: Step,
            flags: int = 0,
            problem: str = "",
            chosen: Sequence[AnyParameter] | None = None,
        ) -> tuple[bool, bool]:
            self._begin(what)
            self._chosen = chosen
            return step(weight, what, flags, problem, chosen)

        setattr(sync, "step", watched_step)  # noqa: B010 - mypy knows it as a method

    @property
    def _keeps(self) -> bool:
        """Whether this update is compared, and this rank records the parameters."""
        return self._sync.here.rank == 0 and self.updates < self._trial.compared

    def _begin(self, step: Step) -> None:
        self._step = step.description.named() if step.description else {}
        if self._keeps and not self.first:
            self.first = self._values()

    def before(self) -> None:
        """Called when gradients are summed, and not yet clipped."""
        if self.updates < self._trial.compared:
            self.norms.append(self._norm())
            self.steps.append(self._step)

    def _norm(self) -> float:
        """The norm of the gradients that the update uses. Other gradients are only this rank's
        part."""
        if self._chosen is None:
            return self._trainer.gradient_norm()
        return float(np.sqrt(sum((p.grad_as_array() ** 2).sum() for p in self._chosen)))

    def after(self) -> None:
        """Called after an update."""
        if self.updates >= self._trial.compared:
            s = meter.read().since(self._read).seconds()
            exchange = s["exchange"] + s["rows"]
            self.times.append((s["compute"], s["agreement"], exchange, s["update"]))
        elif self._keeps:
            self.last = self._values()
        self.updates += 1
        if self.updates == self._trial.compared and not self._trial.always_checks:
            self._sync.here.set_checks(False)
        self._read = meter.read()
        if self.updates >= self._trial.compared + self._trial.timed:
            self._trial.stop()

    def _members(self) -> tuple[AnyParameter, ...]:
        return Hooks(self._trainer).members()

    def _values(self) -> list[NDArray[Any]]:
        self.names = [(p.name(), list(p.shape())) for p in self._members()]
        return [np.array(p.as_array()) for p in self._members()]

    def record(self) -> dict[str, Any]:
        """What one rank records about it."""
        return {
            "trainer": self._trainer.whoami(),
            "average": self.average,
            "reproducible": self._sync.reproducible is not None,
            "ranks": self._sync.here.size,
            "local": self._sync.negotiation is not None and self._sync.negotiation.trusts,
            "parameters": self.names,
            "updates": self.updates,
            "norms": self.norms,
            "steps": self.steps,
            "times": self.times,
        }


class Trial:
    """The recording of this process."""

    def __init__(self, asked: str) -> None:
        compared, timed, stream, self._folder = asked.split(":", 3)
        self.compared, self.timed = int(compared), int(timed)
        self.always_checks = False
        self._watched: dict[int, Watched] = {}
        self._plain: dict[str, int] = {}
        """Updates of trainers without a DistributedTrainer, by class."""
        self._process, self._ended = os.getpid(), "program"
        _random.set_rank(int(stream))
        Hooks.on_new(Trainer, self._follow)
        atexit.register(self.write)

    def _follow(self, trainer: Trainer) -> None:
        hooks, number = Hooks(trainer), id(trainer)

        def before() -> None:
            if number in self._watched:
                self._watched[number].before()

        def after() -> None:
            if number in self._watched:
                self._watched[number].after()
            else:
                self._count(trainer)

        hooks.before(before)
        hooks.after(after)

    def _count(self, trainer: Trainer) -> None:
        name = trainer.whoami()
        self._plain[name] = self._plain.get(name, 0) + 1
        if not self._watched and self._plain[name] >= self.compared + self.timed:
            self.stop()

    def watch(self, trainer: Trainer, sync: Sync, average: str, checks: bool) -> None:
        """Starts to watch a trainer; checks: the program itself has asked for check=True."""
        self.always_checks |= checks
        self._watched[id(trainer)] = Watched(self, trainer, sync, average)

    def stop(self) -> None:
        """Ends the program. If the program catches this, the next update raises it again."""
        self._ended = "stopped"
        if threading.current_thread() is not threading.main_thread():
            self.write()
            os._exit(0)  # SystemExit would end this thread only
        raise SystemExit(0)

    def write(self) -> None:
        """Writes the record, once."""
        folder = Path(self._folder)
        if os.getpid() != self._process or not folder.is_dir():
            return
        self._process = 0
        launch = _launcher.find()
        rank = launch.rank if launch else 0
        for i, watched in enumerate(self._watched.values()):
            if watched.first:
                named = {"first": watched.first, "last": watched.last}
                arrays: dict[str, Any] = {
                    f"{when}-{j}": x for when, xs in named.items() for j, x in enumerate(xs)
                }
                with (folder / f"values-{i}.npz").open("wb") as file:
                    np.savez(file, **arrays)
        record = {
            "ended": self._ended,
            "dtype": DTYPE_NAME,
            "plain": self._plain,
            "trainers": [watched.record() for watched in self._watched.values()],
        }
        unfinished = folder / f"rank-{rank}.part"
        unfinished.write_text(json.dumps(record), encoding="utf-8")
        unfinished.rename(folder / f"rank-{rank}.json")


_trial: Trial | None = None


def install() -> None:
    """Begins a trial if the environment asks for one. Programs started by this one are not part of
    it."""
    global _trial
    asked = os.environ.pop(VARIABLE, "")
    if asked and _trial is None:
        _trial = Trial(asked)


def leaves_out(method: Callable[_P, bool]) -> Callable[_P, bool]:
    """Decorator: the method does nothing and returns False in a trial."""

    @wraps(method)
    def call(*arguments: _P.args, **named: _P.kwargs) -> bool:
        return _trial is None and method(*arguments, **named)

    return call


def present() -> Trial | None:
    """The trial of this process, if there is one."""
    return _trial
