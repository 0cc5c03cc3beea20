"""Numbers as DyNet's model files spell them: sign, nine digits, exponent, blank.

They are written by arrays, in a quarter of the time that each number by itself takes. Powers of ten
up to 10^22 are doubles, so that one rounding lies between a number and its nine digits; what is too
near to a tie for it, too small or too large is spelt by itself.
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
"""How many numbers are best written by one call."""
_FEW = 256
"""Fewer are written faster one by one."""
_SPELLING = b"%+.8e "
_LEAST, _MOST = -14, 30
"""Exponents: those of 10 in what nine digits are multiplied by are at most 22."""
_EXPONENTS = range(_LEAST, _MOST + 1)
_UP, _DOWN = (
    np.array([float(f"1e{max(0, sign * (8 - k))}") for k in _EXPONENTS]) for sign in (1, -1)
)
"""Nine digits are the number times one of these, divided by one of those, one of which is 1."""
_ENDS = np.array([b"e%+03d " % k for k in _EXPONENTS])
_NEAR = 1e-6
"""Nearer to a tie than ten times what is rounded from nine digits."""


@functools.cache
def _four_digits() -> NDArray[np.bytes_]:
    """The numbers below 10,000; made when they are wanted first."""
    return np.array([b"%04d" % i for i in range(10_000)])


def spelt_one_by_one(numbers: NDArray[Any]) -> bytes:
    """As spelt()."""
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
