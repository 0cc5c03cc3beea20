"""The times that each rank has reported, and in which update.

They are part of the messages before an update where every rank reads every message. Between hosts,
where ranks read a summary, they are sent now and then beside the exchange of gradients, without
waiting.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import meter
from ..processes.world import World
from .message import METER_READING

OFTEN = 16
"""Updates between two reports where summaries are read; the first reports come sooner."""


class Meters:
    """The latest times that all ranks have reported.

    Args:
        here: the ranks.
        comm: their communicator.
    """

    def __init__(self, here: World, comm: Any) -> None:
        self._here, self._comm = here, comm
        self.latest: NDArray[Any] = np.zeros(here.size, METER_READING)
        self.update = 0
        """The update in which `latest` was reported."""
        self.first: NDArray[Any] | None = None
        """The times of the first update."""
        self._coming: tuple[Any, NDArray[Any], NDArray[Any], int] | None = None

    def take(self, readings: NDArray[Any], update: int) -> None:
        """Stores the times that all ranks have reported in this update."""
        self.latest, self.update = readings, update
        if self.first is None:
            self.first = readings.copy()

    def begin(self, update: int) -> None:
        """Starts a report in an update without one, if it is due, alike on all ranks. Collective,
        as is end()."""
        if update % OFTEN and update & (update - 1):
            return
        reading = meter.read()
        mine = np.array([(reading.nanoseconds, reading.bytes)], METER_READING)
        every = np.empty(self._here.size, METER_READING)
        request = self._comm.Iallgather(mine.view(np.uint8), every.view(np.uint8))
        self._coming = request, mine, every, update

    def end(self, what: str) -> None:
        """Waits for the report that begin() has started."""
        if self._coming is None:
            return
        request, _, every, update = self._coming
        self._here.wait([request], what)
        self._coming = None
        self.take(every, update)
