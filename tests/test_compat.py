"""Programs written for DyNet run unchanged: tests/compat holds some, and the real DyNet's output
and names are stored beside the other numbers.

How long: about twenty seconds.
"""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import output_of, python_in_a_checkout, run_python

import dist_dynet as dy
from dist_dynet import compat
from dist_dynet.cli import options

HERE = Path(__file__).parent
PROGRAMS = HERE / "compat"
PRINTED = json.loads((HERE / "data" / "compat" / "printed.json").read_text())
REAL = json.loads((HERE / "data" / "compat" / "names.json").read_text())
PACKAGE = str(Path(dy.__file__).parents[1])
NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")


def text_of(line):
    """A line without its numbers; beside one, several blanks are one: NumPy aligns numbers, and one
    whose last digit is a zero is shorter."""
    return re.sub(r"(?<=#) +| +(?=#)", " ", NUMBER.sub("#", line))


def run_program(path, *arguments, **environment):
    """What `python -m dist_dynet.compat` with these arguments prints."""
    result = run_python("-m", "dist_dynet.compat", str(path), *arguments, **environment)
    assert result.returncode == 0, (
        f"exit status {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    )
    return result


def program(tmp_path, text, name="program.py"):
    path = tmp_path / name
    path.write_text(text)
    return path


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


@pytest.fixture
def installed():
    """`import dynet` means this package, for the length of a test."""
    compat.install()
    yield importlib.import_module("dynet")
    compat.uninstall()


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


# ---- where `import dynet` leads --------------------------------------------------------

WHO = (
    "import dynet as dy, dist_dynet; assert dy.Expression is dist_dynet.Expression; print('ours',"
    " dy.__version__)\n"
)


def test_a_real_dynet_is_hidden(tmp_path):
    program(tmp_path, "raise SystemExit('the other one')\n", "dynet.py")
    program(tmp_path, "raise SystemExit('the other one')\n", "_dynet.py")
    assert run_program(program(tmp_path, WHO)).stdout == "ours 2.1\n"


def test_modules_of_a_real_dynet_are_forgotten(tmp_path):
    program(tmp_path, "real = True\n", "dynet.py")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport dynet; assert"
        " dynet.real\nimport dist_dynet.compat as c; c.install()\n"
    )
    assert output_of(code + WHO) == "ours 2.1\n"


def test_children_find_it_too(tmp_path):
    """Other Pythons that a program starts, and multiprocessing in both ways; a sitecustomize of the
    user's own runs as well."""
    mine = tmp_path / "mine"
    mine.mkdir()
    program(mine, "import os; os.environ['MINE'] = 'seen'\n", "sitecustomize.py")
    path = program(
        tmp_path,
        f"""
import multiprocessing, os, subprocess, sys
WHO = {WHO!r}
def work(way):
    exec(WHO)
    print(way, sys.argv[1:], flush=True)
if __name__ == "__main__":
    print(subprocess.run([sys.executable, "-c", WHO + "import os; print(os.environ['MINE'])"], capture_output=True, text=True))
    sys.stdout.flush()
    for way in ("fork", "spawn"):
        child = multiprocessing.get_context(way).Process(target=work, args=(way,))
        child.start()
        child.join()
        assert child.exitcode == 0, way
""",  # noqa: E501
    )
    paths = os.pathsep.join([str(mine), PACKAGE])
    command = [sys.executable, "-m", "dist_dynet.compat", str(path), "--dynet-seed", "3"]
    shown = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        cwd=tmp_path,
    ).stdout
    assert "returncode=0" in shown and r"ours 2.1\nseen\n" in shown
    assert (
        "ours 2.1\nfork ['--dynet-seed', '3']" in shown
        and "ours 2.1\nspawn ['--dynet-seed', '3']" in shown
    )


def test_children_that_do_not_ask_for_dynet_stay_light():
    code = "import subprocess, sys\nimport dist_dynet.compat as c; c.install(); c.install()\n"
    code += (
        "print(subprocess.run([sys.executable, '-c', 'import sys; print(sorted({\"numpy\","
        ' "dist_dynet"} & set(sys.modules)))\'],'
    )
    code += "capture_output=True, text=True).stdout)"
    assert output_of(code).strip() == "[]"


