"""Training with products rounded to bfloat16, and tests of other files: all ways of computing round
the same numbers.

How long: about a minute, most of it for tests of other files, run with rounded products.
"""

from itertools import pairwise

import pytest
from jobs import mpirun, needs_mpi
from net_table import NETS
from processes import HERE, output_of, passing_tests, run_python
from test_nets import inputs, loss_of, made

import dist_dynet as dy

pytestmark = pytest.mark.float32


def test_check_gradient_computes_in_float32(rng, precision):
    precision("bf16")
    m = dy.ParameterCollection()
    w = m.add_parameters((5, 7))
    w.set_precision("bf16")
    x = rng.normal(size=7)
    dy.renew_cg()
    loss = dy.sum_elems(dy.tanh(w * dy.inputTensor(x)))
    value = loss.value()
    assert dy.check_gradient(loss, m, tolerance=2e-3)
    assert loss.value() == value
    assert dy.check_gradient(
        lambda: dy.sum_elems(dy.tanh(w * dy.inputTensor(x))), m, tolerance=2e-3
    )
    again = dy.sum_elems(dy.tanh(w * dy.inputTensor(x)))
    assert again.value() == value
    with pytest.raises(dy.GradientCheckError):
        dy.check_gradient(
            lambda: dy.sum_elems(dy.cmult(w * dy.inputTensor(x), dy.nobackprop(w[0][0]))), m
        )


def losses(net, built, m, arrays, steps=12):
    trainer = dy.AdamTrainer(m, 0.02)
    found = []
    for _ in range(steps):
        dy.renew_cg()
        loss = loss_of(net, built, arrays)
        found.append(loss.scalar_value())
        loss.backward()
        trainer.update()
    return found


@pytest.mark.parametrize("name", NETS)
def test_every_builder_trains_with_rounded_products(name, rng, precision):
    net = NETS[name]
    arrays = inputs(net, rng, 2)
    found = {}
    for setting in ("float32", "bf16"):
        dy.reset_random_seed(7)
        m, built = made(net)
        precision(setting)
        found[setting] = losses(net, built, m, arrays)
    fallen = {setting: each[0] - each[-1] for setting, each in found.items()}
    assert fallen["float32"] > 0
    assert fallen["bf16"] >= 0.7 * fallen["float32"]


# ---- tests of other files --------------------------------------------------------------


@pytest.mark.parametrize(
    "tests",
    [
        ["test_nets.py", "-k", "not double and not mpi"],
        ["test_autobatch_property.py", "-k", "not double"],
        ["test_reverts.py", "-k", "not double"],
        ["test_stored_state.py"],
        ["test_memory_short.py", "-k", "network or products or traced"],
        ["test_output_layer.py", "-k", "not numpy and not double"],
        ["test_pool.py", "-k", "not (float64 or Haswell or Nehalem or float32-none)"],
    ],
    ids=lambda tests: tests[0],
)
def test_properties_hold_with_rounded_products(tests):
    assert passing_tests(*tests, timeout=600, DIST_DYNET_PRECISION="bf16") > 3


def test_fast_paths_give_the_same_bits():
    code = """
import zlib, numpy as np, dist_dynet as dy
from net_table import NETS
from test_nets import inputs, loss_of, made, trained
for name, net in NETS.items():
    m, built = made(net)
    arrays = inputs(net, np.random.default_rng(3), 2)
    dy.renew_cg()
    loss = loss_of(net, built, arrays)
    loss.backward()
    numbers = [loss.npvalue(), *[p.grad_as_array() for p in trained(m)]]
    print(name, zlib.crc32(b"".join(np.ascontiguousarray(a).tobytes() for a in numbers)))
"""
    found = [
        output_of(
            code, DIST_DYNET_PRECISION="bf16", DIST_DYNET_SEED="5", DIST_DYNET_FAST_PATHS=fast
        )
        for fast in "10"
    ]
    assert all(a == b for a, b in pairwise(found))


# ---- ranks -----------------------------------------------------------------------------


@pytest.mark.mpi
@needs_mpi
def test_reproducible_sums_have_the_same_bits_on_two_ranks():
    alone = run_python(str(HERE / "mpi" / "reproducible.py"), DIST_DYNET_PRECISION="bf16").stdout
    in_float32 = run_python(str(HERE / "mpi" / "reproducible.py")).stdout
    status, output, _ = mpirun(2, "reproducible.py", DIST_DYNET_PRECISION="bf16")
    assert (status, output) == (0, alone)
    assert alone not in ("", in_float32)


@pytest.mark.mpi
@needs_mpi
def test_a_run_continues_on_two_ranks_to_the_same_bits(tmp_path):
    program = str(HERE / "mpi" / "elastic.py")
    alone = run_python(program, str(tmp_path / "alone"), "13", DIST_DYNET_PRECISION="bf16").stdout
    status, _, _ = mpirun(2, "elastic.py", tmp_path / "ranks", 6, DIST_DYNET_PRECISION="bf16")
    assert status == 0
    again = run_python(program, str(tmp_path / "ranks"), "13", DIST_DYNET_PRECISION="bf16").stdout
    assert again == alone != ""
