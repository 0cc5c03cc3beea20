"""The build: one header for C and cffi, names, warnings, and builds by clang and without function
multiversioning, which compute the same.

How long: three seconds; the tests marked slow compile all sources, or look at what is compiled for
test_recipes.py, a minute or two if ccache has nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PACKAGE, run_python

from dist_dynet import _ffi

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
GENERATED = ROOT / "build" / "generated"
COMPILER = (os.environ.get("CC") or "cc").split()

pytestmark = pytest.mark.skipif(
    not shutil.which(COMPILER[0]) or not GENERATED.exists(),
    reason="needs a C compiler and built sources",
)


def preprocessed(*defines):
    command = [
        *COMPILER,
        "-E",
        "-P",
        "-DDN_CDEF",
        *defines,
        f"-I{GENERATED}",
        str(CSRC / "dn_api.h"),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("defines", [[], ["-DDN_DOUBLE"]])
def test_header_has_nothing_left_for_cffi_to_stumble_over(defines):
    text = preprocessed(*defines)
    assert "#" not in text
    names = re.findall(r"\b(\w+)\s*\([^()]*(?:\([^()]*\)[^()]*)*\)\s*;", text)
    assert len(names) > 20
    assert [n for n in names if not n.startswith("dn_") or n.startswith("dn__")] == []
    constants = re.findall(r"\b([A-Z][A-Z0-9_]+)\b(?=\s*(?:=|,|\}))", text)
    assert len(constants) > 10 and [c for c in constants if not c.startswith("DN_")] == []


EXTENSIONS = ["_expression", "_core_float32", "_core_float64"]


@pytest.mark.parametrize("module", EXTENSIONS)
def test_extensions_export_python_and_dn_names_only(module):
    library = next((PACKAGE / "dist_dynet").glob(f"{module}*.so"))
    if not shutil.which("nm"):
        pytest.skip("needs nm")
    lines = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = {line.split()[-1].split("@")[0] for line in lines}
    assert {n for n in names if not n.startswith(("dn_", "PyInit_", "_cffi_pypyinit_"))} <= {
        "_init",
        "_fini",
        "_edata",
        "_end",
        "__bss_start",
    }
    # GCC makes the names of functions with target_clones public, whatever -fvisibility says; all
    # others are hidden
    plain = {n.removesuffix(".resolver") for n in names if n.endswith(".resolver")}
    assert {n for n in names if n.startswith("dn__")} <= plain | {f"{n}.resolver" for n in plain}


def test_every_declared_function_is_there():
    for name in re.findall(r"\b(dn_\w+)\s*\(", preprocessed()):
        assert callable(getattr(_ffi.lib, name)), name


@pytest.mark.slow
def test_sources_compile_without_warnings(recipes):
    lines = recipes.said.splitlines()
    assert any("csrc/kernels/" in line for line in lines)
    assert [line for line in lines if line.startswith("csrc/") and "warning:" in line] == []


@pytest.mark.slow
def test_functions_shared_between_files_are_dn__and_others_are_static(recipes):
    if not shutil.which("nm"):
        pytest.skip("needs nm")
    declared = set(re.findall(r"\b(dn_\w+)\s*\(", preprocessed()))
    objects = [o for o in (recipes.root / "build").rglob("*.o") if "csrc" in o.parts]
    lines = subprocess.run(
        ["nm", "--defined-only", "-g", *map(str, objects)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = {line.split()[-1] for line in lines if line and not line.endswith(":")}
    assert len(objects) > 200 and len(names) > 500
    wrong = {
        name
        for name in names - declared
        if not name.startswith(("dn__", "dn_op_", "PyInit_")) and name != "dn_ops"
    }
    assert not wrong


def by_clang(folder):
    """The extensions, compiled by clang, beside copies of the Python files."""
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp")]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "CC": "clang"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    shutil.copytree(
        ROOT / "dist_dynet",
        folder / "lib" / "dist_dynet",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"),
    )
    return folder / "lib"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["without clones", "clang"])
def test_another_build_computes_the_same(how, tmp_path, request):
    sources = ROOT
    if how == "without clones":  # and with recipes, whose tests go with it
        library = sources = request.getfixturevalue("recipes").root
    elif not (ROOT / "setup.py").exists():
        pytest.skip("needs the source tree")
    elif not shutil.which("clang"):
        pytest.skip("there is no clang")
    else:
        library = by_clang(tmp_path)
    code = "import dist_dynet as dy, dist_dynet._ffi as f; print(dy.__file__, f.SIMD)"
    path = {"PYTHONPATH": os.pathsep.join([str(library), str(sources / "tests")])}
    command, environment = [sys.executable, "-c", code], {**os.environ, **path}
    out = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    file, loops = out.split()
    assert file == f"{library / 'dist_dynet' / '__init__.py'}" and loops == (
        "default" if how == "without clones" else loops
    )
    tests = [
        str(sources / "tests" / f"test_{name}.py")
        for name in ("kernels", "graph_backward", "trainers", "blocks_layers")
    ]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow and not mpi",
            "-c",
            str(sources / "pyproject.toml"),
            *tests,
        ],
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert f"vector loops {loops}" in result.stdout
    assert result.returncode == 0, result.stdout[-3000:]
    # the same numbers, to rounding, in both builds
    program = (
        "import dist_dynet as dy; dy.reset_random_seed(5); m = dy.ParameterCollection()\nl ="
        " dy.VanillaLSTMBuilder(2, 8, 33, m); t = dy.AdamTrainer(m)\nfor i in range(9):\n"
        " dy.renew_cg(); h = l.initial_state().transduce([dy.dropout(dy.ones(8), 0.5)] * 4)[-1]\n"
        " loss = dy.squared_distance(h, dy.ones(33)); print(f'{loss.value():.4f}');"
        " loss.backward(); t.update()"
    )
    here = run_python("-c", program).stdout
    environment = {**os.environ, **path}
    there = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert here == there.stdout and len(here.splitlines()) == 9
