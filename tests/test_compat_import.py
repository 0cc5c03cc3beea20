"""Where `import dynet` leads, and what settings of DyNet a program starts with.

How long: about ten seconds.
"""

import importlib
import os
import re
import subprocess
import sys

import pytest
from compat_programs import program, run_program
from processes import PACKAGE, output_of, python_in_a_checkout, run_python

import dist_dynet as dy
from dist_dynet import compat
from dist_dynet.cli import options

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
    paths = os.pathsep.join([str(mine), str(PACKAGE)])
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


def test_what_only_programs_for_dist_dynet_know_is_imported_when_it_is_asked_for(tmp_path):
    code = """
import sys
import dynet as dy, _dynet
print([name for name in ("parallel", "training") if "dist_dynet." + name in sys.modules])
print(hasattr(dy, "parallel"), dy.parallel.shard.__name__, hasattr(_dynet, "shard"))
from _dynet import training
import dist_dynet
print(training is dist_dynet.training is dy.training, dy.parallel is dist_dynet.parallel)
dy.dropuot
"""
    job = run_python("-m", "dist_dynet.compat", str(program(tmp_path, code)))
    last = job.stderr.splitlines()[-1]
    assert (job.returncode, job.stdout) == (1, "[]\nTrue shard False\nTrue True\n"), job.stderr
    assert last.startswith("AttributeError: module 'dynet' has no attribute 'dropuot'."), last


@pytest.mark.fast_paths  # else expressions are not counted
@pytest.mark.parametrize("before, after", [(0, 1001), (1001, 0)])
def test_after_many_expressions_names_of_dynet_are_found_without_a_search(before, after):
    code = f"""
import dist_dynet, dist_dynet.compat
dist_dynet.compat.install()
dist_dynet._ffi.calls.set_many(1000, dist_dynet._without_search)
def make(n):
    dist_dynet.renew_cg()
    for _ in range(n):
        dist_dynet.scalarInput(1)
make({before})
import dynet
make({after})
print("__getattr__" in vars(dynet), dynet.training is dist_dynet.training)
"""
    assert output_of(code) == "False True\n"


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
    both = os.pathsep.join([str(tmp_path), str(PACKAGE)])
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
