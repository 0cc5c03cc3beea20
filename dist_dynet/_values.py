"""Values of several expressions, computed in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._integers import items_of
from ._large_graphs import INDEX
from .expression import Expression


def _computed(exps: Iterable[Expression], recalculate: bool, what: str) -> list[Expression]:
    """A list of these expressions, all of which are computed in one pass."""
    exps = items_of(exps, what, "a list of expressions")
    for e in exps:
        if not isinstance(e, Expression):
            raise TypeError(f"{what}: takes a list of expressions; got {type(e).__name__} in it.")
    if exps:
        handles = [e._node() for e in exps]
        last = max(handles)
        if min(handles) | INDEX == last | INDEX:
            exps[handles.index(last)].forward(recalculate)  # nearly always: nodes of one graph
        else:
            max(exps, key=lambda e: e.index()).forward(recalculate)
    return exps


def forward(exps: Iterable[Expression], recalculate: bool = False) -> None:
    """Computes all of these expressions in one pass; returns nothing.

    >>> import dist_dynet as dy
    >>> x, y = dy.scalarInput(3), dy.scalarInput(4)
    >>> dy.forward([x + y, x * y])
    """
    _computed(exps, recalculate, "forward")


def values(exps: Iterable[Expression], recalculate: bool = False) -> list[Any]:
    """The value() of each expression, computed in one pass.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> dy.values([dy.scalarInput(1), dy.inputVector([2, 3])])
    [1.0, [2.0, 3.0]]
    """
    return [e.value() for e in _computed(exps, recalculate, "values")]


def npvalues(exps: Iterable[Expression], recalculate: bool = False) -> list[NDArray[np.float64]]:
    """The npvalue() of each expression, computed in one pass.

    >>> import dist_dynet as dy
    >>> x = dy.inputVector([1, 2])
    >>> [a.tolist() for a in dy.npvalues([x, 2 * x])]
    [[1.0, 2.0], [2.0, 4.0]]
    """
    return [e.npvalue() for e in _computed(exps, recalculate, "npvalues")]
