"""The files of checkpoints, which only rank 0 writes and reads, and the ways of their bytes between
the ranks.

It knows directories, bytes and ranks, and nothing of what a checkpoint holds.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._file_names import FileName, file_path
from ..io.checksummed import DamagedError, check, pieces
from ..io.files import OneProcess, atomic_write
from ..params.dims import size
from .processes.failures import report
from .processes.world import World

_NAME = re.compile(r"checkpoint-(\d{6,})-step-(\d+)\.safetensors")
_PIECE = 1 << 23
"""Bytes per message: MPI counts to 2^31, and a missing rank is noticed between two messages."""
R = TypeVar("R")
Bytes = NDArray[np.uint8]


class CheckpointFiles:
    """The last `keep` files in one directory, which belongs to one run."""

    def __init__(self, directory: FileName, keep: int) -> None:
        self._directory = file_path(directory, "Checkpointer").absolute()  # chdir() may follow
        self._keep = size(keep, "Checkpointer", " for keep")
        self._has_written = False
        if keep < 1:
            raise ValueError(f"Checkpointer: keep must be 1 or more; got {keep}.")

    def write(self, tree: Mapping[str, Any], step: int) -> None:
        """Writes one more file, of so many updates, and removes those that are too old.

        Raises:
            OSError: it cannot be written to the end. The earlier files are whole.
            TypeError: the tree holds something that cannot be saved.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self._has_written:
            self._has_written = True
            _remove(self._directory.glob(".checkpoint-*.tmp"))  # of saves that were killed
        files = self._all()
        number = files[-1][0] + 1 if files else 1
        path = self._directory / f"checkpoint-{number:06d}-step-{step}.safetensors"
        try:
            with atomic_write(path, policy=OneProcess()) as file:
                file.writelines(pieces(tree))
        except RuntimeError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise OSError(
                cause.errno or errno.EIO,
                f"checkpoint: the file could not be written: {cause.strerror}. The earlier"
                " checkpoints are whole. Make room, or save elsewhere",
                str(path),
            ) from cause
        _remove(old for _, old in files[: len(files) + 1 - self._keep])

    def newest(self) -> tuple[str, Bytes] | None:
        """Name and bytes of the newest file that is whole; None if there are no files.

        Raises:
            RuntimeError: there are files, and all are damaged.
            OSError: the directory cannot be read.
        """
        files = self._all()
        for _, path in reversed(files):
            try:
                content = np.fromfile(path, np.uint8)
                check(content.data)
                return path.name, content
            except OSError as error:
                report(f"checkpoint: passes over '{path}', which cannot be read: {error.strerror}.")
            except DamagedError as error:
                report(f"checkpoint: passes over '{path}', which is damaged: {error}.")
        if files:
            raise RuntimeError(
                f"checkpoint: none of the {len(files)} files in '{self._directory}' is whole."
                " Remove them to start anew."
            )
        return None

    def _all(self) -> list[tuple[int, Path]]:
        """Number and path of all files named like checkpoints, the oldest first."""
        try:
            named = [(_NAME.fullmatch(path.name), path) for path in self._directory.iterdir()]
        except FileNotFoundError:
            return []
        return sorted((int(match[1]), path) for match, path in named if match)


def _remove(paths: Iterator[Path]) -> None:
    with suppress(OSError):  # the next save tries again
        for path in paths:
            path.unlink(missing_ok=True)


def on_rank_0(
    here: World, comm: Any, action: Callable[[], R], what: str
) -> tuple[R | None, Exception | None]:
    """What rank 0's action returns or raises, on every rank. Collective."""
    answer: tuple[R | None, Exception | None] = None, None
    if here.rank == 0:
        try:
            answer = action(), None
        except Exception as error:
            answer = None, error
    if here.size > 1:
        received = here.exchange_bytes(comm, pickle.dumps(answer), what)
        answer = answer if here.rank == 0 else pickle.loads(received[0])
    return answer


def gather_bytes(here: World, comm: Any, mine: bytes, what: str) -> list[Bytes]:
    """The bytes of all ranks on rank 0; an empty list on the others. Collective."""
    own = np.frombuffer(mine, np.uint8)
    if here.size == 1:
        return [own]
    sizes = here.gather(comm, len(mine), what)
    if here.rank:
        here.wait([comm.Isend(piece, 0) for piece in _pieces(own)], what)
        return []
    every = [own, *(np.empty(count, np.uint8) for count in sizes[1:])]
    receives = [comm.Irecv(p, r) for r, part in enumerate(every) if r for p in _pieces(part)]
    here.wait(receives, what)
    return every


def broadcast_bytes(here: World, comm: Any, content: Bytes | None, count: int, what: str) -> Bytes:
    """Rank 0's bytes on every rank, so that no other needs access to its disk. Collective."""
    if content is None:
        content = np.empty(count, np.uint8)
    for piece in _pieces(content) if here.size > 1 else ():
        here.wait([comm.Ibcast(piece, root=0)], what)
    return content


def _pieces(content: Bytes) -> list[Bytes]:
    return [content[start : start + _PIECE] for start in range(0, len(content), _PIECE)]


def report_progress(line: str) -> None:
    """Reports progress to `dist-dynet run`, which restarts failed jobs: `STEP` for a finished
    checkpoint, `resumed STEP` for one that the job resumes from."""
    if name := os.environ.get("DIST_DYNET_PROGRESS"):
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
