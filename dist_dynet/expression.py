"""Expression: a handle on one node of a graph, with its value, its gradient, and operators.

This module knows graphs but no operation: the modules of `dist_dynet.ops` attach their operators to
Expression when they are imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _manner
from ._array_interface import AsArray
from ._ffi import (
    DIM,
    DTYPE,
    GRAPH_SHIFT,
    NULL,
    OPS,
    accelerated,
    calls,
    fail,
    fail_in,
    ffi,
    lib,
    pointer,
    shaped,
    view,
)
from ._large_graphs import INDEX, large, note_large
from ._tensor import Tensor
from ._weak import WeakSet
from .graph import cg, current_graph, make_expressions_by

F = TypeVar("F", bound=Callable[..., Any])
NO_GRAPH: int = lib.DN_ERROR_NO_GRAPH
OP_NAMES = {number: name for name, number in OPS.items()}
_forward, _backward = lib.dn_forward, lib.dn_backward


class Watcher(Protocol):
    """Watches parameters' gradients during a backward pass."""

    def look(self) -> None:
        """Called after each step of a backward pass, of any thread, except the last."""


watchers: WeakSet[Watcher] = WeakSet()
"""All watchers to be called."""


def _uniform(n: int) -> NDArray[np.float64]:
    return cg().uniform(n)


def _no_order(sign: str) -> Any:
    def compare(x: Expression, other: object) -> NoReturn:
        raise TypeError(
            f"expressions have no order; got {type(x).__name__!r} {sign} {type(other).__name__!r}."
            " Compare values, as by x.value()."
        )

    return compare


