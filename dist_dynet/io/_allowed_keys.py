"""What may be a key of a dictionary or set that a pickle makes: hashing it must call no code of the
program."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import itertools
import pathlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ._classes import attribute, class_name, derives, refuse

_MOST_PARTS, _DEEPEST_KEY = 100_000, 100
"""Most parts of a key of a dictionary or set, and how deep they may nest."""


def checked(keys: Iterable[Any]) -> Any:
    """The keys themselves, if hashing and comparing them calls nothing of a class of the
    program."""
    for key in keys:
        check_key(key)
    return keys


ATOMS: frozenset[type] = frozenset(
    {
        str,
        int,
        float,
        bytes,
        bool,
        complex,
        type(None),
        type(Ellipsis),
        range,
        decimal.Decimal,
        fractions.Fraction,
        datetime.date,
        datetime.time,
        datetime.datetime,
        datetime.timedelta,
        datetime.timezone,
        pathlib.PurePosixPath,
        pathlib.PureWindowsPath,
        type(Path()),
    }
)
"""Types whose values contain no other values."""
_HASHES = {
    object.__hash__,
    tuple.__hash__,
    str.__hash__,
    int.__hash__,
    float.__hash__,
    enum.Enum.__hash__,
}
_COMPARISONS = {object.__eq__, tuple.__eq__, str.__eq__, int.__eq__, float.__eq__}


def _check_hash(cls: type) -> None:
    hashing = attribute(cls, "__hash__")
    if hashing is None:
        raise TypeError(f"unhashable type: {class_name(cls)}")
    if hashing not in _HASHES or attribute(cls, "__eq__") not in _COMPARISONS:
        refuse(
            f"a key of a dictionary or set is of {class_name(cls)}, whose __hash__ and __eq__ would"
            " be called"
        )


def check_key(key: Any) -> None:
    """Raises if hashing or comparing the key would call unknown code or not terminate."""
    if type(key) in ATOMS:
        return
    level, parts = [key], 0
    for depth in itertools.count():
        if not level:
            return
        if depth > _DEEPEST_KEY or parts > _MOST_PARTS:
            refuse("a key of a dictionary or set has too many parts")
        inside: list[Any] = []
        for part in level:
            cls = type(part)
            if cls in ATOMS:
                continue
            if derives(cls, tuple) or cls is frozenset:
                parts += len(part)
                inside += tuple.__iter__(part) if cls is not frozenset else part
            if cls is not frozenset and not derives(cls, np.generic):
                _check_hash(cls)
            if len(inside) > _MOST_PARTS:
                break
        level = inside
