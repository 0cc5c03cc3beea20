"""spawned.py: a communicator with a process that Spawn() has started is refused, with what to
write, and the job goes on. Rank 0 prints "ok", or why nothing can be spawned here."""

import sys

from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

# on one line: MPICH's mpirun takes no others
CHILD = (
    "from mpi4py import MPI; parent = MPI.Comm.Get_parent(); parent.Merge().Free();"
    " parent.Disconnect()"
)
assert parallel.all_reduce(1) == 2
try:
    between = MPI.COMM_WORLD.Spawn(sys.executable, ["-c", CHILD], 1)
except MPI.Exception as error:
    if parallel.is_main():
        print(f"Spawn(): {error}")
    sys.exit()
m = dy.ParameterCollection()
m.add_parameters(2)
trainer = dy.SimpleSGDTrainer(m)
with raises(TypeError, match="comm must be a communicator of mpi4py"):
    parallel.DistributedTrainer(trainer, comm=between)
all_of_them = between.Merge()
for call in (
    lambda: parallel.DistributedTrainer(trainer, comm=all_of_them),
    lambda: parallel.gather(1, comm=all_of_them),
    lambda: list(parallel.shard(range(4), 2, comm=all_of_them)),
):
    with raises(ValueError, match=r"ranks of this job only; got one of 3 .* mpirun -n 3"):
        call()
all_of_them.Free()
between.Disconnect()
parallel.DistributedTrainer(trainer).update()
if parallel.is_main():
    print("ok")
