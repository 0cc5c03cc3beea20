"""N ranks end where one process ends, in every loop, or the program is refused with an error
message: drawn programs, and each kind of loop by itself."""

import os

import pytest
from jobs import mpirun, needs_mpi
from loop_check import JOBS, check, check_resumed

pytestmark = [pytest.mark.mpi, needs_mpi]
PROGRAMS = 30


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job[0]}-{job[1]}")
def test_ranks_end_where_one_process_ends(job, tmp_path):
    check(0, PROGRAMS, tmp_path, [job])


@pytest.mark.slow
def test_killed_programs_continue_to_the_same_end(tmp_path):
    check_resumed(0, PROGRAMS // 2, tmp_path)


def test_a_doubt_on_one_rank_is_said_before_what_differs_for_its_sake(tmp_path):
    check(8205, 1, tmp_path, JOBS)  # reads ahead, in no_sync(), with an empty part


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_kind_of_loop(ranks):
    status, output, _ = mpirun(ranks, "kinds_of_loops.py", DIST_DYNET_DTYPE="float64")
    assert status == 0 and output == "ok\n", output


def test_ranks_that_read_other_data_get_an_error(tmp_path):
    for rank in range(2):
        lines = ["one", "two", "three"] if rank == 0 else ["two", "one", "three"]
        (tmp_path / str(rank)).write_text(os.linesep.join(lines))
    status, output, _ = mpirun(2, "other_data.py", tmp_path)
    assert status == 0 and output == "ok\n", output


def test_ranks_whose_costs_or_weights_differ_are_refused():
    assert mpirun(2, "other_costs.py")[:2] == (0, "ok\n")


def test_shards_and_trainers_over_other_ranks():
    assert mpirun(4, "other_ranks.py")[:2] == (0, "ok\n")


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_that_train_each_by_itself_are_warned_of(ranks):
    assert mpirun(ranks, "plain_trainers.py")[:2] == (0, "ok\n")
