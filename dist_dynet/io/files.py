"""Files that are written as a whole or not at all, by one process.

This module knows nothing of what is written. A file grows under a temporary name beside its target,
is flushed to the disk, and is renamed to the target in one step. Whatever fails before that leaves
the target unchanged. Which process writes is decided by a policy, which dist_dynet.parallel
replaces.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from .._deferred_signals import DeferSignals
from .._file_names import FileName, file_path

BUFFER = 1 << 20
"""Size of a file's buffer in bytes."""


class Policy(Protocol):
    """Which processes write, and what happens when a file is complete."""

    def writes(self, paths: Sequence[FileName]) -> bool:
        """Whether this process writes these. Otherwise what it would write is discarded. Called
        once at the beginning of a save."""

    def keeps_gradients(self) -> bool:
        """Whether the gradients of this process belong to the program and into its files. Called
        for each parameter that has one."""

    def finished(self, error: BaseException | None) -> None:
        """Called once at the end of a save on every process: the file is in place (None), or the
        save has failed.

        May wait for the other processes, and may raise if one of them failed.
        """


class OneProcess:
    """The policy of a single process."""

    def writes(self, paths: Sequence[FileName]) -> bool:
        """Yes."""
        return True

    def keeps_gradients(self) -> bool:
        """Yes."""
        return True

    def finished(self, error: BaseException | None) -> None:
        """Nothing waits."""


_policy: Policy = OneProcess()


def set_policy(policy: Policy) -> Policy:
    """Replaces the policy; returns the previous one."""
    global _policy
    former, _policy = _policy, policy
    return former


def keeps_gradients() -> bool:
    """Whether gradients are saved: as the policy says."""
    return _policy.keeps_gradients()


class _Draft:
    """A file that is being written. Devices and pipes are written to directly: they cannot be
    replaced."""

    def __init__(self, path: FileName) -> None:
        self.target = Path(os.path.realpath(path))
        if self.target.is_symlink():  # a cycle of links
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        self.temporary: Path | None = None
        self.file: BinaryIO | None = None
        self._inode: tuple[int, int] | None = None
        # a second name of the old file, while files are renamed; whether there was no old file
        self._before: Path | None = None
        self._is_new = False

    def open(self, append: bool) -> BinaryIO:
        """Opens it. With `append`, the target's content is copied into it first."""
        target = self.target
        exists = target.exists()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if exists and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        if exists and not target.is_file():
            self.file = target.open("ab" if append else "wb", BUFFER)
            return self.file
        # set before open(), so that abandon() finds the file even if Ctrl-C comes in between
        self.temporary = temporary = target.with_name(
            f".{target.name[:40]}.{os.urandom(6).hex()}.tmp"
        )
        self.file = temporary.open("x+b", BUFFER)
        if exists:
            before = target.stat()
            for owner, group in (-1, before.st_gid), (before.st_uid, -1):
                with suppress(OSError):  # not everybody may
                    os.chown(temporary, owner, group)
            temporary.chmod(stat.S_IMODE(before.st_mode))
            if append:
                with target.open("rb") as old:
                    shutil.copyfileobj(old, self.file, BUFFER)
        return self.file

    def settle(self) -> None:
        """Flushes all of it to the disk."""
        if self.file is not None:
            self.file.flush()
            if self.temporary is not None:
                os.fsync(self.file.fileno())
                status = os.fstat(self.file.fileno())
                self._inode = status.st_dev, status.st_ino
            self.file.close()

    def publish(self) -> None:
        """Renames it to its target. If the reply of a file server gets lost, the retry is an error
        although the name is in place."""
        if self.temporary is None:
            return
        self._is_new = not self.target.exists()
        try:
            self.temporary.replace(self.target)
        except OSError:
            if not self._is_in_place():
                raise
        self.temporary = None

    def keep_before(self) -> None:
        """Links the old file under a second name until all files are renamed. Some file systems
        have no links."""
        if self.temporary is not None and self.target.exists():
            self._before = self.temporary.with_suffix(".old")  # set first, in case of Ctrl-C
            try:
                os.link(self.target, self._before)
            except OSError:
                self._before = None

    def take_back(self) -> None:
        """Gives the old file its name again, or removes the new one if there was none."""
        if not self._is_in_place():
            return
        with suppress(OSError):
            if self._is_new:
                self.target.unlink()
            elif self._before is not None:
                self._before.replace(self.target)
                self._before = None

    def forget_before(self) -> None:
        """Removes the second name of the old file."""
        if self._before is not None:
            with suppress(OSError):
                self._before.unlink()
            self._before = None

    def _is_in_place(self) -> bool:
        try:
            status = self.target.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._inode

    def abandon(self) -> None:
        """Removes what is left of it if it was not published."""
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
        if self.temporary is not None:
            with suppress(OSError):
                self.temporary.unlink()
        self.forget_before()


