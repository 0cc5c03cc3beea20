"""Trains with reproducible=True in many ways and prints one checksum of the parameters, and of what
was evaluated, for each: the same for every number of ranks.
"""

import hashlib

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()
rng = np.random.default_rng(3)
DATA = [[int(i), *rng.integers(0, 200, 1 + i % 5).tolist()] for i in range(33)]


def trained(
    rule=dy.AdamTrainer,
    average="mean",
    micro_batches=8,
    batch_size=12,
    dropout=0.3,
    epochs=3,
    clip=0.5,
    decay=1e-3,
    weighted=False,
    inside="",
):
    """A tagger of a kind: two tables, an LSTM, a parameter that few examples use; the model, and
    the scores of evaluate() after each epoch."""
    dy.reset_random_seed(7 if rank == 0 else 99)
    model = dy.ParameterCollection()
    few = model.add_lookup_parameters((200, 20), name="few")
    most = model.add_lookup_parameters((12, 20), name="most")
    unused = model.add_lookup_parameters((5, 4), name="unused")
    rare = model.add_parameters(24, name="rare", init=0.1)
    lstm = dy.VanillaLSTMBuilder(1, 20, 24, model)
    lstm.set_dropout(dropout)
    V, b = model.add_parameters((40, 24), name="V"), model.add_parameters(40, name="b", init=0)
    model.set_weight_decay(decay)
    trainer = parallel.DistributedTrainer(rule(model), average=average, reproducible=True)
    trainer.set_clip_threshold(clip)
    dy.reset_random_seed(8)
    updates, scores = 0, []

    def loss_of(example):
        number, *words = example
        h = lstm.initial_state().add_input(most[number % 12]).transduce([few[w] for w in words])[-1]
        if number % 11 == 0:
            h = h + rare
        return dy.pickneglogsoftmax(
            dy.affine_transform([b, V, dy.dropout(h, dropout)]), number % 40
        )

    def score(example):
        dy.renew_cg()
        return loss_of(example).value() + dy.cg().uniform(1)[0]

    def score_all():
        """What comes between a batch and its backward pass, with draws of its own."""
        if inside == "evaluate":
            parallel.evaluate(score, DATA[:7])
        elif inside == "shard":
            for others in parallel.shard(DATA[:7], 5):
                [score(example) for example in others]
        elif inside:
            for others in parallel.shard(DATA[:7], 5, micro_batches=3):
                [score(example) for example in others]

    shard = parallel.shard(DATA, batch_size, seed=2, micro_batches=micro_batches)
    for _ in range(epochs):
        for batch in shard:
            score_all()
            if weighted:
                batch.n = sum(map(len, batch))
            divisor = 1 if average == "sum" else batch.n
            if batch and batch[0][0] % 2:  # one graph per example
                for example in batch:
                    dy.renew_cg()
                    (loss_of(example) / divisor).backward()
            elif batch:
                dy.renew_cg()
                (dy.esum([loss_of(example) for example in batch]) / divisor).backward()
            updates += trainer.update(batch)
        if inside != "evaluate":  # whose number of calls is that of a rank's micro-batches
            scores.extend(parallel.evaluate(score, DATA[3:9]))
    assert updates == trainer.updates == epochs * len(shard)
    parallel.assert_in_sync(model)
    assert unused.as_array().any()  # drawn, and left alone
    return model, scores


def in_turn():
    """Two models, each used for the loss of the other, one after the other on each step."""
    dy.reset_random_seed(3)
    model = dy.ParameterCollection()
    parts = [model.add_subcollection(name) for name in ("first", "second")]
    E, V = parts[0].add_lookup_parameters((40, 6)), parts[1].add_parameters((3, 6))
    trainers = [
        parallel.DistributedTrainer(dy.AdamTrainer(part), reproducible=True) for part in parts
    ]
    step = []
    for batch in parallel.shard(DATA, 12, seed=2, micro_batches=8):
        step.append(batch)
        if not batch.ends_step:
            continue
        for which, trainer in enumerate(trainers):
            for micro_batch in step:
                micro_batch.part.draws.begin()
                if micro_batch:
                    dy.renew_cg()
                    scores = [(V * dy.dropout(E[x[0]], 0.3), x[0] % 3) for x in micro_batch]
                    losses = [dy.pickneglogsoftmax(s, y) * (2 * which - 1) for s, y in scores]
                    dy.average(losses).backward()
                    parts[1 - which].reset_gradients()
                trainer.update(micro_batch)
        step.clear()
    return model


def checksum(model, scores=()):
    values = [
        p.as_array().tobytes() for p in (*model.parameters_list(), *model.lookup_parameters_list())
    ]
    values.append(np.array(scores).tobytes())
    return hashlib.blake2b(b"".join(values), digest_size=8).hexdigest()


WAYS = {
    "mean": {},
    "weighted": {"weighted": True, "rule": dy.MomentumSGDTrainer},
    "sum": {"average": "sum", "rule": dy.AdagradTrainer, "decay": 0.0},
    "seven": {"micro_batches": 7, "batch_size": 10},
    "three": {"micro_batches": 3, "clip": 0.0},
    "one": {"micro_batches": 1, "batch_size": 5},
    "more than examples": {"micro_batches": 16, "batch_size": 9},
    "evaluated inside": {"inside": "evaluate", "dropout": 0.1},
    "shard inside": {"inside": "shard", "dropout": 0.2},
    "micro-batches inside": {"inside": "micro-batches", "dropout": 0.4},
}
for name, options in WAYS.items():
    result = checksum(*trained(**options))
    if rank == 0:
        print(name, result, flush=True)
result = checksum(in_turn())
if rank == 0:
    print("in turn", result)
