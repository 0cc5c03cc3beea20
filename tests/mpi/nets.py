"""Trains every builder and block of ../net_table on both ranks, and then on rank 0 alone: the
values must be the same. Prints "ok" there."""

import sys
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

sys.path.insert(0, str(Path(__file__).parents[1]))
from net_table import NETS

rank, size = parallel.rank(), parallel.world_size()
STEPS, EXAMPLES = 3, 4


def trained(net, ranks):
    """The parameters by name after training on examples that `ranks` ranks share; one: this process
    has all."""
    dy.reset_random_seed(7 if rank == 0 else 99)  # rank 0's values count
    model = dy.ParameterCollection()
    built = net.make(model)
    trainer = dy.SimpleSGDTrainer(model, 0.02)
    if ranks > 1:
        trainer = parallel.DistributedTrainer(trainer, "sum")
    rng = np.random.default_rng(5)
    for _ in range(STEPS):
        examples = [[rng.normal(size=dims) for dims in net.inputs] for _ in range(EXAMPLES)]
        dy.renew_cg()
        mine = examples if ranks == 1 else examples[rank::ranks]
        losses = [
            dy.sum_elems(dy.square(net.value(built, [dy.inputTensor(a) for a in arrays])))
            for arrays in mine
        ]
        dy.esum(losses).backward()
        trainer.update()
    if ranks > 1:
        parallel.assert_in_sync(model)
    return {name: p.as_array() for name, p in model.named_parameters().items()}


for name, net in NETS.items():
    together = trained(net, size)
    if rank == 0:
        for parameter, alone in trained(net, 1).items():
            error = np.abs(together[parameter] - alone).max()
            assert error <= 1e-5 * (1 + np.abs(alone).max()), (
                f"{name}: {parameter} differs by {error}"
            )
if rank == 0:
    print("ok")
