"""Steps of so many hosts and ranks on a virtual clock: the code that exchanges gradients really
runs, for every rank, and the network is replayed.

    python benchmarks/replay.py --hosts 32 --ranks 32 --gbit 10 100   # 1,024 ranks
    python benchmarks/replay.py --hosts 2 --ranks 1 --gbit 1 --cores 2   # two on this machine
    mpirun -n 2 python benchmarks/replay.py --fit   # what a message costs here

Each rank is a thread with a clock of its own; one at a time runs, that whose clock is the least.
Negotiation, HostTransport, HybridExchange and all that these call are those of a job; what is
replaced are MPI's messages and the mapping of shared memory. A rank's clock goes on

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

Not in it: what is sent while backward goes on (overlap=False), the memory's bandwidth that ranks of
a host share, other traffic. Values are zeros, and all hosts of a large job use the same memory for
dense gradients, which changes no step of the code.
"""

import argparse
import copy
import gc
import heapq
import itertools
import json
import resource
import statistics
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ranks as bench

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from counted import Comm, Network, Request, Status, here_of

import dist_dynet as dy
from dist_dynet._ffi import DTYPE, ffi, lib
from dist_dynet.parallel import host_transport, hybrid, layout, negotiation, sampling, windows
from dist_dynet.parallel.negotiation import Step
from dist_dynet.parallel.structure import Structure
from dist_dynet.parallel.wire import Hosts
from dist_dynet.trainers.state import Settings

# ---- time ------------------------------------------------------------------------------


class Clock:
    """The clocks of all ranks, and whose turn it is."""

    def __init__(self, size, cores=None, factor=1.0):
        self.factor = factor  # of all processor time
        self.times, self.busy = [0.0] * size, [0.0] * size
        self._turn = [threading.Semaphore(0) for _ in range(size)]
        self._ready, self._blocked = [], [False] * size
        self._wakes = [[] for _ in range(size)]
        self._free = [0.0] * cores if cores else None
        self._mark, self._left, self._over = 0.0, size, threading.Event()
        self.rank = -1  # whose turn it is

    def run(self, threads):
        """Runs these, one for each rank."""
        self._ready = [(0.0, rank) for rank in range(len(threads))]
        for thread in threads:
            thread.start()
        self._next()
        self._over.wait()
        if self._left:
            raise RuntimeError(f"{self._left} ranks wait for something that never comes")

    def begin(self, rank):
        """The rank's thread has begun."""
        self._turn[rank].acquire()
        self._mark = time.thread_time()

    def end(self):
        """It ends."""
        self._left -= 1
        self._next()

    def spend(self, seconds):
        """The rank whose turn it is needs a processor for so long."""
        rank, seconds = self.rank, seconds * self.factor
        self.busy[rank] += seconds
        if self._free is None:
            self.times[rank] += seconds
        else:
            idle = [free for free in self._free if free <= self.times[rank]]
            free = max(idle) if idle else min(self._free)
            self._free.remove(free)
            self.times[rank] = max(free, self.times[rank]) + seconds
            self._free.append(self.times[rank])

    @contextmanager
    def outside(self, in_turn=False):
        """What is done here costs no processor time of its own; in_turn: it is seen by others, so
        that all with lesser clocks go before."""
        self.spend(time.thread_time() - self._mark)
        if in_turn and self._ready and self._ready[0][0] < self.times[self.rank]:
            heapq.heappush(self._ready, (self.times[self.rank], self.rank))
            self._give_way()
        try:
            yield
        finally:
            self._mark = time.thread_time()

    def block(self):
        """Until wake(): the rank has nothing to do."""
        rank = self.rank
        self.spend(time.thread_time() - self._mark)
        if self._wakes[rank]:
            heapq.heappush(self._ready, (max(self._wakes[rank][0], self.times[rank]), rank))
        else:
            self._blocked[rank] = True
        self._give_way()
        wakes = self._wakes[rank]
        while wakes and wakes[0] <= self.times[rank]:
            heapq.heappop(wakes)
        self._mark = time.thread_time()

    def wake(self, rank, at):
        """There is something for the rank at this time."""
        heapq.heappush(self._wakes[rank], at)
        if self._blocked[rank]:
            self._blocked[rank] = False
            heapq.heappush(self._ready, (max(at, self.times[rank]), rank))

    def _give_way(self):
        rank = self.rank
        self._next()
        self._turn[rank].acquire()

    def _next(self):
        if not self._ready:
            self._over.set()
            return
        at, self.rank = heapq.heappop(self._ready)
        self.times[self.rank] = max(self.times[self.rank], at)
        self._turn[self.rank].release()


