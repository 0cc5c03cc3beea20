"""Reading pickles without running what they name.

A pickle is a program for a small machine, and pickle.load() lets it call whatever it names. The
machine here reads the same files, but makes only what is on its lists:

- plain data, containers of the standard library, NumPy arrays and scalars, each by a function of
  this package that checks its arguments;
- objects of plain classes, enums and named tuples of the program's own modules: `__main__`, and
  modules that are already imported and lie in the folder of the script or in the current one (that
  of the start or of now). Attributes are put into the object's dictionary and slots. Nothing of the
  class is called: no __new__, __init__, __setstate__, __reduce__, property, __setattr__, __hash__
  or __eq__. A class with __del__ is refused;
- as values: classes that have from_spec, operations of this package, types of plain data and of
  NumPy's scalars.

Nothing is imported. Whatever is on no list raises NotAllowedError, which names it. All that was
made is checked once more at the end. Memory is bounded by the size of the pickle: lengths and
counts that it claims are not trusted.

This module knows nothing of builders except that they have from_spec, and nothing of files.
"""

from __future__ import annotations

import _compat_pickle
import collections
import io
import itertools
import pickle
import pickletools
import sys
from collections.abc import Callable
from typing import Any, ClassVar, cast

import numpy as np

from ._allowed import REDUCED, called, found, new, set_attributes, shown
from ._allowed_keys import ATOMS, check_key, checked
from ._allowed_numpy import set_array, set_dtype
from ._classes import (
    DYNET_MODULES,
    PACKAGE,
    Named,
    NotAllowedError,
    derives,
    instance_dict,
    refuse,
    slots,
)

_DEEPEST = 1000
"""How deep containers may nest whose destruction recurses."""

# ---- the machine -----------------------------------------------------------------------

_Base: Any = pickle._Unpickler
"""The unpickler in Python: its memo is a dictionary, while the one in C allocates room for whatever
index a pickle names."""
_Operation = Callable[[Any], None]
_AS_THEY_ARE = """
    PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG
    LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST LIST EMPTY_DICT EMPTY_SET GLOBAL STACK_GLOBAL GET BINGET LONG_BINGET PUT BINPUT
    LONG_BINPUT MEMOIZE
"""
"""Opcodes that pickle's own methods handle."""


def _load_bytearray8(machine: Any) -> None:
    """Reads before it allocates: pickle's own method allocates as many bytes as the pickle claims
    to have."""
    size = int.from_bytes(machine.read(8), "little")
    data = machine.read(size) if size <= sys.maxsize else b""
    if len(data) != size:
        raise pickle.UnpicklingError("pickle data was truncated")
    machine.append(bytearray(data))


