"""The cached plan of the steady state: how the ranks of one host sum the gradients of known
parameters.

It is one struct, dn_shm_comm_plan, which C follows and Python fills. It is valid for one structure,
whose chunks are in shared memory; whoever moves these drops it (SharedExchange). Nothing else
invalidates it: buffers that grow are replaced in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._ffi import DTYPE, NULL, ffi, lib
from ..agreement.message import METER_READING, MessageLayout
from ..agreement.negotiation import NegotiatedByRank
from ..agreement.structure import Structure

SPIN = 1e-4
"""Seconds that C polls for the other ranks before Python goes on waiting. No signal is handled
meanwhile."""


class RowBuffer:
    """Where every rank stores its touched rows of one table, for the others to read until the next
    negotiation."""

    def __init__(self, capacity: int, width: int, whole: Any, starts: list[int]) -> None:
        self.capacity, self._mapping = capacity, whole
        ids = capacity * width * DTYPE.itemsize
        self.rows = ffi.new(
            "dn_real *[]", [ffi.cast("dn_real *", whole + start) for start in starts]
        )
        self.ids = ffi.new("int *[]", [ffi.cast("int *", whole + start + ids) for start in starts])


class Plan:
    """How these parameters are summed.

    Args:
        structure: the parameters.
        segments: by chunk, dn_real *[ranks].
        squares: shared memory for the sums of squares of pieces and of rows.
        buffers: of tables that have had rows, by handle.
        rank: of this process.
        ranks: the number of ranks.
    """

    def __init__(
        self,
        structure: Structure,
        segments: Mapping[int, Any],
        squares: tuple[Any, Any],
        buffers: Mapping[Any, RowBuffer],
        rank: int,
        ranks: int,
    ) -> None:
        self.structure = structure
        tables = len(structure.tables)
        self._layout = MessageLayout(structure)
        by_chunk = [segments.get(chunk, NULL) for chunk in range(max(segments, default=-1) + 1)]
        self.c = ffi.new("dn_shm_comm_plan *")
        self._kept = [  # a struct of pointers keeps nothing alive
            ffi.new("dn_gradient_slot[]", structure.places),
            ffi.new("dn_real *const *[]", by_chunk),
            ffi.new("dn_shared_buffer[]", tables),
            ffi.new("uint8_t *[]", ranks),
            ffi.new("int32_t[]", ranks * tables),
            ffi.new("double[]", ranks),
            ffi.new("dn_reading[]", ranks),
        ]
        self.c.of, self.c.ranks, self.c.rank = self._layout.members[0], ranks, rank
        (
            self.c.places,
            self.c.segments,
            self.c.buffers,
            self.c.filled,
            self.c.rows,
            self.c.factors,
            self.c.meters,
        ) = self._kept
        self.c.squares, self.c.row_squares = squares
        self.meters = np.frombuffer(ffi.buffer(self._kept[-1]), METER_READING)
        """The times that each rank has reported in the present update, if C has read the
        messages."""
        self._buffers = dict(buffers)
        for table, buffer in buffers.items():
            self.set_buffer(table, buffer)

    def set_buffer(self, table: Any, buffer: RowBuffer) -> None:
        """Sets the buffer for the rows of this table."""
        self._buffers[table] = buffer
        if table in self.structure.handles:
            k = self.structure.handles.index(table) - len(self.structure.dense)
            self.c.buffers[k] = (buffer.rows, buffer.ids, buffer.capacity)

    def follow(self, negotiated: NegotiatedByRank) -> None:
        """Sets what was negotiated for the present update, if C has not found that out itself."""
        self._filled = np.ascontiguousarray(negotiated.filled)
        self.c.filled[0 : len(self._filled)] = [
            ffi.from_buffer("uint8_t[]", row) for row in self._filled
        ]
        self.c.factors[0 : negotiated.factors.size] = negotiated.factors.tolist()
        self.c.rows[0 : negotiated.rows.size] = negotiated.rows.ravel().tolist()


def check(outcome: int) -> None:
    """Raises the exception for an error code of C.

    Raises:
        MemoryError: there is no memory.
        RuntimeError: C has refused its arguments, which is a fault of dist_dynet.
    """
    if outcome == lib.DN_ERROR_MEMORY:
        raise MemoryError("gradient exchange: out of memory")
    if outcome:
        raise RuntimeError(
            "gradient exchange: csrc/parallel/shm_comm.c refused its arguments; got error"
            f" {outcome}. This is a fault of dist_dynet."
        )