def test_uninstall_leaves_nothing(monkeypatch):
    classes = (
        dy.ParameterCollection,
        dy.Parameters,
        dy.LookupParameters,
        dy.Trainer,
        dy.AdamTrainer,
    )
    before = [dict(vars(cls)) for cls in classes]
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    compat.install()
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [compat.SITE, "somewhere"]
    importlib.import_module("dynet")
    assert [dict(vars(cls)) for cls in classes] != before
    compat.uninstall()
    dy.init(rng="keyed")
    assert [dict(vars(cls)) for cls in classes] == before
    assert os.environ["PYTHONPATH"] == "somewhere"
    with pytest.raises(ImportError):
        importlib.import_module("dynet_viz")


def test_the_runner_is_as_python(tmp_path):
    path = program(
        tmp_path,
        "import sys, __main__; print(sys.argv, __name__, __file__, sys.path[0], __main__.__dict__"
        " is globals())\n",
    )
    shown = run_program(path, "a", "--dynet-seed", "1", "-b").stdout
    assert (
        shown == f"{[str(path), 'a', '--dynet-seed', '1', '-b']} __main__ {path} {tmp_path} True\n"
    )
    both = os.pathsep.join([str(tmp_path), PACKAGE])
    module = run_python("-m", "dist_dynet.compat", "-m", "program", "x", PYTHONPATH=both)
    assert "'x'] __main__" in module.stdout, module.stderr
    result = run_python(
        "-m", "dist_dynet.compat", str(program(tmp_path, "import sys; sys.exit(7)\n"))
    )
    assert result.returncode == 7
    result = run_python(
        "-m", "dist_dynet.compat", str(program(tmp_path, "def f(): raise KeyError('x')\nf()\n"))
    )
    assert result.returncode == 1 and re.search(
        r'program.py", line 1, in f\n.*\nKeyError', result.stderr, re.S
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has the option -P since 3.11")
def test_a_checkout_that_is_not_compiled_does_not_stand_in_the_way(tmp_path):
    run = python_in_a_checkout(tmp_path)
    program(
        tmp_path / "dist_dynet",
        "import sys, dynet as dy; print(dy.Expression.__name__, len(sys.argv), sys.path[0])\n",
    )
    bare = run("-c", "import dist_dynet")
    assert (
        bare.returncode == 0
        and "dist_dynet is not compiled; the package installed in " in bare.stderr
    ), bare.stderr
    script = ("dist_dynet/program.py", "x")
    result = run(*options.parse(["--as-dynet", *script]).command[1:])
    assert result.stdout == f"Expression 2 {tmp_path / 'dist_dynet'}\n", result.stderr


def test_the_runner_says_what_it_takes(tmp_path):
    nothing = run_python("-m", "dist_dynet.compat")
    assert nothing.returncode == 2 and nothing.stderr.startswith(
        "usage: python -m dist_dynet.compat PROGRAM.py"
    )
    missing = run_python("-m", "dist_dynet.compat", str(tmp_path / "no.py"))
    assert (
        missing.returncode == 2
        and missing.stderr == f"dist_dynet.compat: there is no program {tmp_path / 'no.py'}.\n"
    )


# ---- settings --------------------------------------------------------------------------

SETTINGS = (
    "print(dy.ParameterCollection().add_parameters(1).as_array()[0].round(4),"
    " dy.ParameterCollection().get_weight_decay())\n"
)


def first_draw(seed):
    dy.reset_random_seed(seed)
    return str(dy.ParameterCollection().add_parameters(1).as_array()[0].round(4))


def test_settings_merge_and_later_ones_win(tmp_path):
    path = program(
        tmp_path,
        "import dynet_config\ndynet_config.set(random_seed=3, weight_decay=0.25)\nimport dynet as"
        f" dy\n{SETTINGS}",
    )
    assert run_program(path).stdout == f"{first_draw(3)} 0.25\n"
    assert run_program(path, DIST_DYNET_SEED="4").stdout == f"{first_draw(4)} 0.25\n"
    assert (
        run_program(path, "--dynet-seed", "5", DIST_DYNET_SEED="4").stdout
        == f"{first_draw(5)} 0.25\n"
    )
    assert (
        run_program(path, "--dynet_seed=5", "--dynet-weight-decay=0.5").stdout
        == f"{first_draw(5)} 0.5\n"
    )


def test_low_module_starts_at_init(tmp_path):
    text = (
        "import _dynet as dy\np ="
        " dy.DynetParams()\np.set_random_seed(7)\np.set_mem(512.5)\np.set_autobatch(None)\n"
        "p.set_gpu_mask([0, 1])\np.set_requested_gpus(1)\np.init()\n"
    )
    result = run_program(program(tmp_path, text + SETTINGS))
    assert result.stdout == f"{first_draw(7)} 0.0\n"
    assert result.stderr.count("there is only the CPU; it is used in place of the GPU") == 1
    assert (
        run_program(
            program(tmp_path, "import _dynet as dy\ndy.init()\n" + SETTINGS), "--dynet-seed", "8"
        ).stdout
        == f"{first_draw(8)} 0.0\n"
    )


def test_settings_that_are_in_force_are_not_set_again(tmp_path):
    """A second initialisation, which DyNet ignores, must not begin the draws anew."""
    text = (
        "import dynet as dy\na = dy.ParameterCollection().add_parameters(2).as_array()\nparams ="
        " dy.DynetParams()\nparams.from_args()\n"
    )
    text += (
        "params.init()\ndy.init()\nprint((dy.ParameterCollection().add_parameters(2).as_array() =="
        " a).all())\n"
    )
    assert run_program(program(tmp_path, text), "--dynet-seed", "2").stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (
            ["--dynet-foo", "3"],
            0,
            "dist_dynet: the option --dynet-foo is not known and has no effect.\n",
        ),
        (
            [
                "--dynet-mem",
                "1024,1,1,1",
                "--dynet-profiling",
                "1",
                "--dynet-devices=CPU",
                "--dynet-gpus",
                "0",
                "--dynet-memory=9",
            ],
            0,
            "",
        ),
        (["--dynet-seed", "x"], 1, "ValueError: --dynet-seed: takes an integer"),
        (["--dynet-mem"], 1, "ValueError: --dynet-mem: needs a value"),
        (["--dynet-gpu"], 1, "RuntimeError: --dynet-gpu: there is only the CPU"),
    ],
)
def test_options(tmp_path, arguments, status, said):
    path = program(tmp_path, "import sys, dynet, _dynet\n_dynet.init()\nprint(sys.argv[1:])\n")
    result = run_python("-m", "dist_dynet.compat", str(path), *arguments)
    assert result.returncode == status and said in result.stderr
    assert status or (result.stdout == f"{arguments}\n" and result.stderr == said)


