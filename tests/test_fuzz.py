"""The fuzzer finds nothing, in a minute with one seed; and it finds what is wrong: values, crashes,
hangs, other bits on other paths.

How long: ten seconds, and the slow minute.
"""

import random
import re

import fuzz
import fuzz_source
import pytest
from fuzz_programs import CELLS, ROWS, Deck, Program, Step, cases, drawn
from fuzz_source import Mode, source
from processes import HERE, run_python

from dist_dynet._ffi import OPS

pytestmark = [pytest.mark.fast_paths, pytest.mark.float32]


@pytest.mark.slow
def test_half_a_minute_of_random_programs_finds_nothing():
    result = run_python(
        "-W", "error", str(HERE / "fuzz.py"), "--seconds", "30", "--seed", "0", timeout=400
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-3000:]
    assert int(re.search(r"(\d+) programs", result.stdout)[1]) > 20


def test_programs_have_all_operations_and_all_kinds_of_steps():
    rows = {k for k, _ in cases()}
    missing = OPS.keys() - {ROWS[k][2].op for k in rows}
    assert not missing, (
        f"no program has the operations {sorted(missing)}: see cases() of tests/fuzz_programs.py"
    )
    assert {row.name for _, _, row in ROWS} == {ROWS[k][2].name for k in rows}
    deck = Deck(random.Random(1))
    programs = [drawn(seed, deck) for seed in range(400)]
    steps = [s for p in programs for s in p.steps]
    doing = {
        name[1:] for name in vars(fuzz_source._Source) if name in {f"_{s.kind}" for s in steps}
    }
    assert doing == {
        "checkpoint",
        "revert",
        "renew",
        "set",
        "recalculate",
        "update",
        "freeze",
        "clear",
        "observe",
    }
    assert {s.kind for s in steps} - doing == {
        "input",
        "parameter",
        "lookup",
        "unary",
        "weight",
        "several",
        "row",
        "sequence",
        "cell",
        "fold",
        "tree",
        "poison",
    }
    assert {s.rest[0] for s in steps if s.kind == "row"} == rows
    assert {s.rest[0] for s in steps if s.kind == "cell"} == CELLS.keys()


def test_one_seed_draws_the_same_programs():
    programs = [
        [drawn(seed, deck) for seed in range(20)]
        for deck in (Deck(random.Random(4)), Deck(random.Random(4)))
    ]
    assert programs[0] == programs[1]


# ---- it finds what is wrong ------------------------------------------------------------

PROGRAM = Program(
    5,
    True,
    (
        Step(0, "input", (3, 1, 4)),
        Step(1, "input", (3, 1, 9)),
        Step(2, "checkpoint", ()),
        Step(3, "unary", (3, 0, 0)),
        Step(4, "revert", ()),
        Step(5, "unary", (3, 0, 1)),
        Step(6, "lookup", (3, 2, "E")),
        Step(7, "weight", (3, 3, 0, 5)),
        Step(8, "recalculate", (7,)),
        Step(9, "observe", ((7, 0), "backward()", True, 0)),
    ),
)
PLAN = fuzz.Plan("float64", tuple(fuzz.LIVE), Mode(1), Mode(2))


@pytest.fixture
def run():
    made = fuzz.Fuzz(0, patience=20)
    yield made
    made.workers.close()


def spoilt(monkeypatch, spoil, where):
    """Programs' lines with a fault in some modes: spoil(line) is the line instead."""

    def lines(program, mode):
        return [
            (number, spoil(text) if where(mode) else text) for number, text in source(program, mode)
        ]

    monkeypatch.setattr(fuzz, "source", lines)


def test_nothing_is_found_where_nothing_is_wrong(run):
    assert run.check(PROGRAM, PLAN) is None


def test_a_wrong_value_is_found_and_made_small(run, monkeypatch, tmp_path):
    spoilt(
        monkeypatch,
        lambda text: text.replace("dy.tanh(W33", "dy.tanh(1.001 * W33"),
        lambda mode: mode.autobatching == 2,
    )
    small, found, alone = run.check(PROGRAM, PLAN)
    assert (found.kind, found.mode.autobatching, alone) == ("wrong", 2, True)
    assert [s.number for s in small.steps] == [1, 5, 7, 9]
    script = tmp_path / "found.py"
    script.write_text(fuzz.printed(small, found))
    result = run_python(str(script), DIST_DYNET_DTYPE="float64")
    assert result.returncode == 0 and "9 value 7 [" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("kind", "line"), [("crash", "import os; os.abort()"), ("hang", "while True: pass")]
)
def test_what_ends_or_stops_a_process_is_found(kind, line, monkeypatch):
    spoilt(
        monkeypatch,
        lambda text: (
            f"{text}; {line}"
            if "v7 =" in text and kind == "crash"
            else f"{line}"
            if "v7 =" in text
            else text
        ),
        lambda mode: mode.autobatching == 3,
    )
    run = fuzz.Fuzz(0, patience=1)
    try:
        small, found, alone = run.check(
            PROGRAM, PLAN._replace(modes=(Mode(3),), general=None, threads=None)
        )
    finally:
        run.workers.close()
    assert (found.kind, alone) == (kind, True)
    assert [s.number for s in small.steps if s.kind != "observe"] == [1, 5, 7]


def test_another_error_is_found(run, monkeypatch):
    spoilt(
        monkeypatch,
        lambda text: text.replace("dy.tanh(W33", "dy.tanh(3 if 1 else W33"),
        lambda mode: mode.autobatching == 1,
    )
    _, found, _ = run.check(PROGRAM, PLAN)
    assert found.kind == "wrong" and found.got[0] == "TypeError" and found.want is None


def test_other_bits_on_the_general_path_are_found(run, monkeypatch):
    slightly = "dy.tanh((1 + 1e-14 * (not __import__('dist_dynet')._ffi.FAST_PATHS)) * W33"
    spoilt(monkeypatch, lambda text: text.replace("dy.tanh(W33", slightly), lambda mode: True)
    small, found, _ = run.check(PROGRAM, PLAN)
    assert found.kind == "general path" and len(small.steps) == 4


def test_other_bits_in_threads_are_found(run, monkeypatch):
    slightly = "dy.tanh((1 + 1e-14 * (__import__('threading').active_count() > 1)) * W33"
    spoilt(monkeypatch, lambda text: text.replace("dy.tanh(W33", slightly), lambda mode: True)
    _, found, _ = run.check(PROGRAM, PLAN)
    assert found.kind == "threads"


def test_a_value_that_numpy_does_not_give_is_found(run, monkeypatch):
    k = next(k for k, (_, _, row) in enumerate(ROWS) if row.name == "sinh")
    program = Program(
        1,
        True,
        (
            Step(0, "row", (k, 0, 3, (None,), (False,), False)),
            Step(1, "observe", ((0,), "", True, 0)),
        ),
    )
    assert run.check(program, PLAN) is None
    spoilt(
        monkeypatch, lambda text: re.sub(r"v0 = (.*)", r"v0 = \1 * 1.001", text), lambda mode: True
    )
    _, found, _ = run.check(program, PLAN)
    assert found.key == (1, "model", 0, "NumPy")
