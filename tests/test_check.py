"""`dist-dynet check`: what it says of programs with and without mistakes, and of the time.

How long: ten seconds, of which the programs of several ranks take nearly all.
"""

import subprocess
import sys

import numpy as np
import pytest
from jobs import PROGRAMS, environment_of, needs_mpi

from dist_dynet.cli import comparison
from dist_dynet.cli._messages import RefusedError
from dist_dynet.cli.check import parse_check

PROGRAM = str(PROGRAMS / "trial.py")


def check(*arguments, folder):
    """(exit status, what it says) of `dist-dynet check ARGUMENTS` in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "dist_dynet", "check", *arguments],
        env=environment_of(sys.executable, PYTHONHASHSEED=None, PYTHONSAFEPATH="1"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
    )
    return done.returncode, done.stdout + done.stderr


MISTAKES = {
    "": (0, ["10 of 61 examples", "values       agree", "computing", "nothing differs"]),
    "no shard": (0, ["no shard()", "not comparable"]),
    "dropout": (0, ["draw random numbers"]),
    "set": (0, ["values       agree"]),
    "sum": (1, ["losses seem to be sums"]),
    "order": (1, ["Each rank must read the same examples"]),
    "exception": (1, ["only with several ranks", "runs with 1 rank, but fails with 2"]),
    "not distributed": (1, ["Write dy.parallel.DistributedTrainer(dy.AdamTrainer(m))"]),
}


BY_HAND = """
import dist_dynet as dy
m = dy.ParameterCollection()
w = m.add_parameters(1, init=1)
trainer = dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
for batch in dy.parallel.shard([1.0, 2.0, 3.0], batch_size=2):
    dy.renew_cg()
    dy.sum_elems(w * float(sum(batch))).backward()
    w.set_value(w.as_array() - 0.1 * w.grad_as_array())
    m.reset_gradients()
