"""What users feed into a graph: numbers, vectors, tensors, constants, and rows of lookup tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._ffi import DTYPE, accelerated, calls, lib
from .._integers import FEW, listed_if_few, numbers, one_or_more, real, whole
from .._integers import indices as integers_of
from .._manner import dims_in_a_tuple
from ..expression import Expression
from ..graph import ComputationGraph, current_graph
from ..params.access import constant_of
from ..params.dims import as_dims, check_device, check_elements
from ..params.parameters import LookupParameters
from ._input_nodes import (
    _inputExpression,
    _lookupBatchExpression,
    _lookupExpression,
    _sparseInputExpression,
    _tensorInputExpression,
    _vecInputExpression,
    input_node,
    made,
    vector,
)
from ._nodes import E, leaf, operation

__all__ = [
    "constant",
    "inputMatrix",
    "inputTensor",
    "inputTensorTranspose",
    "inputVector",
    "lookup",
    "lookup_batch",
    "matInput",
    "one_hot",
    "ones",
    "scalarInput",
    "sparse_inputTensor",
    "vecInput",
    "zeroes",
    "zeros",
]


def scalarInput(s: float, device: str = "") -> _inputExpression:  # noqa: N802
    """A number: dims (1,). `.set(number)` changes it.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> x = dy.scalarInput(2)
    >>> y = x * 3
    >>> y.value()
    6.0
    >>> x.set(5)
    >>> y.value()
    15.0
    """
    if device:
        check_device(device, "scalarInput")
    return input_node(_inputExpression, "scalarInput", s, 1, False)


def vecInput(dim: int, device: str = "") -> _vecInputExpression:  # noqa: N802
    """A vector of zeros to be `.set(list)`: dims (dim,).

    >>> import dist_dynet as dy
    >>> x = dy.vecInput(2)
    >>> x.set([3, 4])
    >>> x.value()
    [3.0, 4.0]
    """
    if device:
        check_device(device, "vecInput")
    return input_node(_vecInputExpression, "vecInput", 0, whole(dim, "vecInput", "dim"), False)


def inputVector(v: Sequence[float] | NDArray[Any], device: str = "") -> _vecInputExpression:  # noqa: N802
    """A vector of these numbers. `.set(list)` changes them.

    >>> import dist_dynet as dy
    >>> dy.inputVector([1, 2]).value()
    [1.0, 2.0]
    """
    if device:
        check_device(device, "inputVector")
    few = listed_if_few(v) if type(v) is np.ndarray and v.ndim == 1 else v
    return input_node(_vecInputExpression, "inputVector", few, None, False)


def inputTensor(  # noqa: N802
    arr: ArrayLike, batched: bool = False, device: str = "", reusable_expr: bool = False
) -> _tensorInputExpression:
    """A tensor from an array or nested list of any number type and memory order; a column-major
    array of the build's type is copied once.

    Args:
        arr: dims as they are. A list of arrays is stacked: one batch element each.
        batched: the last axis is the batch.
        device: "" or "CPU".
        reusable_expr: `.set(...)` may change the numbers.

    Raises:
        ValueError: arrays of a list differ in shape, or a list has no elements.
        TypeError: it is neither an array nor a nested list, or holds other things than numbers.

    >>> import dist_dynet as dy
    >>> dy.inputTensor([[1, 2, 3], [4, 5, 6]], batched=True).dim()
    ((2,), 3)
    """
    if device:
        check_device(device, "inputTensor")
    if isinstance(arr, list) and arr and all(isinstance(a, np.ndarray) for a in arr):
        try:
            arr, batched = np.stack(arr, axis=-1), True
        except ValueError as error:
            raise ValueError(
                f"inputTensor: arrays that are to be one batch must have equal shapes; {error}."
            ) from None
    # rounded in C
    given = type(arr) is np.ndarray and 0 < arr.size <= FEW and arr.dtype.kind == "f"
    array: Any = (
        arr
        if given
        else numbers(arr, "inputTensor", "takes an array or a nested list of numbers", "F")
    )
    if array.ndim == 0:
        raise TypeError(
            "inputTensor: takes an array or a nested list; got a single number. Use scalarInput()."
        )
    if array.size == 0 and not isinstance(arr, np.ndarray):
        raise ValueError(f"inputTensor: the array has no elements; its shape is {array.shape}.")
    e = input_node(
        _tensorInputExpression, "inputTensor", listed_if_few(array), array.shape, bool(batched)
    )
    e._reusable = reusable_expr
    return e


def inputTensorTranspose(  # noqa: N802
    val: Sequence[float] | NDArray[Any], dim: Any = None, batch_size: int = 1, device: str = ""
) -> _vecInputExpression:
    """A tensor from a flat list: column-major, batch element after batch element.

    Shape: dim x batch_size; without dim, vectors.
    Raises: ValueError when there are more or fewer numbers.

    >>> import dist_dynet as dy
    >>> dy.inputTensorTranspose([1, 2, 3, 4], (2, 2)).npvalue().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    check_device(device, "inputTensorTranspose")
    data = vector(val, "inputTensorTranspose")
    batch = whole(batch_size, "inputTensorTranspose", "batch_size")
    dims = (data.size // max(batch, 1),) if dim is None else as_dims(dim, "inputTensorTranspose")
    if data.size != prod(dims) * batch:
        raise ValueError(
            f"inputTensorTranspose: {data.size} numbers do not fill dims {dims} x {batch}."
        )
    return input_node(_vecInputExpression, "inputTensorTranspose", data, (*dims, batch), True)


def matInput(d1: int, d2: int) -> NoReturn:  # noqa: N802
    """Raises DeprecationWarning, as in DyNet: use inputTensor().

    >>> import dist_dynet as dy
    >>> dy.matInput(2, 3)
    Traceback (most recent call last):
    DeprecationWarning: matInput: no longer exists. Use inputTensor().
    """
    raise DeprecationWarning("matInput: no longer exists. Use inputTensor().")


def inputMatrix(v: Sequence[float], d: Sequence[int]) -> NoReturn:  # noqa: N802
    """Raises DeprecationWarning, as in DyNet: use inputTensor(), or inputTensorTranspose() for flat
    lists.

    >>> import dist_dynet as dy
    >>> dy.inputMatrix([1, 2, 3, 4], (2, 2))
    Traceback (most recent call last):
    DeprecationWarning: inputMatrix: no longer exists. Use inputTensor(), or inputTensorTranspose...
    """
    raise DeprecationWarning(
        "inputMatrix: no longer exists. Use inputTensor(), or inputTensorTranspose() for a flat"
        " list."
    )


def _sparse(flat: NDArray[Any], shape: tuple[int, ...], batched: bool) -> _sparseInputExpression:
    return input_node(
        _sparseInputExpression, "sparse_inputTensor", listed_if_few(flat), shape, bool(batched)
    )


def _few_places(idxs: Any, values: Any, dims: tuple[int, ...]) -> list[int] | None:
    """Where up to 16 numbers lie in a tensor, column-major; None: they are more, or not plain
    lists, or there is something wrong."""
    if (
        type(values) is not list
        or not 0 < len(values) <= 16
        or len(idxs) != len(dims)
        or not {int, float}.issuperset(map(type, values))
    ):
        return None
    places, stride = [0] * len(values), 1
    for column, n in zip(idxs, dims, strict=True):
        if (
            type(column) is not list
            or len(column) != len(values)
            or {*map(type, column)} != {int}
            or min(column) < 0
            or max(column) >= n
        ):
            return None
        places = [place + stride * i for place, i in zip(places, column, strict=True)]
        stride *= n
    return places


def _column(indices: Any) -> NDArray[np.int64]:
    if isinstance(indices, np.ndarray) and indices.dtype.kind in "iu":
        return indices.astype(np.int64)
    return np.array(integers_of(indices, "sparse_inputTensor"), np.int64)


def sparse_inputTensor(  # noqa: N802 - DyNet's name
    idxs: Sequence[Sequence[int]],
    values: Sequence[float],
    shape: Sequence[int],
    batched: bool = False,
    defval: float = 0,
    device: str = "",
) -> _sparseInputExpression:
    """A tensor of `defval` with `values` at the places `idxs`: one sequence of indices per dim, the
    batch's last.

    Of values for one place the last counts.

    Raises:
        ValueError: sequences of different lengths, or an index outside of shape.
        TypeError: idxs is not a sequence, or an index not an integer.

    >>> import dist_dynet as dy
    >>> dy.sparse_inputTensor([[0, 1], [2, 0]], [5, 6], (2, 3)).npvalue().tolist()
    [[0.0, 0.0, 5.0], [6.0, 0.0, 0.0]]
    """
    if device:
        check_device(device, "sparse_inputTensor")
    dims = as_dims(shape, "sparse_inputTensor")
    check_elements(prod(dims), "sparse_inputTensor")
    if not isinstance(idxs, Sequence | np.ndarray) or isinstance(idxs, str):
        raise TypeError(
            f"sparse_inputTensor: takes a list of indices for each dim; got {type(idxs).__name__}."
        )
    places = _few_places(idxs, values, dims)
    if places is not None:
        few = (
            np.full(prod(dims), real(defval, "sparse_inputTensor"), DTYPE)
            if defval
            else np.zeros(prod(dims), DTYPE)
        )
        for place, value in zip(places, values, strict=True):
            few[place] = value
        return _sparse(few, dims, batched)
    data = vector(values, "sparse_inputTensor")
    columns = [_column(i) for i in idxs]
    if len(columns) != len(dims) or any(c.shape != data.shape for c in columns):
        raise ValueError(
            f"sparse_inputTensor: takes one index per dim and value; got {len(columns)} sequences"
            f" for dims {dims}."
        )
    for d, column in enumerate(columns):
        if column.size and (column.min() < 0 or column.max() >= dims[d]):
            raise ValueError(f"sparse_inputTensor: an index is outside dim {d} of {dims}.")
    array = np.full(dims, real(defval, "sparse_inputTensor"), DTYPE, order="F")
    array[tuple(columns)] = data
    return _sparse(array.ravel(order="F"), dims, batched)


def one_hot(d: int, idx: int | Iterable[int], device: str = "") -> _sparseInputExpression:
    """A vector of d zeros with a 1 at `idx`; a list of indices makes a batch.

    Raises: ValueError for an index outside of 0 ... d - 1.

    >>> import dist_dynet as dy
    >>> dy.one_hot(3, 1).value()
    [0.0, 1.0, 0.0]
    """
    if device:
        check_device(device, "one_hot")
    if len(dims := as_dims(d, "one_hot")) != 1:
        raise ValueError(f"one_hot: takes one size, the number of classes; got {dims}.")
    d = dims[0]
    rows = one_or_more(idx, "one_hot")
    for i in rows:
        if not 0 <= i < d:
            raise ValueError(
                f"one_hot: index {i} is outside of {d} classes. Indices run from 0 to {d - 1}."
            )
    check_elements(len(rows) * d, "one_hot")
    flat = np.zeros(len(rows) * d, DTYPE)
    for b, i in enumerate(rows):
        flat[b * d + i] = 1
    return _sparse(flat, (d, len(rows)), True)


def _matrix_literal(
    self: ComputationGraph,
    v: Sequence[float],
    d: int | Sequence[int],
    batch_size: int = 1,
    device: str = "",
) -> Expression:
    """As inputTensorTranspose(v, d, batch_size).

    >>> import dist_dynet as dy
    >>> dy.cg().inputMatrixLiteral([1, 2, 3, 4], (2, 2)).npvalue().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    return inputTensorTranspose(v, d, batch_size, device)


def _sparse_literal(
    self: ComputationGraph,
    idxs: Sequence[int],
    v: Sequence[float],
    dim: int | Sequence[int],
    batch_size: int = 1,
    defval: float = 0.0,
    device: str = "",
) -> Expression:
    """A tensor of `defval` with the numbers v at the places idxs, counted column-major and batch
    element after batch element.

    Raises:
        ValueError: there are not as many places as elements, or a place is outside of the tensor.
        TypeError: a place is not an integer.

    >>> import dist_dynet as dy
    >>> dy.cg().inputSparseTensor([0, 3], [5, 6], (2, 2)).npvalue().tolist()
    [[5.0, 0.0], [0.0, 6.0]]
    """
    dims = as_dims(dim, "inputSparseTensor")
    batch_size = whole(batch_size, "inputSparseTensor", "batch_size")
    flat = np.full(int(np.prod(dims)) * batch_size, defval, DTYPE)
    places = integers_of(idxs, "inputSparseTensor")
    data = numbers(v, "inputSparseTensor", "takes numbers").ravel()
    if len(places) != data.size:
        raise ValueError(
            f"inputSparseTensor: takes one index per number; got {len(places)} indices and"
            f" {data.size} numbers."
        )
    for i in places:
        if not 0 <= i < flat.size:
            raise ValueError(
                f"inputSparseTensor: index {i} is outside of {dims} x {batch_size}. Indices run"
                f" from 0 to {flat.size - 1}."
            )
    flat[list(places)] = data
    return inputTensorTranspose(flat, dims, batch_size, device)


_matrix_literal.__qualname__ = "ComputationGraph.inputMatrixLiteral"
_sparse_literal.__qualname__ = "ComputationGraph.inputSparseTensor"
ComputationGraph.inputMatrixLiteral = _matrix_literal  # type: ignore[method-assign]
ComputationGraph.inputSparseTensor = _sparse_literal  # type: ignore[method-assign]


@operation("fill", "batch_size dim+ val.")
def constant(dim: int | Sequence[int], val: float, batch_size: int = 1) -> Expression:
    """All elements `val`: dims x batch_size.

    >>> import dist_dynet as dy
    >>> dy.constant((2, 1), 3).npvalue().tolist()
    [[3.0], [3.0]]
    """
    return leaf("fill", "constant", dim, batch_size, val)


@operation("fill", "batch_size dim+ 0.0")
@dims_in_a_tuple("batch_size")
def zeros(dim: int | Sequence[int], batch_size: int = 1) -> Expression:
    """All elements 0: dims x batch_size.

    >>> import dist_dynet as dy
    >>> dy.zeros((2, 2)).npvalue().tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    return leaf("fill", "zeros", dim, batch_size, 0.0)


zeroes = zeros


@operation("fill", "batch_size dim+ 1.0")
@dims_in_a_tuple("batch_size")
def ones(dim: int | Sequence[int], batch_size: int = 1) -> Expression:
    """All elements 1: dims x batch_size.

    >>> import dist_dynet as dy
    >>> dy.ones(2).value()
    [1.0, 1.0]
    """
    return leaf("fill", "ones", dim, batch_size, 1.0)


def _table(p: LookupParameters, update: bool, what: str) -> Expression:
    """The table, or what stands for it where no gradient is wanted."""
    if not isinstance(p, LookupParameters):
        raise TypeError(f"{what}: takes LookupParameters; got {type(p).__name__}.")
    return p if update else constant_of(p)


def lookup(p: LookupParameters, index: int = 0, update: bool = True) -> _lookupExpression:
    """Row `index` of a table. `.set(i)` changes the row. update=False: no gradient.

    Raises:
        ValueError: the index is outside the table.

    >>> import dist_dynet as dy
    >>> E = dy.ParameterCollection().lookup_parameters_from_numpy([[1, 2], [3, 4]])
    >>> _ = dy.renew_cg()
    >>> dy.lookup(E, 1).value()
    [3.0, 4.0]
    """
    return row(_lookupExpression, _table(p, update, "lookup"), index)


def lookup_batch(
    p: LookupParameters, indices: Sequence[int], update: bool = True
) -> _lookupBatchExpression:
    """A batch of rows of a table. Gradients of repeated rows add up.

    >>> import dist_dynet as dy
    >>> E = dy.ParameterCollection().lookup_parameters_from_numpy([[1, 2], [3, 4]])
    >>> _ = dy.renew_cg()
    >>> dy.lookup_batch(E, [1, 0, 1]).npvalue().tolist()
    [[3.0, 1.0, 3.0], [4.0, 2.0, 4.0]]
    """
    return rows(_lookupBatchExpression, _table(p, update, "lookup_batch"), indices)


@accelerated
def row(cls: type[E], table: Expression, index: Any) -> E:
    """A row of a table."""
    graph = current_graph()
    return made(
        cls,
        graph,
        lib.dn_lookup(graph, table._h, whole(index, "lookup", "the index", "lookup_batch")),
        "lookup",
    )


@accelerated
def rows(cls: type[E], table: Expression, indices: Any) -> E:
    """A batch of rows of a table."""
    graph, numbered = current_graph(), integers_of(indices, "lookup_batch")
    return made(
        cls, graph, lib.dn_lookup_batch(graph, table._h, len(numbered), numbered), "lookup_batch"
    )


def _getitem(self: LookupParameters, index: int) -> _lookupExpression:
    return row(_lookupExpression, self, index)


def _batch(self: LookupParameters, i: Sequence[int], update: bool = True) -> _lookupBatchExpression:
    """As lookup_batch().

    >>> import dist_dynet as dy
    >>> E = dy.ParameterCollection().lookup_parameters_from_numpy([[1, 2], [3, 4]])
    >>> _ = dy.renew_cg()
    >>> E.batch([1, 0, 1]).npvalue().tolist()
    [[3.0, 1.0, 3.0], [4.0, 2.0, 4.0]]
    """
    return lookup_batch(self, i, update)


calls.tables(LookupParameters, _lookupExpression, _getitem)
_batch.__qualname__ = "LookupParameters.batch"
LookupParameters.batch = _batch  # type: ignore[method-assign]
