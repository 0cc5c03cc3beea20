"""What every builder and block of tests/net_table promises: batches, batching on the fly, saving,
copies, gradients, resumed runs, ranks.

What each computes is tested in test_builders.py, test_softmax_builders.py, test_blocks_*.py and
test_trees_attention.py. How long: about 15 s, half of them for the double build.
"""

import copy
import functools
import inspect
import pickle

import net_table
import numpy as np
import pytest
from gradients import jacobian_difference
from jobs import mpirun, needs_mpi
from net_table import NETS
from net_table.recurrent import CLASSES
from net_table.row import Net
from processes import passing_tests
from tables import differing, known_classes
from test_graph import close

import dist_dynet as dy
from dist_dynet import nn
from dist_dynet._ffi import DTYPE_NAME
from dist_dynet.nn.owner import Owner

every_net = pytest.mark.parametrize(
    "net", [pytest.param(net, id=name) for name, net in NETS.items()]
)


def made(net):
    """(collection, builder or block) with all that is trained off its initial values."""
    dy.renew_cg()
    m = dy.ParameterCollection()
    built = net.make(m)
    rng = np.random.default_rng(4)
    for p in trained(m):
        array = p.as_array() + rng.normal(size=p.shape()) / 3
        p.init_from_array(array) if isinstance(p, dy.LookupParameters) else p.set_value(array)
    return m, built


def trained(m):
    return [p for p in (*m.parameters_list(), *m.lookup_parameters_list()) if p.is_updated()]


def inputs(net, rng, batch):
    return [rng.normal(size=(*dims, batch)) for dims in net.inputs]


def expressions(arrays):
    return [dy.inputTensor(a, batched=True, reusable_expr=True) for a in arrays]


def value_of(net, built, arrays):
    """In a graph of its own: a value that is computed once may be kept for the length of a
    graph."""
    dy.renew_cg()
    return net.value(built, expressions(arrays)).npvalue()


def loss_of(net, built, arrays):
    return dy.sum_batches(dy.sum_elems(dy.square(net.value(built, expressions(arrays)))))


def where(built):
    return f"{type(built).__name__}, see {type(built).__module__}"


# ---- the table is whole ----------------------------------------------------------------


def net_gaps(classes, rows):
    table, public = "tests/net_table/<family>.py", "dist_dynet/nn/__init__.py"
    return differing(
        classes,
        {type(net.make(dy.ParameterCollection())) for net in rows},
        net_table.NOT_IN_THE_TABLE,
        table,
        public,
    )


def test_table_has_every_builder_and_block():
    assert not (gaps := net_gaps(known_classes(nn, Owner), NETS.values())), gaps


def test_table_has_every_recurrent_builder_in_its_factories():
    known = {
        c
        for c in known_classes(nn, Owner).values()
        if issubclass(c, nn.builder.RecurrentBuilder) and c.__name__ in nn.__all__
    }
    assert known == {*CLASSES}, (
        f"not in FACTORIES of tests/net_table/recurrent.py: {known - {*CLASSES}}"
    )


# ---- properties ------------------------------------------------------------------------


@every_net
def test_no_collection_is_refused_by_the_name_of_the_class(net):
    name = type(net.make(dy.ParameterCollection())).__name__
    with pytest.raises(TypeError, match=rf"^{name}: takes the ParameterCollection .*; got Shard"):
        net.make(dy.parallel.shard([], 1))


@every_net
def test_inputs_of_another_size_are_refused_in_its_words(net, rng):
    _, built = made(net)
    name = type(built).__name__
    for k, (rows, *more) in enumerate(net.inputs):
        arrays = inputs(net, rng, 1)
        arrays[k] = rng.normal(size=(rows + 1, *more, 1))
        with pytest.raises(ValueError, match=rf"^{name}: |: this network's |: the state must be "):
            value_of(net, built, arrays)


def test_stale_inputs_of_blocks_are_one_error():
    m = dy.ParameterCollection()
    dy.renew_cg()
    x = dy.zeros(3)
    dy.renew_cg()
    blocks = dy.Linear(3, 4, m), dy.MLP([3, 5, 4], m), dy.LayerNorm(3, m)
    for use in (*blocks, dy.StandardSoftmaxBuilder(3, 4, m).full_logits):
        with pytest.raises(RuntimeError, match=r"^Stale Expression") as caught:
            use(x)
        assert caught.value.__context__ is None


STARTS = {"mask-x": 1, "mask-h": 1, "A": 0, "start": 0, "stop": 0}
"""{role in the formulas: where it starts}; biases, b..., at 0 and gains, g..., at 1."""


def start_of(built, role):
    """Where a parameter of this role starts; None: it is random."""
    if role == "bf":
        return getattr(built, "forget_bias", 0)
    if role == "b" and isinstance(built, dy.NoiseContrastiveEstimation):
        return -np.log(built.num_classes)
    return STARTS.get(role, {"b": 0, "g": 1}.get(role[0]))