def test_viz_draws(tmp_path):
    text = (
        "import sys, dynet as dy\nx ="
        " dy.tanh(dy.scalarInput(1))\nx.value()\ndy.print_graphviz()\nprint(sys.argv[1:])\n"
    )
    result = run_program(program(tmp_path, text), "--dynet-viz", "a")
    assert "digraph" in result.stdout + result.stderr and result.stdout.endswith("['a']\n")


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
    said = result.stderr.splitlines()
    assert len(said) == len(set(said)) and all(line.startswith("dist_dynet: ") for line in said)
    assert sum("edecay" in line for line in said) == 1


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


# ---- DyNet's order within this package -------------------------------------------------


def test_backward_after_an_update_uses_the_values_of_the_graph(installed):
    m = dy.ParameterCollection()
    W, V = m.add_parameters((1, 1), init=2.0), m.add_parameters((1, 1), init=3.0)
    trainer = dy.SimpleSGDTrainer(m, learning_rate=0.1)
    y = W * V
    assert y.value() == [[6.0]]
    y.backward()
    trainer.update()
    y.backward()
    assert (W.grad_as_array(), V.grad_as_array()) == (3.0, 2.0) and W.as_array() == pytest.approx(
        1.7
    )


def test_sequences_of_one_graph_share_their_start_and_their_masks(installed):
    lstm = dy.LSTMBuilder(1, 3, 20, dy.ParameterCollection())
    lstm.set_dropout(0.5)
    assert lstm.initial_state() is lstm.initial_state()
    first, second = (lstm.initial_state().add_input(dy.ones(3)).output().value() for _ in range(2))
    assert first == second
    dy.renew_cg()
    assert lstm.initial_state().add_input(dy.ones(3)).output().value() != first


