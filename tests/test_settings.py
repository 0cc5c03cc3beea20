"""Settings, DynetParams, the environment, devices, holders, parameter() and const_parameter().

How long: about five seconds.
"""

import inspect
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from processes import output_of, run_python

import dist_dynet as dy
from dist_dynet import _random, graph, settings
from dist_dynet._environment import SETTINGS
from dist_dynet._ffi import lib
from dist_dynet.params import decay, precision
from dist_dynet.params.precision import rounding

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _as_before(usual_threads):
    """Begins with the defaults, whatever the environment sets; a test that fails midway leaves
    nothing in force."""
    before = {
        "autobatch": graph._defaults.autobatch,
        "weight_decay": decay._defaults.weight_decay,
        "precision": precision._defaults.precision,
        "rng": "dynet" if _random.dynet_order() else "keyed",
    }
    dy.init(autobatch=0, weight_decay=0, precision="float32", rng="keyed", threads=1)
    yield
    dy.init(**before)


def first_draws():
    dy.renew_cg()
    return (
        dy.random_normal(3).value(),
        dy.ParameterCollection().add_parameters(3).as_array().tolist(),
    )


def batches():
    """Whether graphs of this thread batch: then nodes are computed in groups, which shows in the
    order of a function's runs."""
    dy.renew_cg()
    order = []
    f = dy.function(lambda x: (order.append("f"), x)[1], None, 1)
    g = dy.function(lambda x: (order.append("g"), x)[1], None, 1)
    x = dy.scalarInput(1)
    g(dy.tanh(dy.tanh(f(x)))).value()
    a, b = g(f(x)), f(x)
    dy.forward([a, b])
    return order[2:] == ["f", "f", "g"]


# ---- init ------------------------------------------------------------------------------


def test_init_without_arguments_changes_nothing():
    dy.reset_random_seed(3)
    expected = first_draws()
    dy.reset_random_seed(3)
    assert dy.init() is None
    dy.init(shared_parameters=True, mem="512", profiling=1)
    assert (
        first_draws() == expected
        and not graph._defaults.autobatch
        and decay._defaults.weight_decay == 0
    )


def test_seed():
    dy.reset_random_seed(3)
    expected = first_draws()
    dy.init(random_seed=3)
    assert first_draws() == expected
    dy.reset_random_seed(3)
    dy.init(random_seed=0)
    assert first_draws() == expected


def test_weight_decay_is_that_of_new_collections():
    before = dy.ParameterCollection()
    dy.init(weight_decay=0.25)
    m = dy.ParameterCollection()
    assert (
        before.get_weight_decay(),
        m.get_weight_decay(),
        m.add_subcollection().get_weight_decay(),
    ) == (0, 0.25, 0.25)
    assert before.add_subcollection().get_weight_decay() == 0
    w = m.add_parameters(2, init=8)
    dy.sum_elems(w * 0).backward()
    dy.SimpleSGDTrainer(m).update()
    assert w.as_array().tolist() == [6, 6]


def test_autobatch_is_that_of_renew_cg():
    assert not batches()
    dy.init(autobatch=2)
    assert batches()
    seen = []
    thread = threading.Thread(target=lambda: seen.append(batches()))
    thread.start()
    thread.join()
    assert seen == [True]
    dy.init(autobatch=0)
    assert not batches()


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (False, 0),
        (0, 0),
        ("0", 0),
        ("False", 0),
        (1, 1),
        ("1", 1),
        (2, 2),
        ("2", 2),
        (3, 3),
        (True, 3),
        ("true", 3),
        (np.int64(2), 2),
    ],
)
def test_autobatch_strategies(given, number):
    dy.init(autobatch=given)
    assert graph._defaults.autobatch == number
    if not isinstance(given, str):
        assert dy.renew_cg(autobatching=given) is dy.cg()


@pytest.mark.parametrize("given", [4, -1, 1.5, [1]])
def test_renew_cg_refuses_other_strategies(given):
    with pytest.raises(
        ValueError, match=r"^renew_cg: autobatching: takes 0 \(off\), 1 \(by depth\)"
    ):
        dy.renew_cg(autobatching=given)


