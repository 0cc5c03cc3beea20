"""DyNet's holders of numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ._integers import items_of, real, whole

__all__ = ["FloatValue", "FloatVectorValue", "UnsignedValue", "UnsignedVectorValue"]


class UnsignedValue:
    """Holds an integer, 0 or more.

    >>> import dist_dynet as dy
    >>> dy.UnsignedValue(3).get()
    3
    """

    def __init__(self, val: int = 0) -> None:
        self.set(val)

    def get(self) -> int:
        """The number.

        >>> import dist_dynet as dy
        >>> dy.UnsignedValue(3).get()
        3
        """
        return self._value

    def set(self, val: int) -> None:
        """Another number; OverflowError if it is negative.

        >>> import dist_dynet as dy
        >>> holder = dy.UnsignedValue(3)
        >>> holder.set(4)
        >>> holder.get()
        4
        """
        self._value = _unsigned(val, "UnsignedValue")


class FloatValue:
    """Holds a number.

    >>> import dist_dynet as dy
    >>> dy.FloatValue(2.5).get()
    2.5
    """

    def __init__(self, val: float = 0) -> None:
        self.set(val)

    def get(self) -> float:
        """The number.

        >>> import dist_dynet as dy
        >>> dy.FloatValue(2.5).get()
        2.5
        """
        return self._value

    def set(self, val: float) -> None:
        """Another number.

        >>> import dist_dynet as dy
        >>> holder = dy.FloatValue(2.5)
        >>> holder.set(4)
        >>> holder.get()
        4.0
        """
        self._value = real(val, "FloatValue")


class UnsignedVectorValue:
    """Holds integers, 0 or more.

    >>> import dist_dynet as dy
    >>> dy.UnsignedVectorValue([1, 2]).get()
    [1, 2]
    """

    def __init__(self, vals: Sequence[int]) -> None:
        self.set(vals)

    def get(self) -> list[int]:
        """The numbers.

        >>> import dist_dynet as dy
        >>> dy.UnsignedVectorValue([1, 2]).get()
        [1, 2]
        """
        return list(self._values)

    def set(self, newval: Sequence[int]) -> None:
        """Other numbers; OverflowError if one is negative.

        >>> import dist_dynet as dy
        >>> holder = dy.UnsignedVectorValue([1, 2])
        >>> holder.set([3, 4, 5])
        >>> holder.get()
        [3, 4, 5]
        """
        items = items_of(newval, "UnsignedVectorValue", "a list of integers")
        self._values = [_unsigned(v, "UnsignedVectorValue") for v in items]

    def size(self) -> int:
        """How many there are.

        >>> import dist_dynet as dy
        >>> dy.UnsignedVectorValue([1, 2]).size()
        2
        """
        return len(self._values)


class FloatVectorValue:
    """Holds numbers.

    >>> import dist_dynet as dy
    >>> dy.FloatVectorValue([1, 2]).get()
    [1.0, 2.0]
    """

    def __init__(self, vals: Sequence[float]) -> None:
        self.set(vals)

    def get(self) -> list[float]:
        """The numbers.

        >>> import dist_dynet as dy
        >>> dy.FloatVectorValue([1, 2]).get()
        [1.0, 2.0]
        """
        return list(self._values)

    def set(self, newval: Sequence[float]) -> None:
        """Other numbers.

        >>> import dist_dynet as dy
        >>> holder = dy.FloatVectorValue([1, 2])
        >>> holder.set([3, 4, 5])
        >>> holder.get()
        [3.0, 4.0, 5.0]
        """
        items = items_of(newval, "FloatVectorValue", "a list of numbers")
        self._values = [real(v, "FloatVectorValue") for v in items]

    def size(self) -> int:
        """How many there are.

        >>> import dist_dynet as dy
        >>> dy.FloatVectorValue([1, 2]).size()
        2
        """
        return len(self._values)


def _unsigned(value: int, what: str) -> int:
    number = whole(value, what, "a number")
    if number < 0:
        raise OverflowError(f"{what}: takes integers, 0 or more; got {value}.")
    return number
