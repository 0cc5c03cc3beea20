"""Exchanges gradients in memory that the ranks of one host share.

The gradient chunks of all ranks are in this memory, so that nothing is copied: each rank sums its
share of the numbers over the segments of all ranks, in rank order, and writes the sums into every
segment. A barrier ends this. None is needed to begin, because the negotiation before it has heard
from every rank, and gradients are complete by then. Each rank copies touched rows of lookup tables
into a buffer before it sends its message or, where buffers must grow, before a barrier for that
purpose; then each rank sums over the buffers of all ranks, in rank order. C does this by a plan
(plan.py), which is made here: this module knows memory, and where the ranks write.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, NULL, ffi, lib
from ...params.root import Root
from ..agreement.negotiation import AsPlanned, Negotiated, NegotiatedByRank
from ..agreement.structure import Structure
from ..processes.memory import map_together, say_refused
from ..processes.world import World
from .exchange import MpiSum
from .plan import Plan, RowBuffer
from .shm_comm import SharedTransport

# ---- memory ----------------------------------------------------------------------------


class Segments(NamedTuple):
    """One chunk's gradients on all ranks."""

    pointers: Any  # dn_real *[ranks]
    mine: Any  # this rank's
    mapping: Any  # keeps the memory mapped


class SharedMemory:
    """The shared memory of one root's gradient chunks. When this object dies, and in a forked
    child, they return to private memory."""

    def __init__(self, root: Root) -> None:
        self.chunks: dict[int, Segments] = {}
        self.members: list[int] = []  # the ranks that share it, in their order
        self._finalizer = weakref.finalize(self, _bring_home, root.c, self.chunks)
        self._finalizer.atexit = False  # at exit the mapping just goes with the process

    @staticmethod
    def of(root: Root) -> SharedMemory:
        """The memory of this root, shared by all its trainers over the same ranks."""
        _bring_stuck_home()
        memory = _memories.get(root.c)
        if memory is None:
            memory = _memories[root.c] = SharedMemory(root)
        return memory

    def bring_home(self) -> None:
        """Moves the gradients into private memory."""
        self._finalizer()


_memories: weakref.WeakValueDictionary[Any, SharedMemory] = weakref.WeakValueDictionary()
_stuck: list[tuple[Any, dict[int, Segments]]] = []
"""Chunks that could not be moved because their root was in use; they stay mapped until they can be
moved."""


def _bring_home(root: Any, chunks: dict[int, Segments]) -> None:
    for chunk, segments in list(chunks.items()):
        if (
            lib.dn_chunk_gradients(root, chunk) != segments.mine
            or lib.dn_chunk_move_gradients(root, chunk, NULL) == 0
        ):
            del chunks[chunk]
    if chunks:
        _stuck.append((root, dict(chunks)))
        chunks.clear()


def _bring_stuck_home() -> None:
    late = _stuck[:]
    _stuck.clear()
    for root, chunks in late:
        _bring_home(root, chunks)


def _in_child() -> None:
    """A forked child gets private gradients."""
    for memory in list(_memories.values()):
        memory.bring_home()
    _memories.clear()
    _bring_stuck_home()


os.register_at_fork(after_in_child=_in_child)


# ---- the engine ------------------------------------------------------------------------


