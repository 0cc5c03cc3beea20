"""Between hosts: weights that are known before update() let gradients leave during backward:
weighted_early.py HOW.

Prints, on rank 0, in how many updates gradients had begun to leave when update() came, and how many
of these were sent again.
"""

import sys

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

way = sys.argv[1]
data = [[float(i % 5)] * (1 + i % 3) for i in range(80)]
m = dy.ParameterCollection()
layers = [m.add_parameters((64, 64)) for _ in range(6)]
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
exchange, begun = trainer.sync.exchange, []
flush = exchange.flush


def seen(weight):
    """What update() finds."""
    begun.append(exchange.overlap.round is not None and exchange.overlap.round.weight is not None)
    return flush(weight)


exchange.flush = seen
for batch in parallel.shard(data, batch_size=4, weight=len if way == "shard" else None):
    tokens = sum(map(len, batch))
    if way == "batch":
        batch.n = tokens
    if batch:
        dy.renew_cg()
        x = dy.inputTensor(np.ones(64) * batch[0][0])
        for W in layers:
            x = dy.tanh(W * x)
        dy.mean_elems(x).backward()
    trainer.update(*([tokens] if way == "number" else []))
parallel.assert_in_sync(m)
if parallel.is_main():
    print(sum(begun), exchange.overlap.dropped)
