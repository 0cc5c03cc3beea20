"""The fuzzer of training on ranks finds nothing in some programs of one seed, it finds what is
wrong, and its programs have all that dist_dynet.parallel offers.

How long: half a minute. `python tests/fuzz_ranks.py --seconds 600` runs as long as it
is told.
"""

import inspect
import re
from dataclasses import replace

import fuzz_ranks
import numpy as np
import pytest
from fuzz_ranks import Job, check, judge, shrunk
from jobs import needs_mpi
from rank_programs import PROGRAMS, Program, drawn

from dist_dynet import _hints, parallel

pytestmark = [pytest.mark.mpi, needs_mpi]
JOBS = [Job(2, "auto"), Job(3, "auto", "aab")]
ELSEWHERE = {
    # what no drawn program has, and the test that does
    "Batch": "made by shard() alone",
    "Shard": "made by shard() alone",
    "check": "tests/mpi/checked.py: calls must come from the same lines on all ranks",
    "comm": "the jobs of the fuzzer with groups; tests/mpi/groups.py, other_ranks.py",
    "exchange": "each job of the fuzzer has another one, by DIST_DYNET_EXCHANGE",
    "local_rank": "tests/mpi/hosts.py",
    "is_being_read": "tests/mpi/loops_over_batches.py",
    "is_main": "rank() == 0",
    "world_size": "tests/mpi/train.py",
    "outer": "tests/mpi/local_sgd.py",
    "position": "tests/mpi/local_sgd.py, resume.py",
    "listen": "tests/test_shard_position.py",
    "is_begun": "tests/test_checkpoint.py",
    "mark_data": "tests/test_shard_position.py",
    "runs_ahead": "tests/test_shard_position.py",
    "update_epoch": "does nothing",
    "required": "tests/test_checkpoint_saves.py",
    "background": "tests/test_checkpoint_saves.py",
    "keep": "tests/test_checkpoint.py",
    "add": "tests/mpi/resume.py",
    "load_states": "tests/mpi/local_sgd.py",
    **dict.fromkeys(
        [
            "sync",
            "description",
            "is_weighted",
            "mark",
            "step_ends",
            "part",
            "problem",
            "reading",
            "ranks",
            "ends_step",
            "total",
            "loop",
        ],
        "of the package alone",
    ),
}


def offered():
    """Names of functions, methods, attributes and arguments."""
    names = set()
    for name in parallel.__all__:
        item = getattr(parallel, name)
        names.add(name)
        names |= {*inspect.signature(item).parameters}
        if inspect.isclass(item):  # of a batch what it has beside lists
            names |= {n for n in dir(item) if not n.startswith("_") and not hasattr(list, n)}
    return names - _hints.OF_TRAINERS.keys()


def test_programs_have_all_that_parallel_offers():
    text = "".join(drawn(seed).source for seed in range(3000)) + fuzz_ranks.PRELUDE.read_text()
    first = ("trainer", "data", "model", "directory", "value", "obj", "op", "fn", "m", "sampler")
    missing = {
        name
        for name in offered() - ELSEWHERE.keys() - {*first}
        if not re.search(rf"\b{name}\b", text)
    }
    assert not missing, (
        f"no program has {sorted(missing)}: draw it in tests/rank_programs.py, or say in"
        " tests/test_fuzz_ranks.py where it is tested"
    )
    old = sorted(ELSEWHERE.keys() - offered())
    assert not old, f"{old}: nothing is called so; see ELSEWHERE in tests/test_fuzz_ranks.py"


def test_one_seed_draws_the_same_programs():
    assert [drawn(seed) for seed in range(50)] == [drawn(seed) for seed in range(50)]


@pytest.mark.slow
def test_programs_of_one_seed_end_where_one_process_ends(tmp_path):
    kinds = [k for k in PROGRAMS for _ in range(2 if PROGRAMS[k] > 2 else 1) if k != "ends"]
    programs = [drawn(*numbered) for numbered in enumerate(kinds)]  # each seed has its own folder
    found, refused = check(programs, JOBS, tmp_path / "run")
    assert not found, "\n".join(finding.printed() for finding in found)
    assert 1 < refused < 2 * len(programs)


