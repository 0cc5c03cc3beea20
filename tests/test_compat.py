"""Programs written for DyNet run unchanged: tests/compat holds some, and the real DyNet's output
and names are stored beside the other numbers.

How long: about twenty seconds.
"""

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
from compat_programs import program, run_program

HERE = Path(__file__).parent
PROGRAMS = HERE / "compat"
PRINTED = json.loads((HERE / "data" / "compat" / "printed.json").read_text())
REAL = json.loads((HERE / "data" / "compat" / "names.json").read_text())
NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")


def text_of(line):
    """A line without its numbers; beside one, several blanks are one: NumPy aligns numbers, and one
    whose last digit is a zero is shorter."""
    return re.sub(r"(?<=#) +| +(?=#)", " ", NUMBER.sub("#", line))


# ---- programs --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRINTED)
def test_program_prints_what_it_prints_under_dynet(name):
    """Text is equal, numbers (losses, accuracies, draws) agree to the rounding that training piles
    up."""
    lines = run_program(PROGRAMS / f"{name}.py", "--dynet-seed", "1").stdout.splitlines()
    assert len(lines) == len(PRINTED[name])
    for got, want in zip(lines, PRINTED[name], strict=True):
        assert text_of(got) == text_of(want)
        for a, b in zip(NUMBER.findall(got), NUMBER.findall(want), strict=True):
            assert abs(float(a) - float(b)) <= 1e-4 * (1 + abs(float(b))), f"{got}\n{want}"


def test_autobatching_changes_no_loss_of_a_program_without_draws():
    losses = [
        run_program(PROGRAMS / "attention.py", "--dynet-seed", "1", "--dynet-autobatch", on).stdout
        for on in ("0", "1")
    ]
    epochs = [
        [
            float(x)
            for line in text.splitlines()
            if line.startswith("epoch")
            for x in NUMBER.findall(line)
        ]
        for text in losses
    ]
    assert len(epochs[0]) == 18 and epochs[0] == pytest.approx(epochs[1], rel=1e-4)


# ---- names -----------------------------------------------------------------------------


NOT_CLASSES = ("inputTensorTranspose",)
"""What is a class of expressions there and a function that makes them here."""


def parameters(thing):
    try:
        return inspect.signature(thing).parameters
    except (TypeError, ValueError):
        return None


def takes(thing, wanted):
    """The parameters of the real function that `thing` cannot be called with, by name."""
    here = parameters(thing)
    if here is None or any(p.kind is p.VAR_KEYWORD for p in here.values()):
        return []
    # the real print_graphviz(**kwarge)
    return [name for name, _ in wanted if name not in here and name != "kwarge"]


def test_every_name_of_dynet_resolves(installed):
    assert [name for name in REAL if not hasattr(installed, name)] == []
    low = importlib.import_module("_dynet")
    assert [
        n
        for n in ("_RNNBuilder", "_inputExpression", "_lookupExpression", "_pickerBatchExpression")
        if not hasattr(low, n)
    ] == []


def test_every_member_of_dynets_classes_is_there(installed):
    classes = [(c, about.get("members", {})) for c, about in REAL.items() if c not in NOT_CLASSES]
    missing = [
        f"{c}.{m}"
        for c, members in classes
        for m in members
        if not hasattr(getattr(installed, c), m)
    ]
    assert missing == []


def test_functions_take_dynets_arguments(installed):
    missing = {}
    for name, about in REAL.items():
        thing = getattr(installed, name)
        if about["signature"] and callable(thing):
            missing[name] = takes(thing, about["signature"])
        for member, signature in (
            about.get("members", {}).items() if name not in NOT_CLASSES else ()
        ):
            if signature and callable(getattr(thing, member)):
                missing[f"{name}.{member}"] = takes(
                    getattr(thing, member), [p for p in signature if p[0] != "self"]
                )
    assert {name: left for name, left in missing.items() if left} == {}


