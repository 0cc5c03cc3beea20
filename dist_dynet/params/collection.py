"""ParameterCollection, Parameters and LookupParameters.

Values and gradients live in a root (csrc/params.c): dense parameters in a few large chunks, gradients at the same offsets; lookup tables as
blocks of their own with a list of touched rows. A collection is a name and a list of what belongs to it; subcollections share their root.
"""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _random
from .._ffi import DTYPE, NULL, calls, ffi, lib, nodes, pointer, view, view_ints
from ..graph import Expression, expression, resolved
from . import copying, initializers

FileName = str | PathLike[str]
_resolve, _current = nodes.dn_resolve, calls.current
MAX_DIMS: int = lib.DN_MAX_DIMS


def as_dims(dims: Any, what: str) -> tuple[int, ...]:
    """Sizes from a number or a sequence of numbers; floats are taken where they are whole."""
    if isinstance(dims, str | bytes) or dims is None:
        raise TypeError(f"{what}: dims must be a number or a tuple of numbers; got {dims!r}.")
    sizes = tuple(dims) if isinstance(dims, Iterable) else (dims,)
    result = []
    for size in sizes:
        try:
            whole = int(size) if isinstance(size, float) and size.is_integer() else operator.index(size)
        except TypeError:
            raise TypeError(f"{what}: sizes must be whole numbers; got {size!r} in {dims!r}.") from None
        if whole < 0:
            raise ValueError(f"{what}: sizes must not be negative; got {dims!r}.")
        result.append(whole)
    if not 0 < len(result) <= MAX_DIMS:
        raise ValueError(f"{what}: takes 1 to {MAX_DIMS} dims; got {dims!r}.")
    return tuple(result)


def check_size(dims: tuple[int, ...], what: str) -> None:
    """ValueError for more numbers than a parameter holds; to be called before they are drawn."""
    if math.prod(dims) >= 1 << 31:
        raise ValueError(f"{what}: a parameter holds at most {(1 << 31) - 1} numbers; got dims {dims}.")


class Root:
    """The owner of all parameters of a tree of collections."""

    def __init__(self) -> None:
        root = lib.dn_root_new()
        if root == NULL:
            raise MemoryError("ParameterCollection: out of memory")
        self.c = ffi.gc(root, lib.dn_root_free)
        self.made: list[tuple[Any, tuple[int, ...], int]] = []
        """C's parameters in the order in which they were made, with dims and rows."""
        self.places: dict[Any, int] = {}
        """Where in `made`."""
        self.names: dict[int, str] = {}
        """The name of each parameter's handle."""
        self.follow_order()
        _roots.add(self)

    def follow_order(self) -> None:
        """Lets C know whether the numbers are to be DyNet's."""
        lib.dn_root_as_dynet(self.c, _random.dynet_order())

    def __reduce__(self) -> tuple[Any, ...]:
        return copying.rebuilt_root, (type(self), copying.contents(self))

    def new_parameter(self, dims: Sequence[int], rows: int = 0) -> Any:
        """C's parameter of these dims; with rows, a table."""
        param = lib.dn_param_new(self.c, len(dims), ffi.new("int[]", list(dims)), rows)
        if param == NULL:
            raise MemoryError(f"parameters: out of memory for dims {tuple(dims)} x {rows or 1} rows")
        self.places[param] = len(self.made)
        self.made.append((param, tuple(dims), rows))
        return param

    def chunks(self) -> int:
        """How many chunks the dense parameters fill."""
        return int(lib.dn_root_chunks(self.c))

    def chunk_gradients(self, chunk: int) -> NDArray[Any]:
        """The gradients of a chunk, without a copy: padding and empty gradients included, which may hold anything but NaN's absence."""
        return view(lib.dn_chunk_gradients(self.c, chunk), lib.dn_chunk_size(self.c, chunk))

    def chunk_values(self, chunk: int) -> NDArray[Any]:
        """The values of a chunk, without a copy."""
        return view(lib.dn_chunk_values(self.c, chunk), lib.dn_chunk_size(self.c, chunk))

    def changed(self) -> None:
        """To be called after values were written from outside."""
        lib.dn_root_changed(self.c)


class _Defaults:
    weight_decay = 0.0


_defaults = _Defaults()


def check_weight_decay(what: str, lam: float) -> float:
    """The strength as a float if it lies in [0, 1)."""
    if not 0 <= lam < 1:
        raise ValueError(f"{what}: the strength must lie in [0, 1); got {lam}.")
    return float(lam)


