"""What ranks send one another, counted: it grows with the logarithm of the hosts, or with the
hosts, and not with the ranks."""

import math
import mmap
import os
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from counted import Comm, Network, here_of

import dist_dynet as dy
from dist_dynet._ffi import ffi, lib
from dist_dynet.parallel.agreement.message import Flag, MessageLayout
from dist_dynet.parallel.agreement.structure import Structure
from dist_dynet.parallel.exchange import by_host, host_transport, row_messages, windows
from dist_dynet.parallel.exchange.layout import Layout
from dist_dynet.parallel.exchange.recursive_halving import FEWEST, steps
from dist_dynet.parallel.exchange.rows import RowsBetweenHosts
from dist_dynet.parallel.exchange.wire import PIECE, Hosts, Piece, Sum
from dist_dynet.parallel.processes import failures, memory
from dist_dynet.parallel.processes.places import Board, Places, Whereabouts


def hosts_of(hosts, ranks, rank=0):
    """So many hosts with as many ranks each, as this rank sees them."""
    every = [list(range(h * ranks, (h + 1) * ranks)) for h in range(hosts)]
    return Hosts(every, rank // ranks, rank % ranks)


# ---- agreement -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hosts, sent", [(2, 1), (3, 2), (4, 3), (5, 4), (8, 4), (16, 6), (32, 7), (33, 8), (64, 9)]
)
def test_first_ranks_join_their_bytes_in_log_of_the_hosts_messages(hosts, sent):
    ranks, network = [4 * h for h in range(hosts)], Network(4 * hosts)

    def work(rank, comm, here):
        mine = np.zeros(200, np.uint8)
        mine[rank // 4] = 1 + rank % 7
        host_transport.or_reduce(here, comm, ranks, mine, "")
        return mine

    results = network.run(work, ranks)
    expected = np.zeros(200, np.uint8)
    for rank in ranks:
        expected[rank // 4] = 1 + rank % 7
    assert all((results[rank] == expected).all() for rank in ranks)
    assert network.messages[ranks].max() == sent and network.bytes.max() == 200 * sent
    assert network.messages.sum() == 2 * hosts * sent  # no other rank says anything


def messages(m, weights, **changed):
    """Messages as ranks with these weights write them, on one collection; changed: fields of the
    last one."""
    layout = MessageLayout(Structure(m))
    every = np.zeros(len(weights), layout.dtype)
    for rank, weight in enumerate(weights):
        c = ffi.new("dn_rank_message *", {"weight": weight, "structure": 5, "step": 6})
        written = np.empty(layout.size, np.uint8)
        lib.dn_rank_message_write(c, layout.members, ffi.from_buffer(written))
        every[rank] = written.view(layout.dtype)[0]
    for field, value in changed.items():
        every[field][-1] = value
    return layout, every


def model():
    """Of 12 parameters the fourth has a gradient."""
    m = dy.ParameterCollection()
    dense = [m.add_parameters(3) for _ in range(12)]
    m.add_lookup_parameters((5, 2))
    dy.renew_cg()
    dy.sum_elems(dense[3]).backward()
    return m


def summary_of(layout, every, ranks=2):
    """What the summaries of hosts with so many ranks come to."""
    count = len(every) // ranks
    told = [
        host_transport._encoded(
            layout, every[h * ranks :][:ranks], hosts_of(count, ranks, h * ranks)
        )
        for h in range(count)
    ]
    return host_transport._decoded(layout, np.bitwise_or.reduce(told), hosts_of(count, ranks))


def test_a_summary_has_what_all_ranks_have_together():
    layout, every = messages(model(), [1, 2.5, 0, 4])
    every["flags"] = [Flag.EARLY, Flag.EARLY | Flag.AHEAD, Flag.EARLY, Flag.EARLY | Flag.SAVE]
    summary = summary_of(layout, every)
    assert summary.used.tolist() == [k == 3 for k in range(12)]
    assert summary.weights == 7.5
    assert summary.of_any == Flag.EARLY | Flag.AHEAD | Flag.SAVE and summary.of_all == Flag.EARLY


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("structure", 4),
        ("step", 7),
        ("settings", 0.5),
        ("states", 1),
        ("settled", False),
        ("flags", Flag.ENDED),
        ("flags", Flag.UNKNOWN),
        ("flags", Flag.WEIGHED),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_there_is_no_summary_where_one_rank_differs(field, value, ranks):
    layout, every = messages(model(), [1] * 8)
    assert summary_of(layout, every, ranks) is not None
    layout, every = messages(model(), [1] * 8, **{field: value})
    assert summary_of(layout, every, ranks) is None


def test_what_a_rank_is_told_grows_by_eight_bytes_a_host():
    layout = MessageLayout(Structure(model()))
    sizes = [host_transport._size(layout, hosts_of(hosts, 32)) for hosts in (2, 32, 1024)]
    assert sizes[1] - sizes[0] == 8 * 30 and sizes[2] - sizes[1] == 8 * 992


# ---- dense gradients -------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [2, 3, 7])
def test_a_rank_sends_each_other_host_at_most_two_messages_for_each_piece(hosts):
    """The sum is that in the order of hosts, whatever the pieces are."""
    network, size = Network(hosts), 70_000
    rng = np.random.default_rng(1)
    given = rng.normal(size=(hosts, size)).astype(dy.parallel.exchange.layout.DTYPE)

    def work(rank, comm, here):
        mine, of = given[rank].copy(), Hosts([[r] for r in range(hosts)], rank, 0)
        summing = Sum(comm, of, mine, all_come=True)
        for number, start in enumerate((0, 50_000)):
            summing.begin(Piece(of, number, start, (50_000, size)[number]))
        here.wait_until(summing.advance, "")
        return mine

    results = network.run(work)
    expected = given[0].copy()
    for other in given[1:]:
        expected += other
    assert all(np.array_equal(mine, expected) for mine in results.values())
    assert network.messages[:, 0].max() <= 2 * 2 * (hosts - 1)


def test_pieces_grow_with_the_hosts_and_the_ranks_that_share_the_wire():
    m = dy.ParameterCollection()
    for _ in range(40):
        m.add_parameters((500, 500))
    structure, used = Structure(m), np.ones(40, bool)

    def sends(hosts, ranks):
        """Of a rank, for all of the parameters."""
        pieces = Layout(structure, hosts_of(hosts, ranks)).pieces(used)
        if hosts >= FEWEST:
            return len(pieces) * 2 * sum(len(step.swaps) for step in steps(hosts, 0))
        return len(pieces) * (1 if pieces[0].one_hop else 2) * (hosts - 1)

    total = 40 * 500 * 500
    for hosts, ranks in [(2, 1), (3, 2), (4, 16), (8, 16), (32, 32), (64, 32)]:
        assert hosts_of(hosts, ranks).piece >= PIECE
        ring = 2 * min(hosts - 1, 3 * math.ceil(math.log(hosts, 4)))
        # those of a few rings; of more where messages have some size
        slices = max(PIECE, hosts * ranks * 8192)
        assert sends(hosts, ranks) <= ring * (1 + 8 * total / slices), (hosts, ranks)
    assert hosts_of(4, 4).piece == PIECE  # as it always was


# ---- rows of tables --------------------------------------------------------------------


def summed_rows(hosts, ranks, used):
    """The sum of random gradients of so many rows of a table on each rank: by rank, what it comes
    to by row; what it is to be; and the network."""
    count, network = hosts * ranks, Network(hosts * ranks)
    shared = [ffi.new("char[]", windows.BYTES * ranks) for _ in range(hosts)]
    rng = np.random.default_rng(1)
    models, expected = [], {}
    for rank in range(count):
        m = dy.ParameterCollection()
        table = m.add_lookup_parameters((5000, 3))
        models.append(m)
        dy.renew_cg()
        losses = []
        for row in rng.permutation(5000)[:used].tolist():
            values = rng.integers(-9, 9, 3) * (1 + rank % 2)
            losses.append(dy.dot_product(table[row], dy.inputVector(values)))
            expected[row] = expected.get(row, 0) + values
        dy.esum(losses).backward()

    def work(rank, comm, here):
        of = hosts_of(hosts, ranks, rank)
        every = RowsBetweenHosts(here, comm, of, None)
        starts = [windows.BYTES * local for local in range(ranks)]
        every.windows = windows.Windows(of, shared[of.host], starts) if ranks > 1 else None
        m, structure = models[rank], Structure(models[rank])
        for last in (False, True):  # the second time windows are there
            round_ = every.begin(structure, 1.0)
            here.wait_until(round_.advance, "")
            if last:
                round_.put(1.0)
            round_.end()
        (table,) = m.lookup_parameters_list()
        return dict(zip(table.touched_rows().tolist(), table.touched_gradients(), strict=True))

    return network.run(work), expected, network


def test_windows_stay_until_all_have_read_them():
    """A rank whose program has ended leaves its windows to those that have yet to open them."""
    shared, starts = ffi.new("char[]", 2 * windows.BYTES), [0, windows.BYTES]
    first, second = (windows.Windows(hosts_of(1, 2, rank), shared, starts) for rank in range(2))
    first.round = second.round = 1
    first.own(windows.GIVEN, 3)[:] = 1, 2, 3
    descriptor = max(first._descriptors)
    file = os.fstat(descriptor)

    def is_open():
        try:
            return os.path.samestat(os.fstat(descriptor), file)
        except OSError:
            return False

    first.tell(windows.GIVEN)
    first.tell(windows.READ)
    del first
    assert is_open()
    assert second.of(windows.GIVEN, 0)[:3].tolist() == [1, 2, 3]
    second.tell(windows.READ)
    windows.Windows(hosts_of(1, 2), ffi.new("char[]", 2 * windows.BYTES), starts)
    assert not is_open()


@pytest.mark.parametrize(
    ("hosts", "ranks"), [(2, 1), (2, 4), (3, 2), (2, 12), (4, 1), (7, 2), (13, 1), (16, 2)]
)
def test_ranks_of_a_host_share_the_rows_between_hosts(hosts, ranks):
    results, expected, network = summed_rows(hosts, ranks, 150)
    for found in results.values():
        assert found.keys() == expected.keys()
        assert all((found[row] == values).all() for row, values in expected.items())
    # each speaks with counterparts alone, about its share of the rows: there and back, with two of
    # each other group where groups are unlike
    most = 1 if hosts == 2 else 2 * min(hosts - 1, 6 * math.ceil(math.log(hosts, 4)))
    assert network.messages[:, 0].max() <= 2 * most
    assert network.bytes[:, 0].max() <= 1.6 * network.bytes[:, 0].mean() + 400
    whole = (4 + 12) * len(expected) / ranks  # of all rows of a share, with their keys
    assert network.bytes[:, 0].max() <= 2 * 2 * (1.3 * whole + 200)


@pytest.mark.parametrize("most", [4, 8])
@pytest.mark.parametrize("hosts", [*range(2, 18), 31, 33])
def test_groups_that_join_send_as_few_bytes_as_can_be_to_few_hosts(hosts, most):
    ways = [steps(hosts, host, most) for host in range(hosts)]
    for host, way in enumerate(ways):
        owned, sent = (Fraction(0), Fraction(1)), Fraction(0)
        for step in way:
            assert len(step.swaps) <= 2 * (step.groups - 1)
            assert owned[0] <= step.owned[0] < step.owned[1] <= owned[1]
            sent += sum(b - a for *_, (a, b), _ in step.swaps)
            for group in {*range(step.groups)} - {step.group}:
                # what it adds up is what it owns, once of each group
                got = sorted(swap.got for swap in step.swaps if swap.group == group)
                got = [(a, b) for a, b in got if a < b]
                assert got[0][0] == step.owned[0] and got[-1][1] == step.owned[1]
                assert all(a[1] == b[0] for a, b in pairwise(got))
            for _, other, there, _ in step.swaps:
                (back,) = [
                    swap for theirs in ways[other] for swap in theirs.swaps if swap.host == host
                ]
                assert back.got == there
            owned = step.owned
        assert sent == 1 - Fraction(1, hosts)
        assert owned[1] - owned[0] == Fraction(1, hosts)
        assert len(way) <= math.ceil(math.log(hosts, most))


@pytest.mark.parametrize("hosts", [8, 11, 16])
def test_many_hosts_get_the_same_bits_however_an_array_is_cut(hosts):
    """So a parameter's sum does not depend on which others are used."""
    given = (
        np.random.default_rng(2)
        .normal(size=(hosts, 3000))
        .astype(dy.parallel.exchange.layout.DTYPE)
    )

    def summed(*cuts):
        network = Network(hosts)

        def work(rank, comm, here):
            mine, of = given[rank].copy(), Hosts([[r] for r in range(hosts)], rank, 0)
            summing = Sum(comm, of, mine, all_come=True)
            for number, (start, end) in enumerate(pairwise((0, *cuts, 3000))):
                summing.begin(Piece(of, number, start, end))
            here.wait_until(summing.advance, "")
            return mine

        return network.run(work)

    whole, cut, fine = summed(), summed(1000, 1700), summed(16, 17, 40, 2999)
    for rank in range(hosts):
        assert np.array_equal(whole[0], whole[rank])
        assert np.array_equal(whole[rank], cut[rank]) and np.array_equal(whole[rank], fine[rank])
    exact = given.astype(np.float64).sum(axis=0)
    assert np.abs(whole[0] - exact).max() < 1e-5


@pytest.mark.parametrize("ranks", [2, 4])
def test_rows_go_by_messages_where_a_rank_has_no_memory_to_share(ranks, monkeypatch):
    with_memory, expected, _ = summed_rows(2, ranks, 60)
    made = iter(range(1000))

    def reserve(size):
        """None to share for every second window."""
        return (-1, mmap.mmap(-1, size)) if next(made) % 2 else memory.reserve(size)

    monkeypatch.setattr(windows, "reserve", reserve)
    without, _, _ = summed_rows(2, ranks, 60)
    for rank, found in without.items():
        assert found.keys() == expected.keys() == with_memory[rank].keys()
        assert all((values == with_memory[rank][row]).all() for row, values in found.items())


def test_more_rows_than_can_be_counted_are_an_error(monkeypatch):
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((9, 3))
    dy.renew_cg()
    dy.sum_elems(table[4]).backward()
    messages = row_messages.RowMessages(Structure(m), 2, spread=True)
    size = len(messages.give(1.0, lambda size: np.empty(size, np.int32)))
    monkeypatch.setattr(row_messages, "_MOST", size - 1)
    with pytest.raises(ValueError, match="Use smaller batches or more ranks"):
        messages.give(1.0, lambda size: np.empty(size, np.int32))


# ---- where ranks are -------------------------------------------------------------------


class Job:
    """The places of all ranks, in one thread, with a clock of their own."""

    def __init__(self, hosts, ranks):
        self.network, self.now, self.stopped = Network(hosts * ranks), 1000.0, set()
        layout = hosts_of(hosts, ranks).ranks
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


# ---- what is gathered ------------------------------------------------------------------


@pytest.mark.parametrize(("hosts", "ranks"), [(2, 3), (3, 1), (5, 2), (8, 4)])
def test_what_all_ranks_gather_crosses_the_wire_once_for_each_other_host(hosts, ranks):
    count = hosts * ranks
    network = Network(count, hosts_of(hosts, ranks).ranks)
    told = [bytes([rank]) * (7 * rank) for rank in range(count)]
    results = network.run(
        lambda rank, comm, here: by_host.exchange_bytes(here, comm, told[rank], "")
    )
    assert all(found == told for found in results.values())
    rounds = math.ceil(math.log2(hosts))
    assert network.messages[:, 0].max() == ranks - 1 + rounds
    others = [rank for rank in range(count) if rank % ranks]
    assert (network.messages[others, 0] == 1).all()
    # with three numbers for each string, and one for each host
    of_host = [sum(12 + len(text) for text in told[h * ranks :][:ranks]) for h in range(hosts)]
    between = (hosts - 1) * (max(of_host) + 4) + 4 * rounds
    assert network.bytes[::ranks, 0].max() <= (ranks - 1) * sum(of_host) + between


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