class Expression(calls.Node, AsArray):
    """A node of a graph. Made by inputs, parameters, functions and operators; computed when a value
    is read.

    `*` is the matrix product, cmult() the elementwise one. Dims are column-major; the batch is
    separate and comes last in arrays.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> x = dy.inputVector([1, 2, 3])
    >>> (2 * x + 1).value()
    [3.0, 5.0, 7.0]
    >>> x.dim()
    ((3,), 1)
    """

    __slots__ = ()
    # NumPy must leave `array * expression` to us instead of looping over its elements.
    __array_ufunc__ = None

    # the operators of the base and those that operator() attaches, for type checkers
    if TYPE_CHECKING:

        def __add__(self, other: Any) -> Expression: ...
        def __radd__(self, other: Any) -> Expression: ...
        def __sub__(self, other: Any) -> Expression: ...
        def __rsub__(self, other: Any) -> Expression: ...
        def __mul__(self, other: Any) -> Expression: ...
        def __rmul__(self, other: Any) -> Expression: ...
        def __matmul__(self, other: Any) -> Expression: ...
        def __rmatmul__(self, other: Any) -> Expression: ...
        def __truediv__(self, other: Any) -> Expression: ...
        def __rtruediv__(self, other: Any) -> Expression: ...
        def __pow__(self, other: Any) -> Expression: ...
        def __neg__(self) -> Expression: ...
        def __pos__(self) -> Expression: ...
        def __abs__(self) -> Expression: ...
        def __getitem__(self, index: Any) -> Expression: ...
        def __iter__(self) -> Iterator[Expression]: ...

    def _node(self) -> int:
        """The handle; a parameter's node in the current graph."""
        try:
            return self._h
        except AttributeError:
            raise ValueError(
                "this Expression stands for nothing: it was made by hand. Use inputs, parameters"
                " and functions."
            ) from None

    def dim(self) -> tuple[tuple[int, ...], int]:
        """((sizes), batch size).

        >>> import dist_dynet as dy
        >>> x = dy.inputTensor([[1, 2, 3], [4, 5, 6]])
        >>> x.dim(), dy.inputTensor([[1, 2, 3], [4, 5, 6]], batched=True).dim()
        (((2, 3), 1), ((2,), 3))
        """
        return dim_of(self)

    def _computed(self, recalculate: bool) -> tuple[Any, tuple[int, ...], int]:
        """A pointer to the value, the sizes, and the batch size."""
        if recalculate:
            forget(self)
        h, out = self._node(), ffi.new(DIM)
        _compute(h)
        code = lib.dn_node_dim(h, out)
        if code < 0:
            fail(code, h)
        values = lib.dn_value(h)
        if values == NULL and out.size * out.batch:
            fail(lib.DN_ERROR_STATE, h)
        return values, tuple(out.d[0 : out.nd]), out.batch

    def forward(self, recalculate: bool = False) -> None:
        """Computes the value and returns nothing. recalculate: forget all values of the graph
        first, so that random draws are made anew.

        >>> import dist_dynet as dy
        >>> x = dy.scalarInput(3)
        >>> y = dy.square(x)
        >>> y.forward()
        >>> y.value()
        9.0
        """
        if recalculate:
            forget(self)
        compute(self)

    def value(self, recalculate: bool = False) -> Any:
        """The value: a float for one number, a list for a vector, an array for two dims and more,
        with the batch last. For a known type use scalar_value(), vec_value() or npvalue().

        Values are kept: a parameter changed after the first call is seen only with recalculate=True
        or in a new graph.

        >>> import dist_dynet as dy
        >>> x = dy.inputVector([1, 2])
        >>> dy.sum_elems(x).value(), (2 * x).value(), dy.transpose(x).value().tolist()
        (3.0, [2.0, 4.0], [[1.0, 2.0]])
        """
        if recalculate:
            forget(self)
        return value_of(self)

    def npvalue(self, recalculate: bool = False) -> NDArray[np.float64]:
        """The value as a float64 array: the dims, and the batch as last axis if there is one. A
        single number has shape (1,).

        >>> import dist_dynet as dy
        >>> x = dy.inputTensor([[1, 2, 3], [4, 5, 6]], batched=True)
        >>> x.npvalue().tolist(), dy.sum_batches(x).npvalue().tolist()
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [6.0, 15.0])
        """
        if recalculate:
            forget(self)
        return array_of(*numbers_of(self))

    def __float__(self) -> float:
        """For float(loss): as scalar_value()."""
        return scalar_of(self)

    def vec_value(self, recalculate: bool = False) -> list[float]:
        """The value as a flat list: column-major, batch element after batch element.

        >>> import dist_dynet as dy
        >>> dy.inputTensor([[1, 2], [3, 4]]).vec_value(), dy.scalarInput(5).vec_value()
        ([1.0, 3.0, 2.0, 4.0], [5.0])
        """
        if recalculate:
            forget(self)
        return list_of(self)

    def tensor_value(self, recalculate: bool = False) -> Tensor:
        """The value as a Tensor, for its largest entries and for sampling.

        >>> import dist_dynet as dy
        >>> scores = dy.inputVector([0.1, 0.7, 0.2]).tensor_value()
        >>> scores.argmax().as_numpy().tolist()
        [1]
        """
        if recalculate:
            forget(self)
        numbers, dims, batch = numbers_of(self)
        return Tensor(np.frombuffer(numbers).reshape((*(dims or (1,)), batch), order="F"), _uniform)

    def scalar_value(self, recalculate: bool = False) -> float:
        """The value of an expression with one element.

        Raises:
            ValueError: it has more elements.

        >>> import dist_dynet as dy
        >>> x = dy.inputVector([3, 4])
        >>> dy.dot_product(x, x).scalar_value()
        25.0
        """
        if recalculate and self.dim()[1] * prod(self.dim()[0]) == 1:  # else nothing is drawn
            forget(self)
        return scalar_of(self)

    def backward(self, full: bool = False) -> None:
        """Adds the derivatives of this expression, which has one element, to the gradients of the
        parameters it was computed from.

        full: also gives inputs and constants a gradient, which gradient() reads.

        Raises:
            ValueError: the expression has several elements (sum_batches() or esum() it first).
            RuntimeError: it is stale, or parameters were updated after it was computed.

        A call that began and then failed (no memory, an exception in an operation of your own,
        Ctrl-C) leaves the parameters of this graph without gradient, whatever earlier calls had
        added: part of a sum is never taken for the sum.

        >>> import dist_dynet as dy
        >>> w = dy.ParameterCollection().add_parameters(2, init=1)
        >>> _ = dy.renew_cg()
        >>> dy.squared_distance(w, dy.inputVector([1, 3])).backward()
        >>> w.grad_as_array().tolist()
        [0.0, -4.0]
        """
        full = bool(full)
        code = begin_backward(self, full)
        if code == 0:
            return
        h = self._node()
        try:
            while code > 0:
                for watcher in list(watchers):
                    watcher.look()
                going_on = code == 1
                code = lib.dn_backward_step(h >> GRAPH_SHIFT) if going_on else _backward(h, full)
        except BaseException:  # Ctrl-C
            lib.dn_backward_abandon(h >> GRAPH_SHIFT)
            raise
        if code < 0:
            fail(code, h)

    def gradient(self) -> NDArray[np.float64]:
        """The derivative of the expression that backward() was last called on with respect to this
        one, in the form of npvalue().

        Zeros for nodes that depend on no parameter, unless that was backward(full=True).

        Raises:
            RuntimeError: no backward() since the graph's values were computed (set() and
                value(recalculate=True) forget them, and the gradients with them); this node was
                made after the loss; it is a parameter whose gradient was changed since.

        >>> import dist_dynet as dy
        >>> x = dy.inputVector([3, 4])
        >>> dy.squared_norm(x).backward(full=True)
        >>> x.gradient().tolist()
        [6.0, 8.0]
        """
        return array_of(*gradient_of(self))

    def index(self) -> int:
        """The number of this node in its graph.

        >>> import dist_dynet as dy
        >>> _ = dy.renew_cg()
        >>> x = dy.scalarInput(2)
        >>> x.index(), dy.square(x).index()
        (0, 1)
        """
        h = self._node()
        index: int = lib.dn_node_index(h)
        if index < 0:
            fail(index, h)
        return index

    def __repr__(self) -> str:
        """The operation, the dims and the batch size, such as "tanh (8,) x 4"."""
        try:
            if _manner.manner.dynet:
                return f"expression {self.index()}/{cg().version()}"
            dims, batch = self.dim()
            name = OP_NAMES[lib.dn_node_op(self._node())]
        except (RuntimeError, ValueError):
            return "expression (stale)"
        return f"{name} {dims}" if batch == 1 else f"{name} {dims} x {batch}"

    __str__ = __repr__

    def __round__(self, digits: int | None = None) -> float:
        """For round(loss, 3): the number, as by scalar_value()."""
        return round(scalar_of(self), digits)

    def __format__(self, spec: str) -> str:
        """For f"{loss:.3f}": the number, as by scalar_value(); without a spec as repr()."""
        return format(scalar_of(self), spec) if spec else str(self)

    def __bool__(self) -> bool:
        return True

    __lt__, __le__, __gt__, __ge__ = map(_no_order, ("<", "<=", ">", ">="))

    def _same(self, memo: Any = None) -> Any:
        return self

    __copy__: Any = _same  # an expression names a node: its copy names the same
    __deepcopy__: Any = _same

    def __reduce__(self) -> Any:
        # elsewhere the same handle may name another node
        raise TypeError(
            "an expression cannot be pickled: its graph lives in this process. Take its numbers, by"
            " value() or npvalue()."
        )


