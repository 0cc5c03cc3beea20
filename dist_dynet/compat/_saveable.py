"""Objects as DyNet 2.0 saved them: `class Tagger(dy.Saveable)`, model.save(fname, [tagger, W]),
model.load(fname).

A Saveable names its components (parameters, builders, other Saveables); its other attributes are
pickled. Components go to `fname.data` and `fname.meta` (dy.save), the rest to `fname.pyk`: a plain
pickle, as in DyNet 2.0, so only files that you trust should be read.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from .._file_names import FileName
from ..io import load as load_objects
from ..io import save as save_objects
from ..io.files import atomic_write
from ..io.pickles import read_trusted
from ..params import ParameterCollection


class Saveable:
    """A class whose objects ParameterCollection.save() takes: it names their components."""

    def get_components(self) -> Sequence[Any]:
        """Parameters, lookup parameters, builders and other Saveables."""
        raise NotImplementedError(
            f"{type(self).__name__}.get_components: a Saveable returns the list of its components."
            " Define it."
        )

    def restore_components(self, components: Sequence[Any]) -> None:
        """Takes the list of get_components(), read back."""
        raise NotImplementedError(
            f"{type(self).__name__}.restore_components: a Saveable takes the list of its"
            " components. Define it."
        )


def _path(fname: FileName) -> Path:
    return Path(f"{os.fspath(fname)}.pyk")


def _holds_components(value: Any, components: Sequence[Any]) -> bool:
    """Whether restore_components() will restore this attribute."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return any(_holds_components(v, components) for v in value)
    return isinstance(value, Saveable) or any(value is c for c in components)


def _described(thing: Any, flat: list[Any]) -> Any:
    """(class, attributes, names of collections, descriptions of components) of a Saveable. None for
    an object that dy.save() stores, which is added to `flat`."""
    if not isinstance(thing, Saveable):
        flat.append(thing)
        return None
    components = list(thing.get_components())
    state = {
        name: value
        for name, value in vars(thing).items()
        if not _holds_components(value, components)
    }
    collections = [name for name, value in state.items() if isinstance(value, ParameterCollection)]
    for name in collections:  # the object gets the one that it is read into
        del state[name]
    return type(thing), state, collections, [_described(c, flat) for c in components]


def _made(description: Any, flat: Iterator[Any], collection: ParameterCollection) -> Any:
    if description is None:
        return next(flat)
    cls, state, collections, components = description
    thing = cls.__new__(cls)
    vars(thing).update(state, **dict.fromkeys(collections, collection))
    thing.restore_components([_made(c, flat, collection) for c in components])
    return thing


def save(fname: FileName, objects: Sequence[Any]) -> None:
    """Writes objects, which may include Saveables."""
    flat: list[Any] = []
    descriptions = [_described(thing, flat) for thing in objects]
    try:
        pickled = pickle.dumps(descriptions)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise TypeError(
            f"save: what a Saveable holds beside its components must be picklable; got {error}."
            " Name it in get_components(), or make it anew."
        ) from error
    save_objects(fname, flat)
    with atomic_write(_path(fname)) as file:
        file.write(pickled)


def load(fname: FileName, collection: ParameterCollection) -> list[Any]:
    """Reads objects written by save() here, or by dy.save(), into a collection."""
    if not _path(fname).exists():
        return load_objects(fname, collection)
    descriptions = read_trusted(BytesIO(_path(fname).read_bytes()))
    flat = iter(load_objects(fname, collection))
    return [_made(description, flat, collection) for description in descriptions]
