"""The checkpoint files of a run: their names, which one is the newest good one, and how they are
written, at once or in the background."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..._file_names import FileName, file_path
from ...io.checksummed import Copied, DamagedError, check
from ...io.files import OneProcess, atomic_write
from ...params.dims import size
from ..processes.failures import finish_before_abort, report
from .lease import Lease
from .ranks import HostBuffer

_NAME = re.compile(r"checkpoint-(\d{6,})-step-(\d+)\.safetensors")


class CheckpointFiles:
    """The files in one directory. The last `keep` that are not known to be damaged are kept."""

    def __init__(self, directory: FileName, keep: int) -> None:
        self._directory = file_path(directory, "Checkpointer").absolute()  # chdir() may follow
        self._keep = size(keep, "Checkpointer", " for keep")
        self._lock = threading.RLock()  # a signal handler may save in the midst of a save
        self._lease = Lease(self._directory)
        self._thread: threading.Thread | None = None
        self._passed_over: set[Path] = set()
        self.written = -1
        """Number of updates in the last file that was written; -1: none."""
        if keep < 1:
            raise ValueError(f"Checkpointer: keep must be 1 or more; got {keep}.")

    def claim(self) -> None:
        """Creates the directory, and makes sure that this run may save into it.

        Raises:
            LostLeaseError: another run does.
            OSError: the directory cannot be written to.
        """
        with self._lock:
            self._claim()

    def write(self, content: Copied, step: int) -> None:
        """Writes one more file, of so many updates. Threads take turns.

        Raises:
            OSError: it cannot be written to the end.
            LostLeaseError: another run saves into the directory.
        """
        with self._lock:
            self._write(content, step)

    def write_in_background(
        self, content: Copied, step: int, failed: Callable[[Exception], object]
    ) -> None:
        """As write(), in a thread, after the previous thread has finished; at once where no thread
        can be started. Exceptions are passed to `failed`, in that thread."""

        def work() -> None:
            try:
                self.write(content, step)
            except Exception as error:
                failed(error)

        self.wait()
        # not a daemon: the end of the program waits for it
        self._thread = threading.Thread(target=work, name="dist_dynet checkpoint")
        finish_before_abort(self._thread)
        try:
            self._thread.start()
        except RuntimeError:  # too many threads
            self._thread = None
            work()

    def wait(self) -> None:
        """Waits for the thread, if there is one."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _write(self, content: Copied, step: int) -> None:
        self._claim()
        serial = max((number for number, _ in self._all()), default=0) + 1
        path = self._directory / f"checkpoint-{serial:06d}-step-{step}.safetensors"
        try:
            with atomic_write(path, policy=OneProcess(), last=self._lease.check) as file:
                file.writelines(content.pieces())
        except RuntimeError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError):
                raise
            words = (
                f"checkpoint: the file must be written to the end; got: {cause.strerror}. Those of"
                " before are whole; make room"
            )
            raise OSError(cause.errno or errno.EIO, words, str(path)) from cause
        try:
            with self._in_directory():
                self._lease.check()
        except RuntimeError:  # another run has taken over at this moment
            path.unlink(missing_ok=True)
            raise
        self.written = step
        with suppress(OSError):  # the next save tries again
            for old in self._outlived():
                with suppress(OSError):
                    old.unlink()
        report_progress(f"{step}")

    def newest(self) -> tuple[str, HostBuffer | None]:
        """Name and content of the newest good file; empty if there is no file.

        Raises:
            RuntimeError: there are files, and all are damaged.
        """
        self.wait()
        with self._in_directory():
            files = self._all()
        for _, path in reversed(files):
            try:
                buffer = _read(path)
                self._passed_over.discard(path)
                return path.name, buffer
            except OSError as error:
                report(f"checkpoint: passes over '{path}', which cannot be read: {error.strerror}.")
            except DamagedError as error:
                report(f"checkpoint: passes over '{path}', which is damaged: {error}.")
            self._passed_over.add(path)
        if files:
            raise RuntimeError(
                f"checkpoint: one of the {len(files)} files in '{self._directory}' must be whole;"
                " all are damaged. Take them away."
            )
        return "", None

    def _outlived(self) -> list[Path]:
        """Files older than the last `keep` that newest() has not skipped."""
        files = self._all()
        good = [number for number, path in files if path not in self._passed_over]
        return [path for number, path in files if number < min(good[-self._keep :], default=0)]

    def _claim(self) -> None:
        """Takes the lease, and with a new lease removes what killed runs have left."""
        with self._in_directory():
            if self._lease.claim():
                for left in self._directory.glob(".checkpoint*.tmp"):
                    with suppress(OSError):
                        left.unlink()

    @contextmanager
    def _in_directory(self) -> Iterator[None]:
        """Creates the directory if necessary, and adds a remedy to errors of the system."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            words = (
                "checkpoint: the directory must be one that this run can read and write; got:"
                f" {error.strerror}. Allow that, or give Checkpointer another one"
            )
            raise OSError(error.errno or errno.EIO, words, str(self._directory)) from error

    def _all(self) -> list[tuple[int, Path]]:
        """Number and path of all files named like checkpoints, the oldest first."""
        named = [(_NAME.fullmatch(path.name), path) for path in self._directory.iterdir()]
        return sorted((int(match[1]), path) for match, path in named if match)


def _read(path: Path) -> HostBuffer:
    """Reads and checks a file. It is not mapped: an error of a file server then raises an exception
    instead of ending the process.

    Raises:
        OSError: it cannot be read.
        DamagedError: it is not whole.
    """
    with path.open("rb", 0) as file:
        buffer = HostBuffer(max(os.fstat(file.fileno()).st_size, 1))
        try:
            size = 0
            while count := file.readinto(buffer.view[size:]):
                size += count
            check(buffer.view[:size])
        except BaseException:
            buffer.close()
            raise
    return buffer


def report_progress(line: str) -> None:
    """Reports progress to a launcher that restarts failed jobs: `STEP` for a finished checkpoint,
    `resumed STEP` for one that the job resumes from."""
    name = os.environ.get("DIST_DYNET_PROGRESS")
    if name:
        try:
            with Path(name).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:  # the checkpoint is there all the same
            report(
                f"checkpoint: could not write to DIST_DYNET_PROGRESS='{name}': {error.strerror}."
            )
