"""Compresses messages to a half or a quarter of their bytes: bfloat16, or 8 bits and a scale for
each block of 256 numbers, with error feedback.

Sums are made in full precision; only messages are rounded. The rounding error is kept and added to
the same number at the next exchange (Seide et al. 2014; Karimireddy et al. 2019), so that over
steps nothing is lost. Blocks with a scale each: Dettmers et al. 2022. This module knows only
arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer


class Code(ABC):
    """How messages encode numbers. Rows of numbers become rows of items."""

    dtype: np.dtype[Any]
    """Of an item."""

    @abstractmethod
    def items(self, width: int) -> int:
        """Number of items for a row of so many numbers."""

    @abstractmethod
    def encode(self, rows: NDArray[Any], residual: NDArray[Any], out: NDArray[Any]) -> None:
        """out = rows + residual, rounded; residual = the rounding error, 0 where a number was not
        finite."""

    @abstractmethod
    def decode(self, items: NDArray[Any], out: NDArray[Any]) -> None:
        """out = the rows of numbers that these items encode."""

    def empty(self, size: int) -> NDArray[Any]:
        """A buffer for a message of so many numbers in one row."""
        return np.empty(self.items(size), self.dtype)

    def decoded(self, items: NDArray[Any], width: int) -> NDArray[Any]:
        """The rows of numbers, of this width.

        >>> CODES["bf16"].decoded(np.array([[0x3F80, 0xBF00]], np.uint16), 2).tolist()
        [[1.0, -0.5]]
        """
        out = np.empty((len(items), width), DTYPE)
        self.decode(items, out)
        return out


class _Bf16(Code):
    """The upper half of a float."""

    dtype = np.dtype(np.uint16)

    def items(self, width: int) -> int:
        return width

    def encode(self, rows: NDArray[Any], residual: NDArray[Any], out: NDArray[Any]) -> None:
        code = ffi.from_buffer("uint16_t[]", out)
        lib.dn_bf16_encode(rows.size, pointer(rows), pointer(residual), code)

    def decode(self, items: NDArray[Any], out: NDArray[Any]) -> None:
        lib.dn_bf16_decode(out.size, ffi.from_buffer("uint16_t[]", items), pointer(out))


class _Int8(Code):
    """Blocks of 256 numbers of a row: a scale, then one byte per number."""

    dtype = np.dtype(np.uint8)

    def items(self, width: int) -> int:
        return width + 4 * -(-width // int(lib.DN_INT8_BLOCK))

    def encode(self, rows: NDArray[Any], residual: NDArray[Any], out: NDArray[Any]) -> None:
        code = ffi.from_buffer("uint8_t[]", out)
        lib.dn_int8_encode(*_shape(rows), pointer(rows), pointer(residual), code)

    def decode(self, items: NDArray[Any], out: NDArray[Any]) -> None:
        code = ffi.from_buffer("uint8_t[]", np.ascontiguousarray(items))
        lib.dn_int8_decode(*_shape(out), code, pointer(out))


def _shape(rows: NDArray[Any]) -> tuple[int, int]:
    return (1, rows.size) if rows.ndim == 1 else (rows.shape[0], rows.shape[1])


CODES: dict[str, Code] = {"bf16": _Bf16(), "int8": _Int8()}
"""By the names that `compression=` takes."""


class ErrorFeedback:
    """Encodes messages from one array, and keeps their rounding errors."""

    def __init__(self, code: Code, size: int) -> None:
        self.code = code
        self.residual = np.zeros(size, DTYPE)
        """What is added before the next rounding."""
        self._before = np.empty(size, DTYPE)
        self._encoded: list[tuple[int, int]] = []  # ranges in which it holds the old residual

    def encode(self, array: NDArray[Any], start: int, end: int) -> NDArray[Any]:
        """A message: array + residual, rounded, in this range; residual = the rounding error."""
        self._before[start:end] = self.residual[start:end]
        self._encoded.append((start, end))
        message = self.code.empty(end - start)
        self.code.encode(array[start:end], self.residual[start:end], message)
        return message

    def commit(self, factor: float = 1.0, sums: Any = None, limit: float = 0.0) -> None:
        """Notes that an update has used all messages so far, times this factor, which applies to
        their rounding errors as well. sums, limit: where a sum was beyond the limit, the update has
        used the limit, so that nothing is owed."""
        for start, end in self._encoded:
            rest = self.residual[start:end]
            if factor != 1:
                rest *= DTYPE.type(factor)
            if limit > 0:
                rest[np.abs(sums[start:end]) > limit] = 0
        self._encoded.clear()

    def committed(self) -> NDArray[Any]:
        """The residual without the messages since commit(): a view or a copy."""
        if not self._encoded:
            return self.residual
        residual = self.residual.copy()
        for start, end in self._encoded:
            residual[start:end] = self._before[start:end]
        return residual

    def take_back(self, start: int = 0, end: int | None = None) -> None:
        """Restores the residual from before the messages since commit(), in this range."""
        end = self.residual.size if end is None else end
        encoded, self._encoded = self._encoded, []
        for first, last in encoded:
            inside = slice(max(first, start), min(last, end))
            if inside.start < inside.stop:
                self.residual[inside] = self._before[inside]
            rest = (first, min(last, start)), (max(first, end), last)
            self._encoded += [(one, to) for one, to in rest if one < to]


_BLOCK = 16


def packed(residuals: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, Any]]:
    """Residuals without blocks of zeros, in blocks of 16 numbers; views where nothing is left out.

    A rank has residuals of what it sends: of a stripe if its host has several ranks, and of the
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
    """The residuals that packed() was given, without arrays of zeros; copies."""
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
    """The sum of several packed() residuals."""
    total: dict[str, NDArray[Any]] = {}
    for part in parts:
        for name, residual in unpacked(part).items():
            total[name] = residual if name not in total else total[name] + residual
    return total