def test_star_import_gives_dynets_names_old_ones_included_and_no_others(tmp_path):
    old = {
        "Saveable",
        "average_cols",
        "concat_to_batch",
        "conv1d_narrow",
        "conv1d_wide",
        "cwise_multiply",
        "sum_cols",
        "sum_rows",
    }
    for module in ("dynet", "_dynet"):
        path = program(
            tmp_path,
            f"from {module} import *\nprint({{n for n in globals() if not n.startswith('_')}})\n",
        )
        given = eval(run_program(path).stdout)
        assert given - {*REAL} == old
        if module == "dynet":
            assert {*REAL} <= given


# ---- types, old names, processes, threads ----------------------------------------------


def test_types_that_programs_touch(installed, tmp_path):
    d = installed
    m = d.Model()
    W, E = m.add_parameters((4 / 2, 3)), m.add_lookup_parameters((5, 8 / 2))
    assert (
        isinstance(m, d.ParameterCollection)
        and isinstance(W, d.Parameters)
        and isinstance(E, d.LookupParameters)
    )
    assert W.shape() == (2, 3) and isinstance(W, d.Expression) and isinstance(E[1.0], d.Expression)
    d.renew_cg()
    h = W * d.inputVector([1, 2, 3])
    assert (
        type(h.value()) is list
        and type(h.value()[0]) is float
        and h.npvalue().dtype == "float64"
        and h.npvalue().shape == (2,)
    )
    assert (
        type(d.sum_elems(h).value()) is float
        and d.sum_elems(h).npvalue().shape == (1,)
        and d.pick_range(h, 0, 2 / 2).dim() == ((1,), 1)
    )
    # no dims: one number, to begin a sum of losses with
    for nothing in d.zeros(()), d.ones(()) - 1, d.constant((), 0.0), d.reshape(d.zeros(1), ()):
        assert nothing.value() == 0.0 and d.squared_norm(nothing + h).dim() == ((1,), 1)
    assert bool(h) and [x for x in (None, h) if x] == [h] and len(list(h)) == 2 and h != d.tanh(h)
    for wrong, exception in [
        (lambda: E[-1], OverflowError),
        (lambda: d.pick(h, -1), OverflowError),
        (lambda: h["a"], AssertionError),
        (lambda: h[5], IndexError),
        (lambda: d.esum([]), AssertionError),
        (lambda: d.inputVector([1]) * h, ValueError),
        (lambda: d.load(str(tmp_path / "no"), m), OSError),
        (lambda: m.populate(str(tmp_path / "no")), RuntimeError),
        (lambda: d.LSTMBuilder(1, 2, 2, m).initial_state([]), ValueError),
    ]:
        with pytest.raises(exception):
            wrong()


def test_whoami_of_derived_classes_names_the_class_of_dynet(installed):
    d, m = installed, installed.Model()
    for name, *arguments in [
        ("SimpleRNNBuilder", 1, 2, 4, m),
        ("GRUBuilder", 1, 2, 4, m),
        ("LSTMBuilder", 1, 2, 4, m),
        ("CompactVanillaLSTMBuilder", 1, 2, 4, m),
        ("FastLSTMBuilder", 1, 2, 4, m),
        ("BiRNNBuilder", 1, 2, 4, m, d.GRUBuilder),
        ("AdamTrainer", m),
    ]:
        cls = getattr(d, name)
        mine = type("Mine", (type("Between", (cls,), {}),), {})
        assert mine(*arguments).whoami() == cls(*arguments).whoami() == cls.__name__


