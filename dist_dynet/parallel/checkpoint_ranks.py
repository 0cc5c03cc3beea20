"""What ranks hand to one another for a checkpoint: only rank 0 touches the directory.

It knows bytes and ranks, and not what they mean.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ._world import World

_PIECE = 1 << 26
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


def broadcast(here: World, comm: Any, content: bytes, size: int, what: str) -> bytes:
    """Rank 0's content on every rank: no other needs to see its disk. Collective."""
    buffer = np.frombuffer(content, np.uint8).copy() if here.rank == 0 else np.empty(size, np.uint8)
    for start in range(0, size, _PIECE):
        here.wait([comm.Ibcast(buffer[start : start + _PIECE], root=0)], what)
    return buffer.tobytes()
