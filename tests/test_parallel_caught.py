"""Errors that a program catches, to go on: updates that all ranks refuse alike, and ranks that were
interrupted (tests/mpi/caught.py).

How long: about 10 s.
"""

import pytest
from jobs import mpirun, needs_mpi

CAUGHT = (
    "checkpoint_that_cannot_be_written",
    "error_after_the_update",
    "forked",
    "frozen",
    "not_finite",
    "not_finite_in_loops",
    "not_finite_inside_of_join",
    "parameters",
    "settings",
    "states",
    "interrupted_after_the_exchange",
)

pytestmark = [pytest.mark.mpi, needs_mpi]


@pytest.mark.parametrize(("engine", "ranks"), [("auto", 3), ("mpi", 2), ("hosts", 2)])
def test_program_continues(engine, ranks):
    assert mpirun(ranks, "caught.py", engine, *CAUGHT)[:2] == (0, "ok\n")


def test_all_ranks_hear_of_what_one_gives_wrongly():
    assert mpirun(2, "out_of_step.py")[:2] == (0, "ok\n")


@pytest.mark.parametrize(
    ("engine", "what"),
    [
        ("auto", "interrupted"),
        ("mpi", "interrupted"),
        ("mpi", "interrupted_gather"),
        ("mpi", "interrupted_checkpoint"),
    ],
)
def test_interrupted_rank_is_out_of_step(engine, what):
    status, output, seconds = mpirun(2, "caught.py", engine, what, DIST_DYNET_SILENCE="1")
    assert status != 0 and "ok" in output.splitlines() and seconds < 15, output
    assert "out of step with the others" in output


@pytest.mark.parametrize("trainer", ["auto", "hosts", "local"])
def test_signal_at_any_place_of_an_update_leaves_all_of_one_update(trainer):
    assert mpirun(2, "half_done.py", trainer)[:2] == (0, "ok\n")
