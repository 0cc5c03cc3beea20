"""The graph layer: ComputationGraph and Expression.

Nodes, values and gradients live on a tape in C; an Expression is a light handle on one node. Each thread has one current graph. This module
knows no operation: the modules of `dist_dynet.ops` hang their operators onto Expression when they are imported.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import _random
from ._ffi import DIM, DTYPE, GRAPH_SHIFT, NULL, calls, fail, fail_in, ffi, lib, nodes, pointer, read, shaped
from .batching import strategy
from .tensor import Tensor

NO_GRAPH: int = lib.DN_ERROR_NO_GRAPH
_forward, _backward = lib.dn_forward, lib.dn_backward
_current, _resolve = calls.current, nodes.dn_resolve
_quick_renew, _quick_backward, _LONG_WAY = calls.quick_renew, calls.quick_backward, lib.DN_LONG_WAY
_quick_scalar, _quick_value, _quick_array, _quick_dim = calls.quick_scalar, calls.quick_value, calls.quick_array, calls.quick_dim
_quick_list = calls.quick_list


class Watcher(Protocol):
    """Watches parameters' gradients while a backward goes on."""

    def look(self) -> None:
        """A step of some backward, of any thread, has ended, and others follow."""


watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
"""All that want to be told."""


class ComputationGraph:
    """The graph of a thread. Get it from renew_cg() or cg(); it cannot be made directly.

    >>> import dist_dynet as dy
    >>> graph = dy.renew_cg()
    >>> x = dy.scalarInput(2)
    >>> graph.version() == dy.cg_version()
    True
    """

    __slots__ = ("__weakref__", "_kept", "_samples", "_stream", "_thread", "number")

    def __init__(self, _token: object = None, _thread: int | None = None) -> None:
        if _token is not _token_of_this_module:
            raise RuntimeError("ComputationGraph: cannot be made directly. Use renew_cg() or cg().")
        self.number = lib.dn_graph_new()
        if self.number < 0:
            raise MemoryError(f"ComputationGraph: out of memory, or more than {1 << lib.DN_GRAPH_BITS} threads have a graph.")
        self._kept: dict[Any, int] = {}
        _graphs[self.number] = self
        weakref.finalize(self, _free, self.number, self._kept)
        lib.dn_graph_autobatch(self.number, _defaults.autobatch)
        self._thread = _random.new_thread() if _thread is None else _thread
        self._stream: int | None = None
        self._seed()
        _random.on_reset(self)

    def __reduce__(self) -> Any:
        raise TypeError("ComputationGraph: cannot be copied or pickled. Each thread and process has a graph of its own: cg().")

    def _key(self) -> tuple[int, int]:
        seed, stream = _random.key(self._thread)
        return seed, stream if self._stream is None else self._stream

    def _seed(self) -> None:
        lib.dn_graph_seed(self.number, *self._key())
        lib.dn_graph_generator(self.number, _random.node_generator(self._thread))
        self._samples = 0

    def _draw_from(self, stream: int | None, counter: int) -> None:
        """From now on draws have this stream, of a micro-batch, and counters from this one on; None: the stream of rank and thread."""
        self._stream = stream
        self._seed()
        self._samples = counter
        lib.dn_graph_set_counter(self.number, counter)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Numbers drawn evenly from (0, 1), for sampling from values outside of the graph; new ones at each call."""
        out = np.empty(n, np.float32)
        generator = _random.node_generator(self._thread)
        if generator != NULL:
            lib.dn_rng_uniform(generator, n, 0, 1, ffi.from_buffer("float *", out) if n else NULL)
            return out.astype(np.float64)
        seed, stream = self._key()
        # Draws of nodes have counters and node numbers far below these.
        draw = ffi.new("dn_draw *", {"seed": seed, "stream": stream, "counter": (1 << 63) + self._samples, "node": (1 << 32) - 1})
        self._samples += 1
        lib.dn_draw_uniform(draw, 0, n, ffi.from_buffer("float *", out) if n else NULL)
        return out.astype(np.float64) + 2.0**-25

    def _check(self, code: int) -> None:
        if code < 0:
            fail_in(self.number, code)

    def renew(
        self, immediate_compute: bool = False, check_validity: bool = False, autobatching: bool | int | None = None
    ) -> ComputationGraph:
        """As renew_cg()."""
        number = _defaults.autobatch if autobatching is None else strategy(autobatching, "renew_cg: autobatching")
        self._check(lib.dn_graph_renew(self.number, immediate_compute, check_validity, number))
        _let_go(self._kept)
        return self

    def version(self) -> int:
        """The number of renewals of this graph."""
        return int(nodes.dn_graph_version(self.number))

    def checkpoint(self) -> None:
        """As cg_checkpoint()."""
        self._check(lib.dn_graph_checkpoint(self.number))

    def revert(self) -> None:
        """As cg_revert()."""
        self._check(lib.dn_graph_revert(self.number))

    def __len__(self) -> int:
        return int(lib.dn_graph_size(self.number))

    def memory(self) -> int:
        """Bytes held for nodes, values and gradients; they are kept and used again by the next graph."""
        return int(lib.dn_graph_bytes(self.number))

    def keep(self, thing: Any) -> int:
        """A number by which nodes of this graph refer to a Python object (see kept()); the graph keeps it alive until it is renewed."""
        number = self._kept.get(thing)
        if number is None:
            lib.dn_graph_hold(self.number)
            try:
                number = _spare.pop()
            except IndexError:
                number = next(_numbers)
            _things[number] = thing
            self._kept[thing] = number
        return number

    def expression(self, index: int) -> Expression:
        """The expression of a node of this graph, by its index."""
        handle = lib.dn_graph_node(self.number, index)
        self._check(handle)
        return expression(handle)

    def forward(self, index: int) -> None:
        """Computes all nodes up to this one anew."""
        self.expression(index).forward(recalculate=True)

    def inc_forward(self, index: int) -> None:
        """Computes what is not computed yet, up to this node."""
        self.expression(index).forward()

    def forward_scalar(self, index: int) -> float:
        """The value of a node that is one number, all computed anew."""
        return self.expression(index).scalar_value(recalculate=True)

    def inc_forward_scalar(self, index: int) -> float:
        """The value of a node that is one number."""
        return self.expression(index).scalar_value()

    def forward_vec(self, index: int) -> list[float]:
        """The value of a node as a flat list, all computed anew."""
        return self.expression(index).vec_value(recalculate=True)

    def inc_forward_vec(self, index: int) -> list[float]:
        """The value of a node as a flat list."""
        return self.expression(index).vec_value()

    def backward(self, index: int, full: bool = False) -> None:
        """As Expression.backward() of this node."""
        self.expression(index).backward(full)


_token_of_this_module = object()
_graphs: weakref.WeakValueDictionary[int, ComputationGraph] = weakref.WeakValueDictionary()
_things: dict[int, Any] = {}
_spare: list[int] = []
_numbers = itertools.count()


class _Defaults:
    autobatch = 0


_defaults = _Defaults()


def set_default_autobatch(number: int) -> None:
    """How graphs batch when renew_cg() does not say: a strategy's number. Counts from the next renewal."""
    _defaults.autobatch = number
    for graph in list(_graphs.values()):
        lib.dn_graph_autobatch(graph.number, number)


