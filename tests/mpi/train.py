"""Trains a small model for 50 updates, once in each WAY, and writes its parameters to "FOLDER/WAY
RANK.npz": train.py FOLDER WAY...

A way is a trainer, an average, and perhaps an engine: "adam mean", "sgd sum mpi".

Every hard case at once: uneven shards with empty ones among them, a parameter that one rank alone
uses in a step, one that nobody uses, a table of which few rows are used and one of which most are,
a parameter added on the way, clipping.
"""

import os
import sys
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

rng = np.random.default_rng(3)
DATA = [[int(i), *rng.integers(0, 200, 1 + i % 5).tolist()] for i in range(33)]
TRAINERS = {
    "sgd": lambda m: dy.SimpleSGDTrainer(m, learning_rate=0.1),
    "adam": lambda m: dy.AdamTrainer(m, alpha=0.01),
}


def trained(name, average, engine="auto"):
    """The model."""
    os.environ["DIST_DYNET_EXCHANGE"] = engine
    dy.reset_random_seed(7 if parallel.rank() == 0 else 99)  # rank 0's values count
    model = dy.ParameterCollection()
    few = model.add_lookup_parameters(
        (200, 6), name="few", init=dy.GlorotInitializer(is_lookup=True)
    )
    most = model.add_lookup_parameters(
        (12, 6), name="most", init=dy.GlorotInitializer(is_lookup=True)
    )
    W = model.add_parameters((10, 12), name="W")
    rare = model.add_parameters(10, name="rare", init=0.1)
    model.add_parameters((5, 5), name="never")
    encoder = model.add_subcollection("encoder")
    V, b = encoder.add_parameters((4, 10), name="V"), encoder.add_parameters(4, name="b", init=0)
    trainer = parallel.DistributedTrainer(TRAINERS[name](model), average=average)
    trainer.set_clip_threshold(0.5 if average != "sum" else 2.0)
    late = None

    def loss_of(example):
        number, *words = example
        h = dy.tanh(W * dy.concatenate([dy.esum([few[w] for w in words]), most[number % 12]]))
        if number == 5:
            h = dy.cmult(h, rare)
        if late is not None and updates > 20:  # from the update on in which it got rank 0's value
            h = h + late
        return dy.pickneglogsoftmax(dy.affine_transform([b, V, h]), number % 4)

    updates, epoch = 0, 0
    while updates < 50:
        for batch in parallel.shard(DATA, batch_size=8, seed=2, epoch=epoch):
            if updates == 20:
                late = model.add_parameters(
                    10, name="late", init=0.05 if parallel.is_main() else 0.5
                )
            if batch:
                dy.renew_cg()
                losses = dy.esum([loss_of(example) for example in batch])
                (losses if average == "sum" else losses / len(batch)).backward()
            trainer.update()
            updates += 1
            if updates == 50:
                break
        epoch += 1
    parallel.assert_in_sync(model)
    return model


folder, *ways = sys.argv[1:]
for way in ways:
    model = trained(*way.split())
    everything = [*model.parameters_list(), *model.lookup_parameters_list()]
    np.savez(
        Path(folder, f"{way} {parallel.rank()}.npz"), **{p.name(): p.as_array() for p in everything}
    )
