"""What counts as an integer argument: the one rule that sizes, indices, dims and counts obey, in each call.

The fast calls in csrc/python take Python's own integers of 32 bits and hand everything else to Python, that is, to this rule.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np


def integer(value: Any) -> int:
    """The integer that a value stands for.

    Integers, Python's and NumPy's; floats without a fraction, as n / 2 gives them; NumPy arrays of one such element. True and False are 1
    and 0, as everywhere in Python; NumPy's truth values are masks, not integers, and refused as text, NaN, infinity and fractions are.

    Raises: TypeError for anything else.

    >>> integer(3), integer(3.0), integer(np.float32(3)), integer(np.array([3]))
    (3, 3, 3, 3)
    """
    if type(value) is int:  # nearly always
        return value
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    if isinstance(value, float | np.floating):
        if not value.is_integer():
            raise TypeError(f"{value!r} is not an integer")
        return int(value)
    if isinstance(value, np.bool_):  # older NumPys would give 0 and 1
        raise TypeError(f"{value!r} is not an integer")
    return operator.index(value)


def named(value: Any, what: str, name: str) -> int:
    """The argument `name` of the function `what` as an integer of any size.

    Raises: TypeError for what integer() does not take.
    """
    try:
        return integer(value)
    except TypeError:
        raise TypeError(f"{what}: {name} must be a whole number; got {value!r:.60}.") from None


def count(value: Any, what: str, name: str) -> int:
    """As named(), of 32 bits, as C takes it.

    Raises: TypeError as named(), OverflowError for more bits.
    """
    n = named(value, what, name)
    if not -(1 << 31) <= n < 1 << 31:
        raise OverflowError(f"{what}: {name} must have at most 31 bits; got {n}.")
    return n
