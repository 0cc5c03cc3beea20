"""DIST_DYNET_FAST_PATHS=0: the extension of fast calls is not loaded, and the package does the same
in Python; parts of the suite run there.

How long: a few seconds; the tests marked slow, which run parts of the suite, a minute. All tests of
operations on the general paths: DIST_DYNET_FAST_PATHS=0 pytest tests/test_ops.py
"""

import json
from pathlib import Path

import fast_paths
import pytest
from fast_paths import NOT_FAST_PATHS, USES, found
from jobs import mpirun, needs_mpi
from processes import passing_tests, run_python

HERE = Path(__file__).parent
pytestmark = pytest.mark.fast_paths


def test_every_fast_path_has_a_use():
    missing, stale = found() - USES.keys(), USES.keys() - found()
    assert not missing, (
        f"fast paths without a row in USES of tests/fast_paths.py: {sorted(missing)}"
    )
    assert not stale, f"USES of tests/fast_paths.py names what is not there: {sorted(stale)}"


def test_a_fast_path_without_a_use_is_reported(monkeypatch):
    monkeypatch.setattr(fast_paths.calls, "fast_new", len, raising=False)
    assert found() - USES.keys() == {"fast_new"}
    assert not NOT_FAST_PATHS.keys() & USES.keys()


@pytest.fixture(scope="module")
def said():
    """What each use gives, and how often each function was entered, without and with the fast
    paths."""
    results = []
    for switch in "01":
        result = run_python("fast_paths.py", DIST_DYNET_FAST_PATHS=switch)
        assert result.returncode == 0, result.stderr
        results.append(json.loads(result.stdout))
    return results


def test_the_extension_is_loaded_for_the_fast_paths_only(said):
    assert [results["extension"] for results in said] == [False, True]


@pytest.mark.parametrize("name", [name for name in USES if name != "python update"])
def test_each_fast_path_gives_the_same_without_its_function_in_python(said, name):
    (without, in_python), (with_it, in_c) = (results["uses"][name] for results in said)
    general = USES[name].general
    assert without == with_it
    assert in_python.get(general, 0) > in_c.get(general, 0), (
        f"{general}: its use does not take the fast path: {in_c}"
    )
    if general == name:
        assert general not in in_c, f"{general}: C leaves a part of its use to Python"


def test_another_value_of_the_switch_is_an_error():
    result = run_python("-c", "import dist_dynet", DIST_DYNET_FAST_PATHS="no")
    assert result.returncode and "DIST_DYNET_FAST_PATHS: must be 1 or 0; got 'no'" in result.stderr


GENERAL = (
    "tiny",
    "rnn",
    "builders",
    "trainers",
    "fast_path_inputs",
    "traced",
    "graph",
    "params",
    "states",
    "trees_attention",
    "integers",
    "reverts",
    "special_networks",
)


@pytest.mark.slow
def test_suite_passes_on_the_general_paths():
    files = [str(HERE / f"test_{name}.py") for name in GENERAL]
    assert passing_tests(
        *files, "-m", "not slow and not mpi", "-k", "not double_build", DIST_DYNET_FAST_PATHS="0"
    )


@pytest.mark.slow
def test_operations_values_and_errors_pass_on_the_general_paths():
    chosen = "value_agrees or is_refused or accumulates or extreme_gives"
    assert passing_tests(
        str(HERE / "test_ops.py"), "-m", "not slow", "-k", chosen, DIST_DYNET_FAST_PATHS="0"
    )


@pytest.mark.slow
def test_nets_pass_on_the_general_paths():
    files = [str(HERE / f"test_{name}.py") for name in ("ops_set", "nets")]
    assert passing_tests(
        *files, "-m", "not slow", "-k", "not instead", DIST_DYNET_FAST_PATHS="0", timeout=600
    )


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("layout", ["aa", "aab"])
def test_exchanges_pass_on_the_general_paths(layout):
    assert mpirun(
        len(layout), "as_hosts.py", layout, "exchanges.py", "auto", DIST_DYNET_FAST_PATHS="0"
    )[:2] == (0, "ok\n")


@pytest.mark.parametrize("switches", ["11", "00", "10", "01"])
def test_ranks_with_different_switches_exchange_together(mpi, switches):
    assert mpirun(2, "fast_paths.py", *switches, mpi=mpi)[:2] == (0, "ok\n")
