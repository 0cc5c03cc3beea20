"""A run with all phases: timeline.py WHAT FOLDER. Rank 0 prints its sums as JSON.

WHAT is "run"; "killed": rank 1 is killed in its first attempt; "clocks": ranks compare their clocks
as if each ran on a host of its own; "full": the disk is, at the end; "elsewhere": rank 1 is on a
host where it may not write.
"""

import json
import os
import resource
import signal
import sys
import time

import dist_dynet as dy
from dist_dynet import _launcher, parallel
from dist_dynet._ffi import lib
from dist_dynet.parallel.processes import timeline, trace
from dist_dynet.parallel.processes.session import world

what, folder = sys.argv[1:]


def refuse(*_):
    raise PermissionError(13, "Permission denied")


if what == "elsewhere" and _launcher.find().rank == 1:
    trace.open_part = refuse
    timeline.Recording.check_folder = lambda self, mark: setattr(self, "_sees_first", False)

rank = parallel.rank()

if what == "clocks":
    here = world()
    timeline.identity = lambda: (str(rank),)
    local, ahead, wrong = timeline.compare_clocks(here, here.duplicate())
    every = parallel.gather([rank, ahead, wrong, lib.dn_meter_now() - local])
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
    if what == "killed" and rank == 1 and i == 6 and os.environ["DIST_DYNET_ATTEMPT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    dy.renew_cg()
    dy.esum([dy.sum_elems(w * table[x]) for x in batch]).backward()
    trainer.update()
    trainer.log(loss=i)
parallel.evaluate(float, range(10))
if rank == 0:
    stats = trainer.stats()
    print(json.dumps({"seconds": stats.seconds, "updates": stats.updates}))
if what == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