"""


def test_updates_by_hand_are_no_updates(tmp_path):
    (tmp_path / "train.py").write_text(BY_HAND)
    status, said = check("train.py", folder=tmp_path)
    assert status == 1 and "calls no update() of its DistributedTrainer with 1 rank" in said, said
    assert "nothing differs" not in said, said


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("mistake", MISTAKES)
def test_check_names_a_mistake_and_nothing_else(mistake, tmp_path):
    status, said = check(PROGRAM, "-n", "2", "--steps", "3", "--", mistake, folder=tmp_path)
    expected, words = MISTAKES[mistake]
    assert status == expected, said
    assert not [text for text in words if text not in said], said
    assert list(tmp_path.iterdir()) == []  # no checkpoint
    ends = {"not distributed": 1, "exception": 1}.get(mistake, 3)
    assert said.count("left with <class 'SystemExit'>") >= ends, said


def test_script_that_fails_with_one_rank_is_not_run_with_several(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import sys, dist_dynet\nsys.exit(7 if sys.argv[1:] == ['-n', '3'] else 0)\n")
    status, said = check(str(script), "--", "-n", "3", folder=tmp_path)
    assert status == 1 and "fails with 1 rank already (status 7)" in said, said
    script.write_text("import dist_dynet as dy\nprint('nothing')\n")
    status, said = check(str(script), folder=tmp_path)
    assert status == 1 and "makes no update with 1 rank" in said, said
    script.write_text("print('nothing')\n")
    status, said = check(str(script), folder=tmp_path)
    assert status == 1 and "does not use dist_dynet" in said, said


def test_options_stand_before_or_after_the_script():
    for words in (
        ["-n", "3", "--steps", "2", "t.py", "--epochs", "4"],
        ["t.py", "-n", "3", "--steps=2", "--epochs", "4"],
        ["-n3", "t.py", "--steps", "2", "--", "--epochs", "4"],
    ):
        options, steps = parse_check(words)
        assert (options.ranks, steps) == (3, 2)
        assert options.command[1:] == ("t.py", "--epochs", "4")
    assert parse_check(["-m", "a.b", "-n", "4", "x"])[0].command[1:] == ("-m", "a.b", "x")
    assert parse_check(["t.py"])[0].ranks == 2
    for words, refusal in (
        (["-n", "1", "t.py"], "takes 2 ranks or more"),
        (["--steps", "0", "t.py"], "--steps"),
        (["--hosts", "a,b", "t.py"], "runs on this host"),
        (["t.py", "--max-restarts", "2"], "runs on this host"),
        (["-n", "3"], "no script to check"),
        (["-m"], "no script to check"),
    ):
        with pytest.raises(RefusedError, match=refusal):
            parse_check(words)


def trainer(updates=2, **changed):
    step = {"examples": 9, "fingerprint": 77, "batch_size": 4, "division": 0}
    base = {
        "average": "mean",
        "reproducible": False,
        "ranks": 1,
        "local": False,
        "parameters": [["/w", [2]]],
        "updates": updates,
        "norms": [2.0] * updates,
        "steps": [{**step, "step": i} for i in range(updates)],
        "times": [],
    }
    return {**base, **changed}


STEP = trainer()["steps"][0]


def run_of(trainers, values, ranks=1):
    records = {
        rank: {"ended": "stopped", "dtype": "float32", "plain": {}, "trainers": trainers}
        for rank in range(ranks)
    }
    arrays = [{"first-0": np.zeros(2), "last-0": np.array(last)} for last in values]
    return comparison.Run(ranks, 0, records, arrays)


@pytest.mark.parametrize(
    ("changed", "last", "fault"),
    [
        ({}, [1.0, 1.00001], None),
        ({}, [1.0, 1.01], "N ranks do not compute"),
        ({"norms": [6.0, 2.0]}, [1.0, 1.0], "N ranks do not compute"),
        ({"norms": [6.0, 2.0], "average": "sum"}, [1.0, 1.0], "3 times what they should be"),
        ({"norms": [2 / 3, 2.0]}, [1.0, 1.0], "1/3 of what they should be"),
        ({"updates": 1, "steps": trainer()["steps"][:1]}, [1.0, 1.0], "call update() in every"),
        ({"steps": [{**STEP, "examples": 8}] * 2}, [1.0, 1.0], "the same examples"),
        ({"steps": [{**STEP, "division": 8}] * 2}, [1.0, 1.0], "Make the same steps"),
        ({"steps": trainer()["steps"][::-1]}, [1.0, 1.0], "Make the same steps"),
        ({"parameters": [["/v", [2]]]}, [1.0, 1.0], "The model and its first values"),
        ({"parameters": []}, [1.0, 1.0], "The model and its first values"),
        ({"parameters": [], "local": True}, [1.0, 2.0], None),
        ({"steps": [{**STEP, "batch_size": 8}] * 2}, [1.0, 2.0], None),
        ({"steps": [{}] * 2, "norms": [4.0] * 2}, [1.0, 1.0], "Make the same steps"),
    ],
)
def test_comparison_says_what_differs(changed, last, fault):
    one = run_of([trainer()], [[1.0, 1.0]])
    found = comparison.compare(one, run_of([trainer(**{"ranks": 3, **changed})], [last], 3))
    assert [text for text in found.faults if fault is None or fault not in text] == []
    assert len(found.faults) == (fault is not None)


def test_same_bits_are_asked_for_where_they_are_promised():
    of_both = [
        run_of([trainer(ranks=n, reproducible=True)], [[1.0, last]], n)
        for n, last in ((1, 1.0), (2, 1.0000001))
    ]
    (fault,) = comparison.compare(*of_both).faults
    assert "the bits must be the same" in fault
    assert comparison.compare(of_both[0], of_both[0]).faults == []


def times(compute, agreement, exchange, update):
    return {"compute": compute, "agreement": agreement, "exchange": exchange, "rows": 0.0} | {
        "update": update
    }


def test_pace_tells_waiting_from_exchange():
    one = run_of([trainer(times=[times(0.100, 0, 0, 0.010)] * 3)], [[1.0, 1.0]])
    many = run_of([trainer()], [[1.0, 1.0]], 2)
    for rank, wait in enumerate((0.004, 0.001)):  # rank 1 comes last: it waits for nobody
        of_rank = trainer(times=[times(0.060, wait, 0.002, 0.010)] * 4)
        many.records[rank] = {**many.records[rank], "trainers": [of_rank]}
    first, second = comparison.pace_of(one), comparison.pace_of(many)
    assert second.tolist() == [
        pytest.approx([0.060, 0.003, 0.003, 0.010]),
        pytest.approx([0.060, 0.0, 0.003, 0.010]),
    ]
    speed = 0.110 / 0.0745
    *_, last = comparison.pace_lines(first, second, True)
    assert last == f"2 ranks are {speed:.2f} times as fast as 1: efficiency {speed / 2:.2f}"
    *_, last = comparison.pace_lines(first, second, False)  # each has a whole batch
    assert last.endswith(f"efficiency {speed:.2f}")
    assert comparison.pace_of(run_of([trainer()], [[1.0, 1.0]])) is None
