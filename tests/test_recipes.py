"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the checkout.

What they say compiles and passes the tests that they name; where a step is left out, the build or a
test fails and names the file to edit. All recipes go into one copy, which is compiled once.

How long: two to three minutes, one of them for compiling if ccache has nothing.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest
from jobs import needs_mpi
from processes import cached_compiler

ROOT = Path(__file__).resolve().parents[1]
BUILD = "python setup.py build_ext --inplace"
PLACE = re.compile(
    r"\d+\. +`([^`]+)`, (?:a new file|(before|after) the line that begins with `(.+?)`)[:;]"
)


class Step(NamedTuple):
    """A block of code, and where it goes: before or after the line that begins with the anchor.

    Without `where` it is a new file.
    """

    file: str
    where: str
    anchor: str
    block: str


class Recipe(NamedTuple):
    steps: list[Step]
    commands: list[str]


def fenced(lines, indent):
    """The lines of the fenced block that comes next, without their indentation."""
    fences = [i for i, line in enumerate(lines) if line.strip().startswith("```")]
    return "".join(f"{line[indent:]}\n" for line in lines[fences[0] + 1 : fences[1]])


def parsed(text):
    """The recipes of a document, by heading."""
    recipes = {}
    chapter = re.search(r"^## Five recipes\n(.*?)^## ", text, re.M | re.S)[1]
    for section in re.split(r"^### ", chapter, flags=re.M)[1:]:
        heading, *lines = section.splitlines()
        steps = []
        for i, line in enumerate(lines):
            if number := re.match(r"(\d+\. +)`", line):
                said = " ".join(line.strip() for line in lines[i : lines.index("", i)])
                place = PLACE.match(said)
                assert place, f"CONTRIBUTING.md: cannot tell where this goes: {said}"
                assert said.startswith(f"{len(steps) + 1}."), f"CONTRIBUTING.md: number of: {said}"
                file, where, anchor = place.groups(default="")
                steps.append(Step(file, where, anchor, fenced(lines[i:], len(number[1]))))
        shell = lines.index("```sh")
        recipes[heading] = Recipe(steps, fenced(lines[shell:], 0).splitlines())
    return recipes


RECIPES = parsed((ROOT / "CONTRIBUTING.md").read_text())


def param(name, *more, number=""):
    """A parameter of a test; that an exchange is right is seen with several ranks only."""
    # not `mpi`: it belongs to the copy of the others
    marks = [needs_mpi] if name == "An exchange" else []
    return pytest.param(name, *more, id=f"{name}{number}", marks=marks)


STEPS = [
    param(name, k, number=f"-{k + 1}")
    for name, recipe in RECIPES.items()
    for k in range(len(recipe.steps))
]


def apply(root, step):
    path = root / step.file
    if not step.where:
        assert not path.exists(), f"{step.file} exists already"
        path.write_text(step.block)
        return
    lines = path.read_text().splitlines(keepends=True)
    at = [i for i, line in enumerate(lines) if line.strip().startswith(step.anchor)]
    assert len(at) == 1, f"{step.file}: {len(at)} lines begin with {step.anchor!r}, not one"
    i = at[0] + (step.where == "after")
    path.write_text("".join([*lines[:i], step.block, *lines[i:]]))


def leave_out(root, step):
    path = root / step.file
    if not step.where:
        path.unlink()
        return
    text = path.read_text()
    assert text.count(step.block) == 1
    path.write_text(text.replace(step.block, ""))


def run(root, command):
    """(whether it succeeds, all it says)."""
    ours = ("DIST_DYNET_", "PYTEST_", "PYTHONSAFEPATH")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": str(root),
        "PYTEST_ADDOPTS": "-q -p no:cacheprovider",
        "OMP_NUM_THREADS": "1",
        **cached_compiler(root),
        "DIST_DYNET_CFLAGS": "-O0 -g0",  # most of the time is compiling
        "DIST_DYNET_CLONES": "0",
    }
    result = subprocess.run(
        command,
        shell=True,
        cwd=root,
        env=environment,
        timeout=600,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the checkout with all recipes in it, compiled."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if not shutil.which(compiler.split()[0]):
        pytest.skip("needs a C compiler")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs git and a checkout")
    root = tmp_path_factory.mktemp("recipes")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    for recipe in RECIPES.values():
        for step in recipe.steps:
            apply(root, step)
    done, said = run(root, BUILD)
    assert done, said[-6000:]
    return root


def names(said, file):
    """Whether messages name a file, by its path or as a module.

    The line where pytest saw an error counts, those of its callers do not.
    """
    lines = said.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("E  ")), len(lines))
    where = [line for line in lines[:first] if re.match(r"\S+\.py:\d+: in ", line)][-1:]
    errors = [line for line in lines if line.startswith("E  ")]
    messages = where + errors if errors else lines[-10:]
    module = re.escape(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    either = re.compile(rf"{re.escape(file)}|(?<![\w.]){module}(?![\w.]*\w)")
    return any(either.search(line) for line in messages)


def test_there_are_five_recipes():
    assert [*RECIPES] == [
        "An operation",
        "A trainer's rule",
        "A follower",
        "A builder",
        "An exchange",
    ]
    for name, recipe in RECIPES.items():
        compiles = any(step.file.startswith("csrc/") for step in recipe.steps)
        assert len(recipe.steps) > 3 and (recipe.commands[0] == BUILD) == compiles, name


@pytest.mark.slow
@pytest.mark.parametrize("name", [*map(param, RECIPES)])
def test_recipe_works(copy, name):
    for command in RECIPES[name].commands:
        if command == BUILD:
            continue  # the fixture has done it
        done, said = run(copy, command)
        assert done, f"{command}\n{said[-6000:]}"
        ran = "pytest" not in command or re.search(r"\d+ passed", said)
        assert ran, f"{command}: no test has run"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ruff check .", "mypy"])
def test_linters_accept_what_recipes_add(copy, command):
    if not (Path(sys.executable).parent / command.split()[0]).exists():
        pytest.skip(f"needs {command.split()[0]} beside Python: pip install -e '.[dev]'")
    done, said = run(copy, command)
    assert done, said[-6000:]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "k"), STEPS)
def test_a_step_that_is_left_out_is_named(copy, name, k):
    recipe = RECIPES[name]
    step = recipe.steps[k]
    compiled = step.file.startswith("csrc/")
    kept = {path: path.read_text() for path in (copy / step.file, copy / "docs" / "ops.md")}
    try:
        leave_out(copy, step)
        for command in [BUILD] if compiled else [c for c in recipe.commands if c != BUILD]:
            done, said = run(copy, command)
            if not done:
                break
        assert not done, f"without step {k + 1} everything passes"
        assert names(said, step.file), f"{command}: does not name {step.file}\n{said[-6000:]}"
    finally:
        for path, text in kept.items():
            path.write_text(text)


@pytest.mark.slow
def test_a_document_that_is_not_written_anew_is_named(copy):
    path, script = copy / "docs" / "ops.md", "python scripts/make_ops_md.py"
    assert run(copy, script)[0]
    kept = path.read_text()
    shutil.copy(ROOT / "docs" / "ops.md", path)
    done, said = run(copy, "pytest tests/test_ops_md.py")
    path.write_text(kept)
    assert not done and names(said, "docs/ops.md") and script in said
