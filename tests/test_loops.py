"""N ranks end where one process ends, in every loop, or the program is refused with an error
message: each kind of loop by itself. Drawn programs: test_fuzz_ranks.py."""

import os

import pytest
from jobs import HERE_MPI, mpirun, needs_mpi

pytestmark = [pytest.mark.mpi, needs_mpi]


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


@pytest.mark.skipif(HERE_MPI.name != "mpich", reason="of Open MPI a child is known to be no rank")
def test_a_forked_child_and_its_parent_are_not_one_rank():
    status, output, _ = mpirun(2, "forked_early.py")
    assert status == 1 and "has started MPI as this rank" in output, output


def test_communicators_with_processes_of_no_rank_are_refused():
    status, output, _ = mpirun(2, "spawned.py")
    if "Spawn(): " in output:
        pytest.skip(output)
    assert (status, output) == (0, "ok\n")


def test_trainers_of_one_model_over_other_ranks_update_in_turn():
    status, output, _ = mpirun(4, "in_turn.py")
    assert status == 0 and output.endswith("ok\n"), output
    assert "those of this model lie in memory that a trainer over other ranks shares" in output
    assert "each rank keeps a model of its own (a trainer over other ranks" in output


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_that_train_each_by_itself_are_warned_of(ranks):
    assert mpirun(ranks, "plain_trainers.py")[:2] == (0, "ok\n")


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "kind", ["zip", "max", "stack", "index", "function", "generator", "wordless"]
)
def test_what_fails_on_a_rank_without_examples_says_what_to_write(kind, ranks):
    """Of one that has some, or whose loops have ended, nothing is said."""
    status, output, _ = mpirun(ranks, "empty.py", kind)
    words = "The batch of this rank in step 2 of epoch 0 of shard() has no examples. Write `if"
    assert status == 1 and words in output, output


@pytest.mark.parametrize("kind", ["of another", "after", "interrupt", "refused"])
def test_what_fails_for_another_reason_says_nothing_of_examples(kind):
    status, output, _ = mpirun(2, "empty.py", kind)
    assert status in (1, 130) and "has no examples" not in output, output
