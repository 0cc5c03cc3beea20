"""init(precision="bf16") and what can be exempt from it: which products are rounded, and that all
ways of computing round the same numbers.

A model in NumPy (bf16_model.py) rounds what must be rounded. Its elementwise functions differ from
the kernels' in the last bit, so that now and then a number is rounded to the other side: agree()
allows for that. What the kernels themselves promise is tested in test_bf16_kernels.py. How
long: about a minute, most of it for tests of other files, run with rounded products.
"""

import copy
import functools
import pickle
import sys
import threading
from itertools import pairwise

import bf16_model as model
import numpy as np
import pytest
from bf16_model import Value, rounded
from jobs import mpirun, needs_mpi
from net_table import NETS
from processes import HERE, output_of, passing_tests, run_python
from test_nets import inputs, loss_of, made, trained

import dist_dynet as dy
from dist_dynet._ffi import lib
from dist_dynet.cli.info import facts
from dist_dynet.params.precision import rounding

pytestmark = pytest.mark.float32

LAYER = (24, 20)


@pytest.fixture(autouse=True)
def precision():
    """Sets the precision, and begins a new graph; float32 afterwards."""

    def use(name):
        dy.init(precision=name)
        dy.renew_cg()

    yield use
    use("float32")


def agree(got, want, floats):
    """Whether the numbers are those of the model that rounds, much nearer to it than to the one
    that does not."""
    got, want, floats = (np.asarray(a, float).ravel() for a in (got, want, floats))
    rounding = np.linalg.norm(floats - want)
    assert rounding > 1e-4 * np.linalg.norm(want)
    assert np.linalg.norm(got - want) <= rounding / 4


# ---- values and gradients of the model -------------------------------------------------


def of_a_product(m):
    w = m.add_parameters(LAYER)
    return [w], lambda xs: w * xs[0], lambda p, v, xs: p(v[0], xs[0])


def of_an_affine_transform(m):
    b, w, v = m.add_parameters(LAYER[0]), m.add_parameters(LAYER), m.add_parameters(LAYER)
    return (
        [b, w, v],
        lambda xs: dy.affine_transform([b, w, xs[0], v, xs[1]]),
        lambda p, ws, xs: ws[0] + p(ws[1], xs[0]) + p(ws[2], xs[1]),
    )


def of_layers(m):
    ws = [m.add_parameters((20, 20)) for _ in range(3)]

    def deep(multiply, tanh, weights, x):
        for w in weights:
            x = tanh(multiply(w, x))
        return x

    return (
        ws,
        lambda xs: deep(lambda w, x: w * x, dy.tanh, ws, xs[0]),
        lambda p, vs, xs: deep(p, model.tanh, vs, xs[0]),
    )


def of_a_traced_function(m):
    w, v, b = m.add_parameters(LAYER), m.add_parameters((20, 24)), m.add_parameters(24)

    @dy.traced
    def f(x, y):
        return dy.tanh(v * dy.tanh(dy.affine_transform([b, w, x])) + y)

    def like(p, ws, xs):
        state = xs[0]
        for x in xs[1:]:
            state = model.tanh(p(ws[1], model.tanh(p(ws[0], state) + ws[2])) + x)
        return state

    def run(xs):
        state = xs[0]
        for x in xs[1:]:
            state = f(state, x)
        return state

    return [w, v, b], run, like


def recurrent(builder_class, network, run):
    def make(m):
        builder = builder_class(1, LAYER[1], 16, m)
        weights = builder.get_parameters()[0]
        return weights, lambda xs: run(builder, xs), lambda p, ws, xs: network(ws, xs)

    return make


def step_by_step(builder, xs):
    return builder.initial_state().add_inputs(xs)[-1].output()


def transduced(builder, xs):
    return builder.initial_state().transduce(xs)[-1]


def of_a_tree(arity):
    def make(m):
        builder = (
            dy.NaryTreeLSTMBuilder(arity, LAYER[1], 16, m)
            if arity
            else dy.ChildSumTreeLSTMBuilder(LAYER[1], 16, m)
        )
        weights = builder.get_parameters()

        def run(xs):
            leaves = [builder.node(x, []) for x in xs[1:]]
            return builder.node(xs[0], leaves).output()

        return weights, run, lambda p, ws, xs: model.tree(ws, xs, arity)

    return make


