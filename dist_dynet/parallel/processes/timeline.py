"""The timeline of this process: what it does when, written to a file while it runs.

`--timeline FILE` of dist-dynet run sets DIST_DYNET_TIMELINE; that of rank 0 counts for all ranks. C
writes the spans (csrc/meter.c); this module starts and ends the recording, and compares the clocks
of hosts. docs/metrics.md explains what to do with the file.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ... import _launcher
from ..._ffi import lib
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from . import failures, trace
from .hosts import identity
from .world import World

FILE = os.environ.get("DIST_DYNET_TIMELINE", "")

_ROUNDS = 20
"""Number of round trips by which clocks are compared; the fastest counts."""


class Recording:
    """The recording of one process.

    Args:
        folder: the folder of the parts.
        part: the descriptor of this process's part.
        here: all ranks.
    """

    def __init__(self, folder: Path, part: int, here: World, comm: Any) -> None:
        self._folder, self._part, self._process = folder, part, os.getpid()
        self._here, self._comm = here, comm
        self._sees_first = True  # whether rank 0's folder is this one's
        self._ended = False
        lib.dn_meter_record(part, trace.MOST_SPANS)
        os.register_at_fork(after_in_child=lambda: lib.dn_meter_record(-1, 0))

    def check_folder(self, mark: str) -> None:
        """Looks for a file that rank 0 has made, to find out whether it sees the same folder."""
        self._sees_first = (self._folder / mark).exists()

    def leave(self) -> None:
        """Ends the recording at a regular end of the program. Collective, if there are other
        ranks."""
        if self._ended or os.getpid() != self._process:
            return
        clocks = compare_clocks(self._here, self._comm) if self._comm is not None else None
        self._end()
        if clocks is not None:
            with suppress(OSError):  # last: half of it spoils no span
                trace.write_sync(self._part, *clocks[:2])
            self._bring()
        if self._here.rank == 0:
            self._merge()

    def abort(self) -> None:
        """Ends the recording because this rank ends the job. If dist-dynet run waits, it makes the
        file."""
        if not self._ended and os.getpid() == self._process:
            self._end()
            if "DIST_DYNET_ATTEMPT" not in os.environ:
                time.sleep(0.3)  # lets other ranks write their last spans
                self._merge()

    def _end(self) -> None:
        self._ended = True
        error = lib.dn_meter_flush()
        lib.dn_meter_record(-1, 0)
        if error:
            failures.report(
                f"timeline: {self._folder} could not be written to the end: {os.strerror(error)}."
            )

    def _bring(self) -> None:
        """Sends parts that rank 0 does not see to it. Once it has them all, all are complete."""
        file, mine = self._folder / f"rank-{self._here.rank}", None
        if not self._sees_first:
            with suppress(OSError):  # this rank has said that it would be missing
                mine = file.read_bytes()
        every, failure = self._comm.gather(mine), ""
        if self._here.rank == 0:
            try:
                for rank, part in enumerate(every):
                    if part is not None:
                        (self._folder / f"rank-{rank}").write_bytes(part)
            except OSError as error:
                failure = str(error)
        failure = self._comm.bcast(failure)
        if failure and self._here.rank == 0:
            failures.report(
                f"timeline: parts of other hosts cannot be written: {failure}. They are left there."
            )
        if mine is not None and not failure:
            with suppress(OSError):
                file.unlink()
                self._folder.rmdir()

    def _merge(self) -> None:
        try:
            if words := trace.merge(self._folder):
                sys.stderr.write(f"dist_dynet: {words}\n")
        except OSError as error:
            failures.report(f"timeline: cannot be written: {error}. Its parts are left.")


def compare_clocks(here: World, comm: Any) -> tuple[int, int, int]:
    """The time of this rank's clock, how far rank 0's clock is ahead of it at that time, and the
    uncertainty, in nanoseconds. Collective.

    The ranks on rank 0's host read the same clock. Every other rank, one after the other, asks rank
    0 for its time several times. Rank 0 reads its clock at some moment between question and answer;
    their middle is taken for that moment, in the fastest round trip. The error is at most half the
    time of this round trip.
    """
    hosts = comm.allgather(identity())
    remote = [rank for rank in range(here.size) if hosts[rank] is None or hosts[rank] != hosts[0]]
    told = np.zeros(1, np.int64)
    if here.rank == 0:
        for rank in remote:
            for _ in range(_ROUNDS):
                comm.Recv(told, rank)
                told[0] = lib.dn_meter_now()
                comm.Send(told, rank)
    if here.rank == 0 or here.rank not in remote:
        return lib.dn_meter_now(), 0, 0
    rounds = []
    for _ in range(_ROUNDS):
        asked = lib.dn_meter_now()
        comm.Send(told, 0)
        comm.Recv(told, 0)
        answered = lib.dn_meter_now()
        middle = (asked + answered) // 2
        rounds.append((answered - asked, middle, int(told[0]) - middle))
    took, local, ahead = min(rounds)
    return local, ahead, took // 2 + 1


def _head(here: World, **more: Any) -> dict[str, Any]:
    return {
        "size": here.size,
        "host": here.host,
        "process": os.getpid(),
        "attempt": int(os.environ.get("DIST_DYNET_ATTEMPT") or 0),
        "program": sys.argv,
        "time": time.time(),
        **more,
    }


def begin(here: World) -> None:
    """Starts the recording on all ranks, if rank 0 is asked to record. Collective."""
    folder, mark, failure = "", "", ""
    if here.rank == 0 and FILE:
        try:
            made = trace.reserve(Path(FILE).absolute())
            mark = f"of-{os.urandom(8).hex()}"
            (made / mark).touch()
            folder = str(made)
        except OSError as error:
            failure = str(error)
    folder, mark = here.comm.bcast((folder, mark))
    if failure:
        failures.report(f"timeline: cannot be made: {failure}. The job runs without.")
    if not folder:
        return
    comm = here.duplicate()
    local, ahead, error_ = compare_clocks(here, comm)
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        part = trace.open_part(path, here.rank, _head(here, clock_error_ns=error_))
        trace.write_sync(part, local, ahead)
    except OSError as error:
        failures.report(f"timeline: {error}. This rank will be missing.")
        part = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    recording = Recording(path, part, here, comm)
    recording.check_folder(mark)
    comm.Barrier()
    if here.rank == 0:
        with suppress(OSError):
            (path / mark).unlink()
    failures.at_end_of_job(recording.leave, recording.abort)


def _begin_alone(_: Trainer) -> None:
    global _alone
    if _alone is not None:
        return
    here = World(None)
    try:
        folder = trace.reserve(Path(FILE).absolute())
        part = trace.open_part(folder, 0, _head(here))
        trace.write_sync(part, lib.dn_meter_now(), 0)
    except OSError as error:
        failures.report(f"timeline: cannot be made: {error}. The program runs without.")
        return
    _alone = Recording(folder, part, here, None)
    atexit.register(_alone.leave)


_alone: Recording | None = None


def record_from_first_trainer() -> None:
    """In a single process, starts the recording with the first trainer, if there is a file."""
    if FILE and _launcher.find() is None:
        Hooks.on_new(Trainer, _begin_alone)
