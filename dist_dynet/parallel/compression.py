"""What crosses the wire in half of the bytes: bfloat16 with error feedback.

Sums are made in full precision; only messages are rounded. What rounding takes away is kept and
added to the same number at the next exchange (Seide et al. 2014), so that over steps nothing is
lost. It knows arrays only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, pointer

CODE = np.dtype(np.uint16)
"""The type of what is sent."""


def _codes(code: NDArray[Any]) -> Any:
    return ffi.from_buffer("uint16_t[]", code)


class Bf16:
    """Codes for one array, and what earlier messages lacked of it."""

    def __init__(self, size: int) -> None:
        self.residual = np.zeros(size, DTYPE)
        """What is added before the next rounding; 0 where a number was not finite."""
        self.code = np.empty(size, CODE)

    def encode(self, array: NDArray[Any], start: int, end: int) -> None:
        """code = array + rest, rounded, in this range; rest = what that lacks."""
        lib.dn_bf16_encode(
            end - start,
            pointer(array[start:end]),
            pointer(self.residual[start:end]),
            _codes(self.code[start:end]),
        )


def decoded(code: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The numbers that these codes stand for.

    >>> decoded(np.array([0x3F80, 0xBF00], np.uint16)).tolist()
    [1.0, -0.5]
    """
    if out is None:
        out = np.empty(code.size, DTYPE)
    lib.dn_bf16_decode(code.size, _codes(code), pointer(out))
    return out


_BLOCK = 16


def packed(residuals: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, Any]]:
    """Residuals without what is zero in them, in blocks of 16 numbers; views where all is taken.

    A rank has residuals of what it sends: of a stripe where its host has several ranks, and of the
    rows that were used.

    >>> kept = np.zeros(40, np.float32)
    >>> kept[3] = 1
    >>> [(name, len(of["values"])) for name, of in packed({"w": kept, "b": kept[16:]}).items()]
    [('w', 24)]
    """
    kept: dict[str, dict[str, Any]] = {}
    for name, array in residuals.items():
        flat = array.reshape(-1)
        if not flat.view(f"u{flat.itemsize}").any():
            continue
        whole = flat.size // _BLOCK * _BLOCK
        blocks = flat[:whole].reshape(-1, _BLOCK)
        used = blocks.view(f"u{flat.itemsize}").any(axis=1)
        kept[name] = {"shape": list(array.shape), "values": flat}
        if not used.all():
            kept[name]["used"] = np.packbits(used)
            kept[name]["values"] = np.concatenate([blocks[used].reshape(-1), flat[whole:]])
    return kept


def unpacked(kept: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """What packed() was given, but for arrays of zeros; copies."""
    residuals: dict[str, NDArray[Any]] = {}
    for name, of in kept.items():
        residuals[name] = np.zeros(of["shape"], of["values"].dtype)
        flat, values = residuals[name].reshape(-1), of["values"]
        if "used" not in of:
            flat[:] = values
            continue
        whole = flat.size // _BLOCK * _BLOCK
        used = np.unpackbits(of["used"], count=whole // _BLOCK).astype(bool)
        flat[:whole].reshape(-1, _BLOCK)[used] = values[: -(flat.size - whole) or None].reshape(
            -1, _BLOCK
        )
        flat[whole:] = values[values.size - (flat.size - whole) :]
    return residuals


def added_up(parts: Iterable[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The sum of what several packed() gave."""
    total: dict[str, NDArray[Any]] = {}
    for part in parts:
        for name, residual in unpacked(part).items():
            total[name] = residual if name not in total else total[name] + residual
    return total
