"""One exchange of dense gradients between the ranks of this host: in shared memory, and by MPI.

    python benchmarks/exchange.py [--ranks 2 4] [--megabytes 6.2] [--rounds 200]

Half a minute. The model has 50 matrices, all used on every rank, as many numbers as the tagger of
the examples by default. Each line: ms of one exchange, without the negotiation before it: of each
round the slowest rank, of these the least, and the median (10 % - 90 %). The engines take turns of
20 rounds, each after 3 that do not count. Before each exchange a rank writes all of its gradients,
as backward does.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MATRICES = 50
ENGINES = ("auto", "mpi")
TURN, WARM = 20, 3


def work(megabytes: float, rounds: int) -> None:
    """What each rank does; rank 0 prints a line per engine."""
    import dist_dynet as dy
    from dist_dynet import parallel
    from dist_dynet._ffi import DTYPE
    from dist_dynet.parallel.agreement.negotiation import Step
    from dist_dynet.parallel.processes import session
    from dist_dynet.trainers.state import Settings

    here = session.world()
    columns = round(megabytes * 1e6 / DTYPE.itemsize / MATRICES / 128)
    exchanges = {}
    for engine in ENGINES:
        model = dy.ParameterCollection()
        matrices = [model.add_parameters((128, columns)) for _ in range(MATRICES)]
        os.environ["DIST_DYNET_EXCHANGE"] = engine
        trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model))
        for p in matrices:
            p._set_flat_gradient(np.full(128 * columns, here.rank, DTYPE))
        agreed = trainer.sync.negotiation.reach(1.0, Settings.of(trainer.inner), Step())
        trainer.sync.exchange.sum(agreed)  # the first moves the gradients
        exchanges[engine] = (trainer, agreed)
    times: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(-(-rounds // TURN)):
        for engine, (trainer, agreed) in exchanges.items():
            for i in range(WARM + TURN):
                root = trainer.collection._root
                chunks = [root.chunk_gradients(chunk) for chunk in range(root.chunks())]
                for gradients in chunks:
                    gradients[:] = here.rank
                parallel.barrier()
                start = time.perf_counter()
                trainer.sync.exchange.sum(agreed)
                if i >= WARM:
                    times[engine].append(1e3 * (time.perf_counter() - start))
                assert all((gradients == (here.size - 1) / 2).all() for gradients in chunks)
    for engine in ENGINES:
        slowest = parallel.all_reduce(times[engine], "max")
        low, middle, high = np.percentile(slowest, [10, 50, 90])
        if here.rank == 0:
            print(
                f"{here.size:5}  {engine:7} {slowest.min():7.3f}  {middle:7.3f}  ({low:.3f} -"
                f" {high:.3f})",
                flush=True,
            )


def main() -> None:
    """Starts mpirun once for each number of ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    print(
        f"{options.megabytes:g} MB, {os.cpu_count()} cores\nranks  engine    least   median  (10 %"
        " - 90 %), ms"
    )
    for ranks in options.ranks:
        command = [mpirun, "-n", str(ranks), sys.executable, __file__, "--work"]
        subprocess.run(
            [*command, f"--megabytes={options.megabytes}", f"--rounds={options.rounds}"], check=True
        )


if __name__ == "__main__":
    main()
