"""A list that notices when its elements are read, and when it is changed in place.

It knows the methods of list, and not what a subclass makes of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")

READING = ("__add__", "__mul__", "__reversed__", "__rmul__", "copy", "pop")
"""Methods that hand over elements, beside those that WatchedList writes out. Comparisons and
searches hand over none."""
CHANGING = (
    *("__delitem__", "__iadd__", "__imul__", "__setitem__", "append", "clear", "extend", "insert"),
    *("pop", "remove"),
)
"""Methods after which the list may have another length."""


class WatchedList(list[T], Generic[T]):
    """Calls _on_read() before all elements are handed over, _on_read(i) before those of an index
    or a slice, _on_change() after the list has changed. Copies and slices are plain lists."""

    __slots__ = ()

    def _on_read(self, i: Any = None) -> None:
        """Elements are about to be read: of this index or slice; None: all."""

    def _on_change(self) -> None:
        """The list may have another length now."""

    def __iter__(self) -> Iterator[T]:
        self._on_read()
        return super().__iter__()

    def __getitem__(self, i: Any) -> Any:
        found = super().__getitem__(i)
        self._on_read(i)
        return found

    def __radd__(self, other: list[Any]) -> list[Any]:
        return [*other, *self]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(list(self), dtype)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return list, (list(self),)

    def __copy__(self) -> list[T]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[T]:
        from copy import deepcopy

        return deepcopy(list(self), memo)


def _watched(name: str) -> Any:
    """The method of list of this name, which says so."""
    method = getattr(list, name)
    reads, changes = name in READING, name in CHANGING

    @wraps(method)
    def call(self: WatchedList[Any], *args: Any) -> Any:
        if reads:
            self._on_read()
        result = method(self, *args)
        if changes:
            self._on_change()
        return result

    return call


for _name in {*READING, *CHANGING}:
    setattr(WatchedList, _name, _watched(_name))
