"""The ranks of this job as seen from one of them: starting MPI, and waiting for the others.

It knows mpi4py and nothing of parameters. It never blocks inside MPI: every wait is a loop that polls, so that a missing rank is noticed, and
that gives its core away after a millisecond. What happens to the job when a rank fails is the business of _failures.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._launcher import Launch

TIMEOUT = float(os.environ.get("DIST_DYNET_TIMEOUT", "600"))
"""Seconds that a rank waits for ranks that are alive but do not come."""

_SPIN, _LONGEST_NAP = 1e-3, 1e-3
"""Seconds of waiting without sleep; then a rank sleeps for a fiftieth of what it has waited, 20 us at first, at most this."""

_give_way: Callable[[], object] = getattr(os, "sched_yield", lambda: None)
"""Between two polls: with more ranks than cores it halves the time of an exchange (4 ranks on 2 cores), otherwise it costs nothing."""


def import_mpi(launch: Launch) -> Any:
    """mpi4py's MPI module, initialised; the process ends with a traceback if the other ranks do not come within TIMEOUT.

    Raises:
        ImportError: mpi4py is not installed.
    """
    if launch.launcher == "Open MPI":
        os.environ.setdefault("OMPI_MCA_btl", "^ofi")  # takes a second off the start
    alone = "mpi4py.MPI" not in sys.modules
    if alone:  # MPI_Init holds Python's lock: only a timer in C can end it
        faulthandler.dump_traceback_later(TIMEOUT, exit=True, file=sys.__stderr__ or 2)
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            f"dist_dynet.parallel: {launch.launcher} started this program as rank {launch.rank} of {launch.size}, but mpi4py "
            f"cannot be imported ({error}). Run: pip install 'dist-dynet[mpi]'"
        ) from error
    finally:
        if alone:
            faulthandler.cancel_dump_traceback_later()
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


class World:
    """All ranks of the job. `size == 1` means alone: then `mpi` and `comm` are None and nothing may be sent."""

    def __init__(self, launch: Launch | None) -> None:
        self.rank, self.size, self.local_rank = (launch.rank, launch.size, launch.local_rank) if launch else (0, 1, 0)
        self.host = socket.gethostname()
        self.process = os.getpid()
        self.collectives = 0
        self.place: tuple[str, float] | None = None
        """What the main thread waits for, and since when; None while it computes."""
        self.where: Callable[[], dict[int, str]] = dict
        """Asks all ranks where they are; set by the watchdog."""
        self.mpi: Any = None
        self.comm: Any = None
        if launch:
            self._start(launch)

    def _start(self, launch: Launch) -> None:
        mpi = import_mpi(launch)
        if mpi.COMM_WORLD.size != launch.size:
            beside = Path(sys.executable).with_name("mpirun")
            raise RuntimeError(
                f"dist_dynet.parallel: {launch.launcher} started {launch.size} processes, but mpi4py ({mpi.get_vendor()[0]}) sees "
                f"{mpi.COMM_WORLD.size}. This mpirun belongs to another MPI than mpi4py. Use the one beside this Python: {beside}"
            )
        self.mpi = mpi
        self.rank, self.size = mpi.COMM_WORLD.rank, mpi.COMM_WORLD.size
        self.comm = self.duplicate(mpi.COMM_WORLD)

    @property
    def name(self) -> str:
        """[rank 1/4], as errors begin."""
        return f"[rank {self.rank}/{self.size}]"

    def duplicate(self, comm: Any = None) -> Any:
        """A communicator of its own for one purpose, so that messages of two purposes never meet. Collective."""
        new, request = (comm or self.comm).Idup()
        self.wait([request], "start of MPI")
        return new

    def collective(self, what: str) -> str:
        """Counts one more meeting of all ranks and names it; the numbers agree on all ranks as long as they call the same things."""
        self.collectives += 1
        return f"{what} (meeting {self.collectives})"

    def wait(self, requests: Sequence[Any], what: str, timeout: float = TIMEOUT) -> None:
        """Polls until all of these requests are complete.

        Raises:
            TimeoutError: the others did not come in time; it says where they are.
        """
        start = time.perf_counter()
        test = self.mpi.Request.Testall
        self.place = what, time.monotonic()
        try:
            while not test(requests):
                passed = time.perf_counter() - start
                if passed > timeout:
                    raise TimeoutError(f"{self.name} {what}: waited {timeout:g} s for the other ranks{self._others()}.")
                _give_way()
                if passed > _SPIN:
                    time.sleep(min(passed / 50, _LONGEST_NAP))
        finally:
            self.place = None

    def exchange_bytes(self, comm: Any, mine: bytes, what: str) -> list[bytes]:
        """The byte strings of all ranks, on all of them."""
        sizes = np.empty(self.size, np.int64)
        self.wait([comm.Iallgather(np.array([len(mine)], np.int64), sizes)], what)
        joined = np.empty(int(sizes.sum()), np.uint8)
        self.wait([comm.Iallgatherv(np.frombuffer(mine, np.uint8), (joined, sizes))], what)
        ends = np.cumsum(sizes)
        return [joined[end - size : end].tobytes() for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]

    def _others(self) -> str:
        answers = self.where()
        return "".join(f"; rank {rank} {state}" for rank, state in sorted(answers.items()) if rank != self.rank)
