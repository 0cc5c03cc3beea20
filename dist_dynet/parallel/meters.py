"""What each rank has said of its time, and in which update.

It is part of the messages before an update, where all ranks read each message. Where they read a
summary, between hosts, the ranks say it now and then beside the exchange of gradients, which waits
for nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import meter
from ._world import World
from .message import READING

OFTEN = 16
"""Updates from one time to the next where summaries are read; the first ones come sooner."""


class Meters:
    """The latest readings of all ranks.

    Args:
        here: the ranks.
        comm: their communicator.
    """

    def __init__(self, here: World, comm: Any) -> None:
        self._here, self._comm = here, comm
        self.latest: NDArray[Any] = np.zeros(here.size, READING)
        self.update = 0
        """In which update these were read."""
        self.first: NDArray[Any] | None = None
        """Those of the first update."""
        self._coming: tuple[Any, NDArray[Any], NDArray[Any], int] | None = None

    def take(self, readings: NDArray[Any], update: int) -> None:
        """What all have said in this update."""
        self.latest, self.update = readings, update
        if self.first is None:
            self.first = readings.copy()

    def begin(self, update: int) -> None:
        """In this update they have said nothing of it: perhaps they do so now, all or none.
        Collective, as is end()."""
        if update % OFTEN and update & (update - 1):
            return
        reading = meter.read()
        mine = np.array([(reading.nanoseconds, reading.bytes)], READING)
        every = np.empty(self._here.size, READING)
        request = self._comm.Iallgather(mine.view(np.uint8), every.view(np.uint8))
        self._coming = request, mine, every, update

    def end(self, what: str) -> None:
        """Takes what has come since begin()."""
        if self._coming is None:
            return
        request, _, every, update = self._coming
        self._here.wait([request], what)
        self._coming = None
        self.take(every, update)
