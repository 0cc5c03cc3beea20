"""Precision of matrix products: its names in programs and its numbers in C.

csrc/tape/rounded.c documents which products are rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .._ffi import DTYPE_NAME, bf16_instructions, lib

PRECISIONS: dict[str | None, int] = {
    None: lib.DN_PRECISION_DEFAULT,
    "float32": lib.DN_PRECISION_FLOAT32,
    "bf16": lib.DN_PRECISION_BF16,
}


def check_precision(precision: Any, what: str) -> int:
    """C's number of a precision; None: the default of the process.

    Raises:
        ValueError: there is no such precision, or not with this number type.

    >>> check_precision("float32", "example") == lib.DN_PRECISION_FLOAT32
    True
    """
    if not isinstance(precision, str | None) or precision not in PRECISIONS:
        raise ValueError(f"{what}: takes 'float32' or 'bf16'; got {precision!r}.")
    if precision == "bf16" and DTYPE_NAME != "float32":
        raise ValueError(
            f"{what}: 'bf16' rounds products of float32 numbers; got DIST_DYNET_DTYPE={DTYPE_NAME}."
        )
    return PRECISIONS[precision]


def name_of_precision(number: int) -> str | None:
    """The name for C's number."""
    return next(name for name, known in PRECISIONS.items() if known == number)


class _Defaults:
    precision = "float32"


_defaults = _Defaults()


def use_precision(precision: str) -> None:
    """Sets the precision of all parameters that have none of their own."""
    lib.dn_set_precision(check_precision(precision, "precision"))
    _defaults.precision = precision


def rounding(own: Iterable[str | None]) -> str:
    """How products with parameters of these precisions are rounded; empty if none is."""
    rounds = "bf16" in {precision or _defaults.precision for precision in own}
    return f"products rounded to bfloat16 by {bf16_instructions()}" if rounds else ""
