"""The most frequent accesses to single parameters: values, those of a row, a node. Each function
has a fast path in C."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .._ffi import accelerated, lib
from .._integers import numbers
from ..expression import Expression, Numbers, expression, resolved


@accelerated
def stored(p: Any, row: int) -> Numbers:
    """The stored values of a parameter (row -1) or of a row of a table."""
    row = int(p._range("row_as_array", [row])[0]) if p._rows else 0
    size = prod(p._dims)
    return p._values(row * size, size).astype(np.float64), p._dims, 1


@accelerated
def set_row(table: Any, i: Any, row: Any) -> None:
    """Sets a row of a table to these numbers, column-major.

    Raises:
        ValueError: they are more or fewer than a row has.
    """
    i = table._row("init_row", i)
    size = prod(table._dims)
    values = numbers(row, "init_row").ravel(order="F")
    if values.size != size:
        raise ValueError(f"init_row: a row has {size} numbers; got {values.size}.")
    table._write(values, i * size)


@accelerated
def parameter_node(p: Any, update: bool) -> Expression:
    """The node of a parameter in the current graph; a constant if `update` is False."""
    return expression(resolved(p._h if update else lib.dn_param_handle(p._c, 1)))


@accelerated
def constant_of(p: Any) -> Expression:
    """An expression for a parameter, valid in every graph, without gradient."""
    return expression(lib.dn_param_handle(p._c, 1))
