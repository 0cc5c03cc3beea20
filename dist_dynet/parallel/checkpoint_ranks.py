"""What ranks hand to one another for a checkpoint: only rank 0 touches the directory.

It knows bytes and ranks, and not what they mean.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._world import World
from .engines import host
from .memory import reserve

_PIECE = 1 << 23
"""Bytes that are sent at once."""
R = TypeVar("R")


def from_main(
    here: World, comm: Any, action: Callable[[], R], what: str
) -> tuple[R | None, Exception | None]:
    """What rank 0's action returns, or raises, on every rank. Collective."""
    answer: tuple[R | None, Exception | None] = None, None
    if here.rank == 0:
        try:
            answer = action(), None
        except Exception as error:
            answer = None, error
    told = here.exchange_bytes(comm, pickle.dumps(answer) if here.size > 1 else b"", what)
    return answer if here.rank == 0 else pickle.loads(told[0])


def collect(
    here: World, comm: Any, mine: memoryview, room: list[NDArray[np.uint8]], what: str
) -> None:
    """Puts every rank's bytes into rank 0's room for them; no other rank gets any. Collective."""
    pieces = [
        (rank, place[start : start + _PIECE])
        for rank, place in (enumerate(room) if here.rank == 0 else [(0, mine)])
        for start in range(0, len(place), _PIECE)
    ]
    if here.rank == 0:
        room[0][:] = np.frombuffer(mine, np.uint8)
        requests = [comm.Irecv(piece, rank) for rank, piece in pieces if rank]
    else:
        requests = [comm.Isend(piece, rank) for rank, piece in pieces]
    if requests:
        here.wait(requests, what)


class Room:
    """Bytes of one host: its other ranks can map them."""

    def __init__(self, size: int) -> None:
        self._descriptor, self._mapped = reserve(size)
        self.view = memoryview(self._mapped)
        """They are written by the rank that has made them."""
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}" if self._descriptor >= 0 else ""

    def close(self) -> None:
        """Nobody else will map them."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def distribute(here: World, comm: Any, room: Room | None, size: int, what: str) -> memoryview:
    """Rank 0's bytes on every rank: no other needs to see its disk. One copy a host. Collective."""
    if here.size == 1:
        assert room is not None
        room.close()
        return room.view
    hosts = here.gather(comm, host(), what)
    name = hosts[here.rank]
    leader = here.rank if name is None else hosts.index(name)
    if leader == here.rank and room is None:
        room = Room(size)
    try:
        paths = here.gather(comm, room.path if room else "", what)
        if room is None:
            try:
                view = _mapped(paths[leader], size)
            except OSError:  # it may not look there: its own copy, then
                room = Room(size)
        if room is not None:
            view = room.view
        receives = here.rank != 0 and room is not None
        if any(here.gather(comm, receives, what)):
            unused = np.empty(0 if room else min(size, _PIECE), np.uint8)
            for start in range(0, size, _PIECE):
                end = min(start + _PIECE, size)
                piece = unused[: end - start] if room is None else room.view[start:end]
                here.wait([comm.Ibcast(piece, root=0)], what)
        here.gather(comm, None, what)  # all is there, and everybody has mapped it
    finally:
        if room is not None:
            room.close()
    return view


def _mapped(path: str, size: int) -> memoryview:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
