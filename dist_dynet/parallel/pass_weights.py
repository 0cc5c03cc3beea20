"""What ranks tell one another of each pass of an accumulation: how much its gradients count.

A rank that knows the sum of all weights, from shard(), tells its own and goes on. One that does not
waits for the others. Both send the same message, so that they meet whichever of them a pass has,
and at the exchange it is known whether what was taken for the sum was it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._rank_names import format_ranks
from ._world import World
from .message import Flag

_MESSAGE = np.dtype([("weight", np.float64), ("flags", np.int64)])


class _Told(NamedTuple):
    request: Any
    every: NDArray[Any]
    n: float
    total: float
    what: str


_under_way: list[tuple[Any, NDArray[Any], NDArray[Any]]] = []
"""Requests and what they read and write, which must stay until they are complete, also where an
accumulation has no end."""


class PassWeights:
    """Of the passes since the last exchange. They have a communicator of their own, since what is
    told may be under way when gradients are exchanged.

    Args:
        here: the ranks.
    """

    def __init__(self, here: World) -> None:
        self._here, self._comm = here, here.lend(self)
        self._told: list[_Told] = []

    def tell(self, n: float, total: float, flags: int, what: str) -> None:
        """Sends this rank's weight. `total` is what it takes for the sum. Waits for nobody."""
        self._told.append(_Told(*self._send(n, flags), n, total, what))

    def ask(self, n: float, flags: int, what: str) -> NDArray[Any]:
        """The weights and flags of all ranks."""
        request, every = self._send(n, flags | Flag.ASKS)
        self._here.wait([request], what)
        return every

    def problem(self) -> str:
        """Why sums that were taken for known were others, in a message. Collective."""
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
    """What weights mean that do not have the sum that shard() has said, of which these ranks took
    none for known."""
    if not asking:
        return (
            "batches are of unlike steps of shard(). Let all ranks use the same steps, and leave"
            " loops at the same step."
        )
    return (
        f"batches count otherwise than shard() has said on {format_ranks(asking)} alone. Set"
        " batch.n, or call update(n), on all ranks alike."
    )
