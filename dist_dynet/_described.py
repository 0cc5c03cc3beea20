"""repr() of the objects that users make: the name of the class, and the arguments of its
constructor as far as the object still has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MOST_ITEMS = 4
MOST_CHARACTERS = 60
"""How many items of a list, and how many characters of anything else, are shown."""
_HIDDEN = {
    *("self", "model", "m", "pc", "precision", "dic", "cluster_file", "builder_layers"),
    *("trainer", "alpha", "no_decay", "data", "sampler", "comm", "of"),
}
_MISSING = object()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, np.ndarray):
        return f"array {value.shape}"
    if isinstance(value, list | tuple):
        items = [_shown(v) for v in value[:MOST_ITEMS]]
        more = [f"... {len(value)} in all"] if len(value) > MOST_ITEMS else []
        return f"[{', '.join([*items, *more])}]"
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def described(thing: Any, aliases: Mapping[str, str]) -> str:
    """Such as Linear(input_dim=2, output_dim=3, bias=True). aliases: the attribute in which an
    argument is stored, where its name differs."""
    try:
        arguments = list(inspect.signature(type(thing).__init__).parameters)
    except ValueError:  # of a class in C
        arguments = []
    settings, constants = {}, iter(getattr(thing, "_constants", ()))  # of a trainer
    for name in [a for a in arguments if a not in _HIDDEN]:
        for attribute in (aliases.get(name, name), f"_{name}"):
            value = getattr(thing, attribute, _MISSING)
            if value is not _MISSING and not inspect.ismethod(value):
                settings[name] = value
                break
        else:
            settings[name] = next(constants, None)
    shown = ", ".join(f"{name}={_shown(v)}" for name, v in settings.items() if v is not None)
    return f"{type(thing).__name__}({shown})"


def describe(
    cls: Any,
    more: Callable[[Any], str] = lambda thing: "",
    aliases: Mapping[str, str] | None = None,
    arguments: bool = True,
) -> None:
    """Gives a class its repr(): its name, its settings if `arguments` are to be shown, and what
    more(object) says."""

    def shown(self: Any) -> str:
        """The class and its settings."""
        try:
            name = type(self).__name__
            return (described(self, aliases or {}) if arguments else name) + more(self)
        except Exception:  # a half-constructed object must not break an error message
            return f"{type(self).__name__}(...)"

    shown.__name__ = shown.__qualname__ = "__repr__"
    cls.__repr__ = shown


# ---- what follows the settings ---------------------------------------------------------


def counted(n: int, what: str) -> str:
    """Such as "1 node", "12,000 nodes"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def of_owner(owner: Any) -> str:
    """The number of parameters' elements, dropout rates other than 0, and whether it is in
    evaluation."""
    names = [n for n in ("dropout_x", "dropout_h", "dropout_rate") if getattr(owner, n, 0)]
    rates = [f"{n.removesuffix('_rate')}={getattr(owner, n):g}" for n in names]
    m = owner.param_collection()
    size = counted(m.parameter_count(), "number")
    return ": " + ", ".join([size, *rates, *([] if m._trains() else ["in evaluation"])])


def of_collection(m: Any) -> str:
    """Its name and sizes."""
    parameters, tables = m._parameters, m._lookups
    parts = [counted(len(parameters), "parameter"), counted(len(tables), "table")]
    of = [*parts[: 1 + bool(tables)], counted(m.parameter_count(), "number")]
    return f" {m.name()}: {', '.join(of)}{'' if m._trains() else ', in evaluation'}"


def of_trainer(trainer: Any) -> str:
    """Its clipping and its number of updates."""
    clip = trainer.get_clip_threshold()
    limit = f"clip threshold {clip:g}" if clip else "no clipping"
    return f": {limit}, {counted(trainer.updates, 'update')}"


def of_shard(shard: Any) -> str:
    """The settings that its order depends on, without unused ones, and its number of steps."""
    settings = {**shard._settings._asdict(), "epoch": shard.epoch}
    shown = [f"{k}={v}" for k, v in settings.items() if v or k not in ("micro_batches", "bucket")]
    return f"({', '.join(shown)}): {counted(len(shard), 'step')}"


def of_schedule(schedule: Any) -> str:
    """Its rate and its number of steps."""
    return f": rate {schedule.rate():g} after {counted(schedule.steps_done, 'step')}"