def kept(number: int) -> Any:
    """What a graph keeps under this number."""
    return _things[number]


def _let_go(kept_by_graph: dict[Any, int]) -> None:
    while kept_by_graph:
        _, number = kept_by_graph.popitem()
        del _things[number]
        _spare.append(number)


def _free(number: int, kept_by_graph: dict[Any, int]) -> None:
    lib.dn_graph_free(number)
    _let_go(kept_by_graph)


def graph_of(*handles: int) -> ComputationGraph:
    """The graph of these nodes; the current one where there are only parameters."""
    number = min((h >> GRAPH_SHIFT for h in handles), default=-1)
    graph = _graphs.get(number)
    return cg() if graph is None else graph
_local = threading.local()


def cg() -> ComputationGraph:
    """The current graph of this thread.

    >>> import dist_dynet as dy
    >>> dy.cg() is dy.cg()
    True
    """
    try:
        return _local.graph  # type: ignore[no-any-return]
    except AttributeError:
        graph = ComputationGraph(_token_of_this_module)
        _local.graph = graph
        calls.set_current(graph.number)
        return graph


@contextmanager
def trace_graph(outer: ComputationGraph) -> Iterator[ComputationGraph]:
    """A graph on which a function is traced: this thread's current one meanwhile. `outer` cannot be used, and no value be read."""
    before, graph = cg(), ComputationGraph(_token_of_this_module, outer._thread)
    outer._check(lib.dn_trace_begin(graph.number, outer.number))
    _local.graph = graph
    calls.set_current(graph.number)
    try:
        yield graph
    finally:
        _local.graph = before
        calls.set_current(before.number)
        lib.dn_trace_end(graph.number, outer.number)