def test_derived_classes_have_attributes_whose_names_dynet_leaves_free(installed):
    d = installed

    class Tagger(d.Model):
        def __init__(self):
            super().__init__()
            self.training = False
            self.lstm = d.LSTMBuilder(1, 2, 40, self)

    class Lstm(d.VanillaLSTMBuilder):
        def __init__(self, layers, x, h, model):
            super().__init__(layers, x, h, model)
            self.training = False

    class Both(d.BiRNNBuilder):
        def __init__(self, layers, x, h, model, factory, depth=2):
            d.BiRNNBuilder.__init__(self, layers, x, h, model, factory)
            self.training, self.depth = False, depth
            self.spec = layers, x, h, factory, depth

        @classmethod
        def from_spec(cls, spec, model):
            return cls(*spec[:3], model, *spec[3:])

    m = Tagger()
    for network in m.lstm, Lstm(1, 2, 40, m), Both(1, 2, 80, m, d.LSTMBuilder):
        network.set_dropout(0.5)
        values = []
        for _ in range(2):
            d.renew_cg()
            begun = network if isinstance(network, Both) else network.initial_state()
            values.append(begun.transduce([d.inputVector([1, 2])] * 2)[-1].npvalue())
        assert (values[0] != values[1]).any()  # they drop, whatever `training` is
    assert m.training is network.training is False
    network.model.add_parameters(3)
    assert network.model.name() == "/birnn/"
    again = Both.from_spec(Both(1, 2, 4, m, d.GRUBuilder, depth=5).spec, d.Model())
    assert (again.depth, again.spec[4]) == (5, 5)
    assert d.BiRNNBuilder(1, 2, 4, m, d.GRUBuilder).spec[:3] == (1, 2, 4)
    network.model = m
    assert network.model is m and network.param_collection().name() == "/birnn/"


def test_derived_classes_are_made_before_their_init(installed):
    d = installed

    class Holder(d.ParameterCollection):
        def __init__(self):
            self.W = self.add_parameters((2, 3))
            self.inner = d.ParameterCollection()

    class Counting(d.AdamTrainer):
        def __init__(self, m, alpha=0.001):
            self.n, self.given = 0, alpha

        def update(self):
            self.n += 1
            d.AdamTrainer.update(self)

    class Bare(d.SimpleSGDTrainer):
        def __init__(self, m, learning_rate=0.1):
            super().__init__()
            self.n = 0

    class Gru(d.GRUBuilder):
        def __init__(self, layers, x, h, model):
            self.start = model.add_parameters(h)

    class Simple(d.SimpleRNNBuilder):
        def __init__(self, layers, x, h, model):
            self.depth = layers
            super().__init__()

    class Later(Gru):
        def __init__(self, layers, x, h, model):
            self.begin(layers, x, h, model)

        def begin(self, *given):
            d.GRUBuilder.__init__(self, *given)

    m = Holder()
    assert [p.name() for p in m.parameters_list()] == ["/_0"]
    trainer = Counting(m, alpha=0.25)
    trainer.update()
    assert (trainer.n, trainer.given, trainer.learning_rate) == (1, 0.25, 0.25)
    assert Bare(m, 0.5).learning_rate == Bare(m, learning_rate=0.5).learning_rate == 0.5
    for cls, n in (Gru, 10), (Simple, 3), (Later, 9):
        m = d.Model()
        network = cls(1, 2, 4, m)
        d.renew_cg()
        assert network.initial_state().add_input(d.ones(2)).output().dim() == ((4,), 1)
        assert len(m.parameters_list()) == n
    with pytest.raises(TypeError, match="Both: its __init__ must call that of BiRNNBuilder"):
        type("Both", (d.BiRNNBuilder,), {"__init__": lambda *_: None})(1, 2, 4, m, d.GRUBuilder)
    with pytest.raises(TypeError, match="Other: its __init__ must call that of GRUBuilder"):
        type("Other", (d.GRUBuilder,), {"__init__": lambda *_: None})(m)


