"""Runs that are killed, in one process and with mpirun, go on to the bits of a run that nobody
disturbed; what goes wrong on ranks is named.

How long: about a minute.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from checkpoints import equal, names
from jobs import Job, environment_of, launch, mpirun, needs_mpi, start


class Run:
    """A run of tests/mpi/resume.py; alone, or with mpirun."""

    def __init__(self, ranks, folder, **options):
        arguments = [str(folder), *(f"{name}={value}" for name, value in options.items())]
        if ranks > 1:
            self.job = start(ranks, "resume.py", *arguments)
        else:
            self.job = Job(
                [sys.executable, "resume.py", *arguments],
                environment_of(sys.executable),
                stderr=subprocess.STDOUT,
            )
        self.ranks, self.output = ranks, ""

    def started(self):
        """The processes' ids by rank, when all are about to train."""
        while len(found := dict(re.findall(r"rank=(\d) process=(\d+)", self.output))) < self.ranks:
            line = self.job.process.stdout.readline()
            assert line, self.output
            self.output += line
        return {int(rank): int(process) for rank, process in found.items()}

    def end(self):
        """Exit status."""
        status, rest, _, _ = self.job.end()
        self.output += rest
        return status


def run(ranks, folder, status=0, **options):
    """What a run has come to."""
    this = Run(ranks, folder, **options)
    ended = this.end()
    assert (ended == 0) == (status == 0), this.output
    return this.output


def end_of(folder):
    with np.load(folder / "end.npz") as file:
        return dict(file)


