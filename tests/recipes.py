"""The recipes of CONTRIBUTING.md, and a copy of the checkout in which they are followed.

All of them go into one copy, which is compiled once, with all warnings: it is the other build that
test_build.py looks at, too.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from processes import cached_compiler

ROOT = Path(__file__).resolve().parents[1]
BUILD = "python setup.py build_ext --inplace"
PLACE = re.compile(
    r"\d+\. +`([^`]+)`, (?:a new file|(before|after) the line that begins with `(.+?)`)[:;]"
)
WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wshadow",
    "-Wundef",
    "-Wvla",
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
        # little optimization, as most of the time is compiling, but enough for all warnings
        "DIST_DYNET_CFLAGS": " ".join(("-O1", *WARNINGS)),
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


class Copy(NamedTuple):
    """The checkout with all recipes, and what the compiler said of it."""

    root: Path
    said: str


def compiled_copy(root, files):
    """A copy of these files of the checkout with all recipes in it, compiled."""
    for name in files:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    for recipe in RECIPES.values():
        for step in recipe.steps:
            apply(root, step)
    done, said = run(root, BUILD)
    assert done, said[-6000:]
    return Copy(root, said)
