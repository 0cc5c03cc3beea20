"""The graph layer: ComputationGraph, and the current graph of each thread.

Nodes, values and gradients live on a tape in C. This module knows no operation, and of expressions
only that each node index has one; `expression.py`, above it, has the handles of nodes.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _random
from ._ffi import GRAPH_SHIFT, NULL, accelerated, calls, fail_in, ffi, lib
from ._integers import whole
from ._kept import let_go, number_for
from .batching import strategy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from .expression import Expression

T = TypeVar("T")

_current = calls.current


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
            raise MemoryError(
                f"ComputationGraph: out of memory, or more than {1 << lib.DN_GRAPH_BITS} threads"
                " have a graph."
            )
        self._kept: dict[Any, int] = {}
        _graphs[self.number] = self
        # at exit other threads may still compute with their graphs
        weakref.finalize(self, _free, self.number, self._kept).atexit = False
        lib.dn_graph_autobatch(self.number, _defaults.autobatch)
        self._thread = _random.new_thread() if _thread is None else _thread
        self._stream: int | None = None
        self._seed()
        _random.on_reset(self)

    def __reduce__(self) -> Any:
        raise TypeError(
            "ComputationGraph: cannot be copied or pickled. Each thread and process has a graph of"
            " its own: cg()."
        )

    def _key(self) -> tuple[int, int]:
        seed, stream = _random.key(self._thread)
        return seed, stream if self._stream is None else self._stream

    def _seed(self) -> None:
        lib.dn_graph_seed(self.number, *self._key())
        lib.dn_graph_generator(self.number, _random.node_generator(self._thread))
        self._samples = 0

    def draw_from(self, stream: int | None, counter: int, samples: int | None = None) -> None:
        """From now on draws have this stream (that of a micro-batch) and counters from `counter`
        on. None: the stream of rank and thread. samples: the counter of uniform(), if it
        differs.

        Raises:
            TypeError: one is not an integer.
            OverflowError: one does not lie in [0, 2^64).

        >>> import dist_dynet as dy
        >>> draws = []
        >>> for _ in range(2):
        ...     dy.renew_cg().draw_from(stream=7, counter=0)
        ...     draws.append(dy.random_normal(3).value())
        >>> dy.cg().draw_from(None, 0)
        >>> draws[0] == draws[1]
        True
        """
        self._stream, counter, samples = _random.checked_place(stream, counter, samples)
        self._seed()
        self._samples = samples
        lib.dn_graph_set_counter(self.number, counter)

    def draws(self) -> tuple[int | None, int, int]:
        """Stream, counter, and counter of uniform() of the next draws, for draw_from().

        >>> import dist_dynet as dy
        >>> before = dy.renew_cg().draws()
        >>> x = dy.random_normal(3).value()
        >>> dy.renew_cg().draw_from(*before)
        >>> dy.random_normal(3).value() == x
        True
        """
        return self._stream, int(lib.dn_graph_counter(self.number)), self._samples

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Numbers drawn uniformly from (0, 1), for sampling from values outside the graph. Each
        call draws new ones.

        Raises:
            ValueError: n is negative.
            TypeError: n is not an integer.

        >>> import dist_dynet as dy
        >>> u = dy.cg().uniform(1000)
        >>> len(u), bool((0 < u).all() and (u < 1).all())
        (1000, True)
        """
        if (n := whole(n, "uniform", "n")) < 0:
            raise ValueError(f"uniform: n must be 0 or more; got {n}.")
        out = np.empty(n, np.float32)
        generator = _random.node_generator(self._thread)
        if generator != NULL:
            lib.dn_rng_uniform(generator, n, 0, 1, ffi.from_buffer("float *", out) if n else NULL)
            return out.astype(np.float64)
        seed, stream = self._key()
        # the counters and node numbers of nodes are far below these
        draw = ffi.new("dn_rng_key *", (seed, stream, (1 << 63) + self._samples, (1 << 32) - 1))
        self._samples += 1
        lib.dn_draw_uniform(draw, 0, n, ffi.from_buffer("float *", out) if n else NULL)
        return out.astype(np.float64) + 2.0**-25

    def _check(self, code: int) -> None:
        if code < 0:
            fail_in(self.number, code)

    def renew(
        self,
        immediate_compute: bool = False,
        check_validity: bool = False,
        autobatching: bool | int | None = None,
    ) -> ComputationGraph:
        """As renew_cg().

        >>> import dist_dynet as dy
        >>> graph = dy.cg()
        >>> x = dy.scalarInput(1)
        >>> graph.renew() is graph, len(graph)
        (True, 0)
        """
        number = (
            _defaults.autobatch
            if autobatching is None
            else strategy(autobatching, "renew_cg: autobatching")
        )
        self._check(lib.dn_graph_renew(self.number, immediate_compute, check_validity, number))
        let_go(self._kept)
        return self

    def version(self) -> int:
        """How often this graph was renewed.

        >>> import dist_dynet as dy
        >>> graph = dy.renew_cg()
        >>> before = graph.version()
        >>> graph.renew().version() - before
        1
        """
        return int(lib.dn_graph_version(self.number))

    def checkpoint(self) -> None:
        """As cg_checkpoint().

        >>> import dist_dynet as dy
        >>> graph = dy.renew_cg()
        >>> x = dy.scalarInput(3)
        >>> graph.checkpoint()
        >>> y = dy.square(x)
        >>> graph.revert()
        >>> x.value()
        3.0
        """
        if len(self):
            self.inc_forward(len(self) - 1)
        self._check(lib.dn_graph_checkpoint(self.number))

    def revert(self) -> None:
        """As cg_revert().

        >>> import dist_dynet as dy
        >>> graph = dy.renew_cg()
        >>> graph.checkpoint()
        >>> x = dy.scalarInput(3)
        >>> graph.revert()
        >>> len(graph)
        0
        """
        self._check(lib.dn_graph_revert(self.number))

    def __len__(self) -> int:
        return int(lib.dn_graph_size(self.number))

    def __bool__(self) -> bool:
        """True, even without nodes, so that `cg = cg or dy.renew_cg()` keeps a graph."""
        return True

    if TYPE_CHECKING:  # attached by ops/inputs.py and inspection.py

        def inputMatrixLiteral(  # noqa: N802, D102 - DyNet's name
            self,
            v: Sequence[float],
            d: int | Sequence[int],
            batch_size: int = 1,
            device: str = "",
        ) -> Expression: ...
        def inputSparseTensor(  # noqa: N802, D102
            self,
            idxs: Sequence[int],
            v: Sequence[float],
            dim: int | Sequence[int],
            batch_size: int = 1,
            defval: float = 0.0,
            device: str = "",
        ) -> Expression: ...
        def dump(  # noqa: D102
            self,
            filename: str | PathLike[str] = "",
            show_values: bool = True,
            show_gradients: bool = True,
            nan_check_only: bool = False,
        ) -> None: ...
        def print_graphviz(self) -> None: ...  # noqa: D102

    def memory(self) -> int:
        """Bytes held for nodes, values and gradients. They are kept for the next graph.

        >>> import dist_dynet as dy
        >>> graph = dy.renew_cg()
        >>> dy.zeros(1000).forward()
        >>> graph.memory() >= 4000
        True
        """
        return int(lib.dn_graph_bytes(self.number))

    def keep(self, thing: Any) -> int:
        """A number by which nodes of this graph refer to a Python object (see kept()). The graph
        keeps the object alive until it is renewed.

        >>> import dist_dynet as dy
        >>> from dist_dynet._kept import kept
        >>> graph, thing = dy.renew_cg(), "anything"
        >>> number = graph.keep(thing)
        >>> kept(number), graph.keep(thing) == number
        ('anything', True)
        """
        number = self._kept.get(thing)
        if number is None:
            lib.dn_graph_hold(self.number)
            number = self._kept[thing] = number_for(thing)
        return number

    def expression(self, index: int) -> Expression:
        """The expression of a node of this graph, by its index.

        Raises:
            ValueError: there is no such node.
            TypeError: index is not an integer.

        >>> import dist_dynet as dy
        >>> graph = dy.renew_cg()
        >>> y = dy.square(dy.scalarInput(3))
        >>> graph.expression(1).value()
        9.0
        """
        handle = lib.dn_graph_node(self.number, whole(index, "ComputationGraph", "index"))
        self._check(handle)
        return _expression_of(handle)

    def forward(self, index: int) -> None:
        """Computes all nodes up to this one anew."""
        self.expression(index).forward(recalculate=True)

    def inc_forward(self, index: int) -> None:
        """Computes the nodes up to this one that are not computed yet."""
        self.expression(index).forward()

    def forward_scalar(self, index: int) -> float:
        """The value of a node with one element, recomputed."""
        return self.expression(index).scalar_value(recalculate=True)

    def inc_forward_scalar(self, index: int) -> float:
        """The value of a node with one element."""
        return self.expression(index).scalar_value()

    def forward_vec(self, index: int) -> list[float]:
        """The value of a node as a flat list, recomputed."""
        return self.expression(index).vec_value(recalculate=True)

    def inc_forward_vec(self, index: int) -> list[float]:
        """The value of a node as a flat list."""
        return self.expression(index).vec_value()

    def backward(self, index: int, full: bool = False) -> None:
        """As Expression.backward() of the node."""
        self.expression(index).backward(full)


