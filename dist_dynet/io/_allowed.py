"""What a pickle may make, and how: by functions that check their arguments and call nothing of a
class of the program.

The lists: _VALUES and NumPy's types, which a pickle may name and keep; REDUCED and _FUNCTIONS, by
which it may make something; enums, and plain objects of the program's own classes.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import os
import pathlib
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ._allowed_keys import check_key, checked
from ._allowed_numpy import FUNCTIONS, TYPES, Machine, fits
from ._classes import (
    DYNET_MODULES,
    PACKAGE,
    Named,
    attribute,
    class_name,
    derives,
    instance_dict,
    is_builder,
    is_class,
    is_operation,
    is_own_module,
    looked_up,
    qualified_name,
    refuse,
    slots,
)


def found(module: str, name: str) -> Any:
    """What a module and name of a pickle stand for: a value, or a Named."""
    if (module, name) in _VALUES:
        return _VALUES[module, name]
    if (module, name) in _FUNCTIONS:
        return Named(f"{module}.{name}", call=_FUNCTIONS[module, name])
    if module.partition(".")[0] == "numpy" and name in FUNCTIONS:
        return Named(f"{module}.{name}", call=FUNCTIONS[name])
    if module == "numpy" and name in TYPES:
        return TYPES[name]
    names, thing = looked_up(module, name)
    if is_builder(thing) or (module.partition(".")[0] in DYNET_MODULES and is_operation(thing)):
        return thing
    text = f"{module}.{name}"
    if not (
        is_class(thing)
        and is_own_module(module, names)
        and attribute(thing, "__module__") == module
    ):
        refuse(
            f"{text} is named, which is neither plain data nor a class with from_spec, nor an"
            f" operation of {PACKAGE}, nor a class of the program's own modules"
        )
    if attribute(thing, "__del__") is not None:
        refuse(f"{text} has a __del__ that would be called")
    return Named(text, thing)


# ---- what REDUCE may make --------------------------------------------------------------


def _bytes(args: tuple[Any, ...]) -> bytes:
    """Bytes, which protocols up to 2 write as text."""
    if not args:
        return b""
    if fits(args, str, str) and args[1] in ("latin-1", "latin1"):
        return cast(str, args[0]).encode("latin1")
    if fits(args, bytes):
        return cast(bytes, args[0])
    return refuse("bytes are not given as bytes or text")


def _fraction(args: tuple[Any, ...]) -> fractions.Fraction:
    if fits(args, str) and re.fullmatch(r"-?\d+(/\d+)?", args[0], re.ASCII):
        return fractions.Fraction(args[0])
    if fits(args, int, int):
        return fractions.Fraction(*args)
    return refuse("a Fraction is not given as two integers")


def _of(
    cls: Any, kinds: tuple[type, ...], least: int = 0, most: int = 3
) -> Callable[[tuple[Any, ...]], Any]:
    """A function that calls a class of the standard library, if there are so many arguments of
    these types."""

    def make(args: tuple[Any, ...]) -> Any:
        if not least <= len(args) <= most or any(type(a) not in kinds for a in args):
            refuse(f"{class_name(cls)} is given other arguments than it is written with")
        return cls(*args)

    return make


def _keyed(args: tuple[Any, ...], cls: type) -> Any:
    if not fits(args, (list, tuple, set)):
        refuse(f"{cls.__name__} is not given a list")
    return cls(checked(args[0]))


def _counter(args: tuple[Any, ...], cls: Any = collections.Counter) -> Any:
    counter = dict.__new__(cls)
    if args:
        if not fits(args, dict):
            refuse("a Counter is not given a dictionary")
        dict.update(counter, args[0])
    return counter


def _defaultdict(args: tuple[Any, ...], cls: Any = collections.defaultdict) -> Any:
    factory = args[0] if args else None
    if len(args) > 1 or not (factory is None or any(factory is f for f in _FACTORIES)):
        refuse("a defaultdict makes its values by something other than a type of plain data")
    made: Any = collections.defaultdict.__new__(cls)
    collections.defaultdict.__init__(made, factory)
    return made


def _deque(args: tuple[Any, ...], cls: Any = collections.deque) -> Any:
    if args and not (
        fits(args[:1], (tuple, list)) and (len(args) == 1 or fits(args[1:], (int, type(None))))
    ):
        refuse("a deque is given other things than its items and their greatest number")
    made: Any = collections.deque.__new__(cls)
    collections.deque.__init__(made, *args)
    return made


def _empty(cls: Any) -> Callable[[tuple[Any, ...]], Any]:
    def make(args: tuple[Any, ...]) -> Any:
        return cls() if not args else refuse(f"{class_name(cls)} is given arguments")

    return make


_FACTORIES: tuple[type, ...] = (
    int,
    float,
    bool,
    str,
    list,
    dict,
    set,
    tuple,
    collections.Counter,
    collections.OrderedDict,
    collections.deque,
)
REDUCED: dict[Any, Callable[[tuple[Any, ...]], Any]] = {
    set: lambda args: _keyed(args, set),
    frozenset: lambda args: _keyed(args, frozenset),
    bytes: _bytes,
    bytearray: lambda args: bytearray(_bytes(args)),
    complex: _of(complex, (float,), 2, 2),
    range: _of(range, (int,), 1),
    slice: _of(slice, (int, type(None)), 1),
    collections.Counter: _counter,
    collections.OrderedDict: _empty(collections.OrderedDict),
    collections.defaultdict: _defaultdict,
    collections.deque: _deque,
    types.SimpleNamespace: _empty(types.SimpleNamespace),
    decimal.Decimal: _of(decimal.Decimal, (str,), 1, 1),
    fractions.Fraction: _fraction,
    datetime.date: _of(datetime.date, (bytes, int), 1),
    datetime.time: _of(datetime.time, (bytes, int, datetime.timezone), 1, 6),
    datetime.datetime: _of(datetime.datetime, (bytes, int, datetime.timezone), 1, 8),
    datetime.timedelta: _of(datetime.timedelta, (int,)),
    datetime.timezone: _of(datetime.timezone, (datetime.timedelta, str), 1, 2),
    type(Path()): _of(Path, (str,), 0, 1000),
    pathlib.PurePosixPath: _of(pathlib.PurePosixPath, (str,), 0, 1000),
    pathlib.PureWindowsPath: _of(pathlib.PureWindowsPath, (str,), 0, 1000),
}
"""How objects are made of their arguments, by class. They are filled afterwards."""

_TYPES: dict[str, tuple[Any, ...]] = {
    "builtins": (
        *(int, float, bool, str, bytes, list, dict, set, tuple, frozenset, complex),
        *(bytearray, range, slice),
    ),
    "collections": (
        collections.Counter,
        collections.OrderedDict,
        collections.defaultdict,
        collections.deque,
    ),
    "datetime": (
        datetime.date,
        datetime.time,
        datetime.datetime,
        datetime.timedelta,
        datetime.timezone,
    ),
}
_VALUES: dict[tuple[str, str], Any] = {
    **{(module, t.__name__): t for module, types_ in _TYPES.items() for t in types_},
    **{
        (m, n): type(Path())
        for m in ("pathlib", "pathlib._local")
        for n in ("Path", f"{os.name.title()}Path".replace("Nt", "Windows"))
    },
    **{
        (m, t.__name__): t
        for m in ("pathlib", "pathlib._local")
        for t in (pathlib.PurePosixPath, pathlib.PureWindowsPath)
    },
    ("argparse", "Namespace"): argparse.Namespace,
    ("builtins", "Ellipsis"): Ellipsis,
    ("builtins", "object"): object,
    ("decimal", "Decimal"): decimal.Decimal,
    ("fractions", "Fraction"): fractions.Fraction,
    ("types", "SimpleNamespace"): types.SimpleNamespace,
}
"""What a pickle may name and keep. `object` is among them because protocols 0 and 1 name it with
each object."""

# ---- objects of the program's classes --------------------------------------------------

_BUILT_IN: tuple[Any, ...] = (
    collections.OrderedDict,
    collections.defaultdict,
    collections.Counter,
    collections.deque,
    dict,
    list,
    set,
    tuple,
    str,
    int,
    float,
)


def _class_of(thing: Any) -> Any:
    if type(thing) is Named and thing.cls is not None:
        return thing.cls
    return thing if thing is argparse.Namespace else refuse(f"an object of {shown(thing)} is made")


def shown(thing: Any) -> str:
    """Its name in a message, without calling its code."""
    if type(thing) is Named:
        return str(thing.text)
    if is_operation(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    return class_name(thing) if is_class(thing) else f"a {class_name(type(thing))}"


def _built_in(cls: type) -> Any:
    """The built-in type that the class derives from; None if there is none."""
    return next((b for b in _BUILT_IN if derives(cls, b)), None)


def new(machine: Machine, args: tuple[Any, ...]) -> Any:
    """cls.__new__(cls, ...), as protocol 2 and later write it, but with the __new__ of the built-in
    class."""
    cls, args = _class_of(args[0]), args[1:]
    base = _built_in(cls)
    if derives(cls, enum.Enum):
        refuse(f"{class_name(cls)} is an enum and is made like other objects")
    if base is tuple:
        fields = attribute(cls, "_fields")
        if type(fields) is tuple and len(fields) != len(args):
            refuse(f"{class_name(cls)} has {len(fields)} fields and is given {len(args)}")
        made = tuple.__new__(cls, args)
    elif base in (str, int, float):
        if args and not fits(args, base):
            refuse(f"{class_name(cls)} is given other things than a value")
        made = base.__new__(cls, *args)
    elif args:
        refuse(f"{class_name(cls)}.__new__ would be called with arguments")
    else:
        try:
            made = object.__new__(cls) if base is None else base.__new__(cls)
        except TypeError as error:
            refuse(
                f"{class_name(cls)} is derived from a built-in class that is on no list, or"
                f" abstract: {error}"
            )
    machine.made[id(made)] = made
    return made


def _reconstructor(machine: Machine, args: tuple[Any, ...]) -> Any:
    """As new(), in the form of protocols 0 and 1: with the content of the built-in class."""
    if len(args) != 3:
        refuse("copyreg._reconstructor is given other things than it is written with")
    cls, base, value = args
    if base is object and value is None:
        return new(machine, (cls,))
    if base is not _built_in(_class_of(cls)) or type(value) is not base:
        refuse(f"{shown(cls)} is made of a {class_name(type(value))}")
    if base in (str, int, float, tuple):
        return new(machine, (cls, *(value if base is tuple else (value,))))
    made = new(machine, (cls,))
    fill: dict[Any, Callable[[Any, Any], None]] = {
        list: list.extend,
        dict: dict.update,
        set: set.update,
    }
    fill[base](made, value)
    return made


def called(machine: Machine, cls: Any, args: tuple[Any, ...]) -> Any:
    """What calling a class of the program makes: members of enums, and containers derived from
    those of the standard library."""
    if derives(cls, enum.Enum):
        return _member(cls, args)
    base = _built_in(cls)
    made: Any
    if base is set and fits(args, list):
        made = set.__new__(cls)
        set.update(made, checked(args[0]))
    elif base is collections.OrderedDict and not args:
        made = collections.OrderedDict.__new__(cls)
    elif base in (collections.Counter, collections.defaultdict, collections.deque):
        make: Any = {
            collections.Counter: _counter,
            collections.defaultdict: _defaultdict,
            collections.deque: _deque,
        }[base]
        made = make(args, cls)
    else:
        refuse(f"{class_name(cls)} would be called with arguments of the file's choice")
    machine.made[id(made)] = made
    return made


def _member(cls: Any, args: tuple[Any, ...]) -> Any:
    """A member of an enum by its value. Plain flags may be combined."""
    members, (value,) = attribute(cls, "_value2member_map_"), args if len(args) == 1 else (None,)
    check_key(value)
    if value in members:
        return members[value]
    flag: Any = enum.Flag
    missing = [attribute(base, "_missing_") for base in (enum.Flag, enum.IntFlag)]
    plain = (
        attribute(cls, "_new_member_") in (object.__new__, int.__new__)
        and attribute(cls, "_missing_") in missing
    )
    if derives(cls, enum.Flag) and type(value) is int and plain:
        return flag._missing_.__func__(cls, value)
    return refuse(f"{class_name(cls)} has no such member")


def _getattr(machine: Machine, args: tuple[Any, ...]) -> Any:
    """A member of an enum by its name, or a nested class, as protocols below 4 write it."""
    owner, name = args if len(args) == 2 and type(args[1]) is str else (None, "")
    cls = owner.cls if type(owner) is Named else owner
    if cls is None or not is_class(cls):
        refuse("an attribute of something is taken")
    if derives(cls, enum.Enum) and name in attribute(cls, "_member_map_"):
        return attribute(cls, "_member_map_")[name]
    module, _, _ = class_name(cls).rpartition(f".{qualified_name(cls)}")
    return found(module, f"{qualified_name(cls)}.{name}")


_FUNCTIONS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): lambda machine, args: _bytes(args),
    ("builtins", "getattr"): _getattr,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("copyreg", "__newobj__"): new,
}
"""Functions that pickles of data call."""


def set_attributes(thing: Any, state: Any) -> None:
    """Sets attributes in the object's dictionary and slots, bypassing the class."""
    cls = type(thing)
    if attribute(cls, "__setstate__") is not None:
        refuse(f"{class_name(cls)} has a __setstate__ that would be called")
    attributes, in_slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    if attributes is not None:
        inside = instance_dict(thing)
        if (
            type(attributes) is not dict
            or inside is None
            or any(type(name) is not str for name in attributes)
        ):
            refuse(f"attributes of {class_name(cls)} are not a dictionary of names")
        inside.update({sys.intern(name): value for name, value in attributes.items()})
    if in_slots is not None:
        places = dict(reversed(list(slots(cls))))
        if type(in_slots) is not dict or not all(
            type(name) is str and name in places for name in in_slots
        ):
            refuse(f"{class_name(cls)} has other __slots__ than the file")
        for name, value in in_slots.items():
            places[name].__set__(thing, value)
