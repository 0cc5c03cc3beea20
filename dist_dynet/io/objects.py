"""Saving builders and parameters together: their numbers, and what is needed to make the objects
again.

`basename.data` holds the numbers in the text format, object after object. `basename.meta` holds one
pickle per object: ("Parameters", name), ("LookupParameters", name), or (class, spec, name of its
collection). Reading follows that order, so objects whose parameters have the same names do not
conflict. Anything that pickle can store may be in a spec that is saved; what is made of a spec that
is read is decided by the lists of `pickles`.
"""

from __future__ import annotations

import inspect
import io
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, cast

from .._file_names import FileName, file_path
from .._integers import is_one
from ..expression import Expression
from ..params.collection import ParameterCollection
from ..params.parameters import AnyParameter, LookupParameters, Parameters
from ..params.root import unchanged
from ..params.undo import all_or_nothing
from ..settings import say
from . import pickles, text
from ._classes import is_builder
from ._protocols import ParameterLike
from .files import atomic_writes, unreadable

_PACKAGE = __name__.partition(".")[0]
_KINDS: dict[str, type[AnyParameter]] = {
    "Parameters": Parameters,
    "LookupParameters": LookupParameters,
}
_PROTOCOL = 4
"""Of pickle: the one that DyNet writes."""
_OF_MODELS: tuple[type, ...] = (ParameterCollection, Parameters, LookupParameters, Expression)

# ---- pickles ---------------------------------------------------------------------------


class _Pickler(pickle._Pickler):
    """Writes this package's builders and operations under DyNet's names, so that DyNet can read
    them.

    Only the pickler written in Python lets a subclass choose the name of a class.
    """

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Pickles a class or function as module and name."""
        # the stubs of pickle leave out what subclasses use
        this, base = cast(Any, self), cast(Any, super())
        public = getattr(obj, "__qualname__", "")
        if getattr(import_module(_PACKAGE), public, None) is not obj:
            base.save_global(obj, name)
            return
        this.save("_dynet")
        this.save(public)
        this.write(pickle.STACK_GLOBAL)
        this.memoize(obj)

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """Pickles anything but parameters: from_spec() makes those anew, so they would differ from
        the saved ones."""
        if issubclass(type(obj), _OF_MODELS):
            raise pickle.PicklingError(
                f"it holds a {type(obj).__name__}; from_spec(spec, model) makes those anew"
            )
        cast(Any, super()).save(obj, save_persistent_id)

    dispatch: ClassVar[dict[type, Callable[..., None]]] = {
        **pickle._Pickler.dispatch,
        FunctionType: save_global,
    }


def _dumped(record: tuple[Any, ...]) -> bytes:
    """A pickle of the record. Warns if load() will only read it with allow_pickle=True."""
    stream = io.BytesIO()
    cls = record[0]
    try:
        _Pickler(stream, _PROTOCOL).dump(record)
    except Exception as error:  # whatever a __reduce__ raises
        raise TypeError(
            f"save: the spec of {cls.__qualname__} must be picklable, without parameters and"
            f" expressions; got {_types(record[1])}: {error}. Put names in place of what cannot be"
            " pickled."
        ) from error
    dumped = stream.getvalue()
    if not _as_dynet:
        try:
            pickles.read(io.BytesIO(dumped))
        except Exception as error:
            say(
                f"spec {cls.__module__}.{cls.__qualname__}",
                "save: to read what is saved here, load(..., allow_pickle=True) is needed: in the"
                f" spec of {cls.__qualname__}, {error}.",
            )
    return dumped


def _types(spec: Any) -> str:
    """The types of a spec, without calling their __repr__."""
    if type(spec) is tuple:
        return (
            "("
            + ", ".join(type(x).__name__ for x in spec[:10])
            + (", ...)" if len(spec) > 10 else ")")
        )
    return type(spec).__name__


_as_dynet = False


def read_as_dynet(on: bool) -> None:
    """Whether load() by default reads specs as DyNet does: everything that pickle reads, with a
    warning that names it."""
    global _as_dynet
    _as_dynet = on


def _records(path: Path, allow_pickle: bool | None) -> list[tuple[Any, ...]]:
    """The records of a .meta file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    stream = io.BytesIO(content)
    records: list[tuple[Any, ...]] = []
    named: set[str] = set()
    while stream.tell() < len(content):
        offset = stream.tell()
        try:
            record = (
                pickles.read_trusted(stream)
                if allow_pickle
                else _record(stream, named, allow_pickle is None and _as_dynet)
            )
        except Exception as error:
            where = f"in object {len(records)} at byte {offset}"
            if isinstance(error, pickles.NotAllowedError):
                raise RuntimeError(
                    f"load: '{path}' must hold plain data and objects of the program's own classes;"
                    f" got, {where}: {str(error)[:500]}. If you trust who made the file: load(...,"
                    " allow_pickle=True), which may run any code that the file names."
                ) from error
            raise RuntimeError(
                f"load: all of '{path}' must be readable; got, {where}: {type(error).__name__}:"
                f" {str(error)[:500]}."
            ) from error
        if not _is_record(record):
            what = f"a {type(record).__name__}" if type(record) is not tuple else _types(record)
            raise RuntimeError(
                f"load: '{path}' must describe objects; got {what} as object {len(records)} at byte"
                f" {offset}."
            )
        records.append(record)
    if named:
        say(
            f"pickle {path}",
            f"load: '{path}' made {', '.join(sorted(named))} by pickle, as DyNet does, which runs"
            " what a file names.",
        )
    return records


