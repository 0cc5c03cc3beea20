"""all_or_nothing(), for functions that add to collections. It knows who is to be asked to take out
what, and not what a collection is."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from .._random import drawn, put_back

F = TypeVar("F", bound=Callable[..., Any])


class _UnderWay(threading.local):
    """What takes out again what the call under way in this thread has added, last first; None:
    there is none."""

    undo: list[Callable[[], object]] | None = None


_under_way = _UnderWay()


def if_it_fails(undo: Callable[[], object]) -> None:
    """What the call under way must do if it fails; it may come twice, and before what it undoes."""
    if _under_way.undo is not None:
        _under_way.undo.append(undo)


def all_or_nothing(call: F) -> F:
    """A function which, if it fails, has added nothing to any collection, taken no name and drawn
    no initial value; the memory of parameters goes with their root."""

    @functools.wraps(call)
    def whole(*args: Any, **named: Any) -> Any:
        mine: list[Callable[[], object]] = []
        outer, draws = _under_way.undo, drawn()
        try:
            _under_way.undo = mine
            made = call(*args, **named)
            if outer is not None:
                outer += mine
            return made
        except BaseException:
            put_back(draws)
            for undo in reversed(mine):
                undo()
            raise
        finally:
            _under_way.undo = outer

    return cast(F, whole)
