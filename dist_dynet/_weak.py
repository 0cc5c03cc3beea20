"""Weak references whose ends run no code of Python, as those of the standard library's weak
collections do: Python ignores what is raised there, so a Ctrl-C that arrives just then is lost."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class AnyReference(weakref.ref[T]):
    """A weak reference that is equal to itself alone, and has a hash even if its referent has
    none."""

    __slots__ = ()
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__


class WeakBag(Generic[T]):
    """Objects that it does not keep alive, whatever they are equal to and whether they have a hash:
    they are only iterated over. They may come and go meanwhile."""

    __slots__ = ("_references",)

    def __init__(self) -> None:
        self._references: set[weakref.ref[Any]] = set()

    def add(self, member: T) -> None:
        self._references.add(AnyReference(member, self._references.discard))

    def __iter__(self) -> Iterator[T]:
        for reference in self._references.copy():
            member = reference()
            if member is not None:
                yield member

    def __bool__(self) -> bool:
        return bool(self._references)


class WeakSet(WeakBag[T]):
    """A set that does not keep its members alive."""

    __slots__ = ()

    def add(self, member: T) -> None:
        self._references.add(weakref.ref(member, self._references.discard))

    def discard(self, member: T) -> None:
        self._references.discard(weakref.ref(member))

    def clear(self) -> None:
        self._references.clear()

    def __contains__(self, member: object) -> bool:
        return weakref.ref(member) in self._references
