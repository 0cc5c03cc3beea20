"""Compression: messages between hosts in bfloat16, half of the bytes, with error feedback.

Sums are made in full precision; only messages are rounded. The rounding error, the residual, is
kept and added to the same element in the next exchange (Seide et al. 2014; Karimireddy et al.
2019), so that nothing is lost over the steps. This module knows only arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer

CODES = ("bf16",)
"""The values of `compression=`."""


def encode(x: NDArray[Any], residual: NDArray[Any]) -> NDArray[np.uint16]:
    """x + residual in bfloat16. The rounding error becomes the new residual; 0 where x is not
    finite.

    >>> residual = np.zeros(2, DTYPE)
    >>> decode(encode(np.array([1, 1 + 2**-9], DTYPE), residual)).tolist(), residual[1] == 2**-9
    ([1.0, 1.0], np.True_)
    """
    code = np.empty(x.shape, np.uint16)
    out = ffi.from_buffer("uint16_t[]", code)
    lib.dn_bf16_encode(x.size, pointer(x), pointer(residual), out)
    return code


def decode(code: NDArray[np.uint16]) -> NDArray[Any]:
    """The elements that these codes stand for."""
    x = np.empty(code.shape, DTYPE)
    lib.dn_bf16_decode(code.size, ffi.from_buffer("uint16_t[]", code), pointer(x))
    return x


class ErrorFeedback:
    """Encodes messages and keeps their rounding errors until the update is made or refused."""

    def __init__(self) -> None:
        self._sent: list[tuple[NDArray[Any], Any, NDArray[Any]]] = []
        self._used: list[tuple[NDArray[Any], Any, NDArray[Any], Any]] = []

    def encode(
        self, x: NDArray[Any], residual: NDArray[Any], at: Any
    ) -> tuple[NDArray[np.uint16], NDArray[Any]]:
        """x + residual[at] in bfloat16, and the new residual, which the caller may still change:
        commit() stores it."""
        new = np.array(residual[at])
        self._sent.append((residual, at, new))
        return encode(x, new), new

    def use(self, mask: NDArray[np.bool_]) -> None:
        """Marks the elements that are used of all messages since the last call."""
        self._used += [(residual, at, new, mask[at]) for residual, at, new in self._sent]
        self._sent.clear()

    def commit(self, factor: float) -> None:
        """Stores the new residuals, times the factor that the update has applied to the sums."""
        for residual, at, new, mask in [*self._used, *((*sent, True) for sent in self._sent)]:
            residual[at] = np.where(mask, new * DTYPE.type(factor), residual[at])
        self.discard()

    def discard(self) -> None:
        """Keeps the old residuals: the sums are not used."""
        self._sent.clear()
        self._used.clear()


# ---- residuals in checkpoints ----------------------------------------------------------


def packed(residuals: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, Any]]:
    """Residuals without zeros: a rank has those of the elements that it sends.

    >>> kept = packed({"w": np.array([[0, 2.5]], np.float32), "b": np.zeros(3)})
    >>> [*kept], kept["w"]["values"].tolist(), unpacked(kept)["w"].tolist()
    (['w'], [2.5], [[0.0, 2.5]])
    """
    kept: dict[str, dict[str, Any]] = {}
    for name, array in residuals.items():
        used = array != 0
        if used.any():
            shape = list(array.shape)
            kept[name] = {"shape": shape, "used": np.packbits(used), "values": array[used]}
    return kept


def unpacked(kept: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The residuals that packed() was given, without arrays of zeros."""
    residuals = {}
    for name, of in kept.items():
        residuals[name] = array = np.zeros(of["shape"], of["values"].dtype)
        used = np.unpackbits(of["used"], count=array.size).reshape(array.shape)
        array[used.astype(bool)] = of["values"]
    return residuals


def added_up(parts: Iterable[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The sum of several packed() residuals."""
    total: dict[str, NDArray[Any]] = {}
    for part in parts:
        for name, residual in unpacked(part).items():
            total[name] = residual if name not in total else total[name] + residual
    return total