def test_renew_cg_has_the_last_word(monkeypatch):
    asked = []
    monkeypatch.setattr(
        graph, "lib", SimpleNamespace(**{n: getattr(graph.lib, n) for n in dir(graph.lib)})
    )
    original = graph.lib.dn_graph_renew
    monkeypatch.setattr(
        graph.lib, "dn_graph_renew", lambda *args: (asked.append(bool(args[3])), original(*args))[1]
    )
    dy.init(autobatch=True)
    for given in (True, False, None):
        dy.renew_cg(immediate_compute=True, autobatching=given)
    dy.cg().renew()
    dy.init(autobatch=False)
    for given in (True, False, None):
        dy.renew_cg(immediate_compute=True, autobatching=given)
    assert asked == [True, False, True, True, True, False, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"random_seed": -1}, "^set_random_seed: takes an integer, 0 or more; got -1"),
        ({"random_seed": 1.5}, "^set_random_seed: takes an integer"),
        ({"random_seed": "x"}, "^set_random_seed: takes an integer"),
        ({"autobatch": 4}, r"^set_autobatch: takes 0 \(off\), .* True or False; got 4"),
        ({"autobatch": "yes"}, "^set_autobatch: takes 0"),
        ({"weight_decay": 1}, r"^set_weight_decay: takes a number in \[0, 1\); got 1"),
        ({"weight_decay": -0.1}, "^set_weight_decay: takes a number"),
        ({"weight_decay": float("nan")}, "^set_weight_decay: takes a number"),
        ({"weight_decay": 10**400}, "^set_weight_decay: takes a number"),
        ({"weight_decay": "x"}, "^set_weight_decay: takes a number"),
        ({"mem": "1,2"}, "^set_mem: takes one number of MB, or four; got '1,2'"),
        ({"mem": -1}, "^set_mem: takes numbers of MB, 0 or more; got -1"),
        ({"mem": "1,2,3,x"}, "^set_mem: takes numbers of MB"),
        ({"mem": float("inf")}, "^set_mem: takes numbers of MB"),
        ({"profiling": -1}, "^set_profiling: takes an integer"),
    ],
)
def test_bad_settings_change_nothing(given, message):
    dy.reset_random_seed(3)
    expected = first_draws()
    dy.reset_random_seed(3)
    with pytest.raises(ValueError, match=message):
        dy.init(**{"random_seed": 7, "autobatch": True, **given})
    assert first_draws() == expected and not graph._defaults.autobatch


def drawn_by_seven():
    now = first_draws()
    dy.reset_random_seed(7)
    return first_draws() == now


IN_FORCE = {
    "autobatch": (2, lambda: graph._defaults.autobatch == 2),
    "precision": ("bf16", lambda: rounding([None]) != ""),
    "random_seed": (7, drawn_by_seven),
    "rng": ("dynet", _random.dynet_order),
    "threads": (2, lambda: lib.dn_threads() == 2),
    "weight_decay": (0.25, lambda: decay._defaults.weight_decay == 0.25),
}
"""{argument of init(): (a value, whether that is in force)}."""
WITHOUT_EFFECT = {"mem", "profiling", "shared_parameters"}
"""Those that are accepted for DyNet's sake."""


@pytest.mark.float32
def test_every_argument_of_init_is_checked_put_in_force_and_documented():
    names = {*inspect.signature(dy.init).parameters}
    unlike = names ^ {*IN_FORCE, *WITHOUT_EFFECT}
    assert not unlike, f"tests/test_settings.py: IN_FORCE lacks, or has too much: {unlike}"
    documented = (ROOT / "docs" / "settings.md").read_text()
    for name in sorted(names - {"shared_parameters"}):
        with pytest.raises(ValueError, match=rf"^set_{name}: takes "):
            dy.init(**{name: "nonsense"})
    for name, (value, is_in_force) in IN_FORCE.items():
        assert f"dy.init({name}=" in documented, f"docs/settings.md: does not have dy.init({name}="
        was = is_in_force()
        dy.init(**{name: value})
        assert (was, is_in_force()) == (False, True), (
            f"dist_dynet/settings.py: init({name}={value!r}) is not put in force"
        )


# ---- DynetParams -----------------------------------------------------------------------


