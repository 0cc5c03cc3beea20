"""Checked access to the numbers of a state() that is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._integers import integer_argument


def check_state(state: object, what: str) -> None:
    """Raises: TypeError: it is not the result of a state(). `what` begins the message."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{what}: takes what state() gave; got {type(state).__name__}.")


def check_states(states: object, rank: Any, what: str) -> int:
    """The rank, as an integer.

    Raises:
        TypeError: it is none, or these are no results of state().
    """
    if not isinstance(states, Sequence) or not states:
        raise TypeError(f"{what}: takes a list of what state() gave; got {states!r:.60}.")
    for state in states:
        check_state(state, what)
    return integer_argument(rank, what, "rank")


def number_in(state: Mapping[str, Any], name: str, what: str, *, nan: bool = False) -> float:
    """The number of this name in a state. `what` begins the message.

    Args:
        state: what state() gave, or something else.
        name: of the number.
        what: the method that takes the state.
        nan: whether it may be nan.

    Raises:
        TypeError: it is no state.
        ValueError: there is none.
    """
    check_state(state, what)
    array = np.asarray(state.get(name))
    if array.size == 1 and array.dtype.kind in "biuf" and (nan or not np.isnan(array).any()):
        return float(array.item())
    raise ValueError(f"{what}: the state must have one number {name!r}; got {state.get(name)!r}.")


def count_in(state: Mapping[str, Any], name: str, what: str) -> int:
    """The number of this name in a state, which must be a count: an integer, 0 or more. Otherwise
    as number_in()."""
    number = number_in(state, name, what)
    if number < 0 or not number.is_integer():
        raise ValueError(f"{what}: {name!r} of a state must count from 0; got {number:g}.")
    return int(number)
