"""What differs between ranks is said when the first trainer is made: environment.py [NAME]. NAME
differs on rank 1; rank 0 prints "ok"."""

import sys

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel.processes import environment

own = environment.describe()
if len(sys.argv) > 1 and parallel.rank() == 1:
    environment.describe = lambda: {**own, sys.argv[1]: "another"}
for _ in range(2):  # the second says nothing
    m = dy.ParameterCollection()
    m.add_parameters(1)
    parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
if parallel.rank() == 0:
    print("ok")
