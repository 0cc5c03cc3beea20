"""forked_early.py: a child that was forked before MPI started loops over a shard, and so starts MPI
as this rank: what this process would have waited for, for ever, is an error that says what to
write."""

from forked import in_a_child

import dist_dynet as dy

in_a_child(lambda: list(dy.parallel.shard(range(5), 2)))
dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(dy.ParameterCollection()))
