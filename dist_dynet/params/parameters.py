"""Parameters and LookupParameters: a dense parameter, and a table of rows. Each is a place in a
root, and an expression in every graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._ffi import DTYPE, NULL, ffi, lib, pointer, shaped
from .._integers import floats, integer_argument, items_of, listed_if_few, numbers, real
from .._manner import manner
from ..expression import Expression
from .access import parameter_node, set_row, stored
from .base import _ParameterBase
from .precision import check_precision, name_of_precision
from .root import Root

if TYPE_CHECKING:
    from ..ops._input_nodes import _lookupBatchExpression, _lookupExpression


def rebuilt_parameter(cls: Any, root: Root, index: int, name: str, role: str = "") -> Any:
    """The object for the parameter at this position of a root."""
    c, dims, rows = root.made[index]
    parameter = cls.__new__(cls)
    parameter._root, parameter._place = root, index
    parameter._name = name
    parameter._dims = dims
    parameter._rows = rows
    parameter._c = c
    parameter._h = lib.dn_param_handle(c, 0)
    parameter._play(role)
    return parameter


class Parameters(_ParameterBase):
    """A dense parameter; made by ParameterCollection.add_parameters().

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters((2, 3), init=0.5, name="W")
    >>> W.name(), W.shape(), W.is_updated()
    ('/W', (2, 3), True)
    >>> _ = dy.renew_cg()
    >>> (W * dy.inputVector([1, 2, 3])).value()
    [3.0, 3.0]
    """

    __slots__ = ()
    _rebuilt = staticmethod(rebuilt_parameter)

    def as_array(self) -> NDArray[np.float64]:
        """A float64 copy of the values, of shape().

        >>> import dist_dynet as dy
        >>> W = dy.ParameterCollection().add_parameters((2, 3), init=0.5)
        >>> W.as_array().tolist()
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
        """
        numbers, dims, batch = stored(self, -1)
        return shaped(np.frombuffer(numbers), dims, batch)

    def set_value(self, arr: ArrayLike) -> None:
        """Sets the values. Graphs that have already used the old values keep them.

        Raises:
            ValueError: the shape differs.

        >>> import dist_dynet as dy
        >>> W = dy.ParameterCollection().add_parameters((2, 2))
        >>> W.set_value([[1, 2], [3, 4]])
        >>> W.as_array().tolist()
        [[1.0, 2.0], [3.0, 4.0]]
        """
        array = numbers(arr, "set_value")
        if array.shape != self._dims:
            raise ValueError(
                f"set_value: the array must have the parameter's shape; got array {array.shape},"
                f" parameter {self._dims}."
            )
        self._write(array.ravel(order="F"))

    def zero(self) -> None:
        """Sets values and gradient to zero.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(2, init=1)
        >>> w.set_gradient([1, 2])
        >>> w.zero()
        >>> w.as_array().tolist(), w.has_gradient()
        ([0.0, 0.0], False)
        """
        self._change(lib.dn_param_zero)

    def clip_inplace(self, left: float, right: float) -> None:
        """Clips the values to [left, right].

        Raises:
            ValueError: left is above right, or one of them NaN, which would replace all values.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().parameters_from_numpy([-3, 0.5, 2])
        >>> w.clip_inplace(-1, 1)
        >>> w.as_array().tolist()
        [-1.0, 0.5, 1.0]
        """
        low, high = real(left, "clip_inplace"), real(right, "clip_inplace")
        if not low <= high:
            raise ValueError(
                f"clip_inplace: left must not be above right; got left = {left}, right = {right}."
            )
        self._change(lib.dn_param_clip, low, high)

    def precision(self) -> str | None:
        """The precision set by set_precision(); None: that of init() or the environment.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> W, b = m.add_parameters((2, 3), precision="float32"), m.add_parameters(2)
        >>> W.precision(), b.precision()
        ('float32', None)
        """
        return name_of_precision(lib.dn_param_precision(self._c))

    def set_precision(self, precision: str | None) -> None:
        """Whether products with this matrix are rounded: "float32" or "bf16", whatever init() says;
        None: as init() says. Graphs that have already used it keep their precision.

        Raises:
            ValueError: there is no such precision, or not with float64.

        >>> import dist_dynet as dy
        >>> W = dy.ParameterCollection().add_parameters((2, 3), precision="float32")
        >>> W.precision()
        'float32'
        """
        lib.dn_param_set_precision(self._c, check_precision(precision, "set_precision"))

    def expr(self, update: bool = False) -> Expression:
        """Its node in the current graph; by default as a constant, without gradient.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(1, init=2)
        >>> _ = dy.renew_cg()
        >>> (w.expr() * w).backward()
        >>> w.grad_as_array().tolist()
        [2.0]
        """
        return parameter_node(self, update)

    def __repr__(self) -> str:
        return _shown("Parameter", self)

    def __str__(self) -> str:
        return f"Parameter {self._shown_name()}"


class LookupParameters(_ParameterBase):
    """A table of rows; a graph uses, and a trainer changes, a few of them. Made by
    ParameterCollection.add_lookup_parameters().

    >>> import dist_dynet as dy
    >>> E = dy.ParameterCollection().add_lookup_parameters((10, 2), init=0.25)
    >>> _ = dy.renew_cg()
    >>> E[3].value(), len(E)
    ([0.25, 0.25], 10)
    """

    __slots__ = ()
    _rebuilt = staticmethod(rebuilt_parameter)

    if TYPE_CHECKING:  # attached by ops/inputs.py

        def __getitem__(self, index: int) -> _lookupExpression: ...
        def batch(  # noqa: D102
            self, i: Sequence[int], update: bool = True
        ) -> _lookupBatchExpression: ...

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Expression]:
        return (self[i] for i in range(self._rows))

    def _range(self, what: str, rows: ArrayLike) -> NDArray[np.int32]:
        """The rows as integers; raises an error for those outside the table."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":
            numbers = rows.ravel()
            outside = (numbers < 0) | (numbers >= self._rows)
            first = int(numbers[outside.argmax()]) if outside.any() else None
        else:
            items = items_of(rows, what, "a list of rows")
            several = [integer_argument(i, what, "row") for i in items]
            first = next((i for i in several if not 0 <= i < self._rows), None)
            numbers = np.array(several if first is None else [], np.int32)
        if first is not None:
            self._row(what, first)
        return np.ascontiguousarray(numbers, np.int32)

    def _row(self, what: str, row: int) -> int:
        """The same for one row."""
        row = integer_argument(row, what, "row")
        if not 0 <= row < self._rows:
            raise ValueError(f"{what}: row {row} is outside the table of {self._rows} rows.")
        return row

    def as_array(self) -> NDArray[np.float64]:
        """A float64 copy of the values, of shape(): the row first.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((3, 2), init=0.5)
        >>> E.as_array().tolist()
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
        """
        return self._arrange(self._values())

    def init_row(self, i: int, row: ArrayLike) -> None:
        """Sets row i to these numbers, column-major.

        Raises:
            ValueError: the row is not one of the table's, or has a different number of elements.
            TypeError: i is not an integer, or the row not of numbers.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((3, 2), init=0)
        >>> E.init_row(1, [5, 6])
        >>> E.as_array().tolist()
        [[0.0, 0.0], [5.0, 6.0], [0.0, 0.0]]
        """
        set_row(self, i, listed_if_few(row) if type(row) is np.ndarray else row)

    def init_from_array(self, arr: ArrayLike) -> None:
        """Sets the first rows, as many as `arr` has.

        Raises:
            ValueError: the array has rows of another shape, or more than the table.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((3, 2), init=0)
        >>> E.init_from_array([[1, 2], [3, 4]])
        >>> E.as_array().tolist()
        [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]
        """
        array = numbers(arr, "init_from_array")
        if array.shape[1:] != self._dims or array.ndim == 0 or array.shape[0] > self._rows:
            sizes = ", ".join(map(str, self._dims))
            raise ValueError(
                f"init_from_array: the array must be (at most {self._rows}, {sizes}); got"
                f" {array.shape}."
            )
        self._write(np.moveaxis(array, 0, -1).ravel(order="F"))

    def row_as_array(self, row: int) -> NDArray[np.float64]:
        """A copy of one row.

        Raises:
            ValueError: the row is not one of the table's.
            TypeError: it is not an integer.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().lookup_parameters_from_numpy([[1, 2], [3, 4]])
        >>> E.row_as_array(1).tolist()
        [3.0, 4.0]
        """
        numbers, dims, batch = stored(self, self._row("row_as_array", row))
        return shaped(np.frombuffer(numbers), dims, batch)

    def rows_as_array(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Copies of these rows, the row first.

        Raises:
            ValueError: a row is not one of the table's.
            TypeError: one is not an integer.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().lookup_parameters_from_numpy([[1, 2], [3, 4], [5, 6]])
        >>> E.rows_as_array([2, 0]).tolist()
        [[5.0, 6.0], [1.0, 2.0]]
        """
        return self._copied(lib.dn_lookup_copy_rows, self._range("rows_as_array", rows))

    def _copied(self, copy: Any, rows: NDArray[np.int32]) -> NDArray[np.float64]:
        """Rows copied by a C function, each with the dims of a row."""
        out = np.empty((len(rows), prod(self._dims)), DTYPE)
        if len(rows):
            copy(self._c, len(rows), ffi.from_buffer("int *", rows), pointer(out))
        return self._by_row(out.astype(np.float64))

    def _by_row(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of numbers in storage order -> rows with the dims of a row."""
        shaped: NDArray[np.float64] = flat.reshape(len(flat), *self._dims[::-1]).transpose(
            0, *range(len(self._dims), 0, -1)
        )
        return shaped

    def row_grad_as_array(self, row: int) -> NDArray[np.float64]:
        """A copy of one row's gradient.

        Raises:
            ValueError: the row is not one of the table's.
            TypeError: it is not an integer.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((3, 2), init=0)
        >>> _ = dy.renew_cg()
        >>> dy.dot_product(E[1], dy.inputVector([5, 6])).backward()
        >>> E.row_grad_as_array(1).tolist(), E.row_grad_as_array(2).tolist()
        ([5.0, 6.0], [0.0, 0.0])
        """
        copied: NDArray[np.float64] = self.rows_grad_as_array([row])[0]
        return copied

    def rows_grad_as_array(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Copies of these rows' gradients.

        Raises:
            ValueError: a row is not one of the table's.
            TypeError: one is not an integer.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((4, 2), init=0)
        >>> E.add_gradients([1, 3], [[1, 2], [3, 4]])
        >>> E.rows_grad_as_array([3, 0]).tolist()
        [[3.0, 4.0], [0.0, 0.0]]
        """
        return self._copied(lib.dn_lookup_copy_gradients, self._range("rows_grad_as_array", rows))

    def touched_rows(self) -> NDArray[np.int32]:
        """The rows that have a gradient since the last update, in order of first use.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((10, 2), init=1)
        >>> _ = dy.renew_cg()
        >>> dy.dot_product(E[7], E[2]).backward()
        >>> sorted(E.touched_rows().tolist())
        [2, 7]
        """
        return self._touched()[0]

    def touched_gradients(self) -> NDArray[Any]:
        """A copy of the gradients of touched_rows(), one row of numbers each.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((10, 2), init=1)
        >>> _ = dy.renew_cg()
        >>> dy.dot_product(E[7], dy.inputVector([3, 4])).backward()
        >>> E.touched_rows().tolist(), E.touched_gradients().tolist()
        ([7], [[3.0, 4.0]])
        """
        return self._touched()[1]

    def _touched(self) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """touched_rows() and touched_gradients() at the same moment."""
        capacity = -1
        while True:
            rows = np.empty(max(capacity, 0), np.int32)
            block = np.empty((max(capacity, 0), prod(self._dims)), DTYPE)
            n = lib.dn_lookup_touched(
                self._c,
                capacity,
                ffi.from_buffer("int *", rows) if rows.size else NULL,
                pointer(block),
            )
            if n <= capacity:
                return rows[:n], block[:n]
            capacity = n

    def add_gradients(self, rows: ArrayLike, gradients: ArrayLike) -> None:
        """Adds row gradients, one row of numbers each.

        Raises:
            ValueError: a row is not one of the table's, or there are not as many elements as the
                rows have.
            TypeError: a row is not an integer.
            MemoryError: there is no memory for them.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((10, 2), init=1)
        >>> E.add_gradients([7, 2, 7], [[1, 1], [2, 2], [3, 3]])
        >>> E.touched_rows().tolist(), E.touched_gradients().tolist()
        ([7, 2], [[4.0, 4.0], [2.0, 2.0]])
        """
        index = self._range("add_gradients", rows)
        block = floats(gradients, "add_gradients")
        if block.size != index.size * prod(self._dims):
            raise ValueError(
                f"add_gradients: {index.size} rows need {index.size * prod(self._dims)} numbers;"
                f" got {block.size}."
            )
        if index.size and lib.dn_lookup_add(
            self._c, index.size, ffi.from_buffer("int *", index), pointer(block)
        ):
            raise MemoryError("add_gradients: out of memory")

    def zero(self) -> None:
        """Sets the values to zero.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().add_lookup_parameters((2, 2), init=1)
        >>> E.zero()
        >>> E.as_array().tolist()
        [[0.0, 0.0], [0.0, 0.0]]
        """
        self._change(lib.dn_param_zero)

    def expr(self) -> LookupParameters:
        """The whole table as an expression of dims (d..., rows): itself.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().lookup_parameters_from_numpy([[1, 2], [3, 4], [5, 6]])
        >>> _ = dy.renew_cg()
        >>> E.expr().dim(), (dy.transpose(E.expr()) * dy.inputVector([1, 1])).value()
        (((2, 3), 1), [3.0, 7.0, 11.0])
        """
        return self

    def __repr__(self) -> str:
        return _shown("LookupParameter", self)

    def __str__(self) -> str:
        return f"LookupParameter {self._shown_name()}"


def _shown(kind: str, p: _ParameterBase) -> str:
    if manner.dynet:
        return str(p)
    return f"{kind} {p.readable_name()} {p.shape()}{'' if p.is_updated() else ', frozen'}"


AnyParameter: TypeAlias = Parameters | LookupParameters