TWO = pytest.param(2, marks=[pytest.mark.mpi, needs_mpi])
RANKS = pytest.mark.parametrize("ranks", [1, TWO])
CASES = {
    "middle": {"die": 10},
    "middle, while": {"die": 10, "loop": "while"},
    "first step": {"die": 0},
    "behind the loop": {"die": 12, "where": "behind", "every": 6},
    "behind the loop, epochs": {"die": 18, "where": "behind", "every": "epoch"},
    "signal": {"die": 9, "every": "epoch", "usr1": 7},
    "average": {"die": 10, "average": "yes"},
    "accumulation": {"die": 10, "accumulate": 2},
    "compression": {"die": 10, "compression": "bf16"},
    "time": {"die": 15, "every": "0.01s", "keep": 1},
}
ON_TWO = ("middle", "behind the loop, epochs", "signal", "accumulation", "compression")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run without checkpoints comes to, by ranks and options; computed once."""
    ends = {}

    def end(ranks, **options):
        key = (ranks, *sorted(options.items()))
        if key not in ends:
            folder = tmp_path_factory.mktemp("undisturbed")
            run(ranks, folder, every="none", **options)
            ends[key] = end_of(folder)
        return ends[key]

    return end


@pytest.mark.parametrize(
    ("ranks", "case"),
    [
        *((1, case) for case in CASES if "compression" not in CASES[case]),
        *(pytest.param(2, case, marks=[pytest.mark.mpi, needs_mpi]) for case in ON_TWO),
    ],
)
def test_killed_run_continues_to_the_same_bits(ranks, case, tmp_path, undisturbed):
    options = {**CASES[case]}
    rank = ranks - 1
    deadly = {
        name: f"{options.pop(name)}:{rank}" for name in ("die", "usr1") if name in options
    } | {"where": options.pop("where", "body")}
    run(ranks, tmp_path, status="killed", **options, **deadly)
    output = run(ranks, tmp_path, **options)
    assert output.count("resumed=True") == ranks
    if case == "signal":
        assert output.count("step=8\n") == ranks  # steps count from 0
    if case == "first step":
        assert output.count("step=0\n") == ranks
    model = {
        name: options[name] for name in ("average", "accumulate", "compression") if name in options
    }
    assert equal(end_of(tmp_path), undisturbed(ranks, **model))


@RANKS
def test_run_killed_at_random_moments_continues_to_the_same_bits(ranks, tmp_path, rng, undisturbed):
    kills = 0
    for _ in range(6 if ranks == 1 else 3):
        this = Run(ranks, tmp_path, every=1, rest=0.01)  # trains for 0.24 s at least
        processes = this.started()
        time.sleep(rng.uniform(0, 0.1))
        with suppress(ProcessLookupError):  # a later one may have come to its end
            os.kill(processes[int(rng.integers(ranks))], signal.SIGKILL)
        kills += this.end() != 0
    assert kills and run(ranks, tmp_path, every=1).count("resumed=True") == ranks
    assert equal(end_of(tmp_path), undisturbed(ranks))


def test_restarted_job_continues_to_the_same_bits(python, tmp_path, undisturbed):
    job = launch(python, "run", "-n", 2, "--max-restarts", 1, "resume.py", tmp_path, "die=13:1")
    assert job.returncode == 0 and job.stdout.count("resumed=True step=12") == 2, (
        job.stdout + job.stderr
    )
    assert equal(end_of(tmp_path), undisturbed(2))


@pytest.mark.mpi
@needs_mpi
def test_usr1_to_mpirun_makes_all_ranks_save_once(tmp_path, undisturbed):
    this = Run(2, tmp_path / "told", every="epoch", rest=0.03, epochs=2, keep=9)
    this.started()
    time.sleep(0.05)
    this.job.process.send_signal(signal.SIGUSR1)
    assert this.end() == 0, this.output
    steps = [name.split(":")[1] for name in names(tmp_path / "told") if name != "end.npz"]
    # the ranks may hear it one step apart
    assert len({*steps} - {"0", "6", "12"}) <= 1 and len(steps) in (4, 5)
    assert equal(end_of(tmp_path / "told"), undisturbed(2, epochs=2))


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_resume_with_another_number_of_ranks(before, after, tmp_path):
    run(before, tmp_path, status="killed", die="10:0")
    output = run(after, tmp_path)
    assert output.count("resumed=True step=9") == after
    end = end_of(tmp_path)
    assert end["trainer updates"] == 24 and end["settings"][-2:].tolist() == [4, 0]
    assert len(np.unique(end["draws"])) == end["draws"].size == 4 * after


WRONG = {
    "save on 0 alone": (75, "(?s)wait for one another in different places.*waits in checkpoint "),
    "save on 1 alone": (75, "(?s)wait for one another in different places.*waits in checkpoint "),
    "resume on 1 alone": (75, "(?s)wait for one another in different places.*waits in resume "),
    "last save on 0 alone": (76, r"checkpoint .*: waited .* rank 1 .* has left the program"),
    "unlike places": (
        1,
        r"at one place; got update, epoch, position \[\[4, 0, 0\], \[4, 1, 0\]\] by rank",
    ),
    "bad extra": (1, "TypeError: checkpoint: .*; got object at extra:here:deep"),
    "no MPI trainer": (1, "with 2 ranks trainer must be a DistributedTrainer; got AdamTrainer"),
}


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_on_several_ranks_is_named(how, tmp_path):
    status, output, _ = mpirun(2, "checkpoint.py", tmp_path, how, DIST_DYNET_SILENCE="1")
    expected, words = WRONG[how]
    assert status == expected and re.search(words, output), output


def test_full_disks_and_damaged_files_end_no_job(mpi, tmp_path):
    status, output, _ = mpirun(
        2,
        "checkpoint.py",
        tmp_path,
        "full disk",
        "damaged",
        "unlike extra",
        "join",
        "failing by itself",
        mpi=mpi,
    )
    assert status == 0, output
    for rank in range(2):
        assert re.search(
            rf"rank {rank}: \[Errno 27\] checkpoint: the file could not be .*full"
            r" disk/checkpoint-000002-step-4",
            output,
        ), output
    damaged = re.findall(
        "passes over '.*damaged/checkpoint-000002-step-4.*', which is damaged", output
    )
    assert len(damaged) == 1
    failed = re.findall(r"RuntimeWarning: checkpoint: a save has failed \(\[Errno 27\]", output)
    assert len(failed) == 2, output
