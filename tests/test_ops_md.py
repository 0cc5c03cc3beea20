"""docs/ops.md is what the sources say, and has an entry for every operation.

How long: two seconds.
"""

import importlib.util
import re
from difflib import unified_diff
from pathlib import Path

import pytest

import dist_dynet as dy
from dist_dynet import ops
from dist_dynet._ffi import OPS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "ops.md").read_text()


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "make_ops_md", ROOT / "scripts" / "make_ops_md.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_document_is_what_the_sources_say(script):
    before = {name: getattr(dy, name) for name in ops.__all__}
    difference = list(
        unified_diff(
            TEXT.splitlines(),
            script.document().splitlines(),
            "docs/ops.md",
            "the sources",
            lineterm="",
            n=1,
        )
    )
    shown = "\n".join(difference[:20])
    assert not difference, (
        "docs/ops.md is not what the sources say; write it anew: python"
        f" scripts/make_ops_md.py\n{shown}"
    )
    assert {name: getattr(dy, name) for name in ops.__all__} == before


def test_every_function_has_an_entry():
    headings = re.findall(r"^### (\w+)$", TEXT, re.M)
    assert sorted(headings) == sorted(name for name in ops.__all__ if callable(getattr(dy, name)))


def test_every_row_of_c_is_there():
    assert not OPS.keys() - set(re.findall(r"^\| `(\w+)` \| `", TEXT, re.M))


def test_parts_of_a_docstring(script):
    paragraphs, fields, example = script.parts("""y = x: the first
        paragraph.

        Args:
            a: one
                thing.
            b: another.

        Shape: any,
            and more.
        Raises: nothing.

        >>> 1 + 1
        2
        """)
    assert paragraphs == ["y = x: the first paragraph."]
    assert {k: script.items(v) for k, v in fields.items() if v} == {
        "Args": ["`a`: one thing.", "`b`: another."],
        "Shape": ["any, and more."],
        "Raises": ["nothing."],
    }
    assert example == ">>> 1 + 1\n2"


def test_signature(script):
    assert script.signature("f", lambda x, d=0, *, name="a": None) == "f(x, d=0, *, name='a')"


def test_text_is_escaped_for_markdown(script):
    assert script.escaped("y_i = |x_i| * 2") == r"y\_i = \|x\_i\| \* 2"
    assert script.escaped("see `x_i`") == "see `x_i`"


def test_each_flag_has_the_meaning_that_stands_beside_it(script):
    """A comment stands behind its flag, or before it where it is long."""
    header = (ROOT / "csrc" / "dn_api.h").read_text()
    enum = header.partition("enum dn_op_flag {")[2].partition("};")[0]
    meanings = script.flag_meanings()
    assert [*meanings] == re.findall(r"(DN_\w+) =", enum)
    assert meanings["DN_NO_GRAD"] == "sends no gradient to its inputs"
    assert meanings["DN_LEAF"].startswith("has no inputs to send gradients to")
    assert not [text for text in meanings.values() if "*" in text]
