"""The exchange between hosts: the division of the work here, the rest in tests/mpi/hosts.py, which
mpirun starts as if on several hosts.

How long: about a minute.
"""

from itertools import pairwise

import numpy as np
import pytest
from jobs import holds, mpirun, needs_mpi

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._ffi import DTYPE
from dist_dynet.parallel.agreement.structure import Structure
from dist_dynet.parallel.exchange.compression import CODES, ErrorFeedback
from dist_dynet.parallel.exchange.layout import Layout
from dist_dynet.parallel.exchange.wire import Hosts, Piece, Sum, cut

TOGETHER = (
    "sums_are_those_of_one_process",
    "overlap_changes_nothing",
    "thread_is_left_out_where_it_does_not_pay",
    "gradients_leave_between_the_steps_of_backward",
    "ranks_that_disagree_keep_their_gradients",
    "only_what_is_used_again_and_again_is_sent_early",
    "second_backward_before_the_update",
    "second_backward_before_the_update_in_steps",
    "gradients_changed_after_backward",
    "gradients_changed_after_backward_in_steps",
    "ranks_use_different_parameters",
    "empty_batches_and_weights",
    "accumulation_and_no_sync",
    "join",
    "nan_on_one_rank",
    "parameters_added_later",
    "parameters_without_numbers",
    "compression_is_bounded_and_loses_nothing",
    "compressed_runs_continue_from_their_state",
    "choice",
    "interrupted_backward",
    "interrupted_backward_in_steps",
)
"""Properties that one job can try in turn."""
ALONE = (
    "exchange_continues_while_the_agreement_is_waited_for",
    "backward_without_an_update_at_the_end",
    "backward_without_an_update_at_the_end_in_steps",
    "backward_without_an_update_everywhere",
    "trainer_that_goes",
    "trainer_that_goes_leaves_no_message_to_others",
    "trainers_that_end_give_back_what_they_had",
)
"""Those that count what the process has, replace what it uses, or leave something behind."""
OF_OTHERS = ("sums_are_those_of_one_process", "overlap_changes_nothing")
LAYOUTS = {
    "ab": OF_OTHERS,
    "abab": OF_OTHERS,
    "abc": (
        *OF_OTHERS,
        "compressed_runs_continue_from_their_state",
        "compression_is_bounded_and_loses_nothing",
        "ranks_that_disagree_keep_their_gradients",
    ),
}
"""What is tried with other numbers of hosts and ranks than two and three."""


# ---- one process -----------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
@pytest.mark.parametrize("end", [32, 33, 64, 100, 5000])
def test_parts_of_a_range_cover_it(parts, end):
    ranges = [cut(32, end, parts, k) for k in range(parts)]
    assert ranges[0][0] == 32 and ranges[-1][1] == end
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert max(b - a for a, b in ranges) - min(b - a for a, b in ranges) <= 2 * 16


@pytest.mark.parametrize("layout", [[[0], [1]], [[0, 1], [2]], [[0, 2], [1, 3], [4, 5, 6]]])
def test_each_number_of_a_piece_has_one_stripe_and_one_owner(layout):
    seen = np.zeros(1000, int)
    for host in range(len(layout)):
        for local in range(min(map(len, layout))):
            hosts = Hosts(layout, host, local)
            piece = Piece(hosts, 0, 100, 1000)
            assert [hosts.ranks[h][local] for h in range(len(layout))] == hosts.counterparts
            a, b = piece.slices[host]
            seen[a:b] += 1
            assert piece.slices[0][0] == piece.start and piece.slices[-1][1] == piece.end
            assert piece.one_hop and Piece(hosts, 0, 0, 1 << 17).one_hop == (len(layout) == 2)
    assert (seen[100:] == 1).all() and not seen[:100].any()
    assert all(
        Hosts(layout, h, len(ranks) - 1).counterparts == []
        for h, ranks in enumerate(layout)
        if len(ranks) > min(map(len, layout))
    )


