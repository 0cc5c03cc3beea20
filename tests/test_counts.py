"""What ranks send one another, counted: it grows with the logarithm of the hosts, or with the
hosts, and not with the ranks."""

import math

import numpy as np
import pytest
from counted import Network

import dist_dynet as dy
from dist_dynet._ffi import ffi, lib
from dist_dynet.parallel import host_transport
from dist_dynet.parallel.message import Flag, MessageLayout
from dist_dynet.parallel.structure import Structure
from dist_dynet.parallel.wire import Hosts


def hosts_of(hosts, ranks, rank=0):
    """So many hosts with as many ranks each, as this rank sees them."""
    every = [list(range(h * ranks, (h + 1) * ranks)) for h in range(hosts)]
    return Hosts(every, rank // ranks, rank % ranks)


# ---- agreement -------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [2, 3, 8, 33])
def test_first_ranks_join_their_bytes_in_log_of_the_hosts_messages(hosts):
    ranks, network = [4 * h for h in range(hosts)], Network(4 * hosts)

    def work(rank, comm, here):
        mine = np.zeros(200, np.uint8)
        mine[rank // 4] = 1 + rank % 7
        host_transport.join(here, comm, ranks, mine, "")
        return mine

    results = network.run(work, ranks)
    expected = np.zeros(200, np.uint8)
    for rank in ranks:
        expected[rank // 4] = 1 + rank % 7
    assert all((results[rank] == expected).all() for rank in ranks)
    rounds = math.ceil(math.log2(hosts))
    assert network.messages[ranks].max() == rounds and network.bytes.max() == 200 * rounds
    assert network.messages.sum() == 2 * hosts * rounds  # no other rank says anything


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
        host_transport._joinable(
            layout, every[h * ranks :][:ranks], hosts_of(count, ranks, h * ranks)
        )
        for h in range(count)
    ]
    return host_transport._read(layout, np.bitwise_or.reduce(told), hosts_of(count, ranks))


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
        ("frozen", True),
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
