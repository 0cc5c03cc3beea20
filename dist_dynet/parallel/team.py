"""The ranks of one host as csrc/parallel/team.c knows them: reports in shared memory, usual updates in one call of C.

After a backward neither Python's code nor its data are in the caches any more. So an update of known parameters, whichever of them each rank
has used, with rows that fit into their windows, is exchanged without Python. It knows what was learnt and how to wait; sharing memory and
learning are the business of shared.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._ffi import FAST_PATHS, NULL, declines, ffi, lib
from ._world import World
from .memory import map_together
from .report import Report
from .structure import Structure

_LOOK = 1e-4
"""Seconds for which C looks for the others before Python goes on waiting."""

_ROOM = 1024
"""Bytes of a report, at least: a team whose model grows a little need not be made anew."""


class Dense:
    """The dense parameters of a structure as C takes them.

    Args:
        structure: the parameters.
        segments: by chunk, dn_real *[ranks].
    """

    def __init__(self, structure: Structure, segments: Mapping[int, Any]) -> None:
        self.count = len(structure.places)
        self.places = ffi.new("dn_place[]", structure.places)
        by_chunk = [segments.get(chunk, NULL) for chunk in range(max(segments, default=-1) + 1)]
        self.segments = ffi.new("dn_real *const *[]", by_chunk)
        self._room = ffi.new("dn_share[]", self.count)
        self._kept = by_chunk  # an array of pointers keeps nothing alive

    def sum(self, rank: int, filled: NDArray[np.bool_], factors: NDArray[np.float64]) -> None:
        """Adds up this rank's shares; `filled` is (rank, parameter), `factors` what each rank's gradients are multiplied by."""
        rows, of_ranks = np.ascontiguousarray(filled), np.ascontiguousarray(factors)
        pointers = ffi.new("uint8_t *[]", [ffi.from_buffer("uint8_t[]", row) for row in rows])
        weights = ffi.from_buffer("double[]", of_ranks)
        check(lib.dn_sum_shares(len(rows), rank, self.count, self.places, pointers, self.segments, weights, self._room))


class Window(NamedTuple):
    """Where all ranks put their rows of a table."""

    capacity: int
    rows: Any
    """dn_real *[ranks]"""
    ids: Any
    """int *[ranks]"""


class Team:
    """All ranks, on one host. Its construction is collective.

    Args:
        here: the ranks.
        comm: their communicator.
        report: such as they will tell.
        what: the name of the meeting.

    Raises:
        OSError: there is no room, or there are too many ranks, on all of them with the same words.
    """

    def __init__(self, here: World, comm: Any, report: Report, what: str) -> None:
        if here.size > lib.DN_MOST_RANKS:
            raise OSError(f"at most {lib.DN_MOST_RANKS} ranks can share memory; got {here.size}")
        self._here = here
        self.most = max(2 * report.form.dtype.itemsize, _ROOM)
        """Bytes of the longest report."""
        size = lib.dn_team_bytes(here.size, self.most)
        share = -(-size // here.size)

        def sizes(fast: list[bool]) -> list[int]:
            self._in_one_call = all(fast)  # a rank on which it is switched off decides for all: they must not part here
            return [share]

        ((whole, starts),) = map_together(here, comm, range(here.size), here.size, FAST_PATHS, sizes, what)
        self._memory = whole
        team = lib.dn_team_new(here.size, here.rank, whole + starts[0], self.most)
        if team == NULL:
            raise MemoryError("gradient exchange: out of memory")
        self._c = ffi.gc(team, lib.dn_team_free)
        self._learnt: Structure | None = None
        self._kept: Any = None

    def tell(self, report: Report, name: Callable[[], str]) -> NDArray[Any] | None:
        """As Messenger.tell."""
        form, head = report.form, report.head
        usual = report.usual and self._learnt is form.structure and not declines("update") and self._in_one_call
        arguments = head, len(head), report.weight, form.dense, form.tables, form.params, report.average, usual, _LOOK
        outcome = lib.dn_team_exchange(self._c, *arguments)
        while outcome == lib.DN_TEAM_WAITS:
            self._here.wait_until(lambda: lib.dn_team_heard(self._c, 0), name())
            outcome = lib.dn_team_exchange(self._c, *arguments)
        if outcome == lib.DN_TEAM_DONE:
            return None
        if outcome != lib.DN_TEAM_NEWS:
            check(outcome)
        return self._reports(report)

    def _reports(self, report: Report) -> NDArray[Any]:
        size = report.form.dtype.itemsize
        said = b"".join(ffi.buffer(lib.dn_team_said(self._c, rank), size)[:] for rank in range(self._here.size))
        return np.frombuffer(said, report.form.dtype)

    def learn(self, structure: Structure, dense: Dense, windows: Sequence[Window | None]) -> None:
        """Updates of these parameters can go without Python from now on.

        Args:
            structure: the parameters.
            dense: where the gradients of the dense ones lie.
            windows: of each table; None: it has had no rows yet.
        """
        of_tables = ffi.new("dn_team_window[]", [(w.rows, w.ids, w.capacity) if w else (NULL, NULL, 0) for w in windows])
        check(lib.dn_team_learn(self._c, dense.count, len(structure.tables), dense.places, dense.segments, of_tables))
        self._learnt, self._kept = structure, (dense, list(windows))

    def forget(self) -> None:
        """Every update needs Python, until it learns again."""
        lib.dn_team_forget(self._c)
        self._learnt = self._kept = None


def check(outcome: int) -> None:
    """Raises what an error of C says."""
    if outcome == lib.DN_ERROR_MEMORY:
        raise MemoryError("gradient exchange: out of memory")
    if outcome:
        raise RuntimeError(
            f"gradient exchange: csrc/parallel/team.c refused its arguments; got error {outcome}. "
            "This is a fault of dist_dynet."
        )