def _record(stream: io.BytesIO, named: set[str], or_trusted: bool) -> Any:
    offset = stream.tell()
    try:
        return pickles.read(stream)
    except Exception:
        if not or_trusted:
            raise
    stream.seek(offset)
    return pickles.read_trusted(stream, named)


def _is_record(record: Any) -> bool:
    if not (type(record) is tuple and len(record) in (2, 3) and type(record[-1]) is str):
        return False
    return (
        type(record[0]) is str and record[0] in _KINDS
        if len(record) == 2
        else is_builder(record[0])
    )


# ---- saving ----------------------------------------------------------------------------


def _path(basename: FileName, suffix: str, what: str) -> Path:
    return Path(f"{file_path(basename, what)}{suffix}")


def _stored_class(cls: Any) -> Any:
    """The class whose from_spec() fits. A subclass of a builder that has its own __init__ but no
    from_spec is stored as that builder; one of BiRNNBuilder that takes the same arguments is not,
    as in DyNet."""
    own = list(
        itertools.takewhile(
            lambda c: c.__module__.partition(".")[0] != _PACKAGE, inspect.getmro(cls)
        )
    )
    if any("from_spec" in vars(c) for c in own) or not any("__init__" in vars(c) for c in own):
        return cls
    above = inspect.getmro(cls)[len(own)]
    same = getattr(above, "_is_python_in_dynet", False) and _takes_those_of(above, cls)
    return cls if same else above


def _takes_those_of(above: Any, cls: Any) -> bool:
    """Whether the constructor takes the arguments of the one above by position, by their names or
    by a star."""
    theirs, mine = (inspect.signature(c).parameters.values() for c in (above, cls))
    by_place = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [p.name for p in theirs if p.kind in by_place]
    names = [p.name for p in mine if p.kind in by_place][: len(wanted)]
    has_star = any(p.kind is p.VAR_POSITIONAL for p in mine)
    stars = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = {p.name for p in mine if p.default is p.empty and p.kind not in stars}
    return (
        names == wanted[: len(names)]
        and (has_star or len(names) == len(wanted))
        and needed <= set(wanted)
    )


def collection_of(thing: Any, what: str) -> ParameterCollection:
    """The collection of the parameters of an object of the program.

    Raises:
        TypeError: it has none; `what` begins the message.
    """
    method = getattr(thing, "param_collection", None)
    found = method() if callable(method) else method
    if callable(method) and isinstance(found, ParameterCollection):
        return found
    raise TypeError(
        f"{what}: {type(thing).__qualname__} must have a method param_collection() that returns the"
        f" ParameterCollection of its parameters; got {type(found).__name__}. Return the one that"
        " it was made in, or its add_subcollection()."
    )


