"""The exchange between hosts: shared memory within each, the wire between them.

Dense gradients are copied, times the rank's weight, into an array in the order of sending
(layout.py). Within a host the arrays are shared memory and are added up by stripes, in rank order;
wire.py adds up the hosts' sums. What comes out, times 1 / sum of weights, becomes the gradient.

Which parameters will be used is not known when backward begins: those of the last two updates are
sent early, as zeros where they are not used now; the rest follows in update(). A round is the same
whether it begins in backward or in update(), so that both give the same bits. What is not under way
when update() comes, rows of tables too, leaves then at once, before the ranks agree on anything:
the agreement only says whether that was all. overlap.py knows who sends while backward goes on,
this module what was agreed on; averages and updates are not its business.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, lib
from ..meter import switch
from . import windows
from ._world import World
from .compression import Code, ErrorFeedback
from .exchange import MpiSum, Weight
from .host_transport import HostTransport
from .joining import FEWEST
from .layout import FLAG_BYTES, TOLD, Arrays, Layout
from .memory import map_together, say_refused
from .message import Flag
from .negotiation import AsPlanned, Negotiated, NegotiatedByRank
from .overlap import Overlap
from .rounds import Round, Wire
from .rows import RowsBetweenHosts, RowsRound
from .structure import Structure
from .wire import Hosts


class HybridExchange:
    """The exchange for several hosts. Where a host has no room in shared memory it goes on by MPI,
    and rank 0 says so on stderr.

    Args:
        here: all ranks.
        comm: their communicator.
        hosts: which of them runs where.
        overlap: send gradients while backward goes on, where it pays, if MPI can be used by two
            threads.
        code: what messages hold instead of numbers as they are.
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
        """What is sent while backward goes on."""
        self._layout: Layout | None = None
        self._arrays: Arrays | None = None
        self._compression: ErrorFeedback | None = None
        self._refused = False
        self._used = np.zeros(0, bool)  # in the last step
        self._rows_round: RowsRound | None = None
        self._scale = 1.0  # of the last sum
        self._own = False  # each rank of the host takes its own of the next sum
        self._unread: list[Round | RowsRound] = []  # sums that may be read until settle()
        self.owned = 0
        """Of how many sums each rank took its own alone."""
        self._kept: dict[str, NDArray[Any]] = {}
        self._shared = False  # what is kept is that of the whole host

    # ---- before the agreement ----------------------------------------------------------

    def enable_overlap(self, weight: Weight) -> None:
        """As Overlap.enable()."""
        self.overlap.enable(weight)

    def disable_overlap(self) -> None:
        """As Overlap.disable()."""
        self.overlap.disable()

    def flush(self, weight: float) -> int:
        """As Overlap.flush(), and with the rows of tables."""
        if self._layout is None:
            return 0
        # more bytes, and more steps
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
        # for MPI's sum each rank must know of each what it has
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

    # ---- each its own ------------------------------------------------------------------

    def is_steady(self, negotiated: Negotiated | AsPlanned) -> bool:
        """Whether all of the next sum() is under way, in memory of this host's ranks, so that each
        may take of it what it owns."""
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
        """In the next sum() each rank takes its own, in a window with squares. Other sums may be
        read until settle()."""
        self._own = True

    def _take_rows(
        self, rows: RowsRound | None, scale: float, what: str, used: NDArray[np.bool_]
    ) -> None:
        """The rows that this rank owns become its gradient, as its numbers of dense parameters have
        become. When all of the host have told the squares of theirs the norm is known."""
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
        """No update follows the sum: gradients are to be seen as they are."""
        assert isinstance(negotiated, Negotiated)
        self._put(negotiated.used, negotiated.scale)
        for unread in self._unread:
            if isinstance(unread, RowsRound):
                unread.put(negotiated.scale)

    def settle(self) -> None:
        """Sums are not read any more."""
        self._own = False
        for unread in self._unread:
            unread.end()
        self._unread.clear()

    def _advance(self) -> int:
        """While messages are waited for: MPI moves large messages only while somebody looks at
        it."""
        rows, moves = self._rows_round, 0
        if rows is not None:
            rows.advance()
            moves += rows.moves
        return moves + self.overlap.advance()

    def drop(self, what: str) -> None:
        """The ranks have not agreed: what flush() has begun is brought to its end, and gradients
        stay as they are. Collective."""
        early, rows = self._take()
        self._drive(early, rows, what)
        if early:
            early.end()
        if rows:
            rows.end()
        self.conclude(updated=False)

    def conclude(self, updated: bool, factor: float = 1.0, limit: float = 0.0) -> None:
        """An update was made by the last sums times this factor, each number clipped before to this
        limit if it is not 0; or none was: then residuals are as before."""
        limit /= self._scale or 1.0
        if self._compression is not None:
            if not updated:
                self._compression.take_back()
            assert self._arrays is not None
            self._compression.commit(factor, self._arrays.sum, limit)
        self._rows.conclude(updated, factor, limit)

    def _take(self) -> tuple[Round | None, RowsRound | None]:
        """What began before the agreement; nothing is left here."""
        rows, self._rows_round = self._rows_round, None
        return self.overlap.take(), rows

    def _finish_early(
        self, negotiated: Negotiated, is_known: bool, what: str
    ) -> tuple[NDArray[np.bool_], RowsRound | None]:
        """Puts down what was sent early: the parameters whose gradients are summed now, and the
        rows under way, if they are those wanted."""
        was_armed = self.overlap.is_armed
        early, rows = self._take()
        self.overlap.backoff.pass_one()
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
        self.overlap.judge(was_armed, good, bool(negotiated.of_any & Flag.AHEAD))
        return held, rows

    def _take_back(self, compression: ErrorFeedback, sent: NDArray[np.bool_]) -> None:
        """Of these parameters messages have left that nobody reads."""
        assert self._layout is not None
        for i in np.flatnonzero(sent).tolist():
            at = self._layout.at[i]
            compression.take_back(at, at + self._layout.sizes[i])

    def _prepare(self, used: NDArray[np.bool_]) -> None:
        """What the next step sends early: what both of the last two have used. Where two backward()
        a step are the rule, not in backward."""
        likely = used & self._used if self._used.size == used.size else used
        self._used = used
        if likely.any():
            late = self._is_late(likely)
            self.overlap.round, self.overlap.used = self._round(likely, all_come=late), likely

    def _is_late(self, used: NDArray[np.bool_]) -> bool:
        """Whether these leave in update() alone: many hosts would have to tell one another that
        they have begun, for a single piece, which is complete when all of it is."""
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
        """Drives a round and the exchange of rows side by side to their ends; own: of rows as far
        as this rank needs."""
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
        """Arrays for a new structure. Collective."""
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

    # ---- what compression has left over ------------------------------------------------

    def residuals(self) -> dict[str, NDArray[Any]]:
        """What this rank's messages have lacked so far, by parameter: "/w" flat, of tables the rows
        that were sent as (rows, width). Views, or copies while some are under way, which do not
        count yet."""
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
        """Goes on with these; parameters that are not named, or have another size now, begin with
        nothing.

        Args:
            residuals: as residuals() gives them.
            shared: they are those of the whole host: this rank takes of them what it sends.
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
