"""The numbers of the real DyNet (tests/data/oracle, see tests/oracle/README.md): values, gradients,
trainers, initial values, the tutorial.

Float build only: the stored numbers are float32.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from oracle import replay
from together import together

import dist_dynet as dy

pytestmark = pytest.mark.float32

DATA = Path(__file__).parent / "data" / "oracle"
TOLERANCE = 1e-5
"""|a - b| <= tolerance (1 + |b|)"""

LATER: set[str] = set()
"""Functions that a later release brings. When one is there it must be taken off this list, and its
cases run."""


@pytest.fixture
def dynet_order():
    """Nodes draw from the one mt19937, as DyNet's do."""
    dy.init(rng="dynet")
    yield
    dy.init(rng="keyed")


def load(name):
    return json.loads((DATA / f"{name}.json").read_text())


def known(*names):
    return [pytest.param(case, id=case["id"]) for name in names for case in load(name)]


def agree(case, got):
    differences = replay.differences(case["result"], got, TOLERANCE)
    assert not differences, "\n".join(differences[:20])


def without_signs(case, result):
    """The draws, each column of a Saxe matrix with its largest element positive: the signs depend
    on the library that decomposes."""
    draws = []
    for draw, flat in zip(case["draws"], result, strict=True):
        if isinstance(draw["init"], dict) and draw["init"]["class"] == "SaxeInitializer":
            columns = np.reshape(flat, (*draw["dim"],), order="F")
            columns = columns * np.sign(columns[np.abs(columns).argmax(0), range(columns.shape[1])])
            flat = columns.flatten(order="F").tolist()
        draws.append(flat)
    return draws


def is_there(name):
    return name in replay.OPERATORS or hasattr(dy, name)


# ---- the list of what is not there yet is true -----------------------------------------


def test_oracle_functions_are_there_or_listed():
    missing = {case["fn"] for case in load("ops") if not is_there(case["fn"])}
    assert missing == LATER, (
        f"LATER in {__file__}: add {sorted(missing - LATER)}, take off {sorted(LATER - missing)}"
    )


# ---- the cases -------------------------------------------------------------------------


@together(
    ("case",),
    [p for p in known("ops") if p.values[0]["fn"] not in LATER],
    group=lambda name: name.partition("/")[0],
)
def test_oracle_op_agrees(case):
    agree(case, replay.op(dy, case))


@pytest.mark.parametrize("case", known("lstm"))
def test_oracle_lstm_agrees(case):
    agree(case, replay.rnn(dy, case))


@pytest.mark.parametrize("case", known("trainers"))
def test_oracle_trainer_agrees(case):
    agree(case, replay.trainer(dy, case))


@pytest.mark.parametrize(
    "case",
    [p for p in known("random") if all(draw["kind"] != "node" for draw in p.values[0]["draws"])],
)
def test_oracle_initial_values_agree(case):
    want, got = without_signs(case, case["result"]), without_signs(case, replay.random(dy, case))
    differences = replay.differences(want, got, TOLERANCE)
    assert not differences, "\n".join(differences[:20])


@pytest.mark.parametrize("case", known("random"))
def test_oracle_draws_agree_in_dynets_order(case, dynet_order):
    agree(case, replay.random(dy, case))


@pytest.mark.parametrize("case", known("xor"))
def test_oracle_xor_learns_as_dynet_does(case):
    """The same losses; and where DyNet has learned xor after 8000 examples, so have we."""
    got = replay.xor(dy, case)
    agree(case, got)
    if case["result"]["average_loss"]["8000"] < 0.06:
        assert got["average_loss"]["8000"] < 0.06
