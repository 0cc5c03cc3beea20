"""Watching a backward: when each parameter's gradient counts as complete, and that it is the same
gradient. How long: seconds."""

import threading

import numpy as np
import pytest
from processes import passing_tests

import dist_dynet as dy
from dist_dynet._ffi import DTYPE, ffi, lib, pointer
from dist_dynet.expression import watchers


def watched(m, loss, watch=lib.DN_HOOK_ARMED):
    """Runs a watched backward; the root's state after it."""
    lib.dn_store_set_hook(m._root.c, watch)
    loss.backward()
    return lib.dn_store_await(m._root.c, 0.0)


def gradients(m):
    return [p.grad_as_array() for p in m.parameters_list()]


def network(m, seed, sentences=3):
    """A loss in which parameters are used first, last, as matrices, as vectors, through a view,
    twice, as a constant, and not at all."""
    rng = np.random.default_rng(seed)
    W, V, b, shaped, constant, _, table = m.parameters_list()
    losses = []
    for _ in range(sentences):
        h = dy.inputVector(rng.normal(size=4))
        for _ in range(3):
            h = dy.tanh(dy.affine_transform([b, W, h])) + constant.expr(update=False)
        h = h + dy.reshape(shaped, (4,))
        losses.append(
            dy.pickneglogsoftmax(V * h + V * b, 1) + dy.sum_elems(table) + dy.sum_elems(W * W)
        )
    return dy.esum(losses)


def model():
    m = dy.ParameterCollection()
    for shape in ((4, 4), (5, 4), 4, (2, 2), 4, 3, (2, 3)):
        m.add_parameters(shape)
    return m


@pytest.mark.parametrize("autobatching", [False, True])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_hooked_backward_gives_the_same_gradients(autobatching, passes, seed):
    m = model()
    results = []
    for watch in (lib.DN_HOOK_OFF, lib.DN_HOOK_ARMED, lib.DN_HOOK_STEPS):
        for p in m.parameters_list():
            p.clear_gradient()
        for k in range(passes):
            dy.renew_cg(autobatching=autobatching)
            loss = network(m, seed + k)
            if watch != lib.DN_HOOK_OFF:
                assert watched(m, loss, watch) == lib.DN_HOOK_COMPLETE
                assert all(
                    lib.dn_param_ready(p._c) and lib.dn_param_unchanged(p._c)
                    for p in m.parameters_list()
                )
            else:
                loss.backward()
        results.append(gradients(m))
    assert all(
        np.array_equal(first, other)
        for rest in results[1:]
        for first, other in zip(results[0], rest, strict=True)
    )
    assert any(g.any() for g in results[0])


class Looks:
    """Of each step of backward how many numbers of these parameters were complete."""

    def __init__(self, *parameters):
        self.parameters, self.seen = parameters, []

    def look(self):
        self.seen.append([lib.dn_param_ready(p._c) for p in self.parameters])


def test_a_step_of_backward_ends_when_something_is_complete():
    m = dy.ParameterCollection()
    first, second, third = (m.add_parameters(4) for _ in range(3))
    looks = Looks(third, second, first)
    watchers.add(looks)
    for watch, expected in (
        (lib.DN_HOOK_STEPS, [[4, 0, 0], [4, 4, 0]]),
        (lib.DN_HOOK_ARMED, []),
        (lib.DN_HOOK_OFF, []),
    ):
        dy.renew_cg()
        h = first * 2.0
        for p in (second, third):
            h = dy.tanh(dy.cmult(h, p))
        watched(m, dy.sum_elems(h), watch)
        assert looks.seen[: len(expected)] == expected and len(looks.seen) <= len(expected) + 1, (
            looks.seen
        )
        looks.seen.clear()


@pytest.mark.parametrize("autobatching", [False, True])
def test_ready_when_the_last_use_has_passed(autobatching):
    """An operation of Python's between the two layers looks at what is complete by then."""
    m = dy.ParameterCollection()
    lower, upper, both, unused = (m.add_parameters((3, 3)) for _ in range(4))
    seen = []

    def look(inputs, y, dy_):
        seen.append([lib.dn_param_ready(p._c) for p in (lower, upper, both, unused)])
        return [dy_]

    dy.renew_cg(autobatching=autobatching)
    # their nodes come first, so that the backward pass reaches them last
    for p in (both, upper, lower):
        p.expr()
    h = both * (lower * dy.inputVector([1, 2, 3]))
    h = dy.function(lambda x: x.copy(), look, 3)(h)
    loss = dy.sum_elems(both * (upper * h))
    assert watched(m, loss) == lib.DN_HOOK_COMPLETE
    assert seen == [[0, 9, 0, 9]]


