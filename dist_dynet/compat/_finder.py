"""Finds `dynet` and the related modules. It imports nothing else: child processes load it first,
and may never import dynet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

NAMES = ("dynet", "_dynet", "_gdynet", "dynet_config", "dynet_viz")
PACKAGE = "dist_dynet"


class Finder(MetaPathFinder, Loader):
    """Makes the modules of NAMES from the package."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of NAMES."""
        return ModuleSpec(name, self, origin=PACKAGE) if name in NAMES and is_there() else None

    def exec_module(self, module: ModuleType) -> None:
        """Fills the module."""
        import_module(f"{PACKAGE}.compat._modules").fill(module)


def is_there() -> bool:
    """Whether the package can be imported; a child may have another sys.path than its parent."""
    if find_spec(PACKAGE) is not None:
        return True
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    try:
        import_module(PACKAGE)
    except ImportError:  # another version of Python: let it find what it has
        sys.path.pop()
        return False
    return True


def install() -> None:
    """Puts the finder first, once, and forgets modules of a real DyNet."""
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Finder())


def uninstall() -> None:
    """Removes the finder."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
