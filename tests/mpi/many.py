"""train.py with so many ranks that what one costs counts: many.py FOLDER WAY...

Each rank writes "FOLDER/cost RANK.json": seconds from the begin of its process until all ranks
have met, and the memory that it has for itself after the training, in bytes.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path

from dist_dynet import parallel


def age():
    """Seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def own_memory():
    """Bytes of pages that no other process has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


parallel.barrier()
start_up = age()
folder = Path(sys.argv[1])
runpy.run_path(str(Path(__file__).with_name("train.py")), run_name="__main__")
cost = {"start_up": start_up, "memory": own_memory()}
(folder / f"cost {parallel.rank()}.json").write_text(json.dumps(cost))
