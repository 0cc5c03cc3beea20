"""The ranks of one host as csrc/team.c knows them: they pass reports on in memory that they share, and do usual updates in one call of C.

After a backward neither Python's code nor its data are in the caches any more. So an update that is like the last one (the same parameters used
on the same ranks, rows that fit into their windows) is exchanged without Python. It knows what was learnt and how to wait; sharing memory and
learning are the business of shared.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._ffi import NULL, ffi, lib
from ._world import World
from .exchange import Range
from .memory import map_together
from .report import Report
from .structure import Structure

_LOOK = 1e-4
"""Seconds for which C looks for the others before Python goes on waiting."""

_ROOM = 1024
"""Bytes of a report, at least: a team whose model grows a little need not be made anew."""


class Share(NamedTuple):
    """Numbers that this rank adds up: where they lie, and who has gradients there."""

    place: Range
    filled: Any
    """uint8_t[ranks]"""
    segments: Any
    """dn_real *[ranks], of the chunk."""


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
        OSError: there is no room, on all ranks with the same words.
    """

    def __init__(self, here: World, comm: Any, report: Report, what: str) -> None:
        self._here = here
        self.most = max(2 * report.form.dtype.itemsize, _ROOM)
        """Bytes of the longest report."""
        size = lib.dn_team_bytes(here.size, self.most)
        share = -(-size // here.size)
        ((whole, starts),) = map_together(here, comm, range(here.size), here.size, None, lambda _: [share], what)
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
        usual = report.usual and self._learnt is form.structure
        arguments = head, len(head), report.weight, form.dense, form.tables, form.params, report.average, usual, _LOOK
        outcome = lib.dn_team_exchange(self._c, *arguments)
        while outcome == lib.DN_TEAM_WAITS:
            self._here.wait_until(lambda: lib.dn_team_heard(self._c, 0), name())
            outcome = lib.dn_team_exchange(self._c, *arguments)
        if outcome == lib.DN_TEAM_DONE:
            return None
        if outcome == lib.DN_ERROR_MEMORY:
            raise MemoryError("gradient exchange: out of memory for the rows of lookup tables")
        return self._reports(report)

    def _reports(self, report: Report) -> NDArray[Any]:
        size = report.form.dtype.itemsize
        said = b"".join(ffi.buffer(lib.dn_team_said(self._c, rank), size)[:] for rank in range(self._here.size))
        return np.frombuffer(said, report.form.dtype)

    def learn(self, structure: Structure, filled: NDArray[np.bool_], shares: Sequence[Share], windows: Sequence[Window | None]) -> None:
        """Updates may be like this one from now on.

        Args:
            structure: the parameters.
            filled: (rank, dense parameter): who has a gradient of what.
            shares: what this rank adds up.
            windows: of each table; None: it has had no rows yet.
        """
        in_c = ffi.new("dn_team_share[]", [(share.segments, share.filled, *share.place[1:]) for share in shares])
        of_tables = ffi.new("dn_team_window[]", [(w.rows, w.ids, w.capacity) if w else (NULL, NULL, 0) for w in windows])
        who = np.ascontiguousarray(filled)
        counts = len(structure.dense), len(structure.tables)
        if lib.dn_team_learn(self._c, *counts, ffi.from_buffer("uint8_t *", who), len(shares), in_c, of_tables):
            raise MemoryError("gradient exchange: out of memory")
        self._learnt, self._kept = structure, (list(shares), list(windows))

    def forget(self) -> None:
        """No update is like the last one, until it learns again."""
        lib.dn_team_forget(self._c)
        self._learnt = self._kept = None
