"""A trial: watches the first updates of a script for `dist-dynet check`, then ends its process.

DIST_DYNET_CHECK=UPDATES:TIMED:STREAM:FOLDER asks for a trial. UPDATES updates are recorded for a
comparison, TIMED more are timed. Then the script is ended by SystemExit, on all ranks in the same
update. Each rank writes FOLDER/rank-R.json, and rank 0 also the values of the parameters. STREAM
selects the random draws of graphs, as the number of a rank does.

This module knows what to record of a run, and not what the difference between two runs means.
Without the variable nothing here is called.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from ... import _launcher, _random, meter
from ..._ffi import DTYPE_NAME
from ...trainers import Trainer
from ...trainers.hooks import Hooks

_P = ParamSpec("_P")

VARIABLE = "DIST_DYNET_CHECK"


def _plain(step: Any) -> dict[str, Any]:
    """The fields of a step by name, those of named tuples within it among them; numbers only."""
    found: dict[str, Any] = {}
    for name, value in step._asdict().items() if hasattr(step, "_asdict") else ():
        found |= {name: value} if isinstance(value, int | float | str) else _plain(value)
    return found


class Watched:
    """The updates of one DistributedTrainer."""

    def __init__(self, trial: Trial, trainer: Trainer, sync: Any, average: str) -> None:
        self._trial, self._trainer, self._sync, self._average = trial, trainer, sync, average
        self._norms: list[float | None] = []
        self._steps: list[dict[str, Any]] = []
        self._names: list[tuple[str, Any]] = []
        self._times: list[dict[str, float]] = []  # seconds of each timed update, by phase
        self._read, self.updates = meter.read(), 0
        self.values: dict[str, NDArray[Any]] = {}
        """The parameters before the first update, first-0, ..., and after the last one that is
        compared, last-0, ..., on rank 0."""

    def before(self) -> None:
        """Called when gradients are summed, and not yet clipped."""
        if self.updates >= self._trial.compared:
            return
        step = getattr(self._sync, "last_step", None)
        # of a subset, the other gradients are only this rank's part
        self._norms.append(
            None if getattr(step, "subset", 0) else float(self._trainer.gradient_norm())
        )
        self._steps.append(_plain(getattr(step, "description", step)))
        if not self.updates:
            self._keep("first")

    def after(self) -> None:
        """Called after an update."""
        self.updates += 1
        if self.updates > self._trial.compared:
            self._times.append(meter.read().since(self._read).seconds())
        else:
            self._keep("last")
        self._read = meter.read()
        if self.updates >= self._trial.compared + self._trial.timed:
            self._trial.stop()

    def _keep(self, when: str) -> None:
        if self._sync.here.rank == 0:
            members = Hooks(self._trainer).members()
            self._names = [(p.name(), list(p.shape())) for p in members]
            self.values |= {f"{when}-{i}": np.array(p.as_array()) for i, p in enumerate(members)}

    def record(self) -> dict[str, Any]:
        """What one rank records about it."""
        return {
            "average": self._average,
            "reproducible": self._sync.reproducible is not None,
            "ranks": self._sync.here.size,
            "local": getattr(self._sync.negotiation, "trusts", False),
            "parameters": self._names,
            "updates": self.updates,
            "norms": self._norms,
            "steps": self._steps,
            "times": self._times,
        }


class Trial:
    """The recording of this process."""

    def __init__(self, asked: str) -> None:
        compared, timed, stream, self._folder = asked.split(":", 3)
        self.compared, self.timed = int(compared), int(timed)
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
                self._count(trainer.whoami())

        hooks.before(before)
        hooks.after(after)

    def _count(self, name: str) -> None:
        self._plain[name] = self._plain.get(name, 0) + 1
        if not self._watched and self._plain[name] >= self.compared + self.timed:
            self.stop()

    def watch(self, trainer: Trainer, sync: Any, average: str, checks: bool = False) -> None:
        """Starts to watch a trainer that a DistributedTrainer wraps."""
        self._watched[id(trainer)] = Watched(self, trainer, sync, average)

    def stop(self) -> None:
        """Ends the program. If the program catches this, the next update raises it again."""
        self._ended = "stopped"
        raise SystemExit(0)

    def write(self) -> None:
        """Writes the record, once."""
        folder = Path(self._folder)
        if os.getpid() != self._process or not folder.is_dir():
            return
        self._process, launch = 0, _launcher.find()
        rank = launch.rank if launch else 0
        for i, watched in enumerate(self._watched.values()):
            if rank == 0:
                np.savez(folder / f"values-{i}.npz", **watched.values)  # type: ignore[arg-type]
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
