"""The Python objects that nodes refer to, each by a number, as long as a graph keeps them."""

from __future__ import annotations

import itertools
from typing import Any

_things: dict[int, Any] = {}
_spare: list[int] = []
_numbers = itertools.count()


def number_for(thing: Any) -> int:
    """A number for this object, valid until let_go()."""
    try:
        number = _spare.pop()
    except IndexError:
        number = next(_numbers)
    _things[number] = thing
    return number


def kept(number: int) -> Any:
    """The object with this number."""
    return _things[number]


def let_go(kept_by_graph: dict[Any, int]) -> None:
    """Releases all objects that a graph kept."""
    while kept_by_graph:
        _, number = kept_by_graph.popitem()
        del _things[number]
        _spare.append(number)
