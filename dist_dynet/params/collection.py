"""ParameterCollection: a name and a list of the parameters that belong to it. Subcollections share
its root.

Pickles of earlier versions look for Parameters, LookupParameters and Root here, where they find the
imported names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._deferred_signals import DeferSignals
from .._ffi import lib
from .._integers import numbers, real
from .._manner import dims_in_a_tuple, no_collection
from . import initializers
from .decay import Decays, default_weight_decay
from .dims import MAX_DIMS, as_dims, check_device, check_name, check_size, is_number
from .members import Members
from .modes import Modes
from .parameters import AnyParameter, LookupParameters, Parameters
from .precision import check_precision
from .root import Assignment, Root, unchanged
from .summary import Summarised
from .text_files import InTextFiles


class ParameterCollection(Members, Modes, Summarised, Decays, InTextFiles):
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

    Collections can be pickled and copied by copy.deepcopy, with names, values, weight decay and
    frozen parameters, without gradients. Objects that hold some of the parameters, and are copied
    in one go with the collection, hold the copied parameters afterwards. What is copied is always
    the whole tree: a subcollection brings its parents along.
    """

    def __init__(self, parent: ParameterCollection | None = None, _name: str = "/") -> None:
        if not isinstance(parent, ParameterCollection | None):
            raise TypeError(
                f"ParameterCollection: takes no arguments; got {type(parent).__name__}. Use"
                " add_subcollection()."
            )
        _parent = None if _name == "/" else parent  # a root has none, whatever is given: as DyNet
        self._parent: ParameterCollection | None = _parent
        self._name = _name
        self._root: Root = _parent._root if _parent is not None else Root()
        self._parameters: list[Parameters] = []
        self._lookups: list[LookupParameters] = []
        self._counts: dict[str, int] = {}
        self._subcollection_counts: dict[str, int] = {}
        self._weight_decay: float = (
            _parent._weight_decay if _parent is not None else default_weight_decay()
        )

    def copy_from(self, other: ParameterCollection, share: float = 1.0) -> None:
        """p = (1 - share) p + share q: copies the values of a collection whose parameters have the
        same shapes, in the same order.

        For target networks: target = copy.deepcopy(model), then target.copy_from(model) from time
        to time, or with a small share at each step.

        Raises:
            ValueError: numbers or shapes of parameters differ; nothing was changed then.
            TypeError: other is not a ParameterCollection.

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
            raise TypeError(f"copy_from: takes a ParameterCollection; {no_collection(other)}")
        share = real(share, "copy_from: share")
        if not 0 <= share <= 1:
            raise ValueError(f"copy_from: share must lie in [0, 1]; got {share}.")
        kinds: list[tuple[str, Sequence[AnyParameter], Sequence[AnyParameter]]] = [
            ("parameters", self._parameters, other._parameters),
            ("lookup parameters", self._lookups, other._lookups),
        ]
        pairs: list[tuple[AnyParameter, AnyParameter]] = []
        for kind, mine, theirs in kinds:
            if len(mine) != len(theirs):
                raise ValueError(
                    f"copy_from: both collections must have the same parameters; got {len(theirs)}"
                    f" {kind} for {len(mine)}."
                )
            for p, q in zip(mine, theirs, strict=True):
                if p.shape() != q.shape():
                    raise ValueError(
                        f"copy_from: shapes must be equal; got {p.readable_name()} = {p.shape()},"
                        f" {q.readable_name()} = {q.shape()}."
                    )
                pairs.append((p, q))
        with unchanged([other._root], "copy_from"):
            sources = [q._values() for _, q in pairs]
        self._root.write(
            Assignment(p._c, source, share=share)
            for (p, _), source in zip(pairs, sources, strict=True)
        )

    def set_precision(self, precision: str | None) -> None:
        """Whether products with its matrices are rounded, "float32" or "bf16", whatever init()
        says: for all its dense parameters, subcollections included, and for those that are added
        later without a precision of their own. None: as init() says.

        Files hold no precision: a loaded model has that of the program.

        Raises:
            ValueError: there is no such precision, or not with float64.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> crf = dy.CRF(m, 3)
        >>> crf.param_collection().set_precision("float32")
        >>> {p.precision() for p in crf.get_parameters()}
        {'float32'}
        """
        check_precision(precision, "set_precision")
        self._precision = precision
        for p in self._parameters:
            p.set_precision(precision)

    def name(self) -> str:
        """/ for the root, /name/ for a subcollection.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> m.name(), m.add_subcollection("encoder").add_subcollection("lstm").name()
        ('/', '/encoder/lstm/')
        """
        return self._name

    @dims_in_a_tuple("init", 1)
    def add_parameters(
        self,
        dim: int | Sequence[int],
        init: Any = None,
        name: str = "",
        device: str = "",
        scale: float = 1.0,
        mean: float = 0.0,
        std: float = 1.0,
        precision: str | None = None,
    ) -> Parameters:
        """Adds a dense parameter.

        Args:
            dim: size, or sizes.
            init: None or 'glorot'; a number; 'uniform' (within +-scale); 'normal' (mean, std);
                'identity'; 'saxe' (scale); 'he'; an array, whose shape is then the dims; an
                initializer object.
            name: without '/', '_' and blanks; _0, _1, ... if empty.
            device: "" or "CPU".
            scale: of 'uniform' and 'saxe'.
            mean: of 'normal'.
            std: of 'normal'.
            precision: "float32" or "bf16": as set_precision() of the parameter; None: that of the
                collection.

        Raises:
            ValueError: a dim, the initial values, the precision or the device make no sense.
            TypeError: a dim is not an integer, or the name is not a string.
            RuntimeError: a character of the name is not allowed, or 'saxe' is given for what is
                no square matrix.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> W, b = m.add_parameters((3, 2)), m.add_parameters(3, init=0, name="b")
        >>> W.shape(), b.name(), b.as_array().tolist()
        ((3, 2), '/b', [0.0, 0.0, 0.0])
        """
        if precision is not None:
            check_precision(precision, "add_parameters")
        if device:
            check_device(device, "add_parameters")
        init = initializers.read(init)
        dims = as_dims(init.shape if isinstance(init, np.ndarray) else dim, "add_parameters")
        check_size(dims, "add_parameters")
        check_name(name)  # before anything is drawn
        initializer = initializers.make(init, dims, scale, mean, std)
        draw = initializers.in_place(initializer, dims, False)

        def made(full_name: str) -> Parameters:
            values = _values_of(initializer, dims, False) if draw is None else None
            parameter = Parameters(self._root, full_name, dims, 0)
            if draw is not None:
                initializers.begin(parameter._c, draw)
            else:
                parameter.storage()[:] = values
            own = self._precision if precision is None else precision
            if own is not None:
                parameter.set_precision(own)
            return parameter

        return self._add(name, made)

    @dims_in_a_tuple("init", 1)
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
        """Adds a lookup table: dim = (rows, size, ...). A number n stands for (n, 1), as in
        DyNet; arrays and files show the rows of (n,) without an axis. `init` is as in
        add_parameters().

        The default counts the rows as a dim, as DyNet does: numbers from +-sqrt(6 / (rows + size)),
        which are tiny for many rows. For embeddings pass init=dy.GlorotInitializer(is_lookup=True),
        whose range depends only on the size.

        Raises:
            ValueError: there are no rows, a row has too many dims, or an argument makes no sense,
                as in add_parameters().
            TypeError: as in add_parameters().
            RuntimeError: as in add_parameters().

        >>> import dist_dynet as dy
        >>> m, by_row = dy.ParameterCollection(), dy.GlorotInitializer(is_lookup=True)
        >>> tables = [m.add_lookup_parameters((50_000, 64), init=init) for init in (None, by_row)]
        >>> [round(float(abs(table.as_array()).max()), 2) for table in tables]
        [0.01, 0.22]
        """
        check_device(device, "add_lookup_parameters")
        init = initializers.read(init)
        if isinstance(init, np.ndarray):
            return self.lookup_parameters_from_numpy(init, name, device)
        dims = as_dims(dim, "add_lookup_parameters")
        if is_number(dim):
            dims = (*dims, 1)
        if len(dims) > MAX_DIMS or dims[0] < 1:
            raise ValueError(
                f"add_lookup_parameters: takes at least one row, of at most {MAX_DIMS - 1} dims;"
                f" got {dims}."
            )
        check_size(dims, "add_lookup_parameters")
        check_name(name)
        storage_dims = (*dims[1:], dims[0])
        initializer = initializers.make(init, dims, scale, mean, std)
        return self._add_lookup(dims, lambda: _values_of(initializer, storage_dims, True), name)

    def _add_lookup(
        self, dims: tuple[int, ...], values: Callable[[], NDArray[Any]], name: str
    ) -> LookupParameters:
        def made(full_name: str) -> LookupParameters:
            drawn = values()
            table = LookupParameters(self._root, full_name, dims[1:], dims[0])
            table.storage()[:] = drawn
            return table

        return self._add(name, made)

    def parameters_from_numpy(
        self, array: ArrayLike, name: str = "", device: str = ""
    ) -> Parameters:
        """Adds a dense parameter with the shape and the values of an array.

        Raises:
            ValueError: the array is too large, or has too many dims; or the device is unknown.
            TypeError: the array is not of numbers, or the name is not a string.
            RuntimeError: a character of the name is not allowed.

        >>> import dist_dynet as dy
        >>> W = dy.ParameterCollection().parameters_from_numpy([[1, 2, 3], [4, 5, 6]])
        >>> W.shape(), W.as_array().tolist()
        ((2, 3), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        """
        values = numbers(array, "parameters_from_numpy")
        return self.add_parameters(values.shape, values, name, device)

    def lookup_parameters_from_numpy(
        self, array: ArrayLike, name: str = "", device: str = ""
    ) -> LookupParameters:
        """Adds a lookup table with the rows of an array (its first axis).

        Raises:
            ValueError: the array has no rows, or too many dims; or the device is unknown.
            TypeError: the array is not of numbers, or the name is not a string.
            RuntimeError: a character of the name is not allowed.

        >>> import dist_dynet as dy
        >>> E = dy.ParameterCollection().lookup_parameters_from_numpy([[1, 2], [3, 4], [5, 6]])
        >>> len(E), E.row_as_array(2).tolist()
        (3, [5.0, 6.0])
        """
        check_device(device, "lookup_parameters_from_numpy")
        check_name(name)
        values = numbers(array, "lookup_parameters_from_numpy")
        if not 1 <= values.ndim <= MAX_DIMS or not len(values):
            raise ValueError(
                f"lookup_parameters_from_numpy: the array must have rows, at most {MAX_DIMS} dims;"
                f" got {values.shape}."
            )
        flat = np.moveaxis(values, 0, -1).ravel(order="F")
        return self._add_lookup(values.shape, lambda: flat, name)

    def add_subcollection(
        self, name: str | None = None, precision: str | None = None
    ) -> ParameterCollection:
        """A collection within this one: its parameters also belong to this one, with `name` in
        front of their names. `precision` is as in set_precision(); None: that of this
        collection.

        Raises:
            TypeError: the name is not a string.
            RuntimeError: a character of the name is not allowed.
            ValueError: there is no such precision.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> encoder = m.add_subcollection("encoder")
        >>> W = encoder.add_parameters((2, 2), name="W")
        >>> W.name(), m.parameters_list() == [W], encoder.parameters_list() == [W]
        ('/encoder/W', True, True)
        """
        check_name(name or "")
        check_precision(precision, "add_subcollection")
        within = ParameterCollection(
            self, self._next_name(name or "", self._subcollection_counts, "/")
        )
        within._precision = self._precision if precision is None else precision
        return within

    def parameters_list(self) -> list[Parameters]:
        """The dense parameters in the order they were added, those of subcollections included.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> W, b = m.add_parameters((3, 2)), m.add_subcollection("top").add_parameters(3, name="b")
        >>> E = m.add_lookup_parameters((10, 2))
        >>> [p.name() for p in m.parameters_list()]
        ['/_0', '/top/b']
        """
        return list(self._parameters)

    def lookup_parameters_list(self) -> list[LookupParameters]:
        """The lookup tables in the order they were added, those of subcollections included.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> W, E = m.add_parameters((3, 2)), m.add_lookup_parameters((10, 2), name="E")
        >>> [p.name() for p in m.lookup_parameters_list()]
        ['/E']
        """
        return list(self._lookups)

    def named_parameters(self) -> dict[str, AnyParameter]:
        """All parameters by name within this collection: its own name is removed from the front, so
        that models made alike have the same names.

        Raises:
            RuntimeError: two have the same name, as load_param() may bring about.

        >>> import dist_dynet as dy
        >>> encoder = dy.ParameterCollection().add_subcollection("encoder")
        >>> W = encoder.add_parameters((2, 2), name="W")
        >>> W.name(), list(encoder.named_parameters())
        ('/encoder/W', ['/W'])
        """
        named: dict[str, AnyParameter] = {}
        for p in members_of(self):
            name = "/" + p._name.removeprefix(self._name).lstrip("/")
            if name in named:
                raise RuntimeError(
                    f"named_parameters: names must differ; got {name} twice in the collection"
                    f" {self._name}."
                )
            named[name] = p
        return named

    def parameter_count(self) -> int:
        """The total number of elements in all parameters.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> W, E = m.add_parameters((3, 2)), m.add_lookup_parameters((10, 2))
        >>> m.parameter_count()
        26
        """
        return sum(int(lib.dn_param_size(p._c)) for p in members_of(self))

    def reset_gradients(self) -> None:
        """Clears all gradients gathered since the last update.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=1)
        >>> _ = dy.renew_cg()
        >>> w.backward()
        >>> m.reset_gradients()
        >>> w.has_gradient()
        False
        """
        with DeferSignals():
            for p in members_of(self):
                p.clear_gradient()


def _values_of(init: Any, dims: tuple[int, ...], is_lookup: bool) -> NDArray[Any]:
    """What an initializer gives, before there is a parameter for it.

    Raises:
        ValueError: there are more or fewer than the parameter has, and not just one.
        TypeError: they are no numbers.
    """
    what, size = f"{type(init).__name__}.values", prod(dims)
    values: NDArray[Any] = numbers(init.values(dims, is_lookup), what)
    if values.ndim and values.shape != (size,):
        raise ValueError(
            f"{what}: must give {size} numbers in a row for dims {dims}; got an array of shape"
            f" {values.shape}."
        )
    return values


Model = ParameterCollection
"""An older name of ParameterCollection."""


def root_of(m: ParameterCollection) -> Root:
    """The root that owns its parameters."""
    return m._root


def counts_of(m: ParameterCollection) -> tuple[int, int]:
    """The numbers of dense parameters and of tables."""
    return len(m._parameters), len(m._lookups)


def members_of(m: ParameterCollection) -> list[AnyParameter]:
    """All its parameters: the dense ones, then the tables."""
    return [*m._parameters, *m._lookups]


def has_gradients(m: ParameterCollection) -> bool:
    """Whether any of its parameters has a gradient."""
    return not all(map(lib.dn_param_empty, handles_of(members_of(m))))


def handles_of(parameters: Iterable[AnyParameter]) -> list[Any]:
    """The dn_param * of each."""
    return [p._c for p in parameters]