def test_params_take_effect_at_init():
    params = dy.DynetParams()
    params.set_random_seed(3)
    params.set_autobatch(1)
    params.set_weight_decay(0.5)
    params.set_mem(1024)
    params.set_mem("1,2,3,4.5")
    params.set_mem(0.9 * 1024)
    params.set_profiling(2)
    params.set_shared_parameters(True)
    params.set_requested_gpus(0)
    params.set_gpu_mask([0, 0])
    params.set_cpu_mode()
    assert decay._defaults.weight_decay == 0
    for put in (params.init, lambda: dy.init_from_params(params)):
        dy.init(autobatch=False, weight_decay=0)
        put()
        assert decay._defaults.weight_decay == 0.5 and graph._defaults.autobatch
        dy.init(autobatch=False)
        draws = first_draws()
        dy.reset_random_seed(3)
        assert draws == first_draws()


def test_gpus_are_refused():
    params = dy.DynetParams()
    with pytest.raises(RuntimeError, match="there is only the CPU"):
        params.set_requested_gpus(1)
    with pytest.raises(RuntimeError, match="there is only the CPU"):
        params.set_gpu_mask([0, 1])
    with pytest.raises(ValueError, match=r"^set_gpu_mask: takes 0 or 1; got 2"):
        params.set_gpu_mask([2])
    with pytest.raises(TypeError, match=r"^init_from_params: takes DynetParams; got int"):
        dy.init_from_params(3)


@pytest.mark.parametrize(
    "arguments",
    [
        "--dynet-seed 7 --dynet-weight-decay=0.5 --dynet-autobatch 1",
        (
            "x --dynet_seed=7 --dynet-mem 512 --dynet_weight_decay 0.5 --dynet-memory=1,2,3,4"
            " --dynet-autobatch=1 --other 3"
        ),
        (
            "--dynet-profiling 1 --dynet-seed=7 --dynet-devices CPU --dynet-gpus=0"
            " --dynet-autobatch=1 --dynet-weight_decay=.5 --dynet-viz"
        ),
    ],
)
def test_options_are_taken_when_asked_for(monkeypatch, arguments):
    arguments = arguments.split()
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    params = dy.DynetParams()
    params.from_args()
    assert params.given() == {"seed": 7, "weight_decay": 0.5, "autobatch": 1}
    assert settings.sys.argv == ["program", *arguments]


@pytest.mark.parametrize(
    ("arguments", "exception", "message"),
    [
        (["--dynet-seed"], ValueError, "^--dynet-seed: needs a value"),
        (["--dynet-seed", "a"], ValueError, "^--dynet-seed: takes an integer, 0 or more; got 'a'"),
        (["--dynet-mem=a"], ValueError, "^--dynet-mem: takes numbers of MB"),
        (["--dynet_weight_decay=1"], ValueError, "^--dynet_weight_decay: takes a number"),
        (["--dynet-gpu"], RuntimeError, "^--dynet-gpu: there is only the CPU"),
        (["--dynet-gpus", "1"], RuntimeError, "^--dynet-gpus: there is only the CPU; got '1'"),
        (["--dynet-devices=CPU,GPU:0"], RuntimeError, "^--dynet-devices: there is only the CPU"),
    ],
)
def test_bad_options(monkeypatch, arguments, exception, message):
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    with pytest.raises(exception, match=message):
        dy.DynetParams().from_args()


def test_unknown_options_are_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["program", "--dynet-sed", "3"])
    dy.DynetParams().from_args()
    assert (
        capsys.readouterr().err
        == "dist_dynet: the option --dynet-sed is not known and has no effect.\n"
    )
    monkeypatch.setattr("sys.argv", ["program", "--dynet_l2=1e-6"])
    dy.DynetParams().from_args()
    assert (
        "--dynet_l2 is not known and has no effect. Its name today is --dynet-weight-decay."
        in capsys.readouterr().err
    )


def test_config():
    params = dy.DynetParams()
    conf = SimpleNamespace(
        mem="512",
        seed=7,
        autobatch=0,
        profiling=0,
        weight_decay=0.5,
        shared_params=0,
        requested_gpus=0,
        gpu_mask=None,
    )
    params.from_config(conf)
    assert params.given() == {"seed": 7, "weight_decay": 0.5, "autobatch": 0}
    dy.DynetParams().from_config(SimpleNamespace())
    as_dict = dy.DynetParams()
    as_dict.from_config(vars(conf))
    assert as_dict.given() == params.given()


# ---- the environment -------------------------------------------------------------------

