"""What dense parameters and lookup tables have in common: a name, values and a gradient in a root,
text files, and a node in every graph."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._ffi import DTYPE, lib, pointer
from .._integers import numbers, real
from .._manner import manner
from ..expression import Expression, resolved
from .root import Assignment, Root, refuse

if TYPE_CHECKING:
    from .parameters import AnyParameter

FileName: TypeAlias = str | PathLike[str]


class _ParameterBase(Expression):
    """What dense parameters and lookup tables have in common.

    Where an expression is expected, each stands for its node in the current graph.
    """

    __slots__ = ("_c", "_dims", "_name", "_place", "_role", "_root", "_rows")
    _rebuilt: ClassVar[Callable[..., Any]]
    """Rebuilds the object when it is unpickled."""

    def __init__(
        self, root: Root | None = None, name: str = "", dims: tuple[int, ...] = (), rows: int = 0
    ) -> None:
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
        """Sets its role in a builder or block: 0/Wx, in the first layer. Empty: not part of one, or
        with a name of its own."""
        self._role = role
        self._root.names[self._h] = self.readable_name()

    __copy__ = __deepcopy__ = None  # as __reduce__ says

    def __reduce__(self) -> tuple[Any, ...]:
        role = (self._role,) if self._role else ()
        return self._rebuilt, (type(self), self._root, self._place, self._name, *role)

    def _node(self) -> int:
        return resolved(self._h)

    def name(self) -> str:
        """The full name, such as /encoder/W, as in DyNet's files.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> encoder = m.add_subcollection("encoder")
        >>> encoder.add_parameters(2, name="b").name(), m.add_parameters(2).name()
        ('/encoder/b', '/_0')
        """
        return self._name

    def readable_name(self) -> str:
        """As name(), with the role in its builder or block in place of a number. Messages,
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
        """The dims; of a table, the number of rows first.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> m.add_parameters((3, 2)).shape(), m.add_lookup_parameters((100, 8)).shape()
        ((3, 2), (100, 8))
        """
        return (self._rows, *self._dims) if self._rows else self._dims

    def storage(self) -> NDArray[Any]:
        """The values themselves, flat in storage order (no copy). After writing, call changed().

        While another thread updates, it shows what is being written: as_array() and set_value()
        wait for each other and for updates. As long as the program holds the array, ranks do not
        share their parameters (docs/parallel.md).

        >>> import dist_dynet as dy
        >>> W = dy.ParameterCollection().parameters_from_numpy([[1, 2], [3, 4]])
        >>> W.storage()[0] = 9
        >>> W.changed()
        >>> W.storage().tolist(), W.as_array().tolist()
        ([9.0, 3.0, 2.0, 4.0], [[9.0, 2.0], [3.0, 4.0]])
        """
        self._root.detach()
        return self._root.lend(self._root.values(self._c))

    def changed(self) -> None:
        """Call this after writing to storage().

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(2, init=1)
        >>> w.storage()[:] = 3, 4
        >>> w.changed()
        >>> _ = dy.renew_cg()
        >>> (2 * w).value()
        [6.0, 8.0]
        """
        self._root.changed([self._c])

    def _values(self, first: int = 0, n: int | None = None) -> NDArray[Any]:
        """A copy of n values (None: all), in storage order."""
        out = np.empty(lib.dn_param_size(self._c) if n is None else n, DTYPE)
        lib.dn_param_copy(self._c, first, out.size, pointer(out))
        return out

    def _write(self, values: NDArray[Any], first: int = 0) -> None:
        """Sets values, in storage order."""
        kept = np.ascontiguousarray(values, DTYPE)
        self._change(lib.dn_param_write, first, kept.size, pointer(kept))

    def _change(self, change: Callable[..., int], *given: Any) -> None:
        """Changes values atomically, by a call of C."""
        refuse(change(self._c, *given))

    def _shaped(self, flat: NDArray[Any]) -> NDArray[Any]:
        """A view of shape() on numbers in storage order."""
        if self._rows:
            return np.moveaxis(flat.reshape((*self._dims, self._rows), order="F"), -1, 0)
        return flat.reshape(self._dims, order="F")

    def _arrange(self, flat: NDArray[Any]) -> NDArray[np.float64]:
        """Storage order -> a float64 copy of shape()."""
        return self._shaped(flat.astype(np.float64))

    def as_array(self) -> NDArray[np.float64]:
        """A float64 copy of the values, of shape()."""
        raise NotImplementedError

    def _as_array(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The result of np.asarray(p): the values in the build's number type (float32), of shape().

        For a dense parameter a read-only view, which follows later updates; for a table a copy, as
        weight decay is lazy there.

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
        """A float64 copy of the gradient gathered since the last update, of shape(); zeros if there
        is none.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(2, init=1)
        >>> _ = dy.renew_cg()
        >>> dy.dot_product(w, dy.inputVector([3, 4])).backward()
        >>> w.grad_as_array().tolist()
        [3.0, 4.0]
        """
        return self._arrange(self._flat_gradient())

    def gradient(self) -> NDArray[np.float64]:
        """As Expression.gradient(): the gradient of the last backward().

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(2, init=1)
        >>> _ = dy.renew_cg()
        >>> dy.dot_product(w, dy.inputVector([3, 4])).backward()
        >>> w.gradient().tolist()
        [3.0, 4.0]
        """
        return super().gradient()

    def set_gradient(self, gradient: ArrayLike) -> None:
        """Replaces the gradient, as `p.grad = g` does elsewhere; in a table, rows of zeros count as
        unused. A frozen parameter has no gradient.

        Raises:
            ValueError: the shape differs.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(2, init=0)
        >>> w.set_gradient([1, -2])
        >>> dy.SimpleSGDTrainer(m, learning_rate=0.5).update()
        >>> w.as_array().tolist()
        [-0.5, 1.0]
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
        """Replaces the gradient, in storage order; in a table, rows of zeros count as unused. None
        clears it. A frozen parameter has no gradient."""
        self._root.write([Assignment(self._c, sets_gradient=True, gradient=gradient)])

    def has_gradient(self) -> bool:
        """Whether a gradient was gathered since the last update.

        >>> import dist_dynet as dy
        >>> v, w = (dy.ParameterCollection().add_parameters(1, init=1) for _ in range(2))
        >>> _ = dy.renew_cg()
        >>> (3 * w).backward()
        >>> v.has_gradient(), w.has_gradient()
        (False, True)
        """
        return not lib.dn_param_empty(self._c)

    def scale(self, s: float) -> None:
        """Multiplies the values by s.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().parameters_from_numpy([1, 2])
        >>> w.scale(3)
        >>> w.as_array().tolist()
        [3.0, 6.0]
        """
        self._change(lib.dn_param_scale, real(s, "scale"))

    def scale_gradient(self, s: float) -> None:
        """Multiplies the gradient by s; 0 clears NaN and infinity, too.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(2, init=0)
        >>> w.set_gradient([1, 2])
        >>> w.scale_gradient(0.5)
        >>> w.grad_as_array().tolist()
        [0.5, 1.0]
        """
        factor = real(s, "scale_gradient")
        lib.dn_param_scale_gradient(self._c, factor)

    def clear_gradient(self) -> None:
        """Clears the gradient gathered since the last update.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(2, init=0)
        >>> w.set_gradient([1, 2])
        >>> w.clear_gradient()
        >>> w.has_gradient(), w.grad_as_array().tolist()
        (False, [0.0, 0.0])
        """
        lib.dn_param_clear_gradient(self._c)

    def is_updated(self) -> bool:
        """Whether trainers change it.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(2)
        >>> before = w.is_updated()
        >>> w.set_updated(False)
        >>> before, w.is_updated()
        (True, False)
        """
        return bool(lib.dn_param_updated(self._c))

    def set_updated(self, b: bool) -> None:
        """False freezes it: no gradient is gathered or counted, and trainers leave it unchanged; a
        pending gradient is dropped.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> v, w = m.add_parameters(1, init=1), m.add_parameters(1, init=1)
        >>> v.set_updated(False)
        >>> _ = dy.renew_cg()
        >>> (v * w).backward()
        >>> dy.SimpleSGDTrainer(m, learning_rate=0.5).update()
        >>> v.as_array().tolist(), w.as_array().tolist()
        ([1.0], [0.5])
        """
        lib.dn_param_set_updated(self._c, bool(b))

    def save(self, fname: FileName, key: str = "", append: bool = False) -> None:
        """Writes it to a text file under `key` (its name if empty).

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> v, w = (dy.ParameterCollection().add_parameters(1, init=x) for x in (3, 0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     v.save(f"{folder}/v", key="/start")
        ...     w.populate(f"{folder}/v", key="/start")
        >>> w.as_array().tolist()
        [3.0]
        """
        from ..io import text

        text.save_parameters([(self._key(key), cast("AnyParameter", self))], fname, append)

    def populate(self, fname: FileName, key: str = "") -> None:
        """Reads values (and the gradient, if stored) of the entry named `key`, of equal dims.

        Raises:
            RuntimeError: the file, the key or the numbers cannot be read; the parameter then is as
                it was.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> m, w = dy.ParameterCollection(), dy.ParameterCollection().add_parameters(1, init=0)
        >>> _ = m.add_parameters(1, init=3, name="W"), m.add_parameters(1, init=4, name="b")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     m.save(f"{folder}/model")
        ...     w.populate(f"{folder}/model", "/b")
        >>> w.as_array().tolist()
        [4.0]
        """
        from ..io import text

        text.populate_parameter(cast("AnyParameter", self), fname, self._key(key))

    def _key(self, given: Any) -> Any:
        """The name of its entry in a file."""
        is_none = given is None or (isinstance(given, str) and not given)
        return self._name if is_none else given

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
