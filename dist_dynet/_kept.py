"""The objects of Python that nodes refer to, each by a number, while a graph keeps them."""

from __future__ import annotations

import itertools
from typing import Any

_things: dict[int, Any] = {}
_spare: list[int] = []
_numbers = itertools.count()


def number_for(thing: Any) -> int:
    """A number for this object, which is kept until let_go()."""
    try:
        number = _spare.pop()
    except IndexError:
        number = next(_numbers)
    _things[number] = thing
    return number


def kept(number: int) -> Any:
    """What is kept under this number."""
    return _things[number]


def let_go(kept_by_graph: dict[Any, int]) -> None:
    """A graph keeps these no longer."""
    while kept_by_graph:
        _, number = kept_by_graph.popitem()
        del _things[number]
        _spare.append(number)
