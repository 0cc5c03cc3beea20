"""Holders of numbers that DyNet has around its settings."""

from __future__ import annotations

from collections.abc import Sequence

from ._integers import count

__all__ = ["FloatValue", "FloatVectorValue", "UnsignedValue", "UnsignedVectorValue"]


class UnsignedValue:
    """Holds an integer, 0 or more."""

    def __init__(self, val: int = 0) -> None:
        self.set(val)

    def get(self) -> int:
        """The number."""
        return self._value

    def set(self, val: int) -> None:
        """Another number; OverflowError if it is negative."""
        self._value = _unsigned(val, "UnsignedValue")


class FloatValue:
    """Holds a number."""

    def __init__(self, val: float = 0) -> None:
        self.set(val)

    def get(self) -> float:
        """The number."""
        return self._value

    def set(self, val: float) -> None:
        """Another number."""
        self._value = float(val)


class UnsignedVectorValue:
    """Holds integers, 0 or more."""

    def __init__(self, vals: Sequence[int]) -> None:
        self.set(vals)

    def get(self) -> list[int]:
        """The numbers."""
        return list(self._values)

    def set(self, newval: Sequence[int]) -> None:
        """Other numbers; OverflowError if one is negative."""
        self._values = [_unsigned(v, "UnsignedVectorValue") for v in newval]

    def size(self) -> int:
        """How many there are."""
        return len(self._values)


class FloatVectorValue:
    """Holds numbers."""

    def __init__(self, vals: Sequence[float]) -> None:
        self.set(vals)

    def get(self) -> list[float]:
        """The numbers."""
        return list(self._values)

    def set(self, newval: Sequence[float]) -> None:
        """Other numbers."""
        self._values = [float(v) for v in newval]

    def size(self) -> int:
        """How many there are."""
        return len(self._values)


def _unsigned(value: int, what: str) -> int:
    number = count(value, what, "a number")
    if number < 0:
        raise OverflowError(f"{what}: takes integers, 0 or more; got {value}.")
    return number
