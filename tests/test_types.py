"""Types as users' checkers see them: mypy --strict and pyright, on typed_program.py and on a list
of all operations."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import dist_dynet as dy
from dist_dynet._hints import OF_TRAINERS

HERE = Path(__file__).parent
PACKAGE = Path(dy.__file__).parent
PROGRAM = HERE / "typed_program.py"


RESULT = r"Expression|NoReturn|Never|_Function\b"
"""What operations give; function() gives an operation, matInput() and the like nothing."""


def table_of_operations():
    """A program that names each operation, and beside it one that there is not."""
    lines = ["import dist_dynet as dy"]
    for name in dy.ops.OPERATIONS:
        lines += [f"reveal_type(dy.{name})", f"dy.{name}_  # error"]
    return "\n".join(lines) + "\n"


def expected(text):
    """The lines that must be refused."""
    return {i for i, line in enumerate(text.splitlines(), 1) if line.endswith("# error")}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Copies of the two programs, in a folder in which the package is found, and nothing else."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "dist_dynet").symlink_to(PACKAGE)
    (folder / "program.py").write_text(PROGRAM.read_text())
    (folder / "operations.py").write_text(table_of_operations())
    return folder


@pytest.fixture(scope="module")
def mypy(programs):
    """{program: {line: [(kind, message)]}}"""
    if find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-color-output",
        "--follow-imports=silent",
    ]
    ran = subprocess.run(
        [*command, "program.py", "operations.py"],
        cwd=programs,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    found = {"program.py": {}, "operations.py": {}}
    for file, line, kind, message in re.findall(
        r"^(\w+\.py):(\d+): (error|note): (.*)$", ran.stdout, re.M
    ):
        found[file].setdefault(int(line), []).append((kind, message))
    return found


@pytest.fixture(scope="module")
def pyright(programs):
    """The same."""
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "program.py", "operations.py"],
        cwd=programs,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if not ran.stdout.startswith("{"):
        pytest.skip(f"pyright does not start: {ran.stderr[-200:]}")
    found = {"program.py": {}, "operations.py": {}}
    for each in json.loads(ran.stdout)["generalDiagnostics"]:
        kind = {"information": "note"}.get(each["severity"], each["severity"])
        line = each["range"]["start"]["line"] + 1
        found[Path(each["file"]).name].setdefault(line, []).append((kind, each["message"]))
    return found


def errors(found):
    return {
        line: message for line, said in found.items() for kind, message in said if kind == "error"
    }


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_checkers_refuse_what_is_wrong_and_nothing_else(checker, request):
    found = errors(request.getfixturevalue(checker)["program.py"])
    assert found.keys() == expected(PROGRAM.read_text()), found


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_every_operation_has_a_type(checker, request):
    found = request.getfixturevalue(checker)["operations.py"]
    text = table_of_operations()
    assert errors(found).keys() == expected(text)
    for line, source in enumerate(text.splitlines(), 1):
        if source.startswith("reveal_type"):
            ((kind, message),) = found[line]
            result = message.rpartition("->")[2] if "->" in message else message
            assert kind == "note" and re.search(RESULT, result), message
            assert not re.search(r"\bUnknown\b", message), message


def test_trainer_like_has_what_all_trainers_have():
    def members(cls):
        return {name for name in dir(cls) if not name.startswith("_")} - {*OF_TRAINERS}

    trainers = dy.Trainer, dy.parallel.DistributedTrainer, dy.parallel.LocalSGD
    assert members(dy.TrainerLike) == set.intersection(*map(members, trainers))


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()
