"""Parameters and LookupParameters: a dense parameter, a table of rows. Each is a place in a root,
and an expression in every graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._ffi import DTYPE, NULL, accelerated, ffi, lib, pointer, shaped
from .._integers import floats, named, numbers
from .._manner import manner
from ..expression import Expression, Numbers, expression, resolved
from .precision import check_precision, name_of_precision
from .root import Root, refuse

if TYPE_CHECKING:
    from ..ops._input_nodes import _lookupBatchExpression, _lookupExpression

FileName = str | PathLike[str]


@accelerated
def stored(p: Any, row: int) -> Numbers:
    """The values of a parameter (row -1) or of a row of a table, as they are stored."""
    row = int(p._range("row_as_array", [row])[0]) if p._rows else 0
    size = prod(p._dims)
    return p._values(row * size, size).astype(np.float64), p._dims, 1


def rebuilt_parameter(cls: Any, root: Root, index: int, name: str, role: str = "") -> Any:
    """The object that stands for the parameter at this place of a root."""
    c, dims, rows = root.made[index]
    parameter = cls.__new__(cls)
    parameter._root = root
    parameter._place = index
    parameter._name = name
    parameter._dims = dims
    parameter._rows = rows
    parameter._c = c
    parameter._h = lib.dn_param_handle(c, 0)
    parameter._play(role)
    return parameter


class _ParameterBase(Expression):
    """What dense parameters and lookup tables have in common.

    Used where an expression is due, each stands for its node in the current graph.
    """

    __slots__ = ("_c", "_dims", "_name", "_place", "_role", "_root", "_rows")

    def __init__(self, root: Root, name: str, dims: tuple[int, ...], rows: int) -> None:
        if not isinstance(root, Root):
            raise TypeError(
                f"{type(self).__name__}: made by ParameterCollection.add_parameters() and"
                " add_lookup_parameters() only."
            )
        self._root, self._name, self._dims, self._rows = root, name, dims, rows
        self._place = len(root.made)
        self._c = root.new_parameter(dims, rows)
        self._h = lib.dn_param_handle(self._c, 0)
        self._play("")

    def _play(self, role: str) -> None:
        """Says what it is in its builder or block: 0/Wx, of the first layer. Empty: no part of
        one, or one with a name of its own."""
        self._role = role
        self._root.names[self._h] = self.readable_name()

    __copy__ = __deepcopy__ = None  # as __reduce__ says

    def __reduce__(self) -> tuple[Any, ...]:
        role = (self._role,) if self._role else ()
        return rebuilt_parameter, (type(self), self._root, self._place, self._name, *role)

    def _node(self) -> int:
        return resolved(self._h)

    def name(self) -> str:
        """The full name, such as /encoder/W: that of files, which is DyNet's."""
        return self._name

    def readable_name(self) -> str:
        """As name(), but with what it is in its builder or block in place of a number; messages,
        summaries and repr() show it.

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(2, 4, 3, dy.ParameterCollection())
        >>> b = lstm.get_parameters()[1][2]
        >>> b.name(), b.readable_name()
        ('/vanilla-lstm-builder/_5', '/vanilla-lstm-builder/1/b')
        """
        return self._name[: self._name.rindex("/") + 1] + self._role if self._role else self._name

    def _shown_name(self) -> str:
        return self._name if manner.dynet else self.readable_name()

    def shape(self) -> tuple[int, ...]:
        """The dims; of a table, the number of rows first."""
        return (self._rows, *self._dims) if self._rows else self._dims

    def storage(self) -> NDArray[Any]:
        """The values themselves, flat in storage order (no copy). After writing, call changed().

        While another thread updates, it shows what is written at that moment: as_array() and
        set_value() wait for each other and for updates. While the program has it, ranks do not
        share their parameters (docs/parallel.md).
        """
        self._root.detach()
        return self._root.lend(self._root.values(self._c))

    def changed(self) -> None:
        """Says that storage() was written to."""
        self._root.changed([self._c])

    def _values(self, first: int = 0, n: int | None = None) -> NDArray[Any]:
        """A copy of n values (None: all), in storage order."""
        out = np.empty(lib.dn_param_size(self._c) if n is None else n, DTYPE)
        lib.dn_param_copy(self._c, first, out.size, pointer(out))
        return out

    def _write(self, values: NDArray[Any], first: int = 0, factor: float = 1) -> None:
        """Sets values, in storage order. factor: that of a whole table, which its values are these
        numbers times."""
        flat = np.ascontiguousarray(values, DTYPE)
        refuse(lib.dn_param_write(self._c, first, flat.size, pointer(flat), factor))

    def _shaped(self, flat: NDArray[Any]) -> NDArray[Any]:
        """A view, of shape(), of numbers in storage order."""
        if self._rows:
            return np.moveaxis(flat.reshape((*self._dims, self._rows), order="F"), -1, 0)
        return flat.reshape(self._dims, order="F")

    def _arrange(self, flat: NDArray[Any]) -> NDArray[np.float64]:
        """Storage order -> a float64 copy of shape()."""
        return self._shaped(flat.astype(np.float64))

    def as_array(self) -> NDArray[np.float64]:
        """A float64 copy of the values, of shape()."""
        if self._rows:
            return self._arrange(self._values())
        numbers, dims, batch = stored(self, -1)
        return shaped(np.frombuffer(numbers), dims, batch)

    def _as_array(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """What np.asarray(p) gives: the values in the build's number type (float32), of shape().

        Of a dense parameter a view, which follows later updates and cannot be written to; of a
        table a copy, as weight decay is lazy there.

        >>> import dist_dynet as dy, numpy as np
        >>> w = dy.ParameterCollection().add_parameters(2, init=1)
        >>> values = np.asarray(w)
        >>> w.scale(3)
        >>> values, np.array(w, dtype=int)
        (array([3., 3.], dtype=float32), array([3, 3]))
        """
        shares = not self._rows and dtype in (None, DTYPE) and not copy
        if copy is False and not shares:
            raise ValueError(
                f"{self!r} cannot be given as an array without a copy. Leave out copy=False."
            )
        array = self._shaped(self._root.values(self._c) if shares else self._values())
        array.flags.writeable = not shares
        return array if dtype is None else array.astype(dtype, copy=False)

    def _flat_gradient(self) -> NDArray[Any]:
        out = np.empty(lib.dn_param_size(self._c), DTYPE)
        lib.dn_param_copy_gradient(self._c, pointer(out))
        return out

    def grad_as_array(self) -> NDArray[np.float64]:
        """A float64 copy of the gradient gathered since the last update, of shape(); zeros where
        there is none."""
        return self._arrange(self._flat_gradient())

    def set_gradient(self, gradient: ArrayLike) -> None:
        """Replaces the gradient, as `p.grad = g` elsewhere; of a table, rows of zeros count as not
        used. A frozen parameter has none.

        Raises:
            ValueError: the shape differs.
        """
        array = numbers(gradient, "set_gradient")
        if array.shape != self.shape():
            raise ValueError(
                f"set_gradient: the array must have the parameter's shape; got array {array.shape},"
                f" parameter {self.shape()}."
            )
        self._set_flat_gradient(
            (np.moveaxis(array, 0, -1) if self._rows else array).ravel(order="F")
        )

    def _set_flat_gradient(self, gradient: NDArray[Any] | None) -> None:
        raise NotImplementedError

    def has_gradient(self) -> bool:
        """Whether a gradient was gathered since the last update."""
        return not lib.dn_param_empty(self._c)

    def scale(self, s: float) -> None:
        """Multiplies the values by s."""
        self._write(self._values() * DTYPE.type(s))

    def scale_gradient(self, s: float) -> None:
        """Multiplies the gradient by s."""
        lib.dn_param_scale_gradient(self._c, s)

    def clear_gradient(self) -> None:
        """Forgets the gradient gathered since the last update."""
        lib.dn_param_clear_gradient(self._c)

    def is_updated(self) -> bool:
        """Whether trainers change it."""
        return bool(lib.dn_param_updated(self._c))

    def set_updated(self, b: bool) -> None:
        """False freezes it: no gradient is gathered or counted, trainers leave it; a pending
        gradient is dropped."""
        lib.dn_param_set_updated(self._c, bool(b))

    def save(self, fname: FileName, key: str = "", append: bool = False) -> None:
        """Writes it to a text file under `key` (its name if empty)."""
        from ..io import text

        text.save_parameters([(key or self._name, cast("AnyParameter", self))], fname, append)

    def populate(self, fname: FileName, key: str = "") -> None:
        """Reads values (and gradient, if stored) of the entry named `key`, of equal dims.

        Raises:
            RuntimeError: the file, the key or the numbers cannot be read; the parameter then is as
                it was.
        """
        from ..io import text

        text.populate_parameter(cast("AnyParameter", self), fname, key or self._name)

    def write_to_textfile(self, fname: FileName, key: str = "", append: bool = False) -> None:
        """As save()."""
        self.save(fname, key, append)

    def populate_from_textfile(self, fname: FileName, key: str = "") -> None:
        """As populate()."""
        self.populate(fname, key)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


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

    def set_value(self, arr: ArrayLike) -> None:
        """Sets the values. Graphs that have computed with the old ones do not see it.

        Raises:
            ValueError: the shape differs.
        """
        array = numbers(arr, "set_value")
        if array.shape != self._dims:
            raise ValueError(
                f"set_value: the array must have the parameter's shape; got array {array.shape},"
                f" parameter {self._dims}."
            )
        self._write(array.ravel(order="F"))

    def zero(self) -> None:
        """Sets values and gradient to zero."""
        self._write(np.zeros(lib.dn_param_size(self._c), DTYPE))
        self.clear_gradient()

    def clip_inplace(self, left: float, right: float) -> None:
        """Clips the values to [left, right]."""
        self._write(np.clip(self._values(), left, right))

    def precision(self) -> str | None:
        """What set_precision() has set; None: init() and the environment decide."""
        return name_of_precision(lib.dn_param_precision(self._c))

    def set_precision(self, precision: str | None) -> None:
        """Whether products with this matrix are rounded: "float32" or "bf16", whatever init() says;
        None: as that says. Graphs that have used it already stay as they are.

        Raises:
            ValueError: there is no such precision, or not with float64.

        >>> import dist_dynet as dy
        >>> W = dy.ParameterCollection().add_parameters((2, 3), precision="float32")
        >>> W.precision()
        'float32'
        """
        lib.dn_param_set_precision(self._c, check_precision(precision, "set_precision"))

    def _set_flat_gradient(self, gradient: NDArray[Any] | None) -> None:
        """Replaces the gradient; None empties it. A frozen parameter has none."""
        self.clear_gradient()
        if gradient is not None and self.is_updated():
            lib.dn_param_put(self._c, 1, pointer(np.ascontiguousarray(gradient, DTYPE)))

    def expr(self, update: bool = False) -> Expression:
        """Its node in the current graph; by default as a constant, without gradient."""
        constant_or_not = self._h if update else lib.dn_param_handle(self._c, 1)
        return expression(resolved(constant_or_not))

    def __repr__(self) -> str:
        return _shown("Parameter", self)

    def __str__(self) -> str:
        return f"Parameter {self._shown_name()}"


class LookupParameters(_ParameterBase):
    """A table of rows, of which a graph uses and a trainer changes a few; made by
    ParameterCollection.add_lookup_parameters().

    >>> import dist_dynet as dy
    >>> E = dy.ParameterCollection().add_lookup_parameters((10, 2), init=0.25)
    >>> _ = dy.renew_cg()
    >>> E[3].value(), len(E)
    ([0.25, 0.25], 10)
    """

    __slots__ = ()

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
        """The rows as integers; raises for those outside of the table."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu":
            numbers = rows.ravel()
            outside = (numbers < 0) | (numbers >= self._rows)
            first = int(numbers[outside.argmax()]) if outside.any() else None
        else:
            several = [named(i, what, "row") for i in cast(Iterable[Any], rows)]
            first = next((i for i in several if not 0 <= i < self._rows), None)
            numbers = np.array(several if first is None else [], np.int32)
        if first is not None:
            self._row(what, first)
        return np.ascontiguousarray(numbers, np.int32)

    def _row(self, what: str, row: int) -> int:
        """The same of one."""
        row = named(row, what, "row")
        if not 0 <= row < self._rows:
            raise ValueError(f"{what}: row {row} is outside the table of {self._rows} rows.")
        return row

    def init_row(self, i: int, row: ArrayLike) -> None:
        """Sets row i to these numbers, column-major."""
        i = self._row("init_row", i)
        size = prod(self._dims)
        values = numbers(row, "init_row").ravel(order="F")
        if values.size != size:
            raise ValueError(f"init_row: a row has {size} numbers; got {values.size}.")
        self._write(values, i * size)

    def init_from_array(self, arr: ArrayLike) -> None:
        """Sets the first rows, as many as `arr` has."""
        array = numbers(arr, "init_from_array")
        if array.shape[1:] != self._dims or array.ndim == 0 or array.shape[0] > self._rows:
            sizes = ", ".join(map(str, self._dims))
            raise ValueError(
                f"init_from_array: the array must be (at most {self._rows}, {sizes}); got"
                f" {array.shape}."
            )
        self._write(np.moveaxis(array, 0, -1).ravel(order="F"))

    def row_as_array(self, row: int) -> NDArray[np.float64]:
        """A copy of one row."""
        numbers, dims, batch = stored(self, self._row("row_as_array", row))
        return shaped(np.frombuffer(numbers), dims, batch)

    def rows_as_array(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Copies of these rows, the row first."""
        return self._copied(lib.dn_lookup_copy_rows, self._range("rows_as_array", rows))

    def _copied(self, copy: Any, rows: NDArray[np.int32]) -> NDArray[np.float64]:
        """What a call of C copies for these rows: rows of the row's dims."""
        out = np.empty((len(rows), prod(self._dims)), DTYPE)
        if len(rows):
            copy(self._c, len(rows), ffi.from_buffer("int *", rows), pointer(out))
        return self._by_row(out.astype(np.float64))

    def _by_row(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of numbers, each in storage order -> rows of the row's dims."""
        shaped: NDArray[np.float64] = flat.reshape(len(flat), *self._dims[::-1]).transpose(
            0, *range(len(self._dims), 0, -1)
        )
        return shaped

    def row_grad_as_array(self, row: int) -> NDArray[np.float64]:
        """A copy of one row's gradient."""
        copied: NDArray[np.float64] = self.rows_grad_as_array([row])[0]
        return copied

    def rows_grad_as_array(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Copies of these rows' gradients."""
        return self._copied(lib.dn_lookup_copy_gradients, self._range("rows_grad_as_array", rows))

    def touched_rows(self) -> NDArray[np.int32]:
        """The rows that have a gradient since the last update, in order of first use."""
        return self._touched()[0]

    def touched_gradients(self) -> NDArray[Any]:
        """A copy of their gradients, one row of numbers each."""
        return self._touched()[1]

    def _touched(self) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """touched_rows() and touched_gradients() of one moment."""
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
        """Adds row gradients, one row of numbers each."""
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

    def _set_flat_gradient(self, gradient: NDArray[Any] | None) -> None:
        """Replaces the gradient by that of a whole table, of which rows of zeros count as not
        touched; None empties it."""
        self.clear_gradient()
        if gradient is not None and self.is_updated():
            by_row = gradient.reshape(self._rows, -1)
            touched = np.flatnonzero(by_row.any(axis=1))
            self.add_gradients(touched, by_row[touched])

    def zero(self) -> None:
        """Sets the values to zero."""
        self._write(np.zeros(lib.dn_param_size(self._c), DTYPE))

    def expr(self) -> LookupParameters:
        """The whole table as an expression of dims (d..., rows): itself."""
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
