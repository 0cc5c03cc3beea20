"""Trainer.state() and load_state(): moments and counts as named arrays. Also the settings, which a
checkpoint holds as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._deferred_signals import DeferSignals
from .._ffi import lib, view
from .._state import count_in, number_in
from .arguments import finite
from .hooks import Hooks

if TYPE_CHECKING:
    from ..params.parameters import AnyParameter
    from .base import Trainer


_SCHEDULE = "schedule"


def _moment(trainer: Trainer, parameter: AnyParameter, k: int) -> NDArray[Any]:
    """Moment k of a parameter, flat in storage order, without a copy; zeros if there was none.

    Raises:
        MemoryError: there is no memory for it.
    """
    return view(lib.dn_trainer_moment(trainer._c, parameter._c, k), lib.dn_param_size(parameter._c))


def state_of(trainer: Trainer) -> dict[str, NDArray[Any]]:
    """See Trainer.state()."""
    counts = _Counts.of(trainer)
    state: dict[str, NDArray[Any]] = {
        "trainer": np.frombuffer(type(trainer).__name__.encode(), np.uint8),
        "updates": np.array(counts.updates, np.int64),
        "learning_rate": np.array(counts.learning_rate, np.float64),
        **{name: np.array(value, np.int64) for name, value in counts.own.items()},
        **{
            f"{_SCHEDULE}:{name}": np.array(value, np.float64)
            for name, value in counts.schedule.items()
        },
    }
    for name, parameter in trainer.collection.named_parameters().items():
        if lib.dn_trainer_has_moments(trainer._c, parameter._c):
            for k, moment in enumerate(trainer._moments):
                state[f"{moment}:{name}"] = parameter._shaped(_moment(trainer, parameter, k).copy())
    return state


class _Counts(NamedTuple):
    """The parts of a state other than moments."""

    updates: int
    learning_rate: float
    own: dict[str, int]
    schedule: dict[str, float]

    @classmethod
    def of(cls, trainer: Trainer) -> _Counts:
        """Those of a trainer."""
        schedule = Hooks(trainer).schedule
        return cls(
            trainer.updates,
            trainer.learning_rate,
            trainer._own_state(),
            schedule.state_dict() if schedule else {},
        )

    def set_on(self, trainer: Trainer) -> None:
        """Sets them on a trainer."""
        schedule = Hooks(trainer).schedule
        if schedule and self.schedule:
            schedule.load_state_dict(self.schedule)
        with DeferSignals():  # averages and the like have a state of their own
            lib.dn_trainer_set_updates(trainer._c, self.updates)
            trainer._told, trainer._followed = 0, self.updates
        trainer._shown = self.updates, trainer.clips
        trainer.learning_rate = self.learning_rate
        trainer._load_own_state(self.own)


class _Loaded(NamedTuple):
    """A state that was checked for a trainer."""

    counts: _Counts
    moments: dict[str, list[NDArray[Any]]]
    """By the parameter's name."""


def load_into(trainer: Trainer, state: Mapping[str, NDArray[Any]]) -> None:
    """See Trainer.load_state(). Whatever may fail comes first, and the moments are written last,
    atomically: until then everything can be restored."""
    loaded = _checked(trainer, state)
    copied: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for name, parameter in trainer.collection.named_parameters().items():
        if name in loaded.moments or lib.dn_trainer_has_moments(trainer._c, parameter._c):
            for k in range(len(trainer._moments)):
                moment = _moment(trainer, parameter, k)
                copied.append((moment, np.zeros_like(moment)))
                if name in loaded.moments:
                    parameter._shaped(copied[-1][1])[...] = loaded.moments[name][k]
    before, done = _Counts.of(trainer), np.zeros(1, np.uint8)
    try:
        loaded.counts.set_on(trainer)
        trainer.collection._root.write((), [*copied, (done, np.ones_like(done))])
    except BaseException:  # Ctrl-C, or no memory
        if not done[0]:
            before.set_on(trainer)
        raise


