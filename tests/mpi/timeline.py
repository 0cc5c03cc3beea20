"""A run with all phases: timeline.py WHAT FOLDER. Rank 0 prints its sums as JSON.

WHAT is "run"; "killed": rank 1 is killed; "clocks": ranks compare their clocks as if each ran on a
host of its own; "elsewhere": rank 1 is on a host where it may not write.
"""

import json
import os
import signal
import sys
import time

import dist_dynet as dy
from dist_dynet import _launcher, parallel
from dist_dynet.parallel.processes import spans
from dist_dynet.parallel.processes.session import world

what, folder = sys.argv[1:]
if what == "elsewhere" and _launcher.find().rank == 1:
    spans._folder_of = lambda file: type(file)("/proc/none")
rank = parallel.rank()

if what == "clocks":
    here = world()
    spans.identity = lambda: (str(rank),)
    every = parallel.gather([rank, *spans.compare_clocks(here, here.duplicate())])
    if rank == 0:
        print(json.dumps(every))
    sys.exit()

m = dy.ParameterCollection()
w, table = m.add_parameters((4, 4)), m.add_lookup_parameters((50, 4))
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
batches = parallel.shard(range(48), batch_size=4)
checkpoints = parallel.Checkpointer(folder, m, trainer, batches, every=4)
checkpoints.resume()
for i, batch in enumerate(batches):
    if what == "killed":
        time.sleep(0.01)  # the last 20 ms before the end are not in the file
    if what == "killed" and rank == 1 and i == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    dy.renew_cg()
    dy.esum([dy.sum_elems(w * table[x]) for x in batch]).backward()
    trainer.update()
    trainer.log(loss=i)
parallel.evaluate(float, range(10))
if rank == 0:
    stats = trainer.stats()
    print(json.dumps({"seconds": stats.seconds, "updates": stats.updates}))
