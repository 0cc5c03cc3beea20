"""Selection by index and by range; indexing of expressions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from .._ffi import accelerated, calls, fail, ffi, lib
from .._integers import indices as integers_of
from .._integers import integer, whole
from ..expression import Expression, operator
from ._nodes import node, not_expression, operation, set_ints
from .shape import reshape

__all__ = [
    "pick",
    "pick_batch",
    "pick_batch_elem",
    "pick_batch_elems",
    "pick_range",
    "pickrange",
    "select_cols",
    "select_rows",
    "strided_select",
]


class IndexTypeError(TypeError, AssertionError):
    """What x[...] does not take. An AssertionError, too, as in DyNet."""


class _pickerExpression(Expression):  # noqa: N801 - DyNet's name
    """One index of a dim; `.set_index(i)` chooses another."""

    __slots__ = ()

    def set_index(self, i: int) -> None:
        """Another index; all computed values of the graph are forgotten."""
        _set_indices(self, [whole(i, "set_index")])


class _pickerBatchExpression(Expression):  # noqa: N801
    """One index of a dim per batch element; `.set_index(list)` chooses others."""

    __slots__ = ()

    def set_index(self, i: Iterable[int]) -> None:
        """Other indices, as many; all computed values of the graph are forgotten."""
        picked, batch = integers_of(i, "set_index"), self.dim()[1]
        if len(picked) != batch:
            raise ValueError(
                f"pick: set takes as many indices as the node was made with; got {len(picked)} for"
                f" a batch of {batch}."
            )
        _set_indices(self, picked)


def _set_indices(e: Expression, picked: Sequence[int]) -> None:
    h, d = e._h, ffi.new("int[1]")
    code = lib.dn_node_ints(h, 1, d)  # the first one is the dim
    if code < 0:
        fail(code, h)
    set_ints(e, [d[0], *picked])


@operation("pick", "dim index", cls=_pickerExpression)
def pick(e: Expression, index: int = 0, dim: int = 0) -> _pickerExpression:
    """y = e at `index` of `dim`; the dim goes. `.set_index(i)` chooses another.

    Shape: the dims of e without `dim`; (1,) from a vector.
    Gradient: dy at that place, zero elsewhere.
    Raises: ValueError for an index outside of the dim.

    >>> import dist_dynet as dy
    >>> dy.pick(dy.inputVector([5, 6, 7]), 2).value()
    7.0
    """
    d, i = whole(dim, "pick", "a dim"), whole(index, "pick", "the index", "pick_batch")
    return node("pick", e, d, i, cls=_pickerExpression)


def pick_batch(e: Expression, indices: Iterable[int], dim: int = 0) -> _pickerBatchExpression:
    """One index per batch element; an unbatched e serves all.

    Shape: the dims of e without `dim`, a batch of as many as there are indices.
    Gradient: dy of each batch element at its index.
    Raises: ValueError for an index outside of the dim, or when e has another number of batch
    elements.

    >>> import dist_dynet as dy
    >>> dy.pick_batch(dy.inputVector([5, 6, 7]), [2, 0]).value()
    [7.0, 5.0]
    """
    picked = integers_of(indices, "pick_batch")
    if len(picked) == 1 and isinstance(e, Expression) and e.dim()[1] != 1:
        raise ValueError(
            "pick_batch: takes one index per batch element; got 1 index for a batch of"
            f" {e.dim()[1]}. Use pick() for all."
        )
    return node(
        "pick",
        e,
        whole(dim, "pick_batch", "a dim"),
        picked,
        what="pick_batch",
        cls=_pickerBatchExpression,
    )


@operation("pick_range", "d s e 1")
def pick_range(x: Expression, s: int, e: int, d: int = 0) -> Expression:
    """y = x at [s, e) of dim d; the dim stays.

    Gradient: dy at those places, zero elsewhere.
    Raises: ValueError for an empty range or one outside of the dim.

    >>> import dist_dynet as dy
    >>> dy.pick_range(dy.inputVector([5, 6, 7]), 1, 3).value()
    [6.0, 7.0]
    """
    s, e = whole(s, "pick_range"), whole(e, "pick_range")
    return node("pick_range", x, whole(d, "pick_range", "a dim"), s, e, 1)


pickrange = pick_range


@operation("pick_batch_elems", "v")
def pick_batch_elem(x: Expression, v: int) -> Expression:
    """Batch element v alone: batch 1.

    Gradient: dy at that batch element, zero elsewhere.
    Raises: ValueError for an index outside of the batch.

    >>> import dist_dynet as dy
    >>> dy.pick_batch_elem(dy.inputTensor([[1, 2], [3, 4]], batched=True), 1).value()
    [2.0, 4.0]
    """
    what = "pick_batch_elem"
    return node("pick_batch_elems", x, whole(v, what, "the index", "pick_batch_elems"), what=what)


@operation("pick_batch_elems", "vs*")
def pick_batch_elems(x: Expression, vs: Iterable[int]) -> Expression:
    """The batch elements vs[0], vs[1], ... of x as a batch.

    Gradient: dy of each; those of a batch element named twice add up.
    Raises: ValueError for an index outside of the batch.

    >>> import dist_dynet as dy
    >>> dy.pick_batch_elems(
    ...     dy.inputTensor([[1, 2], [3, 4]], batched=True), [1, 1, 0]
    ... ).npvalue().tolist()
    [[2.0, 2.0, 1.0], [4.0, 4.0, 3.0]]
    """
    return node("pick_batch_elems", x, integers_of(vs, "pick_batch_elems"))


@operation("select", "0 rs*")
def select_rows(x: Expression, rs: Iterable[int]) -> Expression:
    """y = the rows rs[0], rs[1], ... of x: of dim 0, in every batch element the same.

    Shape: x with dim 0 of as many rows as are named.
    Gradient: dy of each row; those of a row named twice add up.
    Raises: ValueError for an index outside of the rows.

    >>> import dist_dynet as dy
    >>> dy.select_rows(dy.inputTensor([[1, 2], [3, 4]]), [1, 0, 1]).npvalue().tolist()
    [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]
    """
    return node("select", x, 0, integers_of(rs, "select_rows"), what="select_rows")


@operation("select", "1 cs*")
def select_cols(x: Expression, cs: Iterable[int]) -> Expression:
    """y = the columns cs[0], cs[1], ... of x: of dim 1, in every batch element the same.

    Shape: x with dim 1 of as many columns as are named.
    Gradient: dy of each column; those of a column named twice add up.
    Raises: ValueError for an index outside of the columns.

    >>> import dist_dynet as dy
    >>> dy.select_cols(dy.inputTensor([[1, 2], [3, 4]]), [1]).npvalue().tolist()
    [[2.0], [4.0]]
    """
    return node("select", x, 1, integers_of(cs, "select_cols"), what="select_cols")


def strided_select(
    x: Expression, strides: Sequence[int], range_from: Sequence[int], range_to: Sequence[int]
) -> Expression:
    """y = x[from:to:stride] in each dim; the entry after those of the dims is the batch's.

    Shape: ceil((to - from) / stride) in each dim, 0 where from is not below to. A list may be
    shorter: what it does not name is from 0, to the end, with stride 1.
    Gradient: dy at those places, zero elsewhere.
    Raises: ValueError for a stride below 1, a range outside of the dim, more entries than dims and
    the batch; TypeError if x is not an expression.

    >>> import dist_dynet as dy
    >>> dy.strided_select(dy.inputVector([1, 2, 3, 4, 5]), [2], [0], [4]).value()
    [1.0, 3.0]
    """
    return strided_node(x, strides, range_from, range_to)


@accelerated
def strided_node(
    x: Expression, strides: Sequence[int], range_from: Sequence[int], range_to: Sequence[int]
) -> Expression:
    """The node of strided_select().

    Raises:
        ValueError: there are more entries than dims and the batch.
        TypeError: x is no expression.
    """
    what = "strided_select"
    steps, starts = integers_of(strides, what), integers_of(range_from, what)
    stops = integers_of(range_to, what)
    if not isinstance(x, Expression):
        raise not_expression(what, x)
    dims, batch = x.dim()
    sizes = (*dims, batch)
    n = max(len(steps), len(starts), len(stops))
    if n > len(sizes):
        raise ValueError(
            f"strided_select: takes at most one entry per dim and one for the batch; got {n}"
            f" entries, x = {dims}."
        )
    places: list[int] = []
    for i, (step, start, stop) in enumerate(zip_longest(steps, starts, stops)):
        start, stop = start or 0, sizes[i] if stop is None else stop
        if 0 <= stop < start <= sizes[i]:
            stop = start
        places += i if i < len(dims) else -1, start, stop, 1 if step is None else step
    return node("slice_batch" if n > len(dims) else "slice", x, places, what=what)


def _one_index(i: int, size: int, d: int, dims: tuple[int, ...]) -> int:
    if i >= size:
        raise IndexError(f"Index too large: {i} > {size - 1}, the last index of dim {d} of {dims}.")
    if i < -size:
        raise IndexError(f"Index too small: {i} < -{size}, the first index of dim {d} of {dims}.")
    return i % size


def _index(item: Any) -> int | None:
    try:
        return integer(item)
    except TypeError:
        return None


def _integer_slice(item: slice, d: int) -> slice:
    ends = [None if end is None else _index(end) for end in (item.start, item.stop, item.step)]
    for name, given, end in zip(
        ("start", "stop", "step"), (item.start, item.stop, item.step), ends, strict=True
    ):
        if given is not None and end is None:
            raise TypeError(f"slice: {name} must be an integer; got {given!r:.60} in dim {d}.")
    return slice(*ends)


_LISTS = "Use select_rows() for lists.", "Use select_cols() for lists in dim 1."
_INSTEAD = {
    type(None): "Use reshape() for more dims.",
    type(...): "Write a slice `:` for each dim before the last ones.",
}


def _getitem(x: Expression, index: Any) -> Expression:
    """x[i], x[a:b:s], x[i, a:b, ...]: as in Python, negative and clipped.

    An index of its own removes its dim; one more slice is the batch's. The frequent cases, an index
    of the first dim and slices of the dims, do not come here unless there is something wrong with
    them.
    """
    dims, batch = x.dim()
    items = index if isinstance(index, tuple) else (index,)
    sizes = (*dims, batch)
    if len(items) > len(sizes):
        raise IndexError(f"too many indices: {len(items)} for dims {dims} and the batch.")
    if isinstance(index, np.ndarray) and index.ndim:
        raise IndexTypeError(
            f"x[i]: an index must be an integer or a slice; got {index!r:.60}. Use select_rows()"
            " for lists."
        )
    if not isinstance(index, tuple | slice) and _index(index) is not None:
        return pick(x, _one_index(integer(index), sizes[0], 0, dims), 0)
    ranges, removed = [], []  # (dim, from, to, step), the batch being dim -1; dims
    for d, item in enumerate(items):
        place = d if d < len(dims) else -1
        if isinstance(item, slice):
            item = _integer_slice(item, d)
            if item.step is not None and item.step < 1:
                raise ValueError(
                    f"slice: the step must be positive; got {item.step} in dim {d}."
                    " Use select_rows() or select_cols() for another order."
                )
            start, stop, step = item.indices(sizes[d])
            ranges.append((place, start, max(start, stop), min(step, 0x7FFFFFFF)))
        elif (given := _index(item)) is not None:
            i = _one_index(given, sizes[d], d, dims)
            ranges.append((place, i, i + 1, 1))
            removed.append(d)
        else:
            raise IndexTypeError(
                f"x[i]: an index must be an integer or a slice; got {item!r:.60} for dim {d}."
                f" {_INSTEAD.get(type(item), _LISTS[min(d, 1)])}"
            )
    op = "slice_batch" if ranges and ranges[-1][0] < 0 else "slice"
    result = node(op, x, [n for r in ranges for n in r], what="slice")
    if not [d for d in removed if d < len(dims)]:
        return result
    kept, n = result.dim()
    left = [size for d, size in enumerate(kept) if d not in removed]
    return reshape(result, left or [1], n)


calls.subscript("pick", _pickerExpression, "slice", _getitem)


@operator("__iter__")
def _iter(x: Expression) -> Iterator[Expression]:
    return (x[i] for i in range(x.dim()[0][0]))
