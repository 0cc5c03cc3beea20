"""What MkDocs calls while it builds the site: pages whose source is elsewhere, links out of docs/,
notebooks, the reference.

    mkdocs build --strict        writes site/; needs the extra docs of pyproject.toml

How long: ten seconds. What to expect: no warning; tests/test_site.py reads the result.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter
from site_markdown import nested_by_four, relinked
from site_reference import Reference

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "index.md": "README.md",
    "examples.md": "examples/README.md",
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site -> its source, from the root of the project."""
DROPPED = {"index.md": ("Documents", "A map of the code, in reading order")}
"""Sections of a source that the site has no use for: it has a navigation."""


def repository() -> str:
    """Where the project's files can be seen: the one place that says so is pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.*?)/?"$', text, re.M)
    if not found:
        raise SystemExit("pyproject.toml: [project.urls] must have the line Repository = ...")
    return found[1]


def on_config(config: Any) -> Any:
    """Where the sources are."""
    config.repo_url, config.repo_name = repository(), "Source"
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages whose source is not in docs/, and puts notebooks as Markdown."""
    for page, source in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        for title in DROPPED.get(page, ()):
            text = re.sub(rf"^## {re.escape(title)}\n.*?(?=^## )", "", text, flags=re.M | re.S)
        files.append(File.generated(config, page, content=text))
    for notebook in [f for f in files if f.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        for made in _notebook(notebook, config):
            files.append(made)
    reference = Reference()
    pages = reference.pages()
    nav: list[Any] = ["reference/index.md"]
    operations: list[Any] = []
    index = [
        "# API reference",
        "",
        "Every public class and function has an entry on these pages.",
        "",
    ]
    for name, text in pages.items():
        title = text[2 : text.index("\n")]
        family = title.removeprefix("Operations: ")
        (nav if family == title else operations).append({family: f"reference/{name}"})
        names = re.findall(r"^::: (?:dist_dynet\.)?(\S+)", text, re.M)
        paths = re.findall(r"^::: (\S+)", text, re.M)
        links = ", ".join(f"[`{n}`][{p}]" for n, p in zip(names, paths, strict=True))
        index += [f"## [{title}]({name})", "", links, ""]
        files.append(File.generated(config, f"reference/{name}", content=text))
    files.append(File.generated(config, "reference/index.md", content="\n".join(index)))
    _fill(config.nav, "API", [*nav, {"Operations": operations}])
    decisions = sorted(f.src_uri for f in files if f.src_uri.startswith("adr/"))
    _fill(config.nav, "DECISIONS", decisions)
    (guides,) = (section["Guides"] for section in config.nav if "Guides" in section)
    listed = re.findall(r"[\w/-]+\.md", repr(config.nav))
    guides += sorted(f.src_uri for f in files.documentation_pages() if f.src_uri not in listed)
    return files


def _fill(nav: list[Any], word: str, pages: list[str]) -> None:
    """Puts pages in the place of a word of mkdocs.yml."""
    for item in nav:
        for title, content in item.items() if isinstance(item, dict) else ():
            if content == word:
                item[title] = pages
            elif isinstance(content, list):
                _fill(content, word, pages)


def _notebook(notebook: File, config: Any) -> list[File]:
    """A page with what the notebook's cells say, have printed and have drawn; its pictures."""
    cells = nbformat.read(notebook.abs_src_path, as_version=4)
    cells.metadata["language_info"] = {"name": "python"}  # which the stored file leaves out
    body, resources = MarkdownExporter().from_notebook_node(cells)
    folder, name = posixpath.split(notebook.src_uri.removesuffix(".ipynb"))
    outputs = resources["outputs"]
    for picture in outputs:
        body = body.replace(f"({picture})", f"({name}-{picture})")
    made = [File.generated(config, f"{folder}/{name}.md", content=body)]
    return made + [
        File.generated(config, f"{folder}/{name}-{picture}", content=data)
        for picture, data in outputs.items()
    ]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The text of a page with the links of the site, and lists as Python-Markdown takes them."""
    uri = page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]  # it has nothing beside it
    if uri in ("changelog.md", "contributing.md") or uri.startswith("adr/"):
        page.meta["search"] = {"boost": 0.1}  # what users look for is rarely there
    if uri.startswith("reference/"):
        return markdown
    source = ROOT / ELSEWHERE.get(uri, f"docs/{uri}")
    pages = {str(ROOT / path): name for name, path in ELSEWHERE.items()}

    def target(path: str) -> tuple[str, str] | None:
        """Where a link of the source goes from this page, and the title of a document."""
        there = Path(os.path.normpath(source.parent / path))
        inside = os.path.relpath(there, ROOT)
        name = pages.get(str(there), "")
        if not name and inside.startswith("docs/") and there.is_file():
            name = re.sub(r"\.ipynb$", ".md", inside.removeprefix("docs/"))
        if name:
            return posixpath.relpath(name, posixpath.dirname(uri) or "."), _title(there)
        if not there.exists() or inside.startswith(".."):
            return None
        kind = "tree" if there.is_dir() else "blob"
        return f"{config.repo_url}/{kind}/main/{inside}", ""

    return nested_by_four(relinked(markdown, target))


def _title(document: Path) -> str:
    """The first heading of a document or a notebook; nothing of other files."""
    if document.suffix not in (".ipynb", ".md"):
        return ""
    found = re.search(r"^[\s\"]*# ([^\n\"\\]*)", document.read_text(encoding="utf-8"), re.M)
    return found[1] if found else ""
