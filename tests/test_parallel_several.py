"""Several trainers over one parameter store, in random programs, do on ranks what they do in one
process (tests/mpi/several.py).

How long: about 15 s.
"""

import pytest
from jobs import mpirun, needs_mpi

pytestmark = [pytest.mark.mpi, needs_mpi]


@pytest.mark.parametrize("engine", ["auto", "mpi", "hosts"])
def test_ranks_do_what_one_process_does(engine):
    assert mpirun(2, "several.py", engine, 1, 2, 3, 4)[:2] == (0, "ok\n")