def test_pieces_hold_what_is_used_and_little_else(seed):
    rng = np.random.default_rng(seed)
    m = dy.ParameterCollection()
    for size in [
        *rng.integers(1, 3000, 40).tolist(),
        200_000,
        5,
        300_000,
        *rng.integers(1, 30, 40).tolist(),
    ]:
        m.add_parameters(size, init=0)
    structure = Structure(m)
    layout = Layout(structure, Hosts([[0], [1]], 0, 0))
    places = sorted((at, at + size) for at, size in zip(layout.at, layout.sizes, strict=True))
    assert all(a[1] <= b[0] for a, b in pairwise(places)) and places[-1][1] <= layout.size
    assert layout.at[-1] == 0  # last made, first sent
    for share in (0.0, 0.2, 0.8, 1.0):
        used = rng.random(len(structure.dense)) < share
        pieces = layout.pieces(used)
        assert [piece.number for piece in pieces] == list(range(len(pieces)))
        filled = np.zeros(layout.size, bool)
        for piece in pieces:
            assert piece.end - piece.start <= 1 << 17
            for i, start, end, place in piece.parts:
                assert 0 <= start < end <= layout.sizes[i] and place == layout.at[i] + start
                assert (
                    piece.start <= place
                    and place + end - start <= piece.end
                    and not filled[place : place + end - start].any()
                )
                filled[place : place + end - start] = True
        sent = {i for piece in pieces for i, *_ in piece.parts}
        assert all(
            filled[layout.at[i] : layout.at[i] + layout.sizes[i]].all() == (i in sent)
            for i in range(len(used))
        )
        assert set(np.flatnonzero(used).tolist()) <= sent
        assert sum(layout.sizes[i] for i in sent if not used[i]) <= 4096 * len(sent)
    assert layout.pieces(used) is pieces


@pytest.mark.parametrize("code", CODES)
def test_compression_keeps_what_it_takes_away(code, rng):
    compression = ErrorFeedback(CODES[code], 100)
    x = rng.normal(size=100).astype(DTYPE)
    message, decoded = compression.encode(x, 10, 60), np.empty(50, DTYPE)
    compression.code.decode(message, decoded)
    assert np.abs(decoded + compression.residual[10:60] - x[10:60]).max() < 1e-6
    assert (
        not compression.residual[:10].any()
        and not compression.residual[60:].any()
        and compression.residual[10:60].any()
    )
    rows, file = (
        rng.normal(size=(3, 300)).astype(DTYPE),
        "dist_dynet/parallel/exchange/compression.py",
    )
    rows[1, 7] = np.inf
    residual, kept = np.zeros_like(rows), rows.copy()
    items = np.zeros((3, CODES[code].items(300)), CODES[code].dtype)
    CODES[code].encode(rows, residual, items)
    got = CODES[code].decoded(items, 300)
    assert np.array_equal(rows, kept), f"{file}: {code} changes what it encodes"
    assert not np.isfinite(got).all(), f"{file}: {code} hides what is not finite"
    assert np.isfinite(residual).all() and residual[1, 7] == 0, f"{file}: {code} keeps infinity"
    for row in (0, 2):
        assert np.abs(got[row] + residual[row] - rows[row]).max() < 1e-6, f"{file}: {code} of rows"


def test_what_was_taken_back_is_not_part_of_an_update():
    """Part of a message that nobody reads, and a message that is made again: only the residual of
    what has come into the update is multiplied by its factor."""
    array = np.linspace(0.1, 0.7, 8).astype(DTYPE)
    once, again = (ErrorFeedback(CODES["bf16"], 8) for _ in range(2))
    once.residual[:] = again.residual[:] = 0.01
    once.encode(array, 2, 6)
    again.encode(array, 0, 8)
    again.take_back(0, 2)
    again.take_back(6)
    assert again.residual[[0, 1, 6, 7]].tolist() == [DTYPE.type(0.01)] * 4
    again.take_back()
    again.encode(array, 2, 6)
    once.commit(0.5)
    again.commit(0.5)
    assert again.residual.tolist() == once.residual.tolist()
    assert again.residual[[0, 1, 6, 7]].tolist() == [DTYPE.type(0.01)] * 4


def test_arguments_are_checked():
    trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
    with pytest.raises(ValueError, match="compression must be None, 'bf16', 'int8'; got 'zip'"):
        parallel.DistributedTrainer(trainer, compression="zip")
    assert parallel.DistributedTrainer(
        trainer, overlap=False, compression="bf16", exchange="hybrid"
    ).update()


