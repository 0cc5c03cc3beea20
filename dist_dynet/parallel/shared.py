"""The exchange of gradients in memory that the ranks of one host share.

The gradient chunks of all ranks lie there, so that nothing is copied: each rank adds up its share of the numbers over the segments of all
ranks, in rank order, and writes the sums into every segment. One barrier ends it; none is needed to begin, because the agreement before it has
heard from every rank, and gradients are complete by then. Touched rows of lookup tables each rank copies into a window before that barrier;
after it each rank adds up the windows of all ranks, in rank order. As soon as all places are known, team.py does the same in C. It knows memory
and who may write where.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, NULL, ffi, lib
from ..params.root import Root
from ._world import World
from .agreement import Agreed
from .exchange import MpiExchange, Rows
from .memory import map_together, say_refused
from .report import Report
from .structure import Structure
from .team import Dense, Team, Window

# ---- memory ----------------------------------------------------------------------------------------------------------------------------


@dataclass
class Segments:
    """One chunk's gradients on all ranks."""

    pointers: Any
    """dn_real *[ranks]"""
    mine: Any
    """This rank's."""
    mapping: Any
    """What keeps the memory mapped."""


class SharedMemory:
    """Where the gradient chunks of one root lie, as long as this object lives; then, and in a forked child, they return to private memory."""

    def __init__(self, root: Root) -> None:
        self.chunks: dict[int, Segments] = {}
        self._finalizer = weakref.finalize(self, _bring_home, root.c, self.chunks)
        self._finalizer.atexit = False  # at exit the mapping just goes with the process

    @staticmethod
    def of(root: Root) -> SharedMemory:
        """The memory of this root: one, however many trainers it has."""
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
"""Chunks that could not be moved because their root was in use; they stay mapped until they can be."""


def _bring_home(root: Any, chunks: dict[int, Segments]) -> None:
    for chunk, segments in list(chunks.items()):
        if lib.dn_chunk_gradients(root, chunk) != segments.mine or lib.dn_chunk_move_gradients(root, chunk, NULL) == 0:
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
    """What a forked child does to its gradients is its own business."""
    for memory in list(_memories.values()):
        memory.bring_home()
    _memories.clear()
    _bring_stuck_home()


os.register_at_fork(after_in_child=_in_child)


