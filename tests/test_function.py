"""dy.function: operations of the user's own in Python. Values, gradients, batches; how long they
live.

How long: a few seconds.
"""

import gc
import threading
import weakref

import numpy as np
import pytest
from functions import batched_network, close, cube, outer, outer_dims, outer_each
from processes import output_of

import dist_dynet as dy
from dist_dynet import _kept
from dist_dynet._ffi import DTYPE

# ---- values and gradients --------------------------------------------------------------


def test_value_and_gradient(rng):
    x = rng.normal(size=(3, 2))
    w = dy.ParameterCollection().parameters_from_numpy(x)
    y = cube(w)
    close(y.npvalue(), x**3)
    assert y.dim() == ((3, 2), 1)
    dy.sum_elems(dy.cmult(y, dy.inputTensor(2 * np.ones((3, 2))))).backward()
    close(w.grad_as_array(), 6 * x**2)
    close(y.gradient(), 2 * np.ones((3, 2)))


def test_arrays_have_the_type_of_the_build_and_the_batch_last():
    seen = []

    def forward(x, y, z):
        seen.extend((a.dtype, a.shape) for a in (x, y, z))
        return np.zeros((2, 3))

    f = dy.function(forward, None, 2)
    f(dy.zeros(4), dy.zeros((1, 5)), dy.zeros((2, 2), batch_size=3)).value()
    assert seen == [(DTYPE, (4,)), (DTYPE, (1, 5)), (DTYPE, (2, 2, 3))]


def test_arrays_are_copies():
    kept = []

    def forward(x):
        kept.append(x)
        x[:] = 7
        return x

    def backward(xs, y, d):
        kept.extend([*xs, y, d])
        for a in (*xs, y, d):
            a[:] = 9
        return [np.ones(2)]

    x = dy.inputVector([1, 2])
    y = dy.function(forward, backward, 2)(x)
    loss = dy.sum_elems(y)
    loss.backward(full=True)
    assert x.value() == [1, 2] and y.value() == [7, 7] and y.gradient().tolist() == [1, 1]
    dy.renew_cg()
    dy.inputVector([5] * 1000).value()
    assert kept[0].tolist() == [7, 7]


def test_memory_order_of_what_is_returned_does_not_matter(rng):
    x = rng.normal(size=(3, 4))
    f = dy.function(lambda a: a.T, lambda xs, y, d: [d.T], lambda d: d[::-1])
    e = dy.inputTensor(x)
    y = f(e)
    close(y.npvalue(), x.T)
    w = rng.normal(size=(4, 3))
    dy.sum_elems(dy.cmult(y, dy.inputTensor(w))).backward(full=True)
    close(e.gradient(), w.T)


