"""other_costs.py: costs or weights that are not the same on all ranks divide a step in another way
on each; the first update() says so on all, and evaluate(). Rank 0 prints "ok"."""

import numpy as np
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()
mine = np.random.default_rng(rank)
DATA = [float(x) for x in range(12)]
UNLIKE = {
    "cost function": {"cost": lambda x: mine.random()},
    "cost array": {"cost": mine.permutation(12)},
    "small differences": {"cost": [1 + 1e-9 * rank] * 12},
    "weight": {"cost": None, "weight": lambda x: mine.random()},
    "bucket": {"cost": mine.permutation(12), "bucket": 2},
    "micro-batches": {"cost": mine.permutation(12), "micro_batches": 4},
}


def trained(**given):
    """The number of updates of an epoch, and the parameter."""
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    reproducible = "micro_batches" in given
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m), reproducible=reproducible)
    for batch in parallel.shard(DATA, 6, **given):
        dy.renew_cg()
        if batch:
            dy.average([w * x for x in batch]).backward()
        trainer.update()
    return trainer.updates, w.as_array().item()


for what, given in UNLIKE.items():
    with raises(RuntimeError, match=r"all ranks must agree; costs and weights \w+ here,"):
        trained(**given)
    assert parallel.all_reduce(1) == size, what
alike = np.random.default_rng(1)
for given in (
    {"cost": lambda x: x},
    {"cost": alike.random(12)},
    {"cost": alike.permutation(12), "bucket": 2, "weight": alike.random(12)},
    {"cost": None, "micro_batches": 4},
    {},
):
    assert trained(**given)[0] == 2

for cost in (lambda x: mine.random(), mine.permutation(12)):
    with raises(ValueError, match="evaluate: cost must be the same on all ranks"):
        parallel.evaluate(int, DATA, cost=cost)
with raises(ValueError, match="evaluate: the data must be the same on all ranks, in one"):
    parallel.evaluate(int, DATA if rank else DATA[::-1])
assert parallel.evaluate(int, DATA, cost=lambda x: x) == [*range(12)]
if rank == 0:
    print("ok")