# ---- messages --------------------------------------------------------------------------


class Links(Network):
    """Mailboxes in which a message is to be seen when it has arrived."""

    def __init__(self, every, clock, costs):
        super().__init__(sum(map(len, every)), every)
        self.clock, self.costs = clock, costs
        self.host_of = {rank: host for host, ranks in enumerate(every) for rank in ranks}
        self._out, self._in = [0.0] * len(every), [0.0] * len(every)

    def put(self, source, target, tag, data):
        """As Network's."""
        clock, costs, size = self.clock, self.costs, len(data)
        clock.spend(costs.overhead + costs.copy * size)
        a, b, wire = self.host_of[source], self.host_of[target], 8e-9 / costs.gbit * size
        at = clock.times[source]
        if a != b:
            begins = self._out[a] = max(self._out[a], at) + wire
            at = self._in[b] = max(begins + costs.latency, self._in[b] + wire)
        super().put(source, target, tag, data)
        box = self.boxes[target][source, tag]
        box[-1] = at, data
        clock.wake(target, at)

    def take(self, target, source, tag):
        """As Network's."""
        box = self.boxes[target][source, tag]
        if not box or box[0][0] > self.clock.times[target]:
            return None
        data = box.popleft()[1]
        self.clock.spend(self.costs.overhead + self.costs.copy * len(data))
        return data


class TimedRequest(Request):
    """Whoever asks spends no time of its own on it."""

    clock = None

    @staticmethod
    def Testall(requests):  # noqa: N802
        """As mpi4py's."""
        with TimedRequest.clock.outside():
            return Request.Testall(requests)

    @staticmethod
    def Testsome(requests):  # noqa: N802
        """As mpi4py's."""
        with TimedRequest.clock.outside():
            return Request.Testsome(requests)


class TimedComm(Comm):
    """A communicator with messages of its own."""

    def __init__(self, network, rank, purpose=0):
        super().__init__(network, rank)
        self._first = purpose << 24

    def Isend(self, array, target, tag=0):  # noqa: N802
        """As mpi4py's."""
        with self.network.clock.outside(in_turn=True):
            super().Isend(array, target, self._first + tag)
        return TimedRequest()

    def Irecv(self, array, source, tag=0):  # noqa: N802
        """As mpi4py's."""
        with self.network.clock.outside():
            return TimedRequest(super().Irecv(array, source, self._first + tag).test)

    def Improbe(self, source, tag, status):  # noqa: N802
        """As mpi4py's."""
        with self.network.clock.outside():
            coming = super().Improbe(source, self._first + tag, status)
        return coming and SimpleNamespace(
            Irecv=lambda array: TimedRequest(coming.Irecv(array).test)
        )

    def Iallgather(self, mine, every):  # noqa: N802
        """Of readings of the meter, now and then: left out."""
        return TimedRequest()


class TimedLibrary:
    """The C library, where ranks of a host tell one another something in memory."""

    def __init__(self, network):
        self._network = network
        self.dn_flag_set = self._telling(lib.dn_flag_set)
        self.dn_shm_comm_negotiate = self._telling(lib.dn_shm_comm_negotiate)

    def __getattr__(self, name):
        return getattr(lib, name)

    def _telling(self, function):
        network = self._network
        clock = network.clock

        def call(*arguments):
            with clock.outside(in_turn=True):
                pass
            told = function(*arguments)
            me = clock.rank
            with clock.outside():
                for rank in network.host_ranks[network.host_of[me]]:
                    if rank != me:
                        clock.wake(rank, clock.times[me])
            return told

        return call


# ---- a job -----------------------------------------------------------------------------


