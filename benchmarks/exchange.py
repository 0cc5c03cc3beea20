"""One exchange of dense gradients between the ranks of this host: in shared memory, and by MPI.

    python benchmarks/exchange.py [--ranks 2 4] [--megabytes 6.2] [--rounds 200]

Ten seconds. The model has 50 matrices, all used on every rank, as many numbers as the tagger of the examples by default. Each line: ms of one
exchange, without the agreement before it: of each round the slowest rank, of these the median (10 % - 90 %). Rounds of the engines take turns.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MATRICES = 50
ENGINES = ("shared", "mpi")


def work(megabytes: float, rounds: int) -> None:
    """What each rank does; rank 0 prints a line per engine."""
    import dist_dynet as dy
    from dist_dynet import parallel
    from dist_dynet._ffi import DTYPE, lib

    here = parallel.trainer.world()
    columns = round(megabytes * 1e6 / DTYPE.itemsize / MATRICES / 128)
    exchanges = {}
    for engine in ENGINES:
        model = dy.ParameterCollection()
        matrices = [model.add_parameters((128, columns)) for _ in range(MATRICES)]
        trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model), exchange=engine)
        for p in matrices:
            p._set_flat_gradient(np.full(128 * columns, here.rank, DTYPE))
        exchanges[engine] = (trainer, *trainer._agreement.reach(1.0, (0.1, 5.0), None))
    times = {engine: np.zeros(rounds) for engine in ENGINES}
    for i in range(rounds + 5):
        for engine, (trainer, agreed, what) in exchanges.items():
            for handle in agreed.structure.handles:
                lib.dn_param_gradient(handle)
            parallel.barrier()
            start = time.perf_counter()
            trainer._exchange.sum(agreed, what)
            if i >= 5:
                times[engine][i - 5] = time.perf_counter() - start
    for engine in ENGINES:
        slowest = 1e3 * parallel.all_reduce(times[engine], "max")
        low, middle, high = np.percentile(slowest, [10, 50, 90])
        if here.rank == 0:
            print(f"{here.size:5}  {engine:7} {middle:8.3f}  ({low:.3f} - {high:.3f})", flush=True)


def main() -> None:
    """Starts mpirun once for each number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--megabytes", type=float, default=6.2)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.megabytes, options.rounds)
        return
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else "mpirun"
    print(f"{options.megabytes:g} MB, {os.cpu_count()} cores\nranks  engine   ms, median (10 % - 90 %)")
    for ranks in options.ranks:
        command = [mpirun, "-n", str(ranks), sys.executable, __file__, "--work"]
        subprocess.run([*command, f"--megabytes={options.megabytes}", f"--rounds={options.rounds}"], check=True)


if __name__ == "__main__":
    main()
