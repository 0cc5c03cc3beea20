"""Ranks as threads of one process on a virtual clock: what counted.py's ranks send takes its time.

One rank at a time runs, that whose clock is the least. Its clock goes on by the processor time of
the code that its thread runs; by what a message costs where it sends or receives one; to the time
at which something arrives that it waits for. What the emulation itself takes is not counted: the
calls of a communicator cost what Costs says, and what asking for the time takes is measured and
taken off. Nor is looking in vain, which a rank that waits does all the time.
"""

import heapq
import itertools
import statistics
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

from counted import Comm, Network, Request, Status, here_of

from dist_dynet.parallel.processes.world import _LONGEST_NAP, _SHORTEST_NAP, _SPIN

_time = time.thread_time


@dataclass(frozen=True)
class Costs:
    """What messages cost (LogGP)."""

    gbit: float  # of a host's link, each direction
    latency: float  # seconds under way
    overhead: float  # seconds of a processor for each message sent, and received
    copy: float  # the same for each byte


class Clock:
    """The clocks of so many ranks, and whose turn it is.

    Args:
        size: how many.
        cores: processors that they share; None: each has its own.
        factor: of all processor time.
    """

    def __init__(self, size, cores=None, factor=1.0):
        self.factor = factor
        self.times, self.busy = [0.0] * size, [0.0] * size
        self.messages = [0.0] * size  # of that what messages cost
        self._turn = [threading.Semaphore(0) for _ in range(size)]
        self._ready, self._blocked = [], [False] * size
        self._wakes = [[] for _ in range(size)]
        self._free = [0.0] * cores if cores else None
        self._mark, self._left, self._over = 0.0, size, threading.Event()
        self.rank = 0  # whose turn it is
        self._asking = self._cost_of_asking()
        # what a rank's present look has found, if it is noted; what one finds that is repeated
        self.seen, self.shown = [None] * size, [None] * size

    def _cost_of_asking(self):
        """Seconds of a stop() and start() that would be counted."""
        seen = []
        for _ in range(400):
            self.start()
            seen.append(_time() - self._mark)
        return statistics.median(seen)

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
        self.start()

    def end(self):
        """It ends."""
        self._left -= 1
        self._next()

    def stop(self):
        """What follows costs no processor time, until start()."""
        used = _time() - self._mark - self._asking
        if used > 0:
            self.spend(used)

    def start(self):
        """What follows does."""
        self._mark = _time()

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

    def spend_on_message(self, seconds):
        """The same, for a message that is sent, or has come."""
        self.spend(seconds)
        self.messages[self.rank] += seconds * self.factor

    def now(self):
        """(time, processor time, what of it messages cost) of the rank whose turn it is."""
        self.stop()
        self.start()
        return self.times[self.rank], self.busy[self.rank], self.messages[self.rank]

    def take_back(self, before):
        """The rank has looked in vain since now() was this, as it would have at any time while it
        waits: that is not counted, but for messages that have come, unless others would have had
        the processor. Seconds."""
        self.stop()
        rank, seconds = self.rank, 0.0
        if self._free is None:
            messages = self.messages[rank] - before[2]
            seconds = self.times[rank] - before[0] - messages
            self.times[rank] -= seconds
            self.busy[rank] -= seconds
        self.start()
        return seconds

    def look(self, see):
        """What see() says; where a look is repeated, what it has said then."""
        if self.shown[self.rank] is not None:
            return next(self.shown[self.rank])
        found = see()
        if self.seen[self.rank] is not None:
            self.seen[self.rank].append(found)
        return found

    def in_turn(self):
        """While stopped: what follows is seen by others, so that all with lesser clocks go
        before."""
        if self._ready and self._ready[0][0] < self.times[self.rank]:
            heapq.heappush(self._ready, (self.times[self.rank], self.rank))
            self._give_way()

    @contextmanager
    def outside(self, in_turn=False):
        """Of more than a call: stopped, and in turn where wanted."""
        self.stop()
        if in_turn:
            self.in_turn()
        try:
            yield
        finally:
            self.start()

    def block(self, until=None):
        """Until wake(), or this time: the rank has nothing to do."""
        rank = self.rank
        self.stop()
        wakes = self._wakes[rank]
        if until is not None:
            heapq.heappush(wakes, until)
        if wakes:
            heapq.heappush(self._ready, (max(wakes[0], self.times[rank]), rank))
        else:
            self._blocked[rank] = True
        self._give_way()
        while wakes and wakes[0] <= self.times[rank]:
            heapq.heappop(wakes)
        self.start()

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


class Links(Network):
    """Mailboxes in which a message is to be seen when it has arrived: it leaves when its host's
    link has sent what came before, and arrives when the receiver's link has taken what came
    before."""

    def __init__(self, every, clock, costs):
        super().__init__(sum(map(len, every)), every)
        self.clock, self.costs = clock, costs
        self.host_of = {rank: host for host, ranks in enumerate(every) for rank in ranks}
        self._out, self._in = [0.0] * len(every), [0.0] * len(every)

    def put(self, source, target, tag, data):
        """As Network's."""
        clock, costs, size = self.clock, self.costs, len(data)
        clock.spend_on_message(costs.overhead + costs.copy * size)
        a, b, wire = self.host_of[source], self.host_of[target], 8e-9 / costs.gbit * size
        at = clock.times[source]
        if a != b:
            begins = self._out[a] = max(self._out[a], at) + wire
            at = self._in[b] = max(begins + costs.latency, self._in[b] + wire)
        super().put(source, target, tag, data)
        self.boxes[target][source, tag][-1] = at, data
        clock.wake(target, at)

    def take(self, target, source, tag):
        """As Network's."""
        box = self.boxes[target][source, tag]
        if not box or box[0][0] > self.clock.times[target]:
            return None
        data = box.popleft()[1]
        self.clock.spend_on_message(self.costs.overhead + self.costs.copy * len(data))
        return data


