"""Errors of a function begin with its own name, whichever operations it is made of: each call of
the op table, with each argument wrong.

How long: about five seconds.
"""

import inspect
import re

import numpy as np
import op_table
import pytest
from op_table.run import Run, drawn

import dist_dynet as dy
from dist_dynet import ops

OTHER_WORDS = re.compile(
    # of an argument by itself: the function is not asked
    r"Stale Expression: |this Expression stands for nothing|The truth value of an array"
)
OF_DYNET = r"List is empty, nothing to {0}\.|Empty element for {0}: "
EXEMPT = {
    "function": "errors name the operation of the user's own",
    **op_table.NOT_IN_THE_TABLE,
}


class Thing:
    """No number, no list, no expression."""


def wrong_values():
    table = dy.ParameterCollection()
    return [
        Thing(),
        None,
        "x",
        [],
        [Thing()],
        [[1.0, 2], [3]],
        -1,
        1000,
        1 << 40,
        2.5,
        float("nan"),
        np.ones((5, 6, 7)),
        dy.Expression(),
        dy.inputTensor(np.ones((2, 3, 2, 3, 2))),
        dy.inputTensor(np.ones((7, 11))),
        dy.inputTensor(np.ones(7)),
        dy.inputTensor(np.ones((3, 3, 5)), batched=True),
        table.add_parameters((13, 17)),
        table.add_lookup_parameters((13, 17)),
        [dy.inputTensor(np.ones((7, 11))), dy.inputTensor(np.ones(3))],
    ]


def spoilt(args, kwargs):
    """The arguments with each of them, and each item of a list, replaced by each wrong value."""
    values = wrong_values()
    for i, given in enumerate(args):
        for wrong in values:
            yield (*args[:i], wrong, *args[i + 1 :]), kwargs
            for k in range(len(given)) if isinstance(given, list) else ():
                yield (*args[:i], [*given[:k], wrong, *given[k + 1 :]], *args[i + 1 :]), kwargs
    for name in kwargs:
        for wrong in values:
            yield args, {**kwargs, name: wrong}


def names_itself(function, message):
    name = function.__name__  # of zeros for zeroes, which is the same function
    return (
        message.startswith(f"{name}: ")
        or OTHER_WORDS.match(message)
        or re.match(OF_DYNET.format(name), message)
    )


def recorder(function, name, called):
    def record(*args, **kwargs):
        called.setdefault(name, (args, kwargs))
        return function(*args, **kwargs)

    return record


def refusals(row, parameters, monkeypatch):
    """(name, function, error) for the public functions that a row calls."""
    called, originals = {}, {name: getattr(dy, name) for name in ops.__all__}
    with monkeypatch.context() as patch:
        for name, function in originals.items():
            patch.setattr(dy, name, recorder(function, name, called))
        Run(row, row.cases[0], drawn(row, row.cases[0], np.random.default_rng(0)), parameters)
    for name, (args, kwargs) in called.items():
        for bad_args, bad_kwargs in spoilt(args, kwargs):
            try:
                originals[name](*bad_args, **bad_kwargs)
            except Exception as error:
                yield name, originals[name], error


@pytest.mark.parametrize("parameters", [False, True], ids=["inputs", "parameters"])
def test_errors_begin_with_the_function_that_was_called(monkeypatch, parameters):
    refused, wrong = set(), []
    for module in op_table.FAMILIES.values():
        for row in module.ROWS:
            for name, function, error in refusals(row, parameters, monkeypatch):
                refused.add(name)
                if name not in EXEMPT and not names_itself(function, str(error)):
                    wrong.append(f"{name}: {type(error).__name__}: {error!s:.100}")
    assert not wrong, "\n".join(wrong)
    assert not {*ops.__all__} - refused - {*EXEMPT}, (
        "functions that refuse nothing, or that no row calls"
    )


def by_names(function, name, called):
    def call(*args, **kwargs):
        called.add(name)
        return function(**inspect.signature(function).bind(*args, **kwargs).arguments)

    return call


def test_arguments_may_be_given_by_the_names_of_the_signature(monkeypatch):
    called = set()
    for name in ops.__all__:
        monkeypatch.setattr(dy, name, by_names(getattr(dy, name), name, called))
    for module in op_table.FAMILIES.values():
        for row in module.ROWS:
            Run(row, row.cases[0], drawn(row, row.cases[0], np.random.default_rng(0)))
    assert not {*ops.__all__} - called - {*EXEMPT}, "functions that no row calls"
