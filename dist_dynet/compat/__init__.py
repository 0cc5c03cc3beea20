"""Programs written for DyNet run on dist_dynet: `import dynet` means this package, in this process
and its children.

    python -m dist_dynet.compat train.py --dynet-seed 1        a program, unchanged
    import dist_dynet.compat; dist_dynet.compat.install()      from within: a sitecustomize.py, a
                                                               conftest.py

`dynet`, `_dynet`, `dynet_config` and `dynet_viz` are modules made of this package's names; a real
DyNet is hidden. Results are DyNet's (dy.init(rng="dynet")). docs/migrating.md lists what is the
same, what is better and what differs.

This module knows how Python finds modules; `_modules` defines their content.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import _finder

__all__ = ["install", "uninstall"]

SITE = str(Path(__file__).parent / "site")
"""Holds the sitecustomize.py that child processes load first."""


def install() -> None:
    """Makes `import dynet` (`_dynet`, `dynet_config`, `dynet_viz`) mean dist_dynet, here and in
    processes started from here.

    Modules of a real DyNet that were imported before are forgotten. Children find it through a
    folder on PYTHONPATH, whose sitecustomize.py then loads an existing one. Further calls do
    nothing.

    >>> import dist_dynet.compat
    >>> dist_dynet.compat.install()
    >>> import dynet
    >>> dynet.__version__
    '2.1'
    >>> dynet.Expression is dist_dynet.Expression
    True
    >>> dist_dynet.compat.uninstall()
    >>> dist_dynet.init(rng="keyed")
    """
    _finder.install()
    path = os.environ.get("PYTHONPATH", "")
    if SITE not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (SITE, path) if p)


def uninstall() -> None:
    """Reverts install(). Random numbers stay in DyNet's order: `init(rng="keyed")`."""
    _finder.uninstall()
    if any(name in sys.modules for name in ("dynet", "_dynet", "dynet_viz")):
        from ..io.objects import read_as_dynet
        from ._old import detach_methods
        from ._settings import merged

        merged.leave()
        detach_methods()
        read_as_dynet(False)
    path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != SITE]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    if not path:
        del os.environ["PYTHONPATH"]
    for name in _finder.NAMES:
        sys.modules.pop(name, None)
