"""Makes, uses and drops on all ranks what dist_dynet.parallel makes, again and again: rank 0 names
the acts after which memory is missing, and prints "ok" if there are none."""

import atexit
import gc
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

sys.path.insert(0, str(Path(__file__).parents[1]))
from left_behind import growth, stays

model = dy.ParameterCollection()
w, table = model.add_parameters((3, 4)), model.add_lookup_parameters((9, 4))
LEAST = 0.5, 50, 8192  # threads and caches of MPI take some, too
DATA = [[k % 9] * (1 + k % 3) for k in range(4)]


def loss_of(example):
    return dy.esum([dy.squared_norm(w * table[word]) for word in example])


def losses_of(batch):
    dy.renew_cg()
    return dy.average([loss_of(example) for example in batch])


def train(trainer, batches):
    for batch in batches:
        losses_of(batch).backward()
        trainer.update(batch if isinstance(batch, parallel.Batch) else len(batch))


def trained(**options):
    """By a new trainer."""
    micro_batches = 2 if options.get("reproducible") else None
    batches = parallel.shard(DATA, 4, micro_batches=micro_batches)
    train(parallel.DistributedTrainer(dy.AdamTrainer(model), **options), batches)


def locally():
    train(parallel.LocalSGD(dy.AdamTrainer(model), 2), parallel.shard(DATA, 4))


def joined():
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model))
    with parallel.Join(trainer):
        train(trainer, [DATA] * (1 + parallel.rank()))


def a_model_of_its_own():
    own = dy.ParameterCollection()
    x = own.add_parameters(5)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(own))
    dy.renew_cg()
    dy.squared_norm(x).backward()
    trainer.update(1)


def functions():
    dy.renew_cg()
    parallel.evaluate(lambda example: float(len(example)), DATA)
    parallel.all_reduce(np.ones(3))
    parallel.gather({"rank": parallel.rank()})
    parallel.broadcast_parameters(model)
    parallel.assert_in_sync(model)


def resumed(folder):
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model))
    batches = parallel.shard(DATA, 4)
    checkpointer = parallel.Checkpointer(folder, model, trainer, batches)
    checkpointer.resume()
    train(trainer, batches)
    checkpointer.save()


OPTIONS = {}, {"accumulate": 2}, {"reproducible": True}
FOLDER = parallel.gather(tempfile.mkdtemp())[0]
ACTS = {repr(options): partial(trained, **options) for options in OPTIONS} | {
    "LocalSGD": locally,
    "Join": joined,
    "a model": a_model_of_its_own,
    "functions": functions,
    "Checkpointer": partial(resumed, FOLDER),
}
gc.freeze()
found = {}
for name, act in ACTS.items():
    act()
    registered = atexit._ncallbacks()
    kept = growth(act, 3, 8)
    if stays(kept, LEAST) or atexit._ncallbacks() != registered:
        found[name] = kept.tolist()
if parallel.rank() == 0:
    print(found or "ok")
