"""Steps of so many hosts and ranks on a virtual clock: the code that exchanges gradients really
runs, for every rank, and the network is replayed.

    python benchmarks/replay.py --hosts 32 --ranks 32 --gbit 10 100   # 1,024 ranks
    python benchmarks/replay.py --hosts 2 --ranks 1 --gbit 1 --cores 2   # two on this machine
    mpirun -n 2 python benchmarks/replay.py --fit   # what a message costs here

Each rank is a thread with a clock of its own; one at a time runs, that whose clock is the least
(tests/timed.py). Negotiation, HostTransport, HybridExchange and all that these call are those of a
job; what is replaced are MPI's messages and the mapping of shared memory. A rank's clock goes on

    by the processor time of the code that its thread runs;
    by the time of computing and of the update, measured before with the model of
    benchmarks/ranks.py (32 sentences; the update with as many rows of the table as all ranks
    together touch), and by that of shard()'s next batch, measured for three of these ranks;
    by --overhead, and --copy for each byte, for each message that it sends or receives;
    to the time at which a message arrives, or memory of its host is written, that it waits for.

A message leaves when its host's link has sent what came before, takes its bytes / --gbit, is
--latency seconds under way, and arrives when the receiver's link has taken what came before
(LogGP). --cores: all ranks take turns on so many processors, as namespace hosts on one machine do;
else each has its own. --spread: ranks compute for measured times, each drawn anew, otherwise all
for the median.

A line for each job has, in ms: shard()'s batch; the update; a step; the processor time of a rank's
agreement and exchange, and what it waits, medians; then the efficiency, the time of one rank alone
over that of a step, and how many messages a rank sends in a step.

The ranks of a host have one copy of the model, as by default: each updates its share, and waits for
the others; --own-model: each updates all. Gradients are sent while backward goes on, as they are
complete in a backward pass that was watched; --late: in update(), as with overlap=False. Where a
second thread would send, the rank does what it does once a millisecond.

All runs on one core, whose caches the ranks share, so that each finds its objects cold when its
turn comes. --warm: when something comes that a rank waits for, it looks in vain once more before,
which is not counted: so a rank that looks all the time has in its caches what it needs for a look.
What it does then with what has come is cold all the same.

Not in it: the memory's bandwidth that ranks of a host share, other traffic. Values are zeros, there
is one model for all ranks, and all hosts of a large job use the same memory for dense gradients,
which changes no step of the code.
"""

import argparse
import json
import mmap
import os
import resource
import statistics
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ranks as bench
from replay_job import Job
from timed import Costs

import dist_dynet as dy
from dist_dynet._ffi import ffi, lib
from dist_dynet.expression import watchers
from dist_dynet.parallel.agreement.structure import Structure
from dist_dynet.parallel.data import sampling
from dist_dynet.parallel.exchange import overlap, shared_model
from dist_dynet.trainers.hooks import Hooks

# ---- what is measured ------------------------------------------------------------------


