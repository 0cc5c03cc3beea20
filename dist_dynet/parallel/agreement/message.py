"""What a rank sends to the others before gradients are summed, in the layout of dn_rank_message,
which C writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._ffi import NULL, ffi, lib
from .structure import Structure


class Flag:
    """Flags in a rank's message."""

    ENDED = 1  # it has run out of data and only takes part
    SAVE = 2  # it has been asked to save a checkpoint
    JOIN = 4  # it is inside Join, where ranks that have ended call from another line
    EARLY = 8  # what it has sent before the negotiation is still valid
    AHEAD = 16  # some of it was complete long before the end of backward
    WEIGHED = 32  # its gradients are already multiplied by their weights
    UNKNOWN = 64  # it does not know which batch its gradients come from
    # gradients are exchanged after this pass; LAST, SILENT and ASKS are sent in passes only
    LAST = 128
    SILENT = 256  # the pass does not count towards an accumulation
    APART = 512  # its values are no longer those of its host
    OTHER = 1024  # it holds other parameters than those that the ranks have agreed on
    ASKS = 4096  # it waits for the weights of a pass
    MAY_DIFFER = 8192  # what its gradients belong to is not compared
    CHANGED = 32768  # it has changed gradients of earlier passes
    # it alone has changed values, or a trainer's moments; set by C
    WRITTEN = lib.DN_RANK_WRITTEN

    UNPLANNED = ENDED | UNKNOWN | OTHER | WRITTEN | CHANGED
    """With one of these flags on any rank, all ranks read all messages."""


def _numpy(kind: Any) -> Any:
    """The NumPy type of a C type."""
    if kind.kind == "array":
        return _numpy(kind.item), (kind.length,)
    if kind.kind == "struct":
        return np.dtype([(name, _numpy(field.type)) for name, field in kind.fields])
    return {"double": np.float64, "int64_t": np.int64}[kind.cname]


METER_READING: np.dtype[Any] = _numpy(ffi.typeof("dn_reading"))
"""The times that a rank reports: nanoseconds by phase, and bytes handed over."""

_FIELDS = {
    name: (_numpy(field.type), field.offset) for name, field in ffi.typeof("dn_rank_message").fields
}


class MessageLayout:
    """The layout of messages about one structure.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> _ = m.add_parameters(2), m.add_lookup_parameters((3, 1))
    >>> names = MessageLayout(Structure(m)).dtype.names
    >>> names[:5], names[-4:]
    (('weight', 'meter', 'structure', 'step', 'settings'), ('states', 'settled', 'rows', 'filled'))

    Args:
        structure: the parameters.
        trainer: the dn_trainer * that the messages are about; NULL: none.
    """

    def __init__(self, structure: Structure, trainer: Any = NULL) -> None:
        self.structure = structure
        dense, tables = len(structure.dense), len(structure.tables)
        # a struct of pointers keeps nothing alive
        self._params = ffi.new("dn_param *[]", structure.handles)
        self.members = ffi.new("dn_members *", (dense, tables, self._params, trainer))
        """The argument of C functions."""
        at = lib.dn_rank_message_layout_of(dense, tables)
        fields = {
            **_FIELDS,
            "states": ((np.uint8, (dense + tables,)), at.states),
            "settled": ((np.bool_, (tables,)), at.settled),
            "rows": ((np.int32, (tables,)), at.rows),
            "filled": ((np.bool_, (dense,)), at.filled),
        }
        formats, offsets = zip(*fields.values(), strict=True)
        self.dtype: np.dtype[Any] = np.dtype(
            {"names": [*fields], "formats": formats, "offsets": offsets, "itemsize": at.size}
        )
        self.size = at.size  # of a message, in bytes
        self.alike = slice(_FIELDS["structure"][1], at.end_alike)
        """The bytes that are nearly always equal on all ranks."""
        start = _FIELDS["flags"][1] - self.alike.start
        self.flags = slice(start, start + 8)  # the flags within these bytes