def test_old_names_work_with_one_notice(tmp_path):
    text = """
import dynet as dy
m = dy.Model()
W = m.add_parameters((2, 3))
W.load_array([[1, 2, 3], [4, 5, 6]])
trainer = dy.SimpleSGDTrainer(m, e0=0.5, edecay=1.0)
for _ in range(2):
    dy.renew_cg()
    x = dy.sum_cols(dy.cwise_multiply(W, W))
    print(x.value(), dy.sum_rows(W).dim(), dy.average_cols(W).value())
    dy.sum_elems(W).backward()
    trainer.update(2.0)
    trainer.update_epoch(1.0)
    print(W.as_array().tolist(), trainer.learning_rate)
narrow, wide = (f(W, dy.inputTensor([[1, 1], [1, 2]])) for f in (dy.conv1d_narrow, dy.conv1d_wide))
print(narrow.value().tolist(), wide.dim())
m.save("FILE")
W.zero()
m.load("FILE")
m.save_all("FILE")
W.zero()
m.load_all("FILE")
lstm = dy.LSTMBuilder(1, 2, 2, m)
m.save("OBJECTS", [lstm, W])
again, V = dy.Model().load("OBJECTS")
print(W.as_array().tolist(), type(again).__name__, V.shape())
m2, [lstm, V] = dy.Model.from_file("OBJECTS")
print(type(m2) is dy.Model, m2.parameter_count(), V.as_array().tolist() == W.as_array().tolist())
x, y = dy.inputMatrix([1, 2, 3, 4, 5, 6], (2, 3)), dy.matInput(2, 2)
y.set([1, 0, 5, 1])
print(x.npvalue().tolist(), (y * x).npvalue().tolist(), dy.__file__ == __import__("_dynet").__file__)
print(dy.concat_to_batch([dy.ones(2), dy.zeros(2)]).npvalue().tolist(), m.pl())
"""  # noqa: E501
    path = program(
        tmp_path,
        text.replace("FILE", str(tmp_path / "file")).replace("OBJECTS", str(tmp_path / "objects")),
    )
    result = run_program(path)
    lines = result.stdout.splitlines()
    assert lines[0] == "[14.0, 77.0] ((1, 3), 1) [2.0, 5.0]"
    # clipped at norm 5: six gradients of 2 have norm 4.9
    assert lines[1] == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] 0.25"
    assert lines[3] == "[[-0.5, 0.5, 1.5], [2.5, 3.5, 4.5]] 0.16666666666666666"
    # of the values before the update, which this graph keeps
    assert lines[4] == "[[1.0, 3.0], [11.0, 14.0]] ((2, 4), 1)"
    assert lines[5] == "[[-0.5, 0.5, 1.5], [2.5, 3.5, 4.5]] VanillaLSTMBuilder (2, 3)"
    assert lines[6] == "True 46 True"
    assert (
        lines[7] == "[[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]] [[11.0, 23.0, 35.0], [2.0, 4.0, 6.0]] True"
    )
    assert lines[8] == "[[1.0, 0.0], [1.0, 0.0]] 4"
    said = result.stderr.splitlines()
    assert len(said) == len(set(said)) and all(line.startswith("dist_dynet: ") for line in said)
    assert sum("edecay" in line for line in said) == 1


@pytest.mark.float32  # DyNet's files have the 9 digits that tell floats apart, not doubles
def test_saveables_of_old_are_read_back(tmp_path):
    text = """
import numpy as np
import _gdynet as dy
class Layer(dy.Saveable):
    def __init__(self, model, n, activation):
        self.model, self.n, self.activation, self.table = model, n, activation, np.arange(3)
        self.W, self.b = model.add_parameters((n, 2)), model.add_parameters(n)
    def get_components(self): return [self.W, self.b]
    def restore_components(self, components): self.W, self.b = components
    def __call__(self, x):
     return self.activation(dy.parameter(self.W, update=False) * x + dy.parameter(self.b))
class Net(dy.Saveable):
    def __init__(self, model):
        self.layers, self.lstm = [Layer(model, 2, dy.tanh), Layer(model, 3, dy.rectify)], dy.LSTMBuilder(1, 2, 2, model)
    def get_components(self): return (*self.layers, self.lstm)
    def restore_components(self, components): *self.layers, self.lstm = components
    def __call__(self, x):
     return self.layers[1](self.lstm.initial_state().add_input(self.layers[0](x)).output())
dy.init()
dy.reset_random_seed(4)
m, m2 = dy.Model(), dy.Model()
net, E = Net(m), m.add_lookup_parameters((5, 2))
m.save("FILE", [net, E])
net2, E2 = m2.load("FILE")
m4, (net4, E4) = dy.Model.from_file("FILE")
m.save("FILE2", [net])
[net3] = dy.Model().load("FILE2")
y, y2, y3, y4 = [n(e[3]) for n, e in ((net, E), (net2, E2), (net3, E), (net4, E4))]
print(y.value() == y2.value() == y3.value() == y4.value(), m4.parameter_count() == m2.parameter_count())
print(net2.layers[1].n, net2.layers[0].table.tolist(), net2.layers[0].model is m2)
dy.sum_elems(y).backward()
print(not net.layers[0].W.grad_as_array().any(), net.layers[0].b.grad_as_array().any())
"""  # noqa: E501
    for name in ("FILE2", "FILE"):
        text = text.replace(f'"{name}"', repr(str(tmp_path / name)))
    assert run_program(program(tmp_path, text)).stdout.splitlines() == [
        "True True",
        "3 [0, 1, 2] True",
        "True True",
    ]


