"""Trains with every trainer of table_trainers.py for 50 updates, clipped, with weight decay, and
writes parameters to FOLDER/RANK.npz.

    all_trainers.py FOLDER


The shards are uneven, and empty for some ranks at the end of an epoch; each step uses other rows of
the tables.
"""

import sys
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

sys.path.insert(0, str(Path(__file__).parents[1]))
import table_followers
import table_trainers

rng = np.random.default_rng(3)
DATA = [(rng.integers(0, 30, 1 + i % 5).tolist(), i % 4) for i in range(21)]


def trained(name):
    make, _, distributions = table_trainers.TRAINERS[name]
    dy.reset_random_seed(5)
    model = dy.ParameterCollection()
    table = model.add_lookup_parameters(
        (30, 6), name="table", init=dy.GlorotInitializer(is_lookup=True)
    )
    W = model.add_parameters((4, 6), name="W")
    b = model.add_parameters(4, name="b", init=0.1)
    if distributions:
        for p in (W, b):
            p.set_value(np.abs(p.as_array()) / np.abs(p.as_array()).sum())
        for row, values in enumerate(np.abs(table.as_array())):
            table.init_row(row, values / values.sum())
    trainer = make(model)
    # which has a decay of its own
    model.set_weight_decay(0 if distributions or isinstance(trainer, dy.AdamWTrainer) else 1e-3)
    trainer = parallel.DistributedTrainer(trainer)
    followers = table_followers.follow_all(trainer)
    trainer.set_clip_threshold(0.3)
    clipped, done, shard = 0, 0, parallel.shard(DATA, batch_size=8, seed=1)
    while done < 50:
        for batch in shard:
            if batch:
                dy.renew_cg()
                scores = [
                    dy.affine_transform([b, W, dy.average([table[w] for w in words])])
                    for words, _ in batch
                ]
                dy.average(
                    [
                        dy.pickneglogsoftmax(s, tag)
                        for s, (_, tag) in zip(scores, batch, strict=True)
                    ]
                ).backward()
                clipped += trainer.inner.gradient_norm() > 0.3
            trainer.update()
            done += 1
            if done == 50:
                break
    assert clipped > 5
    parallel.assert_in_sync(model)
    return {
        **{f"{name} {p.name()}": p.as_array() for p in (W, b, table)},
        **{f"{name} {of} {key}": x for of, f in followers.items() for key, x in f.state().items()},
    }


results = {key: values for name in table_trainers.TRAINERS for key, values in trained(name).items()}
again = trained("AdamTrainer")
# same ranks, same seed: same bits
assert all(np.array_equal(results[key], values) for key, values in again.items())
np.savez(Path(sys.argv[1], f"{parallel.rank()}.npz"), **results)
