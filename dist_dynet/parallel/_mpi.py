"""Starting and ending MPI: the module of mpi4py, loaded in time or not at all. And giving up what
MPI was asked for."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .._environment import number
from .._launcher import INSTALL, Launch

TIMEOUT = number("DIST_DYNET_TIMEOUT", 600)
"""Seconds that a rank waits for ranks that are alive but do not come."""

_LONGEST = 1e9
"""Seconds that a timer of the system can be set to."""

_finalizes = False
"""Whether MPI is ended here, not by mpi4py."""


def import_mpi(launch: Launch) -> Any:
    """mpi4py's MPI module, initialised; the process ends with a traceback if the other ranks do not
    come within TIMEOUT.

    Raises:
        ImportError: mpi4py is not installed.
        RuntimeError: the launcher belongs to another MPI, whose start would end the process.
    """
    global _finalizes
    if launch.launcher == "Open MPI":
        os.environ.setdefault("OMPI_MCA_btl", "^ofi")  # takes a second off the start
    if launch.launcher == "Slurm" and "native" in os.environ.get("PMIX_SECURITY_MODE", "").split(
        ","
    ):
        # a PMIx without munge, as in the wheel of Open MPI, would complain in sixteen lines
        os.environ["PMIX_SECURITY_MODE"] = "native"
    alone = "mpi4py.MPI" not in sys.modules
    if alone:  # MPI_Init holds Python's lock: only a timer in C can end it
        faulthandler.dump_traceback_later(
            min(TIMEOUT, _LONGEST), exit=True, file=sys.__stderr__ or 2
        )
    try:
        import mpi4py

        if alone and mpi4py.rc.finalize is None:
            # mpi4py would do it in a forked child, too, which then hangs
            mpi4py.rc.finalize, _finalizes = False, True
        pmix = "PMIX_RANK" in os.environ and "PMI_RANK" not in os.environ  # and nothing else
        if alone and pmix and _starts_as_here(mpi4py.rc):
            mpi4py.rc.initialize = False
        from mpi4py import MPI

        if not MPI.Is_initialized():
            if pmix:
                _refuse_mpich(launch, MPI)
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


def _starts_as_here(rc: Any) -> bool:
    """Whether mpi4py would start MPI by itself as it is started here."""
    return bool(rc.initialize and rc.threads and rc.thread_level == "multiple")


def _refuse_mpich(launch: Launch, mpi: Any) -> None:
    """Where a launcher speaks only PMIx, MPICH without it would end the process in MPI_Init."""
    vendor, version = mpi.get_vendor()[0], mpi.Get_library_version()
    if vendor == "MPICH" and "pmix" not in version.lower():
        raise RuntimeError(
            f"dist_dynet.parallel: {launch.launcher} started {launch.size} processes, but mpi4py"
            f" (MPICH) cannot be started by PMIx. {remedy(launch, vendor)}"
        )


def remedy(launch: Launch, library: str) -> str:
    """What to do where a launcher does not start the ranks of mpi4py's library."""
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
    """Takes the name of MPICH's segment off /dev/shm, which would stay there with its memory when a
    rank is killed. To be called when all ranks of this host have come through MPI_Init: none opens
    it any more, and it goes with the last process that has mapped it. MPICH before 5.0 does so."""
    with suppress(OSError):  # no /proc
        for line in Path("/proc/self/maps").read_text().splitlines():
            if segment := re.search(r" (/dev/shm/mpich_\S+)$", line):
                with suppress(OSError):  # another rank was faster
                    Path(segment[1]).unlink()


def finalize_mpi() -> None:
    """Ends MPI, at the end of the program; unless the program started it by itself, or said who
    ends it (mpi4py.rc.finalize)."""
    mpi = sys.modules["mpi4py.MPI"]
    if _finalizes and not mpi.Is_finalized():
        mpi.Finalize()


abandoned: list[Any] = []
"""Requests that nobody waits for any more, with the memory that MPI may still read or write for
them."""


def take_back(requests: Sequence[Any], receives: Sequence[bool]) -> None:
    """Nobody waits for these requests any more, which receive something or send it. What is being
    sent may still leave: with UCX, MPICH ends the process if a send is cancelled halfway."""
    for request, is_receive in zip(requests, receives, strict=True):
        if is_receive:
            request.Cancel()
        request.Free()
    abandoned.extend(requests)