def test_pickles_name_dynet_and_are_read_back(tmp_path):
    text = """
import pickle, dynet as dy
m = dy.ParameterCollection()
lstm = dy.LSTMBuilder(1, 2, 3, m)
for thing in (dy.LSTMBuilder, dy.tanh, dy.Expression, m, lstm):
    copy = pickle.loads(pickle.dumps(thing))
    print(copy.__class__.__name__, copy is thing)
print(pickle.loads(b"\\x80\\x04c_dynet\\nLSTMBuilder\\n.") is dy.LSTMBuilder)
"""
    shown = run_program(program(tmp_path, text)).stdout.split("\n")
    assert shown[:3] == ["type True", "function True", "type True"]
    assert shown[3:6] == ["ParameterCollection False", "VanillaLSTMBuilder False", "True"]


def test_forked_children_draw_differently(tmp_path):
    text = """
import multiprocessing, dynet as dy
def draw(_):
    dy.renew_cg()
    return tuple(dy.dropout(dy.ones(64), 0.5).value()), tuple(dy.ParameterCollection().add_parameters(4).as_array())
def child(connection):
    connection.send(draw(0))
children = []
context = multiprocessing.get_context("fork")
for _ in range(3):
    mine, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    children.append(mine.recv())
    process.join()
drawn = [draw(0), *children]
print(len({masks for masks, _ in drawn}), len({values for _, values in drawn}))
"""  # noqa: E501
    path = program(tmp_path, text)
    assert run_program(path, "--dynet-seed", "4").stdout == "4 4\n"


def test_two_threads_train_two_models(tmp_path):
    """Each has its graph; what one computes does not depend on the other, dropout included."""
    text = """
import threading, dynet as dy
def train(m, results, name):
    W, lstm = m.add_parameters((1, 8), init=0.1), dy.LSTMBuilder(1, 4, 8, m)
    for p in m.parameters_list():
        p.set_value(p.as_array() * 0 + 0.1)
    trainer, losses = dy.AdamTrainer(m), []
    for step in range(60):
        dy.renew_cg()
        h = lstm.initial_state().transduce([dy.inputVector([1, 0, step % 2, 1])] * 4)[-1]
        loss = dy.squared_distance(W * h, dy.scalarInput(step % 2))
        losses.append(loss.value())
        loss.backward()
        trainer.update()
    results[name] = losses
results = {}
models = [dy.ParameterCollection() for _ in range(2)]
threads = [threading.Thread(target=train, args=(m, results, i)) for i, m in enumerate(models)]
for t in threads: t.start()
for t in threads: t.join()
train(dy.ParameterCollection(), results, "alone")
print(results[0] == results[1] == results["alone"], results[0][-1] < results[0][1])
"""
    assert run_program(program(tmp_path, text), "--dynet-seed", "1").stdout == "True True\n"