def test_groups_of_ranks_end_where_one_process_ends(tmp_path):
    """Side by side, each by its comm=."""
    kinds = "one", "two", "micro", "joined", "converges", "resumed"
    programs = [drawn(500 + k, kind) for k, kind in enumerate(kinds)]
    found, _ = check(programs, [Job(4, "auto", "aaab", "abba")], tmp_path / "run")
    assert not found, "\n".join(finding.printed() for finding in found)


def test_programs_do_not_depend_on_those_before_them(tmp_path):
    """Which have kept batches that nobody uses, or have a thread that waits for ever."""
    task = (0, "a = Task(1)"), (0, "sa = shard(a.data, 2, cost=None)")
    keeps = Program(2, (*task, (0, "State.kept = list(sa)")))
    waits = Program(3, (*task, (0, "next(in_thread(sa))")))
    trained = (0, "ta = local(dy.SimpleSGDTrainer(a.m, 0.1), every=2)"), (0, "with Join(ta):")
    step = (1, "for b in uneven(a, 32):"), (2, "a.backward(b)"), (2, "update(ta, noted=False)")
    found, refused = check(
        [keeps, waits, Program(4, (task[0], *trained, *step), threads=True)],
        JOBS[:1],
        tmp_path / "run",
    )
    assert not found and not refused, [finding.printed() for finding in found]


# ---- it finds what is wrong ------------------------------------------------------------

PROGRAM = Program(
    1,
    (
        (0, "a = Task(1)"),
        (0, "ta = dist(dy.SimpleSGDTrainer(a.m, 0.1))"),
        (0, "parallel.barrier()"),
        (0, "if rank() == 0:"),
        (1, "a.backward(a.data[:1])"),
        (0, "update(ta)"),
    ),
)
NOTES = {"notes": [("update", np.ones(2)), ("end", np.ones(2))], "refused": "", "error": ""}
REFUSED = {**NOTES, "refused": "[rank 1/2] update: all ranks must agree; it"}
OTHER = {**NOTES, "notes": [("update", np.ones(2)), ("end", np.array([1, 1 + 1e-8]))]}


@pytest.mark.parametrize(
    ("kind", "here", "changed"),
    [
        ("ranks differ", [NOTES, OTHER], {}),
        ("ranks differ", [NOTES, {**NOTES, "notes": NOTES["notes"][:1]}], {}),
        ("other", [OTHER, OTHER], {}),
        ("refused", [REFUSED, REFUSED], {}),
        ("refused on some ranks", [NOTES, REFUSED], {"refuse": "may"}),
        ("words", [{**NOTES, "refused": "no"}] * 2, {"refuse": "may"}),
        ("not refused", [NOTES, NOTES], {"refuse": "must"}),
        ("error", [NOTES, {**NOTES, "error": "KeyError"}], {}),
        ("job has ended", None, {}),
        (None, [NOTES, NOTES], {}),
        (None, [REFUSED, REFUSED], {"refuse": "must"}),
        (None, [OTHER, OTHER], {"law": "together"}),
        (None, None, {"alone": True}),
    ],
)
def test_what_is_wrong_is_found(kind, here, changed):
    finding = judge(replace(PROGRAM, **changed), Job(2), here, "status 1", NOTES)
    assert (finding.kind if finding else None) == kind


def test_a_program_that_is_wrong_is_made_small(tmp_path):
    """A pass of one rank alone: all update alike, but not as one process."""
    found, _ = check([PROGRAM], [Job(2, "auto")], tmp_path / "run")
    assert [(f.kind, f.job.ranks) for f in found] == [("other", 2)]
    small, is_alone = shrunk(found[0], tmp_path / "shrink")
    assert is_alone and [line for _, line in small.program.lines] == [
        line for _, line in PROGRAM.lines if "barrier" not in line
    ]
    assert small.printed().splitlines()[-4:] == [
        "ta = dist(dy.SimpleSGDTrainer(a.m, 0.1))",
        "if rank() == 0:",
        "    a.backward(a.data[:1])",
        "update(ta)",
    ]
