"""Compares drawn training programs (mpi/loops.py) on several ranks with one process: python
tests/loop_check.py FIRST COUNT

The law: N ranks end where one process ends, or the program is refused with an error message on all
of them.
"""

import pickle
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from jobs import mpirun, run_program

JOBS = ((1, "auto", ""), (2, "shared", ""), (3, "hybrid", "aab"), (5, "mpi", ""))
"""Ranks, exchange, and hosts as as_hosts.py takes them."""
TOLERANCE = 1e-10
LIMIT = 600


def run(mode, first, count, out, ranks, exchange="auto", hosts=""):
    """What the job has written: by program the parameters at its end and the words of a refusal."""
    arguments = [mode, first, count, out]
    environment = {"DIST_DYNET_DTYPE": "float64", "DIST_DYNET_EXCHANGE": exchange}
    if hosts:
        status, output, _ = mpirun(
            ranks, "as_hosts.py", hosts, "loops.py", *arguments, limit=LIMIT, **environment
        )
    else:
        status, output, _ = mpirun(ranks, "loops.py", *arguments, limit=LIMIT, **environment)
    if status:
        raise AssertionError(f"{mode} on {ranks} ranks by {exchange}: status {status}\n{output}")
    return pickle.loads(Path(out).read_bytes())


def run_plain(first, count, out, ranks):
    """In one process, without parallel's trainer; a Join is among so many ranks."""
    result = run_program("loops.py", "plain", first, count, out, ranks, DIST_DYNET_DTYPE="float64")
    if result.returncode:
        raise AssertionError(result.stderr)
    return pickle.loads(Path(out).read_bytes())


def differences(expected, got, same_bits=False):
    """The programs that end elsewhere, the greatest difference of the others, and how many were
    refused."""
    wrong, worst, refused = [], 0.0, 0
    for seed, (values, _) in expected.items():
        there, words = got[seed]
        off = float(np.max(np.abs(values - there) / (1 + np.abs(values))))
        refused += bool(words)
        if not off <= (0 if same_bits else TOLERANCE):
            wrong.append((seed, off, words))
        else:
            worst = max(worst, off)
    return wrong, worst, refused


def check(first, count, folder, jobs=JOBS):
    """All programs as they are: raises an AssertionError that names those that end elsewhere;
    (greatest difference, refusals)."""
    worst, refused, wrong = 0.0, 0, {}
    for ranks, exchange, hosts in jobs:
        expected = run_plain(first, count, folder / f"plain{ranks}", ranks)
        bad, off, words = differences(
            expected, run("run", first, count, folder / f"run{ranks}", ranks, exchange, hosts)
        )
        worst, refused = max(worst, off), refused + words
        if bad:
            wrong[ranks, exchange] = bad
    assert not wrong, wrong
    return worst, refused


def check_resumed(first, count, folder, pairs=((1, 1), (2, 2), (3, 2), (2, 5))):
    """The same for programs that are killed on some ranks and go on on others: with as many to the
    bit."""
    worst, wrong = 0.0, {}
    for before, after in pairs:
        expected = run_plain(first, count, folder / f"resumable-plain{after}", after)
        undisturbed = run("run", first, count, folder / f"resumable-run{after}", after)
        out = folder / f"resumable{before}-{after}"
        run("begin", first, count, out, before)
        resumed = run("resume", first, count, out, after)
        shutil.rmtree(f"{out}.runs")
        bad, off, _ = differences(expected, resumed)
        if before == after:
            bad += differences(undisturbed, resumed, same_bits=True)[0]
        worst = max(worst, off)
        if bad:
            wrong[before, after] = bad
    assert not wrong, wrong
    return worst


if __name__ == "__main__":
    start, number = int(sys.argv[1]), int(sys.argv[2])
    for at in range(start, start + number, 25):
        with tempfile.TemporaryDirectory() as name:
            n = min(25, start + number - at)
            print(
                at,
                n,
                "worst, refused:",
                *check(at, n, Path(name)),
                "resumed, worst:",
                check_resumed(at, n, Path(name)),
                flush=True,
            )
