"""How a job ends when one rank fails, with each MPI: in time, with a status that is not 0, words
that name rank, host, place and cause, and with nothing left over (tests/jobs.py sees to that).
Checkpoints on full disks and damaged ones: test_resume.py; restarts: test_restarts.py.

How long: a minute for each MPI; most of it is waiting, with limits that are shorter than by
default.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import PROGRAMS, launch, mpirun, start

import dist_dynet

LIMIT = 15
"""Seconds in which a job with a failed rank is over."""
SHORT = {"DIST_DYNET_SILENCE": "1"}
RANK = r"rank 1 \(process \d+ on \S+\)"
LEFT = (
    rf" at fail\.py:\d+: waited \d+ s; {RANK} has left the program\. Every rank must make this call"
    r" equally often: call update\(\) also for batches without examples\."
)
PLACE = r"gradient exchange of update \d+ \(collective \d+\)"
WAITED = rf"{PLACE} at fail\.py:\d+: waited \d+ s"

FAILURES = {
    # by itself
    "raise": (1, r"^\[rank 1/2 on \S+\] ValueError: words of the exception"),
    "thread": (
        1,
        (
            r"^\[rank 1/2 on \S+\] in thread .*\n(.*\n)*\[rank 1/2 on \S+\] ValueError: words of"
            r" the thread"
        ),
    ),
    "interrupt": (130, r"^\[rank 1/2 on \S+\] KeyboardInterrupt"),
    "before start": (1, r"^\[rank 1/2 on \S+\] RuntimeError: bad data file"),
    # all ranks alike: whichever comes first ends the job
    "nan": (1, r"^\[rank \d/2 on \S+\] RuntimeError: Magnitude of gradient is bad: nan"),
    # leaves
    "exit 0": (76, rf"{PLACE}{LEFT}"),
    "exit 3": (76, rf"{PLACE}{LEFT}"),
    "early end": (76, rf"{PLACE}{LEFT}"),
    "extra": (76, rf"{PLACE}{LEFT}"),
    "alone": (76, rf"start of DistributedTrainer{LEFT}"),
    "leave 0": (
        76,
        (
            r"^\[rank 1/2 on \S+\] leaves by os\._exit\(0\) at fail\.py:\d+, not through the end of"
            r" the program"
        ),
    ),
    "leave 3": (
        3,
        (
            r"^\[rank 1/2 on \S+\] leaves by os\._exit\(3\) at fail\.py:\d+, not through the end of"
            r" the program"
        ),
    ),
    # gives no sign, or works for ever
    "stop": (75, rf"{WAITED}; {RANK} gives no answer: it is stopped, stuck or dead"),
    "stuck call": (
        1,
        (
            rf"{PLACE}: waited 3 s for rank 1; {RANK} gives no answer, but lives: it is in a"
            r" call that holds Python's lock"
        ),
    ),
    "long call": (
        1,
        (
            rf"{PLACE}: waited 3 s for rank 1; {RANK} gives no answer, but lives: it is in a"
            r" call that holds Python's lock"
        ),
    ),
    "loop": (1, rf"{PLACE}: waited 3 s for rank 1; {RANK} computes at fail\.py:\d+"),
    "barrier": (
        1,
        (
            rf"TimeoutError: \[rank 0/2\] barrier \(collective \d+\): waited 1 s for rank 1; {RANK}"
            r" computes at fail\.py:\d+"
        ),
    ),
    # does something else
    "order": (
        75,
        (
            r"in different places: this one waits in .* at fail\.py:\d+, rank \d \(process \d+ on"
            r" \S+\) waits in .* at fail\.py:\d+\. All ranks must make the same calls"
        ),
    ),
    "accumulation": (1, r"all ranks must agree; accumulation [12], .* on rank [01]\. Make it the"),
    "beside Join": (
        75,
        (
            r"in different places: .*waits in gradient exchange of update inside of Join \d+"
            r" .* All ranks must make .*Inside of Join only update\(\) of its trainer"
        ),
    ),
    "frozen": (1, '"/W" is frozen on some ranks only'),
    "missing parameter": (
        1,
        (
            r"\[rank (1/2\] DistributedTrainer .*: this rank|0/2\] DistributedTrainer .*: rank 1)"
            r' has 1 parameters, rank 0 has 2; first missing "/enc/V"\. Make the same parameters'
            r" on all ranks"
        ),
    ),
    "other dims": (1, r'rank 0 has "/enc/V" \(3,\)'),
}


@pytest.mark.parametrize("how", FAILURES)
def test_failure_of_one_rank_ends_the_job_with_a_message(how, mpi):
    patience = {"DIST_DYNET_TIMEOUT": "3"} if how in ("loop", "long call", "stuck call") else {}
    status, output, seconds = mpirun(2, "fail.py", how, mpi=mpi, **SHORT, **patience)
    expected, words = FAILURES[how]
    assert status == expected, output
    assert re.search(words, output, re.MULTILINE), output
    assert re.search(r"^\[rank \d/2 on ", output, re.MULTILINE), output
    assert str(Path(dist_dynet.__file__).parent) not in output  # short tracebacks
    assert seconds < LIMIT, output


@pytest.mark.parametrize("how", ["kill", "segv", "vanish 1", "vanish 0"])
def test_killed_rank_ends_the_job(how, mpi):
    """The launcher ends it, and gives the status; MPICH's takes C's _exit(0) for a good end."""
    status, output, seconds = mpirun(2, "fail.py", how, mpi=mpi)
    assert status != 0 or (how, mpi.name) == ("vanish 0", "mpich"), output
    assert seconds < LIMIT, output


def test_killed_rank_leaves_no_segment_in_shm(mpi):
    status, output, _ = mpirun(2, "segments.py", mpi=mpi)
    segments = re.findall(r"^/dev/shm/\S+", output, re.MULTILINE)
    assert status != 0 and segments, output
    assert not any(map(os.path.exists, segments)), output


@pytest.mark.parametrize("how", ["nothing", "late end", "fork", "fork leave", "busy call"])
def test_normal_end_is_not_disturbed(how, mpi):
    status, output, _ = mpirun(4 if how == "nothing" else 2, "fail.py", how, mpi=mpi, **SHORT)
    assert (status, output) == (0, "")


def test_what_a_rank_starts_is_no_rank(mpi):
    assert mpirun(2, "children.py", mpi=mpi)[:2] == (0, "ok\n")


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_program_may_call_finalize_by_itself(when, mpi):
    assert mpirun(2, "finalized.py", when, mpi=mpi, **SHORT)[:2] == (0, "ok\nok\n")


def test_job_that_is_suspended_continues(mpi):
    """All of it, for longer than any limit, while a rank waits: a batch system, or Ctrl-Z. The time
    counts for nothing."""
    job = start(2, "fail.py", "slow", mpi=mpi, **SHORT, DIST_DYNET_TIMEOUT="3")
    assert job.process.stdout.readline() == "slow\n"
    time.sleep(0.5)
    ranks = [
        process
        for process, command in job.processes().items()
        if command == f"{mpi.python} {PROGRAMS / 'fail.py'} slow"
    ]
    for number, pause in ((signal.SIGSTOP, 4), (signal.SIGCONT, 0)):
        for process in ranks:
            os.kill(process, number)
        time.sleep(pause)
    assert len(ranks) == 2 and job.end()[:2] == (0, "")


LAUNCHED = {
    "kill": (137, rf"^dist-dynet: {RANK} was killed by SIGKILL\.$"),
    "segv": (139, rf"^dist-dynet: {RANK} was killed by SIGSEGV\.$"),
    "vanish 0": (
        76,
        rf"^dist-dynet: {RANK} left with status 0, but not through the end of its program",
    ),
    "raise": (1, r"^\[1\] \[rank 1/2 on \S+\] ValueError: words of the exception$"),
    "stop": (
        75,
        (
            rf"^\[0\] \[rank 0/2 on \S+\] {WAITED}; {RANK} gives no answer: it is"
            r" stopped, stuck or dead"
        ),
    ),
}


@pytest.mark.parametrize("how", LAUNCHED)
def test_launcher_names_the_rank_that_fails(how, python):
    job = launch(python, "run", "-n", 2, "fail.py", how, limit=LIMIT, **SHORT)
    status, words = LAUNCHED[how]
    assert job.returncode == status, job.stderr
    assert re.search(words, job.stderr, re.MULTILINE), job.stderr


def test_what_a_killed_mpirun_has_left_prevents_no_start(python, tmp_path):
    """Open MPI's mpirun keeps files in a folder named after its process id, and gives up where one
    with files is there; process ids come again, in containers above all."""
    newest = int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))
    for process in range(newest, newest + 3000):
        left = tmp_path / f"ompi.{process}"
        left.mkdir()
        (left / "pmix.vm.tool").write_text("prterun-vm-1@0;tcp4://127.0.0.1:1\n")
    job = launch(python, "run", "-n", 2, "fail.py", "nothing", TMPDIR=str(tmp_path), limit=LIMIT)
    assert (job.returncode, job.stderr) == (0, "")
    assert not [*tmp_path.glob("dist-dynet-*")]
