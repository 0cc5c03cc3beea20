"""Starts jobs of several ranks, with mpirun or `dist-dynet run`, under either MPI, and sees to it
that nothing of a job is left over.

The fixture `mpi` (conftest.py) runs a test with each MPI: MPICH, or whatever is beside this Python;
Open MPI, in a venv whose Python DIST_DYNET_TEST_OPENMPI names.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import HERE, PACKAGE

PROGRAMS = HERE / "mpi"
NAMESPACE_HOSTS = HERE.parent / "scripts" / "namespace_hosts.sh"
SCRIPT = "launched.py"
"""One of them, for launchers: without MPI."""
_LAUNCHERS = ("PMI", "HYDI", "MPI_", "OMPI_", "PMIX", "PRTE", "SLURM_")
"""How variables begin that a launcher sets: a job must not think that it is part of another one."""
_folder = tempfile.TemporaryDirectory(prefix="dist-dynet-tests-", ignore_cleanup_errors=True)
"""For what Open MPI's processes keep on the hosts while a job runs: they do not start where a
folder named after their process id was left by one that was killed."""
_MARK = "JOB_OF_A_TEST"
_numbers = itertools.count()


def _new_folder():
    """The name of one that is not there."""
    return f"{_folder.name}/{next(_numbers)}"


class Mpi(NamedTuple):
    """An MPI: its name, and the Python whose mpi4py loads it."""

    name: str
    python: str

    @property
    def mpirun(self):
        """None if there is none."""
        beside = Path(self.python).with_name("mpirun")
        return str(beside) if beside.exists() else shutil.which("mpirun")


_here = Mpi("mpich", sys.executable)
_is_openmpi = _here.mpirun is not None and Path(_here.mpirun).with_name("ompi_info").exists()
HERE_MPI = _here._replace(name="openmpi") if _is_openmpi else _here
needs_mpi = pytest.mark.skipif(
    find_spec("mpi4py") is None or HERE_MPI.mpirun is None,
    reason="needs mpi4py and mpirun, of the extra mpi",
)
_other = os.environ.get("DIST_DYNET_TEST_OPENMPI", "")
_needs_other = pytest.mark.skipif(
    not _other, reason="DIST_DYNET_TEST_OPENMPI names no Python of a venv with mpi4py and openmpi"
)
MPIS = [
    pytest.param(HERE_MPI, id=HERE_MPI.name, marks=[pytest.mark.mpi, needs_mpi]),
    pytest.param(Mpi("openmpi", _other), id="openmpi", marks=[pytest.mark.mpi, _needs_other]),
]


def environment_of(python, **changed):
    """What a job of this Python finds in its environment: the package under test, and no trace of
    another job's launcher or settings."""
    # beside the sources there is no other copy; installed, each venv has its own
    sources = PACKAGE if (PACKAGE / "pyproject.toml").exists() or python == sys.executable else ""
    clean = {k: v for k, v in os.environ.items() if not k.startswith((*_LAUNCHERS, "DIST_DYNET_"))}
    # programs share modules
    path = os.pathsep.join(
        str(p) for p in (sources, PROGRAMS, os.environ.get("PYTHONPATH", "")) if p
    )
    # of other seeds on other ranks there are warnings
    environment = {"PYTHONHASHSEED": "0", **clean, "PYTHONPATH": path}
    # the launcher has one of its own where it runs
    environment |= {"PRTE_MCA_prte_remote_tmpdir_base": _new_folder(), **changed}
    return {name: value for name, value in environment.items() if value is not None}


