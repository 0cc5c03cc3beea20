"""Decides which run may save into a directory: a file there names the run, which touches it every
ten seconds for as long as it lives.

If two runs could both save, the newer attempt of the same job wins, and otherwise a live run wins
over one that comes later. This module knows processes, hosts and attempts, and nothing about
checkpoints.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..._deferred_signals import DeferSignals
from ..processes.failures import report

BEAT = 10.0
"""Seconds between two touches of the file."""
PATIENCE = 45.0
"""Seconds without a touch after which a run on another host is considered dead."""
FAREWELL = 5.0
"""Seconds that a process of this host has to end."""
NAME = ".checkpoint.lease"


class LostLeaseError(RuntimeError):
    """Another run saves into this directory."""


@dataclass(frozen=True)
class Owner:
    """A Checkpointer in a process of an attempt of a job."""

    token: str
    host: str
    machine: str  # equal where process numbers can be compared; empty: they never can
    process: int
    started: str  # start time of the process, in system ticks
    job: str  # of the batch system; empty: none
    requeues: int
    launcher: str  # identifies one start of `dist-dynet run`; empty: none
    attempt: int

    @classmethod
    def here(cls, token: str, environment: Mapping[str, str] = os.environ) -> Owner:
        """The present process."""
        process = os.getpid()
        return cls(
            token,
            socket.gethostname(),
            _machine(),
            process,
            _started(process),
            environment.get("SLURM_JOB_ID", ""),
            _number(environment.get("SLURM_RESTART_COUNT")),
            environment.get("DIST_DYNET_PROGRESS", ""),
            _number(environment.get("DIST_DYNET_ATTEMPT")),
        )

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """The owner named in a file; None: there is no file, or it names none.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def follows(self, other: Owner) -> bool:
        """Whether this is a later attempt of the same job."""
        if self.job and self.job == other.job and self.requeues != other.requeues:
            return self.requeues > other.requeues
        same = (self.job, self.launcher) == (other.job, other.launcher)
        return same and bool(self.launcher) and self.attempt > other.attempt

    def lives(self, here: Owner) -> bool | None:
        """Whether its process lives, as far as this process can see; None: unknown."""
        if not self.machine or self.machine != here.machine:
            return None
        return _started(self.process) == self.started

    def __str__(self) -> str:
        attempt = f", attempt {self.attempt}" if self.launcher else ""
        job = f", job {self.job}" if self.job else ""
        return f"process {self.process} on {self.host}{job}{attempt}"


class Lease:
    """The right of one Checkpointer to save into a directory."""

    def __init__(self, directory: Path) -> None:
        self._path, self._token = directory / NAME, os.urandom(8).hex()
        self._ended: threading.Event | None = None
        self._process = 0

    def claim(self) -> bool:
        """Makes sure that this run has the lease. Returns whether it has just taken it.

        The lease is taken from a run of this host that has ended, from an older attempt, and from a
        run of another host that has not touched its file for 45 s. Within a process the newest
        Checkpointer has it.

        Raises:
            LostLeaseError: another run has it; it names that.
            OSError: the file cannot be written.
        """
        here = Owner.here(self._token)
        if self._process != here.process:
            self._take(here)
            return True
        if not self._path.exists():  # the directory was emptied
            self._keep(here)
        self.check()
        return False

    def check(self) -> None:
        """Makes sure that this run still has the lease.

        Raises:
            LostLeaseError: another run has it.
        """
        owner, me = Owner.read(self._path), os.getpid()
        if owner is not None and (owner.token != self._token or owner.process != me):
            other = "another Checkpointer of this process" if owner.process == me else str(owner)
            raise LostLeaseError(
                f"checkpoint: '{self._path.parent}' must be saved to by one run; {other} has taken"
                " it over, and this one writes no more, so that it spoils nothing. End it if the"
                " other goes on from its checkpoints; give each a directory of its own if both are"
                " wanted."
            )

    def _take(self, here: Owner) -> None:
        start, seen = time.monotonic(), 0.0
        while self._path.exists():
            owner = Owner.read(self._path)
            alive = owner.lives(here) if owner is not None else None
            if owner is not None and (
                alive is False or here.follows(owner) or (alive and owner.process == here.process)
            ):
                break
            if alive is None:
                now, touched = self._times(here)
                if now - touched > PATIENCE:
                    break
                lives = seen not in (0.0, touched)
                if not seen:
                    report(
                        f"checkpoint: '{self._path.parent}' was saved to by"
                        f" {owner or 'another run'}; looks for up to {PATIENCE:.0f} s whether that"
                        " lives."
                    )
                seen = touched
            else:
                lives = time.monotonic() - start > FAREWELL
            if lives or (owner is not None and owner.follows(here)):
                raise LostLeaseError(
                    f"checkpoint: '{self._path.parent}' must be saved to by one run;"
                    f" {owner or 'another one'} lives and saves to it. End that one, or give this"
                    " one a directory of its own."
                )
            time.sleep(min(BEAT, FAREWELL) / 20)
        self._keep(here)

    def _times(self, here: Owner) -> tuple[float, float]:
        """The present time, and when the file was touched, both by the clock of the file system."""
        probe = self._path.with_name(f"{NAME}.{here.token}.tmp")
        try:
            probe.write_text("", encoding="utf-8")
            return probe.stat().st_mtime, self._path.stat().st_mtime
        except FileNotFoundError:
            return float("inf"), 0.0
        finally:
            with suppress(OSError):
                probe.unlink()

    def _keep(self, here: Owner) -> None:
        """Puts the file in place atomically, and keeps touching it."""
        draft = self._path.with_name(f"{NAME}.{here.token}.tmp")
        try:
            draft.write_text(json.dumps(asdict(here)), encoding="utf-8")
            draft.replace(self._path)
        finally:
            with suppress(OSError):
                draft.unlink()
        if self._process != here.process:
            ended = threading.Event()
            thread = threading.Thread(
                target=_touch, args=(self._path, here, ended), name="dist_dynet lease", daemon=True
            )
            with DeferSignals():  # last: what fails is tried again by the next save
                thread.start()
                weakref.finalize(self, _release, self._path, here, ended)
                self._process = here.process


def _touch(path: Path, owner: Owner, ended: threading.Event) -> None:
    """Touches the file until `ended` is set or another run has taken over."""
    while not ended.wait(BEAT):
        with suppress(OSError):  # the next beat tries again
            there = Owner.read(path)
            if there is not None and there.token != owner.token:
                return
            os.utime(path)


def _release(path: Path, owner: Owner, ended: threading.Event) -> None:
    ended.set()
    with suppress(OSError):
        if os.getpid() == owner.process and Owner.read(path) == owner:
            path.unlink()


def _machine() -> str:
    """Equal for processes whose numbers and start times can be compared; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """When a process of this machine started; empty if it does not exist or is dead."""
    try:
        # the name, in brackets, may be of any bytes
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in b"ZX" else fields[19].decode()


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
