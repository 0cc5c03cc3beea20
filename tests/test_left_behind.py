"""What is made, used and dropped leaves nothing behind, in one process (left_behind.py) and on two
ranks (mpi/left_behind.py).

How long: half a minute.
"""

import os

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


SEGMENT = """
import mmap, os, sys
from dist_dynet.parallel.processes.mpi import unlink_segments
paths = [os.fsencode(sys.argv[1]) + b"/\\xff", b"/dev/shm/mpich_\\xff_%d" % os.getpid()]
maps = []
for path in paths:
    with open(path, "xb+") as file:
        file.truncate(1)
        maps.append(mmap.mmap(file.fileno(), 1))
unlink_segments()
print([os.path.exists(path) for path in paths])
"""


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs /dev/shm")
def test_segments_of_mpich_go_whatever_else_is_mapped(tmp_path):
    job = run_python("-c", SEGMENT, str(tmp_path))
    assert job.stdout == "[True, False]\n", job.stderr
