"""What is made, used and dropped leaves nothing behind, in one process (left_behind.py) and on two
ranks (mpi/left_behind.py).

How long: half a minute.
"""

import pytest
from jobs import mpirun, needs_mpi
from left_behind import ENVIRONMENT, TABLES
from processes import run_python


@pytest.mark.parametrize("table", TABLES)
def test_nothing_stays(table):
    job = run_python("left_behind.py", table, **ENVIRONMENT)
    assert (job.returncode, job.stdout, job.stderr) == (0, "", "")


@pytest.mark.mpi
@needs_mpi
def test_nothing_stays_on_ranks():
    status, said, _ = mpirun(2, "left_behind.py", limit=300, **ENVIRONMENT)
    assert (status, said) == (0, "ok\n"), said
