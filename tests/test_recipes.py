"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the checkout.

What they say compiles and passes the tests that they name; where a step is left out, the build or a
test fails and names the file to edit.

How long: two to three minutes, one of them for compiling if ccache has nothing.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest
from jobs import needs_mpi
from recipes import BUILD, RECIPES, ROOT, leave_out, run


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


@pytest.fixture
def copy(recipes):
    return recipes.root


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