def renew_cg(
    immediate_compute: bool = False, check_validity: bool = False, autobatching: bool | int | None = None
) -> ComputationGraph:
    """Starts a new graph; expressions of the old one become stale. Memory is kept and used again.

    Args:
        immediate_compute: compute each node when it is made, so that errors show at its line.
        check_validity: with immediate_compute, raise RuntimeError when a value is NaN or infinite.
        autobatching: compute like nodes together; the same values and gradients, to rounding. False or 0: no; 1: by depth; 2: by agenda;
            True or 3: by agenda where that promises to be faster; None: as init(autobatch=...) says.

    Raises:
        ValueError: autobatching is none of these.

    >>> import dist_dynet as dy
    >>> before = dy.cg_version()
    >>> _ = dy.renew_cg()
    >>> dy.cg_version() - before
    1
    """
    if immediate_compute or check_validity or autobatching is not None or not _quick_renew():
        return cg().renew(immediate_compute, check_validity, autobatching)
    return _local.graph  # type: ignore[no-any-return]


def cg_version() -> int:
    """The number of renewals of this thread's graph.

    >>> import dist_dynet as dy
    >>> before = dy.cg_version()
    >>> _ = dy.renew_cg()
    >>> dy.cg_version() - before
    1
    """
    return cg().version()


def cg_checkpoint() -> None:
    """Marks the present end of the graph; marks form a stack.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> x = dy.scalarInput(3)
    >>> dy.cg_checkpoint()
    >>> y = dy.square(x)
    >>> dy.cg_revert()
    >>> x.value()
    3.0
    >>> y.value()
    Traceback (most recent call last):
    RuntimeError: Stale Expression: expression belongs to a graph that renew_cg() or cg_revert() closed...
    """
    cg().checkpoint()


def cg_revert() -> None:
    """Drops all nodes made since the last cg_checkpoint() and that mark. Without a mark: nothing.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> dy.cg_checkpoint()
    >>> x = dy.scalarInput(3)
    >>> dy.cg_revert()
    >>> x.value()
    Traceback (most recent call last):
    RuntimeError: Stale Expression: ...
    """
    cg().revert()


def _uniform(n: int) -> NDArray[np.float64]:
    return cg().uniform(n)


def current_graph() -> int:
    """The number of this thread's graph."""
    number = _current()
    return number if number >= 0 else cg().number


