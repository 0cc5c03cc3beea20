"""Rank 0 prints which files of /dev/shm MPI has mapped, then a rank is killed."""

import os
import re
import signal
from pathlib import Path

from dist_dynet import parallel

assert parallel.all_reduce(1) == 2
if parallel.rank() == 0:
    maps = Path("/proc/self/maps").read_text()
    print("", *re.findall(r"/dev/shm/\S+", maps), sep="\n", flush=True)
parallel.barrier()
if parallel.rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
parallel.barrier()
