"""finalized.py WHEN: the program calls MPI.Finalize() by itself, "before" or "after" it trains, or
"between". What needs MPI afterwards is refused; the program ends as any other. Each rank prints
"ok"."""

import sys
import time

from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

WHEN = sys.argv[1]
m = dy.ParameterCollection()
w = m.add_parameters(2, init=1)


def trained():
    """Some updates."""
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 0.1))
    for batch in parallel.shard(range(8), 4):
        dy.renew_cg()
        (dy.sum_elems(w) * len(batch)).backward()
        trainer.update()
    return trainer


if WHEN == "before":
    MPI.Finalize()
    with raises(RuntimeError, match=r"MPI\.Finalize\(\) was called before the first use"):
        trained()
else:
    kept, pair = trained(), MPI.COMM_WORLD.Dup()
    assert parallel.all_reduce(1, comm=pair) == 2
    time.sleep(0.3 * parallel.rank())  # one leaves before the others
    MPI.Finalize()
    assert MPI.Is_finalized()
    time.sleep(1)  # while a watchdog would look for the others
    if WHEN == "between":
        for call in (
            lambda: parallel.gather(1),
            lambda: parallel.all_reduce(1),
            trained,
            lambda: kept.update(0),
            parallel.barrier,
            lambda: list(parallel.shard(range(4), 2, comm=pair)),
        ):
            with raises(RuntimeError, match=r"MPI\.Finalize\(\) was called, after which"):
                call()
    assert abs(dy.sum_elems(w).value() - w.as_array().sum()) < 1e-6
sys.stdout.write("ok\n")
