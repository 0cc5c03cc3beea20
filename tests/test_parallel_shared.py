"""The exchange of gradients in shared memory: sums here, the rest in
tests/mpi/shared.py and tests/mpi/steady_updates.py, which mpirun starts.

How long: about a minute.
"""

import errno
import os
from pathlib import Path

import jobs
import numpy as np
import pytest
from jobs import holds, mpirun, needs_mpi

from dist_dynet._ffi import DTYPE, ffi, lib, pointer
from dist_dynet.parallel.exchange.plan import check
from dist_dynet.parallel.processes import memory

TOGETHER = {
    "shared.py": (
        "chunks_move_and_return",
        "late_parameters_and_chunks",
        "used_on_one_rank_and_frozen",
        "rows_of_buffers_that_grow",
        "report_that_outgrows_the_buffers",
        "memory_outlives_the_trainer_of_a_graph",
        "trainer_that_ends_inside_of_backward",
        "trainer_that_ends_while_the_root_is_in_use",
    ),
    "steady_updates.py": (
        "negotiation_adds_up_nothing",
        "updates_go_without_python",
        "other_parameters_in_each_update_go_without_python",
        "stack_parser_goes_without_python",
        "updates_between_other_collective_operations",
    ),
}
"""Properties that one job of a program can try in turn."""
ALONE = (
    "update_after_an_interrupted_one",
    "fork",
    "trainers_that_end_give_back_what_they_had",
    "other_layout_falls_back",
    "several_hosts",
    "file_in_dev_shm",
)
"""Those that count what the process has, replace what it uses, or end it."""


# ---- one process -----------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 17, 1024, 5000])
def test_sum_of_ranks(ranks, size, rng):
    for filled in (
        np.ones(ranks, np.uint8),
        np.arange(ranks, dtype=np.uint8) % 2,
        np.zeros(ranks, np.uint8),
    ):
        segments = rng.normal(size=(ranks, size + 9)).astype(DTYPE)
        segments[filled == 0] = np.nan  # must not be read
        factors = rng.random(ranks)
        expected = segments.copy()
        expected[:, 4 : size + 4] = sum(
            factors[r] * segments[r, 4 : size + 4] for r in range(ranks) if filled[r]
        )
        pointers = ffi.new("dn_real *[]", [pointer(segment) for segment in segments])
        assert (
            lib.dn_sum_ranks(
                ranks,
                -1,
                pointers,
                ffi.from_buffer("double[]", factors),
                ffi.from_buffer("uint8_t[]", filled),
                4,
                size + 4,
            )
            == 0
        )
        np.testing.assert_allclose(segments, expected, rtol=1e-5, atol=1e-6)
        assert all(
            np.array_equal(segments[r, 4 : size + 4], segments[0, 4 : size + 4])
            for r in range(ranks)
        )


def test_sum_of_too_many_ranks_is_refused():
    assert lib.dn_sum_ranks(5000, -1, ffi.NULL, ffi.NULL, ffi.NULL, 0, 0) == lib.DN_ERROR_VALUE


def test_errors_of_sums_reach_the_caller():
    with pytest.raises(RuntimeError, match=f"gradient exchange: .* got error {lib.DN_ERROR_VALUE}"):
        check(lib.DN_ERROR_VALUE)
    with pytest.raises(MemoryError, match="gradient exchange: out of memory"):
        check(lib.DN_ERROR_MEMORY)
    check(lib.DN_SHM_COMM_DONE)


@pytest.mark.parametrize(
    ("status", "output", "by_itself", "failing"),
    [
        (0, "ok\nok\nok\n", None, ""),
        (1, "ok\nTraceback b\n", "ok\n", "b"),
        (1, "ok\nTraceback b\n", "Traceback c\n", "bc"),
        (0, "ok\na warning\nok\nok\n", "ok\n", "b"),
        (0, "ok\nok\n", None, "c"),
        (1, "ok\nok\nok\n", None, "c"),
        (1, "", "ok\n", "a"),
    ],
)
def test_property_that_fails_in_a_job_of_several_is_named(
    status, output, by_itself, failing, monkeypatch
):
    def mpirun(ranks, program, *names, **options):
        assert len(names) == 3 or by_itself is not None
        return (status, output, 0) if len(names) == 3 else (by_itself != "ok\n", by_itself, 0)

    monkeypatch.setattr(jobs, "mpirun", mpirun)
    monkeypatch.setattr(jobs, "_together", {})
    failed = ""
    for name in "abc":
        try:
            holds(name, tuple("abc"), 2, "program.py")
        except AssertionError as error:
            failed += name
            assert (output in str(error)) or by_itself in str(error)
    assert failed == failing