def requests_on(clock):
    """A class of requests for which asking whether they are done takes no time of its own."""

    class TimedRequest(Request):
        """As Request."""

        @staticmethod
        def Testall(requests):  # noqa: N802
            """As mpi4py's."""
            clock.stop()
            done = clock.look(lambda: Request.Testall(requests))
            clock.start()
            return done

        @staticmethod
        def Testsome(requests):  # noqa: N802
            """As mpi4py's."""
            clock.stop()
            done = clock.look(lambda: Request.Testsome(requests))
            clock.start()
            return done

    return TimedRequest


class TimedComm(Comm):
    """A communicator with messages of its own."""

    def __init__(self, network, rank, request, purpose=0):
        super().__init__(network, rank)
        self._clock, self._request, self._first = network.clock, request, purpose << 24

    def Isend(self, array, target, tag=0):  # noqa: N802
        """As mpi4py's."""
        self._clock.stop()
        self._clock.in_turn()
        super().Isend(array, target, self._first + tag)
        request = self._request()
        self._clock.start()
        return request

    def Irecv(self, array, source, tag=0):  # noqa: N802
        """As mpi4py's."""
        self._clock.stop()
        request = self._request(super().Irecv(array, source, self._first + tag).test)
        self._clock.start()
        return request

    def Improbe(self, source, tag, status):  # noqa: N802
        """As mpi4py's."""
        self._clock.stop()
        probe = super().Improbe
        coming = self._clock.look(lambda: probe(source, self._first + tag, status))
        if coming is not None:
            coming = _Coming(self, coming)
        self._clock.start()
        return coming

    def Iallgather(self, mine, every):  # noqa: N802
        """Of readings of the meter, now and then: left out."""
        return self._request()


class _Coming:
    """A message that was matched."""

    def __init__(self, comm, coming):
        self._comm, self._coming = comm, coming

    def Irecv(self, array):  # noqa: N802
        """As mpi4py's."""
        self._comm._clock.stop()
        request = self._comm._request(self._coming.Irecv(array).test)
        self._comm._clock.start()
        return request


class TimedLibrary:
    """The C library, where ranks of a host tell one another something in memory; warm: as for
    timed_here()."""

    def __init__(self, lib, network, warm=False):
        self._lib, self._network = lib, network
        for name in ("dn_flag_set", "dn_shm_comm_negotiate", "dn_shm_comm_close"):
            setattr(self, name, self._telling(getattr(lib, name)))
        if warm:
            for name in ("dn_flags_reached", "dn_flag_get", "dn_shm_comm_received"):
                setattr(self, name, self._looking(getattr(lib, name)))

    def _looking(self, function):
        look = self._network.clock.look
        return lambda *arguments: look(lambda: function(*arguments))

    def __getattr__(self, name):
        found = getattr(self._lib, name)
        setattr(self, name, found)
        return found

    def _telling(self, function):
        network, clock = self._network, self._network.clock

        def call(*arguments):
            clock.stop()
            clock.in_turn()
            clock.start()
            told = function(*arguments)
            clock.stop()
            me = clock.rank
            for rank in network.host_ranks[network.host_of[me]]:
                if rank != me:
                    clock.wake(rank, clock.times[me])
            clock.start()
            return told

        return call


def timed_here(rank, network, request, warm=False):
    """What is used of World, by a rank on the clock; warm: when something comes, what a look needs
    is in the processor's caches, as where a rank looks all the time: the last look in vain is
    repeated before, and not counted."""
    purposes = itertools.count(1)
    here = here_of(rank, network.size, TimedComm(network, rank, request), network.host_ranks)

    clock = network.clock

    def wait_until(done, what, timeout=None, moves=int):
        """As World's, which polls without end, and sleeps between after a while: what comes is seen
        when the present look, or sleep, has ended, half of its time later."""
        look, seen, began = 0.0, moves(), clock.now()[0]
        moved = began
        while True:
            before, clock.seen[rank] = clock.now(), [] if warm else None
            finished = done()
            count = seen if finished else moves()
            found, clock.seen[rank] = clock.seen[rank], None
            if not finished and count == seen:
                messages = clock.messages[rank]
                look = clock.take_back(before)
                if warm and messages != before[2]:
                    continue  # what is found then is not what it will find again
                clock.block()
                if warm:
                    before, clock.shown[rank] = clock.now(), iter(found)
                    done()
                    moves()
                    clock.shown[rank] = None
                    clock.take_back(before)
                continue
            if before[0] - began > _SPIN:
                nap = min(max((before[0] - moved) / 50, _SHORTEST_NAP), _LONGEST_NAP)
                clock.spend(nap / 2)
            clock.spend(look / 2)
            if finished:
                return
            look, seen, moved = 0.0, count, before[0]

    here.wait_until = wait_until
    here.wait = lambda requests, what, timeout=None, moves=int: wait_until(
        lambda: request.Testall(requests), what, None, moves
    )
    here.lend = lambda owner: TimedComm(network, rank, request, next(purposes))
    here.mpi = SimpleNamespace(
        Status=Status,
        Request=request,
        INT=None,
        THREAD_MULTIPLE=3,
        Query_thread=lambda: 3,
    )
    here.collective = here.name_of = lambda what, *_: what
    here.count_unchecked, here.checks, here.number_trainer = (lambda: 1), False, str
    return here
