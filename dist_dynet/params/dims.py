"""Arguments of parameters and inputs: dims, the largest size of a parameter, devices, and names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .._ffi import accelerated, lib
from .._file_names import is_text
from .._integers import integer

MAX_DIMS: int = lib.DN_MAX_DIMS
MAX_NUMBERS = (1 << 31) - 1
"""Of a parameter, or an expression with its batch."""


@accelerated
def as_dims(dims: Any, what: str) -> tuple[int, ...]:
    """Sizes from a number or a sequence of numbers; floats are taken where they are whole.

    Raises:
        TypeError: they are neither, or a size is not an integer.
        ValueError: a size is negative or has more than 31 bits, or there are none or too many.
    """
    if isinstance(dims, str | bytes) or dims is None:
        raise TypeError(f"{what}: dims must be a number or a tuple of numbers; got {dims!r}.")
    alone = is_number(dims)
    sizes = (dims,) if alone else tuple(dims)
    result = [size(given, what, f" in {dims!r}") for given in sizes]
    if min(result, default=0) < 0:
        raise ValueError(
            f"{what}: sizes must not be negative; got {result[0] if alone else tuple(result)}."
        )
    if max(result, default=0) >= 1 << 31:
        raise ValueError(
            f"{what}: sizes must have at most 31 bits; got {result[0] if alone else tuple(result)}."
        )
    if not 0 < len(result) <= MAX_DIMS:
        raise ValueError(
            f"{what}: takes 1 to {MAX_DIMS} dims; got {result[0] if alone else tuple(result)}."
        )
    return tuple(result)


def is_number(dims: Any) -> bool:
    """Whether dims are one number, not a sequence of them."""
    return not isinstance(dims, Iterable) or (isinstance(dims, np.ndarray) and dims.ndim == 0)


def dims_of_node(dims: Any, what: str) -> tuple[int, ...]:
    """As as_dims(), but no sizes, as in zeros(()), means a single number."""
    return (1,) if isinstance(dims, tuple | list) and not dims else as_dims(dims, what)


def size(value: Any, what: str, where: str = "") -> int:
    """One size, by the rule of integer().

    Raises:
        TypeError: it is not an integer.
    """
    try:
        return integer(value)
    except TypeError:
        raise TypeError(f"{what}: sizes must be integers; got {value!r}{where}.") from None


def check_size(dims: tuple[int, ...], what: str) -> None:
    """Makes sure that a parameter can hold so many numbers. Call it before they are drawn.

    Raises:
        ValueError: there are too many.
    """
    if math.prod(dims) > MAX_NUMBERS:
        raise ValueError(
            f"{what}: a parameter holds at most {MAX_NUMBERS} numbers; got dims {dims}."
        )


def check_elements(n: int, what: str) -> None:
    """Makes sure that an expression can have so many numbers. Call it before there is an array.

    Raises:
        ValueError: there are too many.
    """
    if n > MAX_NUMBERS:
        raise ValueError(f"{what}: the result would have more than {MAX_NUMBERS} elements.")


def check_device(device: str, what: str) -> None:
    """Makes sure that the device is the CPU.

    Raises:
        ValueError: it is another one.
    """
    if not isinstance(device, str) or device not in ("", "CPU"):
        raise ValueError(
            f"{what}: everything is computed on the CPU; got device = {device!r}. Leave it out."
        )


def check_name(name: str) -> None:
    """Makes sure that a name can be part of a full one.

    Raises:
        TypeError: it is not a string.
        RuntimeError: it has a character that names of files and of DyNet reserve.
    """
    if type(name) is str and not name:  # nearly always
        return
    if not isinstance(name, str):
        raise TypeError(
            f"parameter and collection names must be strings; got {type(name).__name__}."
        )
    if "/" in name or "_" in name:
        raise RuntimeError(
            f"parameter and collection names must not contain '/' or '_'; got {name!r}."
        )
    if any(c.isspace() or c == "#" for c in name):
        raise RuntimeError(
            f"parameter and collection names must not contain blanks or '#'; got {name!r}."
        )
    if not is_text(name):
        raise RuntimeError(
            f"parameter and collection names must be text that a file can hold; got {name!r}."
        )
