"""Root: owns the parameters of a tree of collections.

Values and gradients live in a root in C (csrc/params/params.c): dense parameters in a few large
chunks, gradients at the same offsets; lookup tables in separate blocks with a list of touched rows.
This module knows names and positions of parameters, not the objects that stand for them.

A root is pickled with the dims, values and frozen flags of all its parameters; a parameter is
pickled as a position in its root. So objects that are pickled together (collections, builders, a
program's own objects with parameters) still refer to the same parameters afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _random
from .._ffi import DTYPE, NULL, ffi, lib, pointer, view
from .._weak import AnyReference, WeakSet

_ASSIGNMENTS, _COPIED = ffi.typeof("dn_assignment[]"), ffi.typeof("dn_copied[]")


class Assignment(NamedTuple):
    """New values for one of C's parameters, in storage order."""

    param: Any
    values: NDArray[Any] | None = None
    """None: unchanged."""
    first: int = 0
    """The first element that is set."""
    factor: float = 1
    """The decay factor of a whole table, whose values are these numbers times it."""
    share: float = 1
    """value = (1 - share) value + share x"""
    sets_gradient: bool = False
    gradient: NDArray[Any] | None = None
    """None: cleared. A frozen parameter has none."""


class Root:
    """The owner of all parameters of a tree of collections."""

    def __init__(self) -> None:
        root = lib.dn_store_new()
        if root == NULL:
            raise MemoryError("ParameterCollection: out of memory")
        self.c = ffi.gc(root, lib.dn_store_free)
        self.made: list[tuple[Any, tuple[int, ...], int]] = []
        """C's parameters in the order in which they were made, with dims and rows."""
        self._lent: set[AnyReference[NDArray[Any]]] = set()
        self.names: dict[int, str] = {}
        """The name of each parameter, by handle."""
        if _random.dynet_order():
            self.follow_order()
        _roots.add(self)

    def follow_order(self) -> None:
        """Passes to C whether results must be DyNet's."""
        lib.dn_store_as_dynet(self.c, _random.dynet_order())

    def __reduce__(self) -> tuple[Any, ...]:
        own = {
            i: int(lib.dn_param_precision(c))
            for i, (c, _, _) in enumerate(self.made)
            if lib.dn_param_precision(c)
        }
        return rebuilt_root, (type(self), _contents(self), *([own] if own else []))

    def new_parameter(self, dims: tuple[int, ...], rows: int = 0) -> Any:
        """A new parameter of C with these dims, the last in `made`; with rows, a table. C has no
        dims without a size: () becomes (1,).

        Raises:
            MemoryError: there is no memory for it.
        """
        param = lib.dn_param_new(self.c, max(1, len(dims)), dims or (1,), rows)
        if param == NULL:
            raise MemoryError(f"parameters: out of memory for dims {dims} x {rows or 1} rows")
        self.made.append((param, dims, rows))
        return param

    def chunks(self) -> int:
        """The number of chunks of the dense parameters."""
        return int(lib.dn_store_chunks(self.c))

    def chunk_gradients(self, chunk: int) -> NDArray[Any]:
        """The gradients of a chunk, without a copy. Padding and cleared gradients may hold
        anything, NaN included."""
        return view(lib.dn_chunk_gradients(self.c, chunk), lib.dn_chunk_size(self.c, chunk), self)

    def values(self, param: Any) -> NDArray[Any]:
        """The values of one of C's parameters, flat, without a copy. Before writing, call
        detach().

        Raises:
            MemoryError: there is no memory for values of this process's own.
        """
        memory = lib.dn_param_values(param)
        if memory == NULL:
            raise MemoryError("parameters: out of memory for values of this process's own")
        return view(memory, lib.dn_param_size(param), self)

    def lend(self, values: NDArray[Any]) -> NDArray[Any]:
        """Notes that the program holds these values and may write them."""
        if values.size:
            self._lent.add(AnyReference(values, self._lent.discard))
        return values

    def is_lent(self) -> bool:
        """Whether the program still holds any."""
        return bool(self._lent)

    def detach(self) -> None:
        """Makes the values private to this process, if ranks share them. Call it before values are
        written.

        Raises:
            MemoryError: there is no memory for them.
        """
        refuse(lib.dn_store_detach(self.c))

    def write(
        self,
        assignments: Iterable[Assignment],
        copied: Sequence[tuple[NDArray[Any], NDArray[Any]]] = (),
    ) -> None:
        """Makes all assignments atomically: Ctrl-C, and changes by other threads, come before or
        after. copied: pairs of arrays, of which the second is copied to the first, at the same
        moment.

        Raises:
            MemoryError: there is no memory for it; nothing is changed then.
            RuntimeError: several processes are inside of an update.
        """
        kept: list[NDArray[Any]] = []
        assignments = list(assignments)

        def stored(array: NDArray[Any] | None) -> Any:
            if array is None:
                return NULL
            kept.append(np.ascontiguousarray(array, DTYPE))
            return pointer(kept[-1])

        given = ffi.new(
            _ASSIGNMENTS,
            [
                (
                    *(a.param, stored(a.values), stored(a.gradient)),
                    *(a.first, 0 if a.values is None else a.values.size),
                    *(a.factor, a.share, a.sets_gradient),
                )
                for a in assignments
            ],
        )
        memory = [
            (ffi.from_buffer(to), ffi.from_buffer(of), to.nbytes) for to, of in copied if to.nbytes
        ]
        to_copy = ffi.new(_COPIED, memory) if memory else NULL
        refuse(lib.dn_store_write(self.c, len(given), given, len(memory), to_copy))

    def changed(self, params: Sequence[Any]) -> None:
        """Call this after values of these parameters of C were written from outside."""
        lib.dn_params_changed(self.c, len(params), params)

    def version(self) -> int:
        """A number that increases whenever values change. Waits for an update by another thread."""
        return int(lib.dn_store_version(self.c))


