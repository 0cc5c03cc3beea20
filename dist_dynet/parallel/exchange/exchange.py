"""Exchanges gradients by MPI's all-reduce and all-gather, and defines what every exchange consists
of.

An exchange has a transport, which sends messages to all ranks, and a method that sums what the
ranks have agreed on. MpiSum sums dense gradients where they lie, in ranges of the root's chunks,
without packing. Of lookup tables, only rows that some rank has touched are sent. Afterwards every
rank holds the same bits. This module knows where gradients lie and what was negotiated; averages,
clipping and updates are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer
from ...meter import hand_over, switch
from ..agreement.negotiation import AsPlanned, MpiTransport, Negotiated, NegotiatedByRank, Transport
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


class Exchange(Protocol):
    """What every exchange consists of."""

    @property
    def transport(self) -> Transport:
        """Sends messages to all ranks."""

    @property
    def sum(self) -> Callable[[Any], None]:
        """Sums the gradients that the ranks have agreed on."""


class MpiExchange:
    """The exchange that works everywhere.

    Args:
        here: all ranks.
        comm: their communicator.
    """

    def __init__(self, here: World, comm: Any) -> None:
        self.transport, self.sum = MpiTransport(here, comm), MpiSum(here, comm).sum


class MpiSum:
    """Sums by MPI; part of several exchanges."""

    def __init__(self, here: World, comm: Any) -> None:
        self._here, self._comm, self._rows = here, comm, RowSum(here, comm)
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
        which = np.flatnonzero(negotiated.rows.any(axis=0))
        self._rows.sum(negotiated, which, negotiated.rows[:, which])
        self._here.wait(requests, negotiated.what)

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
            self._comm.Iallreduce(self._here.mpi.IN_PLACE, chunks[chunk][start:end])
            for chunk, start, end in ranges
        ]


class RowSum:
    """Sums the touched rows of lookup tables over the ranks of a communicator.

    Args:
        here: the ranks; its waits notice a missing one.
        comm: a communicator of all or some of them.
        all_reduce: all_reduce(table, ids, rows) replaces rows by their sum and yields requests;
            None: MPI's all-reduce.
        encode: encode(table, ids, rows) returns the message that holds these rows; None: as they
            are.
        decode: returns the rows that a message holds.
    """

    def __init__(
        self,
        here: World,
        comm: Any,
        all_reduce: Callable[[Any, Any, Any], Iterator[list[Any]]] | None = None,
        encode: Callable[[Any, Any, Any], Any] = lambda table, ids, rows: rows,
        decode: Callable[[Any], Any] = lambda message: message,
    ) -> None:
        self._here, self._comm = here, comm
        self._all_reduce = all_reduce or self._plain
        self._encode, self._decode = encode, decode

    def _plain(self, table: Any, ids: Any, rows: Any) -> Iterator[list[Any]]:
        yield [self._comm.Iallreduce(self._here.mpi.IN_PLACE, rows)]

    def sum(
        self,
        negotiated: NegotiatedByRank,
        which: NDArray[Any],
        counts: NDArray[np.int32] | None = None,
        keep: Callable[[NDArray[np.int32]], NDArray[np.bool_]] | None = None,
    ) -> None:
        """Replaces the gradients of tables by their sums, added in rank order. Collective.

        If the touched rows of all ranks are fewer than half of the table, every rank gets them all.
        Otherwise the ranks all-reduce the union of the rows.

        Args:
            negotiated: the parameters, and the name of the collective operation.
            which: positions of the tables.
            counts: for each rank and table the number of touched rows; None: gathered first.
            keep: keep(ids) selects the rows whose sums this rank wants; None: all.

        Raises:
            MemoryError: there is no memory for the rows of a table.
        """
        if not len(which):
            return
        switch(lib.DN_ROWS)
        here, comm, what, structure = self._here, self._comm, negotiated.what, negotiated.structure
        tables = [structure.tables[k] for k in which]
        own = [(table.touched_rows(), table.touched_gradients()) for table in tables]
        if counts is None:
            counts = np.empty((comm.Get_size(), len(tables)), np.int32)
            mine = np.array([len(ids) for ids, _ in own], np.int32)
            here.wait([comm.Iallgather(mine, counts)], what)
        gathered: list[tuple[Any, Any]] = []
        requests = []
        for table, (ids, rows), count in zip(tables, own, counts.T, strict=True):
            total, width = int(count.sum()), rows.shape[1]
            every, message = np.empty(total, np.int32), None
            hand_over(ids.nbytes)
            requests.append(comm.Iallgatherv(ids, (every, count)))
            if 2 * total < len(table):
                mine = self._encode(table, ids, rows)
                message = np.empty((total, width), mine.dtype)
                hand_over(mine.nbytes)
                requests.append(comm.Iallgatherv(mine, (message, count * width)))
            gathered.append((every, message))
        here.wait(requests, what)
        for k, table, (ids, rows), (every, message) in zip(
            which, tables, own, gathered, strict=True
        ):
            if message is None:
                union = np.unique(every)
                total_rows = np.zeros((len(union), rows.shape[1]), DTYPE)
                total_rows[np.searchsorted(union, ids)] = rows
                hand_over(total_rows.nbytes)
                for requests in self._all_reduce(table, union, total_rows):
                    here.wait(requests, what)
                every = union.astype(np.int32)
            else:
                total_rows = self._decode(message)
            if keep is not None:
                wanted = keep(every)
                every, total_rows = every[wanted], total_rows[wanted]
            handle = structure.handles[len(structure.dense) + k]
            lib.dn_param_clear_gradient(handle)
            c_ids = ffi.from_buffer("int *", every)
            if lib.dn_lookup_add(handle, len(every), c_ids, pointer(total_rows)):
                name = table.readable_name()
                raise MemoryError(f"gradient exchange: out of memory for the rows of {name}")


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
