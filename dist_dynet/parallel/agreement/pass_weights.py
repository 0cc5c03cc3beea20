"""What ranks send one another at each pass of an accumulation: how much its gradients count.

A rank that knows the sum of all weights, from shard(), sends its own and goes on. One that does not
waits for the others. Both send the same message, so that any mixture works, and at the exchange it
is checked whether the assumed sum was right.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..processes.rank_names import format_ranks
from ..processes.world import World
from .message import Flag

_MESSAGE = np.dtype([("weight", np.float64), ("flags", np.int64)])


class _Told(NamedTuple):
    request: Any
    every: NDArray[Any]
    n: float
    total: float
    what: str


_under_way: list[tuple[Any, NDArray[Any], NDArray[Any]]] = []
"""Requests and their buffers, which must stay until the requests are complete, even if an
accumulation never ends."""


class PassWeights:
    """The weights of the passes since the last exchange. They have their own communicator, since
    messages may still be under way when gradients are exchanged.

    Args:
        here: the ranks.
    """

    def __init__(self, here: World) -> None:
        self._here, self._comm = here, here.lend(self)
        self._told: list[_Told] = []

    def tell(self, n: float, total: float, flags: int, what: str) -> None:
        """Sends this rank's weight, without waiting. `total` is the sum that it assumes."""
        self._told.append(_Told(*self._send(n, flags), n, total, what))

    def ask(self, n: float, flags: int, what: str) -> NDArray[Any]:
        """The weights and flags of all ranks."""
        request, every = self._send(n, flags | Flag.ASKS)
        self._here.wait([request], what)
        return every

    def problem(self) -> str:
        """Why assumed sums were wrong, as a message; empty if they were right. Collective."""
        told, self._told = self._told, []
        words = ""
        for request, every, n, total, what in told:
            self._here.wait([request], what)
            is_sum = math.isclose(sum(every["weight"].tolist()), total, rel_tol=1e-9)
            is_known = not (every["flags"] & Flag.UNKNOWN).any()
            if not words and n and is_known and not is_sum:
                asking = np.flatnonzero(every["flags"] & Flag.ASKS).tolist()
                words = _otherwise([self._here.members[rank] for rank in asking])
        return words

    def _send(self, n: float, flags: int) -> tuple[Any, NDArray[Any]]:
        mine = np.array([(n, flags)], _MESSAGE)
        every = np.empty(self._here.size, _MESSAGE)
        request = self._comm.Iallgather(mine.view(np.uint8), every.view(np.uint8))
        _under_way[:] = [held for held in _under_way if not held[0].Test()]
        _under_way.append((request, mine, every))
        return request, every


def _otherwise(asking: list[int]) -> str:
    """Explains weights whose sum is not that of shard(); these ranks did not assume the sum."""
    if not asking:
        return (
            "batches are of unlike steps of shard(). Let all ranks use the same steps, and leave"
            " loops at the same step."
        )
    return (
        f"batches count otherwise than shard() has said on {format_ranks(asking)} alone. Set"
        " batch.n, or call update(n), on all ranks alike."
    )
