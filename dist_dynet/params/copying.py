"""Copies of collections: how pickle and copy.deepcopy see a root and its parameters, and how values go from one model to another.

A root is pickled with the dims, values and frozen flags of all its parameters; a parameter as a place in its root. So whatever is pickled in
one go (collection, subcollections, builders, a program's own objects that hold parameters) refers to the same parameters afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, lib, pointer

if TYPE_CHECKING:
    from .collection import ParameterCollection
    from .parameters import AnyParameter
    from .root import Root


@contextmanager
def unchanged(roots: Iterable[Root], what: str) -> Iterator[None]:
    """A context in which parameters of these roots are read one after the other.

    Raises:
        RuntimeError: they have changed meanwhile, so that what was read is of no one moment.
    """
    before = {root: root.version() for root in roots}
    yield
    if any(root.version() != version for root, version in before.items()):
        raise RuntimeError(f"{what}: another thread has changed parameters while they were read. Let the threads take turns: use a lock.")


Content = tuple[tuple[int, ...], int, NDArray[Any], bool]
"""Dims, rows (0: dense), values in storage order, updated."""


def contents(root: Root) -> list[Content]:
    """What a root holds, as copies."""
    held = []
    with unchanged([root], "copy"):
        for c, dims, rows in root.made:
            values = np.empty(lib.dn_param_size(c), DTYPE)
            lib.dn_param_copy(c, 0, values.size, pointer(values))
            held.append((dims, rows, values, bool(lib.dn_param_updated(c))))
    return held


def rebuilt_root(cls: type[Root], held: list[Content]) -> Root:
    """A root that holds the same."""
    root = cls()
    for dims, rows, values, updated in held:
        c = root.new_parameter(dims, rows)
        lib.dn_param_write(c, 0, values.size, pointer(values), 1)
        lib.dn_param_set_updated(c, updated)
    return root


def rebuilt_parameter(cls: Any, root: Root, index: int, name: str) -> Any:
    """The object that stands for the parameter at this place of a root."""
    c, dims, rows = root.made[index]
    parameter = cls.__new__(cls)
    parameter._root, parameter._place, parameter._name, parameter._dims, parameter._rows, parameter._c = root, index, name, dims, rows, c
    parameter._h = lib.dn_param_handle(c, 0)
    return parameter


def copy_values(to: ParameterCollection, other: ParameterCollection, share: float) -> None:
    """See ParameterCollection.copy_from()."""
    if not 0 <= share <= 1:
        raise ValueError(f"copy_from: share must lie in [0, 1]; got {share}.")
    kinds: list[tuple[str, Sequence[AnyParameter], Sequence[AnyParameter]]] = [
        ("parameters", to._parameters, other._parameters),
        ("lookup parameters", to._lookups, other._lookups),
    ]
    pairs: list[tuple[AnyParameter, AnyParameter]] = []
    for kind, mine, theirs in kinds:
        if len(mine) != len(theirs):
            raise ValueError(f"copy_from: both collections must have the same parameters; got {len(theirs)} {kind} for {len(mine)}.")
        for p, q in zip(mine, theirs, strict=True):
            if p.shape() != q.shape():
                raise ValueError(f"copy_from: shapes must be equal; got {p.name()} = {p.shape()}, {q.name()} = {q.shape()}.")
            pairs.append((p, q))
    with unchanged([other._root], "copy_from"):
        sources = [q._values() for _, q in pairs]
    for (p, _), source in zip(pairs, sources, strict=True):
        if share == 1:
            p._write(source)
        else:
            lib.dn_param_blend(p._c, share, pointer(source))
