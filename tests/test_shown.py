"""What one sees: repr() of every class, summaries, drawings, dir(), tracebacks, and hints for the
names of other toolkits."""

import inspect
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from net_table import NETS
from processes import run_python
from table_trainers import TRAINERS

import dist_dynet as dy
from dist_dynet import _hints, _tracebacks, parallel, schedules


def model():
    return dy.ParameterCollection()


def in_files(tmp_path, cls):
    path = tmp_path / "clusters"
    path.write_text("a x\na y\nb z\n")
    return cls(3, str(path), {"x": 0, "y": 1, "z": 2}, model())


def hierarchy(tmp_path, cls):
    path = tmp_path / "tree"
    path.write_text("0\tx\n0\ty\n1\tz\n")
    return cls(3, str(path), {"x": 0, "y": 1, "z": 2}, model())


def sgd(m=None):
    return dy.SimpleSGDTrainer(m or model())


X = "inputVector([1, 2])"
MADE = {
    **{
        (name := type(net.make(model())).__name__): (
            lambda path, net=net: net.make(model()),
            rf"{name}\(.*",
        )
        for net in NETS.values()
    },
    **{
        name: (
            lambda path, row=row: row.make(model()),
            rf"{name}\(.*\): clip threshold 5, 0 updates",
        )
        for name, row in TRAINERS.items()
    },
    "AutobatchStats": (lambda path: dy.autobatch_stats(), "AutobatchStats.nodes=.*"),
    "BiRNNBuilder": (
        lambda path: dy.BiRNNBuilder(1, 3, 4, model(), dy.GRUBuilder),
        r"BiRNNBuilder\(num_layers=1, input_dim=3, hidden_dim=4, rnn_builder_factory=GRUBuilder\):"
        " 72 numbers",
    ),
    "CRF": (lambda path: dy.CRF(model(), ["B", "I"]), r"CRF\(tags=2, forbidden=\[\]\): 8 numbers"),
    "ClassFactoredSoftmaxBuilder": (
        lambda path: in_files(path, dy.ClassFactoredSoftmaxBuilder),
        r"ClassFactoredSoftmaxBuilder\(input_dim=3, bias=True\): .*numbers",
    ),
    "ComputationGraph": (lambda path: dy.cg(), r"ComputationGraph: [\d,]+ nodes?, version \d+"),
    "ConstInitializer": (lambda path: dy.ConstInitializer(2), r"ConstInitializer\(c=2\)"),
    "DeviceInfo": (lambda path: dy.get_device_info("CPU"), r"DeviceInfo\(name=b'CPU'.*\)"),
    "DynetParams": (lambda path: dy.DynetParams(), r"DynetParams: \{\}"),
    "Expression": (
        lambda path: dy.tanh(dy.inputTensor(np.ones((8, 4)), batched=True)),
        r"tanh \(8,\) x 4",
    ),
    "FloatValue": (lambda path: dy.FloatValue(3), r"FloatValue\(3.0\)"),
    "FloatVectorValue": (lambda path: dy.FloatVectorValue([3]), r"FloatVectorValue\(\[3.0\]\)"),
    "FromFileInitializer": (
        lambda path: dy.FromFileInitializer("numbers.txt"),
        r"FromFileInitializer\(fname=PosixPath\('numbers.txt'\)\)",
    ),
    "GlorotInitializer": (
        lambda path: dy.GlorotInitializer(gain=2),
        r"GlorotInitializer\(is_lookup=False, gain=2\)",
    ),
    "HeInitializer": (lambda path: dy.HeInitializer(), r"HeInitializer\(gain=1\)"),
    "HierarchicalSoftmaxBuilder": (
        lambda path: hierarchy(path, dy.HierarchicalSoftmaxBuilder),
        r"HierarchicalSoftmaxBuilder\(input_dim=3, bias=True\): .*numbers",
    ),
    "IdentityInitializer": (lambda path: dy.IdentityInitializer(), r"IdentityInitializer\(\)"),
    "LookupParameters": (
        lambda path: model().add_lookup_parameters((5, 2), name="E"),
        r"LookupParameter /E \(5, 2\)",
    ),
    "MovingAverage": (
        lambda path: dy.MovingAverage(model(), 0.9),
        r"MovingAverage\(decay=0.9, every=1\)",
    ),
    "NonFinite": (
        lambda path: dy.find_nonfinite(dy.log(dy.scalarInput(-1))),
        r"NonFinite\(.*log.*",
    ),
    "NormalInitializer": (
        lambda path: dy.NormalInitializer(),
        r"NormalInitializer\(mean=0, var=1\)",
    ),
    "NumpyInitializer": (
        lambda path: dy.NumpyInitializer(np.ones(3)),
        r"NumpyInitializer\(array=array \(3,\)\)",
    ),
    "ParameterCollection": (
        lambda path: dy.Linear(2, 3, model()).param_collection(),
        r"ParameterCollection /linear/: 2 parameters, 9 numbers",
    ),
    "Parameters": (lambda path: model().add_parameters((2, 3)), r"Parameter /_0 \(2, 3\)"),
    "Profile": (lambda path: dy.Profile(), r"Profile: 0 calls of operations in 0 s"),
    "ProfileRow": (
        lambda path: dy.ProfileRow("tanh", "(2,) -> (2,)", 1, 1, 0.1, None),
        r"ProfileRow\(name='tanh', .*\)",
    ),
    "PyInitializer": (lambda path: dy.PyInitializer(), r"PyInitializer\(\)"),
    "RNNState": (
        lambda path: dy.GRUBuilder(1, 2, 3, model()).initial_state().add_input(dy.zeros(2)),
        r"RNNState of GRUBuilder: h \(3,\)",
    ),
    "Sampler": (lambda path: dy.Sampler(9), r"Sampler\(distribution='log-uniform'\)"),
    "SaxeInitializer": (lambda path: dy.SaxeInitializer(), r"SaxeInitializer\(scale=1\)"),
    "SoftmaxBuilder": (
        lambda path: dy.StandardSoftmaxBuilder(3, 9, model()),
        r"StandardSoftmaxBuilder\(.*",
    ),
    "Stack": (
        lambda path: dy.StackLSTM(1, 2, 3, model()).empty().push(dy.zeros(2)),
        "Stack: 1 item",
    ),
    "StackedRNNState": (
        lambda path: dy.StackedRNNState([dy.GRUBuilder(1, 2, 3, model()).initial_state()]),
        r"StackedRNNState: \d+ vectors?",
    ),
    "Tensor": (lambda path: dy.zeros(2).tensor_value(), "<Dynet Tensor:float>"),
    "Trainer": (lambda path: sgd(), r"SimpleSGDTrainer\(learning_rate=0.1\).*"),
    "UniformInitializer": (lambda path: dy.UniformInitializer(2), r"UniformInitializer\(scale=2\)"),
    "UnsignedValue": (lambda path: dy.UnsignedValue(2), r"UnsignedValue\(2\)"),
    "UnsignedVectorValue": (
        lambda path: dy.UnsignedVectorValue([2]),
        r"UnsignedVectorValue\(\[2\]\)",
    ),
    "Vocabulary": (lambda path: dy.Vocabulary(["a"]), r"Vocabulary of 2 names, .*"),
    "Batch": (lambda path: next(iter(parallel.shard([1, 1], 2))), r"\[1, 1\]"),
    "Checkpointer": (
        lambda path: parallel.Checkpointer(path, m := model(), sgd(m)),
        r"Checkpointer\(directory='/.*\)",
    ),
    "DistributedTrainer": (
        lambda path: parallel.DistributedTrainer(sgd()),
        r"DistributedTrainer\(average='mean'\) of SimpleSGDTrainer\(.*\): .*, 1 rank",
    ),
    "Join": (lambda path: parallel.Join(parallel.DistributedTrainer(sgd())), r"Join\(\)"),
    "LocalSGD": (
        lambda path: parallel.LocalSGD(sgd(), every=8),
        r"LocalSGD\(every=8, moments='local', rows='all'\) of SimpleSGDTrainer\(.*\): .*, 1 rank",
    ),
    "Shard": (
        lambda path: parallel.shard([1, 2, 3], 2),
        r"Shard\(batch_size=2, seed=0, drop_last=False, shuffle=True, epoch=0\): 2 steps",
    ),
    "Constant": (
        lambda path: schedules.Constant(sgd()),
        r"Constant\(base=0.1, warmup=0\): rate 0.1 .*",
    ),
    "Cosine": (
        lambda path: schedules.Cosine(sgd(), 9),
        r"Cosine\(steps=9, end=0, base=0.1, warmup=0\): rate 0.1 after 0 steps",
    ),
    "InverseSquareRoot": (
        lambda path: schedules.InverseSquareRoot(sgd()),
        r"InverseSquareRoot\(base=0.1, warmup=0\): rate 0.1 after 0 steps",
    ),
    "schedules.Linear": (lambda path: schedules.Linear(sgd(), 9), r"Linear\(steps=9, .*\): rate.*"),
    "Plateau": (
        lambda path: schedules.Plateau(sgd()),
        r"Plateau\(factor=0.5, patience=5, threshold=0, least=0, base=0.1\): rate 0.1 .*",
    ),
}
SAME = {"LSTMBuilder", "Model", "TrainerLike"}
"""Other names of classes that have a row, and of what they have in common."""


