"""Trains with a checkpoint after each update, and goes on with whatever number of ranks there is:
fewer_hosts.py FOLDER STEPS.

After the third step the host that WITHOUT names loses its network, once: for DOWN_FOR seconds, or
for good. Each step takes REST seconds.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
dy.reset_random_seed(5)
model = dy.ParameterCollection()
W = model.add_parameters((4, 3), name="W")
trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, alpha=0.1), reproducible=True)
data = np.random.default_rng(0).normal(size=(24, 3)).tolist()
batches = parallel.shard(data, batch_size=8, seed=3, micro_batches=4)
checkpointer = parallel.Checkpointer(folder, model, trainer, batches, every=1)
checkpointer.resume()
cut = folder / "cut"
while checkpointer.step < steps:
    for batch in batches:
        here = socket.gethostname() == os.environ.get("WITHOUT")
        if here and checkpointer.step >= 3 and not cut.exists():
            cut.touch()
            if "DOWN_FOR" in os.environ:
                up = f"sleep {os.environ['DOWN_FOR']}; ip link set eth0 up"
                subprocess.Popen(["sh", "-c", up], start_new_session=True)
            subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
        if batch:
            dy.renew_cg()
            losses = [dy.squared_norm(dy.dropout(W * dy.inputVector(x), 0.3) - 1) for x in batch]
            dy.average(losses).backward()
        trainer.update()
        time.sleep(float(os.environ.get("REST", "0")))
parallel.assert_in_sync(model)
if parallel.is_main():
    print(parallel.world_size(), "ranks", W.as_array().tobytes().hex(), flush=True)
