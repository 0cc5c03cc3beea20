"""empty.py KIND: what a program does with the examples of a step, of which a rank has none."""

import sys

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

KIND = sys.argv[1]
DATA = [(float(i), float(i * i % 5)) for i in range(9)]
m = dy.ParameterCollection()
w = m.add_parameters(2, init=1)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 0.01))


class WordlessError(Exception):
    """An exception that cannot be printed."""

    def __str__(self):
        raise ValueError(self.args[0])


def loss(batch):
    """Of the examples of one rank."""
    dy.renew_cg()
    return dy.average([dy.squared_distance(w, dy.inputVector(x)) for x in batch])


def work(batch):
    """What cannot be done with no examples; the last step has one for all ranks."""
    if KIND in ("zip", "function", "generator"):
        first, second = zip(*batch, strict=True)
        loss([*zip(first, second, strict=True)]).backward()
    elif KIND == "max":
        longest = max(batch)
        loss([x for x in batch if x <= longest]).backward()
    elif KIND == "stack":
        loss(np.stack(batch)).backward()
    elif KIND == "wordless" and not batch:
        raise WordlessError
    elif KIND == "index":
        loss([batch[0], *batch[1:]]).backward()
    elif batch:
        loss(batch).backward()
    if batch.step == 2 and KIND == "of another" and batch:
        raise ValueError("a rank with examples")
    if batch.step == 2 and KIND == "interrupt":
        raise KeyboardInterrupt
    if batch.step == 2 and KIND == "refused":
        w.set_updated(parallel.rank() == 0)
    trainer.update()


def transformed():
    """The batches."""
    for number, batch in enumerate(parallel.shard(DATA, 4)):
        assert batch.step == number
        yield batch


def train():
    """An epoch."""
    for batch in transformed() if KIND == "generator" else parallel.shard(DATA, 4):
        work(batch)


if KIND == "function":
    train()
else:
    for batch in transformed() if KIND == "generator" else parallel.shard(DATA, 4):
        work(batch)
if KIND == "after":
    raise ValueError("after the loop")
