"""A job that fails is started again: how often, and when that is of no use.

The script finds its newest checkpoint itself (`Checkpointer.resume()`). What is known here of
checkpoints is a file that each finished one adds a line to: its name is in DIST_DYNET_PROGRESS.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ._messages import print_message
from .attempt import Attempt, Job, Signals
from .output import Logs, Screen


def run_attempts(
    job: Job, environment: dict[str, str], max_restarts: int, screen: Screen, log_dir: Path | None
) -> int:
    """Runs the job until it ends well, is ended by a signal, or there is no point in starting it
    again; its exit status."""
    with tempfile.TemporaryDirectory(prefix="dist-dynet-") as folder, Signals() as signals:
        # set by the user where rank 0 is on another host than the launcher
        progress = Path(environment.get("DIST_DYNET_PROGRESS") or Path(folder) / "progress")
        for number in range(max_restarts + 1):
            before = _size(progress)
            logs = Logs(log_dir / f"attempt-{number}") if log_dir else None
            variables = {
                **environment,
                "DIST_DYNET_ATTEMPT": str(number),
                "DIST_DYNET_PROGRESS": str(progress),
            }
            outcome = Attempt(job, variables, signals, screen, logs).run()
            if outcome.words:
                print_message(outcome.words)
            if outcome.status == 0 or outcome.signal or not max_restarts:
                break
            if not _start_again(number, max_restarts, before, _size(progress)):
                break
        return outcome.status


def _size(progress: Path) -> int:
    """Grows with each finished checkpoint."""
    try:
        return progress.stat().st_size
    except OSError:
        return 0


def _start_again(number: int, most: int, before: int, now: int) -> bool:
    """Whether attempt `number`, which has failed, is to be followed by another one; says why.

    Without any checkpoint the next attempt begins anew: that helps a program that keeps its own,
    and does no harm to another.
    """
    if number == most:
        print_message(f"gives up: failed {number + 1} times." if number else "gives up.")
        return False
    if now and now == before:
        print_message(
            "gives up: there is no new checkpoint since the last start, so the job would fail at"
            " the same place again."
        )
        return False
    whence = (
        "from the newest checkpoint"
        if now
        else "from the beginning, because no checkpoint was ever written"
    )
    print_message(f"starts again {whence} (restart {number + 1} of {most}).")
    return True
