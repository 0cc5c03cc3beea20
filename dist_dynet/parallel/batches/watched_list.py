"""A list that notices when its elements are read and when it is changed in place.

It knows the methods of list, and nothing about what a subclass does with this.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")

READERS = ("__add__", "__mul__", "__reversed__", "__rmul__", "copy", "pop")
"""Methods that return elements, beside those that WatchedList overrides. Comparisons and searches
return none."""
MUTATORS = (
    *("__delitem__", "__iadd__", "__imul__", "__setitem__", "append", "clear", "extend", "insert"),
    *("pop", "remove"),
)
"""Methods that may change the length of the list."""


class WatchedList(list[T], Generic[T]):
    """Calls _on_read() before all elements are returned, _on_read(i) for an index or a slice, and
    _on_change() after the list has changed. Copies and slices are plain lists."""

    __slots__ = ()

    def _on_read(self, i: Any = None) -> None:
        """Called when elements are about to be read: those of this index or slice; None: all."""

    def _on_change(self) -> None:
        """Called when the list may have another length."""

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
    """list's method of this name, with the calls of _on_read() and _on_change()."""
    method = getattr(list, name)
    reads, changes = name in READERS, name in MUTATORS

    @wraps(method)
    def call(self: WatchedList[Any], *args: Any) -> Any:
        if reads:
            self._on_read()
        result = method(self, *args)
        if changes:
            self._on_change()
        return result

    return call


for _name in {*READERS, *MUTATORS}:
    setattr(WatchedList, _name, _watched(_name))
