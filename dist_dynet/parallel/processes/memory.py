"""Memory that the ranks of one host share: an unnamed file, which other ranks open through /proc.

Nothing is left behind, however the job ends. Where the system has memfd_create (Linux), the size of
/dev/shm is no limit. This module knows files and mappings; shared.py and hosts.py know what is
stored there.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..._environment import number
from ..._ffi import ffi
from .world import World

LIMIT = number("DIST_DYNET_SHARED_LIMIT", float("inf"), least=0)
"""Largest number of bytes of shared memory that one call may take, over all ranks of a host."""

_NOEXEC_SEAL = 8
"""Flag of memfd_create: the content of the file will never be executed. Some systems require it
(vm.memfd_noexec)."""


class Lent(NamedTuple):
    """An open file of this process that others on its host may open, too: what they are told."""

    process: int
    descriptor: int
    device: int
    number: int

    @classmethod
    def of(cls, descriptor: int) -> Lent:
        """That of a descriptor."""
        file = os.fstat(descriptor)
        return cls(os.getpid(), descriptor, file.st_dev, file.st_ino)

    def check(self, file: os.stat_result) -> None:
        """Whether this is the file still.

        Raises:
            OSError: it is another one.
        """
        if (file.st_dev, file.st_ino) != (self.device, self.number):
            raise OSError(errno.ESTALE, f"process {self.process} has closed its shared memory")


def open_lent(lent: Lent | None, flags: int) -> int:
    """A descriptor of this process's own for a file of another one.

    Raises:
        OSError: there is none, or it was closed meanwhile. Its number may be that of another file
            by now, one of the user's, which is neither opened nor changed.
    """
    if lent is None:
        raise OSError(errno.ENOENT, "the first rank of this host has no memory to share")
    path = Path(f"/proc/{lent.process}/fd/{lent.descriptor}")
    lent.check(path.stat())
    descriptor = os.open(path, flags)
    try:
        lent.check(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


Mapped = tuple[Any, list[int]]
"""A mapping, and where in it the segments of one size begin."""


def map_together(
    here: World,
    comm: Any,
    host: Sequence[int],
    segments: int,
    mine: Any,
    sizes: Callable[[list[Any]], list[int]],
    what: str,
) -> list[Mapped]:
    """Maps new segments for all ranks of this host. The sizes are computed from what every rank
    contributes. Collective over all hosts.

    Args:
        here: all ranks.
        comm: their communicator.
        host: the ranks of this host.
        segments: how many there are of each size, at least as many as ranks on this host.
        mine: what this rank contributes.
        sizes: computes the sizes in bytes from all contributions; may raise OSError. Empty: none.
        what: the name of the collective operation.

    Raises:
        OSError: there is no room on some rank, or `sizes` says so; with the same message on all
            ranks.
    """
    descriptor, lent, failure = -1, None, ""
    if here.rank == host[0]:
        try:
            descriptor = _nameless_file()
            lent = Lent.of(descriptor)
        except OSError as error:
            failure = str(error)
    try:
        every = here.gather(comm, (lent, mine), what)
        mapped: list[Mapped] = []
        try:
            wanted = sizes([theirs for _, theirs in every])
            if failure and wanted:
                raise OSError(failure)
            if wanted:
                share = range(host.index(here.rank), segments, len(host))
                mapped = _map(every[host[0]][0], wanted, segments, share)
        except (OSError, ValueError) as error:
            failure = str(error)
        failures = [b.decode() for b in here.exchange_bytes(comm, failure.encode(), what)]
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    rank = next((r for r, words in enumerate(failures) if words), None)
    if rank is not None:
        raise OSError(f"rank {rank}: {failures[rank]}")
    return mapped


def say_refused(here: World, error: OSError) -> None:
    """Reports on rank 0 that the ranks do without shared memory."""
    if here.rank == 0:
        # a single write, so that lines of other ranks do not mix in
        sys.stderr.write(
            f"dist_dynet: gradients are exchanged by MPI instead of shared memory ({error})\n"
        )
        sys.stderr.flush()


def reserve(size: int) -> tuple[int, mmap.mmap]:
    """Memory of this size, and a descriptor by which other ranks of the host can map it; -1: they
    cannot, since the system has no shared memory left.

    Raises:
        OSError: there is no memory at all.
    """
    descriptor = -1
    try:
        descriptor = _nameless_file()
        # else writing where there is no room kills the process
        os.posix_fallocate(descriptor, 0, size)
        return descriptor, mmap.mmap(descriptor, size)
    except OSError:
        if descriptor >= 0:
            os.close(descriptor)
        return -1, mmap.mmap(-1, size)
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        raise


def _nameless_file() -> int:
    """The descriptor of an empty file in memory."""
    if hasattr(os, "memfd_create"):
        name, flags = "dist_dynet gradients", os.MFD_CLOEXEC
        try:
            return os.memfd_create(name, flags | _NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.memfd_create(name, flags)  # Linux before 6.3
    return os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)


def _rounded(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _map(lent: Lent | None, sizes: list[int], segments: int, share: Sequence[int]) -> list[Mapped]:
    """Maps segments of these sizes, one size after the other, and allocates this rank's share of
    them.

    Raises:
        OSError: there is no room.
    """
    steps = [_rounded(size) for size in sizes]
    total = sum(steps) * segments
    if total > LIMIT:
        raise OSError(
            errno.ENOSPC, f"{total} bytes are more than DIST_DYNET_SHARED_LIMIT={LIMIT:.0f}"
        )
    descriptor = open_lent(lent, os.O_RDWR)
    try:
        os.ftruncate(descriptor, total)  # all ranks give the same size
        begin, starts = 0, []
        for step in steps:
            starts.append([begin + k * step for k in range(segments)])
            for k in share:
                # else writing where there is no room kills the process
                os.posix_fallocate(descriptor, starts[-1][k], step)
            begin += segments * step
        whole = ffi.from_buffer("char[]", mmap.mmap(descriptor, total))
    finally:
        os.close(descriptor)
    return [(whole, of) for of in starts]