def _checked(trainer: Trainer, state: Mapping[str, NDArray[Any]]) -> _Loaded:
    """Checks a state for a trainer.

    Raises:
        ValueError: it is not of this trainer.
    """
    kind = np.asarray(state.get("trainer"))
    if not np.array_equal(kind, np.frombuffer(type(trainer).__name__.encode(), np.uint8)):
        is_text = kind.dtype == np.uint8
        got = f"one of {kind.tobytes().decode(errors='replace')}" if is_text else f"{kind}"
        raise ValueError(
            f"load_state: the state must be of a {type(trainer).__name__}; got {got:.60}."
        )
    named = trainer.collection.named_parameters()
    moments: dict[str, list[NDArray[Any]]] = {}
    for key, array in state.items():
        moment, colon, name = key.partition(":")
        if not colon or moment == _SCHEDULE:
            continue
        if moment not in trainer._moments or name not in named:
            raise ValueError(
                f"load_state: {key!r} must name a moment ({', '.join(trainer._moments)}) and a"
                " parameter of the collection."
            )
        if np.shape(array) != named[name].shape() or np.asarray(array).dtype.kind not in "biuf":
            raise ValueError(
                f"load_state: {key!r} must be numbers of the shape {named[name].shape()} of its"
                f" parameter; got {np.asarray(array).dtype} of the shape {np.shape(array)}."
            )
        missing = [other for other in trainer._moments if f"{other}:{name}" not in state]
        if missing:
            raise ValueError(
                f"load_state: a parameter must have all moments ({', '.join(trainer._moments)});"
                f" got {key!r} without {missing[0]!r}."
            )
        moments[name] = [state[f"{each}:{name}"] for each in trainer._moments]
    counts = _Counts(
        count_in(state, "updates", "load_state"),
        finite(number_in(state, "learning_rate", "load_state"), "load_state: the learning rate"),
        {name: count_in(state, name, "load_state") for name in trainer._own_state()},
        {
            key.removeprefix(f"{_SCHEDULE}:"): number_in(state, key, "load_state", nan=True)
            for key in state
            if key.startswith(f"{_SCHEDULE}:")
        },
    )
    return _Loaded(counts, moments)


class Settings(NamedTuple):
    """What a program may have set since the trainer was made, as numbers. They must be the same on
    all ranks, and are part of checkpoints."""

    learning_rate: float
    clip_threshold: float
    clip_value: float
    weight_decay: float
    sparse_updates: float
    skip_nonfinite: float
    accumulation: float

    @classmethod
    def of(cls, trainer: Trainer) -> Settings:
        """Those of a trainer."""
        known, decay = trainer._known_settings, trainer._collection._weight_decay
        if known is None or known.weight_decay != decay:
            c = trainer._settings
            known = trainer._known_settings = cls(
                c.rate, c.clip, c.clip_value, decay, c.sparse, c.check, trainer.accumulation
            )
        return known

    def set_on(self, trainer: Trainer) -> None:
        """Sets them on a trainer. A new accumulation begins only if its length changes."""
        if self == Settings.of(trainer):
            return
        trainer.learning_rate = self.learning_rate
        trainer.set_clip_threshold(self.clip_threshold)
        trainer.set_clip_value(self.clip_value)
        trainer.collection.set_weight_decay(self.weight_decay)
        trainer.set_sparse_updates(bool(self.sparse_updates))
        trainer.skip_nonfinite = bool(self.skip_nonfinite)
        if self.accumulation != trainer.accumulation:
            trainer.set_accumulation(int(self.accumulation))

    def words(self, of: NDArray[np.bool_]) -> str:
        """Names and values of the selected settings."""
        chosen = [
            f"{name.replace('_', ' ')} {value!r}".removesuffix(".0")
            for name, value in self._asdict().items()
        ]
        return ", ".join(text for text, wanted in zip(chosen, of, strict=True) if wanted)


def settings_of(trainer: Trainer) -> dict[str, float]:
    """The settings by name, and the count of skipped steps."""
    return {**Settings.of(trainer)._asdict(), "skipped": trainer.skipped}


def set_settings(trainer: Trainer, settings: Mapping[str, float]) -> None:
    """Restores these settings; those that are missing keep their values. Starts a new
    accumulation."""
    trainer.set_accumulation(int(settings["accumulation"]))
    Settings.of(trainer)._replace(
        **{name: settings[name] for name in Settings._fields if name in settings}
    ).set_on(trainer)
    trainer._skipped = int(settings["skipped"])