SHAPES = [
    (4096, 300, 64),
    (512, 2100, 200),  # parts would suit another kernel than the whole
    (513, 2113, 9),
    (513, 2113, 8),  # one column is left over, which a kernel of ours rounds in another way
    (700, 1511, 1),
    (1 << 20, 2, 8),
]
"""W's rows and columns, and columns of x."""


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1 << 20, 4)])
def test_a_large_matrix_is_notified_in_parts_with_the_bits_of_the_whole(shape):
    rows, columns, batch = shape
    m = dy.ParameterCollection()
    W = m.add_parameters((rows, columns))
    seen, results = [], []
    draw = np.random.default_rng(1)
    data, weights = draw.normal(size=(columns, batch)), draw.normal(size=rows)
    for watch in (False, True):
        m.reset_gradients()
        dy.renew_cg()
        x = dy.inputTensor(data, batched=True)
        loss = dy.sum_batches(dy.dot_product(dy.inputVector(weights), dy.tanh(W * x)))
        loss.value()
        if watch:
            lib.dn_store_set_hook(m._root.c, lib.DN_HOOK_ARMED)

            def look():
                lib.dn_store_await(m._root.c, 60.0)
                while not seen or seen[-1] < rows * columns:
                    seen.append(lib.dn_param_ready(W._c))

            looking = threading.Thread(target=look)
            looking.start()
        loss.backward()
        results.append(W.grad_as_array())
    looking.join(60)
    assert np.array_equal(*results)
    ends = {*range(0, rows * columns, 192 * rows), rows * columns}
    assert seen == sorted(seen) and ends.issuperset(seen)


@pytest.mark.parametrize("kernels", ["Haswell", "Nehalem"])
def test_parts_have_these_bits_with_other_kernels_of_blas(kernels):
    """Which round at edges."""
    name = "test_a_large_matrix_is_notified_in_parts_with_the_bits_of_the_whole"
    passed = passing_tests(f"{__file__}::{name}", OPENBLAS_CORETYPE=kernels)
    assert passed == len(SHAPES) + 1


def test_loss_that_is_a_parameter():
    m = dy.ParameterCollection()
    w = m.add_parameters(1)
    dy.renew_cg()
    assert watched(m, w) == lib.DN_HOOK_COMPLETE
    assert w.grad_as_array().tolist() == [1] and lib.dn_param_unchanged(w._c)


def test_changes_are_noticed(rng):
    m = dy.ParameterCollection()
    w, other = m.add_parameters(3), m.add_parameters(2)

    def again():
        m.reset_gradients()
        dy.renew_cg()
        assert watched(m, dy.sum_elems(w)) == lib.DN_HOOK_COMPLETE
        assert lib.dn_param_unchanged(w._c) and lib.dn_param_unchanged(other._c)

    def backward():
        dy.renew_cg()
        dy.sum_elems(w).backward()

    for change in (
        backward,
        w.clear_gradient,
        lambda: w.scale_gradient(2),
        lambda: w._set_flat_gradient(np.ones(3, DTYPE)),
        m.reset_gradients,
    ):
        again()
        change()
        assert not lib.dn_param_unchanged(w._c)
    again()
    assert lib.dn_param_unchanged(w._c)
    other.set_updated(False)
    assert lib.dn_param_unchanged(w._c) and not lib.dn_param_unchanged(other._c)


def test_an_error_ends_the_hook():
    m = dy.ParameterCollection()
    w = m.add_parameters(3)

    def fail(inputs, y, dy_):
        raise ArithmeticError("no")

    dy.renew_cg()
    loss = dy.sum_elems(dy.function(lambda x: x.copy(), fail, 3)(w))
    lib.dn_store_set_hook(m._root.c, lib.DN_HOOK_ARMED)
    with pytest.raises(ArithmeticError):
        loss.backward()
    assert lib.dn_store_await(m._root.c, 5.0) == lib.DN_HOOK_FAILED


def test_only_the_armed_root_and_one_backward_are_hooked():
    m, other = dy.ParameterCollection(), dy.ParameterCollection()
    w, v = m.add_parameters(2), other.add_parameters(2)
    dy.renew_cg()
    loss = dy.dot_product(w, v)
    assert watched(m, loss) == lib.DN_HOOK_COMPLETE
    assert lib.dn_store_await(other._root.c, 0.0) == lib.DN_HOOK_OFF
    loss.backward()
    assert lib.dn_store_await(
        m._root.c, 0.0
    ) == lib.DN_HOOK_COMPLETE and not lib.dn_param_unchanged(w._c)


def test_waiting_ends_with_the_backward_s_begin_or_by_time():
    m = dy.ParameterCollection()
    w = m.add_parameters(2)
    lib.dn_store_set_hook(m._root.c, lib.DN_HOOK_ARMED)
    assert lib.dn_store_await(m._root.c, 0.01) == lib.DN_HOOK_ARMED
    states = []
    waiting = threading.Thread(target=lambda: states.append(lib.dn_store_await(m._root.c, 60.0)))
    waiting.start()
    dy.renew_cg()
    dy.sum_elems(w).backward()
    waiting.join(60)
    assert states and states[0] in (lib.DN_HOOK_BEGUN, lib.DN_HOOK_COMPLETE)
    lib.dn_store_set_hook(m._root.c, lib.DN_HOOK_ARMED)
    waiting = threading.Thread(target=lambda: states.append(lib.dn_store_await(m._root.c, 60.0)))
    waiting.start()
    lib.dn_store_set_hook(m._root.c, lib.DN_HOOK_OFF)
    waiting.join(60)
    assert states[1:] == [lib.DN_HOOK_OFF]


