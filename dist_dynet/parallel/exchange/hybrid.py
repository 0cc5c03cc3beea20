"""The exchange between hosts: shared memory within each host, the network between them.

Dense gradients are copied, times the rank's weight, into an array in the order of sending
(layout.py). Within a host these arrays are shared memory and are summed by stripes, in rank order;
wire.py sums over hosts. The result, times 1 / sum of weights, becomes the gradient.

When backward begins it is not known which parameters will be used: those of the last two updates
are sent early, as zeros where they are not used now; the rest follows in update(). A round works
the same whether it begins in backward or in update(), so that both give the same bits. What is not
under way when update() is called, rows of tables included, is sent at once, before the negotiation,
which only decides whether that was everything. overlap.py knows who sends while backward runs, and
this module knows what was negotiated; averages and updates are made elsewhere.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, lib
from ...meter import switch
from ..agreement.message import Flag
from ..agreement.negotiation import AsPlanned, Negotiated, NegotiatedByRank
from ..agreement.structure import Structure
from ..processes.memory import map_together, say_refused
from ..processes.world import World
from . import windows
from .compression import Code, ErrorFeedback
from .exchange import MpiSum
from .host_transport import HostTransport
from .layout import FLAG_BYTES, TOLD, Arrays, Layout
from .overlap import Overlap
from .recursive_halving import FEWEST
from .rounds import Round, Wire
from .rows import RowsBetweenHosts, RowsRound
from .wire import Hosts


class HybridExchange:
    """The exchange for several hosts. If a host has no shared memory left, MPI is used instead, and
    rank 0 reports this on stderr.

    Args:
        here: all ranks.
        comm: their communicator.
        hosts: which rank runs where.
        overlap: send gradients while backward runs, where this pays, if MPI can be used by two
            threads.
        code: how messages encode numbers; None: as they are.
    """

    def __init__(
        self, here: World, comm: Any, hosts: Hosts, overlap: bool, code: Code | None
    ) -> None:
        self._here, self._comm = here, comm
        advance = weakref.WeakMethod(self._advance)
        self._by_mpi = MpiSum(here, comm)
        self.hosts, self._code = hosts, code
        self._wire = Wire(here)
        self._rows = RowsBetweenHosts(here, here.lend(self), hosts, code)
        self.transport = HostTransport(
            here, comm, self._rows.comm, hosts, lambda: method() if (method := advance()) else 0
        )
        self.overlap = Overlap(overlap and here.mpi.Query_thread() == here.mpi.THREAD_MULTIPLE)
        """What is sent while backward runs."""
        self._layout: Layout | None = None
        self._arrays: Arrays | None = None
        self._compression: ErrorFeedback | None = None
        self._refused = False
        self._used = np.zeros(0, bool)  # parameters used in the last step
        self._rows_round: RowsRound | None = None
        self._scale = 1.0  # of the last sum
        self._own = False  # each rank of the host takes only its own part of the next sum
        self._unread: list[Round | RowsRound] = []  # sums that may still be read before settle()
        self.owned = 0
        """Number of sums of which each rank took only its own part."""
        self._kept: dict[str, NDArray[Any]] = {}
        self._shared = False  # what is kept is that of the whole host

    # ---- before the negotiation --------------------------------------------------------

    def flush(self, weight: float) -> int:
        """As Overlap.flush(), also for the rows of tables."""
        if self._layout is None:
            return 0
        # first the rows: they are more bytes, and take more steps
        self._rows_round = self._rows.begin(self._layout.structure, weight)
        return self.overlap.flush(weight)

    # ---- in update() -------------------------------------------------------------------

    def sum(self, negotiated: Negotiated | AsPlanned) -> None:
        """As MpiSum.sum()."""
        assert isinstance(negotiated, Negotiated)
        structure, what = negotiated.structure, negotiated.what
        is_known = self._layout is not None and structure is self._layout.structure
        held, rows = self._finish_early(negotiated, is_known, what)
        if not is_known and not self._refused:
            self._place(structure, what)
        # MPI's sum needs to know what each rank has
        self.transport.structure = None if self._refused else structure
        if self._refused or self._layout is None:
            assert isinstance(negotiated, NegotiatedByRank)
            self._by_mpi.sum(negotiated)
            return
        self._scale = scale = negotiated.scale
        if self._own:
            self._take_rows(rows, scale, what, negotiated.used)
            return
        rest = negotiated.used & ~held
        round_ = self._round(rest, all_come=True) if rest.any() else None
        if round_:
            round_.open(negotiated.weight)
        if rows is None:
            rows = self._rows.begin(structure, negotiated.weight)
        self._drive(round_, rows, what)
        if round_:
            switch(lib.DN_EXCHANGE)
            self._put(rest, scale)
            round_.end()
        if rows:
            switch(lib.DN_ROWS)
            rows.put(scale)
            rows.end()
        self._prepare(negotiated.used)

    # ---- each rank takes its own part --------------------------------------------------

    def is_steady(self, negotiated: Negotiated | AsPlanned) -> bool:
        """Whether the whole next sum() is under way, in memory of this host's ranks, so that each
        rank can take the part that it owns."""
        assert isinstance(negotiated, Negotiated)
        early, layout = self.overlap.round, self._layout
        return (
            layout is not None
            and layout.structure is negotiated.structure
            and self._rows.windows is not None
            and early is not None
            and bool(negotiated.of_all & Flag.EARLY)
            and not (negotiated.used & ~self.overlap.used).any()
            and (self._rows_round is not None or not layout.structure.tables)
        )

    def own(self) -> None:
        """In the next sum() each rank takes its own part, and shares its squares for the norm.
        Other sums may be read until settle()."""
        self._own = True

    def _take_rows(
        self, rows: RowsRound | None, scale: float, what: str, used: NDArray[np.bool_]
    ) -> None:
        """Makes the rows that this rank owns their gradients, as was done for its part of the dense
        parameters. The norm is known once all ranks of the host have shared their squares."""
        arrays, lacks = self._arrays, False
        assert arrays is not None
        if rows:
            switch(lib.DN_ROWS)
        if rows and rows.are_owned():
            lacks = rows.put_own(scale)
        elif rows:
            rows.put(scale, own=True)
        self.owned += 1
        arrays.told += 1
        arrays.tell(TOLD, arrays.told)
        self._prepare(used)
        self._here.wait_until(lambda: arrays.have(TOLD, arrays.told), what)
        if rows:
            self._unread.append(rows)
            self._drive(None, rows, what)
            if lacks:
                rows.mark()

    def complete(self, negotiated: Negotiated | AsPlanned) -> None:
        """Makes all gradients visible, since no update follows the sum."""
        assert isinstance(negotiated, Negotiated)
        self._put(negotiated.used, negotiated.scale)
        for unread in self._unread:
            if isinstance(unread, RowsRound):
                unread.put(negotiated.scale)

    def settle(self) -> None:
        """Ends the reading of sums."""
        self._own = False
        for unread in self._unread:
            unread.end()
        self._unread.clear()

    def _advance(self) -> int:
        """Makes progress while messages are waited for: MPI moves large messages only while it is
        polled."""
        rows, moves = self._rows_round, 0
        if rows is not None:
            rows.advance()
            moves += rows.moves
        return moves + self.overlap.advance()

    def drop(self, what: str) -> None:
        """Finishes what flush() has begun after the ranks have failed to agree; gradients stay as
        they are. Collective."""
        early, rows = self._take()
        self._drive(early, rows, what)
        if early:
            early.end()
        if rows:
            rows.end()
        self.conclude(updated=False)

    def conclude(self, updated: bool, factor: float = 1.0, limit: float = 0.0) -> None:
        """Notes whether an update was made with the last sums. If so: times this factor, after each
        number was clipped to this limit (0: none). If not, residuals are restored."""
        limit /= self._scale or 1.0
        if self._compression is not None:
            if not updated:
                self._compression.take_back()
            assert self._arrays is not None
            self._compression.commit(factor, self._arrays.sum, limit)
        self._rows.conclude(updated, factor, limit)

    def _take(self) -> tuple[Round | None, RowsRound | None]:
        """Takes what began before the negotiation."""
        rows, self._rows_round = self._rows_round, None
        return self.overlap.take(), rows

    def _finish_early(
        self, negotiated: Negotiated, is_known: bool, what: str
    ) -> tuple[NDArray[np.bool_], RowsRound | None]:
        """Finishes what was sent early. Returns the parameters whose gradients are now summed, and
        the rows under way, if they are the right ones."""
        was_enabled = self.overlap.is_enabled
        early, rows = self._take()
        self.overlap.backoff.count_try()
        none = np.zeros(len(negotiated.structure.dense), bool)
        if early is not None or not is_known:
            self._drive(early, rows, what, self._own)
        if not is_known and rows is not None:
            rows.end()
            rows = None
            self._rows.conclude(updated=False)
        if early is None:
            return none, rows
        good = is_known and bool(negotiated.of_all & Flag.EARLY)
        held = self.overlap.used & negotiated.used if good else none
        if self._compression is not None and not good:
            self._compression.take_back()
        elif self._compression is not None:
            self._take_back(self._compression, self.overlap.used & ~held)
        self._put(held, negotiated.scale, self._own)
        if self._own:
            self._unread.append(early)
        else:
            early.end()
        self.overlap.judge(was_enabled, good, bool(negotiated.of_any & Flag.AHEAD))
        return held, rows

    def _take_back(self, compression: ErrorFeedback, sent: NDArray[np.bool_]) -> None:
        """Takes back the residuals of these parameters, whose messages nobody reads."""
        assert self._layout is not None
        for i in np.flatnonzero(sent).tolist():
            at = self._layout.at[i]
            compression.take_back(at, at + self._layout.sizes[i])

    def _prepare(self, used: NDArray[np.bool_]) -> None:
        """Prepares what the next step sends early: the parameters that both of the last two steps
        have used."""
        likely = used & self._used if self._used.size == used.size else used
        self._used = used
        if likely.any():
            late = self._is_late(likely)
            self.overlap.round, self.overlap.used = self._round(likely, all_come=late), likely

    def _is_late(self, used: NDArray[np.bool_]) -> bool:
        """Whether these are sent in update() alone: with many hosts and a single piece, which is
        complete only when all of it is, announcing its beginning would not pay."""
        assert self._layout is not None
        return len(self.hosts.ranks) >= FEWEST and len(self._layout.pieces(used)) == 1

    def _round(self, used: NDArray[np.bool_], all_come: bool) -> Round:
        assert self._layout is not None and self._arrays is not None
        layout = self._layout
        return Round(
            self._wire,
            self.hosts,
            layout.structure,
            self._arrays,
            layout.pieces(used),
            self._compression,
            all_come,
        )

    def _drive(
        self, round_: Round | None, rows: RowsRound | None, what: str, own: bool = False
    ) -> None:
        """Drives a round and the exchange of rows to their ends, side by side. own: rows only as
        far as this rank needs them."""
        has_rows = None
        if rows is not None:
            has_rows = rows.has_own if own and rows.are_owned() else rows.advance
        if round_:
            round_.take_over()
            round_.lock.acquire()  # the thread leaves it alone from now on
            round_.lock.release()
            if round_.error:
                raise round_.error

        def done() -> bool:
            is_there = has_rows is None or has_rows()
            is_summed = round_ is None or round_.advance()
            if is_summed and not is_there:
                switch(lib.DN_ROWS)
            return is_there and is_summed

        self._here.wait_until(
            done, what, moves=lambda: (round_.moves if round_ else 0) + (rows.moves if rows else 0)
        )

    def _put(self, used: NDArray[np.bool_], scale: float, own: bool = False) -> None:
        assert self._layout is not None and self._arrays is not None
        spans = self._layout.whole(used)
        lib.dn_params_put(len(spans), spans, scale, self._arrays.sum_pointer, own)

    # ---- memory ------------------------------------------------------------------------

    def _place(self, structure: Structure, what: str) -> None:
        """Makes the arrays for a new structure. Collective."""
        layout = Layout(structure, self.hosts)
        if self._layout is not None:
            self._kept, self._shared = self.residuals(), False
        host = self.hosts.mine
        sizes = [max(layout.size, 1) * DTYPE.itemsize, FLAG_BYTES, windows.BYTES]
        try:
            mapped = map_together(
                self._here,
                self._comm,
                host,
                len(host) + 1,
                None,
                lambda _: sizes if len(host) > 1 else [],
                what,
            )
        except OSError as error:
            self._refused = True
            say_refused(self._here, error)
            return
        self._layout, self._arrays = layout, Arrays(self.hosts, max(layout.size, 1), mapped[:2])
        self._rows.windows = windows.Windows(self.hosts, *mapped[2]) if mapped else None
        self._compression = ErrorFeedback(self._code, max(layout.size, 1)) if self._code else None
        self.load_residuals(self._kept, self._shared)

    # ---- residuals of compression ------------------------------------------------------

    def residuals(self) -> dict[str, NDArray[Any]]:
        """The rounding errors of this rank's messages so far, by parameter: "/w" flat, for tables
        the rows that were sent as (rows, width). Views, or copies without messages under way, which
        do not count yet."""
        if self._layout is None or self._compression is None:
            is_first = self._here.rank == self.hosts.mine[0]
            return dict(self._kept) if is_first or not self._shared else {}
        layout, early = self._layout, self.overlap.round
        with early.lock if early is not None else nullcontext():
            rest = self._compression.committed()
        dense = {
            p.name(): rest[at : at + n]
            for p, at, n in zip(layout.structure.dense, layout.at, layout.sizes, strict=True)
        }
        return dense | self._rows.residuals()

    def load_residuals(self, residuals: Mapping[str, NDArray[Any]], shared: bool = False) -> None:
        """Continues with these residuals. Parameters that are missing, or have another size now,
        begin with zero.

        Args:
            residuals: as residuals() returns them.
            shared: they are those of the whole host: this rank takes the part that it sends.
        """
        self._kept, self._shared = dict(residuals), shared
        if self._layout is None or self._compression is None:
            return
        layout, rest = self._layout, self._compression.residual
        self._compression.commit()
        rest[:] = 0
        for p, at, n in zip(layout.structure.dense, layout.at, layout.sizes, strict=True):
            known = residuals.get(p.name())
            if known is not None and known.size == n:
                rest[at : at + n] = known
        if shared:
            all_used = np.ones(len(layout.sizes), np.bool_)
            mine = np.zeros(rest.size, np.bool_)
            for piece in layout.pieces(all_used):
                mine[piece.start : piece.end] = True
            rest[~mine] = 0
            residuals = residuals if self.hosts.local < self.hosts.stripes else {}
        self._rows.load_residuals(layout.structure.tables, residuals, shared)