def _publish(drafts: Sequence[_Draft]) -> None:
    """Renames all of them, right after one another; none if one fails or Ctrl-C comes in
    between."""
    try:
        if len(drafts) > 1:
            for draft in drafts:
                draft.keep_before()
        for draft in drafts:
            draft.publish()
    except BaseException:
        for draft in drafts:
            draft.take_back()
        raise
    for draft in drafts:
        draft.forget_before()
    for parent in {draft.target.parent for draft in drafts}:
        # names are in place; some file systems cannot flush a folder
        with suppress(OSError), DeferSignals():
            folder = os.open(parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class MissingFileError(RuntimeError, FileNotFoundError):
    """A file or folder of a model does not exist. Also a FileNotFoundError, as some errors of DyNet
    are."""


def _of_kind(error: Exception) -> type[RuntimeError]:
    return MissingFileError if isinstance(error, FileNotFoundError) else RuntimeError


def unreadable(name: object, error: Exception, what: str = "model") -> RuntimeError:
    """The exception for a file that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return _of_kind(error)(f"Could not read {what} from {name}: {reason or error}")


def lines_of(name: FileName, what: str, holds: str) -> list[str]:
    """The lines of a text file in UTF-8. `what` names the call in errors, `holds` what the file
    holds.

    Raises:
        TypeError, ValueError: no file can have such a name.
        RuntimeError: it cannot be read, or is no text.
    """
    path = file_path(name, what)
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(name, error, holds) from error


@contextmanager
def atomic_writes(
    paths: Sequence[FileName],
    append: bool = False,
    policy: Policy | None = None,
    last: Callable[[], object] = bool,
    what: str = "save",
) -> Iterator[list[BinaryIO]]:
    """Opens files for writing, and gives them their names at the end of the with block, right after
    one another, if nothing failed.

    `policy` says who writes; None means that of set_policy(). `last` is called when everything is
    on the disk, right before the first file is renamed; what it raises passes through. `what` names
    the call in errors.

    Raises:
        TypeError, ValueError: no file can have such a name.
        RuntimeError: the operating system refused (its error is the cause). Other exceptions of the
            block pass through. The old files are whole.
    """
    policy = policy or _policy
    writes = policy.writes(paths)
    drafts: list[_Draft] = []
    failure: BaseException | None = None
    try:
        checked = [file_path(path, what) for path in paths]
        drafts += [_Draft(path if writes else os.devnull) for path in checked]
        yield [draft.open(append) for draft in drafts]
        for draft in drafts:
            draft.settle()
        last()
        _publish(drafts)
    except OSError as error:
        names = " and ".join(f"'{os.fspath(path)}'" for path in paths)
        failure = _of_kind(error)(
            f"{what}: could not write {names}: {error.strerror or error}. Check the folder, its"
            " permissions and the free space; the file of before, if there was one, is untouched."
        )
        raise failure from error
    except BaseException as error:
        failure = error
        raise
    finally:
        for draft in drafts:
            draft.abandon()
        policy.finished(failure)


@contextmanager
def atomic_write(
    path: FileName,
    append: bool = False,
    policy: Policy | None = None,
    last: Callable[[], object] = bool,
    what: str = "save",
) -> Iterator[BinaryIO]:
    """Opens a file for writing, and gives it its name at the end of the with block if nothing
    failed.

    With `append`, the old content comes first. Everything else is as in atomic_writes(). Temporary
    files (.name.*.tmp) stay behind if the process is killed.

    Raises:
        RuntimeError: the operating system refused (its error is the cause). Other exceptions of the
            block pass through. The old file is whole.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.txt")
    ...     for word in (b"one ", b"two"):
    ...         with atomic_write(path, append=True) as file:
    ...             _ = file.write(word)
    ...     path.read_text(), [p.name for p in path.parent.iterdir()]
    ('one two', ['a.txt'])
    """
    with atomic_writes([path], append, policy, last, what) as (file,):
        yield file
