"""Exchanges gradients by MPI's all-reduce and all-gather, and defines what every exchange consists
of.

An exchange has a transport, which sends messages to all ranks, and a method that sums what the
ranks have agreed on. MpiSum sums dense gradients where they lie, in ranges of the root's chunks,
without packing. Of lookup tables, only rows that some rank has touched are sent. Afterwards every
rank holds the same bits. This module knows where gradients lie and what was negotiated; averages,
clipping and updates are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer
from ...meter import hand_over, switch
from ...params.parameters import LookupParameters
from ..agreement.negotiation import AsPlanned, MpiTransport, Negotiated, NegotiatedByRank
from ..agreement.structure import Structure
from ..processes.world import World

_PADDING = 16
"""A gap of fewer numbers than this between two parameters of a chunk is padding, which is zero."""

_GAP = 1 << 16
"""Unused parameters of up to so many numbers are sent as zeros, rather than splitting a range: a
second call costs as much."""

Range = tuple[int, int, int]
"""(chunk, from, to)."""


Weight = Callable[[], float | None]
"""Returns the factor for a rank's gradients at this time; None: unknown, or its owner is gone."""


AddUp = Callable[[NDArray[Any], str], list[Any]]
"""add_up(mine, what) starts to replace an array by its sum over the ranks. Returns the requests to
wait for."""


@dataclass
class Rows:
    """The touched rows of a table during an exchange: pieces of (ids, gradients), to be summed in
    this order. A piece without gradients is still to be sent."""

    table: LookupParameters
    handle: Any
    pieces: list[tuple[NDArray[np.int32], NDArray[Any] | None]]


class MpiExchange:
    """The exchange that works everywhere. Like every exchange, it has a transport and
    sum(negotiated).

    Args:
        here: all ranks.
        comm: their communicator.
        add_up: replaces MPI's all-reduce.
    """

    def __init__(self, here: World, comm: Any, add_up: AddUp | None = None) -> None:
        self.transport, self.sum = MpiTransport(here, comm), MpiSum(here, comm, add_up).sum


