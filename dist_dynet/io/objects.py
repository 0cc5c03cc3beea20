"""Saving builders and parameters in one go: what is needed to make them again, beside their numbers.

`basename.data` holds the numbers in the text format, object after object; `basename.meta` one pickle per object: ("Parameters", name),
("LookupParameters", name), or (class, spec, name of its collection). Reading follows that order, so that objects whose parameters have the
same names do not get in each other's way. Pickles are read by a loader that knows builders and plain data and refuses the rest. That keeps
mistakes and strays out; it does not protect against a file made to do harm, since it imports the modules that the file names.
"""

from __future__ import annotations

import inspect
import io
import itertools
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, cast

import numpy as np

from ..params.collection import ParameterCollection
from ..params.parameters import AnyParameter, LookupParameters, Parameters
from . import text
from .files import FileName, atomic_writes, unreadable

_PACKAGE = __name__.partition(".")[0]
_KINDS: dict[str, type[AnyParameter]] = {"Parameters": Parameters, "LookupParameters": LookupParameters}
_PROTOCOL = 4
"""Of pickle; what DyNet writes."""

# ---- names in pickles ----------------------------------------------------------------------------------------------------------------

_DYNET_MODULES = ("dynet", "_dynet", "_gdynet", _PACKAGE)
_PLAIN_DATA = {"builtins": ("bytearray", "complex", "frozenset", "range", "set", "slice"), "collections": ("OrderedDict",)}
_NUMPY: dict[str, Any] = {
    "dtype": np.dtype,
    "ndarray": np.ndarray,
    "scalar": np.float64(0).__reduce__()[0],  # where they are at home has changed over the versions of NumPy
    "_reconstruct": np.empty(0).__reduce__()[0],
}


class _Unpickler(pickle.Unpickler):
    """Finds classes that have from_spec, operations of this package by DyNet's names, and plain data."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _PLAIN_DATA.get(module, ()):
            return super().find_class(module, name)
        if module.partition(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        of_dynet = module.partition(".")[0] in _DYNET_MODULES
        try:
            found = getattr(import_module(_PACKAGE), name, None) if of_dynet else None
            if found is None:
                found = super().find_class(_PACKAGE if module in _DYNET_MODULES else module, name)
        except (ImportError, AttributeError) as error:
            raise pickle.UnpicklingError(f"{module}.{name} is named, which this program does not have ({error}). Define it first") from error
        is_builder = inspect.isclass(found) and callable(getattr(found, "from_spec", None))
        is_operation = of_dynet and inspect.isfunction(found) and found.__module__.startswith(f"{_PACKAGE}.ops")
        if not (is_builder or is_operation):
            raise pickle.UnpicklingError(
                f"{module}.{name} is named, which is neither a class with from_spec nor an operation of {_PACKAGE} nor plain data"
            )
        return found


class _Pickler(pickle._Pickler):
    """Writes this package's builders and operations under DyNet's names, so that the real DyNet reads them, too.

    Only the pickler in Python lets a subclass say how a class is named.
    """

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """A class or function: by module and name."""
        this, base = cast(Any, self), cast(Any, super())  # the stubs of pickle leave out what subclasses use
        public = getattr(obj, "__qualname__", "")
        if getattr(import_module(_PACKAGE), public, None) is not obj:
            base.save_global(obj, name)
            return
        this.save("_dynet")
        this.save(public)
        this.write(pickle.STACK_GLOBAL)
        this.memoize(obj)

    dispatch: ClassVar[dict[type, Callable[..., None]]] = {**pickle._Pickler.dispatch, FunctionType: save_global}


def _dumped(record: tuple[Any, ...]) -> bytes:
    """A pickle of the record that can be read back."""
    stream = io.BytesIO()
    try:
        _Pickler(stream, _PROTOCOL).dump(record)
        dumped = stream.getvalue()
        _Unpickler(io.BytesIO(dumped)).load()
    except (pickle.PickleError, AttributeError, TypeError) as error:
        raise TypeError(
            f"save: the spec of {record[0].__qualname__} must be of numbers, strings, containers, NumPy arrays, classes with from_spec and "
            f"operations of {_PACKAGE}; got {record[1]!r}: {error}. Put names in place of other things."
        ) from error
    return dumped


def _records(path: Path) -> list[tuple[Any, ...]]:
    """What a .meta file holds."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    stream = io.BytesIO(content)
    records: list[tuple[Any, ...]] = []
    while stream.tell() < len(content):
        offset = stream.tell()
        try:
            record = _Unpickler(stream).load()
        except Exception as error:
            raise RuntimeError(f"load: all of '{path}' must be readable; got, in object {len(records)} at byte {offset}: {error}.") from error
        if not _is_record(record):
            raise RuntimeError(f"load: '{path}' must describe objects; got {record!r} as object {len(records)} at byte {offset}.")
        records.append(record)
    return records


def _is_record(record: Any) -> bool:
    if not (isinstance(record, tuple) and len(record) in (2, 3) and isinstance(record[-1], str)):
        return False
    return isinstance(record[0], str) and record[0] in _KINDS if len(record) == 2 else inspect.isclass(record[0])


# ---- saving --------------------------------------------------------------------------------------------------------------------------


def _path(basename: FileName, suffix: str) -> Path:
    return Path(f"{os.fspath(basename)}{suffix}")


def _stored_class(cls: Any) -> Any:
    """The class whose from_spec() fits: a builder's subclass with an __init__ of its own, but no from_spec, is stored as that builder."""
    own = list(itertools.takewhile(lambda c: c.__module__.partition(".")[0] != _PACKAGE, inspect.getmro(cls)))
    if any("from_spec" in vars(c) for c in own) or not any("__init__" in vars(c) for c in own):
        return cls
    return inspect.getmro(cls)[len(own)]


