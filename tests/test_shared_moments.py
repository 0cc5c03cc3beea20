"""The ranks of a host have one copy of a trainer's moments, and the same bits as by MPI.

How long: half a minute.
"""

import numpy as np
from jobs import mpirun, needs_mpi


def results(ranks, folder, **environment):
    """What the ranks of tests/mpi/shared_moments.py have written."""
    folder.mkdir()
    status, output, _ = mpirun(ranks, "shared_moments.py", folder, **environment)
    assert (status, output) == (0, "")
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]


def assert_equal(file, first):
    assert set(file) == set(first)
    for key, value in first.items():
        np.testing.assert_array_equal(file[key], value, err_msg=key)


@needs_mpi
def test_shared_moments_give_the_bits_of_mpi(tmp_path):
    by_mpi = results(2, tmp_path / "mpi", DIST_DYNET_EXCHANGE="mpi")
    for file in (by_mpi[1], *results(2, tmp_path / "auto")):
        assert_equal(file, by_mpi[0])


@needs_mpi
def test_shared_moments_are_alike_on_three_ranks(tmp_path):
    first, *others = results(3, tmp_path / "auto")
    for file in others:
        assert_equal(file, first)


@needs_mpi
def test_moments_are_private_without_enough_shared_memory(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    status, output, _ = mpirun(
        2, "shared_moments.py", folder, DIST_DYNET_SHARED_LIMIT="60000", SHARES="0"
    )
    assert status == 0
    assert "exchanged by MPI instead of shared memory" in output
