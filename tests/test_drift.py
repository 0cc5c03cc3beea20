"""Fast and general paths agree, bit for bit and word for word: over the tables of operations,
operators, recurrent builders and nets.

How long: about fifteen seconds.
"""

import json

import drift
import net_table
import op_table
import pytest
from net_table import recurrent
from processes import run_python

pytestmark = [pytest.mark.fast_paths, pytest.mark.float32]


def said(what, switch, dtype):
    result = run_python(
        "-W",
        "ignore",
        "drift.py",
        what,
        DIST_DYNET_FAST_PATHS=switch,
        DIST_DYNET_DTYPE=dtype,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("what", drift.TABLES)
def test_both_paths_and_all_forms_of_arguments_give_the_same(what, dtype):
    (fast, forms), (general, general_forms) = (said(what, switch, dtype) for switch in "10")
    differing = {name: (fast[name], general[name]) for name in fast if fast[name] != general[name]}
    assert fast and not differing, (
        f"{len(differing)} of {len(fast)} calls, fast and general:"
        f" {dict(list(differing.items())[:5])}"
    )
    for found in (forms, general_forms):
        assert not found, (
            f"{len(found)} of {len(fast)} calls in several forms: {dict(list(found.items())[:5])}"
        )


def test_every_row_of_the_tables_is_compared():
    names = {what: drift.Said() for what in drift.TABLES}
    for what, names_of in names.items():
        names_of.add = lambda name, *forms, found=names_of.outcomes: found.setdefault(name)
        drift.TABLES[what](names_of)
    for family, module in op_table.FAMILIES.items():
        for row in module.ROWS:
            assert all(
                f"{family}-{row.label(case)}" in names["operations"].outcomes for case in row.cases
            )
    assert all(
        any(name.startswith(f"{operator}") for name in names["operators"].outcomes)
        for operator in drift.OPERATORS
    )
    assert all(
        any(name.startswith(f"{factory} of") for name in names["recurrent"].outcomes)
        for factory in recurrent.FACTORIES
    )
    assert all(f"{net} x 1" in names["nets"].outcomes for net in net_table.NETS)


def test_a_call_that_drifts_is_reported():
    said = drift.Said()
    said.add("alike", *[lambda: [drift.dy.scalarInput(1)]] * 2)
    said.add("other numbers", lambda: [drift.dy.scalarInput(1)], lambda: [drift.dy.scalarInput(2)])
    said.add(
        "other words", lambda: [drift.dy.inputVector([None])], lambda: [drift.dy.inputVector([])]
    )
    assert list(said.differing) == ["other numbers", "other words"]
