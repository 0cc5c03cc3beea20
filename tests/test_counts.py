"""What ranks send one another, counted: it grows with the logarithm of the hosts, or with the
hosts, and not with the ranks."""

import numpy as np
import pytest
from counted import Comm, Network, here_of

from dist_dynet.parallel.checkpoints import ranks as checkpoint_ranks
from dist_dynet.parallel.processes import failures, memory
from dist_dynet.parallel.processes.places import Board, Places, Whereabouts

# ---- where ranks are -------------------------------------------------------------------


class Job:
    """The places of all ranks, in one thread, with a clock of their own."""

    def __init__(self, hosts, ranks):
        self.network, self.now, self.stopped = Network(hosts * ranks), 1000.0, set()
        layout = [list(range(h * ranks, (h + 1) * ranks)) for h in range(hosts)]
        boards = [
            [Board([memoryview(bytearray(1 << 16)) for _ in of]) for _ in range(2)] for of in layout
        ]
        self.places = {}
        for rank in range(hosts * ranks):
            comm = Comm(self.network, rank)
            here = here_of(rank, hosts * ranks, comm)
            self.places[rank] = Places(
                here, comm, layout, *boards[rank // ranks], clock=lambda: self.now
            )

    def tick(self, waited=0.0):
        """A quarter of a second: what each watchdog does."""
        for rank, places in self.places.items():
            if rank not in self.stopped:
                self.now += 1e-6
                places.say(Whereabouts("waits", waited, range(self.network.size), f" at {rank}"))
                places.turn()
        self.now += failures._TICK

    def ask(self, ranks):
        """All of these want to know where the others are; what each is told after the time of an
        answer."""
        asked = {rank: self.places[rank].ask() for rank in ranks}
        for _ in range(int(failures._ANSWER / failures._TICK) + 1):
            self.tick(9.0)
        return {rank: self.places[rank].answers_since(since) for rank, since in asked.items()}


@pytest.mark.parametrize(("hosts", "ranks"), [(1, 8), (4, 1), (4, 6), (12, 4)])
def test_a_question_of_all_ranks_costs_two_messages_for_each_pair_of_hosts(hosts, ranks):
    job = Job(hosts, ranks)
    job.tick()
    answers = job.ask(range(hosts * ranks))
    for told in answers.values():
        assert [*told] == [*range(hosts * ranks)]
        assert all(there.line == f" at {rank}" for rank, there in told.items())
        assert all(8.5 < there.seconds < 10 for there in told.values())
    # both ways, of asking and of being asked
    assert job.network.messages.sum(axis=1).max() <= 4 * (hosts - 1)
    assert job.network.messages.sum() == 4 * hosts * (hosts - 1)


@pytest.mark.parametrize("stopped", [0, 1, 5])
def test_a_rank_that_is_stopped_says_nothing_and_the_others_do(stopped):
    job = Job(3, 3)
    for _ in range(8):
        job.tick()
    job.stopped.add(stopped)
    for _ in range(8):
        job.tick()
    living = {*range(9)} - {stopped}
    for told in job.ask(living).values():
        assert told.keys() == living


@pytest.mark.parametrize(("hosts", "ranks"), [(1, 8), (4, 6), (12, 4)])
def test_that_ranks_leave_costs_a_message_for_each_pair_of_hosts_and_tick(hosts, ranks):
    job = Job(hosts, ranks)
    job.tick()
    for rank in (0, ranks):  # the first two on their hosts, if there are two
        job.places[rank % (hosts * ranks)].leave()
    for _ in range(4):
        job.tick()
    gone = {0, ranks % (hosts * ranks)}
    assert all(places.left().keys() == gone for places in job.places.values())
    for places in job.places.values():
        places.leave()
    for _ in range(4):
        job.tick()
    assert all(len(places.left()) == hosts * ranks for places in job.places.values())
    assert job.network.messages.sum(axis=1).max() <= 6 * (hosts - 1)


# ---- checkpoints -----------------------------------------------------------------------


@pytest.mark.parametrize(("hosts", "ranks"), [(1, 4), (4, 1), (4, 3), (8, 8)])
def test_a_checkpoint_comes_to_rank_0_in_a_message_a_host(hosts, ranks, monkeypatch):
    monkeypatch.setattr(checkpoint_ranks, "_PIECE", 1000)
    count = hosts * ranks
    network = Network(count, [list(range(h * ranks, (h + 1) * ranks)) for h in range(hosts)])
    sizes = [100 + 7 * rank for rank in range(count)]
    sizes[-1] = 2500  # more than a piece
    room = [np.zeros(size, np.uint8) for size in sizes]
    network.run(
        lambda rank, comm, here: checkpoint_ranks.collect(
            here, comm, memoryview(bytes([rank + 1]) * sizes[rank]), sizes, room, ""
        )
    )
    assert all((place == rank + 1).all() for rank, place in enumerate(room))
    pieces = sum(-(-sum(sizes[h * ranks :][:ranks]) // 1000) for h in range(1, hosts))
    assert network.messages[0, 1] <= pieces + 2 * (ranks - 1) + (3 if hosts == 1 else 0)
    assert network.messages[0, 0] == 0


# ---- messages ------------------------------------------------------------------


def test_what_is_said_of_many_ranks_is_short():
    there = {
        r: Whereabouts("waits in a barrier", 9.0, range(900), " at x.py:1") for r in range(900)
    }
    there[7] = Whereabouts("computes", 0.0, (), " at x.py:2")
    assert failures._format_answers(there) == (
        "\nranks 0 to 6 and 8 to 899: waits in a barrier at x.py:1\nrank 7: computes at x.py:2"
    )
    few = {r: there[r] for r in (0, 7)}
    assert failures._format_answers(few) == (
        "\nrank 0 waits in a barrier at x.py:1\nrank 7 computes at x.py:2"
    )