def set_default_weight_decay(lam: float) -> None:
    """The strength that collections without a parent begin with."""
    _defaults.weight_decay = check_weight_decay("weight decay", lam)


_roots: weakref.WeakSet[Root] = weakref.WeakSet()


def use_dynet_order(on: bool) -> None:
    """As _random.use_dynet_order(), for all collections."""
    _random.use_dynet_order(on)
    for root in list(_roots):
        root.follow_order()


def name_of(handle: int) -> str:
    """The full name of the parameter with this handle; empty where it is gone."""
    return next((root.names[handle] for root in _roots if handle in root.names), "")


class _ParameterBase(Expression):
    """What dense parameters and lookup tables have in common.

    Used where an expression is due, each stands for its node in the current graph.
    """

    __slots__ = ("_c", "_dims", "_name", "_root", "_rows")

    def __init__(self, root: Root, name: str, dims: tuple[int, ...], rows: int) -> None:
        if not isinstance(root, Root):
            raise TypeError(f"{type(self).__name__}: made by ParameterCollection.add_parameters() and add_lookup_parameters() only.")
        self._root, self._name, self._dims, self._rows = root, name, dims, rows
        self._c = root.new_parameter(dims, rows)
        self._h = lib.dn_param_handle(self._c, 0)
        root.names[self._h] = name

    def __reduce__(self) -> tuple[Any, ...]:
        return copying.rebuilt_parameter, (type(self), self._root, self._root.places[self._c], self._name)

    def _node(self) -> int:
        return resolved(self._h)

    def name(self) -> str:
        """The full name, such as /encoder/W."""
        return self._name

    def shape(self) -> tuple[int, ...]:
        """The dims; of a table, the number of rows first."""
        return (self._rows, *self._dims) if self._rows else self._dims

    def storage(self) -> NDArray[Any]:
        """The values themselves, flat in storage order (no copy). After writing, call changed()."""
        return view(lib.dn_param_values(self._c), lib.dn_param_size(self._c), self._root)

    def changed(self) -> None:
        """Says that storage() was written to."""
        self._root.changed()

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
        return self._arrange(self.storage())

    def _flat_gradient(self) -> NDArray[Any]:
        out = np.empty(lib.dn_param_size(self._c), DTYPE)
        lib.dn_param_copy_gradient(self._c, pointer(out))
        return out

    def grad_as_array(self) -> NDArray[np.float64]:
        """A float64 copy of the gradient gathered since the last update, of shape(); zeros where there is none."""
        return self._arrange(self._flat_gradient())

    def has_gradient(self) -> bool:
        """Whether a gradient was gathered since the last update."""
        return not lib.dn_param_empty(self._c)

    def scale(self, s: float) -> None:
        """Multiplies the values by s."""
        self.storage()[:] *= DTYPE.type(s)
        self.changed()

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
        """False freezes it: no gradient is gathered or counted, trainers leave it; a pending gradient is dropped."""
        lib.dn_param_set_updated(self._c, bool(b))

    def save(self, fname: FileName, key: str = "", append: bool = False) -> None:
        """Writes it to a text file under `key` (its name if empty)."""
        from ..io import text

        text.save_parameters([(key or self._name, cast("Parameters | LookupParameters", self))], fname, append)

    def populate(self, fname: FileName, key: str = "") -> None:
        """Reads values (and gradient, if stored) of the entry named `key`, of equal dims.

        Raises:
            RuntimeError: the file, the key or the numbers cannot be read; the parameter then is as it was.
        """
        from ..io import text

        text.populate_parameter(cast("Parameters | LookupParameters", self), fname, key or self._name)

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
        array = np.asarray(arr, DTYPE)
        if array.shape != self._dims:
            raise ValueError(f"set_value: the array must have the parameter's shape; got array {array.shape}, parameter {self._dims}.")
        self.storage()[:] = array.ravel(order="F")
        self.changed()

    def zero(self) -> None:
        """Sets values and gradient to zero."""
        self.storage()[:] = 0
        self.clear_gradient()
        self.changed()

    def clip_inplace(self, left: float, right: float) -> None:
        """Clips the values to [left, right]."""
        np.clip(self.storage(), left, right, out=self.storage())
        self.changed()

    def _set_flat_gradient(self, gradient: NDArray[Any] | None) -> None:
        """Replaces the gradient; None empties it. A frozen parameter has none."""
        self.clear_gradient()
        if gradient is not None and self.is_updated():
            view(lib.dn_param_gradient(self._c), gradient.size)[:] = gradient

    def expr(self, update: bool = False) -> Expression:
        """Its node in the current graph; by default as a constant, without gradient."""
        constant_or_not = self._h if update else lib.dn_param_handle(self._c, 1)
        graph = _current()
        h = _resolve(graph, constant_or_not) if graph >= 0 else graph
        return expression(h if h >= 0 else resolved(constant_or_not))

    def __repr__(self) -> str:
        return f"Parameter {self._name}"

    __str__ = __repr__


