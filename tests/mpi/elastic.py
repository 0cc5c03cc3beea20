"""Trains reproducibly with checkpoints in FOLDER up to update LAST, from where the checkpoint is;
prints a checksum: elastic.py FOLDER LAST."""

import hashlib
import sys

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

folder, last = sys.argv[1], int(sys.argv[2])
dy.reset_random_seed(7)
model = dy.ParameterCollection()
table = model.add_lookup_parameters((50, 6), name="table")
W, b = model.add_parameters((3, 6), name="W"), model.add_parameters(3, name="b", init=0)
model.set_weight_decay(0.01)
trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, alpha=0.05), reproducible=True)
trainer.set_clip_threshold(0.5)
data = [[i % 3, *np.random.default_rng(i).integers(0, 50, 2 + i % 4).tolist()] for i in range(23)]
batches = parallel.shard(data, batch_size=6, seed=5, micro_batches=5)
checkpointer = parallel.Checkpointer(folder, model, trainer, batches, every=1)
checkpointer.resume()
while trainer.updates < last:
    for batch in batches:
        if batch:
            dy.renew_cg()
            hidden = [dy.dropout(dy.average([table[w] for w in words]), 0.3) for _, *words in batch]
            losses = [
                dy.pickneglogsoftmax(W * h + b, tag)
                for h, (tag, *_) in zip(hidden, batch, strict=True)
            ]
            dy.average(losses).backward()
        if trainer.update() and trainer.updates == last:
            break
checkpointer.save()
parallel.assert_in_sync(model)
values = b"".join(p.as_array().tobytes() for p in (W, b, table))
if parallel.is_main():
    print(trainer.updates, hashlib.blake2b(values, digest_size=8).hexdigest())