def expression(handle: int) -> Expression:
    """An Expression for a handle that is known to be valid."""
    if handle & INDEX >= large.index:
        note_large(handle)
    e = Expression()
    e._h = handle
    return e


calls.expression_class(Expression)
make_expressions_by(expression)


@accelerated
def expressions_from(handle: int, n: int) -> list[Expression]:
    """Expressions for n consecutive handles that are known to be valid."""
    return [expression(handle + i) for i in range(n)]


# ---- what is read of a node ------------------------------------------------------------

Numbers = tuple[Any, tuple[int, ...], int]
"""Floats of 64 bits in C's order, the sizes, the batch size."""


def array_of(numbers: Any, dims: tuple[int, ...], batch: int) -> NDArray[np.float64]:
    """Numbers as an array."""
    return shaped(np.frombuffer(numbers), dims, batch)


@accelerated
def dim_of(x: Expression) -> tuple[tuple[int, ...], int]:
    """((sizes), batch size)."""
    h, out = x._node(), ffi.new(DIM)
    code = lib.dn_node_dim(h, out)
    if code < 0:
        fail(code, h)
    return tuple(out.d[0 : out.nd]), out.batch


@accelerated
def numbers_of(x: Expression) -> Numbers:
    """The value as numbers."""
    values, dims, batch = x._computed(False)
    return view(values, batch * prod(dims)).astype(np.float64), dims, batch