def _described(thing: Any) -> tuple[bytes, list[tuple[str, AnyParameter]]]:
    """The pickle of an object, and its parameters by name."""
    for kind, cls in _KINDS.items():
        if isinstance(thing, cls):
            return pickle.dumps((kind, thing.name()), _PROTOCOL), [(thing.name(), thing)]
    missing = [name for name in ("spec", "param_collection") if not hasattr(thing, name)]
    if not hasattr(type(thing), "from_spec"):
        missing.append("from_spec")
    if missing:
        hint = " Save a collection by its own save()." if isinstance(thing, ParameterCollection) else " Give the class what it lacks."
        raise AttributeError(
            f"save: objects must be parameters, or have spec, from_spec(spec, model) and param_collection(); "
            f"got {type(thing).__name__}, which has no {' and no '.join(missing)}.{hint}"
        )
    collection = thing.param_collection()
    return _dumped((_stored_class(type(thing)), thing.spec, collection.name())), text.collection_entries(collection)


def save(basename: FileName, objects: Iterable[Any]) -> None:
    """Writes builders and parameters to `basename.data` and `basename.meta`, as DyNet does.

    Both files are written under temporary names, then renamed: a failed save leaves the old ones whole.

    Args:
        basename: the path of the files without .data and .meta.
        objects: Parameters, LookupParameters, or objects of classes with `spec`, `from_spec(spec, model)` and `param_collection()`.

    Raises:
        AttributeError: an object is none of these.
        TypeError: a spec cannot be stored.
        RuntimeError: the files cannot be written.

    >>> import tempfile
    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm, W = dy.VanillaLSTMBuilder(1, 2, 4, m), m.add_parameters((3, 4), name="W")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dy.save(f"{folder}/tagger", [lstm, W])
    ...     lstm2, W2 = dy.load(f"{folder}/tagger", dy.ParameterCollection())
    >>> lstm2.spec == lstm.spec, W2.name(), bool((W2.as_array() == W.as_array()).all())
    (True, '/W', True)
    """
    if not isinstance(objects, Iterable) or isinstance(objects, Parameters | LookupParameters | str | bytes):
        raise TypeError(f"save: objects must be a list of parameters and builders; got {type(objects).__name__}. Write save(name, [x]).")
    described = [_described(thing) for thing in objects]
    with atomic_writes([_path(basename, ".data"), _path(basename, ".meta")]) as (data, meta):
        for record, entries in described:
            meta.write(record)
            for key, parameter in entries:
                text.write_entry(data, key, parameter)


# ---- loading -------------------------------------------------------------------------------------------------------------------------


def load(basename: FileName, params: ParameterCollection) -> list[Any]:
    """Makes again, in the collection `params`, what save() has written to `basename.data` and `basename.meta`, in the same order.

    Files of DyNet can be read, too. A class of the program's own must be defined, in the module of then, before it can be loaded.

    Raises:
        RuntimeError: the files are missing or damaged, or do not fit the classes; nothing is added to `params` then.

    >>> import tempfile
    >>> import dist_dynet as dy
    >>> E = dy.ParameterCollection().add_lookup_parameters((3, 2), init=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dy.save(f"{folder}/model", [E])
    ...     (E2,) = dy.load(f"{folder}/model", dy.ParameterCollection())
    >>> E2.row_as_array(2).tolist()
    [0.5, 0.5]
    """
    with params._all_or_nothing():
        return list(load_generator(basename, params))


def load_generator(basename: FileName, params: ParameterCollection) -> Iterator[Any]:
    """As load(), but makes each object when it is asked for.

    Raises:
        RuntimeError: as load(); objects made before stay.

    >>> import tempfile
    >>> import dist_dynet as dy
    >>> b = dy.ParameterCollection().add_parameters(2, name="b")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dy.save(f"{folder}/model", [b])
    ...     [p.name() for p in dy.load_generator(f"{folder}/model", dy.ParameterCollection())]
    ['/b']
    """
    records = _records(_path(basename, ".meta"))
    with text.ModelFile(_path(basename, ".data")) as file:
        entries, at = list(file.entries()), 0
        for record in records:
            with params._all_or_nothing():
                if len(record) == 2:
                    thing, at = _load_parameter(params, file, entries, at, *record)
                else:
                    thing, at = _load_builder(params, file, entries, at, *record)
            yield thing


def _load_parameter(
    params: ParameterCollection, file: text.ModelFile, entries: list[text.Entry], at: int, kind: str, name: str
) -> tuple[AnyParameter, int]:
    entry = text.find(file, _KINDS[kind], name, entries[at:] + entries[:at])
    return text.new_parameter(params, file, entry), entry.number + 1


def _load_builder(
    params: ParameterCollection, file: text.ModelFile, entries: list[text.Entry], at: int, cls: Any, spec: Any, name: str
) -> tuple[Any, int]:
    builder = cls.from_spec(spec, params)
    collection = builder.param_collection()
    room = {"Parameter": len(collection.parameters_list()), "LookupParameter": len(collection.lookup_parameters_list())}
    chosen: list[text.Entry] = []
    for entry in entries[at:] + entries[:at]:
        if not any(room.values()):
            break
        if entry.name.startswith(name) and room[entry.tag]:
            room[entry.tag] -= 1
            chosen.append(entry)
    text.fill(file, text.pair(collection, file, chosen))
    return builder, chosen[-1].number + 1 if chosen else at
