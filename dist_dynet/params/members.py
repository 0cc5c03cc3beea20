"""The members of a collection and their names. What is added is added completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from .parameters import AnyParameter, LookupParameters, Parameters
from .root import Root
from .undo import all_or_nothing, if_it_fails

if TYPE_CHECKING:
    from typing_extensions import Self

P = TypeVar("P", Parameters, LookupParameters)


class Members:
    """The parameters of a collection, which also belong to the collections that contain it."""

    _name: str
    _root: Root
    _parent: Any
    _parameters: list[Parameters]
    _lookups: list[LookupParameters]
    _counts: dict[str, int]
    _subcollection_counts: dict[str, int]
    _precision: str | None = None

    def _next_name(self, name: str, counts: dict[str, int], end: str = "") -> str:
        n = counts.get(name, 0)
        is_number = n > 0 or not name
        full_name = self._name + (f"{name}_{n}" if is_number else name) + end
        if_it_fails(lambda: self._free_name(name, n, counts, full_name))
        counts[name] = n + 1
        return full_name

    def _free_name(self, name: str, n: int, counts: dict[str, int], full_name: str) -> None:
        """Frees the number n of `name` for the next member, if it was the last one."""
        if counts.get(name) == n + 1:
            counts[name] = n
            if not n:
                del counts[name]

    def _lineage(self) -> Iterator[Self]:
        at: Self | None = self
        while at is not None:
            yield at
            at = at._parent

    @all_or_nothing
    def _add(self, name: str, make: Callable[[str], P]) -> P:
        """Adds the parameter that make(full name) returns."""
        made = make(self._next_name(name, self._counts))
        self._adopt(made)
        return made

    def _new(self, name: str, dims: tuple[int, ...], is_table: bool) -> AnyParameter:
        """A parameter, or a table whose rows are the last dim, that is not a member yet. As in
        DyNet it uses up one of the numbers that name others."""
        self._next_name("", self._counts)
        if is_table:
            return LookupParameters(self._root, name, dims[:-1], dims[-1])
        parameter = Parameters(self._root, name, dims, 0)
        if self._precision is not None:
            parameter.set_precision(self._precision)
        return parameter

    def _adopt(self, parameter: AnyParameter) -> None:
        if_it_fails(lambda: self._drop(parameter))
        for at in self._lineage():
            at._members_like(parameter).append(parameter)

    def _drop(self, parameter: AnyParameter) -> None:
        for at in self._lineage():
            members = at._members_like(parameter)
            if members and members[-1] is parameter:  # nearly always
                members.pop()
            else:
                members[:] = [p for p in members if p is not parameter]

    def _members_like(self, parameter: AnyParameter) -> list[Any]:
        return self._lookups if parameter._rows else self._parameters
