"""Updates in shared memory with the fast paths on or off: fast_paths.py 1 0 switches them off on
rank 1 of two. Rank 0 prints "ok" in the end.

Where one rank has them switched off no rank may exchange in one call of C, since the others would
wait; the sums are the same.
"""

import os
import sys

switches = sys.argv[1:]
rank = int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
os.environ["DIST_DYNET_FAST_PATHS"] = switches[rank]

import numpy as np  # noqa: E402

import dist_dynet as dy  # noqa: E402
from dist_dynet import parallel  # noqa: E402
from dist_dynet._ffi import declined  # noqa: E402

assert rank == parallel.rank() and len(switches) == parallel.world_size()
m = dy.ParameterCollection()
w, table = m.add_parameters(5, init=0), m.add_lookup_parameters((4, 2), init=0)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1.0), "sum")
trainer.set_clip_threshold(0)
UPDATES = 20
for _ in range(UPDATES):
    dy.renew_cg()
    ((dy.sum_elems(w) + dy.sum_elems(table[2])) * (rank + 1)).backward()
    trainer.update()
total = -UPDATES * sum(r + 1 for r in range(len(switches)))
assert w.as_array().tolist() == [total] * 5
assert np.array_equal(table.as_array(), np.outer([0, 0, total, 0], [1, 1]))
in_one_call, asked = trainer.sync.exchange.quick, declined()["update"]
assert (in_one_call > 0) == ("0" not in switches), in_one_call
assert (asked > 0) == (switches[rank] == "0"), asked
if rank == 0:
    print("ok")
