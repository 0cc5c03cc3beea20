"""What differs between the processes of a job without a word is found when the first trainer is
made."""

import os
import subprocess
import sys

import pytest
from jobs import mpirun, needs_mpi
from processes import PACKAGE

from dist_dynet.parallel.processes import environment

pytestmark = [pytest.mark.mpi, needs_mpi]


def test_ranks_that_are_alike_say_nothing():
    status, output, _ = mpirun(2, "environment.py", PYTHONHASHSEED="0")
    assert status == 0 and output == "ok\n"


def test_string_hashes_that_differ_are_said_once():
    status, output, _ = mpirun(3, "environment.py", PYTHONHASHSEED="random")
    assert status == 0 and "ok" in output.splitlines()
    assert output.count("Python hashes strings differently on each rank") == 1, output
    assert "PYTHONHASHSEED=0" in output and "mpi/environment.py:16: RuntimeWarning" in output


@pytest.mark.parametrize("name", ["Python", "NumPy"])
def test_other_versions_are_said_once(name):
    status, output, _ = mpirun(2, "environment.py", name, PYTHONHASHSEED="0")
    assert (
        status == 0
        and output.count(f"ranks have different versions of {name}") == 1
        and "another on rank 1" in output
    ), output


@pytest.mark.parametrize("name", ["dist_dynet", "dtype", "precision"])
def test_another_version_of_the_package_is_an_error(name):
    status, output, _ = mpirun(2, "environment.py", name, PYTHONHASHSEED="0")
    assert (
        status != 0
        and f"all ranks must have the same {name}; got {environment.describe()[name]} on rank 0, another on rank 1"  # noqa: E501
        in output
    )


def test_precision_is_that_of_the_process():
    program = (
        "from dist_dynet.parallel.processes import environment;"
        " print(environment.describe()['precision'])"
    )
    for precision in ("float32", "bf16"):
        environment = {
            **os.environ,
            "PYTHONPATH": str(PACKAGE),
            "DIST_DYNET_DTYPE": "float32",
            "DIST_DYNET_PRECISION": precision,
        }
        said = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True
        ).stdout
        assert said.decode().strip() == precision


def test_everything_that_trainers_are_given_is_compared():
    status, output, _ = mpirun(2, "constants.py")
    assert status == 0 and output == "ok\n", output


def test_indicator_tells_seeds():
    program = (
        "from dist_dynet.parallel.processes import environment; print(environment.hash_indicator())"
    )
    environments = [
        {**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": seed} for seed in "001"
    ]
    numbers = [
        subprocess.run(
            [sys.executable, "-c", program], env=e, capture_output=True, check=True
        ).stdout
        for e in environments
    ]
    assert numbers[0] == numbers[1] != numbers[2]