def public_classes():
    for module in (dy, parallel, schedules):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) and not issubclass(thing, Exception):
                yield "schedules.Linear" if thing is schedules.Linear else name


def test_table_has_every_public_class():
    gap = {*public_classes()} ^ (MADE.keys() | SAME)
    assert not gap, f"MADE of tests/test_shown.py: has no row, or an old one, for {gap}"


@pytest.mark.parametrize("name", MADE)
def test_repr_says_what_it_is(name, tmp_path):
    dy.renew_cg()
    make, pattern = MADE[name]
    shown = repr(make(tmp_path))
    assert re.fullmatch(pattern, shown), shown
    assert " object at 0x" not in shown and "\n" not in shown


def test_repr_shows_settings_that_change():
    m = model()
    lstm, trainer = dy.VanillaLSTMBuilder(1, 3, 4, m), dy.AdamTrainer(m, learning_rate=0.1)
    lstm.set_dropout(0.25)
    trainer.set_clip_threshold(0)
    trainer.update()
    settings = "layers=1, input_dim=3, hidden_dim=4, ln_lstm=False, forget_bias=1"
    assert repr(lstm) == (
        f"VanillaLSTMBuilder({settings}): 128 numbers, dropout_x=0.25, dropout_h=0.25"
    )
    assert repr(lstm.eval()).endswith(", in evaluation")
    assert repr(trainer) == (
        "AdamTrainer(beta_1=0.9, beta_2=0.999, eps=1e-08, learning_rate=0.1): no clipping, 1 update"
    )
    W = m.add_parameters(2)
    W.set_updated(False)
    assert repr(W) == "Parameter /_0 (2,), frozen" and str(W) == "Parameter /_0"
    assert repr(object.__new__(dy.VanillaLSTMBuilder)).startswith("VanillaLSTMBuilder(")


