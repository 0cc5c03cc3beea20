"""Updates in memory that the ranks of one host share.

The gradient chunks of all ranks are in this memory, so that nothing is copied: each rank owns
pieces of the parameters and rows of the tables, and sums these over the segments of all ranks, in
rank order. No barrier is needed to begin, because the negotiation before it has heard from every
rank, and gradients are complete by then. Each rank copies touched rows of lookup tables into a
buffer before it sends its message or, where buffers must grow, before a barrier for that purpose.
Behind a barrier each rank updates what it owns: the moments of the trainer, of which the host has
one copy, and the values, in a shared buffer. Behind another one each copies the new values into its
own. C does this by a plan (plan.py), which is made here: this module knows memory, and where the
ranks write.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, NULL, ffi, lib
from ...params.root import Root
from ...trainers import Trainer
from ...trainers.hooks import Hooks
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
_stuck_moments: list[tuple[Any, list[Any]]] = []
"""The same of trainers."""


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
    trainers = _stuck_moments[:]
    _stuck_moments.clear()
    for trainer, mappings in trainers:
        _bring_moments_home(trainer, mappings)


def _in_child() -> None:
    """A forked child gets private gradients."""
    for memory in list(_memories.values()):
        memory.bring_home()
    _memories.clear()
    for moments in list(_moments):
        moments.bring_home()
    _bring_stuck_home()


os.register_at_fork(after_in_child=_in_child)


class SharedMoments:
    """A trainer's moments, of which the ranks of the host have one copy, and a buffer for values
    that their owners update. When this object dies, and in a forked child, the moments return to
    private memory."""

    def __init__(self, trainer: Trainer) -> None:
        self.c = Hooks(trainer).c
        self.copies = 1 + Hooks(trainer).moments
        """Elements of shared memory for each element of values."""
        self.shared: set[Any] = set()  # chunks and handles of tables
        self.mappings: list[Any] = []
        self.squares: tuple[Any, Any] = NULL, NULL  # of pieces, of rows
        self._finalizer = weakref.finalize(self, _bring_moments_home, self.c, self.mappings)
        self._finalizer.atexit = False
        _moments.add(self)

    def bring_home(self) -> None:
        """Moves the moments into private memory."""
        self._finalizer()


_moments: weakref.WeakSet[SharedMoments] = weakref.WeakSet()


def _bring_moments_home(trainer: Any, mappings: list[Any]) -> None:
    if mappings and lib.dn_trainer_unshare(trainer):
        _stuck_moments.append((trainer, list(mappings)))
    mappings.clear()


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
        self._moments: SharedMoments | None = None

    def share_moments(self, trainer: Trainer) -> None:
        """Shares the moments of this trainer, which makes all updates, from the first sum on."""
        self._moments = SharedMoments(trainer)

    def begin_update(self) -> None:
        """After sum(): up to end_update() the trainer updates what this rank owns."""
        if self.transport.plan is not None and self._moments is not None:
            lib.dn_trainer_open(self._moments.c, self.transport.plan.c, 0)

    def end_update(self, params: Sequence[Any] | None) -> None:
        """Takes the values of these parameters of C, or of all, that their owners have updated.
        Collective."""
        if self.transport.plan is not None and self._moments is not None:
            n, chosen = (-1, NULL) if params is None else (len(params), params)
            self.transport.close(self._moments.c, n, chosen)

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
            self._drop()
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
            squares = self._share_moments(structure, used, what)
        except OSError as error:
            self._refuse(error)
        else:
            self._memory = memory
            segments = {chunk: memory.chunks[chunk].pointers for chunk in used}
            self.transport.plan = Plan(
                structure, segments, squares, self._buffers, self._here.rank, self._here.size
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

    def _share_moments(self, structure: Structure, used: set[int], what: str) -> tuple[Any, Any]:
        """Moves the moments that are not there yet. Returns memory for sums of squares. Collective.

        Raises:
            OSError: this is not possible; with the same message on all ranks.
        """
        moments, here, root = self._moments, self._here, structure.root.c
        if moments is None:
            return NULL, NULL
        places = zip(structure.places, structure.handles, strict=False)
        of_chunk = {chunk: handle for (chunk, _, _), handle in places}
        blocks = [
            (chunk, of_chunk[chunk], lib.dn_chunk_capacity(root, chunk)) for chunk in sorted(used)
        ] + [(h, h, lib.dn_param_size(h)) for h in structure.handles[len(structure.dense) :]]
        missing = [block for block in blocks if block[0] not in moments.shared]
        sizes = [n * moments.copies * DTYPE.itemsize for *_, n in missing] + [
            max(lib.dn_store_pieces(root), 1) * DTYPE.itemsize,
            max(lib.dn_store_row_squares(root, here.size), 1),
        ]
        ranks = range(here.size)
        mapped = map_together(here, self._comm, ranks, here.size, None, lambda _: sizes, what)
        starts_at = [whole + starts[0] for whole, starts in mapped]
        for (key, handle, _), place in zip(missing, starts_at, strict=False):
            lib.dn_trainer_share(moments.c, handle, ffi.cast("dn_real *", place))
            moments.shared.add(key)
        lib.dn_trainer_share(moments.c, NULL, NULL)
        moments.mappings.append(mapped[-1][0])
        here.wait([self._comm.Ibarrier()], what)
        moments.squares = ffi.cast("dn_real *", starts_at[-2]), starts_at[-1]
        return moments.squares

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

    def _drop(self) -> None:
        """Returns what this trainer shares to private memory."""
        self._memory = self.transport.plan = None
        if self._moments is not None:
            self._moments.bring_home()
            self._moments = None

    def _refuse(self, error: OSError) -> None:
        """Uses MPI from now on."""
        self._refused = True
        self._drop()
        say_refused(self._here, error)
