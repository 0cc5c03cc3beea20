"""Root: what owns the parameters of a tree of collections.

Values and gradients live in a root in C (csrc/params/params.c): dense parameters in a few large
chunks, gradients at the same offsets; lookup tables as blocks of their own with a list of touched
rows. This module knows names and places of parameters, not the objects that stand for them.
"""

from __future__ import annotations

import weakref
from typing import Any

from numpy.typing import NDArray

from .. import _random
from .._ffi import NULL, ffi, lib, view
from . import copying


class Root:
    """The owner of all parameters of a tree of collections."""

    def __init__(self) -> None:
        root = lib.dn_root_new()
        if root == NULL:
            raise MemoryError("ParameterCollection: out of memory")
        self.c = ffi.gc(root, lib.dn_root_free)
        self.made: list[tuple[Any, tuple[int, ...], int]] = []
        """C's parameters in the order in which they were made, with dims and rows."""
        self.names: dict[int, str] = {}
        """The name of each parameter's handle."""
        if _random.dynet_order():
            self.follow_order()
        _roots.add(self)

    def follow_order(self) -> None:
        """Lets C know whether the numbers are to be DyNet's."""
        lib.dn_root_as_dynet(self.c, _random.dynet_order())

    def __reduce__(self) -> tuple[Any, ...]:
        return copying.rebuilt_root, (type(self), copying.contents(self))

    def new_parameter(self, dims: tuple[int, ...], rows: int = 0) -> Any:
        """C's parameter of these dims, the last in `made`; with rows, a table."""
        param = lib.dn_param_new(self.c, len(dims), dims, rows)
        if param == NULL:
            raise MemoryError(f"parameters: out of memory for dims {dims} x {rows or 1} rows")
        self.made.append((param, dims, rows))
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

    def version(self) -> int:
        """Rises whenever values change. Waits for an update by another thread."""
        return int(lib.dn_root_version(self.c))


_roots: weakref.WeakSet[Root] = weakref.WeakSet()


def use_dynet_order(on: bool) -> None:
    """As _random.use_dynet_order(), for all collections."""
    _random.use_dynet_order(on)
    for root in list(_roots):
        root.follow_order()


def name_of(handle: int) -> str:
    """The full name of the parameter with this handle; empty where it is gone."""
    return next((root.names[handle] for root in _roots if handle in root.names), "")
