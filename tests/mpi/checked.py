"""check=True names what the ranks do unlike; checked on every rank: checked.py."""

import re

import numpy as np
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()
model = dy.ParameterCollection()
w = model.add_parameters(3, name="w", init=1)
table = model.add_lookup_parameters(
    (6, 3), name="table", init=np.linspace(0.1, 1, 18).reshape(6, 3)
)
model.set_weight_decay(0.01)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model, 0.1), check=True)
other = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model, 0.1), check=True)


def a_pass():
    dy.renew_cg()
    dy.sum_elems(w + table[rank]).backward()


def unlike(this, that):
    """What rank 0 and the others see when rank 0 meets for `this` and they for `that`."""
    kinds = (this, that) if rank == 0 else (that, this)
    return raises(RuntimeError, match=r"all ranks must agree; {} here, {} on rank".format(*kinds))


# nothing to find
for _ in range(3):
    a_pass()
    trainer.update()
    if rank == 1:
        table.as_array()
with parallel.Join(trainer):
    for _ in range(rank):
        a_pass()
        trainer.update()
assert parallel.all_reduce(1) == size and parallel.gather(rank) == list(range(size))

# two sums of one length, swapped: plain MPI adds unlike things up
a, b = (
    r"all_reduce sum \(collective \d+\) at checked.py:\d+",
    r"all_reduce sum \(collective \d+\) at checked.py:\d+",
)
with unlike(a, b):
    if rank == 0:
        parallel.all_reduce(1.0)
    else:
        parallel.all_reduce(2.0)
with unlike(
    r"gather \(collective \d+\) at checked.py:\d+", r"barrier \(collective \d+\) at checked.py:\d+"
):
    (parallel.gather if rank == 0 else lambda _: parallel.barrier())(1)

# two evaluations, swapped: they are told apart by the line that calls evaluate()
a = b = r"gather \(collective \d+\) at checked.py:\d+"
with unlike(a, b):
    if rank == 0:
        parallel.evaluate(int, [1, 2, 3])
    else:
        parallel.evaluate(int, [1, 2, 3])

# two trainers in another order
a_pass()
with unlike(
    r"gradient exchange of update \d+ \(.*\) at .*",
    r"gradient exchange of update 1 of trainer 2 \(.*\) at .*",
):
    (trainer if rank == 0 else other).update()

# a collective operation in place of an update
with unlike(r"gradient exchange of update \d+ \(.*\) at .*", r"all_reduce max \(.*\) at .*"):
    if rank == 0:
        trainer.update()
    else:
        parallel.all_reduce(3, "max")

# parameters that have come apart
with raises(RuntimeError, match=re.compile(rf'rank {size - 1} and rank 0 differ, first in "/w"')):
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model, 0.1), check=True)
    if rank == size - 1:
        w.set_value([1, 2, 3])
    trainer.update()
