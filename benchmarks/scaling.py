"""How data-parallel training scales: an alpha-beta model fitted to measured all-reduce times, and
what it predicts for 2 to 1024 ranks.

    python benchmarks/scaling.py      # measures here, 2 and 4 ranks of one host: about 1 minute
    python benchmarks/scaling.py --alpha 30e-6 --gbit 10 --cores 16
                                      # predicts for hosts of 16 ranks, 10 Gbit/s, 30 us

A message of n bytes takes alpha + n beta seconds. A ring all-reduce of n bytes over H hosts takes 2
(H - 1) (alpha + n beta / H), an all-gather of n bytes from each (H - 1) (alpha + n beta). The fit
is by least squares over sizes and numbers of ranks. Into a step go: the computing of one rank
(measured here, one rank), the exchange within a host (measured here, 2 ranks), the all-reduce of
the dense gradients between hosts, and the exchange of the touched rows of the table, by rows or as
a whole table, whichever sends less. The number of touched rows is counted on the benchmark's data.
Nothing overlaps in this model, and all ranks are equally fast.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import ranks as bench
from run import US, environment

SIZES = (1_000, 10_000, 100_000, 1_000_000, 4_000_000, 16_000_000)
RANKS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FLOAT = 4


# ---- measuring -------------------------------------------------------------------------


def measure_all_reduce():
    """What each rank does: rank 0 prints {bytes: seconds}, the median of the slowest rank."""
    from mpi4py import MPI

    comm, times = MPI.COMM_WORLD, {}
    for size in SIZES:
        array = np.ones(size // FLOAT, np.float32)
        seconds = []
        for _ in range(max(5, min(200, 20_000_000 // size))):
            array[:] = 1
            comm.Barrier()
            start = time.perf_counter()
            comm.Allreduce(MPI.IN_PLACE, array)
            seconds.append(comm.allreduce(time.perf_counter() - start, MPI.MAX))
        times[size] = float(np.median(seconds))
    if comm.rank == 0:
        print(json.dumps(times), flush=True)


def mpirun(ranks, *arguments):
    """The JSON line of a job of this script."""
    beside = Path(sys.executable).with_name("mpirun")
    command = [
        str(beside) if beside.exists() else "mpirun",
        "-n",
        str(ranks),
        sys.executable,
        *arguments,
    ]
    done = subprocess.run(
        command, env=environment(US), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def fit(points):
    """(alpha, beta) of 2 (N - 1) (alpha + n beta / N) for points (N, n, seconds), by least squares
    of relative errors."""
    rows = np.array([[2 * (n - 1), 2 * (n - 1) / n * size] for n, size, _ in points])
    seconds = np.array([t for *_, t in points])
    answer, *_ = np.linalg.lstsq(rows / seconds[:, None], np.ones(len(points)), rcond=None)
    return float(max(answer[0], 0)), float(max(answer[1], 0))


# ---- the model -------------------------------------------------------------------------


def work_of(task):
    """(dense numbers, rows of the table, numbers of a row, rows that one rank touches in a step,
    and N ranks together)."""
    import rnnlm
    import tagger

    sizes = tagger if task == "tagger" else rnnlm
    values = sizes.initial_values()
    dense = sum(
        np.size(v) for part in values[1:] for v in (part if isinstance(part, tuple) else (part,))
    )
    words = [set(words) for words, _ in bench.corpus(task)]

    def touched(ranks):
        draws = np.random.default_rng(1).integers(
            0, len(words), (20, min(bench.BATCH * ranks, len(words)))
        )
        return float(np.mean([len(set().union(*(words[i] for i in draw))) for draw in draws]))

    return dense, sizes.VOCABULARY, sizes.EMBEDDING, touched


def step_seconds(task, ranks, cores, compute, within, alpha, beta):
    """(seconds of a step, bytes that a host sends) with `cores` ranks to a host; within = seconds a
    byte of the sum on a host."""
    dense, table, width, touched = work_of_cached(task)
    on_host = min(ranks, cores)
    hosts = -(-ranks // cores)
    seconds = compute + (within * FLOAT * dense if ranks > 1 else 0)
    sent = 0.0
    if hosts > 1:
        rows = touched(on_host)
        row_bytes = FLOAT * (width + 1)
        by_rows = (hosts - 1) * (alpha + rows * row_bytes * beta)
        whole = 2 * (hosts - 1) * (alpha + FLOAT * table * width / hosts * beta)
        seconds += 2 * (hosts - 1) * (alpha + FLOAT * dense / hosts * beta) + min(by_rows, whole)
        sent = 2 * (hosts - 1) / hosts * FLOAT * dense + min(
            (hosts - 1) * rows * row_bytes, 2 * (hosts - 1) / hosts * FLOAT * table * width
        )
    return seconds, sent


_work = {}


def work_of_cached(task):
    """work_of(), computed once a task."""
    if task not in _work:
        _work[task] = work_of(task)
    return _work[task]


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--alpha", type=float, default=30e-6, help="seconds of an empty message between hosts"
    )
    parser.add_argument(
        "--gbit", type=float, nargs="+", default=[1, 10, 100], help="links between hosts, Gbit/s"
    )
    parser.add_argument("--cores", type=int, default=16, help="ranks to a host")
    parser.add_argument("--json", type=Path, help="also write the predictions to this file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(python=sys.executable, torch_python=None, seconds=4.0)
    options = parser.parse_args()
    if options.work:
        measure_all_reduce()
        return
    points = [
        (n, int(size), t) for n in (2, 4) for size, t in mpirun(n, __file__, "--work").items()
    ]
    alpha, beta = fit(points)
    print(
        f"MPI's all-reduce, ranks of one host: alpha {alpha * 1e6:.2g} us,"
        f" {1e-9 / beta if beta else 0:.2g} GB/s"
    )
    print("  ranks   bytes   measured, ms   model, ms")
    for n, size, t in points:
        print(
            f"  {n:5} {size:9} {1e3 * t:9.3f} {1e3 * 2 * (n - 1) * (alpha + size * beta / n):11.3f}"
        )
    predicted = {}
    for task in bench.TASKS:
        alone = bench.launch("parts", task, 1, options)["ranks"]
        compute = (
            sum(alone["seconds"])
            / sum(alone["words"])
            * np.mean([len(w) for w, _ in bench.corpus(task)])
            * bench.BATCH
        )
        dense = work_of_cached(task)[0]
        parts = {n: bench.launch("parts", task, n, options)["parts"] for n in (2, 4)}
        within = 1e-3 * parts[2][2] / (FLOAT * dense)
        print(
            f"\n{task}: {dense / 1e6:.2f} M dense numbers; {1e3 * compute:.3g} ms a step alone; "
            f"exchange on a host {1e3 * within * FLOAT * dense:.3g} ms"
        )
        for n, (computing, waiting, exchange, update) in parts.items():
            slower = computing + update
            print(
                f"  {n} ranks here: computing and update {slower:.3g} ms, waiting {waiting:.3g},"
                f" exchange {exchange:.3g}: efficiency without waiting"
                f" {slower / (slower + exchange):.3f}, predicted"
                f" {compute / step_seconds(task, n, n, compute, within, 0, 0)[0]:.3f}"
            )
        print(
            "  ranks "
            + "".join(f"{f'{g:g} Gbit/s':>14}" for g in options.gbit)
            + f"   ({options.cores} ranks to a host)"
        )
        for n in RANKS:
            cells = [
                step_seconds(task, n, options.cores, compute, within, options.alpha, 8e-9 / g)
                for g in options.gbit
            ]
            efficiencies = "".join(f"{compute / seconds:14.3f}" for seconds, _ in cells)
            for gbit, (seconds, _) in zip(options.gbit, cells, strict=True):
                by_ranks = predicted.setdefault(task, {}).setdefault(f"{gbit:g} Gbit/s", {})
                by_ranks[n] = compute / seconds
            print(f"  {n:5} {efficiencies}   {cells[0][1] / 1e6:7.1f} MB sent by a host")
    if options.json:
        result = {"cores": options.cores, "alpha": options.alpha, "efficiency": predicted}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
