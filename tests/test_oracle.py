"""The numbers of the real DyNet (tests/data/oracle, see tests/oracle/README.md): values, gradients, trainers, initial values, the tutorial.

Float build only: the stored numbers are float32.
"""

import json
from pathlib import Path

import pytest
from oracle import replay

import dist_dynet as dy

pytestmark = pytest.mark.float32

DATA = Path(__file__).parent / "data" / "oracle"
TOLERANCE = 1e-5
"""|a - b| <= tolerance (1 + |b|)"""

LATER: set[str] = set()
"""Functions and methods that a later release brings. When one is there it must be taken off this list, and its cases run."""

WEIGHT_DECAY = "ParameterCollection.set_weight_decay comes with a later release"
COMPATIBILITY = "needs the compatibility mode, in which nodes draw from the one mt19937 in DyNet's order"


def load(name):
    return json.loads((DATA / f"{name}.json").read_text())


def known(*names):
    return [pytest.param(case, id=case["id"]) for name in names for case in load(name)]


def agree(case, got):
    differences = replay.differences(case["result"], got, TOLERANCE)
    assert not differences, "\n".join(differences[:20])


def is_there(name):
    return name in replay.OPERATORS or hasattr(dy, name)


# ---- lists of what is not there yet are true --------------------------------------------------------------------------------------------


def test_oracle_functions_are_there_or_listed():
    missing = {case["fn"] for case in load("ops") if not is_there(case["fn"])}
    assert missing == LATER, f"LATER in {__file__}: add {sorted(missing - LATER)}, take off {sorted(LATER - missing)}"


def test_oracle_weight_decay_is_not_there_yet():
    assert not hasattr(dy.ParameterCollection, "set_weight_decay"), f"take the skip for weight decay out of {__file__}"


# ---- the cases ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [p for p in known("ops") if p.values[0]["fn"] not in LATER])
def test_oracle_op_agrees(case):
    agree(case, replay.op(dy, case))


@pytest.mark.parametrize("case", known("lstm"))
def test_oracle_lstm_agrees(case):
    agree(case, replay.rnn(dy, case))


@pytest.mark.parametrize("case", known("trainers"))
def test_oracle_trainer_agrees(case):
    if case["weight_decay"]:
        pytest.skip(WEIGHT_DECAY)
    agree(case, replay.trainer(dy, case))


@pytest.mark.parametrize("case", known("random"))
def test_oracle_initial_values_agree(case):
    if any(draw["kind"] == "node" for draw in case["draws"]):
        pytest.skip(COMPATIBILITY)
    agree(case, replay.random(dy, case))


@pytest.mark.parametrize("case", known("xor"))
def test_oracle_xor_learns_as_dynet_does(case):
    """First losses to the digit; and where DyNet has learned xor after 8000 examples, so have we."""
    got = replay.xor(dy, case)
    agree({"result": {k: case["result"][k] for k in ("W", "V", "b", "first_losses")}}, {k: got[k] for k in ("W", "V", "b", "first_losses")})
    if case["result"]["average_loss"]["8000"] < 0.06:
        assert got["average_loss"]["8000"] < 0.06
