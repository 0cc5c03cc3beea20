"""The files of a run's checkpoints: their names, which is the newest good one, and how one is
written."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..io.checksummed import DamagedError, check
from ..io.files import FileName, OneProcess, atomic_write
from ..params.dims import size
from ._failures import report

_NAME = re.compile(r"checkpoint-(\d{6,})-step-(\d+)\.safetensors")


class CheckpointFiles:
    """Those of one directory, of which the last `keep` stay."""

    def __init__(self, directory: FileName, keep: int) -> None:
        self._directory, self._cleaned = Path(directory), False
        self._keep = size(keep, "Checkpointer", " for keep")
        self._lock = threading.Lock()
        if keep < 1:
            raise ValueError(f"Checkpointer: keep must be 1 or more; got {keep}.")

    def write(self, content: Iterable[Any], step: int) -> None:
        """One more file, after so many updates. Threads take turns.

        Raises:
            OSError: it cannot be written to the end.
        """
        with self._lock:
            self._write(content, step)

    def _write(self, content: Iterable[Any], step: int) -> None:
        self._clean()
        serial = max((number for number, _ in self._all()), default=0) + 1
        path = self._directory / f"checkpoint-{serial:06d}-step-{step}.safetensors"
        try:
            with atomic_write(path, policy=OneProcess()) as file:
                file.writelines(content)
        except RuntimeError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError):
                raise
            words = (
                f"checkpoint: the file must be written to the end; got: {cause.strerror}. Those of"
                " before are whole; make room, start again"
            )
            raise OSError(cause.errno, words, str(path)) from cause
        for _, old in self._all()[: -self._keep]:
            with suppress(OSError):  # it is there for longer, then
                old.unlink()
        tell_launcher(f"{step}")

    def newest(self) -> tuple[str, bytes]:
        """Name and content of the newest good file; nothing if there is no file."""
        self._clean()
        files = self._all()
        for _, path in reversed(files):
            try:
                content = path.read_bytes()
                check(content)
                return path.name, content
            except OSError as error:
                report(f"checkpoint: passes over '{path}', which cannot be read: {error.strerror}.")
            except DamagedError as error:
                report(f"checkpoint: passes over '{path}', which is damaged: {error}.")
        if files:
            raise RuntimeError(
                f"checkpoint: one of the {len(files)} files in '{self._directory}' must be whole;"
                " all are damaged. Take them away."
            )
        return "", b""

    def _clean(self) -> None:
        """Makes the directory, and takes away what killed saves have left."""
        if not self._cleaned:
            self._directory.mkdir(parents=True, exist_ok=True)
            for left in self._directory.glob(".checkpoint-*.tmp"):
                with suppress(OSError):
                    left.unlink()
            self._cleaned = True

    def _all(self) -> list[tuple[int, Path]]:
        """Number and path of all files with a checkpoint's name, the oldest first."""
        named = [(_NAME.fullmatch(path.name), path) for path in self._directory.iterdir()]
        return sorted((int(match[1]), path) for match, path in named if match)


def tell_launcher(line: str) -> None:
    """A launcher that starts a failed job again wants to know whether that has got any further:
    `STEP` is a finished checkpoint, `resumed STEP` one from which the job goes on."""
    name = os.environ.get("DIST_DYNET_PROGRESS")
    if name:
        try:
            with Path(name).open("a") as file:
                file.write(f"{line}\n")
        except OSError as error:  # the checkpoint is there all the same
            report(
                f"checkpoint: could not write to DIST_DYNET_PROGRESS='{name}': {error.strerror}."
            )
