"""Rounded copies of parameters follow the values, whatever writes these, and are shared by threads.

How long: a few seconds.
"""

import sys
import threading

import numpy as np
import pytest
from bf16_model import rounded
from processes import output_of

import dist_dynet as dy

pytestmark = pytest.mark.float32


def by_storage(w, values):
    w.storage()[:] = values.ravel(order="F")
    w.changed()


def by_copying(w, values):
    other = dy.ParameterCollection()
    other.parameters_from_numpy(values)
    owners[w].copy_from(other)


def by_a_share(w, values):
    other = dy.ParameterCollection()
    other.parameters_from_numpy(2 * values - w.as_array())
    owners[w].copy_from(other, share=0.5)


def by_an_update(w, values):
    w.set_gradient(w.as_array() - values)
    dy.SimpleSGDTrainer(owners[w], 1).update()


def by_part(w, values):
    for j in range(values.shape[1]):
        w._write(values[:, j], j * len(values))


WRITERS = {
    "set_value": lambda w, values: w.set_value(values),
    "storage": by_storage,
    "copy_from": by_copying,
    "a share": by_a_share,
    "update": by_an_update,
    "parts": by_part,
    "scale": lambda w, values: (w.set_value(2 * values), w.scale(0.5)),
}
owners = {}


@pytest.mark.parametrize("writer", WRITERS)
def test_products_are_with_the_present_values(writer, rng, precision):
    precision("bf16")
    m = dy.ParameterCollection()
    w = m.add_parameters((7, 9))
    owners[w] = m
    x, dy_ = rng.normal(size=9), rng.normal(size=7)
    for _ in range(3):
        WRITERS[writer](w, rng.normal(size=(7, 9)))
        dy.renew_cg()
        given = dy.inputTensor(x)
        y = w * given
        dy.dot_product(y, dy.inputTensor(dy_)).backward(full=True)
        now = rounded(w.as_array())
        np.testing.assert_allclose(y.npvalue(), now @ rounded(x), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(given.gradient(), now.T @ rounded(dy_), rtol=1e-5, atol=1e-5)
        m.reset_gradients()
    del owners[w]


def test_graph_that_has_read_a_parameter_keeps_its_values(rng, precision):
    precision("bf16")
    m = dy.ParameterCollection()
    w = m.add_parameters((7, 9))
    old, x = w.as_array(), rng.normal(size=(2, 9))
    before = w.expr(update=True)
    before.npvalue()
    w.set_value(rng.normal(size=(7, 9)))
    y = before * dy.inputTensor(x[0])
    np.testing.assert_allclose(y.npvalue(), rounded(old) @ rounded(x[0]), rtol=1e-5, atol=1e-5)


def test_dynets_order_uses_the_values_of_the_graph(rng):
    code = """
import numpy as np, dist_dynet as dy
from bf16_model import rounded
dy.init(rng="dynet", precision="bf16", random_seed=3)
m = dy.ParameterCollection()
w = m.add_parameters((7, 9))
old = w.as_array()
x = dy.inputTensor(np.linspace(-1, 1, 9), reusable_expr=True)
loss = dy.sum_elems(dy.square(w * x))
loss.value()
w.set_value(np.ones((7, 9)))
loss.backward(full=True)
d = 2 * rounded(old) @ rounded(np.linspace(-1, 1, 9))
print(np.abs(x.gradient() - rounded(old).T @ rounded(d)).max())
"""
    assert float(output_of(code)) < 1e-5


def test_threads_share_rounded_copies(rng, precision):
    """Graphs of several threads over one store, between updates."""
    precision("bf16")
    m = dy.ParameterCollection()
    ws = [m.add_parameters((40, 40)) for _ in range(6)]
    x = rng.normal(size=40)

    def run():
        dy.renew_cg()
        y = given = dy.inputTensor(x)
        for w in ws:
            y = dy.tanh(w * y)
        dy.sum_elems(y).backward(full=True)
        return y.npvalue(), given.gradient()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(10):
            for w in ws:
                w.set_value(rng.normal(size=(40, 40)) / 8)
            found, start = [], threading.Barrier(4)

            def one(found=found, start=start):
                start.wait()
                found.append(run())

            threads = [threading.Thread(target=one) for _ in range(4)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            assert len(found) == 4
            for other in found:
                assert all(map(np.array_equal, other, run()))
    finally:
        sys.setswitchinterval(interval)
