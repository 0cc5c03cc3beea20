"""What all tests share: fixed seeds, printed on failure; a new graph for each test; tests of one
build of the C code.

`pytest` runs the float build; test_ops.py starts the double build as a process of its own
(DIST_DYNET_DTYPE=float64). Tests marked `float32` or `float64` make sense in one of the two only
and are not collected in the other; those marked `fast_paths` are not where DIST_DYNET_FAST_PATHS=0.
"""

import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path, PurePosixPath
from zlib import crc32

import numpy as np
import pytest
from jobs import MPIS
from processes import HERE
from together import begin, seed_of

import dist_dynet as dy
from dist_dynet import _random
from dist_dynet import graph as graph_module
from dist_dynet._ffi import BLAS, DTYPE_NAME, FAST_PATHS, SIMD, calls, lib
from dist_dynet.params import precision as precision_module
from dist_dynet.params.decay import default_weight_decay

ONE_WORKER = {
    "test_build.py": "recipes",
    "test_fast_paths.py": "general paths",
    "test_parallel_hosts.py": "hosts",
    "test_parallel_shared.py": "shared memory",
    "test_recipes.py": "recipes",
    "test_site.py": "site",
}
"""Modules whose tests share what takes long to make, by what that is; of pytest-xdist one process
runs all tests that share it."""

PIECES = 16
"""Of a test with many parameters, how many pieces are handed out: each takes pytest-xdist longer
than a test of a millisecond."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            module = nodeid.split("::")[0]
            if shared := ONE_WORKER.get(PurePosixPath(module).name):
                return shared
            return f"{nodeid.partition('[')[0]}{crc32(nodeid.encode()) % PIECES}"

        def mark_test_complete(self, node, item_index, duration=0):
            # what is done is forgotten: the base class counts all that a worker has ever got
            nodeid = self.registered_collections[node][item_index]
            scope, work = self._split_scope(nodeid), self.assigned_work[node]
            del work[scope][nodeid]
            if not work[scope]:
                del work[scope]
            self._reschedule(node)

    # as collected, which is what takes long first, not the scopes of most tests
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_addoption(parser):
    parser.addoption(
        "--seed",
        type=int,
        default=0,
        help="mixed into the seed of each test; 0, the default, draws the same numbers each time",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "float32: only in the float build")
    config.addinivalue_line(
        "markers",
        "fast_paths: only where calls take their fast paths; test_fast_paths.py switches these off",
    )
    config.addinivalue_line("markers", "float64: only in the double build; test_ops.py starts it")
    calls.set_many(1 << 62, bool)  # tests of what names give do not depend on those before them


def pytest_report_header():
    return f"dist_dynet: {DTYPE_NAME}, BLAS {BLAS}, vector loops {SIMD}"


def may_have_mpi(module):
    """Whether tests of a file may be marked `mpi`: they say so, or take what jobs.py has."""
    text = module.read_text()
    return "mark.mpi" in text or "from jobs import" in text


def pytest_ignore_collect(collection_path, config):
    """With `-m mpi`, files without such tests are not even imported."""
    if config.option.markexpr == "mpi" and collection_path.suffix == ".py":
        return not may_have_mpi(collection_path) or None
    return None


def pytest_collection():
    gc.disable()  # thousands of tests make no garbage while they are collected


def pytest_collection_finish():
    gc.freeze()  # a test that collects garbage does not look through all tests
    gc.enable()


def pytest_collection_modifyitems(config, items):
    other = "float64" if DTYPE_NAME == "float32" else "float32"
    without = {other} if FAST_PATHS else {other, "fast_paths"}
    if "nightly" not in config.option.markexpr:
        without.add("nightly")
    marks = {item: {mark.name for mark in item.iter_markers()} for item in items}
    with_mpi = {item.path for item, names in marks.items() if "mpi" in names}
    if missed := sorted(path.name for path in with_mpi if not may_have_mpi(path)):
        raise pytest.UsageError(f"tests of {missed} are marked mpi: see may_have_mpi()")
    deselected = [item for item in items if marks[item] & without]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if not marks[item] & without]
    # first what takes long, so that no process waits at the end for another one
    items.sort(key=lambda item: "slow" not in marks[item] and item.path.name not in ONE_WORKER)


def state_of_process():
    """What all graphs and models of this process depend on, other than seeds."""
    return {
        "stream of draws": _random.key(dy.cg()._thread)[1],
        "draws in DyNet's order": _random.dynet_order(),
        "autobatch": graph_module._defaults.autobatch,
        "precision": precision_module._defaults.precision,
        "weight decay": default_weight_decay(),
        "threads": lib.dn_threads(),
        "folder": Path.cwd(),
        "excepthook": sys.excepthook,
    }


@pytest.fixture
def ctrl_c_raises():
    """Also in a process that was started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def seed(request):
    return seed_of(request.node.name, request.config)


@pytest.fixture(autouse=True)
def _fixed_seeds(request, seed):
    begin(seed)
    request.node.add_report_section(
        "setup", "seed", f"{seed} (pytest --seed {request.config.getoption('--seed')})"
    )
    before = state_of_process()
    yield
    # whatever it changes would reach the tests after it, which come in another order each time
    assert state_of_process() == before, "tests leave the process as they found it"


@pytest.fixture
def rng(seed):
    """A NumPy generator of the test's seed."""
    return np.random.default_rng(seed)


@pytest.fixture
def installed():
    """`import dynet` means this package, for the length of a test."""
    compat = importlib.import_module("dist_dynet.compat")
    compat.install()
    yield importlib.import_module("dynet")
    compat.uninstall()


@pytest.fixture
def precision():
    """Sets the precision, and begins a new graph; float32 afterwards."""

    def use(name):
        dy.init(precision=name)
        dy.renew_cg()

    yield use
    use("float32")


@pytest.fixture
def usual_threads():
    """Afterwards as many threads as before share what is worth it, for tests that change that."""
    before = lib.dn_threads()
    yield
    lib.dn_share_work(60000, 12000)
    lib.dn_set_threads(before)


@pytest.fixture(params=MPIS)
def mpi(request):
    """Each MPI that there is, in turn; a test that takes it is marked `mpi`."""
    return request.param


@pytest.fixture
def python(mpi):
    """The Python of each MPI."""
    return mpi.python


@pytest.fixture(scope="session")
def recipes(tmp_path_factory):
    """A copy of the checkout with the recipes of CONTRIBUTING.md in it, compiled."""
    from recipes import ROOT, compiled_copy  # which read that: not for every test

    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if not shutil.which(compiler.split()[0]):
        pytest.skip("needs a C compiler")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs git and a checkout")
    return compiled_copy(tmp_path_factory.mktemp("recipes"), listed.stdout.splitlines())


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """The library, for LD_PRELOAD, that makes allocations and threads fail."""
    compiler = shutil.which(os.environ.get("CC", "cc").split()[-1])
    if compiler is None:
        pytest.skip("there is no C compiler to make the shim with")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c"], check=True
    )
    return str(library)
