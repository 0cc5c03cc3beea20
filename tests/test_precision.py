"""init(precision="bf16") and what can be exempt from it: collections, builders and parameters with
a precision of their own, the environment, and what a precision cannot be.

How long: a few seconds.
"""

import copy
import functools
import pickle

import numpy as np
import pytest
from net_table import NETS
from processes import output_of, run_python
from test_nets import inputs, loss_of, made, trained

import dist_dynet as dy
from dist_dynet._ffi import lib
from dist_dynet.cli.info import facts
from dist_dynet.params.precision import rounding

pytestmark = pytest.mark.float32


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