class RowWindow:
    """Where every rank puts its touched rows of one table, for the others to read until the next agreement."""

    def __init__(self, capacity: int, width: int, whole: Any, starts: list[int]) -> None:
        self.capacity = capacity
        self._gradients, self._ids = [], []
        for start in starts:
            rows = np.frombuffer(ffi.buffer(whole), DTYPE, capacity * width, start)
            self._gradients.append(rows.reshape(capacity, width))
            self._ids.append(np.frombuffer(ffi.buffer(whole), np.int32, capacity, start + rows.nbytes))

    def put(self, rank: int, ids: NDArray[np.int32], gradients: NDArray[Any]) -> None:
        """Copies the rows of this rank."""
        self._ids[rank][: len(ids)] = ids
        self._gradients[rank][: len(ids)] = gradients

    def get(self, rank: int, count: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Where that rank's rows are, as soon as it has put them there."""
        return self._ids[rank][:count], self._gradients[rank][:count]

    def in_c(self) -> Window:
        """The same memory for C."""
        return Window(self.capacity, _pointers("dn_real *", self._gradients), _pointers("int *", self._ids))


def _pointers(kind: str, arrays: list[NDArray[Any]]) -> Any:
    return ffi.new(f"{kind}[]", [ffi.from_buffer(kind, array) for array in arrays])


# ---- the engine ------------------------------------------------------------------------------------------------------------------------


class SharedExchange(MpiExchange):
    """The engine for ranks of one host. Where there is no room in shared memory it goes on as MpiExchange, and rank 0 says so on stderr."""

    def __init__(self, here: World, comm: Any) -> None:
        super().__init__(here, comm)
        self._memory: SharedMemory | None = None
        self._placed: Structure | None = None
        self._refused = False
        self._dense: Dense | None = None
        self._windows: dict[Any, RowWindow] = {}
        self._team: Team | None = None
        self._learnt: tuple[Any, ...] = ()  # what the team knows
        self.quick = 0
        """How many updates were exchanged in one call of C."""

    def tell(self, report: Report, name: Callable[[], str]) -> NDArray[Any] | None:
        """As Messenger.tell."""
        if not self._refused and (self._team is None or self._team.most < report.form.dtype.itemsize):
            self._team, self._learnt = None, ()
            try:
                self._team = Team(self._here, self._comm, report, name())
            except OSError as error:
                self._refuse(error)
        if self._team is None:
            return super().tell(report, name)
        every = self._team.tell(report, name)
        self.quick += every is None
        return every

    def sum(self, agreed: Agreed, what: str) -> None:
        """As Exchange.sum."""
        super().sum(agreed, what)
        if self._dense is None or self._team is None:
            return
        windows = [self._windows.get(table) for table in agreed.structure.handles[len(agreed.structure.dense) :]]
        learnt = (agreed.structure, *windows)
        if learnt != self._learnt:
            self._team.learn(agreed.structure, self._dense, [window.in_c() if window else None for window in windows])
            self._learnt = learnt

    def _send_dense(self, agreed: Agreed, what: str) -> list[Any]:
        structure = agreed.structure
        if structure is not self._placed and not self._refused:
            self._place(structure, what)
        if self._dense is None:
            return super()._send_dense(agreed, what)
        used = np.logical_or.reduce(agreed.filled)
        for handle in self._filled_elsewhere(agreed, used):
            lib.dn_param_mark_filled(handle)
        self._dense.sum(self._here.rank, agreed.filled, agreed.factors)
        return []  # the barrier comes when the rows have been put out, too

    def _place(self, structure: Structure, what: str) -> None:
        """Moves the chunks of a new structure into shared memory, those that are not there. Collective."""
        self._placed, self._dense, self._learnt = structure, None, ()
        if self._team:
            self._team.forget()
        memory = SharedMemory.of(structure.root)
        used = {chunk for chunk, _, _ in structure.places}
        try:
            self._share(structure, memory, used, what)
        except OSError as error:
            self._refuse(error)
        else:
            self._memory = memory
            self._dense = Dense(structure, {chunk: memory.chunks[chunk].pointers for chunk in used})

    def _share(self, structure: Structure, memory: SharedMemory, used: set[int], what: str) -> None:
        """Raises OSError, with the same words on all ranks, where that is not possible."""
        root = structure.root.c
        capacities = [lib.dn_chunk_capacity(root, chunk) for chunk in range(max(used, default=-1) + 1)]
        layout = hashlib.blake2b(repr((capacities, structure.places)).encode(), digest_size=8).digest()
        missing: list[int] = []

        def sizes(every: list[tuple[bytes, set[int]]]) -> list[int]:
            missing[:] = sorted(set().union(*(chunks for _, chunks in every)))
            if missing and any(theirs != every[0][0] for theirs, _ in every):
                raise OSError("the ranks have made other parameters beside these, so that gradients lie in different places")
            return [capacities[chunk] * DTYPE.itemsize for chunk in missing]

        here, mine = self._here, (layout, used - memory.chunks.keys())
        mapped = map_together(here, self._comm, range(here.size), here.size, mine, sizes, what)
        for chunk, (whole, starts) in zip(missing, mapped, strict=True):
            pointers = ffi.new("dn_real *[]", [ffi.cast("dn_real *", whole + start) for start in starts])
            if lib.dn_chunk_move_gradients(root, chunk, pointers[self._here.rank]) != 0:
                raise MemoryError("gradient exchange: out of memory")
            memory.chunks[chunk] = Segments(pointers, pointers[self._here.rank], whole)
        self._here.wait([self._comm.Ibarrier()], what)

    # ---- lookup tables ---------------------------------------------------------------------------------------------------------------

    def _send_rows(self, agreed: Agreed, requests: list[Any], what: str) -> list[Rows]:
        """Puts this rank's rows where the others read them. Then the barrier: behind it dense sums and rows are complete."""
        if self._memory is None:
            return super()._send_rows(agreed, requests, what)
        structure, first = agreed.structure, len(agreed.structure.dense)
        counts = agreed.rows.max(axis=0)
        grown = [k for k, count in enumerate(counts.tolist()) if count > self._capacity(structure.handles[first + k])]
        if grown and not self._grow(structure, grown, counts, what):
            requests.append(self._comm.Ibarrier())
            return super()._send_rows(agreed, requests, what)
        tables = []
        for k, table in enumerate(structure.tables):
            if counts[k]:
                handle = structure.handles[first + k]
                window = self._windows[handle]
                window.put(self._here.rank, table.touched_rows(), table.touched_gradients())
                tables.append(Rows(table, handle, [window.get(r, n) for r, n in enumerate(agreed.rows[:, k].tolist())]))
        requests.append(self._comm.Ibarrier())
        return tables

    def _capacity(self, table: Any) -> int:
        return self._windows[table].capacity if table in self._windows else 0

    def _grow(self, structure: Structure, tables: list[int], counts: NDArray[np.int32], what: str) -> bool:
        """Windows for more rows of these tables; False: there is no room, and rows go by MPI from now on. Collective."""
        capacities = [min(2 * int(counts[k]), len(structure.tables[k])) for k in tables]
        widths = [int(np.prod(structure.tables[k].shape()[1:])) for k in tables]
        sizes = [n * (width * DTYPE.itemsize + np.dtype(np.int32).itemsize) for n, width in zip(capacities, widths, strict=True)]
        try:
            mapped = map_together(self._here, self._comm, range(self._here.size), self._here.size, None, lambda _: sizes, what)
        except OSError as error:
            self._refuse(error)
            return False
        for k, capacity, width, (whole, starts) in zip(tables, capacities, widths, mapped, strict=True):
            self._windows[structure.handles[len(structure.dense) + k]] = RowWindow(capacity, width, whole, starts)
        return True

    def _refuse(self, error: OSError) -> None:
        """MPI from now on."""
        self._refused, self._memory, self._dense = True, None, None
        if self._team:
            self._team.forget()
        say_refused(self._here, error)