@every_net
def test_parameters_start_where_their_class_says(net):
    m = dy.ParameterCollection()
    built = net.make(m)
    for p in (*m.parameters_list(), *m.lookup_parameters_list()):
        start = start_of(built, p._role.split("/")[-1])
        if start is None:
            assert np.ptp(p.as_array()) > 0, p
        else:
            close(p.as_array(), start)


@every_net
def test_autobatched_equals_plain(net, rng):
    m, built = made(net)
    arrays = [inputs(net, rng, 1) for _ in range(4)]
    found = []
    for autobatching in (0, 1, 2, 3):
        m.reset_gradients()
        dy.renew_cg(autobatching=autobatching)
        loss = dy.esum([loss_of(net, built, a) * (k + 1) for k, a in enumerate(arrays)])
        loss.backward()
        found.append([loss.npvalue(), *[p.grad_as_array() for p in trained(m)]])
    for other in found[1:]:
        for plain, batched in zip(found[0], other, strict=True):
            close(batched, plain, 2e-5)


@pytest.mark.parametrize(
    "net", [pytest.param(net, id=name) for name, net in NETS.items() if net.per_element]
)
def test_batched_equals_unbatched(net, rng):
    _, built = made(net)
    arrays = inputs(net, rng, 5)
    together = value_of(net, built, arrays)
    for k in range(5):
        close(together[..., k], value_of(net, built, [a[..., k : k + 1] for a in arrays]), 1e-5)


def check_spec(net):
    """What from_spec() makes has the initial values of the original under the same seed."""
    fresh = []
    for make in (net.make, lambda m: type(fresh[0][0]).from_spec(fresh[0][0].spec, m)):
        m = dy.ParameterCollection()
        dy.reset_random_seed(3)
        fresh.append((make(m), {name: p.as_array() for name, p in m.named_parameters().items()}))
    (built, values), (again, others) = fresh
    derived = type(type(built).__name__, (type(built),), {})
    made_by = type(derived.from_spec(built.spec, dy.ParameterCollection()))
    assert made_by is derived, f"from_spec makes no subclass of its class: {where(built)}"
    assert again.spec == built.spec and list(values) == list(others), f"from_spec: {where(built)}"
    wrong = [name for name in values if not np.array_equal(values[name], others[name])]
    assert not wrong, f"from_spec gives other initial values of {wrong}: {where(built)}"


@every_net
def test_spec_makes_an_equal_one(net):
    check_spec(net)


def check_copies(net, folder, rng):
    """Saved and loaded, pickled, copied: of the same spec and names, with the same values and bits;
    and trained apart from the original."""
    m, built = made(net)
    arrays = inputs(net, rng, 2)
    dy.save(folder / "net", [built])
    other = dy.ParameterCollection()
    (loaded,) = dy.load(folder / "net", other)
    assert list(other.named_parameters()) == list(m.named_parameters()), where(built)
    expected = value_of(net, built, arrays)
    for way, twin in (
        ("load", loaded),
        ("pickle", pickle.loads(pickle.dumps(built))),
        ("copy", copy.deepcopy(built)),
    ):
        what = f"{way}: {where(built)}"
        assert (
            type(twin) is type(built)
            and twin.spec == built.spec
            and twin.whoami() == type(built).__name__
        ), what
        own = twin.param_collection()
        assert list(own.named_parameters()) == list(built.param_collection().named_parameters()), (
            what
        )
        assert len(own.named_parameters()) == len(m.named_parameters()), (
            f"not all parameters are in param_collection(): {what}"
        )
        got = value_of(net, twin, arrays)
        # DyNet's text files hold as many digits as float32 has
        assert (
            np.allclose(got, expected, rtol=1e-6)
            if way == "load" and DTYPE_NAME == "float64"
            else np.array_equal(got, expected)
        ), what
        for p in trained(own):
            p.scale(0.5)
        assert not np.array_equal(value_of(net, twin, arrays), expected), (
            f"does not use its own parameters: {what}"
        )
        assert np.array_equal(value_of(net, built, arrays), expected), what


@every_net
def test_saved_pickled_and_copied(net, tmp_path, rng):
    check_copies(net, tmp_path, rng)


def check_gradients_arrive(net, rng):
    m, built = made(net)
    loss_of(net, built, inputs(net, rng, 2)).backward()
    without = [
        p.name()
        for p in trained(m)
        if not (p.has_gradient() and np.abs(p.grad_as_array()).max() > 0)
    ]
    expected = [p.name() for p in trained(m) if p.name().rpartition("/")[2] in net.unused]
    assert without == expected, (
        f"no gradient reaches {without}: {where(built)}; or its row in tests/net_table does not use"
        " them"
    )


