"""What every block promises: gradients, batches, batching on the fly, saving, copies. What each computes is tested in test_blocks_*.py.

How long: about five seconds, most of them for the double build.
"""

import copy

import numpy as np
import pytest
from gradients import jacobian_difference
from processes import run_python
from test_graph import close

import dist_dynet as dy

CRF_LENGTHS = {1: [4], 2: [4, 2]}


def crf_losses(crf, xs):
    """Every kind of a CRF's scores, of a batch padded to four steps."""
    batch = xs[0].dim()[1]
    tags, lengths = [[1, 2, 0, 1], [0, 1]][:batch], CRF_LENGTHS[batch]
    return dy.concatenate([crf.neg_log_likelihood(xs[0], tags, lengths), crf.log_partition(xs[0], lengths), crf.score(xs[0], tags, lengths)])


CASES = {
    "crf": (lambda m: dy.CRF(m, 3, [(1, 1), (None, 2), (0, None)]), [(3, 4)], crf_losses),
    "crf without constraints": (lambda m: dy.CRF(m, ["a", "b", "c"]), [(3, 4)], lambda crf, xs: crf.log_partition([xs[0][:, 0], xs[0][:, 2]])),
}
"""Name: (the block made in a collection, dims of its inputs, what is computed of them)."""

PADDED = {"crf"}
"""Cases whose batch elements are not alike: a batch of them is not compared with its elements alone."""


def made(case):
    """(collection, block) with all parameters off their initial values."""
    dy.renew_cg()
    m = dy.ParameterCollection()
    block = CASES[case][0](m)
    rng = np.random.default_rng(4)
    for p in m.parameters_list():
        p.set_value(rng.normal(size=p.shape()) / 2)
    for table in m.lookup_parameters_list():
        table.init_from_array(rng.normal(size=table.shape()) / 2)
    return m, block


def inputs(case, rng, batch):
    return [rng.normal(size=(*dims, batch)) for dims in CASES[case][1]]


def expressions(arrays):
    return [dy.inputTensor(a, batched=True, reusable_expr=True) for a in arrays]


def value_of(case, block, arrays):
    return CASES[case][2](block, expressions(arrays)).npvalue()


def parameters_of(m):
    return [*m.parameters_list(), *m.lookup_parameters_list()]


@pytest.mark.parametrize("case", [c for c in CASES if c not in PADDED])
def test_block_batched_equals_unbatched(case, rng):
    _, block = made(case)
    arrays = inputs(case, rng, 5)
    together = value_of(case, block, arrays)
    for k in range(5):
        close(together[..., k], value_of(case, block, [a[..., k : k + 1] for a in arrays]), 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_block_autobatched_equals_plain(case, rng):
    m, block = made(case)
    arrays = [inputs(case, rng, 1) for _ in range(4)]
    found = []
    for autobatching in (False, True):
        m.reset_gradients()
        dy.renew_cg(autobatching=autobatching)
        ys = [CASES[case][2](block, expressions(a)) for a in arrays]
        loss = dy.esum([dy.sum_elems(dy.square(y)) * (k + 1) for k, y in enumerate(ys)])
        loss.backward()
        found.append([loss.npvalue(), *[p.grad_as_array() for p in parameters_of(m)]])
    for plain, batched in zip(*found, strict=True):
        close(batched, plain, 2e-5)


@pytest.mark.parametrize("case", CASES)
def test_block_is_saved_and_copied(case, rng, tmp_path):
    m, block = made(case)
    dy.save(tmp_path / "block", [block])
    other = dy.ParameterCollection()
    (loaded,) = dy.load(tmp_path / "block", other)
    assert loaded.spec == block.spec and loaded.whoami() == type(block).__name__
    assert list(other.named_parameters()) == list(m.named_parameters())
    assert sorted(p.name() for p in block.param_collection().parameters_list()) == sorted(p.name() for p in m.parameters_list())
    arrays = inputs(case, rng, 2)
    for same in (loaded, copy.deepcopy(block)):
        close(value_of(case, same, arrays), value_of(case, block, arrays))


def gradients_of(case, m, block, arrays, w):
    m.reset_gradients()
    dy.renew_cg()
    xs = expressions(arrays)
    y = CASES[case][2](block, xs)
    dy.sum_batches(dy.dot_product(y, dy.inputTensor(w.reshape((*y.dim()[0], y.dim()[1])), batched=True))).backward(full=True)
    return [p.grad_as_array() for p in parameters_of(m)] + [x.gradient() for x in xs]


@pytest.mark.float64
@pytest.mark.parametrize("case", CASES)
def test_double_jacobian_of_blocks(case, rng):
    m, block = made(case)
    parameters, xs = parameters_of(m), inputs(case, rng, 2)

    def f(*arrays):
        dy.renew_cg()
        for p, a in zip(parameters, arrays, strict=False):
            p.init_from_array(a) if isinstance(p, dy.LookupParameters) else p.set_value(a)
        return value_of(case, block, arrays[len(parameters) :])

    arrays = [p.as_array() for p in parameters] + xs
    difference = jacobian_difference(f, arrays, lambda w: gradients_of(case, m, block, xs, w))
    f(*arrays)
    assert difference is None, difference


@pytest.mark.float32
def test_gradients_of_blocks_in_the_double_build():
    result = run_python("-m", "pytest", "-q", "-m", "float64", "-p", "no:cacheprovider", __file__, DIST_DYNET_DTYPE="float64")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert f"{len(CASES)} passed" in result.stdout
