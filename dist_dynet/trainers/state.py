"""Trainer.state() and load_state(): moments and counts as named arrays. Beside them the settings, which a checkpoint holds, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import lib, view

if TYPE_CHECKING:
    from ..params.parameters import AnyParameter
    from .base import Trainer


def _moment(trainer: Trainer, parameter: AnyParameter, k: int) -> NDArray[Any]:
    """Moment k of a parameter, flat in storage order, without a copy."""
    return view(lib.dn_trainer_moment(trainer._c, parameter._c, k), lib.dn_param_size(parameter._c))


def state_of(trainer: Trainer) -> dict[str, NDArray[Any]]:
    """See Trainer.state()."""
    schedule = trainer._schedule and trainer._schedule()
    state: dict[str, NDArray[Any]] = {
        "trainer": np.frombuffer(type(trainer).__name__.encode(), np.uint8),
        "updates": np.array(trainer.updates, np.int64),
        "learning_rate": np.array(trainer.learning_rate, np.float64),
        **{name: np.array(value, np.float64) for name, value in trainer._own_state().items()},
        **{f"schedule:{name}": np.array(value, np.float64) for name, value in (schedule.state_dict() if schedule else {}).items()},
    }
    for name, parameter in trainer.collection.named_parameters().items():
        if lib.dn_trainer_has_moments(trainer._c, parameter._c):
            for k, moment in enumerate(trainer._moments):
                state[f"{moment}:{name}"] = parameter._shaped(_moment(trainer, parameter, k).copy())
    return state


def load_into(trainer: Trainer, state: Mapping[str, NDArray[Any]]) -> None:
    """See Trainer.load_state()."""
    kind = bytes(np.asarray(state["trainer"], np.uint8)).decode(errors="replace") if "trainer" in state else "nothing known"
    if kind != type(trainer).__name__:
        raise ValueError(f"load_state: the state must be of a {type(trainer).__name__}; got one of {kind}.")
    named = trainer.collection.named_parameters()
    own = {name: float(state[name]) for name in trainer._own_state() if name in state}
    scheduled = {name.removeprefix("schedule:"): float(array) for name, array in state.items() if name.startswith("schedule:")}
    moments = {name: array for name, array in state.items() if ":" in name and not name.startswith("schedule:")}
    for counted in ("updates", "learning_rate"):
        if counted not in state or np.size(state[counted]) != 1:
            raise ValueError(f"load_state: the state must have one number {counted!r}; got {state.get(counted)!r}.")
    for key, array in moments.items():
        moment, _, name = key.partition(":")
        if moment not in trainer._moments or name not in named:
            raise ValueError(f"load_state: {key!r} must name a moment ({', '.join(trainer._moments)}) and a parameter of the collection.")
        if np.shape(array) != named[name].shape():
            raise ValueError(f"load_state: {key!r} must have the shape {named[name].shape()} of its parameter; got {np.shape(array)}.")
    partial = [k for k in moments for m in trainer._moments if f"{m}:{k.partition(':')[2]}" not in moments]
    if partial:
        raise ValueError(f"load_state: a parameter must have all moments ({', '.join(trainer._moments)}); got only {partial[0]!r}.")
    schedule = trainer._schedule and trainer._schedule()
    if schedule and scheduled:
        schedule.load_state_dict(scheduled)
    lib.dn_trainer_restart(trainer._c)
    for key, array in moments.items():
        moment, _, name = key.partition(":")
        memory = _moment(trainer, named[name], trainer._moments.index(moment))
        named[name]._shaped(memory)[...] = array
    lib.dn_trainer_set_updates(trainer._c, int(state["updates"]))
    trainer.learning_rate = float(state["learning_rate"])
    trainer._load_own_state(own)


def settings_of(trainer: Trainer) -> dict[str, float]:
    """What the program may have set since the trainer was made, and the count of skipped steps."""
    return {
        "clip_threshold": trainer.get_clip_threshold(),
        "clip_value": trainer.get_clip_value(),
        "sparse_updates": bool(trainer._settings.sparse),
        "accumulation": trainer.accumulation,
        "skip_nonfinite": trainer.skip_nonfinite,
        "skipped": trainer.skipped,
        "weight_decay": trainer.collection.get_weight_decay(),
    }


def set_settings(trainer: Trainer, settings: Mapping[str, float]) -> None:
    """Sets them as they were."""
    trainer.set_clip_threshold(settings["clip_threshold"])
    trainer.set_clip_value(settings["clip_value"])
    trainer.set_sparse_updates(bool(settings["sparse_updates"]))
    trainer.set_accumulation(int(settings["accumulation"]))
    trainer.skip_nonfinite = bool(settings["skip_nonfinite"])
    trainer._skipped = int(settings["skipped"])
    trainer.collection.set_weight_decay(settings["weight_decay"])
