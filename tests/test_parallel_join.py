"""Ranks with unlike many batches, groups of ranks, passes without an exchange, checks of the order;
the programs are in tests/mpi.

How long: half a minute.
"""

import pytest
from jobs import mpirun, needs_mpi
from processes import HERE, run_python

import dist_dynet as dy
from dist_dynet import parallel


@pytest.mark.parametrize(("ranks", "engine"), [(1, "auto"), (2, "auto"), (3, "mpi"), (4, "auto")])
def test_uneven_ranks(ranks, engine, mpi):
    status, output, _ = mpirun(ranks, "uneven.py", mpi=mpi, DIST_DYNET_EXCHANGE=engine)
    assert (status, output) == (0, "")


def test_uneven_program_in_one_process():
    # which imports what lies beside it
    result = run_python(str(HERE / "mpi" / "uneven.py"), PYTHONSAFEPATH="")
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.mpi
@needs_mpi
def test_groups_of_ranks_train_side_by_side(tmp_path):
    status, output, _ = mpirun(4, "groups.py", tmp_path)
    assert (status, output) == (0, "")


def test_join_takes_a_distributed_trainer():
    with pytest.raises(TypeError, match="Join: takes a DistributedTrainer; got SimpleSGDTrainer"):
        parallel.Join(dy.SimpleSGDTrainer(dy.ParameterCollection()))
