"""Runs of a script that end after a few updates, and their records: for `dist-dynet check`.

dist_dynet/parallel/processes/trial.py decides what is written during them, and when they end.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..parallel.processes.trial import VARIABLE
from ._messages import temporary_files
from .options import Options
from .run import run_here

_HASHES = "PYTHONHASHSEED"


@dataclass(frozen=True)
class Kind:
    """What may differ between two runs of a script."""

    ranks: int
    hashes: str = "0"
    """The seed of string hashes, if the environment sets none."""
    stream: int = 0
    """The stream of random draws in graphs, with one rank."""
    dtype: str = ""


@dataclass(frozen=True)
class Values:
    """The values of a trainer's parameters before the first update and after the last compared
    one."""

    first: list[NDArray[Any]]
    last: list[NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """A run: its exit status, the record of each rank, and the values by trainer."""

    kind: Kind
    status: int
    records: dict[int, dict[str, Any]]
    values: list[Values]

    @property
    def complete(self) -> bool:
        """Whether all ranks have reached the last update, or the end of the program."""
        return len(self.records) == self.kind.ranks and (
            self.status == 0 or all(r["ended"] == "stopped" for r in self.records.values())
        )

    @property
    def trainers(self) -> list[dict[str, Any]]:
        """The records of rank 0, one for each trainer."""
        return self.records[0]["trainers"] if self.records else []

    @property
    def dtype(self) -> str:
        """The number type of the run."""
        return str(self.records[0]["dtype"])


def run(options: Options, kind: Kind, updates: int, timed: int) -> Run:
    """Runs the script of `options` with kind.ranks ranks.

    Raises:
        RefusedError: nothing was started.
    """
    with temporary_files():
        temporary = tempfile.TemporaryDirectory(prefix="dist-dynet-check-")
    with temporary as folder:
        variables = {
            VARIABLE: f"{updates}:{timed}:{kind.stream}:{folder}",
            "DIST_DYNET_SEED": os.environ.get("DIST_DYNET_SEED") or "1",
            _HASHES: os.environ.get(_HASHES) or kind.hashes,
        }
        if kind.dtype:
            variables["DIST_DYNET_DTYPE"] = kind.dtype
        asked = replace(
            options,
            ranks=kind.ranks,
            mpi=None if kind.ranks == 1 else options.mpi,
            variables=tuple(variables.items()),
        )
        status = run_here(asked)
        records = {
            int(path.stem.removeprefix("rank-")): json.loads(path.read_text(encoding="utf-8"))
            for path in Path(folder).glob("rank-*.json")
        }
        count = len(records[0]["trainers"]) if 0 in records else 0
        return Run(kind, status, records, [_values(Path(folder), i) for i in range(count)])


def _values(folder: Path, number: int) -> Values:
    path = folder / f"values-{number}.npz"
    if not path.exists():
        return Values([], [])
    with np.load(path) as file:
        return Values(
            *(
                [file[f"{when}-{i}"] for i in range(_count(file, when))]
                for when in ("first", "last")
            )
        )


def _count(file: Any, when: str) -> int:
    return sum(name.startswith(f"{when}-") for name in file.files)


def hashes_are_ours() -> bool:
    """Whether the environment sets no seed of string hashes."""
    return not os.environ.get(_HASHES)
