"""The job that replay.py runs: ranks on tests/timed.py's clock, with the code of a real job's
agreement and exchange between hosts."""

import copy
import gc
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from timed import Clock, Links, TimedLibrary, requests_on, timed_here

import dist_dynet as dy
from dist_dynet._ffi import DTYPE, NULL, ffi, lib, pointer
from dist_dynet.parallel.agreement import negotiation
from dist_dynet.parallel.agreement.negotiation import Step
from dist_dynet.parallel.agreement.structure import Structure
from dist_dynet.parallel.exchange import (
    host_transport,
    hybrid,
    layout,
    overlap,
    rounds,
    row_messages,
    windows,
)
from dist_dynet.parallel.exchange.wire import Hosts
from dist_dynet.trainers.state import Settings


class Job:
    """So many hosts with as many ranks each, which exchange the gradients of one model.

    Args:
        m: its parameters, with gradients of the dense ones.
        of_rank: the rows of each table that a rank has touched in a step: of_rank(rank, step).
        compute: seconds that a rank computes: compute(rank, step).
        update: seconds of the update.
        cores: how many processors all share; None: each rank has its own.
        factor: of all processor time.
        window: the ranks of a host have one copy of the model, which this opens and closes: each
            takes its own of the gradients, and they wait for one another after the update.
        warm: as for timed_here().
        moments: of a backward pass, (part of the time of computing, how many numbers of each dense
            gradient are complete then); given: they are sent while it goes on.
    """

    def __init__(
        self,
        hosts,
        ranks,
        costs,
        m,
        of_rank,
        compute,
        update,
        cores=None,
        factor=1.0,
        moments=None,
        window=None,
        warm=False,
    ):
        self.every = [list(range(h * ranks, (h + 1) * ranks)) for h in range(hosts)]
        self.size, self._ranks = hosts * ranks, ranks
        self.clock = Clock(self.size, cores, factor)
        self.network = Links(self.every, self.clock, costs)
        self._trainer = dy.AdamTrainer(m)
        self._structure, self._settings = Structure(m), Settings.of(self._trainer)
        self._rows, self._compute, self._update = of_rank, compute, update
        self._moments, self._copy, self._warm = moments, window, warm
        self._met = (
            [np.zeros(lib.dn_shm_comm_bytes(ranks, 1), np.uint8) for _ in range(hosts)]
            if window
            else []
        )
        self._memory, self._windows, self._arrays, self.sums = {}, {}, {}, {}
        self._began = [[] for _ in range(self.size)]
        self._steps = [0] * self.size
        self._ready, self._hook = [None] * self.size, [lib.DN_HOOK_OFF] * self.size

    def run(self, steps):
        """Seconds of each step, of the rank that ends it last. self.busy: of a processor, by step
        and rank, from the first step on."""
        library, errors, clock = TimedLibrary(lib, self.network, self._warm), [], self.clock
        self._library = library
        ends, self.busy = np.zeros((steps, self.size)), np.zeros((steps, self.size))
        self._request = requests_on(clock)
        library.dn_rows_capacity = self._touch
        index = {int(ffi.cast("intptr_t", p)): k for k, p in enumerate(self._structure.handles)}
        library.dn_param_ready = lambda p: self._ready[clock.rank][index[_address(p)]]
        library.dn_store_await = lambda *_: self._hook[clock.rank]
        library.dn_store_set_hook = lambda *_: None
        library.dn_store_hook_count = lambda *_: 0
        library.dn_param_unchanged = lambda _: True
        library.dn_rows_are_owned = lambda _: self._copy is not None
        library.dn_rows_put = self._put_rows
        library.dn_params_put = self._in_window(lib.dn_params_put)

        def work(rank):
            clock.begin(rank)
            try:
                self._work(rank, steps, ends)
            except BaseException as error:
                errors.append(error)
            clock.end()

        replaced = [
            *(
                (module, "lib", library)
                for module in (
                    host_transport,
                    hybrid,
                    layout,
                    overlap,
                    row_messages,
                    rounds,
                    windows,
                )
            ),
            (hybrid, "map_together", self._map),
            (host_transport, "map_together", self._map),
            (overlap, "ExchangeThread", _ExchangeThread),
            (rounds, "_stop_before_mpi", int),
            (rounds, "_unfinished", set()),
            (overlap, "watchers", set()),
            (rounds, "time", SimpleNamespace(monotonic=lambda: clock.times[clock.rank])),
            (negotiation, "Structure", lambda m: self._structure_of()),
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
            clock.run(threads)
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
        clock, here = self.clock, timed_here(rank, self.network, self._request, self._warm)
        hosts = Hosts(self.every, rank // self._ranks, rank % self._ranks)
        early = self._moments is not None
        exchange = hybrid.HybridExchange(here, here.comm, hosts, early, None)
        agreeing = negotiation.Negotiation(here, here.comm, self._trainer, True, exchange.transport)
        structure = agreeing._structure
        exchange._place(structure, "")
        names = "mine", "sum", "locals", "pointer", "sum_pointer"
        if self.size > 64 and hosts.host:  # gradients of all hosts lie where those of the first do
            exchange._arrays.__dict__.update(self._arrays[hosts.local])
        elif self.size > 64:
            self._arrays[hosts.local] = {name: getattr(exchange._arrays, name) for name in names}
        self.sums[rank] = exchange._arrays.sum
        exchange.transport.structure = structure
        self._windows[rank] = exchange._rows.windows
        others, waits = None, lib.DN_SHM_COMM_WAITS
        if self._met:
            memory = ffi.from_buffer("char[]", self._met[hosts.host])
            others = lib.dn_shm_comm_new(self._ranks, hosts.local, memory, 1)
        for step in range(steps):
            self._steps[rank] = step
            if early:
                exchange.overlap.enable(lambda: 32.0)
            self._pass_time(exchange, rank, self._compute(rank, step))
            flags = exchange.flush(32.0)
            of = Step((self.size, 1, 32, 0, 0, 1, 0, 0, 0, step))  # as of a batch of shard()
            negotiated = agreeing.reach(32.0, self._settings, of, flags)
            if self._copy and exchange.is_steady(negotiated):
                exchange.own()
            exchange.sum(negotiated)
            with clock.outside(in_turn=True):
                clock.spend(self._update)
            root = structure.root.c
            while others and self._library.dn_shm_comm_close(others, root, 0.0) == waits:
                here.wait_until(lambda: lib.dn_shm_comm_received(others, 0.0), "")
            exchange.settle()
            ends[step, rank], self.busy[step, rank] = clock.times[rank], clock.busy[rank]
        if others:
            lib.dn_shm_comm_free(others)

    def _pass_time(self, exchange, rank, seconds):
        """The rank computes, and sends what is complete meanwhile: between the steps of backward,
        or now and then, if the thread does it."""
        clock, spent = self.clock, 0.0
        for part, ready in self._moments or ():
            self._hook[rank] = lib.DN_HOOK_BEGUN
            spent = self._go_on(exchange, spent, part * seconds)
            self._ready[rank] = ready
            exchange.overlap.look()
        self._go_on(exchange, spent, seconds)
        self._hook[rank] = lib.DN_HOOK_COMPLETE
        with clock.outside(in_turn=True):
            pass

    def _go_on(self, exchange, spent, until):
        """From here to there, with the naps of the thread."""
        clock, thread = self.clock, exchange.overlap.thread
        round_ = thread.round if thread is not None and exchange.overlap.is_threaded else None
        while spent < until:
            nap = min(rounds._NAP, until - spent) if round_ is not None else until - spent
            with clock.outside(in_turn=True):
                clock.spend(nap)
            spent += nap
            if round_ is not None:
                round_.open(32.0)
                before = None
                while round_.moves != before:
                    before = round_.moves
                    round_.advance()
        return max(spent, until)

    def _structure_of(self):
        """The model."""
        structure = copy.copy(self._structure)
        structure.check = structure.broadcast = lambda *_: None  # it is one model
        return structure

    def _touch(self, messages):
        """dn_rows_capacity(), of the rows that this rank has used: there is one model for all."""
        clock, structure = self.clock, self._structure
        clock.stop()
        handles = structure.handles[len(structure.dense) :]
        used = self._rows(clock.rank, self._steps[clock.rank])
        for table, handle, rows in zip(structure.tables, handles, used, strict=True):
            zeros = np.zeros((len(rows), *table.shape()[1:]), DTYPE)
            lib.dn_param_clear_gradient(handle)
            lib.dn_lookup_add(handle, len(rows), ffi.from_buffer("int *", rows), pointer(zeros))
        clock.start()
        return lib.dn_rows_capacity(messages)

    def _in_window(self, function):
        """Whose last argument says whether a rank takes its own alone: as if this were the first of
        its host."""

        def call(*arguments):
            if not arguments[-1]:
                return function(*arguments)
            self.clock.stop()
            self._copy.open()
            self.clock.start()
            result = function(*arguments)
            self.clock.stop()
            self._copy.close()
            self.clock.start()
            return result

        return call

    def _put_rows(self, c, owners, messages, scale, own):
        """dn_rows_put()."""
        if own:
            self.clock.stop()
            mine = messages[self.clock.rank % self._ranks]
            messages = ffi.new("int32_t *[]", [mine] + [NULL] * (owners - 1))
            self.clock.start()
        return self._in_window(lib.dn_rows_put)(c, owners, messages, scale, own)

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
        return theirs._own[kind]


class _ExchangeThread:
    """In place of the thread that drives rounds: whose they are calls it now and then."""

    round = None

    def start(self):
        """Does nothing."""

    stop = start

    def watch(self, round_, root, weight):
        """Takes the round that is to be driven."""
        self.round = round_


def _address(pointer_):
    return int(ffi.cast("intptr_t", pointer_))