class MpiSum:
    """Sums by MPI; part of several exchanges."""

    def __init__(self, here: World, comm: Any, add_up: AddUp | None = None) -> None:
        self._here, self._comm = here, comm
        self._add_up = add_up or (lambda mine, what: [comm.Iallreduce(here.mpi.IN_PLACE, mine)])
        self._ranges: dict[bytes, tuple[list[Range], list[Range]]] = {}
        self._structure: Structure | None = None

    def sum(self, negotiated: Negotiated | AsPlanned) -> None:
        """G = sum over ranks of factor_r g_r, with the same bits on every rank. Collective.

        Raises:
            MemoryError: there is no memory for the rows of a table.
        """
        assert isinstance(negotiated, NegotiatedByRank)
        factor = float(negotiated.factors[self._here.rank])
        for handle in negotiated.structure.handles if factor != 1 else ():
            lib.dn_param_scale_gradient(handle, factor)
        requests = self._send_dense(negotiated)
        tables = self._send_rows(negotiated, requests)
        self._here.wait(requests, negotiated.what)
        if tables:
            switch(lib.DN_ROWS)
        self._here.wait(self._send_blocks(tables, negotiated.what), negotiated.what)
        for rows in tables:
            lib.dn_param_clear_gradient(rows.handle)
            for ids, gradients in rows.pieces:
                assert gradients is not None
                if lib.dn_lookup_add(
                    rows.handle, len(ids), ffi.from_buffer("int *", ids), pointer(gradients)
                ):
                    name = rows.table.readable_name()
                    raise MemoryError(f"gradient exchange: out of memory for the rows of {name}")

    # ---- dense parameters --------------------------------------------------------------

    def _send_dense(self, negotiated: NegotiatedByRank) -> list[Any]:
        """Starts to sum the dense gradients. Returns the requests to wait for."""
        structure = negotiated.structure
        used = negotiated.used
        # parameters that only other ranks have used
        for i in np.flatnonzero(used & ~negotiated.filled[self._here.rank]).tolist():
            lib.dn_param_gradient(structure.handles[i])  # zeros
        if structure is not self._structure:
            self._structure, self._ranges = structure, {}
        key = used.tobytes()
        if key not in self._ranges:
            if len(self._ranges) > 256:
                self._ranges.clear()
            self._ranges[key] = merge_ranges(structure.places, used.tolist())
        ranges, gaps = self._ranges[key]
        chunks = [structure.root.chunk_gradients(chunk) for chunk in range(structure.root.chunks())]
        for chunk, start, end in gaps:
            chunks[chunk][start:end] = 0
        hand_over(sum(end - start for _, start, end in ranges) * DTYPE.itemsize)
        return [
            request
            for chunk, start, end in ranges
            for request in self._add_up(chunks[chunk][start:end], negotiated.what)
        ]

    # ---- lookup tables -----------------------------------------------------------------

    def _send_rows(self, negotiated: NegotiatedByRank, requests: list[Any]) -> list[Rows]:
        """Gathers the ids of touched rows, and the rows themselves if over all ranks they are fewer
        than half of the table."""
        tables, first = [], len(negotiated.structure.dense)
        for k, table in enumerate(negotiated.structure.tables):
            counts = negotiated.rows[:, k]
            total = int(counts.sum())
            if total == 0:
                continue
            ids, gradients = np.empty(total, np.int32), None
            hand_over(table.touched_rows().nbytes)
            requests.append(self._comm.Iallgatherv(table.touched_rows(), (ids, counts)))
            if 2 * total < len(table):
                block = table.touched_gradients()
                gradients = np.empty((total, block.shape[1]), DTYPE)
                hand_over(block.nbytes)
                requests.append(self._comm.Iallgatherv(block, (gradients, counts * block.shape[1])))
            tables.append(Rows(table, negotiated.structure.handles[first + k], [(ids, gradients)]))
        return tables

    def _send_blocks(self, tables: list[Rows], what: str) -> list[Any]:
        """For tables with many touched rows, of which only ids were sent: sums the union of the
        rows."""
        requests = []
        for rows in tables:
            ids, gradients = rows.pieces[0]
            if gradients is None:
                union = np.unique(ids)
                mine = rows.table.touched_gradients()
                block = np.zeros((len(union), mine.shape[1]), DTYPE)
                block[np.searchsorted(union, rows.table.touched_rows())] = mine
                hand_over(block.nbytes)
                requests += self._add_up(block, what)
                rows.pieces = [(union.astype(np.int32), block)]
        return requests


def merge_ranges(places: list[Range], used: list[bool]) -> tuple[list[Range], list[Range]]:
    """The ranges to send, and the unused parameters within them. `places` are (chunk, offset,
    length), in the order of each chunk.

    >>> merge_ranges([(0, 0, 30), (0, 32, 8), (0, 48, 5), (1, 0, 9)], [True, False, True, True])
    ([(0, 0, 53), (1, 0, 9)], [(0, 32, 40)])
    """
    ranges: list[Range] = []
    gaps: list[Range] = []
    pending: list[Range] = []  # unused parameters behind the last range
    end = (-1, 0)
    for (chunk, offset, length), is_used in zip(places, used, strict=True):
        place = (chunk, offset, offset + length)
        joined = bool(ranges) and chunk == end[0] and 0 <= offset - end[1] < _PADDING
        if not joined:
            pending = []
        if is_used and joined and offset - ranges[-1][2] < _GAP:
            ranges[-1] = (chunk, ranges[-1][1], place[2])
            gaps += pending
            pending = []
        elif is_used:
            ranges.append(place)
            pending = []
        elif joined:
            pending.append(place)
        if is_used or joined:
            end = (chunk, place[2])
    return ranges, gaps