class Measured:
    """A task: its model, and the seconds of its parts here, of one rank alone."""

    def __init__(self, task, steps):
        self.m = dy.ParameterCollection()
        loss_of, trainer = bench.dynet_model(task, self.m), dy.AdamTrainer(self.m)
        self._trainer, self._table = trainer, self.m.lookup_parameters_list()[0]
        self._loss_of, structure = loss_of, Structure(self.m)
        self._root, self._handles = structure.root, structure.handles[: len(structure.dense)]
        stream, self.compute, alone = bench.batches(task, 1, 0), [], []
        self._words = [sorted(set(words)) for words, _ in bench.corpus(task)]
        for step in range(steps + bench.WARM):
            batch, start = next(stream), time.thread_time()
            dy.renew_cg(autobatching=True)
            loss_of(batch).backward()
            middle = time.thread_time()
            trainer.update()
            if step >= bench.WARM:
                self.compute.append(middle - start)
                alone.append(time.thread_time() - middle)
        self.alone = statistics.median(self.compute) + statistics.median(alone)
        self.moments = self._watched(task)

    def _watched(self, task):
        """When in a step which numbers of the dense gradients are complete: (part of the time of
        computing, of each how many), as a thread sees it that looks twice a millisecond, or, where
        gradients are complete so late that none is used, between the steps of backward; of several
        passes the one that took the median of the time."""
        seen = self._passes(task, lib.DN_HOOK_ARMED)
        first = next((at for at, ready in seen if any(ready)), 1.0)
        if (1 - first) * statistics.median(self.compute) < overlap.WORTH:
            seen = self._passes(task, lib.DN_HOOK_STEPS)
        return seen

    def _passes(self, task, hook):
        root, handles, passes = self._root, self._handles, []
        stream = bench.batches(task, 1, 0)

        class Watch:
            """Notes what is complete."""

            def look(self):
                """As Overlap.look()."""
                ready = [lib.dn_param_ready(handle) for handle in handles]
                begun = lib.dn_store_await(root.c, 0.0) != hook
                if begun and (not seen or seen[-1][1] != ready):
                    seen.append((time.perf_counter() - start, ready))

        def sample():
            while not over.wait(5e-4):
                watch.look()

        watch = Watch()
        for _ in range(9):
            batch, seen, over = next(stream), [], threading.Event()
            lib.dn_store_set_hook(root.c, hook)
            thread = threading.Thread(target=sample)
            start = time.perf_counter()
            if hook == lib.DN_HOOK_ARMED:
                thread.start()
            else:
                watchers.add(watch)
            dy.renew_cg(autobatching=True)
            self._loss_of(batch).backward()
            passes.append((time.perf_counter() - start, seen))
            over.set()
            if hook == lib.DN_HOOK_ARMED:
                thread.join()
            watchers.discard(watch)
            lib.dn_store_set_hook(root.c, lib.DN_HOOK_OFF)
            self._trainer.update()
        whole, seen = sorted(passes, key=lambda of: of[0])[len(passes) // 2]
        return [(at / whole, ready) for at, ready in seen if at < whole]

    def rows(self, rank, step):
        """What one rank's 32 sentences touch."""
        drawn = np.random.default_rng((step, rank)).integers(0, len(self._words), bench.BATCH)
        return [np.unique(np.concatenate([self._words[i] for i in drawn])).astype(np.int32)]

    def update(self, ranks, window=None):
        """Seconds of an update where so many ranks' rows have gradients; window: of a rank that
        has one copy of the model with others of its host, and its own of the gradients."""
        rows = np.unique(np.concatenate([self.rows(rank, 0)[0] for rank in range(ranks)]))
        times = []
        for _ in range(8):
            self._fill(rows[rows % window.ranks == 0] if window else rows)
            start = time.thread_time()
            if window:
                window.open()
            self._trainer.update()
            if window:
                window.close()
            times.append(time.thread_time() - start)
        self._fill(rows[:1])
        return statistics.median(times[2:])

    def share(self, ranks):
        """From now on the model lies in memory that so many ranks share, of which this is the
        first: no other is there."""
        return Window(self._root, self._trainer, ranks)

    def _fill(self, rows):
        """Gives all dense parameters and these rows gradients."""
        dy.renew_cg(autobatching=True)
        losses = [dy.sum_elems(p) for p in self.m.parameters_list()]
        dy.esum([*losses, *(dy.sum_elems(self._table[int(i)]) for i in rows)]).backward()


class Window:
    """A model of which a rank may write its share, as parallel/exchange/shared_model.py opens it:
    by whichever thread runs."""

    def __init__(self, root, trainer, ranks):
        self.ranks, self._root, self._trainer = ranks, root, Hooks(trainer).c
        blocks = shared_model._blocks(root, [trainer])
        self._held = [mmap.mmap(-1, block.bytes) for block in blocks]
        places = [ffi.from_buffer("char[]", memory) for memory in self._held]
        for block, place in zip(blocks, places, strict=True):
            ffi.memmove(place, ffi.cast("char *", block.at), block.used)
        into, of = ffi.new("void *[]", places), ffi.new("dn_memory_block[]", blocks)
        if lib.dn_store_share(root.c, len(blocks), of, into, 0, ranks):
            raise RuntimeError("the model cannot be shared here")
        lib.dn_trainer_join(self._trainer)
        lib.dn_store_close(root.c)
        self._squares = ffi.new("dn_real[]", lib.dn_store_pieces(root.c) + 1)
        self._row_squares = ffi.new("int64_t[]", lib.dn_store_row_squares(root.c, ranks) // 8 + 1)

    def open(self):
        """The running thread writes."""
        if (
            not lib.dn_trainer_pin(self._trainer)
            or lib.dn_trainer_open(self._trainer, self._squares, self._row_squares) != 1
        ):
            raise RuntimeError("the model is not shared")

    def close(self):
        """It has written."""
        lib.dn_store_close(self._root.c)

    def end(self):
        """The model is this process's own again."""
        self._root.detach()


def sharding(ranks):
    """Seconds of shard()'s next batch of 32 examples a rank, the most of three of the ranks."""
    lengths = np.random.default_rng(1).integers(5, 41, 8 * bench.BATCH * ranks).tolist()
    data, kept, most = [[0] * n for n in lengths], sampling.world, 0.0
    try:
        for rank in {0, ranks // 2, ranks - 1}:
            sampling.world = lambda comm, rank=rank: SimpleNamespace(
                rank=rank, size=ranks, members=range(ranks)
            )
            batches, times = iter(dy.parallel.shard(data, bench.BATCH * ranks)), []
            next(batches)
            for _ in range(6):
                start = time.thread_time()
                next(batches)
                times.append(time.thread_time() - start)
            most = max(most, statistics.median(times))
    finally:
        sampling.world = kept
    return most


def fit():
    """What two ranks of MPI do: rank 0 prints latency, overhead and copy, in seconds."""
    from mpi4py import MPI

    comm, times = MPI.COMM_WORLD, {}
    for size, many in ((1, 2000), (1 << 17, 400)):
        array = np.zeros(size, np.uint8)
        for kind in ("turns", "stream"):
            comm.Barrier()
            start, used = time.perf_counter(), time.process_time()
            for _ in range(many):
                if comm.rank == 0:
                    comm.Send(array, 1 - comm.rank)
                else:
                    comm.Recv(array, 1 - comm.rank)
                if kind == "turns":
                    (comm.Recv if comm.rank == 0 else comm.Send)(array, 1 - comm.rank)
            if kind == "stream":
                comm.Barrier()
            wall = (time.perf_counter() - start) / many
            times[kind, size] = wall, (time.process_time() - used) / many
    overhead = times["stream", 1][1]
    copied = (times["stream", 1 << 17][1] - overhead) / (1 << 17)
    half = times["turns", 1][0] / 2
    if comm.rank == 0:
        print(
            json.dumps(
                {"latency": max(half - 2 * overhead, 0), "overhead": overhead, "copy": copied}
            )
        )


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=[*bench.TASKS], choices=bench.TASKS)
    parser.add_argument("--hosts", type=int, nargs="+", default=[32], help="how many hosts")
    parser.add_argument("--ranks", type=int, default=32, help="ranks of a host")
    parser.add_argument("--gbit", type=float, nargs="+", default=[1, 10, 100], help="links")
    parser.add_argument("--latency", type=float, default=10e-6, help="seconds")
    parser.add_argument("--overhead", type=float, default=3e-6, help="seconds a message")
    parser.add_argument("--copy", type=float, default=0.2e-9, help="seconds a byte")
    parser.add_argument("--cores", type=int, help="processors that all ranks share")
    parser.add_argument(
        "--compute", type=float, help="ms of a rank's computing there; all else takes as much more"
    )
    parser.add_argument("--steps", type=int, default=4, help="the first is not counted")
    parser.add_argument("--measured", type=int, default=40, help="steps of one rank")
    parser.add_argument("--spread", action="store_true", help="computing as unequal as measured")
    parser.add_argument("--own-model", action="store_true", help="as with shared_model=False")
    parser.add_argument("--late", action="store_true", help="as with overlap=False")
    parser.add_argument("--warm", action="store_true", help="a rank that waits has looked before")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--fit", action="store_true", help="print what a message costs")
    options = parser.parse_args()
    if options.fit:
        fit()
        return
    # one thread runs at a time; where it ran on another core before, its caches would be that one's
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = []
    for task in options.tasks:
        measured = Measured(task, options.measured)
        compute = statistics.median(measured.compute)
        print(f"{task}: one rank {1e3 * measured.alone:.3g} ms a step", flush=True)
        names = "shard", "update", "step", "work", "waiting"
        print(
            "   hosts  ranks  Gbit/s" + "".join(map("{:>9}".format, names)) + "  efficiency  sends"
        )
        for hosts in options.hosts:
            ranks = hosts * options.ranks
            window = None
            if options.ranks > 1 and not options.own_model:
                window = measured.share(options.ranks)
            update, dealing = measured.update(ranks, window), sharding(ranks)
            rng = np.random.default_rng(2)
            drawn = rng.choice(measured.compute, (options.steps, ranks))
            for gbit in options.gbit:
                costs = Costs(gbit, options.latency, options.overhead, options.copy)

                def seconds(rank, step, drawn=drawn, dealing=dealing, compute=compute):
                    return dealing + (drawn[step, rank] if options.spread else compute)

                factor = 1e-3 * options.compute / compute if options.compute else 1.0
                job = Job(
                    hosts,
                    options.ranks,
                    costs,
                    measured.m,
                    measured.rows,
                    seconds,
                    update,
                    options.cores,
                    factor,
                    None if options.late else measured.moments,
                    window,
                    options.warm,
                )
                step = float(np.median(job.run(options.steps)[1:]))
                known = factor * (update + dealing + compute)
                work = float(np.median(np.diff(job.busy, axis=0))) - known
                alone = factor * measured.alone
                if options.cores:
                    alone *= max(1, ranks / options.cores)
                sent = int(job.network.messages[:, 0].max() / options.steps)
                milliseconds = (dealing * factor, update * factor, step, work, step - known - work)
                print(
                    f"  {hosts:6} {options.ranks:6} {gbit:7g}"
                    f"{''.join(f'{1e3 * part:9.2f}' for part in milliseconds)}"
                    f" {alone / step:11.3f} {sent:9}",
                    flush=True,
                )
                results.append(
                    {
                        "task": task,
                        "hosts": hosts,
                        "ranks": options.ranks,
                        "gbit": gbit,
                        "step": step,
                        "efficiency": alone / step,
                    }
                )
            if window:
                window.end()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
