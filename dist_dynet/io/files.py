"""Files that are written whole or not at all, by one process.

Knows nothing of what is written. A file grows under a temporary name beside its target, is flushed
to the disk, and takes the target's name in one step; whatever fails before that leaves the target
as it was. Who writes is a policy, which dist_dynet.parallel replaces.
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

from .._file_names import FileName, file_path

BUFFER = 1 << 20
"""Bytes of a file's buffer."""


class Policy(Protocol):
    """Which processes write, and what happens when a file is done."""

    def writes(self) -> bool:
        """Whether this process writes. Where not, what it would write is discarded. Called once at
        the beginning of a save."""

    def keeps_gradients(self) -> bool:
        """Whether gradients that are here are the program's, and belong into its files. Asked for
        each parameter that has one."""

    def finished(self, error: BaseException | None) -> None:
        """Called once at the end of a save on every process: the file is in place (None), or the
        save has failed.

        May wait for the others, and may raise where another process failed.
        """


class OneProcess:
    """The policy of a process on its own."""

    def writes(self) -> bool:
        """Yes."""
        return True

    def keeps_gradients(self) -> bool:
        """Yes."""
        return True

    def finished(self, error: BaseException | None) -> None:
        """Nobody waits."""


_policy: Policy = OneProcess()


def set_policy(policy: Policy) -> Policy:
    """Replaces the policy; returns the former one."""
    global _policy
    former, _policy = _policy, policy
    return former


def keeps_gradients() -> bool:
    """As the policy says."""
    return _policy.keeps_gradients()


class _Draft:
    """A file in the making. Devices and pipes are written to directly: they cannot be replaced."""

    def __init__(self, path: FileName) -> None:
        self.target = Path(os.path.realpath(path))
        if self.target.is_symlink():  # it leads back to itself
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        self.temporary: Path | None = None
        self.file: BinaryIO | None = None
        self._inode: tuple[int, int] | None = None
        # a second name of the file of before, while names change; whether there was none
        self._before: Path | None = None
        self._is_new = False

    def open(self, append: bool) -> BinaryIO:
        """Opens it, with the target's content in front if that is wanted."""
        target = self.target
        exists = target.exists()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if exists and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        if exists and not target.is_file():
            self.file = target.open("ab" if append else "wb", BUFFER)
            return self.file
        # before Ctrl-C can follow on open()
        self.temporary = temporary = target.with_name(
            f".{target.name[:40]}.{os.urandom(6).hex()}.tmp"
        )
        self.file = temporary.open("x+b", BUFFER)
        if exists:
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            if append:
                with target.open("rb") as old:
                    shutil.copyfileobj(old, self.file, BUFFER)
        return self.file

    def settle(self) -> None:
        """Brings all of it to the disk."""
        if self.file is not None:
            self.file.flush()
            if self.temporary is not None:
                os.fsync(self.file.fileno())
                status = os.fstat(self.file.fileno())
                self._inode = status.st_dev, status.st_ino
            self.file.close()

    def publish(self) -> None:
        """Gives it its name. Where a file server has done so and its answer was lost, asking again
        is an error, but the name is in place."""
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
        """The file of before stays under a second name until all have their names. Some file
        systems have no second names."""
        if self.temporary is not None and self.target.exists():
            self._before = self.temporary.with_suffix(".old")  # before Ctrl-C can follow on link()
            try:
                os.link(self.target, self._before)
            except OSError:
                self._before = None

    def take_back(self) -> None:
        """The file of before gets its name again, or there is none, as before."""
        if not self._is_in_place():
            return
        with suppress(OSError):
            if self._is_new:
                self.target.unlink()
            elif self._before is not None:
                self._before.replace(self.target)
                self._before = None

    def forget_before(self) -> None:
        """Removes its second name."""
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
        """Removes what is left of it, if it was not published."""
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
        if self.temporary is not None:
            with suppress(OSError):
                self.temporary.unlink()
        self.forget_before()


def _publish(drafts: Sequence[_Draft]) -> None:
    """Gives all of them their names, right after one another; if one cannot have it, or Ctrl-C
    comes in between, none."""
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
        with suppress(OSError):  # names are in place; some file systems cannot flush a folder
            folder = os.open(parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class MissingFileError(RuntimeError, FileNotFoundError):
    """A file or folder of a model that is not there. A FileNotFoundError, too, as some of DyNet's
    are."""


def _of_kind(error: Exception) -> type[RuntimeError]:
    return MissingFileError if isinstance(error, FileNotFoundError) else RuntimeError


def unreadable(name: object, error: Exception, what: str = "model") -> RuntimeError:
    """The exception for a file that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else None
    return _of_kind(error)(f"Could not read {what} from {name}: {reason or error}")


def lines_of(name: FileName, what: str, holds: str) -> list[str]:
    """The lines of a file of text, in UTF-8; `what` names the call in errors, `holds` what it
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
    """Files open for writing that take their names at the end of the with block, one right after
    the other, if nothing failed.

    `policy` says who writes; None: what set_policy() was given. `last` is called when all is on the
    disk, right before the first name; what it raises passes through. `what` names the call in
    errors.

    Raises:
        TypeError, ValueError: no file can have such a name.
        RuntimeError: the operating system refused (its error is the cause). Other exceptions of the
            block pass through. The old files are whole.
    """
    policy = policy or _policy
    writes = policy.writes()
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
    """A file open for writing that takes its name at the end of the with block, if nothing failed.

    With `append`, what was there before comes first; all else as in atomic_writes().
    Temporary files (.name.*.tmp) outlive a kill.

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
