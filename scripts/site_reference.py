"""The reference of the site: which names stand on which page, and docstrings as Markdown.

Pages are made from __all__ of the package and of the modules right under it, so every public name
is on one.
"""

from __future__ import annotations

import copy
import inspect
import pkgutil
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
from site_markdown import of_docstring

import dist_dynet
from dist_dynet import ops

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "dist_dynet"
TITLES = {
    "graphs": "Graphs and expressions",
    "parameters": "Parameters and initial values",
    "trainers": "Trainers and schedules",
    "training": "Training runs",
    "recurrent": "Recurrent builders",
    "layers": "Layers and attention",
    "trees": "Trees and stacks",
    "outputs": "Output layers and CRF",
    **{
        f"ops-{family.__name__.rpartition('.')[2]}": "Operations: "
        + family.__name__.rpartition(".")[2].capitalize().replace("Lstm", "LSTM")
        for family in ops.FAMILIES
    },
    "parallel": "Several ranks",
    "text": "Text",
    "files": "Files",
    "checks": "Checks, drawings, profiles",
    "settings": "Settings and other names",
    "compat": "Programs written for DyNet",
    "cli": "Command line",
}
"""Page -> title, in the order of the navigation."""
PAGES = {
    "_entities": "training",
    "_random": "graphs",
    "_random_state": "graphs",
    "_tracebacks": "checks",
    "batching": "graphs",
    "checking": "checks",
    "devices": "settings",
    "expression": "graphs",
    "graph": "graphs",
    "holders": "compat",
    "inspection": "checks",
    "io": "files",
    "nn.birnn": "recurrent",
    "nn.builder": "recurrent",
    "nn.crf": "outputs",
    "nn.hierarchical": "outputs",
    "nn.lstms": "recurrent",
    "nn.rnn": "recurrent",
    "nn.sampled": "outputs",
    "nn.simple": "recurrent",
    "nn.softmax": "outputs",
    "nn.stack": "trees",
    "nn.state": "recurrent",
    "nn.tree": "trees",
    "nn": "layers",
    "nonfinite": "checks",
    "params": "parameters",
    "profiling": "checks",
    "schedules": "trainers",
    "_tensor": "graphs",
    "_values": "graphs",
    "traced_functions": "graphs",
    "vocabulary": "text",
}
"""Module of the package -> page. Others have a page of their own name."""


def page_of(module: str) -> str:
    """The page for what a module of the package defines."""
    parts = module.split(".")[1:]
    if parts[:1] == ["ops"]:
        return f"ops-{parts[1]}"
    for length in range(len(parts), 0, -1):
        page = PAGES.get(".".join(parts[:length]))
        if page:
            return page
    return parts[0] if parts and parts[0][0] != "_" else "settings"


def modules() -> list[ModuleType]:
    """The package, and the modules right under it that users import."""
    below = [m.name for m in pkgutil.iter_modules(dist_dynet.__path__) if m.name[0] != "_"]
    found = [import_module(f"{PACKAGE}.{name}") for name in below]
    return [dist_dynet, *(m for m in found if hasattr(m, "__all__"))]


def public_names() -> dict[str, Any]:
    """{dotted name that users write: the object}; under the package where it has a name there."""
    found = {f"{PACKAGE}.{name}": getattr(dist_dynet, name) for name in dist_dynet.__all__}
    for module in modules()[1:]:
        for name in module.__all__:
            if name not in dist_dynet.__all__:
                found[f"{module.__name__}.{name}"] = getattr(module, name)
    return {path: thing for path, thing in found.items() if not inspect.ismodule(thing)}


def defined_in(path: str, thing: Any) -> str:
    """The module that defines a public thing; for a constant, one that lists it."""
    module = getattr(thing, "__module__", None)
    if isinstance(module, str) and module.startswith(PACKAGE):
        return module
    owners = [m.__name__ for m in modules()[1:] if path.rpartition(".")[2] in m.__all__]
    return owners[0] if owners else PACKAGE