class SharedExchange:
    """The exchange for ranks of one host. Without enough shared memory MPI is used instead, and
    rank 0 reports this on stderr."""

    def __init__(self, here: World, comm: Any) -> None:
        self._here, self._comm = here, comm
        self.transport, self._by_mpi = SharedTransport(here, comm), MpiSum(here, comm)
        self._memory: SharedMemory | None = None
        self._refused = False
        self._buffers: dict[Any, RowBuffer] = {}

    @property
    def quick(self) -> int:
        """Number of updates that were exchanged as planned."""
        return self.transport.quick

    def sum(self, negotiated: Negotiated | AsPlanned) -> None:
        """As MpiSum.sum()."""
        if isinstance(negotiated, AsPlanned):
            self.transport.sum()
            return
        assert isinstance(negotiated, NegotiatedByRank)
        plan = self._prepared(negotiated)
        if plan is None:
            self._by_mpi.sum(negotiated)
            return
        plan.follow(negotiated)
        self.transport.sum()

    def _prepared(self, negotiated: NegotiatedByRank) -> Plan | None:
        """A plan by which these gradients can be summed; None: there is no shared memory.
        Collective."""
        structure, counts = negotiated.structure, negotiated.rows.max(axis=0)
        if self.transport.refused:
            self._memory = None
        elif not self._refused and (
            self.transport.plan is None or self.transport.plan.structure is not structure
        ):
            self._place(structure, negotiated.what)
        if self.transport.plan is not None:
            tables = structure.handles[len(structure.dense) :]
            grown = [
                k
                for k, table in enumerate(tables)
                if counts[k] > (self._buffers[table].capacity if table in self._buffers else 0)
            ]
            if grown:
                self._grow(structure, grown, counts, negotiated.what)
        return self.transport.plan

    def _place(self, structure: Structure, what: str) -> None:
        """Moves chunks of a new structure into shared memory, and makes a plan. Collective."""
        self.transport.plan = None
        memory = SharedMemory.of(structure.root)
        used = {chunk for chunk, _, _ in structure.places}
        try:
            self._share(structure, memory, used, what)
        except OSError as error:
            self._refuse(error)
        else:
            self._memory = memory
            segments = {chunk: memory.chunks[chunk].pointers for chunk in used}
            self.transport.plan = Plan(
                structure, segments, self._buffers, self._here.rank, self._here.size
            )

    def _share(self, structure: Structure, memory: SharedMemory, used: set[int], what: str) -> None:
        """Moves the chunks that are not there yet.

        Raises:
            OSError: this is not possible; with the same message on all ranks.
        """
        root = structure.root.c
        capacities = [
            lib.dn_chunk_capacity(root, chunk) for chunk in range(max(used, default=-1) + 1)
        ]
        layout = hashlib.blake2b(
            repr((capacities, structure.places)).encode(), digest_size=8
        ).digest()
        missing: list[int] = []
        members = [*self._here.members]
        is_others = bool(memory.chunks) and memory.members != members

        def sizes(every: list[tuple[bytes, set[int], bool]]) -> list[int]:
            if any(others for *_, others in every):
                raise OSError(
                    "those of this model lie in memory that a trainer over other ranks shares, or"
                    " in another order of them; they return from it when that trainer is gone"
                )
            missing[:] = sorted(set().union(*(chunks for _, chunks, _ in every)))
            if missing and any(theirs != every[0][0] for theirs, *_ in every):
                raise OSError(
                    "the ranks have made other parameters beside these, so that gradients lie in"
                    " different places"
                )
            return [capacities[chunk] * DTYPE.itemsize for chunk in missing]

        here, mine = self._here, (layout, used - memory.chunks.keys(), is_others)
        mapped = map_together(here, self._comm, range(here.size), here.size, mine, sizes, what)
        memory.members = members
        for chunk, (whole, starts) in zip(missing, mapped, strict=True):
            pointers = ffi.new(
                "dn_real *[]", [ffi.cast("dn_real *", whole + start) for start in starts]
            )
            if lib.dn_chunk_move_gradients(root, chunk, pointers[self._here.rank]) != 0:
                raise MemoryError("gradient exchange: out of memory")
            memory.chunks[chunk] = Segments(pointers, pointers[self._here.rank], whole)
        self._here.wait([self._comm.Ibarrier()], what)

    def _grow(
        self, structure: Structure, tables: list[int], counts: NDArray[np.int32], what: str
    ) -> None:
        """Makes buffers for more rows of these tables. Collective."""
        capacities = [min(2 * int(counts[k]), len(structure.tables[k])) for k in tables]
        widths = [int(np.prod(structure.tables[k].shape()[1:])) for k in tables]
        sizes = [
            n * (width * DTYPE.itemsize + np.dtype(np.int32).itemsize)
            for n, width in zip(capacities, widths, strict=True)
        ]
        try:
            mapped = map_together(
                self._here,
                self._comm,
                range(self._here.size),
                self._here.size,
                None,
                lambda _: sizes,
                what,
            )
        except OSError as error:
            self._refuse(error)
            return
        for k, capacity, width, (whole, starts) in zip(
            tables, capacities, widths, mapped, strict=True
        ):
            handle = structure.handles[len(structure.dense) + k]
            self._buffers[handle] = RowBuffer(capacity, width, whole, starts)
            if self.transport.plan:
                self.transport.plan.set_buffer(handle, self._buffers[handle])

    def _refuse(self, error: OSError) -> None:
        """Uses MPI from now on."""
        self._refused, self._memory, self.transport.plan = True, None, None
        say_refused(self._here, error)
