"""Ranks as threads of one process, which send through memory: every message is counted, so that
tests can say how the work of a rank grows with their number."""

import pickle
import threading
import time
from collections import defaultdict, deque
from types import SimpleNamespace

import numpy as np


class Network:
    """Mailboxes of so many ranks, and what each has sent and received."""

    def __init__(self, size, host_ranks=None):
        self.size, self.lock, self.host_ranks = size, threading.Lock(), host_ranks
        self.boxes = [defaultdict(deque) for _ in range(size)]  # of each rank, by (source, tag)
        self.messages, self.bytes = np.zeros((size, 2), int), np.zeros((size, 2), int)

    def run(self, work, ranks=None):
        """work(rank, comm, here) of these ranks at once; what it returns, by rank."""
        results, errors = {}, []

        def call(rank):
            comm = Comm(self, rank)
            try:
                results[rank] = work(rank, comm, here_of(rank, self.size, comm, self.host_ranks))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=call, args=(r,)) for r in ranks or range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def put(self, source, target, tag, data):
        """A message on its way: bytes."""
        with self.lock:
            self.boxes[target][source, tag].append(data)
            for rank, side in ((source, 0), (target, 1)):
                self.messages[rank, side] += 1
                self.bytes[rank, side] += len(data)

    def take(self, target, source, tag):
        """The next message; None: not there yet."""
        with self.lock:
            box = self.boxes[target][source, tag]
            return box.popleft() if box else None


class Request:
    """Done when test() has said so."""

    def __init__(self, test=lambda: True):
        self.test = test

    def Test(self):  # noqa: N802
        """As mpi4py's."""
        return self.test()

    @staticmethod
    def Testall(requests):  # noqa: N802
        """As mpi4py's."""
        return all([request.Test() for request in requests])

    @staticmethod
    def Testsome(requests):  # noqa: N802
        """As mpi4py's."""
        return [i for i, request in enumerate(requests) if request.Test()]


class Comm:
    """What is used of mpi4py's communicator."""

    def __init__(self, network, rank):
        self.network, self.rank = network, rank

    def Isend(self, array, target, tag=0):  # noqa: N802
        """As mpi4py's."""
        self.network.put(self.rank, target, tag, np.ascontiguousarray(array).tobytes())
        return Request()

    def Irecv(self, array, source, tag=0):  # noqa: N802
        """As mpi4py's."""
        got = []

        def test():
            if not got and (data := self.network.take(self.rank, source, tag)) is not None:
                array.reshape(-1).view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
                got.append(True)
            return bool(got)

        return Request(test)

    def Improbe(self, source, tag, status):  # noqa: N802
        """As mpi4py's."""
        data = self.network.take(self.rank, source, tag)
        if data is None:
            return None
        status.bytes = len(data)
        return Coming(data)

    def isend(self, obj, target, tag=0):
        """As mpi4py's."""
        self.network.put(self.rank, target, tag, pickle.dumps(obj))
        return Request()

    def iprobe(self, status):
        """As mpi4py's."""
        boxes = self.network.boxes[self.rank]
        status.source = next((source for (source, _), box in boxes.items() if box), None)
        return status.source is not None

    def recv(self, source, tag=0):
        """As mpi4py's, of what is there."""
        return pickle.loads(self.network.take(self.rank, source, tag))


class Coming:
    """A message that was matched."""

    def __init__(self, data):
        self.data = data

    def Irecv(self, array):  # noqa: N802
        """As mpi4py's."""
        array.view(np.uint8)[:] = np.frombuffer(self.data, np.uint8)
        return Request()


class Status:
    """As mpi4py's."""

    source, bytes = None, 0

    def Get_count(self, kind):  # noqa: N802
        """As mpi4py's, of numbers of four bytes."""
        return self.bytes // 4

    def Get_source(self):  # noqa: N802
        """As mpi4py's."""
        return self.source


def here_of(rank, size, comm, host_ranks=None):
    """What is used of World."""

    def wait(requests, what, timeout=None, moves=int):
        wait_until(lambda: all([request.Test() for request in requests]), what)

    def wait_until(done, what, timeout=None, moves=int):
        until = time.monotonic() + 60
        while not done():
            assert time.monotonic() < until, what
            time.sleep(0)

    return SimpleNamespace(
        rank=rank,
        size=size,
        comm=comm,
        wait=wait,
        wait_until=wait_until,
        mpi=SimpleNamespace(Status=Status, Request=Request, INT=None),
        members=range(size),
        host_ranks=host_ranks,
        name=f"[rank {rank}]",
    )
