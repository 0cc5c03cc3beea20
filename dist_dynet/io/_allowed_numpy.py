"""The types, scalars and arrays of NumPy that a pickle may make, each described as NumPy writes
it."""

from __future__ import annotations

import math
import re
from typing import Any, Protocol, cast

import numpy as np

from ._classes import Named, refuse


class Machine(Protocol):
    """The unpickler that makes them."""

    unset: dict[int, Any]
    made: dict[int, Any]


def fits(args: tuple[Any, ...], *kinds: type | tuple[type, ...]) -> bool:
    """Whether there are that many arguments, of exactly these types."""
    return len(args) == len(kinds) and all(
        type(a) in (k if isinstance(k, tuple) else (k,)) for a, k in zip(args, kinds, strict=True)
    )


TYPES: dict[str, Any] = {
    t.__name__: t
    for t in (*np.sctypeDict.values(), np.bool_)
    if issubclass(t, np.generic) and t not in (np.object_, np.void)
} | {"bool_": np.bool_, "str_": np.str_, "bytes_": np.bytes_}
_WRONG_DTYPE = "a NumPy dtype is described in a way that NumPy does not write"
_WRONG_ARRAY = "a NumPy array is described in a way that NumPy does not write"
_DTYPE = re.compile(r"[<>|=]?(?:[?bBhHiIlLqQefdgFDGOMm]|[biufcSUVMmO]\d{1,9})", re.ASCII)


def _dtype(machine: Machine, args: tuple[Any, ...]) -> Any:
    if not (
        args
        and type(args[0]) is str
        and _DTYPE.fullmatch(args[0])
        and all(type(a) in (int, bool) for a in args[1:])
        and len(args) <= 3
    ):
        refuse("a NumPy dtype is not given by a simple name")
    made = np.dtype(args[0], False, True)
    machine.unset[id(made)] = made
    return made


def set_dtype(dtype: Any, state: Any) -> None:
    """Gives a dtype its state: the one that NumPy computes for what the pickle describes, which
    must be the same."""
    if not (
        type(state) is tuple
        and len(state) >= 8
        and type(state[1]) is str
        and fits(state[5:8], int, int, int)
        and state[1] in tuple("<>|=")
    ):
        refuse(_WRONG_DTYPE)
    names, fields = state[3:5]
    made: Any = dtype
    if names is not None or fields is not None:
        made = _record_dtype(names, fields, state[5], align=state[7] & 128 != 0)
    elif dtype.kind in "Mm":
        made = _time_dtype(dtype.kind, state[8:])
    if made.byteorder != "|" and state[1] != "|":
        made = made.newbyteorder(state[1])
    expected: Any = made.__reduce__()[2]
    if (
        expected[5] != state[5]
        or state[2] is not None
        or made.itemsize != dtype.itemsize
        or made.kind != dtype.kind
    ):
        refuse(_WRONG_DTYPE)
    dtype.__setstate__(expected)


def _time_dtype(kind: str, metadata: tuple[Any, ...]) -> Any:
    """datetime64 ("M") or timedelta64 ("m") with the unit of the metadata."""
    unit = metadata[0][1] if fits(metadata, tuple) and len(metadata[0]) == 2 else None
    if not (
        type(unit) is tuple and len(unit) == 4 and type(unit[0]) is bytes and type(unit[1]) is int
    ):
        refuse(_WRONG_DTYPE)
    if unit[0] == b"generic":
        return np.dtype(f"{kind}8")
    return np.dtype(f"{kind}8[{unit[1]}{unit[0].decode('ascii')}]")


def _record_dtype(names: Any, fields: Any, itemsize: int, align: bool) -> Any:
    """A structured dtype of `fields`, {name: (dtype, offset)}."""
    if not (
        fits((names, fields), tuple, dict)
        and all(type(n) is str for n in names)
        and set(names) == set(fields)
    ):
        refuse(_WRONG_DTYPE)
    parts = [fields[n] for n in names]
    if not all(
        type(p) is tuple and len(p) == 2 and issubclass(type(p[0]), np.dtype) and type(p[1]) is int
        for p in parts
    ):
        refuse(_WRONG_DTYPE)
    description = {
        "names": list(names),
        "formats": [p[0] for p in parts],
        "offsets": [p[1] for p in parts],
        "itemsize": itemsize,
    }
    return np.dtype(cast(Any, description), align=align)


def _check_layout(shape: Any, dtype: Any, data: Any) -> None:
    """Raises where the data are not as long as shape and dtype say."""
    if not (
        type(shape) is tuple
        and all(type(n) is int and n >= 0 for n in shape)
        and issubclass(type(dtype), np.dtype)
    ):
        refuse(_WRONG_ARRAY)
    count = math.prod(shape)
    if dtype.kind == "O":
        fits = type(data) is list and len(data) == count
    else:
        fits = (
            type(data) in (bytes, bytearray)
            and not dtype.hasobject
            and dtype.itemsize > 0
            and len(data) == count * dtype.itemsize
        )
    if not fits:
        refuse(f"a NumPy array of the shape {shape} has other contents than its shape and type say")


def _reconstruct(machine: Machine, args: tuple[Any, ...]) -> Any:
    if not (len(args) == 3 and type(args[0]) is Named and args[0].text == "numpy.ndarray"):
        refuse("a NumPy array is of a class of its own")
    made = np.empty(0, np.int8)
    machine.unset[id(made)] = made
    return made


def set_array(array: Any, state: Any) -> None:
    if not (type(state) is tuple and len(state) == 5 and type(state[3]) in (bool, int)):
        refuse(_WRONG_ARRAY)
    _, shape, dtype, by_columns, data = state
    _check_layout(shape, dtype, data)
    array.__setstate__(
        (1, shape, dtype, bool(by_columns), bytes(data) if dtype.kind != "O" else data)
    )


def _frombuffer(machine: Machine, args: tuple[Any, ...]) -> Any:
    if not (len(args) == 4 and type(args[3]) is str and args[3] in ("C", "F")):
        refuse(_WRONG_ARRAY)
    data, dtype, shape, order = args
    _check_layout(shape, dtype, data)
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order=order)


def _scalar(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 2:
        refuse("a NumPy scalar is described in a way that NumPy does not write")
    _check_layout((), *args)
    if args[0].kind == "O":
        refuse("a NumPy scalar is of the type object")
    return np.ndarray((), args[0], bytearray(args[1]))[()]


FUNCTIONS: dict[str, Any] = {
    "dtype": _dtype,
    "ndarray": None,
    "_reconstruct": _reconstruct,
    "scalar": _scalar,
    "_frombuffer": _frombuffer,
}
"""By name alone: the modules that define them differ between versions of NumPy."""