class _SafeUnpickler(_Base):  # type: ignore[misc]
    """Makes what is on the lists."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.unset: dict[int, Any] = {}
        """Arrays and dtypes that wait for their contents, by id."""
        self.made: dict[int, Any] = {}
        """Objects that may be given attributes, by id. Kept here so that no other object gets the
        same id."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle stands for."""
        if self.proto < 3:  # names of Python 2
            module, name = _compat_pickle.NAME_MAPPING.get(
                (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
            )
        return found(module, name)

    def _call(self, function: Any, args: Any) -> Any:
        if type(args) is not tuple:
            raise pickle.UnpicklingError("arguments are not a tuple")
        if type(function) is Named:
            if function.call is not None:
                return function.call(self, args)
            if function.cls is not None:
                return called(self, function.cls, args)
            refuse(f"{function.text} would be called")
        for cls, make in REDUCED.items():
            if function is cls:
                made = make(args)
                self.made[id(made)] = made
                return made
        return refuse(f"{shown(function)} would be called")

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        if type(args) is not tuple:
            refuse("arguments are not a tuple")
        self.stack[-1] = new(self, (self.stack[-1], *args))

    def load_newobj_ex(self) -> None:
        named = self.stack.pop()
        if type(named) is not dict or named:
            refuse(f"{shown(self.stack[-2])}.__new__ would be called with arguments")
        self.load_newobj()

    def load_build(self) -> None:
        state = self.stack.pop()
        thing = self.stack[-1]
        if id(thing) in self.unset:
            set_array(thing, state) if type(thing) is np.ndarray else set_dtype(thing, state)
            self.made[id(thing)] = self.unset.pop(id(thing))
        elif id(thing) in self.made:
            set_attributes(thing, state)
        else:
            refuse(f"attributes of {shown(thing)} are set")

    def _extend(self, target: Any, items: list[Any]) -> None:
        kinds: tuple[Any, ...] = (list, collections.deque, set)
        base = next((b for b in kinds if derives(type(target), b)), None)
        if base is None:
            refuse(f"items are added to {shown(target)}")
        if base is set:
            set.update(target, checked(items))
        else:
            base.extend(target, items)

    def load_append(self) -> None:
        item = self.stack.pop()
        self._extend(self.stack[-1], [item])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(self.stack[-1], items)

    load_additems = load_appends

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # first, since it rebinds self.append
        self.append(frozenset(checked(items)))

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if not derives(type(target), dict):
            refuse(f"items of {shown(target)} are set")
        put: Any = (
            collections.OrderedDict.__setitem__
            if derives(type(target), collections.OrderedDict)
            else dict.__setitem__
        )
        for key, value in zip(items[::2], items[1::2], strict=True):
            check_key(key)
            put(target, key, value)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set_items(self.stack[-1], items)

    def load_dict(self) -> None:
        made: dict[Any, Any] = {}
        self._set_items(made, self.pop_mark())
        self.append(made)

    dispatch: ClassVar[dict[int, _Operation]] = {}


def _refused(name: str) -> _Operation:
    """For opcodes of persistent ids, extensions and out-of-band buffers, and those that only old
    classes of Python 2 need."""
    return lambda machine: refuse(f"it has the opcode {name}")


def _dispatch() -> dict[int, _Operation]:
    table: dict[int, _Operation] = {}
    as_they_are = _AS_THEY_ARE.split()
    for opcode in pickletools.opcodes:
        code = opcode.code.encode("latin1")[0]
        own = vars(_SafeUnpickler).get(f"load_{opcode.name.lower()}")
        table[code] = own or (
            _Base.dispatch[code] if opcode.name in as_they_are else _refused(opcode.name)
        )
    return table | {pickle.BYTEARRAY8[0]: _load_bytearray8}


_SafeUnpickler.dispatch = _dispatch()


def _contents(thing: Any, made: dict[int, Any]) -> list[Any]:
    """What the object contains."""
    cls = type(thing)
    inside: list[Any] = []
    kinds: tuple[Any, ...] = (tuple, list, set, frozenset, collections.deque)
    for base in kinds:
        if derives(cls, base):
            inside += base.__iter__(thing)
    if derives(cls, dict):
        inside += itertools.chain.from_iterable(dict.items(thing))
    if cls is np.ndarray:
        return cast(list[Any], thing.ravel().tolist()) if thing.dtype.kind == "O" else []
    if id(thing) in made:
        inside += (instance_dict(thing) or {}).values()
        for _, place in slots(cls):
            try:
                inside.append(place.__get__(thing))
            except AttributeError:  # empty
                continue
    return inside


def _recurses(thing: Any) -> bool:
    """Whether destroying it recurses in C without a limit if it contains others of its kind."""
    cls = type(thing)
    return (
        derives(cls, collections.defaultdict)
        or derives(cls, collections.deque)
        or cls is np.ndarray
    )


def _check_complete(record: Any, made: dict[int, Any]) -> None:
    """Checks all that was made: nothing keeps a value that may only be used in making others, and
    everything can be destroyed safely."""
    todo, seen = [record, *made.values()], set()
    inner: dict[int, list[int]] = {}
    while todo:
        thing = todo.pop()
        if type(thing) in ATOMS or id(thing) in seen:
            continue
        seen.add(id(thing))
        if type(thing) is Named:
            refuse(f"{thing.text} is kept as a value")
        inside = _contents(thing, made)
        todo += inside
        if _recurses(thing):
            inner[id(thing)] = [id(x) for x in inside if _recurses(x)]
    depths: dict[int, int] = {}
    for start in inner if len(inner) > _DEEPEST else ():
        path = [start]
        while path:
            here = path[-1]
            depths.setdefault(here, 0)  # so that a cycle ends
            if (below := next((x for x in inner[here] if x not in depths), None)) is not None:
                path.append(below)
                continue
            depths[here] = 1 + max((depths[x] for x in inner[here]), default=0)
            if depths[here] > _DEEPEST:
                refuse(f"containers are nested more than {_DEEPEST} deep")
            path.pop()


def _take_apart(made: dict[int, Any]) -> None:
    for thing in made.values():
        if derives(type(thing), collections.deque):
            collections.deque.clear(thing)
        elif derives(type(thing), collections.defaultdict):
            dict.clear(thing)
        elif type(thing) is np.ndarray and thing.dtype.kind == "O":
            thing.fill(None)


def read(stream: io.BytesIO) -> Any:
    """The next pickle of the stream.

    Raises:
        NotAllowedError: it names what is on no list. Other exceptions: it is damaged.
    """
    machine = _SafeUnpickler(stream)
    try:
        record = machine.load()
        _check_complete(record, machine.made)
    except BaseException:
        _take_apart(machine.made)
        raise
    return record


# ---- pickles that are trusted ----------------------------------------------------------

_NUMPY: dict[str, Any] = {
    "dtype": np.dtype,
    "ndarray": np.ndarray,
    "scalar": np.float64(0).__reduce__()[0],
    "_reconstruct": np.empty(0).__reduce__()[0],
}


class _TrustingUnpickler(_Base):  # type: ignore[misc]
    """That of pickle, with this package in place of DyNet. It imports and calls what the pickle
    names."""

    def __init__(self, file: io.BytesIO, named: set[str]) -> None:
        super().__init__(file)
        self.named = named

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle stands for. Notes those that read() would refuse, or make
        itself."""
        try:
            thing = found(module, name)
        except NotAllowedError:
            thing = None
        if thing is None or (type(thing) is Named and thing.cls is not None):
            self.named.add(f"{module}.{name}")
        elif type(thing) is not Named:
            return thing
        if module.partition(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        return super().find_class(PACKAGE if module in DYNET_MODULES else module, name)

    dispatch: ClassVar[dict[int, _Operation]] = {
        **_Base.dispatch,
        pickle.BYTEARRAY8[0]: _load_bytearray8,
    }


def read_trusted(stream: io.BytesIO, named: set[str] | None = None) -> Any:
    """The next pickle of the stream, as pickle.load() reads it. `named` collects the names of what
    read() would refuse, or make itself."""
    return _TrustingUnpickler(stream, set() if named is None else named).load()


__all__ = ["NotAllowedError", "read", "read_trusted"]
