"""Selection, joining, reshaping; indexing of expressions."""

from __future__ import annotations

import operator as op
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .._ffi import OPS, fail, nodes
from ..graph import Expression, operator
from ..params.collection import as_dims
from ._nodes import indices, make, many, not_expression

__all__ = [
    "concatenate", "concatenate_cols", "pick", "pick_batch", "pick_batch_elem", "pick_range", "pickrange", "reshape", "transpose",
]  # fmt: skip


def reshape(x: Expression, d: int | Sequence[int], batch_size: int = 1) -> Expression:
    """y = x in other dims, column-major; nothing is copied.

    Shape: the number of elements stays. If it fits per batch element, the batch of x stays; else batch_size counts.
    Raises: ValueError when the numbers of elements differ.

    >>> import dist_dynet as dy
    >>> dy.reshape(dy.inputVector([1, 2, 3, 4]), (2, 2)).npvalue().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    return many(OPS["reshape"], "reshape", [x], (op.index(batch_size), *as_dims(d, "reshape")))


def transpose(x: Expression, dims: Sequence[int] = (1, 0)) -> Expression:
    """y = x with dim dims[i] as its dim i; a matrix is transposed, a vector becomes a row.

    >>> import dist_dynet as dy
    >>> dy.transpose(dy.inputVector([1, 2, 3])).dim()
    ((1, 3), 1)
    """
    return many(OPS["transpose"], "transpose", [x], indices(dims, "transpose"))


def concatenate(xs: Iterable[Expression], d: int = 0) -> Expression:
    """y = x_0, x_1, ... joined along dim d.

    Shape: all other dims equal (missing ones count as 1), batches equal or 1.
    Gradient: the parts of dy.

    >>> import dist_dynet as dy
    >>> dy.concatenate([dy.inputVector([1, 2]), dy.inputVector([3])]).value()
    [1.0, 2.0, 3.0]
    """
    return many(OPS["concatenate"], "concatenate", xs, (op.index(d),))


def concatenate_cols(xs: Iterable[Expression]) -> Expression:
    """Joins columns into a matrix: concatenate(xs, d=1).

    >>> import dist_dynet as dy
    >>> dy.concatenate_cols([dy.inputVector([1, 2]), dy.inputVector([3, 4])]).npvalue().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    return many(OPS["concatenate"], "concatenate_cols", xs, (1,))


class _pickerExpression(Expression):  # noqa: N801 - DyNet's name
    """One index of a dim; `.set_index(i)` chooses another."""

    __slots__ = ("_d",)

    def set_index(self, i: int) -> None:
        """Another index; all computed values of the graph are forgotten."""
        _set_indices(self, self._d, [op.index(i)])


class _pickerBatchExpression(Expression):  # noqa: N801
    """One index of a dim per batch element; `.set_index(list)` chooses others."""

    __slots__ = ("_d",)

    def set_index(self, i: Sequence[int]) -> None:
        """Other indices, as many; all computed values of the graph are forgotten."""
        _set_indices(self, self._d, indices(i, "set_index"))


def _set_indices(e: Expression, d: int, picked: list[int]) -> None:
    code = nodes.dn_ints_set(e._h, 1 + len(picked), [d, *picked])
    if code < 0:
        fail(code, e._h)


def _pick(cls: Any, what: str, e: Expression, d: int, picked: list[int]) -> Any:
    node = many(OPS["pick"], what, [e], (d, *picked))
    picker = make(cls, node._h)
    picker._d = d
    return picker


def pick(e: Expression, index: int = 0, dim: int = 0) -> _pickerExpression:
    """y = e at `index` of `dim`; the dim goes. `.set_index(i)` chooses another.

    Gradient: dy at that place, zero elsewhere.
    Raises: ValueError for an index outside of the dim.

    >>> import dist_dynet as dy
    >>> dy.pick(dy.inputVector([5, 6, 7]), 2).value()
    7.0
    """
    return _pick(_pickerExpression, "pick", e, op.index(dim), [op.index(index)])  # type: ignore[no-any-return]


def pick_batch(e: Expression, indices_: Sequence[int], dim: int = 0) -> _pickerBatchExpression:
    """One index per batch element; an unbatched e serves all.

    >>> import dist_dynet as dy
    >>> dy.pick_batch(dy.inputVector([5, 6, 7]), [2, 0]).dim()
    ((1,), 2)
    """
    return _pick(_pickerBatchExpression, "pick_batch", e, op.index(dim), indices(indices_, "pick_batch"))  # type: ignore[no-any-return]


