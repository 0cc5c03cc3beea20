"""The parts of a Checkpointer: its arguments, checked, and the states of added objects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._integers import integer
from ..._manner import no_collection, warn
from ...io.checksummed import tree_of
from ...params.collection import ParameterCollection, members_of
from ...params.stored import check_stored, load_stored, stored
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ..data.sampling import Shard
from ..local_sgd import LocalSGD
from ..processes.environment import hash_indicator
from ..trainer import DistributedTrainer


@dataclass(frozen=True)
class StatesOfRanks:
    """The states that all ranks of another number had of an object, for this rank."""

    states: list[Any]
    rank: int


_UNITS = {"s": 1, "min": 60, "h": 3600}


def checked(model: Any, trainer: Any, sampler: Any) -> Trainer:
    """Checks the arguments of Checkpointer. Returns the inner trainer.

    Raises:
        TypeError: one of the three is of another kind.
        ValueError: the model lacks parameters.
    """
    inner = getattr(trainer, "inner", trainer)
    if not isinstance(model, ParameterCollection):
        raise TypeError(
            f"Checkpointer: model must be a ParameterCollection; {no_collection(model)}"
        )
    if not isinstance(inner, Trainer):
        raise TypeError(
            "Checkpointer: trainer must be a trainer such as AdamTrainer(m); got"
            f" {type(trainer).__name__}."
        )
    if sampler is not None and not isinstance(sampler, Shard):
        raise TypeError(
            "Checkpointer: sampler must be what parallel.shard() gave; got"
            f" {type(sampler).__name__}."
        )
    members = set(members_of(model))
    for p in Hooks(inner).members():
        if p not in members:
            raise ValueError(
                "Checkpointer: model must have all parameters that are trained; got one without"
                f" {p.readable_name()}."
            )
    return inner


def period(every: int | str | None) -> tuple[int, float, bool]:
    """(updates, seconds, whether at the end of each epoch); 0: not so.

    Raises:
        TypeError: it is of another kind.
        ValueError: it makes no sense.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(s|min|h)", every) if isinstance(every, str) else None
    words = (
        'Checkpointer: every must be a number of updates, a time such as "30s", "10min", "2h", or'
        f' "epoch"; got {every!r:.60}.'
    )
    updates = 0
    if every is not None and not isinstance(every, str):
        try:
            updates = integer(every)
        except TypeError:
            raise TypeError(words) from None
        if isinstance(every, bool):
            raise TypeError(f"{words} For each update: every=1.")
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if every is not None and every != "epoch" and not (updates > 0 or 0 < seconds < math.inf):
        raise ValueError(words)
    return updates, seconds, every == "epoch"


def take(name: Any, obj: Any) -> None:
    """Checks that an object can be saved under this name, and prepares it.

    Raises:
        TypeError: it cannot be.
    """
    if not isinstance(name, str):
        raise TypeError(f"Checkpointer.add: a name must be a text; got {name!r:.60}.")
    if isinstance(obj, type):
        raise TypeError(
            f"Checkpointer.add: takes objects; got the class {obj.__qualname__}. Give it the object"
            " that the program uses."
        )
    stateful = all(callable(getattr(obj, method, None)) for method in ("state", "load_state"))
    if not stateful and not isinstance(obj, np.random.Generator | ParameterCollection):
        raise TypeError(
            "Checkpointer.add: takes objects with state() and load_state(), collections and"
            f" NumPy's generators; got {type(obj).__name__}."
        )
    if isinstance(obj, Shard):
        obj.mark_data()


def objects_of(
    added: Mapping[str, tuple[Any, bool]],
    tree: Mapping[str, Any],
    rank: int,
    ranks: int,
) -> tuple[dict[str, Any], list[str]]:
    """The states of added objects for this rank, and the names that are expected.

    Args:
        added: each object, and whether ranks have states of their own of it. With another number of
            ranks such an object stays as it is, unless it has load_states().
        tree: the checkpoint.
        rank: this rank.
        ranks: how many there are.
    """
    if len(tree["ranks"]) == ranks:
        own = dict(tree_of(tree["ranks"][rank].data)["objects"])
        return {**tree["objects"], **own}, sorted(added)
    every = [tree_of(part.data)["objects"] for part in tree["ranks"]]
    goes_on = {name for name, (obj, own) in added.items() if own and hasattr(obj, "load_states")}
    moved = {
        name: StatesOfRanks([copied(states[name]) for states in every], rank)
        for name in goes_on & every[0].keys()
    }
    expected = goes_on | {name for name, (_, own) in added.items() if not own}
    return {**tree["objects"], **moved}, sorted(expected)


def waits(obj: Any) -> bool:
    """Whether the object is a trainer whose gradients or parameters wait for other ranks."""
    if isinstance(obj, LocalSGD):
        return obj.position > 0
    if isinstance(obj, DistributedTrainer):
        return obj.sync.waits()
    return isinstance(obj, Trainer) and Hooks(obj).waits()


def made(objects: Iterable[Any]) -> list[str]:
    """The constants of those objects that are trainers or wrap one."""
    trainers = (getattr(obj, "inner", obj) for obj in objects)
    return [Hooks(trainer).made for trainer in trainers if isinstance(trainer, Trainer)]


def check_made(there: Iterable[str] | None, objects: Iterable[Any]) -> None:
    """Makes sure that trainers have the constants that the resumed run had. None: unknown, from an
    older version. A trainer of another class refuses the state itself.

    Raises:
        ValueError: they differ.
    """
    for then, now in zip(there or (), made(objects), strict=False):
        if then != now and then.split()[0] == now.split()[0]:
            raise ValueError(
                f"trainer and schedule must be made as at the first start, {then}; got {now}."
                " Change them after resume()."
            )


def state_of(obj: Any) -> Any:
    """The state of an added object, as it is saved."""
    if isinstance(obj, ParameterCollection):
        return stored(obj)
    return obj.bit_generator.state if isinstance(obj, np.random.Generator) else obj.state()


def copied(tree: Any) -> Any:
    """The tree with copies of its arrays."""
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [copied(value) for value in tree]
    return tree.copy() if isinstance(tree, np.ndarray) else tree


def load_state_of(obj: Any, state: Any, what: str) -> None:
    """Restores an added object from what state_of() returned.

    Raises:
        ValueError: it is of another one.
    """
    if isinstance(obj, ParameterCollection):
        check_stored(obj, state, what)
        load_stored(obj, state)
    elif isinstance(obj, np.random.Generator):
        obj.bit_generator.state = state
    elif isinstance(state, StatesOfRanks):
        obj.load_states(state.states, state.rank)
    else:
        obj.load_state(state)


def warn_of_hashes(there: Any, what: str, rank: int) -> None:
    """Rank 0 warns if sets of strings had another order there in the resumed run."""
    if there != hash_indicator() and rank == 0:
        warn(
            f"{what}: Python hashed strings differently in the run that is resumed, so that a set"
            " of strings had another order there. Start both by `dist-dynet run` or with"
            " PYTHONHASHSEED=0, or make numbers of words from sorted sets."
        )