def public_methods(built):
    """{name: function}: the methods that users call."""
    return {
        name: method
        for name, method in inspect.getmembers(type(built), inspect.isfunction)
        if name == "__call__" or not name.startswith("_")
    }


def test_building_computes_nothing(rng):
    """What reads a value while it builds is slow, and keeps others from being batched with it."""
    for net in NETS.values():
        _, built = made(net)
        computed = []
        spy = dy.function(lambda x, said=computed: (said.append(1), x)[1], None, lambda dims: dims)
        net.value(built, [spy(x) for x in expressions(inputs(net, rng, 2))])
        assert not computed, f"reads values while it builds: {where(built)}"


def test_what_is_no_expression_is_refused_by_name(rng):
    """For each expression that a public method gets from a row of the table: a number instead."""
    faults = set()
    for net in NETS.values():
        _, built = made(net)
        calls = {}

        def noted(name, method, calls=calls):
            @functools.wraps(method)
            def call(self, *given, **named):
                calls.setdefault(name, (method, self, given, named))
                return method(self, *given, **named)

            return call

        cls = type(built)
        methods = {name: noted(name, method) for name, method in public_methods(built).items()}
        built.__class__ = type(cls.__name__, (cls,), {"__module__": cls.__module__, **methods})
        value_of(net, built, inputs(net, rng, 2))
        for name, (method, of, args, keywords) in [*calls.items()]:
            for k in (k for k, x in enumerate(args) if isinstance(x, dy.Expression)):
                try:
                    method(of, *args[:k], 3, *args[k + 1 :], **keywords)
                    said = "takes it"
                except TypeError as error:
                    said = str(error)
                if "expression" not in said:
                    faults.add(f"{where(built)}: {name}() of 3: {said}")
    assert not faults, "\n".join(sorted(faults))


WITHOUT_UPDATE = {
    *("AdditiveAttention", "DotAttention", "MultiHeadAttention", "BiRNNBuilder"),
    *("BinaryTreeLSTMBuilder", "ChildSumTreeLSTMBuilder", "NaryTreeLSTMBuilder"),
}
"""Builders and blocks without the argument: their parameters are frozen by set_updated()."""


def check_update_false(net, rng):
    """With update=False in each call that takes it: the same value, and no gradient of
    parameters."""
    m, built = made(net)
    arrays = inputs(net, rng, 2)
    expected = value_of(net, built, arrays)

    def without(method):
        signature = inspect.signature(method)

        @functools.wraps(method)
        def call(self, *given, **named):
            bound = signature.bind(self, *given, **named)
            bound.arguments["update"] = False
            return method(*bound.args, **bound.kwargs)

        return call

    cls = type(built)
    methods = {
        name: without(method)
        for name, method in public_methods(built).items()
        if "update" in inspect.signature(method).parameters
    }
    assert bool(methods) == (cls.__name__ not in WITHOUT_UPDATE), (
        f"no method takes update=False, or WITHOUT_UPDATE of tests/test_nets.py is old:"
        f" {where(built)}"
    )
    if not methods:
        return
    built.__class__ = type(cls.__name__, (cls,), {"__module__": cls.__module__, **methods})
    m.reset_gradients()
    loss_of(net, built, arrays).backward()
    moved = [p.name() for p in trained(m) if p.has_gradient() and np.any(p.grad_as_array())]
    assert not moved, f"update=False sends gradients to {moved}: {where(built)}"
    close(value_of(net, built, arrays), expected, 1e-6)


@every_net
def test_gradient_reaches_every_parameter_that_is_to_be_trained(net, rng):
    check_gradients_arrive(net, rng)
    check_update_false(net, rng)


@every_net
def test_resumed_training_is_that_of_an_uninterrupted_run(net, tmp_path, rng):
    """With dropout, where there is some: three steps, a checkpoint, three more steps, again in a
    new model; bit for bit."""
    arrays = [inputs(net, rng, 2) for _ in range(6)]
    ends = []
    for resume in (False, True):
        m = dy.ParameterCollection()
        built = net.make(m)
        if hasattr(built, "set_dropout"):
            built.set_dropout(0.3)
        trainer = dy.AdamTrainer(m, 0.01)
        checkpointer = dy.parallel.Checkpointer(tmp_path, m, trainer)
        assert checkpointer.resume() == resume
        for step in range(checkpointer.step, 6):
            dy.renew_cg()
            loss_of(net, built, arrays[step]).backward()
            trainer.update()
            if step == 2:
                checkpointer.save()
        ends.append({name: p.as_array() for name, p in m.named_parameters().items()})
    wrong = [name for name, array in ends[0].items() if not np.array_equal(array, ends[1][name])]
    assert not wrong, f"{where(built)}: a resumed run is another run: {wrong}"


