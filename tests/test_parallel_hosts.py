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
from dist_dynet.parallel.exchange.buckets import Layout
from dist_dynet.parallel.exchange.compression import ErrorFeedback, decode, encode

TOGETHER = (
    "sums_are_those_of_the_reference",
    "overlap_changes_nothing",
    "buckets_start_between_the_steps_of_backward",
    "ranks_that_disagree_keep_their_gradients",
    "second_backward_before_the_update",
    "gradients_changed_after_backward",
    "ranks_use_different_parameters",
    "accumulation_and_no_sync",
    "join",
    "nan_on_one_rank",
    "parameters_added_later",
    "parameters_without_numbers",
    "compression_is_bounded_and_loses_nothing",
    "compressed_runs_continue_from_their_state",
    "choice",
    "interrupted_backward",
    "empty_batches_and_weights",  # by shard(): updates after it must name their batches
)
"""Properties that one job can try in turn."""
ALONE = (
    "backward_without_an_update_at_the_end",
    "backward_without_an_update_everywhere",
    "trainer_that_goes",
    "trainers_that_end_give_back_what_they_had",
)
"""Those that count what the process has, replace what it uses, or leave something behind."""
OF_OTHERS = ("sums_are_those_of_the_reference", "overlap_changes_nothing")
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


def test_buckets_hold_what_is_used(seed):
    rng = np.random.default_rng(seed)
    m = dy.ParameterCollection()
    for size in [*rng.integers(1, 3000, 40).tolist(), 200_000, 5, 300_000]:
        m.add_parameters(size, init=0)
    layout = Layout(Structure(m))
    assert layout.at[-1] == 0  # last made, first sent
    for share in (0.0, 0.2, 1.0):
        used = rng.random(len(layout.sizes)) < share
        buckets, filled = layout.buckets(used), np.zeros(layout.size, bool)
        assert all(a.end <= b.start for a, b in pairwise(buckets))
        for bucket in buckets:
            assert used[bucket.members].any()
            filled[bucket.start : bucket.end] = True
        for at, size, is_used in zip(layout.at, layout.sizes, used, strict=True):
            assert filled[at : at + size].all() or not is_used


def test_compression_keeps_what_it_takes_away(rng):
    feedback, residual = ErrorFeedback(), np.zeros(100, DTYPE)
    x = rng.normal(size=50).astype(DTYPE)
    x[7] = np.inf
    codes, _ = feedback.encode(x, residual, slice(10, 60))
    assert not residual.any()  # until the update is made
    feedback.use(np.arange(100) < 50)
    feedback.commit(1.0)
    assert residual[17] == 0 and not residual[:10].any() and not residual[50:].any()
    sent = [k for k in range(40) if k != 7]
    assert np.abs(decode(codes)[sent] + residual[10:60][sent] - x[sent]).max() < 1e-6


def test_refused_messages_do_not_change_the_residual():
    x, residual = np.linspace(0.1, 0.7, 8).astype(DTYPE), np.zeros(8, DTYPE)
    feedback = ErrorFeedback()
    feedback.encode(x, residual, slice(0, 8))
    feedback.discard()
    feedback.commit(1.0)
    assert not residual.any()
    feedback.encode(x, residual, slice(0, 8))
    feedback.commit(0.5)
    exact = np.zeros(8, DTYPE)
    encode(x, exact)
    assert residual.any() and np.array_equal(residual, exact * DTYPE.type(0.5))


def test_arguments_are_checked():
    trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
    with pytest.raises(ValueError, match="compression must be None or 'bf16'; got 'zip'"):
        parallel.DistributedTrainer(trainer, compression="zip")
    assert parallel.DistributedTrainer(trainer, compression="bf16").update()


# ---- several ---------------------------------------------------------------------------


def on_hosts(layout, program, *arguments, **environment):
    """Runs a program of tests/mpi as if its ranks were on hosts a, b, c."""
    return mpirun(len(layout), "as_hosts.py", layout, program, *arguments, **environment)


WAYS = [f"adam {average}" for average in ("mean", "sum")]


def trained(folder, layout):
    """Each rank's parameters after train.py, by way."""
    folder.mkdir()
    status, output, _ = on_hosts(layout, "train.py", folder, *WAYS)
    assert (status, output) == (0, "")
    return {
        way: [dict(np.load(folder / f"{way} {rank}.npz")) for rank in range(len(layout))]
        for way in WAYS
    }


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
def test_without_memory_on_a_host_mpi_takes_over():
    status, output, _ = on_hosts("aab", "hosts.py", "no_memory")
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
