"""What looks right in other toolkits, and meant something else here without a word: now there is a
warning, once, or it does what is meant. Programs that import dynet keep DyNet's ways."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet import _large_graphs, _manner
from dist_dynet.io import files
from dist_dynet.nn.owner import Owner


@pytest.fixture
def as_dynet(monkeypatch):
    monkeypatch.setattr(_manner.manner, "dynet", True)


# ---- two sizes are no dims ---------------------------------------------------------------

SIZES = {
    "add_parameters": (lambda: dy.ParameterCollection().add_parameters(2, 3), "init=3"),
    "add_lookup_parameters": (
        lambda: dy.ParameterCollection().add_lookup_parameters(2, 3),
        "init=3",
    ),
    "zeros": (lambda: dy.zeros(2, 3), "batch_size=3"),
    "zeroes": (lambda: dy.zeroes(2, 3), "batch_size=3"),
    "ones": (lambda: dy.ones(np.int64(2), 3), "batch_size=3"),
    "random_normal": (lambda: dy.random_normal(2, 3), "mean=3"),
    "random_gumbel": (lambda: dy.random_gumbel(2, 3), "mu=3"),
}


@pytest.mark.parametrize("name", SIZES)
def test_two_sizes_are_warned_of_once(name, monkeypatch):
    monkeypatch.setattr(_manner.manner, "said", set())
    call, instead = SIZES[name]
    with pytest.warns(
        RuntimeWarning, match=rf"dims are one argument.*\(2, 3\)\).*{instead}\)"
    ) as w:
        call()
    assert [warning.filename for warning in w] == [__file__]
    call()


@pytest.mark.parametrize("name", SIZES)
def test_two_sizes_are_no_matter_in_programs_of_dynet(name, as_dynet):
    SIZES[name][0]()
    assert name not in _manner.manner.said


def test_what_is_no_second_size_is_taken():
    m = dy.ParameterCollection()
    assert m.add_parameters(2, 0.5).as_array().tolist() == [0.5, 0.5]
    assert m.add_parameters(2, 0).as_array().tolist() == [0, 0]
    assert m.add_parameters(2, init=3).as_array().tolist() == [3, 3]
    assert dy.reshape(dy.zeros(6), 2, 3).dim() == ((2,), 3)
    assert dy.zeros((2, 3), 4).dim() == dy.reshape(dy.zeros(24), (2, 3), 4).dim() == ((2, 3), 4)
    assert dy.zeros(2, batch_size=3).dim() == ((2,), 3)


# ---- probabilities are no scores ---------------------------------------------------------


@pytest.mark.parametrize("probabilities", [dy.softmax, dy.sparsemax])
def test_sampling_by_probabilities_is_warned_of_once(probabilities, monkeypatch):
    monkeypatch.setattr(_manner.manner, "said", set())
    x = dy.inputVector([0, 1000])
    p = probabilities(x)
    assert dy.sample_categorical(dy.log(p)).value() == dy.sample_categorical(x).value() == 1
    with pytest.warns(RuntimeWarning, match=r"Write sample_categorical\(dy.log\(p\)\)") as w:
        dy.sample_categorical(p, n=2)
    assert [warning.filename for warning in w] == [__file__]
    dy.sample_categorical(x=p)


# ---- arrays ------------------------------------------------------------------------------


def test_asarray_of_an_expression_is_its_value():
    x = dy.tanh(dy.inputTensor(np.arange(6).reshape(3, 2), batched=True))
    array = np.asarray(x)
    assert array.dtype == x.npvalue().astype(np.float32).dtype or array.dtype == np.float64
    assert np.array_equal(array, x.npvalue())
    assert np.asarray(x, dtype=int).dtype == int and float(dy.scalarInput(3)) == 3
    assert np.array_equal(np.array([x, x]), np.stack([x.npvalue()] * 2))
    dy.renew_cg()
    dy.inputVector([9] * 6).value()
    assert array[2, 1] == np.asarray(np.tanh(5), array.dtype)  # a copy: the graph is gone
    with pytest.raises(RuntimeError, match="Stale"):
        np.asarray(x)


def test_asarray_of_a_parameter_is_a_view_that_cannot_be_written_to():
    m = dy.ParameterCollection()
    W, E = m.add_parameters((2, 3)), m.add_lookup_parameters((4, 3, 2))
    view, table = np.asarray(W), np.asarray(E)
    assert np.array_equal(view, W.as_array()) and np.array_equal(table, E.as_array())
    assert not view.flags.writeable and table.flags.writeable
    before = table.copy()
    W.scale(2), E.scale(2)
    assert np.array_equal(view, W.as_array()) and np.array_equal(table, before)
    mine = np.array(W)
    mine[0, 0] = 7
    assert W.as_array()[0, 0] != 7
    del m, W
    assert np.isfinite(view).all()  # it keeps the parameters alive


@pytest.mark.parametrize("kind", ["expression", "table"])
def test_what_must_be_copied_says_so(kind):
    E = dy.ParameterCollection().add_lookup_parameters((4, 3))
    with pytest.raises(ValueError, match="Leave out copy=False"):
        (E if kind == "table" else dy.inputVector([1])).__array__(copy=False)


def test_dlpack_gives_values():
    W = dy.ParameterCollection().add_parameters((2, 3))
    x = dy.tanh(dy.inputVector([1, 2]))
    assert np.array_equal(np.from_dlpack(x), x.npvalue())
    taken = np.from_dlpack(W)
    assert np.array_equal(taken, W.as_array())
    if taken.flags.writeable:  # a NumPy that cannot be told of views gets a copy
        taken[:] = 7
        assert not np.array_equal(taken, W.as_array())


def test_no_gradient_is_lost_in_an_input():
    x = dy.scalarInput(3)
    for make in (dy.inputVector, dy.inputTensor):
        for values in ([x, x], [[x, x], [x, x]], x):
            with pytest.raises(TypeError, match="got expressions"):
                make(values)
    with pytest.raises(TypeError, match="got an expression"):
        dy.scalarInput(x)
    with pytest.raises(TypeError, match="got an expression"):
        dy.dropout(x, x)


# ---- probabilities -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("softmax", "axis"),
    [
        (dy.softmax, 0),
        (lambda x: dy.softmax(x, 1), 1),
        (lambda x: dy.sparsemax(x, 0), 0),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_probabilities_sum_to_one_for_numpy(softmax, axis, batch):
    numbers = np.random.default_rng(4)
    x = dy.inputTensor(numbers.normal(size=(5000, 7, batch)), batched=True)
    p = softmax(x).npvalue()
    assert p.dtype == np.float64 and np.allclose(p.sum(axis), 1, rtol=0, atol=1e-12)
    assert np.array_equal(p.astype(np.asarray(x).dtype), np.asarray(softmax(x))) or np.allclose(
        p, np.asarray(softmax(x)), rtol=1e-5, atol=0
    )
    one = p[:, 0].reshape(5000, -1)[:, 0] if axis == 0 else p[0].reshape(7, -1)[:, 0]
    numbers.choice(len(one), p=one)


def test_probabilities_that_are_none_stay():
    nan = dy.softmax(dy.inputVector([float("nan"), 1])).npvalue()
    assert np.isnan(nan).all() and dy.softmax(dy.scalarInput(5)).npvalue().tolist() == [1]


def test_probabilities_are_those_of_dynet_for_its_programs(as_dynet):
    p = dy.softmax(dy.inputVector(np.random.default_rng(4).normal(size=999)))
    assert np.array_equal(p.npvalue(), p.vec_value())


# ---- training and evaluation -------------------------------------------------------------

DROPPING = {
    "lstm": lambda m: dy.VanillaLSTMBuilder(1, 20, 40, m),
    "ln_lstm": lambda m: dy.VanillaLSTMBuilder(1, 20, 40, m, ln_lstm=True),
    "compact": lambda m: dy.CompactVanillaLSTMBuilder(1, 20, 40, m),
    "coupled": lambda m: dy.CoupledLSTMBuilder(1, 20, 40, m),
    "sparse": lambda m: dy.SparseLSTMBuilder(1, 20, 40, m),
    "simple": lambda m: dy.SimpleRNNBuilder(2, 20, 40, m),
    "gru": lambda m: dy.GRUBuilder(2, 20, 40, m),
    "birnn": lambda m: dy.BiRNNBuilder(2, 20, 40, m, dy.GRUBuilder),
    "mlp": lambda m: dy.MLP([20, 99, 4], m),
    "stack": lambda m: dy.StackLSTM(1, 20, 40, m),
}
NEVER = {"FastLSTMBuilder": "dropout drops nothing, as in DyNet"}


def test_table_has_all_that_drops():
    dropping = {name for name in dy.__all__ if hasattr(getattr(dy, name), "set_dropout")}
    tried = {type(make(dy.ParameterCollection())).__name__ for make in DROPPING.values()}
    assert dropping - {"RNNBuilder", "LSTMBuilder"} == tried | set(NEVER)


def outputs(net):
    """Two values that are equal if nothing is dropped."""
    x = [dy.inputVector(np.arange(n, n + 20)) for n in range(2)]
    values = []
    for _ in range(2):
        if isinstance(net, dy.MLP):
            y = net(x[0])
        elif isinstance(net, dy.StackLSTM):
            y = net.empty().push(x[0]).push(x[1]).summary()
        elif isinstance(net, dy.BiRNNBuilder):
            y = net.transduce(x)[0]
        else:
            state = net.initial_state()
            y = dy.concatenate(
                [*state.transduce(x), state.add_input(x[0]).add_input(x[1]).output()]
            )
        values.append(y.vec_value())
    return values


@pytest.mark.parametrize("name", DROPPING)
@pytest.mark.parametrize("order", ["keyed", "dynet"])
def test_eval_turns_dropout_off_and_train_on(name, order):
    dy.reset_random_seed(3)
    dy.init(rng=order)
    try:
        m = dy.ParameterCollection()
        net = DROPPING[name](m)

        def drops():
            dy.renew_cg()
            a, b = outputs(net)
            if order == "keyed" or name in ("mlp", "gru", "birnn"):
                return a != b
            net.disable_dropout()  # in DyNet's order one graph has one mask
            dy.renew_cg()
            plain = outputs(net)[0]
            net.set_dropout(0.5)
            return a != plain

        net.set_dropout(0.5)
        assert net.training and drops()
        for owner in (m, net):
            assert owner.eval() is owner and not net.training and not drops()
            assert owner.train() is owner and net.training and drops()
        m.eval()
        assert net.train() and drops() and not m.training
        assert not m.eval().training and not drops()
        copied = pickle.loads(pickle.dumps(net)) if name != "stack" else copy.deepcopy(net)
        assert not copied.training and outputs(copied)[0] == outputs(copied)[1]
    finally:
        dy.init(rng="keyed")


def test_eval_takes_noise_off_weights():
    lstm = dy.CompactVanillaLSTMBuilder(1, 20, 4, dy.ParameterCollection())
    lstm.set_weightnoise(1)
    first, second = outputs(lstm)
    assert first != second
    first, second = outputs(lstm.eval())
    assert first == second


def test_modes_are_of_collections():
    m = dy.ParameterCollection()
    a, b = m.add_subcollection("a"), m.add_subcollection("b")
    a.eval()
    assert (m.training, a.training, b.training) == (True, False, True)
    m.eval()
    b.train()
    c = b.add_subcollection("c")
    assert (m.training, a.training, b.training, c.training) == (False, False, True, True)
    assert all(hasattr(cls, "eval") for cls in Owner.__subclasses__())


# ---- graphs that grow --------------------------------------------------------------------


@pytest.fixture
def small_limit():
    before = _large_graphs.large.index
    _large_graphs.large.index = 1000
    _large_graphs.calls.set_large(1000, _large_graphs.note_large)
    yield
    _large_graphs.large.index = before
    _large_graphs.calls.set_large(before, _large_graphs.note_large)


def grow():
    x = dy.scalarInput(0.5)
    for _ in range(1010):
        x = dy.tanh(x)


def test_a_graph_that_grows_is_warned_of_once(small_limit):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dy.renew_cg()
        grow()
        dy.renew_cg()
        grow()
    (warning,) = caught
    assert "is a renew_cg() missing?" in str(warning.message)
    assert warning.filename == __file__


def test_the_line_of_a_warning_is_the_programs_also_through_context_managers(tmp_path):
    class OfAnotherRank(files.OneProcess):
        def finished(self, error):
            _manner.warn("save: nothing was written")

    former = files.set_policy(OfAnotherRank())
    try:
        with pytest.warns(RuntimeWarning) as caught:
            dy.ParameterCollection().save(tmp_path / "model")
    finally:
        files.set_policy(former)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_warning_that_is_an_error_is_raised_where_the_node_is_made(small_limit):
    dy.renew_cg()
    with pytest.raises(RuntimeWarning, match="this graph has 1,001 nodes"):
        grow()
    grow()


def test_programs_of_dynet_are_not_warned(small_limit, as_dynet):
    dy.renew_cg()
    grow()
    assert len(dy.cg()) > 1000