# ---- several ---------------------------------------------------------------------------


def in_shm():
    """What lies in /dev/shm and would be ours."""
    folder = Path("/dev/shm")
    return {p.name for p in folder.iterdir() if "dynet" in p.name} if folder.exists() else set()


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("program", "what"), [(program, what) for program in TOGETHER for what in TOGETHER[program]]
)
def test_shared_memory(program, what, ranks):
    before = in_shm()
    holds(what, TOGETHER[program], ranks, program)
    assert in_shm() == before


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("what", ALONE)
def test_shared_memory_of_a_job_of_its_own(what, ranks):
    before = in_shm()
    status, output, _ = mpirun(ranks, "shared.py", what)
    if what == "other_layout_falls_back":
        assert (
            output.count("dist_dynet: gradients are exchanged by MPI instead of shared memory") == 1
        ), output
    else:
        assert output == "ok\n"
    assert status == 0 and "ok" in output.splitlines(), output
    assert in_shm() == before


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("what", "limit"),
    [("no_memory", "1000"), ("no_memory_later", "1e6"), ("no_memory_for_rows", "140000")],
)
def test_without_memory_mpi_takes_over_and_rank_0_says_so(what, limit):
    status, output, _ = mpirun(2, "shared.py", what, DIST_DYNET_SHARED_LIMIT=limit)
    assert status == 0, output
    (note,) = [line for line in output.splitlines() if line != "ok"]
    assert (
        "by MPI instead of shared memory" in note
        and f"DIST_DYNET_SHARED_LIMIT={int(float(limit))}" in note
    )


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("what", "words"),
    [("no_file", "(rank 0: no files today)"), ("no_memory_on_one_rank", "(rank 1: [Errno 28]")],
)
def test_what_one_rank_cannot_do_all_leave(what, words):
    status, output, _ = mpirun(2, "shared.py", what)
    assert (
        status == 0 and output.count("by MPI instead of shared memory") == 1 and words in output
    ), output


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("a_parameter_that_was_frozen", "is frozen on some ranks only"),
        ("settings_that_change", "all ranks must agree; learning rate"),
    ],
)
def test_what_is_wrong_is_found_in_steady_updates_too(what, words):
    status, output, seconds = mpirun(2, "steady_updates.py", what)
    assert status != 0 and words in output and seconds < 15, output


@pytest.mark.mpi
@needs_mpi
def test_killed_rank_leaves_nothing():
    before = in_shm()
    status, output, seconds = mpirun(2, "shared.py", "killed")
    assert status != 0 and seconds < 15, output
    assert "Traceback" not in output and in_shm() == before


def test_a_file_that_has_taken_the_number_of_shared_memory_is_left_alone(tmp_path):
    """A rank that is interrupted closes its memory while another one is about to map it."""
    theirs = tmp_path / "theirs"
    theirs.write_text("a file of the user's")
    descriptor = memory._nameless_file()
    lent = memory.Lent.of(descriptor)
    try:
        file = os.open(theirs, os.O_RDONLY)
        os.dup2(file, descriptor)
        os.close(file)
        with pytest.raises(OSError, match="has closed its shared memory"):
            memory._map(lent, [1000], 1, [0])
    finally:
        os.close(descriptor)
    with pytest.raises(OSError, match="No such file"):
        memory._map(lent, [1000], 1, [0])
    assert theirs.read_text() == "a file of the user's"


@pytest.mark.parametrize("kernel", ["before 6.3", "6.3, with vm.memfd_noexec=2"])
def test_shared_memory_is_made_whatever_the_kernel_thinks_of_running_it(kernel, monkeypatch):
    seal, make = memory._NOEXEC_SEAL, os.memfd_create

    def memfd_create(name, flags=os.MFD_CLOEXEC):
        if kernel == "before 6.3" and flags & seal:
            raise OSError(errno.EINVAL, "Invalid argument")
        if kernel != "before 6.3" and not flags & seal:
            raise OSError(errno.EACCES, "Permission denied")
        return make(name, flags & ~seal)

    monkeypatch.setattr(os, "memfd_create", memfd_create)
    descriptor = memory._nameless_file()
    try:
        os.posix_fallocate(descriptor, 0, 4096)
        assert os.fstat(descriptor).st_size == 4096 and not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)
