"""Compares versions, number types and string hashes between the processes of a job."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from ..._ffi import DTYPE
from ..._manner import manner, warn
from ..._version import __version__
from ...params.precision import rounding
from .rank_names import format_ranks
from .world import World

_HASHES = "string hashes"
_ERRORS = ("dist_dynet", "dtype", "precision")
"""Names whose values must be the same on all ranks."""


def hash_indicator() -> int:
    """A number that is equal in two processes if they hash strings alike (PYTHONHASHSEED), so that
    sets of strings have the same order.

    >>> hash_indicator() == hash("dist_dynet")
    True
    """
    return hash("dist_dynet")


def describe() -> dict[str, str]:
    """The names and values that are compared.

    >>> sorted(describe())
    ['NumPy', 'Python', 'dist_dynet', 'dtype', 'precision', 'string hashes']
    """
    return {
        "dist_dynet": __version__,
        "dtype": DTYPE.name,
        "precision": "bf16" if rounding([None]) else "float32",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        _HASHES: f"{hash_indicator():x}",
    }


def compare(here: World, comm: Any, what: str) -> None:
    """Compares this process with the other ranks. Collective. Rank 0 warns once about each
    difference that may change results.

    Raises:
        RuntimeError: on all ranks: they have different versions of dist_dynet, another dtype, or
            another precision.
    """
    every = here.gather(comm, describe(), what)
    for name, first in every[0].items():
        others = [rank for rank, theirs in enumerate(every) if theirs.get(name) != first]
        if not others:
            continue
        ranks = format_ranks([here.members[rank] for rank in others])
        values = f"{first} on rank {here.members[0]}, {every[others[0]].get(name)} on {ranks}"
        if name in _ERRORS:
            raise RuntimeError(
                f"{here.name} {what}: all ranks must have the same {name}; got {values}. Install"
                " and set it alike on all hosts."
            )
        if here.rank == 0 and manner.is_first(f"ranks differ in {name}"):
            warn(_HASH_ADVICE if name == _HASHES else _VERSION_ADVICE.format(name, values))


_HASH_ADVICE = (
    "dist_dynet: Python hashes strings differently on each rank, so enumerate(set(words)) numbers"
    " the words differently. Write sorted(set(words)), or start the ranks by `dist-dynet run` or"
    " with PYTHONHASHSEED=0."
)
_VERSION_ADVICE = (
    "dist_dynet: ranks have different versions of {}: {}. Results may differ; install one version"
    " on all hosts."
)
