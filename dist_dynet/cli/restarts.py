"""Restarts of a job that fails: how often, after which pause, and when there is no point.

The script finds its newest checkpoint itself (`Checkpointer.resume()`). All that is known here of
checkpoints is a file, named by DIST_DYNET_PROGRESS, to which rank 0 adds a line `STEP` for each
finished checkpoint, and a line `resumed STEP` when it resumes from one. Before there is
either, a restart would repeat the failure, unless a host failed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ._messages import RefusedError, print_message, temporary_files
from .attempt import Attempt, Job, Outcome, Signals
from .output import Logs, Screen

FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
"""Seconds before a start that follows one without progress. Each further pause doubles, up to the
last."""
MOST_IN_VAIN = 3
"""After so many starts in a row without progress there is no further one."""


class Progress:
    """The checkpoints that rank 0 has reported. Of a file that existed before, only new lines
    count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = False
        """Whether a checkpoint is known to exist."""
        self._read, self._newest = len(self._content()), -1

    def advances(self) -> bool:
        """Whether there is a checkpoint with more updates than any before the last call."""
        content = self._content()
        added, self._read = content[self._read :], len(content)
        before = self._newest
        for line in added.decode(errors="replace").splitlines():
            step = line.removeprefix("resumed ")
            # a program's own lines need not be numbers
            number = int(step) if step.isdecimal() else self._newest + 1
            self.known = True
            self._newest = max(self._newest, number)
            if step != line:
                before = max(before, number)
        return self._newest > before

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""


def run_attempts(
    next_job: Callable[[Outcome | None, str], Job],
    max_restarts: int,
    screen: Screen,
    log_dir: Path | None,
    ended: Callable[[], object] = bool,
) -> int:
    """Runs jobs until one ends well or by a signal, or another attempt has no point; returns the
    exit status. `next_job` makes each job from the outcome of the previous one and an empty folder
    for its use; `ended` is called when nothing of a job is left.

    Raises:
        RefusedError: there is no first job.
    """
    with temporary_files():
        temporary = tempfile.TemporaryDirectory(prefix="dist-dynet-", ignore_cleanup_errors=True)
    with temporary as folder, Signals() as signals:
        # set by the user where rank 0 is on another host than the launcher
        path = Path(os.environ.get("DIST_DYNET_PROGRESS") or Path(folder) / "progress")
        progress, in_vain, pause = Progress(path), 0, FIRST_PAUSE
        outcome: Outcome | None = None
        for number in range(max_restarts + 1):
            logs = Logs(log_dir / f"attempt-{number}") if log_dir else None
            variables = {"DIST_DYNET_ATTEMPT": str(number), "DIST_DYNET_PROGRESS": str(path)}
            try:
                with temporary_files():
                    own = tempfile.mkdtemp(dir=folder)
                job = next_job(outcome, own)
                outcome = Attempt(job, variables, signals, screen, logs).run()
                ended()
            except RefusedError as refusal:
                if outcome is None:
                    raise
                outcome = Outcome(1, str(refusal), started=False)
            if outcome.words:
                print_message(outcome.words)
            if outcome.status == 0 or outcome.signal or not max_restarts:
                break
            advances = progress.advances()
            if advances:
                in_vain, pause = 0, FIRST_PAUSE
            elif outcome.started:
                in_vain += 1
            # a rank that was killed or is missing may be a failure of its host
            by_program = outcome.started and not (outcome.killed or outcome.missing)
            is_hopeless = by_program and not progress.known
            if reason := _end_of_restarts(number, max_restarts, in_vain, is_hopeless):
                print_message(f"gives up: {reason}")
                break
            _say_next(0 if advances else pause, progress.known, f"{number + 1} of {max_restarts}")
            if not advances:
                signals.pause(pause)
                pause = min(2 * pause, LAST_PAUSE)
            if signals.received:
                return 128 + signals.received[0]
        assert outcome is not None
        return outcome.status


def _end_of_restarts(number: int, most: int, in_vain: int, is_hopeless: bool) -> str:
    """Why the failed attempt `number` is the last one; empty if it is not."""
    if is_hopeless:
        return "failed before its first checkpoint, so the job would fail at the same place again."
    if number == most:
        return f"failed {number + 1} times."
    if in_vain == MOST_IN_VAIN:
        return (
            f"{in_vain} starts in a row have brought no new checkpoint, so the job would fail at"
            " the same place again."
        )
    return ""


def _say_next(pause: float, known: bool, restart: str) -> None:
    when = f" in {pause:g} s" if pause else ""
    whence = " from the newest checkpoint" if known else "; no checkpoint of it is known"
    print_message(f"starts again{when}{whence} (restart {restart}).")