def test_repr_of_what_is_stale():
    x = dy.scalarInput(1)
    dy.renew_cg()
    assert repr(x) == "expression (stale)" and x._repr_svg_() is None


# ---- summaries and drawings ---------------------------------------------------------------


def test_summary_counts():
    m = model()
    m.add_parameters((2, 3), name="W")
    m.add_subcollection("deep").add_lookup_parameters((1000, 4), name="E").set_updated(False)
    lines = str(m.summary()).splitlines()
    assert [line.split()[0] for line in lines] == ["parameter", "/W", "/deep/E", "in", "trained"]
    assert lines[2].endswith("table, frozen") and " 4,006 " in lines[3] and lines[4].endswith(" 6")
    assert repr(m.summary()) == str(m.summary())


def test_drawings_have_a_box_for_each_node():
    dy.renew_cg()
    W = model().add_parameters((2, 2), name="W")
    unused = dy.scalarInput(3)
    y = dy.tanh(W * dy.inputVector([1, 2]))
    for picture, boxes in ((y._repr_svg_(), 4), (dy.cg()._repr_svg_(), 5)):
        root = ET.fromstring(picture)
        texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
        assert len(texts) == 2 * boxes and {"parameter /W", "matmul", "tanh", "(2,)"} <= {*texts}
        arrows = [*root.iter("{http://www.w3.org/2000/svg}line")]
        assert len(arrows) == 3
        for arrow in arrows:
            assert float(arrow.get("y1")) < float(arrow.get("y2"))
    assert unused.index() == 0


