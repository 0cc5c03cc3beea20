"""The fuzzer of training on ranks finds nothing in some programs of one seed, and it finds what is
wrong.

How long: half a minute. `python tests/fuzz_ranks.py --seconds 600` runs as long as it is told.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from fuzz_ranks import KINDS, Job, Program, check, drawn, judge, shrunk
from jobs import needs_mpi

pytestmark = [pytest.mark.mpi, needs_mpi]
JOBS = [Job(2, "auto"), Job(3, "auto", "aab")]


def test_one_seed_draws_the_same_programs():
    programs = [drawn(seed) for seed in range(200)]
    assert programs == [drawn(seed) for seed in range(200)]
    for program in programs:
        compile(program.source, f"program {program.seed}", "exec")


@pytest.mark.slow
def test_programs_of_one_seed_end_where_one_process_ends(tmp_path):
    kinds = [kind for kind in KINDS for _ in range(KINDS[kind])] * 2
    programs = [drawn(*numbered) for numbered in enumerate(kinds)]
    found, refused = check(programs, JOBS, tmp_path)
    assert not found, "\n".join(finding.printed() for finding in found)
    assert 1 < refused < len(programs)


# ---- it finds what is wrong ------------------------------------------------------------

PROGRAM = Program(
    1,
    (
        (0, "a = Task(1, 11)"),
        (0, "ta = dist(dy.SimpleSGDTrainer(a.m, 0.1))"),
        (0, "parallel.barrier()"),
        (0, "if parallel.rank() == 0:"),
        (1, "a.backward(a.data[:1])"),
        (0, "update(ta)"),
    ),
)
NOTES = [np.ones(2), np.ones(2)], "", ""
REFUSED = NOTES[0], "[rank 1/2] update: all ranks must agree; it", ""
OTHER = [np.ones(2), np.array([1, 1 + 1e-8])], "", ""


@pytest.mark.parametrize(
    ("kind", "here", "changed"),
    [
        ("ranks differ", [NOTES, OTHER], {}),
        ("ranks differ", [NOTES, (NOTES[0][:1], "", "")], {}),
        ("other", [OTHER, OTHER], {}),
        ("refused", [REFUSED, REFUSED], {}),
        ("refused on some ranks", [NOTES, REFUSED], {"may_refuse": True}),
        ("message", [(NOTES[0], "no", "")] * 2, {"may_refuse": True}),
        ("error KeyError", [NOTES, (NOTES[0], "", "trace\nKeyError")], {}),
        ("job has ended", "status 1", {}),
        (None, [NOTES, NOTES], {}),
        (None, [REFUSED, REFUSED], {"may_refuse": True}),
    ],
)
def test_what_is_wrong_is_found(kind, here, changed):
    finding = judge(replace(PROGRAM, **changed), Job(2), here, NOTES)
    assert (finding.kind if finding else None) == kind


def test_a_program_that_is_wrong_is_made_small(tmp_path):
    """A pass of one rank alone: all update alike, but not as one process."""
    found, _ = check([PROGRAM], JOBS[:1], tmp_path)
    assert [(finding.kind, finding.job.ranks) for finding in found] == [("other", 2)]
    small = shrunk(found[0], tmp_path)
    assert not re.search("barrier", small.printed()) and len(small.program.lines) == 5
