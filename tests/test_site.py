"""The site of the documents: it builds without a warning, its reference has every public name and
method, its links lead somewhere, and it loads nothing from other hosts.

How long: fifteen seconds.
"""

import inspect
import json
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import make_charts
import pytest
import site_reference
from site_markdown import escaped, nested_by_four, of_docstring, relinked

import dist_dynet as dy
from dist_dynet import parallel

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(folder)]
    ran = subprocess.run(
        command,
        cwd=folder,  # Python before 3.11 would import what stands beside the sources
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return folder


# ---- the reference ---------------------------------------------------------------------


def inventory(site):
    """The names of objects.inv, with which other projects link to this one."""
    data = (site / "objects.inv").read_bytes()
    body = data.split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(body).decode().splitlines()}


def classes():
    """{class: what users write}, the class's own name where there are several."""
    public = [(m, name, getattr(m, name)) for m in (dy, parallel) for name in m.__all__]
    found = [(m, name, cls) for m, name, cls in public if inspect.isclass(cls)]
    found.sort(key=lambda entry: entry[1] == entry[2].__name__)
    return {cls: f"{m.__name__}.{name}" for m, name, cls in found}


def missing_members(known):
    """Public methods and attributes that stand on no page: neither below their class nor below the
    base that defines them."""
    paths = classes()
    missing = []
    for cls, path in paths.items():
        for name in [n for n in dir(cls) if not n.startswith("_")]:
            owner = next(c for c in cls.__mro__ if name in vars(c))
            is_hint = type(vars(owner)[name]).__module__ == "dist_dynet._hints"
            if is_hint or not owner.__module__.startswith("dist_dynet"):
                continue
            if any(name in vars(base) for base in cls.__mro__ if base.__module__ == "builtins"):
                continue  # such as list's
            base = paths.get(owner, f"{owner.__module__}.{owner.__qualname__}")
            if not {f"{path}.{name}", f"{base}.{name}"} & known:
                missing.append(f"{path}.{name}")
    return missing


@pytest.mark.slow
def test_reference_has_every_public_name(site):
    public = {f"{m.__name__}.{name}" for m in (dy, parallel) for name in m.__all__}
    modules = {name for name in public if inspect.ismodule(getattr(dy, name.split(".")[1], None))}
    assert sorted(public - modules - inventory(site)) == []


@pytest.mark.slow
def test_reference_has_every_public_method(site):
    known = inventory(site)
    assert missing_members(known) == []
    without = known - {"dist_dynet.CRF.viterbi"}
    assert missing_members(without) == ["dist_dynet.CRF.viterbi"]


def test_pages_are_of_modules_that_are_there():
    gone = [name for name in site_reference.PAGES if find_spec(f"dist_dynet.{name}") is None]
    assert gone == [], "scripts/site_reference.py: PAGES"


# ---- documents -------------------------------------------------------------------------


def test_expectations_have_a_state_each():
    """Which is one of three words, and what is met says where it is documented."""
    text = (ROOT / "docs" / "expectations.md").read_text()
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("| expectation ")
    ]
    assert len(rows) == int(re.search(r"these (\d+) things", text)[1])
    assert len({row[0] for row in rows}) == len(rows)
    wrong = [row for row in rows if len(row) != 4 or row[1] not in ("met", "partly", "no")]
    assert wrong == []
    assert [name for name, state, *rest in rows if state == "met" and not all(rest)] == []


@pytest.mark.parametrize("name", make_charts.CHARTS)
def test_charts_show_the_stored_figures(name):
    """The text that a chart carries is what the figures beside it say today."""
    chart = ElementTree.parse(make_charts.FIGURES / name)
    (text,) = chart.iter("{http://purl.org/dc/elements/1.1/}description")
    numbers, _ = make_charts.CHARTS[name]
    assert numbers()
    assert text.text == make_charts.description(numbers()), (
        "draw it anew: python scripts/make_charts.py"
    )


# ---- links and what is loaded ----------------------------------------------------------


class Page(HTMLParser):
    """What one page refers to, what it loads, and where in it a link may go."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors.update(filter(None, (attributes.get("id"), attributes.get("name"))))
        source = attributes.get("src") or (tag == "link" and attributes.get("href"))
        if source and attributes.get("rel") != "canonical":
            self.loaded.append(source)
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html") if path.stem != "404"}


@pytest.mark.slow
def test_links_of_the_site_resolve(pages):
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not there.exists() or (there in pages and anchor not in pages[there].anchors):
                broken.append(f"{path.name}: {link}")
    assert len(pages) > 30
    assert broken == []


@pytest.mark.slow
def test_search_finds_every_page(site, pages):
    """What the search box reads; documents of the project's own history come last."""
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    found = {entry["location"].partition("#")[0] for entry in entries}
    assert {str(path.relative_to(site)) for path in pages} - found == set()
    texts = {}
    for entry in entries:
        page = entry["location"].partition("#")[0]
        texts[page] = f"{texts.get(page, '')} {entry['title']} {entry['text']}".lower()
    for word, page in {
        "autobatching": "autobatching.html",
        "beam search": "examples.html",
        "masked_softmax": "reference/ops-masked.html",
        "learning rate": "training.html",
        "dataloader": "migrating.html",
        "slurm": "launching.html",
    }.items():
        assert word in texts[page]
    boosts = {entry["location"]: entry.get("boost", 1) for entry in entries}
    assert boosts["changelog.html"] < 1 == boosts["quickstart.html"]


@pytest.mark.slow
def test_site_loads_nothing_from_other_hosts(site, pages):
    assert [url for page in pages.values() for url in page.loaded if urlsplit(url).netloc] == []
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert styles
    assert not [url for text in styles for url in re.findall(r"url\(['\"]?(?:https?:)?//", text)]


# ---- Markdown --------------------------------------------------------------------------


def test_lists_are_nested_by_four_columns():
    github = "Text\n- a\n  more\n  - b\n\n    ```sh\n    - x\n    ```\n1. c\n\n   d\n\nend\n"
    assert nested_by_four(github) == (
        "Text\n\n- a\n    more\n    - b\n\n        ```sh\n        - x\n        ```\n\n"
        "1. c\n\n    d\n\nend\n"
    )


def test_links_are_rewritten_outside_of_programs():
    text = "[docs/a.md](docs/a.md#b), [c](c.md), [d](https://d.org)\n```python\nx[1](c.md)\n```\n"
    titles = {"docs/a.md": ("a.md", "Title"), "c.md": ("../c.md", "C")}
    assert relinked(text, titles.get) == (
        "[Title](a.md#b), [c](../c.md), [d](https://d.org)\n```python\nx[1](c.md)\n```\n"
    )


def test_text_of_docstrings_is_no_markup():
    assert escaped("x_i * y_i < `a_b` [0][1]") == r"x\_i \* y\_i &lt; `a_b` \[0\]\[1\]"


def test_docstring_has_formula_fields_and_example():
    text = (
        "y_i = f(x_i, ...); z = 2 y: as\nusual.\n\nShape: any.\nGradient: dy\n    f'.\nRaises:\n"
        "    ValueError: no\n        x.\n    TypeError: y.\n\n>>> f(1)\n1\n"
    )
    assert of_docstring(text) == (
        "`y_i = f(x_i, ...); z = 2 y`: as\nusual.\n\n**Shape:** any.\n\n"
        "**Gradient:** dy f'.\n\n**Raises:**\n\n- `ValueError`: no x.\n"
        "- `TypeError`: y.\n\n```pycon\n>>> f(1)\n1\n```"
    )