def test_large_graphs_are_not_drawn():
    dy.renew_cg()
    assert dy.cg()._repr_svg_() is None
    x = dy.scalarInput(1)
    for _ in range(200):
        x = dy.tanh(x)
    assert x._repr_svg_() is None and dy.cg()._repr_svg_() is None


# ---- names ----------------------------------------------------------------------------------

PACKAGES = [dy.nn, dy.ops, dy.trainers, dy.schedules, dy.parallel, dy.io, dy.params]


def test_dir_shows_public_names():
    assert {*dir(dy)} == {*dy.__all__, *dy._PACKAGES}
    for module in PACKAGES:
        assert dir(module) == sorted(module.__all__)
    for module in [dy, *PACKAGES]:
        assert all(hasattr(module, name) for name in dir(module))


@pytest.mark.parametrize("name", [*_hints.SENTENCES, *_hints.WRITTEN_HERE])
def test_names_of_other_toolkits_are_hinted_at(name):
    for module in (dy, dy.nn):
        if not hasattr(module, name):
            with pytest.raises(AttributeError, match=f"no attribute '{name}'. [A-Z@d]"):
                getattr(module, name)
    assert not hasattr(dy, name), f"{name} exists: leave its hint out"


def test_names_in_sentences_exist():
    tables = [_hints.SENTENCES, _hints.OF_EXPRESSIONS, _hints.OF_OWNERS, _hints.OF_COLLECTIONS]
    found = {
        n for t in tables for s in t.values() for n in re.findall(r"\bdy\.([A-Za-z_0-9.]+\w)", s)
    }
    for name in found:
        thing = dy
        for part in name.split("."):
            thing = getattr(thing, part)
    owners = {"x": dy.Expression, "m": dy.ParameterCollection, "trainer": dy.Trainer}
    for table in tables:
        for sentence in table.values():
            for owner, name in re.findall(r"\b(x|m|trainer)\.([a-z_]+)", sentence):
                assert hasattr(owners[owner], name), sentence


@pytest.mark.parametrize("name", _hints.OF_OWNERS)
def test_builders_and_blocks_have_hints(name):
    for owner in (dy.Linear(2, 3, model()), dy.GRUBuilder(1, 2, 3, model())):
        with pytest.raises(AttributeError, match=re.escape(_hints.OF_OWNERS[name].rstrip("."))):
            getattr(owner, name)
        assert name not in dir(owner)


@pytest.mark.parametrize("name", [n for n in TRAINERS if n != "AdadeltaTrainer"])
def test_learning_rate_has_one_spelling(name):
    if name == "CyclicalSGDTrainer":  # two bounds
        trainer = dy.CyclicalSGDTrainer(model(), learning_rate_min=0.25, learning_rate_max=1)
    else:
        trainer = getattr(dy, name)(model(), learning_rate=0.25)
    assert trainer.learning_rate == 0.25


def test_old_spelling_stays():
    for cls in (dy.AdamTrainer, dy.AmsgradTrainer, dy.AdamWTrainer):
        assert cls(model(), alpha=0.25).learning_rate == cls(model(), 0.25).learning_rate == 0.25
        assert cls(model()).learning_rate == 0.001
        for alpha in (0.25, 0.001, 0.5):
            with pytest.raises(TypeError, match="alpha is another name of learning_rate; got both"):
                cls(model(), alpha=alpha, learning_rate=0.5)


