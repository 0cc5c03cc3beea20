"""The nodes that inputs.py makes: leaves of numbers, and rows of tables, whose content can be
changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._ffi import DTYPE, NULL, accelerated, fail, fail_in, lib, pointer
from .._integers import floats, numbers, real, whole
from .._integers import indices as integers_of
from ..expression import Expression
from ..graph import current_graph
from ._nodes import E, make, set_ints


def made(cls: type[E], graph: int, handle: int, what: str) -> E:
    if handle < 0:
        fail_in(graph, handle, what)
    return make(cls, handle)


def vector(v: Any, what: str) -> NDArray[Any]:
    """A vector of the build's type from any iterable of numbers."""
    if isinstance(v, Mapping | Set):
        raise TypeError(
            f"{what}: takes numbers in their order; got a {type(v).__name__}. Make a list of it."
        )
    array = numbers(
        (
            v
            if isinstance(v, np.ndarray | list | tuple | str) or not isinstance(v, Iterable)
            else list(v)
        ),
        what,
    )
    if array.ndim != 1:
        raise TypeError(
            f"{what}: takes a vector of numbers; got"
            f" {f'shape {array.shape}. Use inputTensor()' if array.ndim else 'one number'}."
        )
    return np.ascontiguousarray(array)


@accelerated
def set_numbers(e: Expression, data: Any) -> None:
    """Changes the numbers of an input, column-major; forgets all computed values of the graph."""
    flat = vector(data, "set") if isinstance(data, list | tuple) else floats(data, "set").ravel()
    code = lib.dn_input_set(e._h, len(flat), pointer(flat))
    if code < 0:
        fail(code, e._h)


class _inputExpression(Expression):  # noqa: N801 - DyNet's name
    """One number that can be changed."""

    __slots__ = ()

    def set(self, s: float) -> None:
        """New value; all computed values of the graph are forgotten."""
        set_numbers(self, [real(s, "set")])


class _vecInputExpression(Expression):  # noqa: N801
    """A vector that can be changed."""

    __slots__ = ()

    def set(self, data: Sequence[float]) -> None:
        """New numbers, as many as before; all computed values of the graph are forgotten."""
        set_numbers(self, data)


class _tensorInputExpression(Expression):  # noqa: N801
    """A tensor, which can be changed if it was made with reusable_expr=True."""

    __slots__ = ("_reusable",)

    _reusable: bool

    def set(self, data: ArrayLike) -> None:
        """New numbers: a flat column-major list, or an array of the same dims (the batch last)."""
        if not self._reusable:
            raise ValueError(
                "set: this tensor input was not made to be set anew. Make it with inputTensor(...,"
                " reusable_expr=True)."
            )
        set_numbers(self, flat(data, "set"))


class _sparseInputExpression(Expression):  # noqa: N801
    """A tensor given by some of its numbers; cannot be changed."""

    __slots__ = ()

    def set(self, data: Any) -> None:
        """Raises ValueError: make a new input instead."""
        raise ValueError("set: this input cannot be set anew. Make a new one.")


class _lookupExpression(Expression):  # noqa: N801
    """A row of a table; can be set to another row."""

    __slots__ = ()

    def set(self, i: int) -> None:
        """Another row; all computed values of the graph are forgotten."""
        set_ints(self, [whole(i, "set")])


class _lookupBatchExpression(Expression):  # noqa: N801
    """A batch of rows of a table; can be set to other rows."""

    __slots__ = ()

    def set(self, i: Sequence[int]) -> None:
        """Other rows, as many; all computed values of the graph are forgotten."""
        set_ints(self, integers_of(i, "set"))


@accelerated
def input_node(cls: type[E], what: str, values: Any, sizes: Any, batched: bool) -> E:
    """An input of these numbers, column-major, in an array or list; or of a single number, which is
    used for one element; several are then 0.

    sizes: None: a vector; an integer with one number; batched: the last one is the batch's.
    """
    if isinstance(sizes, int):
        flat, shape = np.full(1, real(values, what), DTYPE) if sizes == 1 else None, (sizes,)
    else:
        flat = vector(values, what)
        shape = (flat.size,) if sizes is None else tuple(sizes)
    dims, batch = (shape[:-1] or (1,), shape[-1]) if batched else (shape, 1)
    graph = current_graph()
    return made(
        cls,
        graph,
        lib.dn_input(graph, len(dims), dims, batch, NULL if flat is None else pointer(flat)),
        what,
    )


def flat(array: Any, what: str, takes: str = "takes numbers") -> NDArray[Any]:
    """The numbers in column-major order. An array that already has this order and the build's type
    is not copied."""
    return numbers(array, what, takes, "F").ravel(order="F")  # type: ignore[no-any-return]