_token_of_this_module = object()
_graphs: weakref.WeakValueDictionary[int, ComputationGraph] = weakref.WeakValueDictionary()


class _Defaults:
    autobatch = 0


_defaults = _Defaults()


def set_default_autobatch(number: int) -> None:
    """Sets the strategy, by number, for graphs whose renew_cg() names none. Takes effect at the
    next renewal."""
    _defaults.autobatch = number
    for graph in list(_graphs.values()):
        lib.dn_graph_autobatch(graph.number, number)


def _free(number: int, kept_by_graph: dict[Any, int]) -> None:
    lib.dn_graph_free(number)
    let_go(kept_by_graph)


def graph_of(*handles: int) -> ComputationGraph:
    """The graph of these nodes; the current one if all are parameters."""
    number = min((h >> GRAPH_SHIFT for h in handles), default=-1)
    graph = _graphs.get(number)
    return cg() if graph is None else graph


_local = threading.local()


_expression_of: Callable[[int], Expression]


def make_expressions_by(make: Callable[[int], Expression]) -> None:
    """Sets the function that makes the expression of a handle. Called by the layer above when it is
    imported."""
    global _expression_of
    _expression_of = make


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


def trace(outer: ComputationGraph, run: Callable[[int], T]) -> T:
    """run(graph) with a new graph of this number as the thread's current one. Meanwhile `outer`
    cannot be used, and no value can be read.

    Not a context manager: Ctrl-C may come between any two calls, and nothing that is set here may
    stay.
    """
    before, graph = cg(), ComputationGraph(_token_of_this_module, outer._thread)
    try:
        outer._check(lib.dn_trace_begin(graph.number, outer.number))
        _local.graph = graph
        calls.set_current(graph.number)
        return run(graph.number)
    finally:
        try:
            _local.graph = before
            calls.set_current(before.number)
        finally:
            lib.dn_trace_end(graph.number, outer.number)


