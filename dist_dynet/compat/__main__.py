"""Runs a program written for DyNet: python -m dist_dynet.compat PROGRAM.py ARGUMENTS...  (or -m
MODULE ARGUMENTS...)."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType

from . import install

USAGE = (
    "usage: python -m dist_dynet.compat PROGRAM.py [ARGUMENTS...]\n       python -m"
    " dist_dynet.compat -m MODULE [ARGUMENTS...]"
)


def _look_in(folder: str) -> None:
    """Puts a folder first on sys.path, as Python does; with -P there is no entry reserved for
    it."""
    if getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, folder)
    else:
        sys.path[0] = folder


def run(arguments: list[str]) -> int:
    """Runs a program in this process as Python would; arguments: its path, or -m and its name, and
    its own arguments."""
    if not arguments or arguments == ["-m"] or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    install()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        _look_in(str(Path.cwd()))
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return 0
    path = Path(arguments[0])
    if not path.exists():
        print(f"dist_dynet.compat: there is no program {path}.", file=sys.stderr)
        return 2
    sys.argv = arguments
    if path.is_dir():
        runpy.run_path(str(path), run_name="__main__")
        return 0
    # A module of its own that stays __main__: threads and exit handlers outlive the last line, and
    # multiprocessing looks for __file__.
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(path), __builtins__=__builtins__)
    sys.modules["__main__"] = main
    _look_in(str(path.resolve().parent))
    exec(compile(path.read_bytes(), str(path), "exec"), main.__dict__)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