class Expression(calls.Node):
    """A node of a graph. Made by inputs, parameters, functions and operators; computed when a value is asked for.

    `*` is the matrix product, cmult() the elementwise one; dims are column-major, the batch is separate and comes last in arrays.

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

    if TYPE_CHECKING:  # the operators that the base has, and what operator() hangs on, for type checkers
        _h: int  # (graph, epoch, index); csrc/dn_api.h
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
        def __getitem__(self, index: Any) -> Expression: ...
        def __iter__(self) -> Iterator[Expression]: ...

    def _node(self) -> int:
        """The handle; a parameter's node in the current graph."""
        try:
            return self._h
        except AttributeError:
            raise ValueError("this Expression stands for nothing: it was made by hand. Use inputs, parameters and functions.") from None

    def dim(self) -> tuple[tuple[int, ...], int]:
        """((sizes), batch size)."""
        found = _quick_dim(self)
        if found is not None:
            return found
        h, out = self._node(), ffi.new(DIM)
        code = lib.dn_node_dim(h, out)
        if code < 0:
            fail(code, h)
        return tuple(out.d[0 : out.nd]), out.batch

    def _computed(self, recalculate: bool) -> tuple[Any, tuple[int, ...], int]:
        """A pointer to the value, the sizes, the batch size."""
        h, out = self._node(), ffi.new(DIM)
        code = lib.dn_node_dim(h, out)
        if code == 0 and recalculate:
            code = lib.dn_graph_invalidate(h >> GRAPH_SHIFT)
        more = 1
        while code == 0 and more:
            more = _forward(h)
            code = min(more, 0)
        if code < 0:
            fail(code, h)
        values = lib.dn_value(h)
        if values == NULL and out.size * out.batch:
            fail(lib.DN_ERROR_STATE, h)
        return values, tuple(out.d[0 : out.nd]), out.batch

    def forward(self, recalculate: bool = False) -> None:
        """Computes the value; returns nothing. recalculate: forget all values of the graph first (random draws are made anew)."""
        self._computed(recalculate)

    def value(self, recalculate: bool = False) -> float | list[float] | NDArray[np.float64]:
        """The value: a float (one number), a list (vectors), or an array (two dims and more; batch last).

        Values are kept: a parameter changed after the first call is seen only with recalculate=True or in a new graph.
        """
        if not recalculate:
            value = _quick_value(self)
            if isinstance(value, tuple):
                numbers, dims, batch = value
                return shaped(np.frombuffer(numbers), dims, batch)
            if value is not None:
                return value
        values, dims, batch = self._computed(recalculate)
        if len(dims) > 1:
            return read(values, dims, batch)
        if batch == 1 and (not dims or dims[0] == 1):
            return float(values[0])
        n = batch * (dims[0] if dims else 1)
        return ffi.unpack(values, n) if n else []

    def npvalue(self, recalculate: bool = False) -> NDArray[np.float64]:
        """The value as a float64 array: the dims, and the batch as last axis if there is one. One number has shape (1,)."""
        if not recalculate:
            found = _quick_array(self)
            if found is not None:
                numbers, dims, batch = found
                return shaped(np.frombuffer(numbers), dims, batch)
        return read(*self._computed(recalculate))

    def vec_value(self, recalculate: bool = False) -> list[float]:
        """The value as a flat list: column-major, batch element after batch element."""
        if not recalculate:
            found: list[float] | None = _quick_list(self)
            if found is not None:
                return found
        values, dims, batch = self._computed(recalculate)
        n = batch * prod(dims)
        return ffi.unpack(values, n) if n else []

    def tensor_value(self, recalculate: bool = False) -> Tensor:
        """The value as a Tensor, for its largest entries and for samples."""
        values, dims, batch = self._computed(recalculate)
        array = read(values, dims or (1,), batch)
        return Tensor(array if batch != 1 else array[..., None], _uniform)

    def scalar_value(self, recalculate: bool = False) -> float:
        """The value of an expression that is one number.

        Raises:
            ValueError: it has more elements.
        """
        if not recalculate:
            number = _quick_scalar(self)
            if number is not None:
                return number
        values, dims, batch = self._computed(recalculate)
        if batch != 1 or any(d != 1 for d in dims):
            raise ValueError(f"scalar_value: the expression must be one number; got {dims} x {batch}. Use value() or npvalue().")
        return float(values[0])

    def backward(self, full: bool = False) -> None:
        """Adds the derivatives of this expression, one number, to the gradients of the parameters it was computed from.

        full: also gives inputs and constants a gradient to be read with gradient().

        Raises:
            ValueError: the expression is not one number (sum_batches() or esum() it first).
            RuntimeError: it is stale, or parameters were updated after it had been computed.
        """
        if full:
            self._computed(False)
            h = self._node()
            code = lib.dn_backward_begin(h, 1) or 1
        else:
            code = _quick_backward(self)
            if code == 0:
                return
            h = self._node()
            if code == _LONG_WAY:
                code = _backward(h)
        while code > 0:
            for watcher in list(watchers):
                watcher.look()
            code = lib.dn_backward_step(h >> GRAPH_SHIFT) if code == 1 else _backward(h)
        if code < 0:
            fail(code, h)

    def gradient(self) -> NDArray[np.float64]:
        """The derivative of the expression that backward() was last called on with respect to this one, in the form of npvalue().

        Zeros for nodes that lead to no parameter, unless it was backward(full=True).

        Raises:
            RuntimeError: no backward() since, or this node was made after the loss.
        """
        h = self._node()
        dims, batch = self.dim()
        out = np.empty(batch * prod(dims), DTYPE)
        code = lib.dn_gradient(h, pointer(out))
        if code < 0:
            fail(code, h)
        return shaped(out.astype(np.float64), dims, batch)

    def index(self) -> int:
        """The number of this node in its graph."""
        h = self._node()
        index: int = lib.dn_node_index(h)
        if index < 0:
            fail(index, h)
        return index

    def __repr__(self) -> str:
        try:
            return f"expression {self.index()}/{cg().version()}"
        except (RuntimeError, ValueError):
            return "expression (stale)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return True

    def _same(self, memo: Any = None) -> Any:
        return self

    __copy__: Any = _same  # an expression names a node: its copy names the same
    __deepcopy__: Any = _same

    def __reduce__(self) -> Any:
        # elsewhere the same handle may name another node
        raise TypeError("an expression cannot be pickled: its graph lives in this process. Take its numbers, by value() or npvalue().")


