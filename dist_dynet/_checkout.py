"""A checkout without compiled parts, met before the package that is installed: Python looks into
the folder that it works in first. And whether compiled parts belong to the sources beside them.

Importing it does its work. It stands by itself, since it comes before everything else of the
package.
"""

from __future__ import annotations

import re
import sys
import warnings
import zlib
from importlib.machinery import PathFinder
from pathlib import Path

_VERSION = re.compile(r"""^__version__ = ["'](.+)["']$""", re.MULTILINE)


def is_compiled(folder: Path) -> bool:
    """Whether a package's folder has the extensions that every import needs."""
    return any(folder.glob("_expression.*so"))


def api_number(csrc: Path) -> int:
    """A number of the declarations in dn_api*.h, whatever their comments and blanks: what is
    compiled holds that of its sources (build_ffi.py)."""
    text = "".join(p.read_text(encoding="utf-8") for p in sorted(csrc.glob("dn_api*.h")))
    return zlib.crc32("".join(re.sub(r"/\*.*?\*/", "", text, flags=re.S).split()).encode()) >> 1


def _version(folder: Path) -> str | None:
    try:
        found = _VERSION.search((folder / "_version.py").read_text(encoding="utf-8"))
    except OSError:
        return None
    return found and found[1]


def _use_installed(name: str, path: list[str]) -> None:
    """Where the package of this name, whose __path__ is given, is not compiled: takes its modules
    from one of the same version that is.

    It is looked for along sys.path. If there is none, nothing changes, and the import of the
    extensions says what to do.
    """
    here = Path(path[0])
    if is_compiled(here):
        return
    for entry in dict.fromkeys(sys.path):
        spec = PathFinder.find_spec(name, [entry])
        if spec is None or spec.origin is None:
            continue
        other = Path(spec.origin).parent
        if is_compiled(other) and _version(other) == _version(here):
            path[:] = [str(other)]
            warnings.warn(
                f"{name}: {here} is not compiled; the package installed in {other}, of the same"
                f" version, is used. To compile in place: pip install -e {here.parent}",
                RuntimeWarning,
                stacklevel=2,
            )
            return


if __package__:
    _use_installed(__package__, sys.modules[__package__].__path__)  # type: ignore[arg-type]
