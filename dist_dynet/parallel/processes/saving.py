"""Lets rank 0 write the files of all ranks, so that user code needs no `if rank == 0`.

On other ranks save() returns when rank 0's file is in place. Rank 0 waits for nobody, it only sends
notes: calling save() on rank 0 alone is harmless, and calling it on another rank alone ends with a
warning. This module knows nothing about file formats.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._file_names import FileName
from ..._manner import warn
from .mpi import TIMEOUT
from .world import World

_PATIENCE = 10.0
"""Seconds that another rank waits for rank 0 to begin a save."""

_Note = tuple[str | None, list[str]]
"""What has failed, and the names of the files."""
_Place = tuple[int, int]
"""Number of collective operations so far, and number of saves since the last one: equal on all
ranks that call save(). It identifies notes of saves that rank 0 made alone, which are discarded."""


class RankZeroWrites:
    """The policy of dist_dynet.io.files with several ranks."""

    def __init__(self, world: World) -> None:
        self._world, self._comm = world, world.duplicate()
        self._at: _Place = (0, 0)
        self._has_warned = self._says_names = False
        self._paths: list[str] = []
        self._notes: dict[tuple[str, _Place], _Note] = {}
        self._sent: list[Any] = []

    def writes(self, paths: Sequence[FileName]) -> bool:
        """Whether this rank writes these. Notifies the others that a save has begun."""
        self._paths = [str(path) for path in paths]
        collective, saves = self._at
        now = self._world.collectives
        self._at = (now, saves + 1 if collective == now else 1)
        if self._world.rank == 0:
            self._tell("begun", None)
        return self._world.rank == 0

    def keeps_gradients(self) -> bool:
        """No: each rank holds only its part of them. Rank 0 warns about it once."""
        if self._world.rank == 0 and not self._has_warned:
            self._has_warned = True
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
            self._tell("done", None if error is None else str(error) or type(error).__name__)
        elif error is None:
            self._follow()

    def _follow(self) -> None:
        self._notes = {key: note for key, note in self._notes.items() if key[1] >= self._at}
        if not self._wait_for("begun", _PATIENCE) or not self._wait_for("done", TIMEOUT):
            warn(
                f"{self._world.name} save: rank 0 did not save at this place of the program, so"
                " nothing was written. Call save() on all ranks."
            )
            return
        failure, paths = self._notes.pop(("done", self._at))
        if failure is not None:
            raise RuntimeError(f"{self._world.name} rank 0 reports: {failure}")
        for written, here in zip(paths, self._paths, strict=False):
            if written != here and not (self._says_names or _is_file(here)):
                self._says_names = True
                warn(
                    f"{self._world.name} save: rank 0 writes for all, to '{written}'; nothing was"
                    f" written to '{here}'. Give save() one name on all ranks, in a folder that all"
                    " of them see."
                )

    def _tell(self, kind: str, text: str | None) -> None:
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent += [
            self._comm.isend((kind, self._at, (text, self._paths)), rank)
            for rank in range(1, self._world.size)
        ]

    def _wait_for(self, kind: str, limit: float) -> bool:
        end = time.monotonic() + limit
        while (kind, self._at) not in self._notes:
            if self._comm.iprobe(source=0):
                kind_heard, place, note = self._comm.recv(source=0)
                self._notes[kind_heard, place] = note
            elif time.monotonic() > end:
                return False
            else:
                time.sleep(1e-3)
        return True


def _is_file(path: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(path).exists()
    return False


def install(world: World) -> None:
    """Lets the first rank of this world write the files of all its ranks. Collective."""
    from ...io import files

    files.set_policy(RankZeroWrites(world) if world.size > 1 else files.OneProcess())
