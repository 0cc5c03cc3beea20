"""Lets rank 0 write the files of all ranks, so that user code needs no `if rank == 0`.

On other ranks save() returns when rank 0's file is in place. Rank 0 waits for nobody, it only sends
notes: calling save() on rank 0 alone is harmless, and calling it on another rank alone ends with a
warning. This module knows nothing about file formats.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..._file_names import FileName
from ..._manner import manner, warn
from .mpi import TIMEOUT
from .world import World

_PATIENCE = 10.0
"""Seconds that another rank waits for rank 0 to begin a save."""


class _Note(NamedTuple):
    """What rank 0 sends when it begins a save (`failure` is None) and when it has ended it."""

    save: tuple[int, int]  # see RankZeroWrites._save
    failure: str | None
    paths: list[str]


class RankZeroWrites:
    """The policy of dist_dynet.io.files with several ranks."""

    def __init__(self, world: World) -> None:
        self._world, self._comm = world, world.duplicate()
        self._save = (0, 0)
        """Number of collective operations so far, and of saves since the last one: equal on all
        ranks that call save(). Notes of saves that rank 0 made alone are discarded."""
        self._paths: list[str] = []
        self._next: _Note | None = None  # received, and not yet used
        self._sent: list[Any] = []

    def writes(self, paths: Sequence[FileName]) -> bool:
        """Whether this rank writes these. Notifies the others that a save has begun."""
        (before, saves), now = self._save, self._world.collectives
        self._save, self._paths = (now, saves + 1 if before == now else 1), [*map(str, paths)]
        if self._world.rank == 0:
            self._send(None)
        return self._world.rank == 0

    def keeps_gradients(self) -> bool:
        """No: each rank holds only its part of them. Rank 0 warns about it once."""
        if self._world.rank == 0 and manner.is_first("save: gradients"):
            warn(
                f"{self._world.name} save: gradients that wait for update() are each rank's own"
                " part; they are left out of the file. Save after update(), or after"
                " reset_gradients()."
            )
        return False

    def finished(self, error: BaseException | None) -> None:
        """Ends a save. When it returns, on any rank, the file is in place.

        Raises:
            RuntimeError: rank 0 could not write it.
        """
        if self._world.rank == 0:
            self._send("" if error is None else str(error) or type(error).__name__)
        elif error is None:
            self._follow()

    def _follow(self) -> None:
        begun = self._receive(_PATIENCE)
        note = begun and self._receive(TIMEOUT)
        if note is None:
            warn(
                f"{self._world.name} save: rank 0 did not save at this place of the program, so"
                " nothing was written. Call save() on all ranks."
            )
        elif note.failure:
            raise RuntimeError(f"{self._world.name} rank 0 reports: {note.failure}")
        else:
            for written, here in zip(note.paths, self._paths, strict=False):
                there = written == here or os.path.exists(here)  # noqa: PTH110 - never raises
                if not there and manner.is_first("save: names"):
                    warn(
                        f"{self._world.name} save: rank 0 writes for all, to '{written}'; nothing"
                        f" was written to '{here}'. Give save() one name on all ranks, in a folder"
                        " that all of them see."
                    )

    def _send(self, failure: str | None) -> None:
        self._sent = [request for request in self._sent if not request.Test()]
        note = _Note(self._save, failure, self._paths)
        self._sent += [self._comm.isend(note, rank) for rank in range(1, self._world.size)]

    def _receive(self, limit: float) -> _Note | None:
        """Rank 0's next note about this save; None if none comes in time."""
        end = time.monotonic() + limit
        while True:
            if self._next is None and self._comm.iprobe(source=0):
                self._next = self._comm.recv(source=0)
            note = self._next
            if note is not None and note.save <= self._save:
                self._next = None
                if note.save == self._save:
                    return note
            elif note is not None or time.monotonic() > end:
                return None
            else:
                time.sleep(1e-3)


def install(world: World) -> None:
    """Lets the first rank of this world write the files of all its ranks. Collective."""
    from ...io import files

    files.set_policy(RankZeroWrites(world) if world.size > 1 else files.OneProcess())
