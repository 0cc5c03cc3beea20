"""Starts and ends MPI through mpi4py, with a time limit, and abandons requests that nobody waits
for."""

from __future__ import annotations

import faulthandler
import locale
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..._environment import number
from ..._launcher import INSTALL, Launch

TIMEOUT = number("DIST_DYNET_TIMEOUT", 600)
"""Seconds that a rank waits for ranks that are alive but do not arrive."""

_LONGEST = 1e9
"""Longest time in seconds that a system timer accepts."""

_finalizes = False
"""Whether this module, not mpi4py, finalises MPI."""


def import_mpi(launch: Launch) -> Any:
    """mpi4py's MPI module, initialised. The process ends with a traceback if the other ranks do not
    start within TIMEOUT.

    Raises:
        ImportError: mpi4py is not installed.
        RuntimeError: the launcher belongs to another MPI, whose start would end the process; or the
            program has ended MPI.
    """
    global _finalizes
    if launch.launcher == "Open MPI":
        os.environ.setdefault("OMPI_MCA_btl", "^ofi")  # takes a second off the start
    if launch.launcher == "Slurm" and "native" in os.environ.get("PMIX_SECURITY_MODE", "").split(
        ","
    ):
        # a PMIx without munge, as in the wheel of Open MPI, would print sixteen lines of warnings
        os.environ["PMIX_SECURITY_MODE"] = "native"
    alone = "mpi4py.MPI" not in sys.modules
    if alone:  # MPI_Init holds Python's lock: only a timer in C can end it
        faulthandler.dump_traceback_later(
            min(TIMEOUT, _LONGEST), exit=True, file=sys.__stderr__ or 2
        )
    try:
        import mpi4py

        if alone and mpi4py.rc.finalize is None:
            # mpi4py would also finalise in a forked child, which then hangs
            mpi4py.rc.finalize, _finalizes = False, True
        pmix = "PMIX_RANK" in os.environ and "PMI_RANK" not in os.environ  # and nothing else
        rc = mpi4py.rc
        if alone and pmix and rc.initialize and rc.threads and rc.thread_level == "multiple":
            rc.initialize = False  # this module does the same below, after a check
        with _plain_letters():
            from mpi4py import MPI

            if MPI.Is_finalized():
                raise RuntimeError(
                    "dist_dynet.parallel: MPI.Finalize() was called before the first use. Leave it"
                    " out, or call it behind all that uses dist_dynet.parallel: MPI ends with the"
                    " program."
                )
            if not MPI.Is_initialized():
                vendor, version = MPI.get_vendor()[0], MPI.Get_library_version()
                if pmix and vendor == "MPICH" and "pmix" not in version.lower():
                    raise RuntimeError(  # MPI_Init would end the process
                        f"dist_dynet.parallel: {launch.launcher} started {launch.size} processes,"
                        f" but mpi4py (MPICH) cannot be started by PMIx. {remedy(launch, vendor)}"
                    )
                MPI.Init_thread(MPI.THREAD_MULTIPLE)
    except ImportError as error:
        raise ImportError(
            f"dist_dynet.parallel: {launch.launcher} started this program as rank {launch.rank} of"
            f" {launch.size}, but mpi4py cannot be imported ({error}). Run: {INSTALL}"
        ) from error
    finally:
        if alone:
            faulthandler.cancel_dump_traceback_later()
    return MPI


@contextmanager
def _plain_letters() -> Iterator[None]:
    """Uses the letters of C, whatever the locale: UCX compares its own words without regard to
    capitals, and does not recognise them where that of i has a dot (Turkish)."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def remedy(launch: Launch, library: str) -> str:
    """What to do where a launcher cannot start the ranks of mpi4py's library."""
    if launch.launcher == "Slurm":
        return (
            "srun must be told which MPI to start: srun"
            f" --mpi={'pmix' if library == 'Open MPI' else 'pmi2'}"
        )
    beside = Path(sys.executable).with_name("mpirun")
    return (
        f"This mpirun belongs to another MPI than mpi4py. Use the one beside this Python: {beside}"
    )


def unlink_segments() -> None:
    """Unlinks MPICH's segment in /dev/shm, which would otherwise stay allocated if a rank is
    killed. Call it when all ranks of this host have passed MPI_Init: none opens it any more, and
    the memory is freed with the last process that maps it. Needed by MPICH before 5.0."""
    for segment in segments_of("self"):
        with suppress(OSError):  # another rank was faster
            segment.unlink()


def segments_of(process: int | str) -> list[Path]:
    """MPICH's segments in /dev/shm that a process maps; none where it has ended."""
    try:
        mapped = Path(f"/proc/{process}/maps").read_bytes()
    except OSError:
        return []
    # names of files may be of any bytes
    found = re.findall(rb" (/dev/shm/mpich_\S+)$", mapped, re.MULTILINE)
    return [Path(os.fsdecode(segment)) for segment in found]


def finalize_mpi() -> None:
    """Finalises MPI at the end of the program, unless the program started MPI itself or set
    mpi4py.rc.finalize."""
    mpi = sys.modules["mpi4py.MPI"]
    if _finalizes and not mpi.Is_finalized():
        mpi.Finalize()


abandoned: list[Any] = []
"""Requests that nobody waits for any more, with the buffers that MPI may still access."""


def take_back(requests: Sequence[Any], receives: Sequence[bool]) -> None:
    """Abandons requests, of which `receives` says whether each receives. Receives are cancelled.
    Sends are left alone, as MPICH with UCX ends the process if a send is cancelled halfway."""
    for request, is_receive in zip(requests, receives, strict=True):
        if is_receive:
            request.Cancel()
        request.Free()
    abandoned.extend(requests)