SHOW = """
import dist_dynet as dy
from dist_dynet import graph
print(dy.ParameterCollection().add_parameters(2).as_array().tolist(), dy.ParameterCollection().get_weight_decay(), graph._defaults.autobatch)
"""  # noqa: E501


def test_environment_is_read_at_import():
    dy.reset_random_seed(5)
    drawn = dy.ParameterCollection().add_parameters(2).as_array().tolist()
    shown = output_of(
        SHOW, DIST_DYNET_SEED="5", DIST_DYNET_WEIGHT_DECAY="0.5", DIST_DYNET_AUTOBATCH="1"
    ).strip()
    assert shown == f"{drawn} 0.5 1"
    assert output_of(
        SHOW, DIST_DYNET_SEED="", DIST_DYNET_WEIGHT_DECAY="", DIST_DYNET_AUTOBATCH=""
    ).endswith("] 0.0 0\n")


def test_empty_environment_says_nothing():
    names = ("DTYPE", "BLAS", "THREADS", "TIMEOUT", "SILENCE", "SHARED_LIMIT", "EXCHANGE")
    code = (
        "import dist_dynet as dy; w = dy.ParameterCollection();"
        " dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(w)); print('ok')"
    )
    assert output_of(code, **{f"DIST_DYNET_{name}": "" for name in names}) == "ok\n"


BAD = {
    "AUTOBATCH": ["maybe"],
    "BLAS": ["/no/library.so"],
    "DTYPE": ["float16"],
    "EXCHANGE": ["gloo"],
    "FAST_PATHS": ["yes"],
    "METRICS_EVERY": ["0", "x"],
    "PRECISION": ["float16"],
    "RNG": ["numpy"],
    "SEED": ["x", "-1"],
    "SHARED_LIMIT": ["1GB"],
    "SILENCE": ["-1"],
    "THREADS": ["two", "0"],
    "TIMEOUT": ["10 s", "nan"],
    "TRACEBACKS": ["long"],
    "WEIGHT_DECAY": ["2"],
}
"""{name: values that make no sense}."""
TAKES_ALL = {
    **dict.fromkeys(("METRICS", "PROFILE", "PROGRESS", "TIMELINE"), "a file, made later"),
    **dict.fromkeys(("ATTEMPT", "CHECK", "END", "RANK", "STDIN"), "set by the package itself"),
    **dict.fromkeys(("CFLAGS", "CLONES"), "read when the package is built"),
    **dict.fromkeys(("INTERFACE", "LAUNCH_AGENT"), "read by dist-dynet run; of the system"),
    "BARS": "all but 0 stands for yes",
}
IMPORTED = """
import json, os, sys
import numpy
for name, value in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if not os.fork():
        os.environ[f"DIST_DYNET_{name}"] = value
        try:
            import dist_dynet.parallel
            print(name, value, "is taken", sep=": ")
        except ImportError as error:
            print(name, value, error, sep=": ")
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def test_bad_environment_is_an_import_error():
    unlike = {*SETTINGS} ^ {*BAD, *TAKES_ALL}
    assert not unlike, f"tests/test_settings.py: BAD, or TAKES_ALL with the reason, lacks {unlike}"
    rows = [(name, value) for name, values in BAD.items() for value in values]
    names = [f"DIST_DYNET_{name}" for name in SETTINGS]
    said = run_python("-c", IMPORTED, json.dumps(rows), **dict.fromkeys(names, "")).stdout
    wanted = [rf"{name}: {re.escape(value)}: DIST_DYNET_{name}[:=]" for name, value in rows]
    wrong = [
        line
        for line, start in zip(said.splitlines(), wanted, strict=True)
        if not re.match(start, line)
    ]
    assert not wrong, f"must be an ImportError that names the variable: {wrong}"


def test_command_line_is_not_read_at_import():
    code = (
        "import sys; sys.argv = ['p', '--dynet-seed', '5', '--dynet-gpu', '--dynet-weight-decay',"
        " '0.5']\nimport dist_dynet as dy\n"
    )
    code += "print(dy.ParameterCollection().get_weight_decay())"
    assert output_of(code) == "0.0\n"


def test_all_variables_are_documented():
    text = (ROOT / "docs" / "settings.md").read_text()
    sources = [
        *(ROOT / "dist_dynet").rglob("*.py"),
        ROOT / "build_ffi.py",
        *(ROOT / "csrc").rglob("*.[ch]"),
    ]
    names = {name for p in sources for name in re.findall(r"DIST_DYNET_[A-Z_]+", p.read_text())}
    assert not {n for n in names if f"`{n}=" not in text}
    assert {f"DIST_DYNET_{name}" for name in SETTINGS} == names


def test_variable_that_is_misspelt_is_warned_of():
    result = run_python("-c", "import dist_dynet", DIST_DYNET_THREDS="2", DIST_DYNET_MINE="1")
    assert result.returncode == 0 and re.findall("RuntimeWarning: (.*)", result.stderr) == [
        "DIST_DYNET_THREDS: there is no such setting. Did you mean DIST_DYNET_THREADS?"
    ]


# ---- what DyNet has beside -------------------------------------------------------------


def test_devices():
    assert (
        dy.available_devices() == [b"CPU"] and dy.HAVE_CUDA is False and isinstance(dy.ERRMSG, str)
    )
    for name in ("CPU", b"CPU", *dy.available_devices()):
        info = dy.get_device_info(name)
        assert isinstance(info, dy.DeviceInfo) and (info.name, info.id, info.type) == (
            b"CPU",
            0,
            -1,
        )
    with pytest.raises(
        RuntimeError, match=r"^get_device_info: there is no device 'GPU:0', only CPU"
    ):
        dy.get_device_info("GPU:0")
    x = dy.inputVector([1, 5, 3])
    for device in ("", "CPU"):
        assert dy.to_device(x, device).value() == [1, 5, 3]
    with pytest.raises(
        ValueError,
        match=r"^to_device: everything is computed on the CPU; got device = 'GPU:0'. Leave it out.",
    ):
        dy.to_device(x, "GPU:0")
    with pytest.raises(TypeError, match=r"^to_device: takes an expression; got int"):
        dy.to_device(3, "CPU")


def test_parameter_returns_its_arguments_and_says_so_once():
    code = """