@pytest.mark.parametrize("f", [outer, outer_each])
@pytest.mark.parametrize("batches", [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_batches(rng, f, batches):
    arrays = [rng.normal(size=(n, b)) for n, b in zip((2, 4), batches, strict=True)]
    xs = [dy.inputTensor(a, batched=True) for a in arrays]
    y = f(*xs)
    n = max(batches)
    assert y.dim() == ((2, 4), n)
    both = [np.broadcast_to(a, (a.shape[0], n)) for a in arrays]
    close(y.npvalue().reshape(2, 4, n), both[0][:, None] * both[1][None])
    w = rng.normal(size=(2, 4, n))
    dy.sum_batches(dy.dot_product(y, dy.inputTensor(w, batched=True))).backward(full=True)
    expected = [np.einsum("ijb,jb->ib", w, both[1]), np.einsum("ijb,ib->jb", w, both[0])]
    for x, a, g in zip(xs, arrays, expected, strict=True):
        close(x.gradient().reshape(a.shape), g if a.shape[1] == n else g.sum(1, keepdims=True))


def test_many_inputs_and_one_of_them_twice():
    f = dy.function(
        lambda *xs: sum(xs), lambda xs, y, d: [(k + 1) * d for k in range(len(xs))], lambda *d: d[0]
    )
    m = dy.ParameterCollection()
    w = [m.add_parameters(2, init=k) for k in range(30)]
    y = f(*w, w[0])
    assert y.value() == [435, 435]
    dy.sum_elems(y).backward()
    assert [p.grad_as_array()[0] for p in w] == [1 + 31, *range(2, 31)]


def test_gradients_accumulate_over_uses():
    w = dy.ParameterCollection().parameters_from_numpy([1.0, 2.0])
    dy.sum_elems(cube(w) + w * 2 + cube(w)).backward()
    close(w.grad_as_array(), [8, 26])
    dy.sum_elems(cube(w)).backward()
    close(w.grad_as_array(), [11, 38])


def test_none_is_no_gradient():
    m = dy.ParameterCollection()
    a, b = m.add_parameters(2, init=1), m.add_parameters(2, init=2)
    f = dy.function(lambda x, y: x * y, lambda xs, y, d: [None, d * xs[0]], 2)
    dy.sum_elems(f(a, b)).backward()
    assert a.grad_as_array().tolist() == [0, 0] and b.grad_as_array().tolist() == [1, 1]
    dy.sum_elems(dy.function(lambda x: x, None, 2)(a) + b).backward()
    assert a.grad_as_array().tolist() == [0, 0] and b.grad_as_array().tolist() == [2, 2]


def test_one_array_is_enough_for_one_input():
    w = dy.ParameterCollection().add_parameters(3, init=2)
    dy.sum_elems(dy.function(lambda x: x * x, lambda xs, y, d: 2 * xs[0] * d, 3)(w)).backward()
    assert w.grad_as_array().tolist() == [4, 4, 4]


def test_gradient_of_an_unbatched_input_is_summed_when_it_has_a_batch(rng):
    w = dy.ParameterCollection().parameters_from_numpy([1.0, 2.0])
    x = rng.normal(size=(2, 3))
    f = dy.function(lambda a, b: a[:, None] * b, lambda xs, y, d: [d * xs[1], None], 2)
    dy.sum_batches(dy.sum_elems(f(w, dy.inputTensor(x, batched=True)))).backward()
    close(w.grad_as_array(), x.sum(1))


def test_tables_and_empty_arrays():
    E = dy.ParameterCollection().add_lookup_parameters((4, 2), init=2)
    dy.sum_elems(cube(E[1])).backward()
    assert E.grad_as_array().tolist() == [[0, 0], [12, 12], [0, 0], [0, 0]]
    y = cube(dy.zeros((0, 3)))
    assert y.npvalue().shape == (0, 3)


def test_check_gradient_finds_a_wrong_one(rng):
    m = dy.ParameterCollection()
    a, b = m.parameters_from_numpy(rng.normal(size=2)), m.parameters_from_numpy(rng.normal(size=4))
    x = dy.inputTensor(rng.normal(size=(2, 3)), batched=True)

    def loss(f):
        return dy.sum_batches(dy.sum_elems(dy.tanh(f(a + x, b))))

    assert dy.check_gradient(loss(outer), m)
    assert dy.check_gradient(loss(outer_each), m)
    wrong = dy.function(
        outer_each._forward,
        lambda xs, y, d: [d @ xs[1], 1.1 * d.T @ xs[0]],
        outer_dims,
        batched=False,
    )
    with pytest.raises(dy.GradientCheckError):
        dy.check_gradient(loss(wrong), m)


def test_recalculation_and_set_run_it_again():
    runs = []
    f = dy.function(lambda x: (runs.append(1), x + 1)[1], None, 1)
    x = dy.scalarInput(1)
    y = f(x)
    assert (y.value(), y.value(), len(runs)) == (2, 2, 1)
    x.set(5)
    assert (y.value(), len(runs)) == (6, 2)
    y.value(recalculate=True)
    assert len(runs) == 3


@pytest.mark.parametrize("autobatching", [False, 2])
def test_functions_among_batched_nodes(rng, autobatching):
    m = dy.ParameterCollection()
    m.parameters_from_numpy(rng.normal(size=(3, 2)))
    m.parameters_from_numpy(rng.normal(size=3))
    results = []
    for mode in (False, autobatching):
        dy.renew_cg(autobatching=mode)
        loss = dy.sum_elems(dy.esum(batched_network(m, cube)))
        m.reset_gradients()
        loss.backward()
        results.append([loss.value(), *(p.grad_as_array() for p in m.parameters_list())])
    for a, b in zip(*results, strict=True):
        close(a, b)


@pytest.mark.parametrize("way", ["node", "step", "states", "outputs"])
def test_what_raises_while_another_node_is_made_runs_once(way):
    ran = []

    def forward(x):
        ran.append(len(x))
        if len(ran) > 1:
            raise KeyError("the second time")
        return x

    gru = dy.GRUBuilder(2, 2, 2, dy.ParameterCollection())
    make = {
        "node": dy.tanh,
        "step": lambda x: gru.initial_state().add_input(x),
        "states": lambda x: gru.initial_state().add_inputs([x]),
        "outputs": lambda x: gru.initial_state().transduce([x]),
    }[way]
    dy.renew_cg(immediate_compute=True)
    vector = dy.inputVector([1, 2])
    x = dy.function(forward, None, 2)(vector)
    vector.set([3, 4])  # the next node computes x anew
    with pytest.raises(KeyError, match="the second time"):
        make(x)
    assert ran == [2, 2]


# ---- life ------------------------------------------------------------------------------


def test_functions_live_as_long_as_the_graph():
    class Big:
        pass

    big = Big()
    alive = weakref.ref(big)
    y = dy.function(lambda x, big=big: x, None, 1)(dy.scalarInput(1))
    del big
    gc.collect()
    assert alive() is not None and y.value() == 1
    dy.renew_cg()
    gc.collect()
    assert alive() is None


def test_functions_go_with_their_thread():
    refs = []

    def work():
        f = dy.function(lambda x: x, None, 1)
        refs.append(weakref.ref(f))
        assert f(dy.scalarInput(1)).value() == 1

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert refs[0]() is None


def test_many_graphs_need_no_more_memory():
    dy.renew_cg()
    before = len(_kept._things), len(_kept._spare)
    for _ in range(100):
        dy.renew_cg()
        f = dy.function(lambda x: x, None, 1)
        for _ in range(10):
            f(f(dy.scalarInput(1))).value()
    dy.renew_cg()
    assert len(_kept._things) == before[0] and len(_kept._spare) <= before[1] + 1


def test_interpreter_ends_cleanly_with_a_function_in_the_graph():
    code = (
        "import dist_dynet as dy\ny = dy.function(lambda x: x, None,"
        " 1)(dy.scalarInput(3))\nprint(y.value())"
    )
    assert output_of(code).split() == ["3.0"]
