"""Trainer.state() and load_state(): moments and counts as named arrays. Beside them the settings,
which a checkpoint holds, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._ffi import lib, view
from .hooks import Hooks

if TYPE_CHECKING:
    from ..params.parameters import AnyParameter
    from .base import Trainer


def _moment(trainer: Trainer, parameter: AnyParameter, k: int) -> NDArray[Any]:
    """Moment k of a parameter, flat in storage order, without a copy."""
    return view(lib.dn_trainer_moment(trainer._c, parameter._c, k), lib.dn_param_size(parameter._c))


def state_of(trainer: Trainer) -> dict[str, NDArray[Any]]:
    """See Trainer.state()."""
    schedule = Hooks(trainer).schedule
    state: dict[str, NDArray[Any]] = {
        "trainer": np.frombuffer(type(trainer).__name__.encode(), np.uint8),
        "updates": np.array(trainer.updates, np.int64),
        "learning_rate": np.array(trainer.learning_rate, np.float64),
        **{name: np.array(value, np.float64) for name, value in trainer._own_state().items()},
        **{
            f"schedule:{name}": np.array(value, np.float64)
            for name, value in (schedule.state_dict() if schedule else {}).items()
        },
    }
    for name, parameter in trainer.collection.named_parameters().items():
        if lib.dn_trainer_has_moments(trainer._c, parameter._c):
            for k, moment in enumerate(trainer._moments):
                state[f"{moment}:{name}"] = parameter._shaped(_moment(trainer, parameter, k).copy())
    return state


def load_into(trainer: Trainer, state: Mapping[str, NDArray[Any]]) -> None:
    """See Trainer.load_state()."""
    kind = (
        bytes(np.asarray(state["trainer"], np.uint8)).decode(errors="replace")
        if "trainer" in state
        else "nothing known"
    )
    if kind != type(trainer).__name__:
        raise ValueError(
            f"load_state: the state must be of a {type(trainer).__name__}; got one of {kind}."
        )
    named = trainer.collection.named_parameters()
    own = {name: float(state[name]) for name in trainer._own_state() if name in state}
    scheduled = {
        name.removeprefix("schedule:"): float(array)
        for name, array in state.items()
        if name.startswith("schedule:")
    }
    moments = {
        name: array
        for name, array in state.items()
        if ":" in name and not name.startswith("schedule:")
    }
    for counted in ("updates", "learning_rate"):
        if counted not in state or np.size(state[counted]) != 1:
            raise ValueError(
                f"load_state: the state must have one number {counted!r}; got"
                f" {state.get(counted)!r}."
            )
    for key, array in moments.items():
        moment, _, name = key.partition(":")
        if moment not in trainer._moments or name not in named:
            raise ValueError(
                f"load_state: {key!r} must name a moment ({', '.join(trainer._moments)}) and a"
                " parameter of the collection."
            )
        if np.shape(array) != named[name].shape():
            raise ValueError(
                f"load_state: {key!r} must have the shape {named[name].shape()} of its parameter;"
                f" got {np.shape(array)}."
            )
    partial = [
        k for k in moments for m in trainer._moments if f"{m}:{k.partition(':')[2]}" not in moments
    ]
    if partial:
        raise ValueError(
            f"load_state: a parameter must have all moments ({', '.join(trainer._moments)}); got"
            f" only {partial[0]!r}."
        )
    schedule = Hooks(trainer).schedule
    if schedule and scheduled:
        schedule.load_state_dict(scheduled)
    trainer.collection._root.detach()
    lib.dn_trainer_restart(trainer._c)
    for key, array in moments.items():
        moment, _, name = key.partition(":")
        memory = _moment(trainer, named[name], trainer._moments.index(moment))
        named[name]._shaped(memory)[...] = array
    lib.dn_trainer_set_updates(trainer._c, int(state["updates"]))
    trainer._shown = trainer.updates, trainer.clips
    trainer.learning_rate = float(state["learning_rate"])
    trainer._load_own_state(own)


class Settings(NamedTuple):
    """What the program may have set since the trainer was made, as numbers. It must be the same on
    all ranks; a checkpoint holds it, too."""

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
        """Gives them to a trainer. A new accumulation begins only if it is another."""
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
        """Names and values of these."""
        chosen = [
            f"{name.replace('_', ' ')} {value!r}".removesuffix(".0")
            for name, value in self._asdict().items()
        ]
        return ", ".join(text for text, wanted in zip(chosen, of, strict=True) if wanted)


def settings_of(trainer: Trainer) -> dict[str, float]:
    """The settings by name, and the count of skipped steps."""
    return {**Settings.of(trainer)._asdict(), "skipped": trainer.skipped}


def set_settings(trainer: Trainer, settings: Mapping[str, float]) -> None:
    """Sets them as they were; what is not among them stays. An accumulation begins anew."""
    trainer.set_accumulation(int(settings["accumulation"]))
    Settings.of(trainer)._replace(
        **{name: settings[name] for name in Settings._fields if name in settings}
    ).set_on(trainer)
    trainer._skipped = int(settings["skipped"])