class Job:
    """So many hosts with as many ranks each, which exchange the gradients of one model.

    Args:
        m: its parameters, with gradients of the dense ones.
        of_rank: the rows of each table that a rank has touched in a step: of_rank(rank, step).
        compute: seconds that a rank computes: compute(rank, step).
        update: seconds of the update.
        cores: how many processors all share; None: each rank has its own.
        factor: of all processor time.
    """

    def __init__(self, hosts, ranks, costs, m, of_rank, compute, update, cores=None, factor=1.0):
        self.every = [list(range(h * ranks, (h + 1) * ranks)) for h in range(hosts)]
        self.size, self._ranks = hosts * ranks, ranks
        self.clock = Clock(self.size, cores, factor)
        self.network = Links(self.every, self.clock, costs)
        self._structure, self._settings = Structure(m), Settings.of(dy.AdamTrainer(m))
        self._m, self._rows, self._compute, self._update = m, of_rank, compute, update
        self._memory, self._windows, self.sums = {}, {}, {}
        self._began = [[] for _ in range(self.size)]

    def run(self, steps):
        """Seconds of each step, of the rank that ends it last. self.busy: of a processor, by step
        and rank, from the first step on."""
        library, errors = TimedLibrary(self.network), []
        ends, self.busy = np.zeros((steps, self.size)), np.zeros((steps, self.size))
        TimedRequest.clock = self.clock

        def work(rank):
            self.clock.begin(rank)
            try:
                self._work(rank, steps, ends)
            except BaseException as error:
                errors.append(error)
            self.clock.end()

        replaced = [
            (host_transport, "lib", library),
            (layout, "lib", library),
            (windows, "lib", library),
            (hybrid, "map_together", self._map),
            (host_transport, "map_together", self._map),
            (negotiation, "Structure", lambda m: self._structure_of(self.clock.rank)),
            (windows.Windows, "of", lambda _, *which: self._window(*which)),
        ]
        kept = [getattr(place, name) for place, name, _ in replaced]
        for place, name, value in replaced:
            setattr(place, name, value)
        threading.stack_size(1 << 20)
        gc.disable()  # it would go through the objects of all ranks
        try:
            threads = [
                threading.Thread(target=work, args=(r,), daemon=True) for r in range(self.size)
            ]
            self.clock.run(threads)
        except RuntimeError:
            if not errors:
                raise
        finally:
            gc.enable()
            for (place, name, _), value in zip(replaced, kept, strict=True):
                setattr(place, name, value)
        if errors:
            raise errors[0]
        return np.diff(ends.max(axis=1), prepend=0.0)

    def _work(self, rank, steps, ends):
        """What a rank does."""
        clock, here = self.clock, self._here(rank)
        hosts = Hosts(self.every, rank // self._ranks, rank % self._ranks)
        exchange = hybrid.HybridExchange(here, here.comm, hosts, False, None)
        agreeing = negotiation.Negotiation(here, here.comm, self._m, True, exchange.transport)
        structure = agreeing._structure
        exchange._place(structure, "")
        if self.size > 64 and hosts.host:  # gradients of all hosts lie where those of the first do
            exchange._arrays.__dict__.update(self._arrays[hosts.local])
        elif self.size > 64:
            names = "mine", "sum", "locals", "pointer", "sum_pointer"
            arrays = {name: getattr(exchange._arrays, name) for name in names}
            self.__dict__.setdefault("_arrays", {})[hosts.local] = arrays
        self.sums[rank] = exchange._arrays.sum
        exchange.transport.structure = structure
        self._windows[rank] = exchange._rows.windows
        for step in range(steps):
            with clock.outside(in_turn=True):
                clock.spend(self._compute(rank, step))
                for table, rows in zip(structure.tables, self._rows(rank, step), strict=True):
                    table.rows = rows
            flags = exchange.flush(32.0)
            negotiated = agreeing.reach(32.0, self._settings, Step(), flags)
            exchange.sum(negotiated)
            with clock.outside(in_turn=True):
                clock.spend(self._update)
            ends[step, rank], self.busy[step, rank] = clock.times[rank], clock.busy[rank]

    def _structure_of(self, rank):
        """The model, with the rows of this rank."""
        structure = copy.copy(self._structure)
        structure.tables = [Touched(table) for table in structure.tables]
        structure.check = structure.broadcast = lambda *_: None  # it is one model
        return structure

    def _here(self, rank):
        here = here_of(rank, self.size, TimedComm(self.network, rank), self.every)
        purposes = itertools.count(1)

        def wait_until(done, what, timeout=None, moves=int):
            while not done():
                moves()
                self.clock.block()

        here.wait_until = wait_until
        here.wait = lambda requests, what, timeout=None, moves=int: wait_until(
            lambda: TimedRequest.Testall(requests), what, None, moves
        )
        here.lend = lambda owner: TimedComm(self.network, rank, next(purposes))
        here.mpi = SimpleNamespace(
            Status=Status,
            Request=TimedRequest,
            INT=None,
            THREAD_MULTIPLE=3,
            Query_thread=lambda: 3,
        )
        here.collective = here.name_of = lambda what, *_: what
        here.count, here.checks, here.number_trainer = int, False, str
        return here

    def _map(self, here, comm, host, segments, mine, sizes, what):
        """Memory of a host: as map_together()."""
        rank, wanted = here.rank, sizes([None] * self.size)
        self._began[rank].append(None)
        key, starts, at = (host[0], len(self._began[rank])), [], 0
        for size in wanted:
            size = -(-size // 64) * 64
            starts.append([at + size * k for k in range(segments)])
            at += size * segments
        if wanted and key not in self._memory:
            self._memory[key] = np.zeros(at, np.uint8)
        if not wanted:
            return []
        whole = ffi.from_buffer("char[]", self._memory[key])
        return [(whole, places) for places in starts]

    def _window(self, kind, local):
        """As Windows.of(): what another rank has made is mapped already."""
        me = self.clock.rank
        theirs = self._windows[me // self._ranks * self._ranks + local]
        return np.frombuffer(theirs._own[kind], np.int32)


class Touched:
    """A table of which these rows have gradients."""

    def __init__(self, table):
        self._table, self.rows = table, np.empty(0, np.int32)
        self._numbers = np.zeros((len(table), *table.shape()[1:]), DTYPE)

    def __getattr__(self, name):
        return getattr(self._table, name)

    def __len__(self):
        return len(self._table)

    def touched_rows(self):
        """Their ids."""
        return self.rows

    def touched_gradients(self):
        """Their gradients."""
        return self._numbers[: len(self.rows)]


# ---- what is measured ------------------------------------------------------------------


class Measured:
    """A task: its model, and the seconds of its parts here, of one rank alone."""

    def __init__(self, task, steps):
        self.m = dy.ParameterCollection()
        loss_of, trainer = bench.dynet_model(task, self.m), dy.AdamTrainer(self.m)
        self._trainer, self._table = trainer, self.m.lookup_parameters_list()[0]
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

    def rows(self, rank, step):
        """What one rank's 32 sentences touch."""
        drawn = np.random.default_rng((step, rank)).integers(0, len(self._words), bench.BATCH)
        return [np.unique(np.concatenate([self._words[i] for i in drawn])).astype(np.int32)]

    def update(self, ranks):
        """Seconds of an update where so many ranks' rows have gradients."""
        rows = np.unique(np.concatenate([self.rows(rank, 0)[0] for rank in range(ranks)]))
        times = []
        for _ in range(8):
            self._fill(rows)
            start = time.thread_time()
            self._trainer.update()
            times.append(time.thread_time() - start)
        self._fill(rows[:1])
        return statistics.median(times[2:])

    def _fill(self, rows):
        """Gives all dense parameters and these rows gradients."""
        dy.renew_cg(autobatching=True)
        losses = [dy.sum_elems(p) for p in self.m.parameters_list()]
        dy.esum([*losses, *(dy.sum_elems(self._table[int(i)]) for i in rows)]).backward()


def sharding(ranks):
    """Seconds of shard()'s next batch of 32 examples a rank, the most of three of the ranks."""
    lengths = np.random.default_rng(1).integers(5, 41, 8 * bench.BATCH * ranks).tolist()
    data, kept, most = [[0] * n for n in lengths], sampling.world, 0.0
    try:
        for rank in {0, ranks // 2, ranks - 1}:
            sampling.world = lambda comm, rank=rank: SimpleNamespace(rank=rank, size=ranks)
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
                if (comm.rank == 0) == (kind == "stream") or comm.rank == 0:
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
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--fit", action="store_true", help="print what a message costs")
    options = parser.parse_args()
    if options.fit:
        fit()
        return
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
            update, dealing = measured.update(ranks), sharding(ranks)
            rng = np.random.default_rng(2)
            drawn = rng.choice(measured.compute, (options.steps, ranks))
            for gbit in options.gbit:
                costs = SimpleNamespace(**{**vars(options), "gbit": gbit})

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
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