def _described(thing: Any) -> tuple[bytes, list[tuple[str, ParameterLike]]]:
    """The pickle of an object, and its parameters by name."""
    for kind, cls in _KINDS.items():
        if isinstance(thing, cls):
            return pickle.dumps((kind, thing.name()), _PROTOCOL), [(thing.name(), thing)]
    missing = [name for name in ("spec", "param_collection") if not hasattr(thing, name)]
    if not hasattr(type(thing), "from_spec"):
        missing.append("from_spec")
    if missing:
        hint = (
            " Save a collection by its own save()."
            if isinstance(thing, ParameterCollection)
            else " Give the class what it lacks."
        )
        raise AttributeError(
            "save: objects must be parameters, or have spec, from_spec(spec, model) and"
            f" param_collection(); got {type(thing).__name__}, which has no"
            f" {' and no '.join(missing)}.{hint}"
        )
    collection = collection_of(thing, "save")
    return _dumped(
        (_stored_class(type(thing)), thing.spec, collection.name())
    ), text.collection_entries(collection)


def save(basename: FileName, objects: Iterable[Any]) -> None:
    """Writes builders and parameters to `basename.data` and `basename.meta`, as DyNet does.

    Both files are written under temporary names, then renamed: a failed save leaves the old ones
    intact.

    Args:
        basename: the path of the files without .data and .meta.
        objects: Parameters, LookupParameters, or objects of classes with `spec`,
            `from_spec(spec, model)` and `param_collection()`. A spec is whatever pickle can store;
            a notice says so where load() will need allow_pickle=True.

    Raises:
        AttributeError: an object is none of these.
        TypeError: a spec cannot be pickled, or holds parameters; param_collection() returns none.
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
    if is_one(objects) or isinstance(objects, Parameters | LookupParameters | str | bytes):
        raise TypeError(
            "save: objects must be a list of parameters and builders; got"
            f" {type(objects).__name__}. Write save(name, [x]); a collection has its own save()."
        )
    described = [_described(thing) for thing in objects]
    roots = {parameter._root for _, entries in described for _, parameter in entries}
    data_path = _path(basename, ".data", "save")
    with (
        atomic_writes([data_path, _path(basename, ".meta", "save")]) as (data, meta),
        unchanged(roots, "save"),
    ):
        for record, entries in described:
            meta.write(record)
            for key, parameter in entries:
                text.write_entry(data, key, parameter)


# ---- loading ---------------------------------------------------------------------------


@all_or_nothing
def load(
    basename: FileName, params: ParameterCollection, allow_pickle: bool | None = None
) -> list[Any]:
    """Makes the objects that save() has written to `basename.data` and `basename.meta` again, in
    the same order, in the collection `params`.

    Files of DyNet can be read, too. A class of the program must be defined, in the same module as
    when it was saved, before it can be loaded.

    Args:
        basename: the path of the files without .data and .meta.
        params: gets the parameters.
        allow_pickle: whether specs may hold anything that pickle can read. That runs code of the
            file's choice: only for files of people whom you trust. Otherwise specs are of plain
            data, containers of the standard library, NumPy arrays and objects of plain classes of
            the program's own modules; nothing is imported, and no method of such a class is called.
            None: False, but in programs that say `import dynet` (dist_dynet.compat) True, with a
                notice that names what was made.

    Raises:
        RuntimeError: the files are missing or damaged, do not fit the classes, or a spec holds what
            may not be loaded; nothing is added to `params` then.
        TypeError: params is no collection, or from_spec() returns none of its objects; likewise.

    >>> import tempfile
    >>> import dist_dynet as dy
    >>> E = dy.ParameterCollection().add_lookup_parameters((3, 2), init=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dy.save(f"{folder}/model", [E])
    ...     (E2,) = dy.load(f"{folder}/model", dy.ParameterCollection())
    >>> E2.row_as_array(2).tolist()
    [0.5, 0.5]
    """
    return list(load_generator(basename, params, allow_pickle))


def load_generator(
    basename: FileName, params: ParameterCollection, allow_pickle: bool | None = None
) -> Iterator[Any]:
    """As load(), but makes each object when it is asked for.

    Raises:
        RuntimeError: as load(); objects made before stay.
        TypeError: likewise.

    >>> import tempfile
    >>> import dist_dynet as dy
    >>> b = dy.ParameterCollection().add_parameters(2, name="b")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dy.save(f"{folder}/model", [b])
    ...     [p.name() for p in dy.load_generator(f"{folder}/model", dy.ParameterCollection())]
    ['/b']
    """
    if not isinstance(params, ParameterCollection):
        raise TypeError(
            f"load: params must be a ParameterCollection, which gets what is loaded; got"
            f" {type(params).__name__}. Write load(name, dy.ParameterCollection())."
        )
    return _made_one_by_one(basename, params, allow_pickle)


def _made_one_by_one(
    basename: FileName, params: ParameterCollection, allow_pickle: bool | None
) -> Iterator[Any]:
    meta = _path(basename, ".meta", "load")
    with ExitStack() as stack:
        records, file, entries = _both(meta, _path(basename, ".data", "load"), allow_pickle, stack)
        at, used = 0, set[int]()
        for record in records:
            load_one = _load_parameter if len(record) == 2 else _load_builder
            thing, of_it = load_one(params, file, entries, at, *record)
            used |= {entry.number for entry in of_it}
            at = of_it[-1].number + 1 if of_it else at
            yield thing
    _check_all_used(meta, records, entries, used)


_TRIES = 5


def _both(
    meta: Path, data: Path, allow_pickle: bool | None, stack: ExitStack
) -> tuple[list[tuple[Any, ...]], text.ModelFile, list[text.Entry]]:
    """The content of both files, from one save(): they are read again if another process saves
    meanwhile."""

    def marks() -> list[tuple[int, int]]:
        found = []
        for path in meta, data:
            with suppress(OSError):  # opening it will raise
                stat = path.stat()
                found.append((stat.st_ino, stat.st_mtime_ns))
        return found

    for _ in range(_TRIES):
        before, records = marks(), _records(meta, allow_pickle)
        file = stack.enter_context(text.ModelFile(data))
        entries = list(file.entries())
        if marks() == before:
            return records, file, entries
        stack.pop_all().close()
    raise RuntimeError(
        f"load: '{meta}' and '{data}' must stay while they are read; got another save() each of"
        f" {_TRIES} times. Save under another name, and rename."
    )


def _check_all_used(
    meta: Path, records: list[tuple[Any, ...]], entries: list[text.Entry], used: set[int]
) -> None:
    """Raises if entries were not used: a class makes fewer parameters than were saved, or the file
    of records was cut short."""
    names = {entries[number].name for number in used}
    for entry in entries:
        if entry.number in used:
            continue
        for cls, _, collection in (record for record in records if len(record) > 2):
            if entry.name.startswith(collection) and entry.name not in names:
                raise RuntimeError(
                    f"load: {cls.__qualname__}.from_spec() must make all parameters that"
                    f" '{collection}' had in the file; got none for entry {entry.number},"
                    f" {entry.name}. A subclass of a builder with parameters of its own needs a"
                    " from_spec() of its own before it is saved."
                )
        raise RuntimeError(
            f"load: '{meta}' must describe all that the .data file holds; got {len(records)}"
            f" objects, and none for entry {entry.number}, {entry.name}. The file was cut short,"
            " belongs to another one, or a collection had more than its object's from_spec() makes."
        )


def _load_parameter(
    params: ParameterCollection,
    file: text.ModelFile,
    entries: list[text.Entry],
    at: int,
    kind: str,
    name: str,
) -> tuple[ParameterLike, list[text.Entry]]:
    entry = text.find(file, _KINDS[kind] is LookupParameters, name, entries[at:] + entries[:at])
    return text.new_parameter(params, file, entry), [entry]


@all_or_nothing
def _load_builder(
    params: ParameterCollection,
    file: text.ModelFile,
    entries: list[text.Entry],
    at: int,
    cls: Any,
    spec: Any,
    name: str,
) -> tuple[Any, list[text.Entry]]:
    builder = cls.from_spec(spec, params)
    if builder is None:
        raise TypeError(
            f"load: {cls.__qualname__}.from_spec() must return the object that it makes; got None."
            " End it by: return cls(...)."
        )
    collection = collection_of(builder, "load")
    room = {
        "Parameter": len(collection.parameters_list()),
        "LookupParameter": len(collection.lookup_parameters_list()),
    }
    chosen: list[text.Entry] = []
    for entry in entries[at:] + entries[:at]:
        if not any(room.values()):
            break
        if entry.name.startswith(name) and room[entry.tag]:
            room[entry.tag] -= 1
            chosen.append(entry)
    text.fill(file, text.pair(collection, file, chosen))
    return builder, chosen
