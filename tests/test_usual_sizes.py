"""Drawn programs of usual sizes give the same numbers in every way of computing them: batched on
the fly or not, node by node, in float and in double, by one thread and by several (there to the
bit).

How long: 20 seconds on one core.
"""

import pickle

import numpy as np
import pytest
from processes import run_python
from test_pool import with_threads
from usual_programs import KINDS, Program

import dist_dynet as dy
from dist_dynet._ffi import lib

SEEDS = range(60)
MODES = {
    **{f"autobatching={k}": {"autobatching": k} for k in (1, 2, 3)},
    "immediate": {"immediate_compute": True},
}
PIECES = {2: (60000, 12000), 3: (0, 0), 5: (2000, 500)}
"""By the number of threads: from how much work on it is shared, and how much a piece is."""


@pytest.fixture(autouse=True)
def _as_before(usual_threads):
    yield
    dy.init(precision="float32")


def assert_close(found, expected, tolerance, what):
    """Sums have errors of the size of their greatest terms."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        size = np.abs(x).max(initial=1e-3)
        np.testing.assert_allclose(
            found[name], x, rtol=0, atol=tolerance * size, err_msg=f"{what}: {name}"
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_modes_give_the_same_numbers(seed):
    expected = Program(seed).run({})
    assert all(np.isfinite(x).all() for x in expected.values())
    assert sum(np.abs(x).max(initial=0) > 0 for x in expected.values()) > len(expected) / 2
    for name, mode in MODES.items():
        assert_close(Program(seed).run(mode), expected, 2e-4, name)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_of_threads_give_the_same_bits(seed, precision):
    dy.init(precision=precision)
    mode = {"autobatching": (0, 3)[seed // len(KINDS) % 2]}
    expected = with_threads(1, lambda: Program(seed).run(mode))
    for threads, pieces in PIECES.items():
        lib.dn_share_work(*pieces)
        found = with_threads(threads, lambda: Program(seed).run(mode))
        for name, x in expected.items():
            assert found[name].tobytes() == x.tobytes(), f"{threads} threads: {name}"


@pytest.mark.float32
def test_double_gives_the_same_numbers(tmp_path):
    path = tmp_path / "numbers"
    result = run_python("usual_programs.py", str(len(SEEDS)), str(path), DIST_DYNET_DTYPE="float64")
    assert result.returncode == 0, result.stderr[-3000:]
    for seed, expected in enumerate(pickle.loads(path.read_bytes())):
        assert_close(Program(seed).run({}), expected, 1e-3, f"program {seed}")
