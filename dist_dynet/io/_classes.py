"""Looking up classes, objects and their attributes without running any of their code, whatever they
define.

For reading pickles: which class a name stands for, what it derives from, where its objects keep
their attributes.
"""

from __future__ import annotations

import pickle
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

from .._ffi import calls

PACKAGE = __name__.partition(".")[0]
DYNET_MODULES = ("dynet", "_dynet", "_gdynet", PACKAGE)


class NotAllowedError(pickle.UnpicklingError):
    """A pickle names something that is on no list."""


def refuse(what: str) -> NoReturn:
    raise NotAllowedError(what)


_NAMES_OF_MODULE: Any = cast(Any, types.ModuleType.__dict__)["__dict__"]
_NAMES_OF_CLASS: Any = type.__dict__["__dict__"]
_MRO: Any = type.__dict__["__mro__"]


def is_class(thing: Any) -> bool:
    return issubclass(type(thing), type)


def _bases(cls: type) -> tuple[type, ...]:
    found: tuple[type, ...] = _MRO.__get__(cls)
    return found


def attribute(cls: type, name: str) -> Any:
    """The entry of this name in the class, without binding it; None if there is none."""
    for base in _bases(cls):
        names = _NAMES_OF_CLASS.__get__(base)
        if name in names:
            return names[name]
    return None


def derives(cls: type, base: type) -> bool:
    return any(c is base for c in _bases(cls))


def qualified_name(cls: type) -> str:
    """Its name within its module."""
    name: str = cast(Any, type.__dict__)["__qualname__"].__get__(cls)
    return name


def class_name(cls: type) -> str:
    """Its module and name."""
    return f"{cast(Any, type.__dict__)['__module__'].__get__(cls)}.{qualified_name(cls)}"


def instance_dict(thing: Any) -> dict[str, Any] | None:
    """The dictionary of its attributes, whatever the class calls __dict__."""
    for base in _bases(type(thing)):
        descriptor = _NAMES_OF_CLASS.__get__(base).get("__dict__")
        if type(descriptor) in (types.GetSetDescriptorType, types.MemberDescriptorType):
            return cast(dict[str, Any], descriptor.__get__(thing))
    return None


def slots(cls: type) -> Iterator[tuple[str, Any]]:
    """Names and descriptors of the slots of classes written in Python."""
    for base in _bases(cls):
        names = _NAMES_OF_CLASS.__get__(base)
        if "__slots__" in names:
            yield from (
                (name, d) for name, d in names.items() if type(d) is types.MemberDescriptorType
            )


def _current_folder() -> list[Path]:
    try:
        return [Path.cwd().resolve()]
    except OSError:  # the folder was removed
        return []


_AT_THE_START = _current_folder()


def _own_folders() -> list[Path]:
    """Where the program's own modules lie: in the folder of the script, or of the package given to
    `python -m`; in the current folder, at the start and now."""
    folders = [*_AT_THE_START, *_current_folder()]
    main = sys.modules.get("__main__")
    names = _NAMES_OF_MODULE.__get__(main) if main is not None else {}
    if isinstance(names.get("__file__"), str):
        folder = Path(names["__file__"]).resolve().parent
        package = names.get("__package__")
        for _ in package.split(".") if isinstance(package, str) and package else ():
            folder = folder.parent
        folders.append(folder)
    return folders


def is_own_module(name: str, names: dict[str, Any]) -> bool:
    if name in ("__main__", "__mp_main__"):
        return True
    file = names.get("__file__")
    if name.partition(".")[0] in DYNET_MODULES or not isinstance(file, str):
        return False
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    library = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
    return not any(path.is_relative_to(f) for f in library) and any(
        path.is_relative_to(f) for f in _own_folders()
    )


class Named:
    """A class or function that a pickle may use but not keep as a value. It stands for nothing that
    could be called."""

    __slots__ = ("call", "cls", "text")

    def __init__(
        self,
        text: str,
        cls: type | None = None,
        call: Callable[[Any, tuple[Any, ...]], Any] | None = None,
    ) -> None:
        self.text, self.cls, self.call = text, cls, call


def looked_up(module: str, name: str) -> tuple[dict[str, Any], Any]:
    """The names of an imported module, and its entry of this name. Only dictionaries are read, so
    no code runs."""
    if module in DYNET_MODULES:
        module = PACKAGE
    found: Any = sys.modules.get(module)
    text = f"{module[:100]}.{name[:100]}"
    if found is None or not issubclass(type(found), types.ModuleType):
        refuse(
            f"{text} is named, whose module this program has not imported. Define it first, or"
            " import the module before"
        )
    names = thing = _NAMES_OF_MODULE.__get__(found)
    for k, part in enumerate(name.split(".")):
        inside = thing if k == 0 else _NAMES_OF_CLASS.__get__(thing) if is_class(thing) else {}
        if part not in inside:
            refuse(f"{text} is named, which this program does not have. Define it first")
        thing = inside[part]
    return names, thing


def is_builder(thing: Any) -> bool:
    """Whether it is a class with from_spec."""
    return is_class(thing) and attribute(thing, "from_spec") is not None


def is_operation(thing: Any) -> bool:
    return type(thing) in (types.FunctionType, calls.Operation) and thing.__module__.startswith(
        f"{PACKAGE}.ops"
    )
