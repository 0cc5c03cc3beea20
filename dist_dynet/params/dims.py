"""Arguments of parameters and inputs: what counts as dims, how many numbers a parameter may hold,
which device there is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .._ffi import accelerated, lib
from .._integers import integer

MAX_DIMS: int = lib.DN_MAX_DIMS


@accelerated
def as_dims(dims: Any, what: str) -> tuple[int, ...]:
    """Sizes from a number or a sequence of numbers; floats are taken where they are whole."""
    if isinstance(dims, str | bytes) or dims is None:
        raise TypeError(f"{what}: dims must be a number or a tuple of numbers; got {dims!r}.")
    alone = not isinstance(dims, Iterable) or (isinstance(dims, np.ndarray) and dims.ndim == 0)
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


def size(value: Any, what: str, where: str = "") -> int:
    """One size, by the rule of integer()."""
    try:
        return integer(value)
    except TypeError:
        raise TypeError(f"{what}: sizes must be integers; got {value!r}{where}.") from None


def check_size(dims: tuple[int, ...], what: str) -> None:
    """ValueError for more numbers than a parameter holds; to be called before they are drawn."""
    if math.prod(dims) >= 1 << 31:
        raise ValueError(
            f"{what}: a parameter holds at most {(1 << 31) - 1} numbers; got dims {dims}."
        )


def check_device(device: str, what: str) -> None:
    """Raises a ValueError for any device but the CPU."""
    if device not in ("", "CPU"):
        raise ValueError(
            f"{what}: everything is computed on the CPU; got device = {device!r}. Leave it out."
        )