@pytest.mark.parametrize("argument", _hints.ARGUMENTS_OF_TRAINERS)
def test_arguments_of_other_toolkits_are_hinted_at(argument):
    with pytest.raises(TypeError, match=f"there is no argument {argument}. Write "):
        dy.AdamTrainer(model(), **{argument: 1})
    assert dy.AdamWTrainer(model(), weight_decay=0.1).learning_rate == 0.001
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        dy.AdamTrainer(model(), nonsense=1)


# ---- tracebacks -----------------------------------------------------------------------------

FAILS = """
import dist_dynet as dy
def loss(x):
    return dy.{call}
loss(dy.inputVector([1, 2]))
"""


@pytest.mark.parametrize("call", ["pick(x, 7)", "inputVector(['a'])", "tanh(3)"])
def test_tracebacks_end_at_the_line_of_the_user(call):
    short = run_python("-c", FAILS.format(call=call))
    full = run_python("-c", FAILS.format(call=call), DIST_DYNET_TRACEBACKS="full")
    assert short.returncode == full.returncode == 1
    assert "in loss" in short.stderr and "dist_dynet/" not in short.stderr
    assert "in loss" in full.stderr and "dist_dynet/" in full.stderr
    assert short.stderr.splitlines()[-1] == full.stderr.splitlines()[-1]


def test_tracebacks_of_causes_are_short(monkeypatch):
    try:
        try:
            dy.inputVector(["a"])
        except TypeError as error:
            raise ValueError("mine") from error
    except ValueError as error:
        mine = error

    def files(traceback):
        while traceback:
            yield traceback.tb_frame.f_code.co_filename
            traceback = traceback.tb_next

    assert len([*files(mine.__cause__.__traceback__)]) > 1
    dy.full_tracebacks()
    _tracebacks.shorten(mine)
    assert len([*files(mine.__cause__.__traceback__)]) > 1
    dy.full_tracebacks(False)
    _tracebacks.shorten(mine)
    assert [*files(mine.__cause__.__traceback__)] == [*files(mine.__traceback__)] == [__file__]


def shown(call, **names):
    """What a program that ends by this call shows."""
    try:
        eval(call, {"dy": dy, "m": model(), **names})
    except TypeError as error:
        for _ in range(2):
            _tracebacks.shorten(error)
        return str(error)
    raise AssertionError(f"{call} is no error")


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("dy.esum(dy.ones(2), dy.ones(2))", "dy.esum takes (xs). Several go into one list."),
        ("dy.softmax(dy.ones(2), dim=0)", "'dim'. dy.softmax takes (x, d=0)."),
        ("dy.renew_cg(autobatch=True)", "check_validity=False, autobatching=None)."),
        ("dy.LSTMBuilder(1, 2, 3)", "'model'. dy.VanillaLSTMBuilder takes (layers, input_dim, "),
        ("m.add_parameters()", "dy.ParameterCollection.add_parameters takes (dim, init=None, "),
        ("dy.parallel.shard([1])", "dy.parallel.shard takes (data, batch_size, seed=0, "),
        ("dy.ones(1).value(1, 2)", "dy.Expression.value takes (recalculate=False)."),
    ],
)
def test_a_call_with_other_arguments_shows_those_that_there_are(call, wanted):
    message = shown(call)
    assert wanted in message
    assert message.count(" takes (") == 1


def test_calls_of_other_functions_say_what_python_says():
    def softmax(x):
        """Of the program."""

    for call in ("m.save()", "softmax(1, dim=0)", "softmax()"):  # dy.save has other arguments
        assert " takes (" not in shown(call, softmax=softmax), call


def test_notebooks_get_short_tracebacks():
    result = run_python(
        "-c",
        "from IPython.testing.globalipapp import start_ipython\n"
        "shell = start_ipython()\n"
        "shell.run_cell('import dist_dynet as dy')\n"
        "shell.run_cell('dy.inputVector([None])')\n"
        "shell.run_cell('dy.full_tracebacks()')\n"
        "print('FULL')\n"
        "shell.run_cell('dy.inputVector([None])')\n",
    )
    short, full = (result.stdout + result.stderr).split("FULL")
    assert "takes numbers" in short and "_input_nodes.py" not in short, short
    assert "_input_nodes.py" in full