@pytest.mark.parametrize(
    "draw",
    [
        lambda: dy.dropout(dy.ones(64), 0.5),
        lambda: dy.random_normal(8),
        lambda: dy.noise(dy.ones(8), 1.0),
    ],
)
def test_draws_do_not_depend_on_the_order_that_batching_chooses(installed, draw):
    """Two draws that do not need one another, in a graph that is batched: the same values whichever
    is asked for first, as the real one's."""
    seen = []
    for first in (0, 1):
        dy.reset_random_seed(3)
        dy.renew_cg(autobatching=True)
        a, b = draw(), draw()
        _ = (a, b)[first].value()
        seen.append((a.value(), b.value()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    # what the real DyNet draws after the masks, where one of the rates is positive and where none
    # is
    ("name", "dropped", "kept"),
    [
        ("SimpleRNNBuilder", 0.693138, 0.676255),
        ("VanillaLSTMBuilder", 0.572794, 0.707687),
        ("CompactVanillaLSTMBuilder", 0.572794, 0.707687),
        ("SparseLSTMBuilder", 0.572794, 0.707687),
    ],
)
def test_masks_are_drawn_where_one_of_the_rates_is_positive(installed, name, dropped, kept):
    for rates, wanted in (
        ((0, 0), kept),
        ((0.5, 0), dropped),
        ((0, 0.5), dropped),
        ((0.3, 0.4), dropped),
    ):
        dy.reset_random_seed(3)
        builder = getattr(dy, name)(1, 3, 4, dy.ParameterCollection())
        builder.set_dropouts(*rates)
        dy.renew_cg()
        state = builder.initial_state()
        builder.set_dropout_masks(1)
        state.add_input(dy.inputVector([1, 2, 3])).add_input(
            dy.inputVector([1, 0, 3])
        ).output().value()
        assert dy.random_uniform(1, 0, 1).value() == pytest.approx(wanted, abs=2e-6), rates


def test_reading_a_parameter_takes_as_many_draws_as_making_it(installed, tmp_path):
    m = dy.ParameterCollection()
    m.add_parameters((2, 3), name="W")
    m.add_lookup_parameters((4, 2), name="E")
    m.save(tmp_path / "m")
    for read, key, size in (m.load_param, "/W", 6), (m.load_lookup_param, "/E", 8):
        dy.reset_random_seed(5)
        drawn = m.add_parameters(size + 1, init="uniform").as_array()
        dy.reset_random_seed(5)
        read(tmp_path / "m", key)
        assert m.add_parameters(1, init="uniform").as_array()[0] == drawn[-1]


def test_refused_names_draw_nothing():
    m = dy.ParameterCollection()
    dy.reset_random_seed(5)
    for add in (m.add_parameters, m.add_lookup_parameters):
        with pytest.raises(RuntimeError, match="must not contain"):
            add((2, 2), name="a_b")
    first = m.add_parameters(4).as_array()
    dy.reset_random_seed(5)
    assert (m.add_parameters(4).as_array() == first).all()


def test_keyed_draws_come_back(installed):
    dy.init(rng="keyed")
    lstm = dy.LSTMBuilder(1, 3, 4, dy.ParameterCollection())
    assert lstm.initial_state() is not lstm.initial_state()
    with pytest.raises(ValueError, match=r"^set_rng: takes 'keyed' or 'dynet'; got 'x'"):
        dy.init(rng="x")
