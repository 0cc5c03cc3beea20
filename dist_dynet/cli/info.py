"""`dist-dynet info`: what is installed and how it was built, as text or, with --json, for programs.
MPI is not started."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
from importlib import metadata
from typing import Any

from .. import _ffi
from .._version import __version__
from . import mpi, shm
from ._messages import RefusedError


def facts() -> dict[str, Any]:
    """All facts, in the order in which they are shown.

    >>> list(facts()["build"])
    ['number type', 'vector loops', 'bfloat16 products']
    """
    return {
        "dist_dynet": __version__,
        "build": {
            "number type": _ffi.DTYPE_NAME,
            "vector loops": _ffi.SIMD,
            "bfloat16 products": _ffi.bf16_instructions(),
        },
        "BLAS": {"library": _ffi.BLAS, "version": _blas_version()},
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "NumPy": metadata.version("numpy"),
        "MPI": _mpi(),
        "cores": {"usable": mpi.cores(), "of this host": os.cpu_count()},
        "/dev/shm": shm.words(),
        "threads": _ffi.lib.dn_threads(),
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("DIST_DYNET_")
        },
    }


def _blas_version() -> str:
    """The version that the library reports, as OpenBLAS does; others do not."""
    try:
        library = ctypes.CDLL(_ffi.BLAS)
    except OSError:
        return "unknown"
    for name in ("scipy_openblas_get_config", "openblas_get_config"):
        ask = getattr(library, name, None)
        if ask is not None:
            ask.restype = ctypes.c_char_p
            return str(ask().decode(errors="replace")).strip()
    return "unknown"


def _mpi() -> dict[str, Any]:
    try:
        loaded = mpi.library()
    except RefusedError as refusal:
        return {"missing": str(refusal)}
    found: dict[str, Any] = {"mpi4py": loaded.mpi4py, "library": f"{loaded.name} {loaded.version}"}
    try:
        found["mpirun"] = str(mpi.find_launcher(None, hosts=False).program)
    except RefusedError as refusal:
        found["missing"] = str(refusal)
    return found


def _text(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "\n".join(f"{name}: {text}" for name, text in value.items()) or "none"


def info(arguments: list[str]) -> int:
    """Runs `dist-dynet info ARGUMENTS`; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="dist-dynet info", description="What is installed, and how it was built."
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    if parser.parse_args(arguments).json:
        print(json.dumps(facts(), indent=2))
        return 0
    for name, value in facts().items():
        for i, line in enumerate(_text(value).splitlines()):
            print(f"{'' if i else name:<12} {line}")
    return 0
