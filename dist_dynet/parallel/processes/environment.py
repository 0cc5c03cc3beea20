"""Compares what may differ between the processes of a job without anybody noticing: versions, and
how Python hashes strings.

Differences in the data that programs read are found by fingerprint.py.
"""

from __future__ import annotations

import json
import platform
from typing import Any

import numpy as np

from ..._ffi import DTYPE
from ..._manner import warn
from ..._version import __version__
from ...params.precision import rounding
from .rank_names import format_ranks
from .world import World

_HASHES = "string hashes"
_ERRORS = ("dist_dynet", "dtype", "precision")
"""Names whose values must be the same on all ranks."""

_warned: set[str] = set()


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
    versions = {
        "dist_dynet": __version__,
        "dtype": DTYPE.name,
        "precision": "bf16" if rounding([None]) else "float32",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    return {**versions, _HASHES: f"{hash_indicator():x}"}


def compare(here: World, comm: Any, what: str) -> None:
    """Compares this process with the other ranks. Collective. Rank 0 warns once about each harmful
    difference.

    Args:
        here: the ranks.
        comm: their communicator.
        what: the name of the collective operation.

    Raises:
        RuntimeError: on all ranks: they have different versions of dist_dynet, another dtype, or
            another precision.
    """
    every = [
        json.loads(b) for b in here.exchange_bytes(comm, json.dumps(describe()).encode(), what)
    ]
    for name in every[0]:
        others = [
            here.members[rank]
            for rank, theirs in enumerate(every)
            if theirs.get(name) != every[0][name]
        ]
        if not others:
            continue
        first = next(theirs for theirs in every if theirs.get(name) != every[0][name])
        words = (
            f"{every[0][name]} on rank {here.members[0]}, {first.get(name)} on"
            f" {format_ranks(others)}"
        )
        if name in _ERRORS:
            raise RuntimeError(
                f"{here.name} {what}: all ranks must have the same {name}; got {words}. Install and"
                " set it alike on all hosts."
            )
        if here.rank == 0 and name not in _warned:
            _warned.add(name)
            warn(_advice(name, words))


def _advice(name: str, words: str) -> str:
    """What a difference may cause, and what to do about it."""
    if name == _HASHES:
        return (
            "dist_dynet: Python hashes strings differently on each rank, so that a set of strings"
            " has another order there: the numbers that words get from enumerate(set(words))"
            " differ. Write sorted(set(words)), or start the ranks by `dist-dynet run`, which gives"
            " all one order, or with PYTHONHASHSEED=0 in their environment."
        )
    return (
        f"dist_dynet: ranks have different versions of {name}: {words}. Results may differ; install"
        " one version on all hosts."
    )