def _slice(x: Expression, ranges: list[tuple[int, int, int]]) -> Expression:
    return many(OPS["slice"], "slice", [x], [n for r in ranges for n in r])


def _whole(x: Expression, what: str) -> list[tuple[int, int, int]]:
    if not isinstance(x, Expression):
        raise not_expression(what, x)
    dims, batch = x.dim()
    return [(0, n, 1) for n in (*dims, batch)]


def pick_range(x: Expression, s: int, e: int, d: int = 0) -> Expression:
    """y = x at [s, e) of dim d; the dim stays.

    Raises: ValueError for an empty range or one outside of the dim.

    >>> import dist_dynet as dy
    >>> dy.pick_range(dy.inputVector([5, 6, 7]), 1, 3).value()
    [6.0, 7.0]
    """
    ranges, s, e, d = _whole(x, "pick_range"), op.index(s), op.index(e), op.index(d)
    if not 0 <= d < len(ranges) - 1:
        raise ValueError(f"pick_range: dim {d} is not a dim of x = {x.dim()[0]}.")
    if not 0 <= s < e <= ranges[d][1]:
        raise ValueError(f"pick_range: must be 0 <= s < e <= {ranges[d][1]}, the size of dim {d}; got s = {s}, e = {e}.")
    ranges[d] = (s, e, 1)
    return _slice(x, ranges)


pickrange = pick_range


def pick_batch_elem(x: Expression, v: int) -> Expression:
    """Batch element v alone: batch 1.

    >>> import dist_dynet as dy
    >>> dy.pick_batch_elem(dy.inputTensor([[1, 2], [3, 4]], batched=True), 1).value()
    [2.0, 4.0]
    """
    ranges, v = _whole(x, "pick_batch_elem"), op.index(v)
    if not 0 <= v < ranges[-1][1]:
        raise ValueError(f"pick_batch_elem: batch element {v} is outside of the batch of {ranges[-1][1]}.")
    ranges[-1] = (v, v + 1, 1)
    return _slice(x, ranges)


def _one_index(i: int, size: int, d: int, dims: tuple[int, ...]) -> int:
    if i >= size:
        raise IndexError(f"Index too large: {i} > {size - 1}, the last index of dim {d} of {dims}.")
    if i < -size:
        raise IndexError(f"Index too small: {i} < -{size}, the first index of dim {d} of {dims}.")
    return i % size


@operator("__getitem__")
def _getitem(x: Expression, index: Any) -> Expression:
    """x[i], x[a:b:s], x[i, a:b, ...]: as in Python, negative and clipped; an index of its own removes its dim; one more slice is the
    batch's."""
    dims, batch = x.dim()
    items = index if isinstance(index, tuple) else (index,)
    sizes = (*dims, batch)
    if len(items) > len(sizes):
        raise IndexError(f"too many indices: {len(items)} for dims {dims} and the batch.")
    if len(items) == 1 and hasattr(index, "__index__"):
        return pick(x, _one_index(op.index(index), sizes[0], 0, dims), 0)
    ranges, removed = _whole(x, "slice"), []
    for d, item in enumerate(items):
        if isinstance(item, slice):
            if item.step is not None and op.index(item.step) < 1:
                raise ValueError(f"slice: the step must be positive; got {item.step} in dim {d}.")
            start, stop, step = item.indices(sizes[d])
            ranges[d] = (start, max(start, stop), step)
        elif hasattr(item, "__index__"):
            i = _one_index(op.index(item), sizes[d], d, dims)
            ranges[d] = (i, i + 1, 1)
            removed.append(d)
        else:
            raise TypeError(f"an index must be a whole number or a slice; got {item!r} for dim {d}.")
    result = _slice(x, ranges)
    if not [d for d in removed if d < len(dims)]:
        return result
    kept, n = result.dim()
    left = [size for d, size in enumerate(kept) if d not in removed]
    return reshape(result, left or [1], n)


@operator("__iter__")
def _iter(x: Expression) -> Iterator[Expression]:
    return (x[i] for i in range(x.dim()[0][0]))


