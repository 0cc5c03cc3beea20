"""Runs a program of this folder on groups of ranks, each of which does the whole of it by itself:
as_groups.py GROUPS PROGRAM FILES...

GROUPS has a letter for each rank, the same for ranks of one group. The functions of
dist_dynet.parallel are those of the group, by comm=. To the name of each file the group's letter is
added.
"""

import inspect
import runpy
import sys
from pathlib import Path

from mpi4py import MPI

from dist_dynet import parallel

groups, program, *files = sys.argv[1:]
letter = groups[parallel.rank()]
comm = MPI.COMM_WORLD.Split(ord(letter), key=parallel.rank())


class DistributedTrainer(parallel.DistributedTrainer):
    """Of the group."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, comm=comm, **options)


class LocalSGD(parallel.LocalSGD):
    """Of the group."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, comm=comm, **options)


def of_group(function):
    """The same, of the group."""
    signature = inspect.signature(function)

    def called(*arguments, **options):
        given = signature.bind(*arguments, **options)
        given.apply_defaults()
        given.arguments["comm"] = given.arguments["comm"] or comm
        return function(*given.args, **given.kwargs)

    return called


parallel.DistributedTrainer, parallel.LocalSGD = DistributedTrainer, LocalSGD
for name in (
    "all_reduce",
    "assert_in_sync",
    "barrier",
    "broadcast_parameters",
    "evaluate",
    "gather",
    "shard",
):
    setattr(parallel, name, of_group(getattr(parallel, name)))
parallel.rank, parallel.world_size = comm.Get_rank, comm.Get_size
parallel.is_main = lambda: comm.rank == 0
sys.argv[:] = [program, *(f"{file}.{letter}" for file in files)]
runpy.run_path(str(Path(__file__).with_name(program)), run_name="__main__")
