"""Two disjoint groups of ranks train two models side by side, one for longer than the other:
groups.py FOLDER (four ranks)."""

import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()
color = rank % 2
comm = MPI.COMM_WORLD.Split(color)
model = dy.ParameterCollection()
w = model.add_parameters(3 + color, name=f"w{color}", init=float(rank))
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model, 0.1), comm=comm)
assert (w.as_array() == color).all()  # that of the group's first rank

data = list(range(10 + color))
for epoch in range(2 + 3 * color):
    seen = []
    for batch in parallel.shard(data, batch_size=4, epoch=epoch, comm=comm):
        seen += batch
        if batch:
            dy.renew_cg()
            dy.average(
                [dy.squared_distance(w, dy.inputVector([float(x)] * (3 + color))) for x in batch]
            ).backward()
        trainer.update()
    assert sorted(x for part in parallel.gather(seen, comm=comm) for x in part) == data
assert trainer.updates == (2 + 3 * color) * 3
parallel.assert_in_sync(model, comm=comm)
file = Path(sys.argv[1], f"model of group {color}.txt")
model.save(str(file))  # on return the group's first rank has written it
assert f"#Parameter# /w{color} " in file.read_text()
assert parallel.all_reduce(rank, comm=comm) == sum(range(color, size, 2))
assert parallel.evaluate(lambda x: -x, data, comm=comm) == [-x for x in data]
words = (
    rf"\[rank {rank}/{size}\] assert_in_sync \(collective \d+ of ranks {color} and {color + 2}\):"
    rf" rank {color + 2} and rank {color} differ"
)
with raises(RuntimeError, match=words):
    w.set_value(np.full(3 + color, float(rank)))
    parallel.assert_in_sync(model, comm=comm)
parallel.broadcast_parameters(model, comm=comm)

# a group of one is a process alone
alone = MPI.COMM_WORLD.Split(rank)
parallel.DistributedTrainer(dy.SimpleSGDTrainer(model), comm=alone)
model.save(str(Path(sys.argv[1], f"alone {rank}.txt")))
assert Path(sys.argv[1], f"alone {rank}.txt").exists()
assert parallel.gather(rank, comm=alone) == [rank] and parallel.all_reduce(2, comm=alone) == 2
with raises(TypeError, match="comm must be a communicator of mpi4py"):
    parallel.barrier(comm="world")
some = MPI.COMM_WORLD.Split(0 if rank < 2 else MPI.UNDEFINED)
if rank < 2:
    parallel.barrier(comm=some)
else:
    with raises(ValueError, match=r"this rank among its ranks; got MPI\.COMM_NULL"):
        parallel.barrier(comm=some)

# the other group has long left its loop; waiting longer than a watchdog's patience does not disturb
# it
if color == 1:
    if rank == 1:
        time.sleep(5)
    parallel.barrier(comm=comm)