PROGRAMS = {
    "product": of_a_product,
    "affine transform": of_an_affine_transform,
    "layers": of_layers,
    "traced function": of_a_traced_function,
    "LSTM step by step": recurrent(dy.VanillaLSTMBuilder, model.lstm, step_by_step),
    "LSTM transduced": recurrent(dy.VanillaLSTMBuilder, model.lstm, transduced),
    "compact LSTM": recurrent(dy.CompactVanillaLSTMBuilder, model.lstm, step_by_step),
    "simple RNN": recurrent(dy.SimpleRNNBuilder, model.simple, transduced),
    "GRU": recurrent(dy.GRUBuilder, model.gru, transduced),
    "child-sum tree": of_a_tree(0),
    "n-ary tree": of_a_tree(3),
}
INPUTS = 4


def of_the_model(like, weights, xs, grad, multiply):
    """[value, gradients of weights, of inputs] for one example."""
    ws, vs = [Value(p.as_array()) for p in weights], [Value(x) for x in xs]
    before = model.product
    model.product = multiply
    try:
        y = like(multiply, ws, vs)
    finally:
        model.product = before
    model.backward(y, grad)
    return [y.array, *[w.grad for w in ws], *[v.grad for v in vs]]


def not_rounded(w, x):
    return Value(
        w.array @ x.array,
        (w, lambda d: np.outer(d, x.array)),
        (x, lambda d: w.array.T @ d),
    )


