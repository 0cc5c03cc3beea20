"""What C calls take of collections and parameters, for the packages above."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .collection import ParameterCollection
from .parameters import AnyParameter
from .root import Root


def root_of(m: ParameterCollection) -> Root:
    """The owner of its parameters."""
    return m._root


def counts_of(m: ParameterCollection) -> tuple[int, int]:
    """How many dense parameters and tables it has."""
    return len(m._parameters), len(m._lookups)


def members_of(m: ParameterCollection) -> tuple[AnyParameter, ...]:
    """Its dense parameters, then its tables."""
    return (*m._parameters, *m._lookups)


def handles_of(parameters: Iterable[AnyParameter]) -> list[Any]:
    """The dn_param of each."""
    return [p._c for p in parameters]
