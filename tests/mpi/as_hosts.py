"""Runs a program of this folder as if its ranks ran on several hosts: as_hosts.py LAYOUT PROGRAM
ARGUMENTS...

LAYOUT has a letter for each rank, the same for ranks of one host: "aab" are two hosts with two
ranks and one.
"""

import runpy
import sys
from pathlib import Path

from dist_dynet.parallel.processes import session

layout, program = sys.argv[1:3]
session.world().layout = [
    [r for r, name in enumerate(layout) if name == one] for one in dict.fromkeys(layout)
]
sys.argv[:] = sys.argv[2:]
runpy.run_path(str(Path(__file__).with_name(program)), run_name="__main__")