class Job:
    """A command that was started, and everything that it starts."""

    def __init__(self, command, environment, stderr=subprocess.PIPE):
        self._mark = f"{os.getpid()}-{next(_numbers)}"
        self.command, self.since = command, time.monotonic()
        self.process = subprocess.Popen(
            command,
            env={**environment, _MARK: self._mark},
            cwd=PROGRAMS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def processes(self):
        """Those that are there now: command lines by process id. They are known by what they have
        inherited in the environment."""
        entry, found = f"{_MARK}={self._mark}".encode(), {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # has ended, or is another user's
                if entry in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (
                        (folder / "cmdline")
                        .read_bytes()
                        .replace(b"\0", b" ")
                        .decode(errors="replace")
                        .strip()
                    )
        return found

    def end(self, limit=120):
        """Status, what was written to both streams, and seconds, when the job is over;
        AssertionError if it is not, or leaves something."""
        try:
            out, err = self.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            there = self.processes()
            self.kill()
            out, err = self.process.communicate()
            raise AssertionError(
                f"not over after {limit} s: {self.command}\n{there}\n{out}{err or ''}"
            ) from None
        seconds = time.monotonic() - self.since
        left = self.left()
        self.kill()
        assert not left, f"left over by {self.command}: {left}\n{out}{err or ''}"
        return self.process.returncode, out, err, seconds

    def left(self, seconds=5):
        """What is still there: after the end of mpirun the kernel may need a moment."""
        end = time.monotonic() + seconds
        while (there := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return there

    def kill(self):
        """Ends what is there, by process id."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def need_namespace_hosts(*options):
    """Skips the test, with the reason, where scripts/namespace_hosts.sh can make no hosts."""
    tried = subprocess.run(
        [*map(str, (NAMESPACE_HOSTS, *options)), "true"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if tried.returncode == 77:
        pytest.skip(tried.stderr.strip())
    assert tried.returncode == 0, tried.stderr


def run_program(program, *arguments, **environment):
    """Runs a program of tests/mpi in one process, without a launcher: a
    subprocess.CompletedProcess."""
    return launch(sys.executable, *arguments, program=[PROGRAMS / program], **environment)


def start(ranks, program, *arguments, mpi=HERE_MPI, **environment):
    """Starts a program of tests/mpi as a user does with mpirun; both streams come together."""
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    crowded = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    local = {"PRTE_MCA_prte_local_tmpdir_base": _new_folder()}
    command = [
        mpi.mpirun,
        "-n",
        str(ranks),
        mpi.python,
        str(PROGRAMS / program),
        *map(str, arguments),
    ]
    return Job(
        command,
        environment_of(mpi.python, **as_root, **crowded, **local, **environment),
        stderr=subprocess.STDOUT,
    )


def mpirun(ranks, program, *arguments, mpi=HERE_MPI, limit=120, **environment):
    """Runs a program of tests/mpi with mpirun; (status, what it wrote, seconds). On a busy machine
    ranks wait for one another, of which nothing is said."""
    environment = {"DIST_DYNET_METRICS_EVERY": "inf", **environment}
    status, output, _, seconds = start(ranks, program, *arguments, mpi=mpi, **environment).end(
        limit
    )
    return status, output, seconds


_together = {}
"""What jobs of several properties have said, by what was started."""


def holds(name, names, ranks, *program):
    """AssertionError unless a property holds of which a program of tests/mpi writes "ok".

    All names, this one among them, are properties that one job tries in turn, for the module that
    asks: to start ranks takes longer than most. What comes behind one that fails is tried by
    itself. So does a module in ONE_WORKER of conftest.py.
    """
    if (key := (names, ranks, program)) not in _together:
        _together[key] = mpirun(ranks, *program, *names, limit=120)[:2]
    status, output = _together[key]
    good = (status, output) == (0, "ok\n" * len(names))
    held = len(names) if good else min(re.match(r"(ok\n)*", output).end() // 3, len(names) - 1)
    if names.index(name) > held:
        status, output = mpirun(ranks, *program, name)[:2]
        held = names.index(name) + ((status, output) == (0, "ok\n"))
    assert names.index(name) < held, f"status {status}\n{output}"


def lines_of(text, rank):
    """What a rank has written, without its name in front."""
    return [
        line.removeprefix(f"[{rank}] ")
        for line in text.splitlines()
        if line.startswith(f"[{rank}] ")
    ]


def start_launcher(python, *arguments, before=(), program=("-m", "dist_dynet"), **environment):
    """Starts `python -m dist_dynet ARGUMENTS` as a user does, in the folder tests/mpi.

    `before` is a command that runs it, `program` what Python runs instead; without a Python it runs
    itself.
    """
    return Job(
        [
            *map(str, before),
            *([python] if python else []),
            *map(str, program),
            *map(str, arguments),
        ],
        environment_of(python, **environment),
    )


def launch(python, *arguments, wait=True, limit=120, **options):
    """start_launcher() to its end: a subprocess.CompletedProcess; or, without waiting, the
    process."""
    job = start_launcher(python, *arguments, **options)
    if not wait:
        return job.process
    status, out, err, _ = job.end(limit)
    return subprocess.CompletedProcess(job.command, status, out, err)


def alone(*arguments, **environment):
    """`dist-dynet run` by this Python."""
    return launch(sys.executable, "run", *arguments, **environment)


def started(python, ranks, *arguments, **options):
    """A job whose ranks sleep: the launcher, and the processes of the ranks and of their
    children."""
    ours = [] if "program" in options else ["run", "-n", ranks, *arguments]
    job = launch(python, *ours, SCRIPT, "-", "sleep", wait=False, **options)
    processes = []
    while len(processes) < 2 * ranks:
        line = job.stdout.readline()
        assert line, job.stderr.read()
        processes += map(int, line.partition("processes ")[2].split())
    return job, processes


def is_running(process):
    """Also False for a process that has ended and that nobody has asked about."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def all_gone(processes, seconds=10):
    """Whether all have ended, within these seconds."""
    limit = time.monotonic() + seconds
    while any(map(is_running, processes)) and time.monotonic() < limit:
        time.sleep(0.05)
    return not any(map(is_running, processes))


def program(path, text):
    """A shell script that can be run: a stand-in for a program that is not here."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
