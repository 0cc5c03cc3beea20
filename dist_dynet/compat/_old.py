"""What DyNet 1.x and 2.0 had and 2.1 no longer has: attached to this package's classes when a
program imports dynet. Each warns once.

Files written by 1.x (Boost archives) cannot be read; load() here reads what save() wrote.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from .. import ops, settings, trainers
from .._manner import manner
from ..expression import Expression
from ..params import LookupParameters, ParameterCollection, Parameters
from ..settings import say
from . import _saveable
from ._free_names import FREE_NAMES, FreeName

_TRAINER_ARGUMENTS = {
    "e0": "learning_rate",
    "e0_min": "learning_rate_min",
    "e0_max": "learning_rate_max",
}


def _old(name: str, instead: str) -> None:
    say(f"old {name}", f"{name} is of an old DyNet and still works. Today: {instead}.")


# ---- functions -------------------------------------------------------------------------


def cwise_multiply(x: Expression, y: Expression) -> Expression:
    """As cmult()."""
    _old("cwise_multiply", "cmult(x, y)")
    return ops.cmult(x, y)


def sum_cols(x: Expression) -> Expression:
    """The sum of the columns of a matrix."""
    _old("sum_cols", "sum_dim(x, [1])")
    return ops.sum_dim(x, [1])


def sum_rows(x: Expression) -> Expression:
    """The sum of the rows of a matrix, as a row."""
    _old("sum_rows", "sum_dim(x, [0])")
    return ops.transpose(ops.sum_dim(x, [0]))


def average_cols(x: Expression) -> Expression:
    """The mean of the columns of a matrix."""
    _old("average_cols", "mean_dim(x, [1], False)")
    return ops.mean_dim(x, [1], False)


def conv1d_narrow(x: Expression, f: Expression) -> Expression:
    """Each row of x (r, n) filtered by the same row of f (r, w): (r, n - w + 1)."""
    _old("conv1d_narrow", "filter1d_narrow(x, f) or conv2d(x, f, stride)")
    (_, n), (_, w) = x.dim()[0], f.dim()[0]
    return ops.esum(
        [ops.cmult(ops.pick_range(x, k, k + n - w + 1, 1), ops.pick(f, k, 1)) for k in range(w)]
    )


def conv1d_wide(x: Expression, f: Expression) -> Expression:
    """The same with x padded by w - 1 columns of zeros on either side: (r, n + w - 1)."""
    (r, _), (_, w) = x.dim()[0], f.dim()[0]
    margin = [ops.zeros((r, w - 1))] if w > 1 else []
    return conv1d_narrow(ops.concatenate_cols([*margin, x, *margin]), f)


def concat_to_batch(xs: Sequence[Expression]) -> Expression:
    """As concatenate_to_batch()."""
    _old("concat_to_batch", "concatenate_to_batch(xs)")
    return ops.concatenate_to_batch(xs)


def matInput(d1: int, d2: int) -> Expression:  # noqa: N802 - DyNet's name
    """A matrix of zeros, whose set() takes a flat column-major list."""
    _old("matInput", "inputTensor(array, reusable_expr=True)")
    return ops.inputTensorTranspose([0.0] * (d1 * d2), (d1, d2))


def inputMatrix(v: Sequence[float], d: Sequence[int]) -> Expression:  # noqa: N802
    """A matrix from a flat column-major list."""
    _old("inputMatrix", "inputTensor(array), or inputTensorTranspose(v, d)")
    return ops.inputTensorTranspose(v, d)


def parameter(*args: Any, update: bool = True) -> Any:
    """Does nothing, as in DyNet 2.1. With update=False, as in 2.0: without gradient."""
    return settings.parameter(*args) if update else settings.const_parameter(*args)


FUNCTIONS: tuple[Callable[..., Any], ...] = (
    cwise_multiply,
    sum_cols,
    sum_rows,
    average_cols,
    conv1d_narrow,
    conv1d_wide,
    concat_to_batch,
    matInput,
    inputMatrix,
    parameter,
)
CLASSES: tuple[type, ...] = (_saveable.Saveable,)

# ---- methods ---------------------------------------------------------------------------


def _load_array(self: Parameters | LookupParameters, arr: Any) -> None:
    """Sets the values."""
    _old("load_array", "set_value(arr), init_from_array(arr)")
    if isinstance(self, LookupParameters):
        self.init_from_array(arr)
    else:
        self.set_value(arr)


def _save(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def save(self: ParameterCollection, fname: Any, name: Any = "", append: bool = False) -> None:
        if not isinstance(name, list | tuple):
            original(self, fname, name or "", append)
            return
        _old("ParameterCollection.save with a list", "dy.save(basename, objects)")
        _saveable.save(fname, name)

    return save


def _load(self: ParameterCollection, fname: Any) -> Any:
    """Reads the result of save(): the list of its objects, made anew in this collection; all values
    if there was no list."""
    if Path(f"{fname}.meta").exists() and not Path(fname).exists():
        _old("ParameterCollection.load", "dy.load(basename, collection)")
        return _saveable.load(fname, self)
    _old("ParameterCollection.load", "populate(fname)")
    self.populate(fname)
    return None


def _from_file(cls: type[ParameterCollection], fname: Any) -> tuple[ParameterCollection, Any]:
    """A new collection, and what load() makes in it."""
    _old(
        "ParameterCollection.from_file",
        "collection = dy.ParameterCollection(); dy.load(basename, collection)",
    )
    collection: Any = cls()
    return collection, collection.load(fname)


def _save_all(self: ParameterCollection, fname: Any) -> None:
    """All values."""
    _old("ParameterCollection.save_all", "save(fname)")
    self.save(fname)


def _load_all(self: ParameterCollection, fname: Any) -> None:
    """Reads what save_all() wrote."""
    _old("ParameterCollection.load_all", "populate(fname)")
    self.populate(fname)


def _pl(self: ParameterCollection) -> int:
    """The number of parameters, lookup tables not counted."""
    _old("ParameterCollection.pl", "len(m.parameters_list())")
    return len(self.parameters_list())


_epoch_decays: WeakKeyDictionary[Any, dict[str, float]] = WeakKeyDictionary()
"""Of trainers that were made with edecay."""


def _update_epoch(self: Any, r: float = 1.0) -> None:
    """Does nothing, as in DyNet 2.1. After `edecay` the learning rate decreases as in 1.x: rate /
    (1 + edecay epochs)."""
    decay = _epoch_decays.get(self)
    if decay is None:
        say(
            "update_epoch",
            "update_epoch(...) is deprecated and does nothing. Set trainer.learning_rate.",
        )
        return
    decay["epochs"] += r
    self.learning_rate = decay["rate"] / (1 + decay["edecay"] * decay["epochs"])


def _update(original: Callable[[Any], Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def update(self: Any, s: float = 1.0) -> Any:
        if s != 1.0:
            _old("trainer.update(s)", "a loss that is multiplied by s")
            for p in self._members():
                p.scale_gradient(s)
        return original(self)

    return update


def _with_old_arguments(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, *arguments: Any, **named: Any) -> None:
        for old in _TRAINER_ARGUMENTS.keys() & named.keys():
            _old(f"the trainers' argument {old}", _TRAINER_ARGUMENTS[old])
            named[_TRAINER_ARGUMENTS[old]] = named.pop(old)
        edecay = named.pop("edecay", None)
        original(self, *arguments, **named)
        if edecay is not None:
            _old("the trainers' argument edecay", "set trainer.learning_rate after each epoch")
            _epoch_decays[self] = {"edecay": edecay, "rate": self.learning_rate, "epochs": 0.0}

    return init


_ABSENT = object()
_before: list[tuple[type, str, Any]] = []
"""What the classes had under the names of attached methods, in order of attachment."""


def _put(cls: type, name: str, value: Any) -> None:
    _before.append((cls, name, vars(cls).get(name, _ABSENT)))
    setattr(cls, name, value)


def attach_methods() -> None:
    """Attaches the methods to the classes, once."""
    if _before:
        return
    manner.dynet = True
    collection: Any = ParameterCollection
    _put(collection, "save", _save(collection.save))
    _put(collection, "load", _load)
    _put(collection, "from_file", classmethod(_from_file))
    _put(collection, "save_all", _save_all)
    _put(collection, "load_all", _load_all)
    _put(collection, "pl", _pl)
    parameters: Sequence[type] = (Parameters, LookupParameters)
    for cls in parameters:
        _put(cls, "load_array", _load_array)
    for owner, name, of in FREE_NAMES:
        _put(owner, name, FreeName(name, of))
    base: Any = trainers.Trainer
    _put(base, "update", _update(base.update))
    _put(base, "update_epoch", _update_epoch)
    for name in trainers.__all__:
        trainer: Any = getattr(trainers, name)
        if (
            isinstance(trainer, type)
            and issubclass(trainer, base)
            and "__init__" in trainer.__dict__
            and trainer is not base
        ):
            _put(trainer, "__init__", _with_old_arguments(vars(trainer)["__init__"]))


def detach_methods() -> None:
    """Reverts attach_methods()."""
    manner.dynet = False
    while _before:
        cls, name, value = _before.pop()
        if value is _ABSENT:
            delattr(cls, name)
        else:
            setattr(cls, name, value)


__all__ = ["CLASSES", "FUNCTIONS", "attach_methods", "detach_methods"]
