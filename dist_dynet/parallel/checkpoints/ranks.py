"""Moves the bytes of checkpoints between ranks: only rank 0 touches the directory.

It knows bytes and ranks, and nothing of what they mean.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..._deferred_signals import DeferSignals
from ..processes.memory import Lent, open_lent, reserve
from ..processes.world import World

_PIECE = 1 << 23
"""Bytes per message."""
R = TypeVar("R")


def from_main(
    here: World, comm: Any, action: Callable[[], R], what: str
) -> tuple[R | None, Exception | None]:
    """What rank 0's action returns or raises, on every rank. Collective."""
    answer: tuple[R | None, Exception | None] = None, None
    if here.rank == 0:
        try:
            answer = action(), None
        except Exception as error:
            answer = None, error
    told = here.exchange_bytes(comm, pickle.dumps(answer) if here.size > 1 else b"", what)
    return answer if here.rank == 0 else pickle.loads(told[0])


def collect(
    here: World,
    comm: Any,
    mine: memoryview,
    sizes: Sequence[int],
    buffers: list[NDArray[np.uint8]],
    what: str,
) -> None:
    """Copies every rank's bytes into rank 0's buffer for them; no other rank keeps any. The first
    rank of a host forwards what its ranks have, several of them in one message. Collective.

    Args:
        here: the ranks.
        comm: their communicator.
        mine: this rank's bytes.
        sizes: how many each rank has.
        buffers: on rank 0.
        what: the name of the collective operation.
    """
    me = here.rank
    if me == 0:
        buffers[0][:] = np.frombuffer(mine, np.uint8)
    for ranks in here.host_ranks if here.size > 1 else ():
        first = ranks[0]
        # the bytes of rank 0's host need no forwarding
        pieces = _pieces(ranks if first else ranks[1:], sizes)
        parts = [part for piece in pieces for part in piece]
        if me == first == 0:
            here.wait([comm.Irecv(buffers[rank][i:j], rank) for rank, i, j in parts], what)
        elif me == 0:
            for piece in pieces:
                _receive(here, comm, first, piece, buffers, what)
        elif me == first:
            for piece in pieces:
                _forward(here, comm, mine, piece, what)
        elif me in ranks:
            here.wait([comm.Isend(mine[i:j], first) for rank, i, j in parts if rank == me], what)


_Piece = list[tuple[int, int, int]]
"""Parts of one message: (rank, begin, end) in the bytes of a rank."""


def _receive(
    here: World,
    comm: Any,
    first: int,
    piece: _Piece,
    buffers: list[NDArray[np.uint8]],
    what: str,
) -> None:
    """Receives a message of the first rank of a host, and distributes it over the buffers."""
    joined, places = _message(piece)
    here.wait([comm.Irecv(joined, first)], what)
    for (rank, start, end), place in zip(piece, places, strict=True):
        buffers[rank][start:end] = place


def _forward(here: World, comm: Any, mine: memoryview, piece: _Piece, what: str) -> None:
    """Receives the parts of a message from the ranks of this host, and sends it to rank 0."""
    joined, places = _message(piece)
    requests = []
    for (rank, start, end), place in zip(piece, places, strict=True):
        if rank == here.rank:
            place[:] = np.frombuffer(mine[start:end], np.uint8)
        else:
            requests.append(comm.Irecv(place, rank))
    here.wait(requests, what)
    here.wait([comm.Isend(joined, 0)], what)


def _pieces(ranks: Sequence[int], sizes: Sequence[int]) -> list[_Piece]:
    """The bytes of these ranks in order, divided into messages of limited size."""
    pieces: list[_Piece] = []
    left = 0
    for rank in ranks:
        start = 0
        while start < sizes[rank]:
            if not left:
                pieces.append([])
                left = _PIECE
            end = min(start + left, sizes[rank])
            pieces[-1].append((rank, start, end))
            left -= end - start
            start = end
    return pieces


def _message(piece: _Piece) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """A buffer for a message, and the view of it for each part."""
    ends = np.cumsum([end - start for _, start, end in piece]).tolist()
    joined = np.empty(ends[-1], np.uint8)
    return joined, [
        joined[to - (end - start) : to] for (_, start, end), to in zip(piece, ends, strict=True)
    ]


class HostBuffer:
    """A buffer that the other ranks of a host can map."""

    def __init__(self, size: int) -> None:
        self._file: BinaryIO | None = None
        with DeferSignals():
            descriptor, mapped = reserve(size)
            if descriptor >= 0:  # as a file it ends with the buffer, wherever Ctrl-C comes
                self._file = open(descriptor, "rb", 0)  # noqa: PTH123, SIM115
        self.view = memoryview(mapped)
        """The bytes; only the rank that made the buffer writes them."""
        self.lent = Lent.of(descriptor) if descriptor >= 0 else None

    def close(self) -> None:
        """No other rank will map the buffer from now on."""
        if self._file is not None:
            self._file.close()
        self._file = None


def distribute(
    here: World, comm: Any, buffer: HostBuffer | None, size: int, what: str
) -> memoryview:
    """Rank 0's bytes on every rank, with one copy per host: no other rank needs access to its disk.
    Collective."""
    if here.size == 1:
        assert buffer is not None
        buffer.close()
        return buffer.view
    first = next(ranks[0] for ranks in here.host_ranks if here.rank in ranks)
    if first == here.rank and buffer is None:
        buffer = HostBuffer(size)
    try:
        lent = here.gather(comm, None if buffer is None else buffer.lent, what)[first]
        if buffer is None:
            try:
                view = _mapped(lent, size)
            except OSError:  # no permission: it makes its own copy
                buffer = HostBuffer(size)
        if buffer is not None:
            view = buffer.view
        receives = here.rank != 0 and buffer is not None
        if any(here.gather(comm, receives, what)):
            unused = np.empty(0 if buffer else min(size, _PIECE), np.uint8)
            for start in range(0, size, _PIECE):
                end = min(start + _PIECE, size)
                piece = unused[: end - start] if buffer is None else buffer.view[start:end]
                here.wait([comm.Ibcast(piece, root=0)], what)
        here.gather(comm, None, what)  # everything has arrived, and all ranks have mapped it
    finally:
        if buffer is not None:
            buffer.close()
    return view


def _mapped(lent: Lent | None, size: int) -> memoryview:
    descriptor = open_lent(lent, os.O_RDONLY)
    try:
        return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