import dist_dynet as dy
m = dy.ParameterCollection()
W, E = m.add_parameters(2), m.add_lookup_parameters((2, 2))
assert dy.parameter(W) is W and dy.parameter(W, E) == (W, E) and dy.parameter() == ()
"""
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    assert (
        result.stderr
        == "dist_dynet: parameter(...) is deprecated: parameters are expressions by themselves."
        " Leave it out.\n"
    )


def test_const_parameter_stops_gradients():
    m = dy.ParameterCollection()
    w, v = m.add_parameters(2, init=1), m.add_parameters(2, init=2)
    a, (b, c) = dy.const_parameter(w), dy.const_parameter(w, v)
    assert (a.value(), b.value(), c.value()) == ([1, 1], [1, 1], [2, 2])
    dy.sum_elems(a + b + c + v).backward()
    assert not w.has_gradient() or not w.grad_as_array().any()
    assert v.grad_as_array().tolist() == [1, 1]
    with pytest.raises(TypeError, match=r"^nobackprop: takes expressions; got int"):
        dy.const_parameter(3)


@pytest.mark.parametrize(("cls", "number"), [(dy.UnsignedValue, int), (dy.FloatValue, float)])
def test_holders_of_one(cls, number):
    assert cls().get() == 0 and isinstance(cls().get(), number)
    holder = cls(3)
    assert (
        holder.get() == 3
        and holder.set(np.int64(5)) is None
        and holder.get() == 5
        and isinstance(holder.get(), number)
    )


@pytest.mark.parametrize(
    ("cls", "number"), [(dy.UnsignedVectorValue, int), (dy.FloatVectorValue, float)]
)
def test_holders_of_many(cls, number):
    holder = cls([3, 4])
    assert (holder.get(), holder.size()) == ([3, 4], 2)
    assert holder.set((np.int64(5), 6, 7)) is None and (holder.get(), holder.size()) == (
        [5, 6, 7],
        3,
    )
    assert all(isinstance(v, number) for v in holder.get())
    holder.get().append(1)
    assert holder.size() == 3


def test_unsigned_holders_refuse_negative_numbers():
    for make in (lambda: dy.UnsignedValue(-1), lambda: dy.UnsignedVectorValue([1, -1])):
        with pytest.raises(OverflowError, match="0 or more; got -1"):
            make()