@pytest.mark.mpi
@needs_mpi
def test_ranks_do_what_one_process_does_with_every_net():
    assert mpirun(2, "nets.py")[:2] == (0, "ok\n")


# ---- wrong nets are found --------------------------------------------------------------


class Scale(nn.block.Block):
    """y = w x: a block that is right in all but what a subclass spoils."""

    _subcollection = "scale"

    def __init__(self, dim, model):
        self.dim = dim
        self._begin(model, dim=dim)
        self.w, self.v = self._collection.add_parameters(dim), self._collection.add_parameters(dim)

    @property
    def spec(self):
        return (self.dim,)

    @classmethod
    def from_spec(cls, spec, model):
        return cls(*spec, model)

    def __call__(self, x):
        return dy.cmult(self.w, x) + self.v


class Idle(Scale):
    """Does not use one of its parameters."""

    def __call__(self, x):
        return dy.cmult(self.w, x)


class Forgetful(Scale):
    """Its spec leaves out what its value depends on."""

    def __init__(self, dim, model, factor=1):
        super().__init__(dim, model)
        self.factor = factor

    def __call__(self, x):
        return super().__call__(x) * self.factor


class Outside(Scale):
    """Has a parameter that is not in its subcollection, which dy.save() does not find."""

    def __init__(self, dim, model):
        super().__init__(dim, model)
        self.v = model.add_parameters(dim)


def row(make):
    return Net(make, [(3,)], lambda f, xs: f(xs[0]))


def test_checks_pass_what_is_right(tmp_path, rng):
    check_copies(row(lambda m: Scale(3, m)), tmp_path, rng)
    check_gradients_arrive(row(lambda m: Scale(3, m)), rng)
    check_spec(row(lambda m: Scale(3, m)))


def test_a_block_without_a_row_is_reported():
    said = net_gaps({**known_classes(nn, Owner), "Scale": Scale}, NETS.values())
    assert (
        "Scale: no row in tests/net_table/<family>.py; add one, or say in its NOT_IN_THE_TABLE"
        in said
    )
    said = net_gaps(known_classes(nn, Owner), [*NETS.values(), row(lambda m: Scale(3, m))])
    assert (
        said == "Scale: has a row in tests/net_table/<family>.py, and is not in __all__ of"
        " dist_dynet/nn/__init__.py"
    )


def test_a_parameter_without_gradient_is_reported(rng):
    with pytest.raises(
        AssertionError, match=r"no gradient reaches \['/scale/_1'\]: Idle, see test_nets"
    ):
        check_gradients_arrive(row(lambda m: Idle(3, m)), rng)


class Uneven(Scale):
    """Its spec leaves out what its initial values depend on."""

    def __init__(self, dim, model, start=0):
        super().__init__(dim, model)
        self.w.set_value([start] * dim)


def test_a_spec_that_leaves_something_out_is_reported():
    with pytest.raises(
        AssertionError,
        match=r"from_spec gives other initial values of \['/scale/_0'\]: Uneven, see test_nets",
    ):
        check_spec(row(lambda m: Uneven(3, m, 2)))


@pytest.mark.parametrize("make", [lambda m: Forgetful(3, m, 2), lambda m: Outside(3, m)])
def test_a_wrong_copy_is_reported(make, tmp_path, rng):
    with pytest.raises(AssertionError, match="see test_nets"):
        check_copies(row(make), tmp_path, rng)


# ---- gradients in double ---------------------------------------------------------------


def gradients_of(net, m, built, arrays, w):
    m.reset_gradients()
    dy.renew_cg()
    xs = expressions(arrays)
    y = net.value(built, xs)
    dy.sum_batches(
        dy.dot_product(y, dy.inputTensor(w.reshape((*y.dim()[0], y.dim()[1])), batched=True))
    ).backward(full=True)
    return [p.grad_as_array() for p in trained(m)] + [x.gradient() for x in xs]


@pytest.mark.float64
@every_net
def test_double_jacobian(net, rng):
    m, built = made(net)
    parameters, xs = trained(m), inputs(net, rng, 2)

    def f(*arrays):
        dy.renew_cg()
        for p, a in zip(parameters, arrays, strict=False):
            p.init_from_array(a) if isinstance(p, dy.LookupParameters) else p.set_value(a)
        return value_of(net, built, arrays[len(parameters) :])

    arrays = [p.as_array() for p in parameters] + xs
    difference = jacobian_difference(f, arrays, lambda w: gradients_of(net, m, built, xs, w))
    f(*arrays)
    assert difference is None, difference


@pytest.mark.float32
def test_gradients_in_the_double_build():
    assert passing_tests("-m", "float64", __file__, DIST_DYNET_DTYPE="float64") == len(NETS)
