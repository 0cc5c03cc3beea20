"""The cached plan of the steady state: how the ranks of one host add up the gradients of known parameters.

It is one struct, dn_team_plan, which C follows and Python fills. It holds for one structure, whose
chunks lie in shared memory; whoever moves them drops it (SharedExchange), and there is no other way
in which it becomes invalid: windows that grow are put into it in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, NULL, ffi, lib
from .message import MessageLayout
from .structure import Structure


class RowWindow:
    """Where every rank puts its touched rows of one table, for the others to read until the next negotiation."""

    def __init__(self, capacity: int, width: int, whole: Any, starts: list[int]) -> None:
        self.capacity = capacity
        self._gradients, self._ids = [], []
        for start in starts:
            rows = np.frombuffer(ffi.buffer(whole), DTYPE, capacity * width, start)
            self._gradients.append(rows.reshape(capacity, width))
            self._ids.append(np.frombuffer(ffi.buffer(whole), np.int32, capacity, start + rows.nbytes))
        self.rows, self.ids = _pointers("dn_real *", self._gradients), _pointers("int *", self._ids)

    def put(self, rank: int, ids: NDArray[np.int32], gradients: NDArray[Any]) -> None:
        """Copies the rows of this rank."""
        self._ids[rank][: len(ids)] = ids
        self._gradients[rank][: len(ids)] = gradients

    def get(self, rank: int, count: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
        """Where that rank's rows are, as soon as it has put them there."""
        return self._ids[rank][:count], self._gradients[rank][:count]


def _pointers(kind: str, arrays: list[NDArray[Any]]) -> Any:
    return ffi.new(f"{kind}[]", [ffi.from_buffer(kind, array) for array in arrays])


class Plan:
    """How these parameters are added up.

    Args:
        structure: the parameters.
        segments: by chunk, dn_real *[ranks].
        windows: of tables that have had rows, by handle.
        rank: this one.
        ranks: how many there are.
    """

    def __init__(
        self, structure: Structure, segments: Mapping[int, Any], windows: Mapping[Any, RowWindow], rank: int, ranks: int
    ) -> None:
        self.structure = structure
        dense, tables = len(structure.dense), len(structure.tables)
        self._layout = MessageLayout(structure)
        by_chunk = [segments.get(chunk, NULL) for chunk in range(max(segments, default=-1) + 1)]
        self.c = ffi.new("dn_team_plan *")
        self._kept = [  # a struct of pointers keeps nothing alive
            ffi.new("dn_place[]", structure.places),
            ffi.new("dn_real *const *[]", by_chunk),
            ffi.new("dn_team_window[]", tables),
            ffi.new("uint8_t *[]", ranks),
            ffi.new("int32_t[]", ranks * tables),
            ffi.new("double[]", ranks),
            ffi.new("dn_share[]", dense),
        ]
        self.c.of, self.c.ranks, self.c.rank = self._layout.members[0], ranks, rank
        self.c.places, self.c.segments, self.c.windows, self.c.filled, self.c.rows, self.c.factors, self.c.shares = self._kept
        self._of_chunks, self._windows = by_chunk, dict(windows)
        for table, window in windows.items():
            self.set_window(table, window)

    def set_window(self, table: Any, window: RowWindow) -> None:
        """From now on rows of this table go there."""
        self._windows[table] = window
        if table in self.structure.handles:
            k = self.structure.handles.index(table) - len(self.structure.dense)
            self.c.windows[k] = (window.rows, window.ids, window.capacity)

    def sum_dense(self, filled: NDArray[np.bool_], factors: NDArray[np.float64]) -> None:
        """Adds up this rank's shares; `filled` is (rank, parameter), `factors` what each rank's gradients are multiplied by."""
        rows = np.ascontiguousarray(filled)
        for rank, row in enumerate(rows):
            self.c.filled[rank] = ffi.from_buffer("uint8_t[]", row)
            self.c.factors[rank] = factors[rank]
        check(lib.dn_team_sum_dense(self.c))


def check(outcome: int) -> None:
    """Raises what an error of C says."""
    if outcome == lib.DN_ERROR_MEMORY:
        raise MemoryError("gradient exchange: out of memory")
    if outcome:
        raise RuntimeError(
            f"gradient exchange: csrc/parallel/team.c refused its arguments; got error {outcome}. "
            "This is a fault of dist_dynet."
        )