class LookupParameters(_ParameterBase):
    """A table of rows, of which a graph uses and a trainer changes a few; made by ParameterCollection.add_lookup_parameters().

    >>> import dist_dynet as dy
    >>> E = dy.ParameterCollection().add_lookup_parameters((10, 2), init=0.25)
    >>> _ = dy.renew_cg()
    >>> E[3].value(), len(E)
    ([0.25, 0.25], 10)
    """

    __slots__ = ()

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Expression]:
        return (self[i] for i in range(self._rows))

    def _range(self, what: str, rows: Sequence[int]) -> None:
        for i in rows:
            if not 0 <= i < self._rows:
                raise ValueError(f"{what}: row {i} is outside the table of {self._rows} rows.")

    def init_row(self, i: int, row: ArrayLike) -> None:
        """Sets row i to these numbers, column-major."""
        self._range("init_row", [i])
        size = int(np.prod(self._dims))
        values = np.asarray(row, DTYPE).ravel(order="F")
        if values.size != size:
            raise ValueError(f"init_row: a row has {size} numbers; got {values.size}.")
        self.storage()[i * size : (i + 1) * size] = values
        self.changed()

    def init_from_array(self, arr: ArrayLike) -> None:
        """Sets the first rows, as many as `arr` has."""
        array = np.asarray(arr, DTYPE)
        if array.shape[1:] != self._dims or array.ndim == 0 or array.shape[0] > self._rows:
            sizes = ", ".join(map(str, self._dims))
            raise ValueError(f"init_from_array: the array must be (at most {self._rows}, {sizes}); got {array.shape}.")
        self.storage()[: array.size] = np.moveaxis(array, 0, -1).ravel(order="F")
        self.changed()

    def row_as_array(self, row: int) -> NDArray[np.float64]:
        """A copy of one row."""
        copied: NDArray[np.float64] = self.rows_as_array([row])[0]
        return copied

    def rows_as_array(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Copies of these rows, the row first."""
        self._range("rows_as_array", rows)
        return self._by_row(self.storage().reshape(self._rows, -1)[list(rows)].astype(np.float64))

    def _by_row(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of numbers, each in storage order -> rows of the row's dims."""
        shaped: NDArray[np.float64] = flat.reshape(len(flat), *self._dims[::-1]).transpose(0, *range(len(self._dims), 0, -1))
        return shaped

    def row_grad_as_array(self, row: int) -> NDArray[np.float64]:
        """A copy of one row's gradient."""
        copied: NDArray[np.float64] = self.rows_grad_as_array([row])[0]
        return copied

    def rows_grad_as_array(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Copies of these rows' gradients."""
        self._range("rows_grad_as_array", rows)
        place = {row: i for i, row in enumerate(self.touched_rows().tolist())}
        block, out = self.touched_gradients(), np.zeros((len(rows), int(np.prod(self._dims))))
        for i, row in enumerate(rows):
            if row in place:
                out[i] = block[place[row]]
        return self._by_row(out)

    def touched_rows(self) -> NDArray[np.int32]:
        """The rows that have a gradient since the last update, in order of first use."""
        rows, block = ffi.new("const int **"), ffi.new("dn_real **")
        n = lib.dn_lookup_touched(self._c, rows, block)
        touched: NDArray[np.int32] = view_ints(rows[0], n).copy()
        return touched

    def touched_gradients(self) -> NDArray[Any]:
        """Their gradients, one row of numbers each, without a copy; valid until the next backward or update."""
        rows, block = ffi.new("const int **"), ffi.new("dn_real **")
        n = lib.dn_lookup_touched(self._c, rows, block)
        return view(block[0], n * int(np.prod(self._dims))).reshape(n, -1) if n else np.empty((0, int(np.prod(self._dims))), DTYPE)

    def add_gradients(self, rows: ArrayLike, gradients: ArrayLike) -> None:
        """Adds row gradients, one row of numbers each."""
        index = np.ascontiguousarray(rows, np.int32)
        block = np.ascontiguousarray(gradients, DTYPE)
        if block.size != index.size * int(np.prod(self._dims)):
            raise ValueError(f"add_gradients: {index.size} rows need {index.size * int(np.prod(self._dims))} numbers; got {block.size}.")
        self._range("add_gradients", index.tolist())
        if index.size and lib.dn_lookup_add(self._c, index.size, ffi.from_buffer("int *", index), pointer(block)):
            raise MemoryError("add_gradients: out of memory")

    def _set_flat_gradient(self, gradient: NDArray[Any] | None) -> None:
        """Replaces the gradient by that of a whole table, of which rows of zeros count as not touched; None empties it."""
        self.clear_gradient()
        if gradient is not None and self.is_updated():
            by_row = gradient.reshape(self._rows, -1)
            touched = np.flatnonzero(by_row.any(axis=1))
            self.add_gradients(touched, by_row[touched])

    def zero(self) -> None:
        """Sets the values to zero."""
        self.storage()[:] = 0
        self.changed()

    def expr(self) -> LookupParameters:
        """The whole table as an expression of dims (d..., rows): itself."""
        return self

    def __repr__(self) -> str:
        return f"LookupParameter {self._name}"

    __str__ = __repr__


class ParameterCollection:
    """The parameters of a model, by name; subcollections group them.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> W = m.add_parameters((3, 2), name="W")
    >>> E = m.add_lookup_parameters((100, 8))
    >>> sub = m.add_subcollection("encoder")
    >>> b = sub.add_parameters(3, init=0)
    >>> [p.name() for p in m.parameters_list()]
    ['/W', '/encoder/_0']
    >>> m.parameter_count()
    809

    Collections can be pickled and copied by copy.deepcopy, with names, values, weight decay and frozen parameters, without gradients. Objects
    that hold some of the parameters, and are copied in one go with the collection, hold the copied parameters afterwards. What is copied is
    always the whole tree: a subcollection brings its parents along.
    """

    def __init__(self, _parent: ParameterCollection | None = None, _name: str = "/") -> None:
        if not isinstance(_parent, ParameterCollection | None):
            raise TypeError(f"ParameterCollection: takes no arguments; got {type(_parent).__name__}. Use add_subcollection().")
        self._parent, self._name = _parent, _name
        self._root: Root = _parent._root if _parent is not None else Root()
        self._parameters: list[Parameters] = []
        self._lookups: list[LookupParameters] = []
        self._counts: dict[str, int] = {}
        self._subcollection_counts: dict[str, int] = {}
        self._weight_decay: float = _parent._weight_decay if _parent is not None else _defaults.weight_decay

    def copy_from(self, other: ParameterCollection, share: float = 1.0) -> None:
        """p = (1 - share) p + share q: takes the values of a collection whose parameters, in order, have the same shapes.

        For target networks: target = copy.deepcopy(model), then target.copy_from(model) now and then, or with a small share at each step.

        Raises:
            ValueError: numbers or shapes of parameters differ; nothing was changed then.
            TypeError: other is no ParameterCollection.

        >>> import copy
        >>> import dist_dynet as dy
        >>> model = dy.ParameterCollection()
        >>> w = model.add_parameters(1, init=1)
        >>> target = copy.deepcopy(model)
        >>> w.set_value([3])
        >>> target.copy_from(model, share=0.25)
        >>> target.parameters_list()[0].as_array().tolist()
        [1.5]
        """
        if not isinstance(other, ParameterCollection):
            raise TypeError(f"copy_from: takes a ParameterCollection; got {type(other).__name__}.")
        copying.copy_values(self, other, share)

    def get_weight_decay(self) -> float:
        """The strength of weight decay; 0 at the start."""
        return self._weight_decay

    def set_weight_decay(self, lam: float) -> None:
        """After each update by a trainer of this collection all its values are multiplied by 1 - lam.

        This is decoupled decay, whatever the learning rate. Frozen parameters stay. Subcollections take the strength over when they are made.

        Raises:
            ValueError: lam is not in [0, 1).
        """
        self._weight_decay = check_weight_decay("set_weight_decay", lam)

    def set_weight_decay_lambda(self, lam: float) -> None:
        """As set_weight_decay()."""
        self.set_weight_decay(lam)

    def name(self) -> str:
        """/ for the root, /name/ for a subcollection."""
        return self._name

    def _next_name(self, name: str, counts: dict[str, int]) -> str:
        _check_name(name)
        n = counts.get(name, 0)
        counts[name] = n + 1
        return self._name + (f"{name}_{n}" if n or not name else name)

    def _lineage(self) -> Iterator[ParameterCollection]:
        at: ParameterCollection | None = self
        while at is not None:
            yield at
            at = at._parent

    def add_parameters(
        self,
        dim: int | Sequence[int],
        init: Any = None,
        name: str = "",
        device: str = "",
        scale: float = 1.0,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> Parameters:
        """Adds a dense parameter.

        Args:
            dim: size, or sizes.
            init: None or 'glorot'; a number; 'uniform' (within +-scale); 'normal' (mean, std); 'identity'; 'saxe' (scale); 'he'; an array,
                whose shape is then the dims; an initializer object.
            name: without '/', '_' and blanks; _0, _1, ... if empty.
            device: "" or "CPU".
            scale: of 'uniform' and 'saxe'.
            mean: of 'normal'.
            std: of 'normal'.
        """
        _check_device(device)
        dims = as_dims(init.shape if isinstance(init, np.ndarray) else dim, "add_parameters")
        check_size(dims, "add_parameters")
        _check_name(name)  # before anything is drawn
        values = initializers.make(init, dims, scale, mean, std).values(dims, False)
        return self._add_parameters(dims, values, name)

    def _add_parameters(self, dims: tuple[int, ...], values: NDArray[Any], name: str) -> Parameters:
        parameter = Parameters(self._root, self._next_name(name, self._counts), dims, 0)
        parameter.storage()[:] = values
        self._adopt(parameter)
        return parameter

    def add_lookup_parameters(
        self,
        dim: int | Sequence[int],
        init: Any = None,
        name: str = "",
        device: str = "",
        scale: float = 1.0,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> LookupParameters:
        """Adds a lookup table: dim = (rows, size, ...); one number n means (n, 1). `init` as in add_parameters()."""
        _check_device(device)
        if isinstance(init, np.ndarray):
            return self.lookup_parameters_from_numpy(init, name, device)
        dims = as_dims(dim, "add_lookup_parameters")
        dims = dims if len(dims) > 1 else (*dims, 1)
        if len(dims) > MAX_DIMS or dims[0] < 1:
            raise ValueError(f"add_lookup_parameters: takes at least one row, of at most {MAX_DIMS - 1} dims; got {dims}.")
        check_size(dims, "add_lookup_parameters")
        _check_name(name)
        storage_dims = (*dims[1:], dims[0])
        return self._add_lookup(dims, initializers.make(init, dims, scale, mean, std).values(storage_dims, True), name)

    def _add_lookup(self, dims: tuple[int, ...], values: NDArray[Any], name: str) -> LookupParameters:
        table = LookupParameters(self._root, self._next_name(name, self._counts), dims[1:], dims[0])
        table.storage()[:] = values
        self._adopt(table)
        return table

    def _adopt(self, parameter: Parameters | LookupParameters) -> None:
        for collection in self._lineage():
            members: list[Any] = collection._lookups if isinstance(parameter, LookupParameters) else collection._parameters
            members.append(parameter)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """If the with block fails, what it has added to this collection is taken out again (its memory goes with the root)."""
        before = [(c, len(c._parameters), len(c._lookups), c._counts.copy(), c._subcollection_counts.copy()) for c in self._lineage()]
        try:
            yield
        except BaseException:
            for c, parameters, lookups, counts, subcollection_counts in before:
                del c._parameters[parameters:], c._lookups[lookups:]
                c._counts, c._subcollection_counts = counts, subcollection_counts
            raise

    def parameters_from_numpy(self, array: ArrayLike, name: str = "", device: str = "") -> Parameters:
        """Adds a dense parameter with the shape and the values of an array."""
        return self.add_parameters(np.shape(array), np.asarray(array), name, device)

    def lookup_parameters_from_numpy(self, array: ArrayLike, name: str = "", device: str = "") -> LookupParameters:
        """Adds a lookup table with the rows of an array (its first axis)."""
        _check_device(device)
        values = np.asarray(array)
        if not 2 <= values.ndim <= MAX_DIMS or not len(values):
            raise ValueError(f"lookup_parameters_from_numpy: the array must have rows, at most {MAX_DIMS} dims; got {values.shape}.")
        return self._add_lookup(values.shape, np.moveaxis(values, 0, -1).ravel(order="F"), name)

    def add_subcollection(self, name: str | None = None) -> ParameterCollection:
        """A collection within this one: its parameters are also this one's, with `name` in front of theirs."""
        return ParameterCollection(self, self._next_name(name or "", self._subcollection_counts) + "/")

    def parameters_list(self) -> list[Parameters]:
        """The dense parameters in the order they were added, those of subcollections included."""
        return list(self._parameters)

    def lookup_parameters_list(self) -> list[LookupParameters]:
        """The lookup tables in the order they were added, those of subcollections included."""
        return list(self._lookups)

    def named_parameters(self) -> dict[str, Parameters | LookupParameters]:
        """All parameters by name within this collection: its own name is taken off in front, so that models made alike have the same names.

        Raises:
            RuntimeError: two have the same name, as load_param() may bring about.

        >>> import dist_dynet as dy
        >>> encoder = dy.ParameterCollection().add_subcollection("encoder")
        >>> W = encoder.add_parameters((2, 2), name="W")
        >>> W.name(), list(encoder.named_parameters())
        ('/encoder/W', ['/W'])
        """
        named: dict[str, Parameters | LookupParameters] = {}
        members: list[Parameters | LookupParameters] = [*self._parameters, *self._lookups]
        for p in members:
            name = "/" + p._name.removeprefix(self._name).lstrip("/")
            if name in named:
                raise RuntimeError(f"named_parameters: names must differ; got {name} twice in the collection {self._name}.")
            named[name] = p
        return named

    def parameter_count(self) -> int:
        """How many numbers all parameters hold."""
        return sum(int(lib.dn_param_size(p._c)) for p in (*self._parameters, *self._lookups))

    def reset_gradients(self) -> None:
        """Forgets all gradients gathered since the last update."""
        for p in (*self._parameters, *self._lookups):
            p.clear_gradient()

    def save(self, fname: FileName, name: str = "", append: bool = False) -> None:
        """Writes all parameters to a file in DyNet's text format.

        The file is written under a temporary name, flushed to disk, then renamed: a failed save leaves the old file whole.

        Args:
            fname: the path.
            name: replaces this collection's own name in front of the entries; must begin with '/'.
            append: add to the entries that the file holds.

        Raises:
            ValueError: `name` does not begin with '/'.
            RuntimeError: the file cannot be written.
        """
        from ..io import text

        text.save_collection(self, fname, name, append)

    def populate(self, fname: FileName, key: str = "") -> None:
        """Reads the values of all parameters from a file in DyNet's text format: paired in order, checked by dims.

        Args:
            fname: the path.
            key: take only entries whose names begin with it.

        Raises:
            RuntimeError: the file is missing or damaged, or its parameters are not this model's; the model then is as it was.
        """
        from ..io import text

        text.populate_collection(self, fname, key)

    def load_param(self, fname: FileName, key: str) -> Parameters:
        """Adds a dense parameter with dims, values and name of a file's entry."""
        from ..io import text

        return text.load_parameter(self, fname, key)

    def load_lookup_param(self, fname: FileName, key: str) -> LookupParameters:
        """Adds a lookup table with dims, values and name of a file's entry."""
        from ..io import text

        return text.load_lookup_parameter(self, fname, key)

    def write_to_textfile(self, fname: FileName, key: str = "", append: bool = False) -> None:
        """As save()."""
        self.save(fname, key, append)

    def populate_from_textfile(self, fname: FileName, key: str = "") -> None:
        """As populate()."""
        self.populate(fname, key)


Model = ParameterCollection
"""An older name of ParameterCollection."""


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"names of parameters and collections are strings; got {type(name).__name__}.")
    if "/" in name or "_" in name:
        raise RuntimeError(f"parameter and collection names must not contain '/' or '_'; got {name!r}.")
    if any(c.isspace() or c == "#" for c in name):
        raise RuntimeError(f"parameter and collection names must not contain blanks or '#'; got {name!r}.")


def _check_device(device: str) -> None:
    if device not in ("", "CPU"):
        raise ValueError(f"device {device!r}: there is only the CPU.")