def refuse(error: int) -> None:
    """Raises the exception for an error code of a write.

    Raises:
        MemoryError: there is no memory for values of this process's own.
        RuntimeError: several processes are inside of an update.
    """
    if error == lib.DN_ERROR_MEMORY:
        raise MemoryError("parameters: out of memory for values of this process's own")
    if error:
        raise RuntimeError(
            "parameters: values must not be written inside of an update of several processes."
        )


@contextmanager
def unchanged(roots: Iterable[Root], what: str) -> Iterator[None]:
    """A context for reading parameters of these roots one after the other.

    Raises:
        RuntimeError: they have changed meanwhile, so that what was read is of no one moment.
    """
    before = {root: root.version() for root in roots}
    yield
    if any(root.version() != version for root, version in before.items()):
        raise RuntimeError(
            f"{what}: another thread has changed parameters while they were read. Let the threads"
            " take turns: use a lock."
        )


Content = tuple[tuple[int, ...], int, NDArray[Any], bool]
"""Dims, rows (0: dense), values in storage order, and whether it is updated."""


def _contents(root: Root) -> list[Content]:
    """The content of a root, as copies."""
    held = []
    with unchanged([root], "copy"):
        for c, dims, rows in root.made:
            values = np.empty(lib.dn_param_size(c), DTYPE)
            lib.dn_param_copy(c, 0, values.size, pointer(values))
            held.append((dims, rows, values, bool(lib.dn_param_updated(c))))
    return held


def rebuilt_root(
    cls: type[Root], held: list[Content], precisions: dict[int, int] | None = None
) -> Root:
    """A root with the same content; precisions: those of parameters with their own, by position."""
    root = cls()
    for dims, rows, values, updated in held:
        c = root.new_parameter(dims, rows)
        root.write([Assignment(c, values)])
        lib.dn_param_set_updated(c, updated)
    for place, precision in (precisions or {}).items():
        lib.dn_param_set_precision(root.made[place][0], precision)
    return root


_roots: WeakSet[Root] = WeakSet()


def use_dynet_order(on: bool) -> None:
    """As _random.use_dynet_order(), for all collections."""
    _random.use_dynet_order(on)
    for root in list(_roots):
        root.follow_order()


def name_of(handle: int) -> str:
    """The full name of the parameter with this handle; empty if it no longer exists."""
    return next((root.names[handle] for root in _roots if handle in root.names), "")