class Layout(griffe.Extension):
    """Rewrites docstrings, and adds the names that the package takes over in a loop."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """What griffe calls when it has read the sources of a package."""
        for path, thing in public_names().items():
            name = path.rpartition(".")[2]
            if path == f"{PACKAGE}.{name}" and name not in pkg.members:
                pkg.set_member(name, griffe.Alias(name, f"{thing.__module__}.{thing.__qualname__}"))
            if inspect.isclass(thing) and thing.__name__ == name:
                self._add_methods(pkg, thing)
        self._rewrite(pkg, set())

    @staticmethod
    def _add_methods(pkg: griffe.Module, cls: type) -> None:
        """The methods that another module has given to a class."""
        own = pkg[f"{cls.__module__}.{cls.__qualname__}".removeprefix(f"{PACKAGE}.")]
        for name, method in vars(cls).items():
            if inspect.isfunction(method) and name[0] != "_" and name not in own.members:
                there = f"{method.__module__}.{method.__qualname__}".removeprefix(f"{PACKAGE}.")
                copied = copy.copy(pkg[there])
                copied.name = name
                if copied.docstring:
                    copied.docstring = griffe.Docstring(copied.docstring.value, parent=copied)
                own.set_member(name, copied)

    def _rewrite(self, thing: griffe.Object, seen: set[str]) -> None:
        if thing.path in seen:
            return
        seen.add(thing.path)
        if thing.docstring:
            thing.docstring.value = of_docstring(thing.docstring.value)
        for member in thing.members.values():
            if not member.is_alias:
                self._rewrite(member, seen)


class Reference:
    """The pages, as Markdown for mkdocstrings."""

    def __init__(self) -> None:
        self._loader = griffe.GriffeLoader(
            extensions=griffe.load_extensions(Layout()), search_paths=[ROOT]
        )
        self._package = self._loader.load(PACKAGE)
        self._loader.resolve_aliases()
        self._names = public_names()
        classes = [p for p, t in self._names.items() if inspect.isclass(t) and not self._other(p)]
        self._path_of = {self._static(path).canonical_path: path for path in reversed(classes)}
        users: dict[str, set[str]] = defaultdict(set)
        for path in classes:
            for base in self._bases(path):
                users[base].add(path)
        self._shared = {
            base
            for base, paths in users.items()
            if len(paths) > 1 and base not in self._path_of and "._" not in base
        }

    def _static(self, path: str) -> Any:
        return self._package[path.removeprefix(f"{PACKAGE}.")]

    def _bases(self, path: str) -> dict[str, Any]:
        """{canonical path: class} of the bases in the package."""
        bases = self._static(path).mro()
        return {b.canonical_path: b for b in bases if b.canonical_path.startswith(PACKAGE)}

    def _other(self, path: str) -> str:
        """The name that a synonym stands for, or nothing."""
        module, _, name = path.rpartition(".")
        true_name = f"{module}.{getattr(self._names[path], '__name__', name)}"
        return true_name if true_name != path and true_name in self._names else ""

    def pages(self) -> dict[str, str]:
        """{file name: text}, in the order of the navigation, without the index."""
        entries: dict[str, list[str]] = defaultdict(list)
        for path, thing in self._names.items():
            entries[page_of(defined_in(path, thing))].append(self._entry(path, thing))
        for base in sorted(self._shared):
            entries[page_of(base)].append(self._class(base, "What several classes share."))
        order = [*(p for p in TITLES if p in entries), *sorted(entries.keys() - TITLES.keys())]
        return {
            f"{page}.md": "\n".join([f"# {self.title(page)}", "", *entries[page]]) for page in order
        }

    @staticmethod
    def title(page: str) -> str:
        """The first heading of a page."""
        return TITLES.get(page, page.capitalize())

    def _entry(self, path: str, thing: Any) -> str:
        other = self._other(path)
        if other:
            options = {"members": "[]", "show_bases": "false"}
            note = f"Another name of [`{other.rpartition('.')[2]}`][{other}]."
            return (
                _directive(path, {**options, "show_docstring_description": "false"}) + note + "\n"
            )
        return self._class(path) if inspect.isclass(thing) else _directive(path, {})

    def _class(self, path: str, note: str = "") -> str:
        own = self._static(path)
        inline: list[str] = []
        links: list[str] = []
        known = set(own.members)
        for base_path, base in self._bases(path).items():
            new = [n for n in base.members if n not in known and n[0] != "_"]
            new = [n for n in new if not base.members[n].is_alias]
            known.update(base.members)
            shown = self._path_of.get(base_path, base_path if base_path in self._shared else "")
            if not shown:
                inline += new
            elif new:
                names = ", ".join(f"[`{n}`][{shown}.{n}]" for n in sorted(new))
                links.append(f"Inherited from [`{base.name}`][{shown}]: {names}.")
        options = {"inherited_members": f"[{', '.join(inline)}]"} if inline else {}
        return "\n\n".join(
            [_directive(path, options).rstrip(), *([note] if note else []), *links, ""]
        )


def _directive(path: str, options: dict[str, str]) -> str:
    """The line that mkdocstrings replaces."""
    lines = [f"::: {path}"]
    if options:
        lines += ["    options:", *(f"      {key}: {value}" for key, value in options.items())]
    return "\n".join(lines) + "\n\n"