def expression(handle: int) -> Expression:
    """An Expression for a handle that is known to be good."""
    e = Expression()
    e._h = handle
    return e


def expressions_from(handle: int, n: int) -> list[Expression]:
    """Expressions for n handles that follow one another and are known to be good."""
    return calls.consecutive(Expression, handle, n)


def resolved(h: int) -> int:
    """The node in the current graph that a parameter's handle stands for."""
    graph = current_graph()
    node: int = _resolve(graph, h)
    if node < 0:
        fail_in(graph, node)
    return node


def operator(*names: str) -> Callable[[Any], Any]:
    """Hangs a function onto Expression under these names: how operations bring their operators along."""

    def attach(f: Any) -> Any:
        for name in names:
            setattr(Expression, name, f)
        return f

    return attach


def _last(exps: Sequence[Expression]) -> Expression:
    for e in exps:
        if not isinstance(e, Expression):
            raise TypeError(f"a list of expressions is needed; got {type(e).__name__} in it.")
    return max(exps, key=lambda e: e.index())


def forward(exps: Iterable[Expression], recalculate: bool = False) -> None:
    """Computes all of these expressions in one pass; returns nothing.

    >>> import dist_dynet as dy
    >>> x, y = dy.scalarInput(3), dy.scalarInput(4)
    >>> dy.forward([x + y, x * y])
    """
    exps = list(exps)
    if exps:
        _last(exps).forward(recalculate)


def values(exps: Iterable[Expression], recalculate: bool = False) -> list[Any]:
    """The value() of each expression, computed in one pass.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> dy.values([dy.scalarInput(1), dy.inputVector([2, 3])])
    [1.0, [2.0, 3.0]]
    """
    exps = list(exps)
    forward(exps, recalculate)
    return [e.value() for e in exps]


def npvalues(exps: Iterable[Expression], recalculate: bool = False) -> list[NDArray[np.float64]]:
    """The npvalue() of each expression, computed in one pass.

    >>> import dist_dynet as dy
    >>> x = dy.inputVector([1, 2])
    >>> [a.tolist() for a in dy.npvalues([x, 2 * x])]
    [[1.0, 2.0], [2.0, 4.0]]
    """
    exps = list(exps)
    forward(exps, recalculate)
    return [e.npvalue() for e in exps]
