"""The scripts answer to --help, which does nothing else.

How long: four seconds.
"""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from processes import HERE, PACKAGE

SCRIPTS = HERE.parent / "scripts"
FILES = [path for path in SCRIPTS.iterdir() if path.is_file()]
PROGRAMS = sorted(path for path in FILES if path.read_text().startswith("#!"))


def test_every_script_that_is_a_program_says_so():
    runnable = {p.name for p in FILES if os.access(p, os.X_OK)}
    mains = {p.name for p in SCRIPTS.glob("*.py") if "__main__" in p.read_text()}
    assert {p.name for p in PROGRAMS} == (runnable | mains) - {"common.sh"}  # which is sourced


@pytest.mark.parametrize("script", PROGRAMS, ids=lambda path: path.name)
def test_help_of_a_script_ends_well_and_changes_nothing(tmp_path, script):
    if script.name == "make_charts.py":
        pytest.importorskip("matplotlib", reason="the extra examples brings it")
    shutil.copytree(SCRIPTS, tmp_path / "clone" / "scripts")
    (tmp_path / "elsewhere").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    interpreter = [sys.executable] if script.suffix == ".py" else ["bash"]
    ran = subprocess.run(
        [*interpreter, tmp_path / "clone" / "scripts" / script.name, "--help"],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert script.name in ran.stdout and "How long" in ran.stdout
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("pip", "status"), [("kill -TERM $PPID", -15), ("kill -INT $PPID $$", -2), ("exit 1", 1)]
)
def test_installation_that_is_ended_leaves_the_compiled_libraries(tmp_path, pip, status):
    clone = tmp_path / "clone"
    shutil.copytree(SCRIPTS, clone / "scripts")
    (library := clone / "dist_dynet" / "_core_float32.abi3.so").parent.mkdir()
    library.write_text("compiled")
    (python := clone / ".venv" / "bin" / "python").parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n[ ! -e '{library}' ] && {pip}\nsleep 1\n")
    python.chmod(0o755)
    program = """source scripts/common.sh; new_venv() { :; }; is_complete() { false; }
        make_venv mpi"""
    (tmp_path / "tmp").mkdir()
    ran = subprocess.run(
        ["bash", "-c", program],
        cwd=clone,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=False,
        # a shell does not trap what is ignored where it starts, as in a job in the background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert ran.returncode == status and library.read_text() == "compiled", ran
    assert not list((tmp_path / "tmp").iterdir())


def test_lint_installs_tools_and_leaves_the_project_as_it_is(tmp_path):
    clone, bin_ = tmp_path / "clone", tmp_path / "clone" / ".venv" / "bin"
    shutil.copytree(SCRIPTS, clone / "scripts")
    shutil.copy(SCRIPTS.parent / "pyproject.toml", clone)
    (library := clone / "dist_dynet" / "_core_float32.abi3.so").parent.mkdir()
    library.write_text("compiled, and older than the sources")
    (source := clone / "csrc" / "ops" / "x.c").parent.mkdir(parents=True)
    source.write_text("int x;")
    bin_.mkdir(parents=True)
    python = f"""case "$*" in
        build_ffi.py) ;;
        "-m pip install"*) cat "${{@: -1}}" >'{tmp_path}/installed'; echo "$@" >&2 ;;
        *) exec '{sys.executable}' "$@" ;;
    esac"""
    for tool in ("python", "ruff", "mypy", "clang-format", "shellcheck"):
        (bin_ / tool).write_text(f"#!/bin/bash\n{python if tool == 'python' else ''}\n")
        (bin_ / tool).chmod(0o755)
    ran = subprocess.run(
        [clone / "scripts" / "lint.sh"],
        env={**os.environ, "CC": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0 and ran.stdout == "nothing to mend\n", ran
    assert library.read_text().startswith("compiled") and ran.stderr.count("pip install") == 1
    installed = (tmp_path / "installed").read_text().split()
    assert any(each.startswith("ruff>=") for each in installed), installed
    assert not any(each.startswith("dist-dynet") for each in installed), installed
