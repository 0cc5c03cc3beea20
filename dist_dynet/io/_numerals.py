"""Numbers as DyNet's model files spell them: sign, nine digits, exponent, blank.

They are formatted as arrays, which takes a quarter of the time of formatting one by one. Powers of
ten up to 10^22 are exact doubles, so a number and its nine digits are one rounding apart. Numbers
that are too close to a tie for that, too small or too large are formatted one by one.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import declines

WIDTH = 16
"""Bytes of a finite number below 1e100."""
AT_ONCE = 1 << 14
"""How many numbers one call should format."""
_FEW = 256
"""Fewer are faster one by one."""
_SPELLING = b"%+.8e "
_LEAST, _MOST = -14, 30
"""The least and the largest exponent: nine digits then are multiplied by at most 10^22."""
_EXPONENTS = range(_LEAST, _MOST + 1)
_UP, _DOWN = (
    np.array([float(f"1e{max(0, sign * (8 - k))}") for k in _EXPONENTS]) for sign in (1, -1)
)
"""Nine digits are the number times one of _UP, divided by one of _DOWN; one of the two is
1."""
_ENDS = np.array([b"e%+03d " % k for k in _EXPONENTS])
_NEAR = 1e-6
"""Closer to a tie the rounding is not certain: ten times the error of the nine digits."""


@functools.cache
def _four_digits() -> NDArray[np.bytes_]:
    """The numbers below 10,000 as text; made at the first use."""
    return np.array([b"%04d" % i for i in range(10_000)])


def spelt_one_by_one(numbers: NDArray[Any]) -> bytes:
    """As spelt(), but one number at a time."""
    return (_SPELLING * numbers.size) % tuple(numbers.tolist())


def spelt(numbers: NDArray[Any]) -> bytes:
    """The numbers, each followed by a blank.

    >>> import numpy as np
    >>> spelt(np.array([0.1, -2.5e-7]))
    b'+1.00000000e-01 -2.50000000e-07 '
    """
    if numbers.size < _FEW or declines("numerals"):
        return spelt_one_by_one(numbers)
    size = np.abs(numbers.astype(np.float64))
    usual, zero = (size >= 10.0**_LEAST) & (size < 10.0**_MOST), size == 0
    size[~usual] = 1
    row = np.floor(np.log10(size)).astype(np.intp) - _LEAST  # perhaps the one beside it
    scaled = size * _UP[row] / _DOWN[row]
    nine = np.rint(scaled)
    alone = (nine < 1e8) | (nine >= 1e9) | (np.abs(scaled - nine) > 0.5 - _NEAR)
    alone |= ~usual & ~zero
    nine[zero] = 0
    head, last = np.divmod(nine.astype(np.uint32), np.uint32(10_000))
    first, middle = np.divmod(head, np.uint32(10_000))
    grid = np.empty((numbers.size, WIDTH), np.uint8)
    grid[:, 0] = np.where(np.signbit(numbers), ord("-"), ord("+"))
    grid[:, 1] = first + ord("0")
    grid[:, 2] = ord(".")
    digits = _four_digits()
    for at, part in ((3, digits[middle]), (7, digits[last]), (11, _ENDS[row])):
        width = part.dtype.itemsize
        grid[:, at : at + width] = part.view(np.uint8).reshape(-1, width)
    for i in np.flatnonzero(alone).tolist():
        text = spelt_one_by_one(numbers[i : i + 1])
        if len(text) != WIDTH:  # not finite, or an exponent of three digits
            return spelt_one_by_one(numbers)
        grid[i] = np.frombuffer(text, np.uint8)
    return grid.tobytes()
