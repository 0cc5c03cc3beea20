"""DIST_DYNET_FAST_PATHS=0: the extension of fast calls is not loaded, and the package does the same
in Python; parts of the suite run there.

How long: a few seconds; the tests marked slow, which run parts of the suite, a minute. All tests of
operations on the general paths: DIST_DYNET_FAST_PATHS=0 pytest tests/test_ops.py
"""

import ast
import copy
import inspect
import itertools
import json
import pickle
import weakref
from pathlib import Path

import fast_paths
import pytest
from fast_paths import NOT_FAST_PATHS, PACKAGE, USES, found
from jobs import mpirun, needs_mpi
from processes import passing_tests, run_python

import dist_dynet as dy

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


def declaration_of(function):
    """What @operation() of this function says, by its own body: of one that returns a node of its
    arguments, each once and in order, integers by whole() and last; else None."""
    *before, last = function.body
    what = {
        statement.targets[0].id: statement.value
        for statement in before
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
    }
    call = last.value if isinstance(last, ast.Return) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "node":
        return None
    if len(before) != len(what) + (ast.get_docstring(function) is not None):
        return None
    op, *given = call.args
    op = what.get(ast.unparse(op), op)
    inputs = [ast.unparse(x) for x in itertools.takewhile(lambda x: isinstance(x, ast.Name), given)]
    integers = [
        ast.unparse(x.args[0])
        for x in given[len(inputs) :]
        if isinstance(x, ast.Call) and ast.unparse(x.func) == "whole"
    ]
    names = [a.arg for a in function.args.args]
    if inputs + integers != names or len(given) != len(names) or not isinstance(op, ast.Constant):
        return None
    declared = [f'"{op.value}"', *([f'"{" ".join(integers)}"'] if integers else [])]
    declared += [f"cls={ast.unparse(k.value)}" for k in call.keywords if k.arg == "cls"]
    return f"@operation({', '.join(declared)})"


def test_functions_of_one_node_are_declared_so():
    wrong = []
    for path in sorted((PACKAGE / "ops").glob("*.py")):
        for function in ast.parse(path.read_text()).body:
            if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
                continue
            by = [f"@{ast.unparse(d)}".replace("'", '"') for d in function.decorator_list]
            found, wanted = [d for d in by if "operation" in d], declaration_of(function)
            if wanted and found != [wanted]:
                wrong.append(f"ops/{path.name}: {function.name} has {found}, should have {wanted}")
    assert not wrong, "\n".join(wrong)


def test_what_stands_for_a_function_is_like_it():
    function = inspect.unwrap(dy.softmax)
    assert inspect.isfunction(dy.softmax) and inspect.isfunction(function)
    assert inspect.signature(dy.softmax) == inspect.signature(function)
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(dy.softmax, name) is getattr(function, name)
    assert repr(dy.softmax) == repr(function)
    assert pickle.loads(pickle.dumps(dy.softmax)) is dy.softmax is copy.deepcopy(dy.softmax)
    assert weakref.ref(dy.softmax)() is dy.softmax


def test_what_stands_for_a_function_is_a_method_of_a_class(monkeypatch):
    monkeypatch.setattr(dy.Expression, "soft", dy.softmax, raising=False)
    x = dy.inputTensor([[0.5, 2], [1, 4]])
    assert dy.Expression.soft is dy.softmax and inspect.ismethod(x.soft)
    for y, z in (
        (x.soft(), dy.softmax(x)),
        (x.soft(1), dy.softmax(x, 1)),
        (x.soft(d=1), x.soft(1)),
    ):
        assert y.npvalue().tolist() == z.npvalue().tolist()


def test_attributes_that_are_set_are_those_of_the_function():
    dy.softmax.of_mine = 3
    try:
        assert dy.softmax.of_mine == inspect.unwrap(dy.softmax).of_mine == 3
    finally:
        del dy.softmax.of_mine
    assert not hasattr(dy.softmax, "of_mine")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (("no_op", ("x", "d"), (), (), None), "takes the name of one"),
        (("softmax", (), (), (), None), "as many parameters as it has inputs"),
        (("softmax", ("x",) * 99, (), (), None), "as many parameters as it has inputs"),
        (("softmax", ("x", "d"), (0,), (), int), "a class of expressions"),
        (("softmax", ("x", "d"), (), (), None), "leave parameters of .* out that have no default"),
        (("softmax", ("x", "d"), (), (("i", 2, 0.0),), None), "the attributes .* cannot be"),
        (("softmax", ("x", "d"), (0,), (("i", -1, 0.0),), None), "the attributes .* cannot be"),
        (("softmax", ("x", "d"), (0,), (("I", 1, 0.0),), None), "the attributes .* cannot be"),
        (("softmax", ("x", "d"), (0,), (("i", 1, 0.0),) * 9, None), "the attributes .* cannot be"),
        (("softmax", ("x", "d"), (0,), (("F", -1, 0.0),) * 5, None), "the attributes .* cannot be"),
    ],
)
def test_declarations_that_cannot_be_are_refused(declared, message):
    with pytest.raises(ValueError, match=message):
        fast_paths.calls.operation(*declared, lambda x, d=0: x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: dy.softmax(), TypeError, "missing 1 required positional argument: 'x'"),
        (lambda x: dy.softmax(x, 0, 0), TypeError, "takes from 1 to 2 positional arguments"),
        (lambda x: dy.softmax(x, e=0), TypeError, "unexpected keyword argument 'e'"),
        (lambda x: dy.softmax(d=0), TypeError, "missing 1 required positional argument: 'x'"),
        (lambda x: dy.softmax(x, x=x), TypeError, "multiple values for argument 'x'"),
        (lambda x: dy.softmax(x, 0, d=0), TypeError, "multiple values for argument 'd'"),
        (lambda x: dy.softmax(x=x, **{"".join("d"): 0}), None, None),
        (lambda x: dy.softmax(x, False), None, None),
        (lambda x: dy.softmax(x, 2**40), OverflowError, "31 bits"),
        (lambda x: dy.softmax(x, 0.5), TypeError, "a dim must be an integer; got 0.5"),
        (lambda x: dy.softmax(dy.Expression()), TypeError, "softmax: takes expressions"),
        (lambda x: dy.tanh(2), TypeError, "tanh: takes expressions; got int"),
        (lambda x: dy.average([x, None]), AssertionError, "item 1 is None"),
        (lambda x: dy.average(x), TypeError, "average: takes a list of expressions"),
        (lambda x: dy.average(y for y in [x]), None, None),
        (lambda x: dy.average([x] * 1000), None, None),
    ],
)
def test_what_is_no_node_is_for_the_function(call, error, message):
    dy.renew_cg()
    x = dy.inputVector([0.5, 2.0])
    if error is None:
        assert call(x).dim() == x.dim()
        return
    with pytest.raises(error, match=message):
        call(x)


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
