"""The one rule of what counts as an integer, a float, or a list of them. Sizes, indices, dims,
counts and rates obey it in every call.

csrc/python/numbers.c converts Python's and NumPy's integers of 32 bits and floats, and hands
everything else to the functions here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ._ffi import DTYPE, accelerated, calls

calls.number_classes(np.integer, np.float32, np.ndarray)


def integer(value: Any) -> int:
    """The integer that a value stands for.

    Integers, Python's and NumPy's; floats without a fraction, as n / 2 gives them; NumPy arrays of
    one such element. True and False are 1 and 0, as everywhere in Python; NumPy's truth values are
    masks, not integers, and refused as text, NaN, infinity and fractions are.

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


def integer_argument(value: Any, what: str, name: str, hint: str = "") -> int:
    """The argument `name` of the function `what` as an integer of any size. `hint` is appended to
    the error.

    Raises: TypeError for what integer() does not take.
    """
    try:
        return integer(value)
    except TypeError:
        raise TypeError(f"{what}: {name} must be an integer; got {value!r:.60}.{hint}") from None


def _of_32_bits(n: int, what: str, name: str) -> int:
    if not -(1 << 31) <= n < 1 << 31:
        raise OverflowError(f"{what}: {name} must have at most 31 bits; got {n}.")
    return n


@accelerated
def whole(value: Any, what: str, name: str = "the index", several: str = "") -> int:
    """As integer_argument(), for integers of 32 bits, which C takes. `several` names the function
    that takes lists of them.

    Raises: TypeError as integer_argument(), OverflowError for more bits.
    """
    hint = (
        f" For several: {several}()."
        if several and isinstance(value, Iterable | slice) and not isinstance(value, str)
        else ""
    )
    if isinstance(value, calls.Node):
        hint = " It is a number of Python's, such as int(x.value()) or x.npvalue().argmax()."
        if name == "a dim":
            hint = f" Expressions go into one list: {what}([x, y])."
    return _of_32_bits(integer_argument(value, what, name, hint), what, name)


def is_one(value: Any) -> bool:
    """Whether it stands for a single index: it is not iterable, or is an array without dims."""
    return not isinstance(value, Iterable) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _is_flat(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim == 1
    return isinstance(values, Iterable) and not any(
        isinstance(v, Iterable) and not isinstance(v, str) for v in values
    )


@accelerated
def indices(values: Iterable[int], what: str) -> Sequence[int]:
    """Integers of 32 bits from any iterable, by the rule of integer()."""
    items: Any = values
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iuf":
        items = values.tolist()
    try:
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise TypeError(f"{values.ndim} dims")
        found = [v if type(v) is int else integer(v) for v in items]
    except TypeError:
        raise TypeError(
            f"{what}: indices must be integers{'' if _is_flat(values) else ' in one flat list'};"
            f" got {values!r}."
        ) from None
    if found:
        for extreme in (min(found), max(found)):
            _of_32_bits(extreme, what, "the index")
    return found


def items_of(values: Any, what: str, takes: str) -> list[Any]:
    """The items of any iterable, as a list, for the function `what`, which takes `takes`.

    Raises: TypeError if it is no iterable.
    """
    try:
        items = iter(values)
    except TypeError:
        raise TypeError(f"{what}: takes {takes}; got {values!r:.60}.") from None
    return list(items)


def one_or_more(values: int | Iterable[int], what: str) -> Sequence[int]:
    """As indices(); also takes a single integer."""
    return indices([values] if is_one(values) else values, what)  # type: ignore[list-item, arg-type]


@accelerated
def real(value: Any, what: str) -> float:
    """One number as a float; text, which float() would read, is refused."""
    if isinstance(value, str | bytes):
        raise TypeError(f"{what}: takes numbers; got {value!r:.60}.")
    if value is np.ma.masked:
        raise TypeError(f"{what}: takes numbers; got a masked one.")
    if isinstance(value, calls.Node):
        raise TypeError(
            f"{what}: takes numbers; got an expression. For its value: float(x); no gradient flows"
            " through that."
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what}: takes numbers; {error}.") from None
    except OverflowError as error:
        raise OverflowError(f"{what}: takes numbers; {error}.") from None


def number_argument(value: Any, what: str, takes: str = "a number") -> float:
    """The argument `what` as a float, which may be NaN. An expression stands for its value.

    Raises:
        TypeError: it is no number, or one that no float holds.
    """
    is_expression = isinstance(value, calls.Node)
    try:
        return real(value.value() if is_expression else value, what)
    except (TypeError, OverflowError):
        raise TypeError(f"{what} must be {takes}; got {value!r:.60}.") from None


def floats(values: Any, what: str) -> Any:
    """Numbers in a form that C takes: a contiguous array of the build's type."""
    return np.ascontiguousarray(numbers(values, what), DTYPE)


def _has_expressions(values: Any) -> bool:
    """Whether it is an expression, or a nested sequence of expressions: NumPy would take their
    values, and no gradient would flow."""
    if isinstance(values, list | tuple):
        return any(issubclass(kind, calls.Node) for kind in set(map(type, values))) or (
            len(values) > 0 and _has_expressions(values[0])
        )
    return isinstance(values, calls.Node)


def numbers(values: Any, what: str, takes: str = "takes numbers", order: Any = None) -> Any:
    """An array of the build's type, in the memory order `order`, from arrays and nested sequences
    of numbers. An array that fits is not copied.

    NumPy itself would read None as NaN and text as a number.
    """
    if type(values) is np.ndarray and values.dtype.kind == "f":  # nearly always
        return np.asarray(values, DTYPE, order)
    if _has_expressions(values):
        raise TypeError(f"{what}: {takes}; got expressions. To join expressions: concatenate().")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise TypeError(
            f"{what}: {takes}; got masked ones. Say what stands for them: array.filled(0)."
        )
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO" or (
            array.dtype.kind == "O" and any(isinstance(v, str | None) for v in array.flat)
        ):
            raise TypeError(f"got {values!r:.60}")
        return np.asarray(array, DTYPE, order)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what}: {takes}; {str(error).rstrip('.')}.") from None
    except OverflowError as error:
        raise OverflowError(f"{what}: {takes}; {error}.") from None


FEW = 64
"""Up to so many numbers, a list is faster than an array."""


def listed_if_few(array: Any) -> Any:
    """The numbers of an array in column-major order, as a list where that is faster."""
    flat = array if array.ndim == 1 else array.ravel(order="F")
    return flat.tolist() if 0 < flat.size <= FEW and flat.dtype.kind == "f" else flat