@accelerated
def probabilities_of(x: Expression) -> Numbers:
    """The value of a softmax, normalised by dn_normalize() of csrc/dn_api.h."""
    numbers, dims, batch = numbers_of(x)
    h, dim, axis = x._node(), ffi.new(DIM), ffi.new("int *")
    lib.dn_node_dim(h, dim)
    if lib.dn_node_ints(h, 1, axis) >= 1:
        lib.dn_normalize(dim, axis[0], ffi.from_buffer("double[]", numbers))
    return numbers, dims, batch


@accelerated
def list_of(x: Expression) -> list[float]:
    """The value as a flat list."""
    values, dims, batch = x._computed(False)
    n = batch * prod(dims)
    return ffi.unpack(values, n) if n else []


@accelerated
def forget(x: Expression) -> None:
    """Forgets all values of its graph."""
    dim_of(x)  # raises if it is of an earlier graph, which forgets nothing
    h = x._node()
    code = lib.dn_graph_invalidate(h >> GRAPH_SHIFT)
    if code < 0:
        fail(code, h)


@accelerated
def compute(x: Expression) -> None:
    """Computes the value."""
    _compute(x._node())


def _compute(h: int) -> None:
    code = 1
    while code > 0:
        code = _forward(h)
    if code < 0:
        fail(code, h)


@accelerated
def scalar_of(x: Expression) -> float:
    """The value of an expression with one element.

    Raises:
        ValueError: there are more elements.
    """
    values, dims, batch = x._computed(False)
    if batch != 1 or any(d != 1 for d in dims):
        raise ValueError(
            f"scalar_value: the expression must be one number; got {dims} x {batch}. Use value() or"
            " npvalue()."
        )
    return float(values[0])


@accelerated
def value_of(x: Expression) -> float | list[float] | NDArray[np.float64]:
    """The value in the form of value()."""
    if len(dim_of(x)[0]) > 1:
        return array_of(*numbers_of(x))
    values, dims, batch = x._computed(False)
    n = batch * prod(dims)
    return float(values[0]) if n == 1 else ffi.unpack(values, n) if n else []


@accelerated
def gradient_of(x: Expression) -> Numbers:
    """The gradient of the last backward()."""
    h, (dims, batch) = x._node(), x.dim()
    out = np.empty(batch * prod(dims), DTYPE)
    code = lib.dn_gradient(h, pointer(out))
    if code < 0:
        fail(code, h)
    return out.astype(np.float64), dims, batch


@accelerated
def begin_backward(x: Expression, full: bool) -> int:
    """What dn_backward() of csrc/dn_api.h returns."""
    return _backward(x._node(), full)  # type: ignore[no-any-return]


# ---- how others make expressions -------------------------------------------------------


@accelerated
def resolved(h: int) -> int:
    """The node in the current graph that a parameter's handle stands for."""
    graph = current_graph()
    node: int = lib.dn_resolve(graph, h)
    if node < 0:
        fail_in(graph, node)
    return node


def operator(name: str) -> Callable[[F], F]:
    """A decorator that attaches a function to Expression under this name: how operations define
    their operators."""

    def attach(f: F) -> F:
        setattr(Expression, name, f)
        return f

    return attach