def test_take_and_put(rng):
    m = dy.ParameterCollection()
    v, w = m.add_parameters(2), m.add_parameters(5)
    out = np.full(8, np.nan, DTYPE)

    def take(factor, *spans):
        lib.dn_params_take(len(spans), ffi.new("dn_span_taken[]", spans), factor, pointer(out))
        return out.tolist()

    assert take(2.0, (v._c, 0, 2, 0), (w._c, 0, 5, 3))[3:] == [0] * 5
    w._set_flat_gradient(np.arange(5, dtype=DTYPE))
    v._set_flat_gradient(np.ones(2, DTYPE))
    out[2] = 7
    assert take(2.0, (v._c, 0, 2, 0), (w._c, 0, 5, 3)) == [2, 2, 7, 0, 2, 4, 6, 8]
    assert take(1.0, (w._c, 2, 4, 3)) == [2, 2, 7, 2, 3, 4, 6, 8]
    w._set_flat_gradient(np.full(5, np.nan, DTYPE))
    assert take(0.0, (w._c, 0, 5, 3))[3:] == [0] * 5
    v.clear_gradient()
    w.clear_gradient()
    spans = ffi.new("dn_span_taken[]", [(v._c, 0, 2, 6), (w._c, 0, 5, 0)])
    lib.dn_params_put(len(spans), spans, 0.5, pointer(np.arange(8, dtype=DTYPE)))
    assert w.grad_as_array().tolist() == [0, 0.5, 1, 1.5, 2]
    assert v.grad_as_array().tolist() == [3, 3.5]


@pytest.mark.parametrize("size", [1, 17, 1024, 5000])
def test_sum_of_arrays_is_in_order(size, rng):
    arrays = (rng.normal(size=(3, size)) * 10.0 ** rng.integers(-3, 4, size=(3, size))).astype(
        DTYPE
    )
    expected = (arrays[0] + arrays[1]) + arrays[2]
    for k in range(3):  # the sum may be one of them
        each = arrays.copy()
        lib.dn_sum_arrays(
            3, ffi.new("dn_real *[]", [pointer(a) for a in each]), size, pointer(each[k])
        )
        assert np.array_equal(each[k], expected)


def encode(x, rest=None):
    code = np.empty(x.size, np.uint16)
    lib.dn_bf16_encode(
        x.size,
        pointer(x),
        ffi.NULL if rest is None else pointer(rest),
        ffi.from_buffer("uint16_t[]", code),
    )
    return code


def decode(code):
    x = np.empty(code.size, DTYPE)
    lib.dn_bf16_decode(code.size, ffi.from_buffer("uint16_t[]", code), pointer(x))
    return x


def test_bf16_is_the_nearest_and_keeps_what_is_no_number(rng):
    x = (rng.normal(size=4097) * 10.0 ** rng.integers(-30, 30, size=4097)).astype(DTYPE)
    code = encode(x)
    assert np.all(np.abs(decode(code) - x) <= np.abs(x) * 2.0**-8)
    for neighbour in (code - 1, code + 1):
        assert np.all(np.abs(decode(neighbour) - x) >= np.abs(decode(code) - x))
    exact = np.array([0, -0.0, 1, -2, 1.0078125, 3.0e38, np.inf, -np.inf], DTYPE)
    exact[5] = decode(encode(exact[5:6]))[0]
    assert np.array_equal(decode(encode(exact)), exact)
    # ties go to the even one
    assert decode(encode(np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8], DTYPE))).tolist() == [
        1,
        1 + 2.0**-6,
    ]
    with np.errstate(invalid="ignore"):  # the first one signals when it becomes a double
        payload = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32).astype(DTYPE)
    assert np.isnan(decode(encode(payload))).all()


def test_bf16_rest_makes_sums_right(rng):
    rest, total, sent = np.zeros(1000, DTYPE), np.zeros(1000), np.zeros(1000)
    for _ in range(200):
        x = rng.normal(size=1000).astype(DTYPE) * DTYPE.type(1e-3) + DTYPE.type(0.5)
        total += x
        sent += decode(encode(x, rest))
    assert np.all(np.abs(sent - total) < 0.51 * 2.0**-8 + 1e-4)
    plain = 200 * 2.0**-9  # what rounding alone may lack
    assert plain > 0.3
    bad = np.array([np.nan, np.inf, 1], DTYPE)
    rest = np.full(3, 0.25, DTYPE)
    encode(bad, rest)
    assert rest.tolist() == [0, 0, decode(encode(np.array([1.25], DTYPE)))[0] * -1 + 1.25]
