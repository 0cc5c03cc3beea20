"""A warning about graphs that grow because renew_cg() is missing."""

from __future__ import annotations

from . import _manner
from ._ffi import GRAPH_SHIFT, calls, lib

INDEX = (1 << lib.DN_INDEX_BITS) - 1
"""Mask of the bits of a handle that are its index."""


class _Large:
    """The node index from which on a graph is too large, until that has been reported."""

    index = 1_000_000


large = _Large()


def note_large(handle: int) -> None:
    """Called with a handle whose index is `large.index` or more. Warns of a growing graph once per
    process."""
    if handle >> GRAPH_SHIFT >= 1 << lib.DN_GRAPH_BITS:
        return  # a parameter's
    large.index = INDEX + 1
    calls.set_large(large.index, note_large)
    if not _manner.manner.dynet:
        _manner.warn(
            f"this graph has {(handle & INDEX) + 1:,} nodes: is a renew_cg() missing? Each example,"
            " or batch, begins with one, in evaluation, too. If the graph is meant to be so large:"
            " warnings.filterwarnings('ignore', 'this graph has'). This is said once."
        )


calls.set_large(large.index, note_large)
