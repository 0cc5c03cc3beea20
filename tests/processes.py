"""Starts Python in a process of its own: for what may end a process, or needs another build, limit
or environment."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import dist_dynet

HERE = Path(__file__).parent
PACKAGE = Path(dist_dynet.__file__).parent.parent


def run_python(*arguments, timeout=300, **environment):
    """`python ARGUMENTS` with the package under test and this folder on its path."""
    path = os.pathsep.join(
        p for p in (str(PACKAGE), str(HERE), os.environ.get("PYTHONPATH", "")) if p
    )
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        # not the root: Python would take the package there first
        timeout=timeout,
        check=False,
        cwd=HERE,
    )


def output_of(code, **options):
    """What a program prints; AssertionError with all it said when it fails."""
    result = run_python("-c", code, **options)
    assert result.returncode == 0, (
        f"exit status {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    )
    return result.stdout


def cached_compiler(root):
    """The environment in which a build of the sources in this folder takes from ccache what it has
    compiled before; none without ccache, or where CC says what is to compile."""
    if "CC" in os.environ or not shutil.which("ccache"):
        return {}
    return {
        "CC": f"ccache {sysconfig.get_config_var('CC')}",
        "CCACHE_BASEDIR": str(root),
        "CCACHE_NOHASHDIR": "1",
    }


def python_in_a_checkout(folder):
    """Puts the package's sources alone into the folder; what runs Python there, as one does after
    `git clone`, with the package under test installed."""
    shutil.copytree(
        PACKAGE / "dist_dynet",
        folder / "dist_dynet",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"
    } | {"PYTHONPATH": str(PACKAGE)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def passing_tests(*arguments, timeout=900, **environment):
    """How many tests pass when pytest runs with these arguments, in another build or environment;
    AssertionError if one fails."""
    result = run_python(
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *arguments,
        timeout=timeout,
        **{"PYTEST_ADDOPTS": "", **environment},  # a further -q leaves out how many
    )
    assert result.returncode == 0, (
        f"{environment}: {arguments}\n{result.stdout[-6000:]}\n{result.stderr[-2000:]}"
    )
    return int(re.search(r"(\d+) passed", result.stdout)[1])


def resident_megabytes():
    """The memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_example(script, *arguments):
    """An example, which imports what lies beside it."""
    return run_python(str(script), *arguments, timeout=300)


def predicted(script, folder, text):
    """What an example prints for this text, with the model that it has saved in the folder."""
    file = folder / "text"
    file.write_text(text)
    result = run_example(script, "--save", str(folder / "model"), "--predict", str(file))
    assert result.returncode == 0, result.stderr
    return result.stdout
