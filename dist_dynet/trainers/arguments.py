"""Arguments of trainers: numbers, selected parameters, and followers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .._ffi import DTYPE, DTYPE_NAME
from .._integers import integer_argument, items_of, number_argument
from ..params.parameters import LookupParameters, Parameters

_PARAMETERS = Parameters | LookupParameters
_LARGEST = float(np.finfo(DTYPE).max)


class Follower(Protocol):
    """An object that is notified of updates."""

    def update(self) -> None:
        """Called after each update."""


class Schedule(Protocol):
    """Sets the learning rate, and is saved with the trainer."""

    @property
    def made(self) -> str:
        """Its constants."""

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs."""

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Resumes from it."""


def number(value: Any, what: str) -> float:
    """A setting as a float. NaN is refused: it would spread to all parameters, or pass for
    "off".

    Raises:
        TypeError: it is not a number.
        ValueError: it is NaN.
    """
    number = number_argument(value, what)
    if math.isnan(number):
        raise ValueError(f"{what} must be a number; got nan.")
    return number


def finite(value: Any, what: str) -> float:
    """A number that stays finite where parameters are computed with it: 1e39 is infinite as
    float32, and what is multiplied by it ends as NaN.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite.
    """
    known = number(value, what)
    if abs(known) > _LARGEST:
        raise ValueError(f"{what} must be finite as {DTYPE_NAME}; got {known:g}.")
    return known


def chosen(wanted: Sequence[Any], members: Sequence[Any], what: str) -> list[Any]:
    """The selected members, given by position or as objects, each once and in order.

    Raises:
        ValueError: one is not a member.
        TypeError: a position is not an integer.
    """
    positions = set()
    for w in items_of(wanted, "update_subset", f"a list of parameters or positions as {what}"):
        at = (
            next((i for i, p in enumerate(members) if p is w), -1)
            if isinstance(w, _PARAMETERS)
            else integer_argument(w, "update_subset", what)
        )
        if not 0 <= at < len(members):
            raise ValueError(
                f"update_subset: {what} must lie in the collection, which has {len(members)} of"
                f" this kind; got {w!r}."
            )
        positions.add(at)
    return [members[i] for i in sorted(positions)]
