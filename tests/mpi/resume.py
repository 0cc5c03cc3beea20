"""Trains with checkpoints in FOLDER, and writes all that the run has come to into FOLDER/end.npz:
resume.py FOLDER [NAME=VALUE ...].

Whatever could make a resumed run another one is in it: dropout, draws of Python and NumPy that
differ from rank to rank, moments, a schedule, clipping that changes, a table with decay that nobody
reads, a parameter that is frozen at first, a moving average, accumulation, evaluation and decisions
behind the loop over an epoch.

    every=3 keep=3         of the Checkpointer; every=none: saves nothing
    epochs=4 loop=for      or while
    rest=0                 seconds of sleep in each step
    die=7:1 where=body     rank 1 kills itself in that step: in its body, or behind the loop of the
                           epoch
    usr1=7:1               rank 1 gets SIGUSR1 in that step
    accumulate=1
    compression=           bf16: of messages between hosts, each rank then taking itself for a host
                           of its own
    average=no             yes: a moving average, which reads the table in each update
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from alike import use_a_host_each

import dist_dynet as dy
from dist_dynet import parallel

folder = Path(sys.argv[1])
options = {
    "every": "3",
    "keep": "3",
    "epochs": "4",
    "loop": "for",
    "rest": "0",
    "accumulate": "1",
    "average": "no",
    "compression": "",
}
options |= {"die": "", "where": "body", "usr1": ""} | dict(
    argument.split("=") for argument in sys.argv[2:]
)
every = (
    None
    if options["every"] == "none"
    else int(options["every"])
    if options["every"].isdigit()
    else options["every"]
)

rank = parallel.rank()
dy.reset_random_seed(7)
random.seed(rank)
np.random.seed(rank)
own = np.random.default_rng(rank)
model = dy.ParameterCollection()
model.set_weight_decay(0.01)
table = model.add_lookup_parameters(
    (50, 6), name="table", init=dy.GlorotInitializer(is_lookup=True)
)
encoder = model.add_subcollection("encoder")
W, b = encoder.add_parameters((8, 6), name="W"), encoder.add_parameters(8, name="b", init=0)
V = model.add_parameters((3, 8), name="V")
b.set_updated(False)
if options["compression"]:
    use_a_host_each()
trainer = parallel.DistributedTrainer(
    dy.AdamTrainer(model, alpha=0.05), compression=options["compression"] or None
)
trainer.set_accumulation(int(options["accumulate"]))
schedule = dy.schedules.Cosine(trainer, steps=60, warmup=5)
average = dy.MovingAverage(trainer, decay=0.9) if options["average"] == "yes" else None
data = [[i % 3, *np.random.default_rng(i).integers(0, 50, 2 + i % 4).tolist()] for i in range(23)]
batches = parallel.shard(data, batch_size=4, seed=5)
checkpointer = parallel.Checkpointer(
    folder, model, trainer, batches, keep=int(options["keep"]), every=every
)
checkpointer.extra = {"best": -1.0, "history": []}
checkpointer.add("own", own, per_rank=True)


def event(name, step):
    # not again after a restart
    return options[name] == f"{step}:{rank}" and os.environ.get("DIST_DYNET_ATTEMPT", "0") == "0"


def score(example):
    dy.renew_cg()
    tag, *words = example
    h = dy.tanh(dy.affine_transform([b, W, dy.esum([table[w] for w in words])]))
    return V * h, tag


def loss_of(batch):
    dy.renew_cg()
    losses = []
    for tag, *words in batch:
        x = dy.esum(
            [dy.dropout(table[w], 0.2) for w in words if random.random() > 0.1] or [table[0]]
        )
        x = x + dy.inputVector(np.random.randn(6) * 0.01) + dy.inputVector(own.random(6) * 0.01)
        h = dy.dropout(dy.tanh(dy.affine_transform([b, W, x])), 0.3)
        losses.append(dy.pickneglogsoftmax(V * h, tag))
    return dy.average(losses)


def train(batch):
    step = batches.epoch * len(batches) + batches.position
    if event("usr1", step):
        os.kill(os.getpid(), signal.SIGUSR1)
    if batch:
        loss_of(batch).backward()
    if options["where"] == "body" and event("die", step):
        os.kill(os.getpid(), signal.SIGKILL)
    trainer.update()
    schedule.step()
    time.sleep(float(options["rest"]))


def finish_epoch(epoch):
    if options["where"] == "behind" and event("die", batches.epoch * len(batches)):
        os.kill(os.getpid(), signal.SIGKILL)
    right = sum(
        parallel.evaluate(
            lambda example: int(score(example)[0].npvalue().argmax() == example[0]), data
        )
    )
    checkpointer.extra["history"].append([epoch, right])
    if right > checkpointer.extra["best"]:
        checkpointer.extra["best"] = right
    trainer.set_clip_threshold(1 / (1 + epoch))
    b.set_updated(epoch > 0)


resumed = checkpointer.resume()
print(
    f"rank={rank} process={os.getpid()} resumed={resumed} step={checkpointer.step}\n",
    end="",
    flush=True,
)
if options["loop"] == "for":
    for epoch in range(batches.epoch, int(options["epochs"])):
        for batch in batches:
            train(batch)
        finish_epoch(epoch)
else:
    while batches.epoch < int(options["epochs"]):
        for batch in batches:
            train(batch)
        finish_epoch(batches.epoch - 1)

parallel.assert_in_sync(model)
everything = {
    p.name(): p.as_array() for p in (*model.parameters_list(), *model.lookup_parameters_list())
}
everything |= {f"trainer {name}": array for name, array in trainer.state().items()}
everything |= (
    {f"average {name}": array for name, array in average.state().items()} if average else {}
)
everything["draws"] = np.array(
    parallel.gather([random.random(), np.random.rand(), own.random(), dy.cg().uniform(1)[0]])
)
everything["extra"] = np.array(
    [checkpointer.extra["best"], *np.ravel(checkpointer.extra["history"])]
)
everything["settings"] = np.array(
    [
        trainer.get_clip_threshold(),
        trainer.learning_rate,
        b.is_updated(),
        batches.epoch,
        batches.position,
    ]
)
if parallel.is_main():
    np.savez(folder / "end.npz", **everything)
