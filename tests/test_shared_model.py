"""One copy of the model for the ranks of a host: tests/mpi/shared_model.py, which mpirun starts.

How long: 20 seconds.
"""

from pathlib import Path

import pytest
from jobs import mpirun, needs_mpi

import dist_dynet as dy
from dist_dynet import parallel

PROPERTIES = (
    "values_and_moments_lie_on_huge_pages",
    "memory_comes_home",
    "memory_of_a_model_that_goes_is_shared_no_more",
    "views_follow",
    "pieces_go_without_python",
    "own_write_is_seen_by_nobody_else",
    "own_write_is_refused_until_all_have_the_same",
    "unequal_values_stay_apart",
    "where_it_is_written_often_it_ends",
    "two_trainers_of_one_collection",
    "readers_in_threads",
    "refused_update_leaves_all_as_it_was",
)
_APART = "each rank keeps a model of its own"


def test_one_process_has_it_for_itself():
    m = dy.ParameterCollection()
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m), shared_model=True)
    trainer.update()
    assert trainer.sync.model is None


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("layout", ["aa", "aaa", "aab", "aabb"])
def test_drawn_programs_hold_the_same_bits(layout, seed):
    first, ranks = seed % 100_000, len(layout)
    on_hosts = ("as_hosts.py", layout) if "b" in layout else ()
    status, output, _ = mpirun(
        ranks, *on_hosts, "shared_model.py", "programs", first, first + 4, limit=120
    )
    assert (status, output) == (0, "ok\n")


@pytest.mark.mpi
@needs_mpi
def test_properties():
    assert mpirun(2, "shared_model.py", *PROPERTIES)[:2] == (0, "ok\n")


@pytest.mark.mpi
@needs_mpi
def test_memory_that_the_program_holds_is_not_shared():
    status, output, _ = mpirun(2, "shared_model.py", "written_by_the_program")
    assert status == 0 and output.count(f"{_APART} (rank 0: the program holds memory") == 1, output


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("layout", ["aab", "ab"])
def test_each_host_has_a_copy(layout):
    status, output, _ = mpirun(len(layout), "as_hosts.py", layout, "shared_model.py", "hosts")
    assert (status, output) == (0, "ok\n")


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("layout", ["aabb", "aaab"])
def test_ranks_take_their_own_of_the_sums_of_hosts(layout):
    program = "as_hosts.py", layout, "shared_model.py", "owners_between_hosts"
    assert mpirun(len(layout), *program)[:2] == (0, "ok\n")


@pytest.mark.mpi
@needs_mpi
def test_without_memory_each_rank_has_its_own():
    status, output, _ = mpirun(2, "shared_model.py", "no_memory", DIST_DYNET_SHARED_LIMIT="1e5")
    assert status == 0 and output.count(_APART) == 1, output
    assert "DIST_DYNET_SHARED_LIMIT=100000" in output


@pytest.mark.mpi
@needs_mpi
def test_killed_rank_leaves_nothing():
    def shared():
        folder = Path("/dev/shm")
        return {p.name for p in folder.iterdir()} if folder.exists() else set()

    before = {name for name in shared() if "dynet" in name}
    status, output, seconds = mpirun(2, "shared_model.py", "killed")
    assert status != 0 and seconds < 15 and "Traceback" not in output, output
    assert {name for name in shared() if "dynet" in name} == before
