"""Integers as arguments of constructors and methods: each class takes for them what integer()
takes, and nothing else (as test_integers.py). The rows are in table_methods.py.

The classes of several ranks (dist_dynet.parallel) have tests of their own.
"""

import inspect
import re

import numpy as np
import pytest
from table_methods import METHODS, OTHER, SETTINGS, call_of
from test_integers import BAD, GOOD

import dist_dynet as dy


def _classes():
    """Those of the package's names, of schedules, and of the expressions that functions return."""
    found = [getattr(dy, name) for name in dy.__all__] + [
        getattr(dy.schedules, name) for name in dy.schedules.__all__
    ]
    kinds = [c for c in found if inspect.isclass(c)]
    for kind in kinds:
        kinds += [
            c for c in kind.__subclasses__() if issubclass(c, dy.Expression) and c not in kinds
        ]
    return kinds


def _is_own(cls, name):
    """Whether it is defined there: some constructors are copies of a base's."""
    if name != "__init__" or name not in vars(cls):
        return name in vars(cls)
    code, *inherited = [
        getattr(inspect.unwrap(base.__init__), "__code__", None) for base in cls.__mro__
    ]
    return code is None or code not in inherited


def _annotated():
    for cls in _classes():
        for name in dir(cls):
            owner = next((c for c in cls.__mro__ if _is_own(c, name)), object)
            method = vars(owner).get(name)
            method = method.__func__ if isinstance(method, staticmethod | classmethod) else method
            public = not name.startswith("_") or name in ("__init__", "__getitem__")
            if (
                not public
                or not owner.__module__.startswith("dist_dynet")
                or not inspect.isfunction(method)
            ):
                continue
            for argument in inspect.signature(method).parameters.values():
                if re.search(r"\bint\b", str(argument.annotation)) and not argument.name.startswith(
                    "_"
                ):
                    yield f"{owner.__name__}.{name}.{argument.name}"


def test_integers_each_annotated_argument_of_a_method_has_a_row():
    found = {*_annotated()}
    missing, stale = (
        sorted(found - set(METHODS) - set(SETTINGS) - set(OTHER)),
        sorted(set(OTHER) - found),
    )
    assert not missing, (
        f"add rows to METHODS (or OTHER, with the reason) of tests/table_methods.py for {missing}"
    )
    assert not stale, f"OTHER of tests/table_methods.py names {stale}, which are not there"


@pytest.fixture(autouse=True)
def _same_draws():
    dy.reset_random_seed(7)
    dy.renew_cg()


@pytest.mark.parametrize("name", [*METHODS, *SETTINGS])
def test_integers_of_all_types_are_the_same(name, tmp_path):
    call, n = call_of(name, {**METHODS, **SETTINGS}, tmp_path)
    wanted = call(n).npvalue()
    for kind in GOOD:
        np.testing.assert_array_equal(
            call(kind(n)).npvalue(), wanted, err_msg=f"{name} of {kind(n)!r}"
        )


MAY_BE_NONE = (
    "MultiHeadAttention.__init__.key_dim",
    "ComputationGraph.inputMatrixLiteral.d",
    "Vocabulary.__init__.max_size",
)


@pytest.mark.parametrize("name", METHODS)
def test_integers_nothing_else_is_taken(name, tmp_path):
    call, _ = call_of(name, METHODS, tmp_path)
    for bad in BAD:
        if bad is None and name in MAY_BE_NONE:
            continue
        with pytest.raises(TypeError, match=r"integer|dims must be") as caught:
            call(bad)
        assert ": " in str(caught.value), f"{name} of {bad!r}: {caught.value}"


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_refuse_what_makes_no_sense(name, tmp_path):
    call, _ = call_of(name, SETTINGS, tmp_path)
    for bad in (2.5, float("nan"), "x", -1, np.array([0.5]), 1j, [[1]]):
        with pytest.raises(ValueError, match=r"^\w+: (autobatching: )?takes "):
            call(bad)
