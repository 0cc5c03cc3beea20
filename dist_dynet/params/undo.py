"""all_or_nothing(), for functions that add to collections. It keeps the list of undo functions, and
knows nothing about collections."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from .._random import drawn, put_back

F = TypeVar("F", bound=Callable[..., Any])


class _UnderWay(threading.local):
    """Undo functions for the call under way in this thread, in order; None: there is no call."""

    undo: list[Callable[[], object]] | None = None


_under_way = _UnderWay()


def if_it_fails(undo: Callable[[], object]) -> None:
    """Registers what the call under way must do if it fails. It may be called twice, and before the
    change that it undoes."""
    if _under_way.undo is not None:
        _under_way.undo.append(undo)


def all_or_nothing(call: F) -> F:
    """Decorator: if the function fails, it has added nothing to any collection, taken no name and
    drawn no initial value. The memory of parameters is freed with their root."""

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