# ---- several ---------------------------------------------------------------------------


def on_hosts(layout, program, *arguments, **environment):
    """Runs a program of tests/mpi as if its ranks were on hosts a, b, c."""
    return mpirun(len(layout), "as_hosts.py", layout, program, *arguments, **environment)


WAYS = [f"adam {average}" for average in ("mean", "weighted", "sum")]


def trained(folder, layout):
    """Each rank's parameters after train.py, by way."""
    folder.mkdir()
    status, output, _ = on_hosts(layout, "train.py", folder, *WAYS)
    assert (status, output) == (0, "")
    return {
        way: [dict(np.load(folder / f"{way} {rank}.npz")) for rank in range(len(layout))]
        for way in WAYS
    }


class Unanswered:
    """A communicator in which nothing comes or leaves, and a request of it."""

    def __init__(self, cancelled, kind=""):
        self.cancelled, self.kind = cancelled, kind

    def Isend(self, *_):  # noqa: N802
        return Unanswered(self.cancelled, "sent")

    def Irecv(self, *_):  # noqa: N802
        return Unanswered(self.cancelled, "received")

    def Cancel(self):  # noqa: N802
        self.cancelled.append(self.kind)

    def Free(self):  # noqa: N802
        pass


@pytest.mark.parametrize("count", [2, 3, 8])
def test_what_is_being_sent_is_never_cancelled(count):
    """MPICH ends the process then, now and then. Hosts: of each way to sum a piece."""
    hosts, cancelled = Hosts([[rank] for rank in range(count)], 0, 0), []
    array = np.zeros(1 << 17, DTYPE)
    total = Sum(Unanswered(cancelled), hosts, array, all_come=True)
    total.begin(Piece(hosts, 0, 0, array.size))
    total.abandon()
    assert set(cancelled) == {"received"}


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("layout", ["aab", "abc"])
def test_hosts_agree_with_one_process_and_with_themselves(layout, tmp_path):
    every = {
        name: trained(tmp_path / name, hosts)
        for name, hosts in (("alone", "a"), ("first", layout), ("second", layout))
    }
    for way in WAYS:
        (alone,) = every["alone"][way]
        ranks = every["first"][way] + every["second"][way]
        for name, values in alone.items():
            assert np.all(np.abs(ranks[0][name] - values) <= 1e-5 * (1 + np.abs(values))), (
                way,
                name,
            )
            assert all(np.array_equal(rank[name], ranks[0][name]) for rank in ranks), (way, name)


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("what", TOGETHER)
def test_between_hosts(what):
    holds(what, TOGETHER, 3, "as_hosts.py", "aab", "hosts.py")


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("what", ALONE)
def test_between_hosts_in_a_job_of_its_own(what):
    status, output, _ = on_hosts("aab", "hosts.py", what)
    assert (status, output) == (0, "ok\n")


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("layout", "what"), [(layout, what) for layout, names in LAYOUTS.items() for what in names]
)
def test_other_numbers_of_hosts_and_ranks(layout, what):
    holds(what, LAYOUTS[layout], len(layout), "as_hosts.py", layout, "hosts.py")


@pytest.mark.mpi
@needs_mpi
def test_compression_loses_nothing_whatever_comes_of_an_update():
    assert on_hosts("ab", "error_feedback.py")[:2] == (0, "ok\n")


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("what", ["no_memory", "no_memory_any_more"])
def test_without_memory_on_a_host_mpi_takes_over(what):
    status, output, _ = on_hosts("aab", "hosts.py", what)
    assert (
        status == 0
        and output.count("gradients are exchanged by MPI instead of shared memory") == 1
        and "ok" in output.splitlines()
    )


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("how", "begins"), [("mean", True), ("shard", True), ("batch", True), ("number", False)]
)
def test_gradients_leave_during_backward_where_their_weight_is_known(how, begins):
    status, output, _ = on_hosts("ab", "weighted_early.py", how)
    early, again = map(int, output.split())
    assert status == 0 and again == 0 and (early > 10) is begins, output