@pytest.mark.parametrize("autobatching", [0, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("program", PROGRAMS)
def test_products_are_those_of_the_model(program, batch, autobatching, rng, precision):
    precision("bf16")
    m = dy.ParameterCollection()
    weights, run, like = PROGRAMS[program](m)
    for p in weights:
        p.set_value(rng.normal(size=p.shape()) / 3)
    dy.renew_cg(autobatching=autobatching)
    groups = 2  # of examples: two nodes that may become one
    arrays = rng.normal(size=(groups, INPUTS, LAYER[1], batch))
    given = [
        [dy.inputTensor(x, batched=True, reusable_expr=True) for x in group] for group in arrays
    ]
    ys = [run(xs) for xs in given]
    grads = rng.normal(size=(groups, ys[0].dim()[0][0], batch))
    loss = dy.esum(
        [
            dy.sum_batches(dy.dot_product(y, dy.inputTensor(g, batched=True)))
            for y, g in zip(ys, grads, strict=True)
        ]
    )
    loss.backward(full=True)
    found = {}
    for name, multiply in (("bf16", model.product), ("float32", not_rounded)):
        found[name] = [
            [
                of_the_model(like, weights, arrays[g, ..., k], grads[g, :, k], multiply)
                for k in range(batch)
            ]
            for g in range(groups)
        ]

    def both(pick):
        return [pick(found[name]) for name in ("bf16", "float32")]

    n = len(weights)
    value = np.array([y.npvalue().reshape(-1, batch) for y in ys])
    agree(value, *both(lambda f: [np.transpose([one[0] for one in group]) for group in f]))
    for k, p in enumerate(weights):
        summed = both(lambda f, k=k: sum(one[1 + k] for group in f for one in group))
        if len(p.shape()) == 2 and np.any(summed[0]):
            agree(p.grad_as_array(), *summed)
    for k in range(INPUTS):
        each = both(lambda f, k=k: [np.transpose([one[1 + n + k] for one in g]) for g in f])
        if np.any(each[0]):
            got = [given[g][k].gradient().reshape(LAYER[1], batch) for g in range(groups)]
            agree(got, *each)


# ---- float32, and what is exempt -------------------------------------------------------


def bits(net, m, built, arrays):
    """The loss and all gradients, as they are."""
    m.reset_gradients()
    dy.renew_cg()
    loss = loss_of(net, built, arrays)
    loss.backward()
    return [loss.npvalue(), *[p.grad_as_array() for p in trained(m)]]


def same(a, b):
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", NETS)
def test_own_precision_wins_over_the_setting(name, rng, precision):
    net = NETS[name]
    m, built = made(net)
    arrays = inputs(net, rng, 2)
    plain = bits(net, m, built, arrays)
    precision("bf16")
    all_rounded = bits(net, m, built, arrays)
    built.set_precision("float32")
    assert same(bits(net, m, built, arrays), plain)
    precision("float32")
    built.set_precision("bf16")
    assert same(bits(net, m, built, arrays), all_rounded)
    built.set_precision(None)
    assert same(bits(net, m, built, arrays), plain)


def matrices_of(m):
    return [p for p in m.parameters_list() if len(p.shape()) == 2]


NO_PRODUCTS = (
    "blocks-crf",  # its matrix holds scores of pairs
    "recurrent-sparse",  # its matrices are multiplied by masks first
)


def test_products_of_all_builders_are_rounded(rng, precision):
    unchanged = set()
    for name, net in NETS.items():
        m, built = made(net)
        arrays = inputs(net, rng, 2)
        precision("float32")
        plain = bits(net, m, built, arrays)
        precision("bf16")
        if same(bits(net, m, built, arrays), plain) and matrices_of(m):
            unchanged.add(name)
    assert unchanged == {name for name in NETS if name.startswith(NO_PRODUCTS)}


def test_products_that_are_not_with_a_parameter_itself_stay_float32(rng, precision):
    m = dy.ParameterCollection()
    w, v, t = m.add_parameters((6, 6)), m.add_parameters(6), m.add_lookup_parameters((6, 6))
    f = m.add_parameters((1, 2, 1, 6))
    values = {
        "values": lambda x, X: X * dy.transpose(X),
        "right factor": lambda x, X: X * w,
        "transposed": lambda x, X: dy.transpose(w) * x,
        "scaled": lambda x, X: (2 * w) * x,
        "vector": lambda x, X: v * dy.transpose(x),
        "table": lambda x, X: t * x,
        "view": lambda x, X: dy.reshape(w, (6, 6)) * x,
        "convolution": lambda x, X: dy.conv2d(
            dy.reshape(X, (6, 3, 2)), dy.reshape(f, (1, 2, 2, 3)), [1, 1]
        ),
        "elementwise": lambda x, X: dy.cmult(w, w),
    }
    a, A = rng.normal(size=6), rng.normal(size=(6, 6))
    for name, build in values.items():
        found = []
        for setting in ("float32", "bf16"):
            precision(setting)
            m.reset_gradients()
            y = build(dy.inputTensor(a), dy.inputTensor(A))
            dy.sum_elems(dy.square(y)).backward()
            found.append([y.npvalue(), *[p.grad_as_array() for p in (w, v, t, f)]])
        assert same(*found), name


def test_precision_is_inherited_and_can_be_given(precision):
    m = dy.ParameterCollection()
    first = m.add_parameters((2, 2))
    exact = m.add_subcollection("exact", precision="float32")
    inner = exact.add_subcollection("inner")
    made = [
        first,
        exact.add_parameters((2, 2)),
        inner.add_parameters((2, 2)),
        inner.add_parameters((2, 2), precision="bf16"),
        inner.add_subcollection(precision="bf16").add_parameters((2, 2)),
    ]
    assert [p.precision() for p in made] == [None, "float32", "float32", "bf16", "bf16"]
    m.set_precision("bf16")
    assert {p.precision() for p in made} == {"bf16"}
    made[0].set_precision(None)
    assert made[0].precision() is None


@pytest.mark.parametrize("name", NETS)
def test_builders_take_a_precision(name, monkeypatch, precision):
    net = NETS[name]
    builder = type(net.make(dy.ParameterCollection()))
    inherited = dy.ParameterCollection().add_subcollection(precision="bf16")
    net.make(inherited)
    assert {p.precision() for p in inherited.parameters_list()} <= {"bf16"}
    own = functools.partialmethod(builder.__init__, precision="float32")
    monkeypatch.setattr(builder, "__init__", own)
    m = dy.ParameterCollection()
    of_builder = net.make(m).param_collection().parameters_list()
    assert {p.precision() for p in of_builder} <= {"float32"}
    assert {p for p in m.parameters_list() if p.precision() is None} == {
        p for p in m.parameters_list() if p not in of_builder
    }


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_precisions(copied, precision):
    m = dy.ParameterCollection()
    m.add_parameters((2, 2))
    m.add_parameters((2, 2), precision="bf16")
    m.add_subcollection(precision="float32").add_parameters((2, 2))
    other = copied(m)
    assert [p.precision() for p in other.parameters_list()] == [None, "bf16", "float32"]


@pytest.mark.parametrize("wrong", ["bfloat16", "", 16, "BF16", np.float32])
def test_errors_name_what_there_is(wrong, precision):
    m = dy.ParameterCollection()
    p, lstm = m.add_parameters((2, 2)), dy.VanillaLSTMBuilder(1, 2, 2, m)
    for call in (
        lambda: dy.init(precision=wrong),
        lambda: p.set_precision(wrong),
        lambda: m.set_precision(wrong),
        lambda: m.add_parameters((2, 2), precision=wrong),
        lambda: m.add_subcollection(precision=wrong),
        lambda: lstm.set_precision(wrong),
    ):
        with pytest.raises(ValueError, match="takes 'float32' or 'bf16'"):
            call()
    assert [q.precision() for q in m.parameters_list()] == [None] * 4


def test_double_build_has_no_rounded_products():
    code = """
import dist_dynet as dy
m = dy.ParameterCollection()
p = m.add_parameters((2, 2), precision="float32")
dy.init(precision="float32")
for call in (lambda: dy.init(precision="bf16"), lambda: p.set_precision("bf16")):
    try:
        call()
    except ValueError as error:
        print(error)
"""
    for line in output_of(code, DIST_DYNET_DTYPE="float64").splitlines():
        assert "'bf16' rounds products of float32 numbers; got DIST_DYNET_DTYPE=float64" in line
    both = run_python(
        "-c", "import dist_dynet", DIST_DYNET_DTYPE="float64", DIST_DYNET_PRECISION="bf16"
    )
    assert both.returncode and "ImportError: DIST_DYNET_PRECISION: 'bf16' rounds" in both.stderr


def test_environment_sets_it():
    code = """
import dist_dynet as dy
W = dy.ParameterCollection().add_parameters((1, 1), init=1 + 2**-12)
print((W * dy.inputVector([1])).scalar_value() == 1)
"""
    for value, is_rounded in (("bf16", "True"), ("float32", "False"), ("", "False")):
        assert output_of(code, DIST_DYNET_PRECISION=value).strip() == is_rounded
    wrong = run_python("-c", "import dist_dynet", DIST_DYNET_PRECISION="half")
    assert "ImportError: DIST_DYNET_PRECISION: takes 'float32' or 'bf16'" in wrong.stderr


def test_graph_keeps_the_precision_that_its_first_parameter_met(precision):
    m = dy.ParameterCollection()
    W = m.add_parameters((1, 1), init=1 + 2**-12)
    x = np.ones(1)
    dy.renew_cg()
    dy.init(precision="bf16")
    assert (W * dy.inputTensor(x)).scalar_value() == 1
    dy.init(precision="float32")
    assert (W * dy.inputTensor(x)).scalar_value() == 1
    dy.renew_cg()
    assert (W * dy.inputTensor(x)).scalar_value() > 1


# ---- rounded copies follow the values --------------------------------------------------


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
                assert same(other, run())
    finally:
        sys.setswitchinterval(interval)


# ---- gradients, training, and the tests of other files ---------------------------------


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


def test_info_names_the_instructions():
    named = facts()["build"]["bfloat16 products"]
    assert named in ("amx", "avx512", "plain")
    assert lib.dn_bf16_choose(named.encode())


def test_ranks_compare_instructions_where_something_is_rounded(precision):
    by = f"products rounded to bfloat16 by {facts()['build']['bfloat16 products']}"
    for setting, own, text in (
        ("float32", [None, "float32"], ""),
        ("float32", [None, "bf16"], by),
        ("bf16", ["float32"], ""),
        ("bf16", ["float32", None], by),
    ):
        precision(setting)
        assert rounding(own) == text


@pytest.mark.mpi
@needs_mpi
def test_reproducible_sums_have_the_same_bits_on_two_ranks():
    alone = run_python(str(HERE / "mpi" / "reproducible.py"), DIST_DYNET_PRECISION="bf16").stdout
    in_float32 = run_python(str(HERE / "mpi" / "reproducible.py")).stdout
    status, output, _ = mpirun(2, "reproducible.py", "shared", DIST_DYNET_PRECISION="bf16")
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
