"""Who belongs to a collection, and under which name: all of what is added, or nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .._random import drawn, put_back
from .parameters import AnyParameter, LookupParameters, Parameters
from .root import Root

if TYPE_CHECKING:
    from typing_extensions import Self

P = TypeVar("P", Parameters, LookupParameters)


class Members:
    """The parameters of a collection, which are also those of the collections that it is in."""

    _name: str
    _root: Root
    _parent: Any
    _parameters: list[Parameters]
    _lookups: list[LookupParameters]
    _counts: dict[str, int]
    _subcollection_counts: dict[str, int]
    _precision: str | None = None

    def _next_name(self, name: str, counts: dict[str, int]) -> str:
        n = counts.get(name, 0)
        counts[name] = n + 1
        return self._name + (f"{name}_{n}" if n or not name else name)

    def _free_name(self, full_name: str, name: str, counts: dict[str, int]) -> None:
        """The next one that asks for `name` may have the full name again, if this was the last."""
        before = {name: counts.get(name, 0) - 1}
        if before[name] >= 0 and self._next_name(name, before) == full_name:
            counts[name] -= 1
            if not counts[name]:
                del counts[name]

    def _lineage(self) -> Iterator[Self]:
        at: Self | None = self
        while at is not None:
            yield at
            at = at._parent

    def _add(self, name: str, make: Callable[[str], P]) -> P:
        """Adds what make(full name) gives. If it fails, nothing was added or drawn, and the name is
        free."""
        made: list[P] = []
        full_name = ""
        draws = drawn()
        try:
            full_name = self._next_name(name, self._counts)
            made.append(make(full_name))
            self._adopt(made[0])
        except BaseException:
            put_back(draws)
            for at in self._lineage():
                at._drop(made)
            self._free_name(full_name, name, self._counts)
            raise
        return made[0]

    def _new(self, name: str, dims: tuple[int, ...], is_table: bool) -> AnyParameter:
        """A parameter, or a table whose rows are the last dim, that is no member yet. As in DyNet
        it takes up a number of those that name others."""
        self._next_name("", self._counts)
        if is_table:
            return LookupParameters(self._root, name, dims[:-1], dims[-1])
        parameter = Parameters(self._root, name, dims, 0)
        if self._precision is not None:
            parameter.set_precision(self._precision)
        return parameter

    def _adopt(self, parameter: AnyParameter) -> None:
        for at in self._lineage():
            members: list[Any] = at._lookups if parameter._rows else at._parameters
            members.append(parameter)

    def _drop(self, members: Iterable[AnyParameter]) -> None:
        gone = set(map(id, members))
        self._parameters[:] = [p for p in self._parameters if id(p) not in gone]
        self._lookups[:] = [p for p in self._lookups if id(p) not in gone]

    def _leave(self) -> None:
        """Takes this subcollection out of the one that it is in, as if it had not been added."""
        for at in itertools.islice(self._lineage(), 1, None):
            at._drop([*self._parameters, *self._lookups])
        if self._parent is not None:
            name = self._name.rstrip("/").rpartition("/")[2]
            for given in (name, name.rpartition("_")[0]):
                self._parent._free_name(self._name[:-1], given, self._parent._subcollection_counts)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """If the with block fails, what it has added to this collection is taken out again (its
        memory goes with the root), and nothing was drawn."""
        before = [
            (
                c,
                len(c._parameters),
                len(c._lookups),
                c._counts.copy(),
                c._subcollection_counts.copy(),
            )
            for c in self._lineage()
        ]
        draws = drawn()
        try:
            yield
        except BaseException:
            put_back(draws)
            for c, parameters, lookups, counts, subcollection_counts in before:
                del c._parameters[parameters:], c._lookups[lookups:]
                c._counts, c._subcollection_counts = counts, subcollection_counts
            raise