@accelerated
def renew_current() -> None:
    """A new graph with default settings in place of the current one."""
    cg().renew()


@accelerated
def checkpoint_current() -> None:
    """Marks the end of the current graph."""
    cg().checkpoint()


@accelerated
def revert_current() -> None:
    """Reverts the current graph to its last mark."""
    cg().revert()


@accelerated
def this_graph() -> int:
    """A number that distinguishes this thread's graph from all others, including earlier ones."""
    graph = cg()
    return graph.version() << int(lib.DN_GRAPH_BITS) | int(graph.number)


def renew_cg(
    immediate_compute: bool = False,
    check_validity: bool = False,
    autobatching: bool | int | None = None,
) -> ComputationGraph:
    """Starts a new graph. Expressions of the old one become stale. Memory is reused.

    Args:
        immediate_compute: compute each node when it is made, so that errors point at its line.
        check_validity: with immediate_compute, raise RuntimeError when a value is NaN or infinite.
        autobatching: compute similar nodes together, which changes results by rounding only. False
            or 0: no; 1: by depth; 2: by agenda; True or 3: by the fraction of ready nodes,
            where that promises to be faster; None: as set by init(autobatch=...).

    Raises:
        ValueError: autobatching is none of these.

    >>> import dist_dynet as dy
    >>> len(dy.renew_cg())
    0
    """
    if immediate_compute or check_validity or autobatching is not None:
        return cg().renew(immediate_compute, check_validity, autobatching)
    renew_current()
    return _local.graph  # type: ignore[no-any-return]


def cg_version() -> int:
    """How often this thread's graph was renewed.

    >>> import dist_dynet as dy
    >>> dy.renew_cg().version() == dy.cg_version()
    True
    """
    return cg().version()


def cg_checkpoint() -> None:
    """Computes the graph and marks its end; marks form a stack. Nodes before the mark keep their
    values, including random ones, when cg_revert() returns to it.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> x = dy.random_normal(3)
    >>> dy.cg_checkpoint()
    >>> before = x.value()
    >>> dy.cg_revert()
    >>> x.value() == before
    True
    """
    checkpoint_current()


def cg_revert() -> None:
    """Drops all nodes made since the last cg_checkpoint(), and that mark. Does nothing without a
    mark.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> dy.cg_checkpoint()
    >>> x = dy.scalarInput(3)
    >>> dy.cg_revert()
    >>> x.value()
    Traceback (most recent call last):
    RuntimeError: Stale Expression: ...
    """
    revert_current()


def current_graph() -> int:
    """The number of this thread's graph."""
    number = _current()
    return number if number >= 0 else cg().number
