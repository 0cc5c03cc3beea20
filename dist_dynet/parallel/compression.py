"""What crosses the wire in half of the bytes: bfloat16 with error feedback.

Sums are made in full precision; only messages are rounded. What rounding takes away is kept and
added to the same number at the next exchange (Seide et al. 2014), so that over steps nothing is
lost. It knows arrays only.
"""

from __future__ import annotations

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
