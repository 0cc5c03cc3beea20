"""Many cases in one test: a test of its own takes pytest, and pytest-xdist more so, longer than
most cases do. Each case has its own seed and graph, and a failure names each that fails."""

import functools
import inspect
import random
from zlib import crc32

import numpy as np
import pytest

import dist_dynet as dy

SHOWN = 5
"""Of so many failing cases a test shows all."""


def seed_of(name, config):
    """The seed of a test, or case, of this name, so that each may be run alone and in any order."""
    return (crc32(name.encode()) + config.getoption("--seed")) & 0x7FFFFFFF or 1


def begin(seed):
    """A new graph, and random numbers from this seed on."""
    dy.reset_random_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    dy.renew_cg().draw_from(None, 0)  # not as the micro-batch that a test has left


def row_of(name):
    """The row of a table whose case is named row[case]."""
    return name.partition("[")[0]


def together(names, chosen, group=row_of):
    """As pytest.mark.parametrize(names, chosen) of pytest.params with an id each, but with one test
    for each group(id). The test may take the fixture rng, and no other."""
    groups = {}
    for param in chosen:
        cases = groups.setdefault(group(param.id), {})
        assert param.id not in cases, f"two cases named {param.id} hide each other"
        cases[param.id] = dict(zip(names, param.values, strict=True))

    def decorate(test):
        has_rng = "rng" in inspect.signature(test).parameters

        @functools.wraps(test)
        def all_cases(cases, pytestconfig):
            failed = {}
            for name, values in cases.items():
                seed = seed_of(f"{test.__name__}[{name}]", pytestconfig)
                begin(seed)
                rng = {"rng": np.random.default_rng(seed)} if has_rng else {}
                try:
                    test(**values, **rng)
                except (Exception, pytest.fail.Exception) as error:
                    said = pytest.ExceptionInfo.from_exception(error).getrepr(style="short")
                    failed[name] = f"{name}, seed {seed}\n{said}"
            if failed:
                shown = [*failed.values()][:SHOWN] + [*failed][SHOWN:]
                some = f"{len(failed)} of {len(cases)} cases fail:"
                pytest.fail("\n\n".join([some, *shown]), pytrace=False)

        all_cases.__signature__ = inspect.Signature(
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for name in ("cases", "pytestconfig")
        )
        return pytest.mark.parametrize("cases", groups.values(), ids=groups.keys())(all_cases)

    return decorate
