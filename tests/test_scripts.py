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
