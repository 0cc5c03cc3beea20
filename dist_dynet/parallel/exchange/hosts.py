"""The exchange between hosts: shared memory within each host, MPI's all-reduce between them.

Dense gradients are copied, times the rank's weight, into an array, the parameters that were made
last first: backward completes these first. The array is sent in buckets. Of each bucket, the ranks
of a host own a stripe each: the owner sums its stripe over the ranks of the host, in rank order,
and all-reduces the sum with the owners on the other hosts. The result, times 1 / sum of weights,
becomes the gradient. Of tables, a rank owns every n-th row.

Buckets of parameters that the last update has used start while backward runs, as soon as their
gradients are complete; a parameter that is not used now counts as zeros. The rest follows in
update(). If the gradients or the weight of any rank have changed since, all ranks drop these sums
and send again. This module knows who sends what, and when; averages and updates are made elsewhere.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, lib
from ..._weak import WeakSet
from ...expression import watchers
from ...meter import switch
from ...params.root import Root
from ..agreement.message import Flag
from ..agreement.negotiation import AsPlanned, MpiTransport, Negotiated, NegotiatedByRank
from ..agreement.structure import Structure
from ..processes.memory import map_together, say_refused
from ..processes.mpi import abandoned
from ..processes.world import World
from .buckets import Arrays, Hosts, Layout, Round, Sums
from .compression import decode
from .exchange import MpiSum, RowSum, Weight

_PATIENCE = 3.0
"""Seconds that the end of the program waits for buckets that no update() has asked for."""


# ---- while backward runs ---------------------------------------------------------------


class Overlap:
    """Starts the next sum while backward runs, between its steps. Each time that the ranks drop
    such a sum, they go without for twice as many updates as the time before.

    Args:
        is_possible: whether anything may start before the ranks have negotiated.
    """

    def __init__(self, is_possible: bool) -> None:
        self.is_possible = is_possible
        self.round: Round | None = None
        """What starts before the negotiation, in backward or in update()."""
        self.held = self.dropped = 0
        """How many of these sums were used, and how many were dropped."""
        self._weight: Weight | None = None
        self._thread = self._skip = 0

    def enable(self, weight: Weight) -> None:
        """The next backward is the last before update(): complete gradients may be sent, times this
        weight."""
        if self.round is not None and self.round.weight is None:
            root = self.round.layout.structure.root
            self._weight, self._thread = weight, threading.get_ident()
            lib.dn_store_set_hook(root.c, lib.DN_HOOK_STEPS)
            if self not in watchers:
                watchers.add(self)
                weakref.finalize(self, _leave, root).atexit = False

    def look(self) -> None:
        """Called after a step of any backward: sends what is complete."""
        round_ = self.round
        if round_ is None or self._weight is None or threading.get_ident() != self._thread:
            return
        if round_.weight is None:
            state = lib.dn_store_await(round_.layout.structure.root.c, 0.0)
            weight = self._weight() if state == lib.DN_HOOK_BEGUN else None
            if weight is None:
                return
            round_.open(weight)
        round_.advance()

    def disable(self) -> None:
        """The next backward is not the last before update()."""
        if self._weight is not None and self.round is not None and self.round.weight is None:
            lib.dn_store_set_hook(self.round.layout.structure.root.c, lib.DN_HOOK_OFF)
            self._weight = None

    def flush(self, weight: float) -> int:
        """Called in update(): all gradients are complete, and have this weight. Returns Flag.EARLY
        if what was sent is still valid."""
        round_ = self.round
        if round_ is None:
            return 0
        is_current = round_.weight is None or self._is_current(round_, weight)
        if self._weight is not None:
            lib.dn_store_set_hook(round_.layout.structure.root.c, lib.DN_HOOK_OFF)
        round_.complete = True
        round_.open(weight)
        round_.advance()
        return Flag.EARLY * is_current

    def _is_current(self, round_: Round, weight: float) -> bool:
        """Whether what was sent in backward still equals the gradients."""
        structure = round_.layout.structure
        return (
            round_.weight == weight
            and lib.dn_store_await(structure.root.c, 0.0) == lib.DN_HOOK_COMPLETE
            # not of a backward before the last, for another trainer's update
            and round_.watched == lib.dn_store_hook_count(structure.root.c)
            and all(map(lib.dn_param_unchanged, structure.handles[: len(structure.dense)]))
        )

    def prepare(self, make: Callable[[], Round]) -> None:
        """Prepares the next sum, unless it is to be left out."""
        self._weight = None
        if self._skip:
            self._skip -= 1
        elif self.is_possible:
            self.round = make()

    def judge(self, good: bool) -> None:
        """Notes whether the ranks use the sum."""
        self.held, self.dropped = self.held + good, self.dropped + (not good)
        if not good:
            self._skip = 1 << min(self.dropped, 10)


os.register_at_fork(after_in_child=watchers.clear)  # a child's gradients go nowhere


def _leave(root: Root) -> None:
    lib.dn_store_set_hook(root.c, lib.DN_HOOK_OFF)


# ---- the engine ------------------------------------------------------------------------


class HybridExchange:
    """The exchange for several hosts. If a host has no shared memory left, MPI is used instead, and
    rank 0 reports this on stderr.

    Args:
        here: all ranks.
        comm: their communicator.
        hosts: which rank runs where.
        overlap: send gradients while backward runs.
        compression: "bf16", or None.
    """

    def __init__(
        self, here: World, comm: Any, hosts: Hosts, overlap: bool, compression: str | None
    ) -> None:
        self._here, self._comm, self.hosts = here, comm, hosts
        self._by_mpi = MpiSum(here, comm)
        advance = weakref.WeakMethod(self._advance)
        self.transport = MpiTransport(here, comm, lambda: call() if (call := advance()) else 0)
        self.overlap = Overlap(overlap)
        """What starts while backward runs."""
        stripe = min(hosts.local, hosts.owners)  # the other ranks get a communicator they ignore
        between = here.lend(self, stripe)
        again = here.lend(self, stripe) if compression else None
        local = here.lend(self, hosts.host) if len(hosts.ranks) < here.size else None
        local = local if len(hosts.mine) > 1 else None
        self._sums = sums = Sums(here, hosts, between, again, local)
        self._rows = RowSum(here, between)
        if compression:
            self._rows = RowSum(here, between, sums.all_reduce_rows, sums.encoded, decode)
        self._within = RowSum(here, local) if local else None
        self._kept: Mapping[str, NDArray[Any]] = {}  # residuals from before the first exchange
        self._shared = False  # they are those of the whole host
        self._layout: Layout | None = None
        self._refused = False
        _end_before_mpi()
        _exchanges.add(self)
        self._under_way: list[Round] = []
        weakref.finalize(self, _abandon, self._under_way).atexit = False

    # ---- in update() -------------------------------------------------------------------

    def flush(self, weight: float) -> int:
        """Called in update(), before the negotiation: starts what can be known to be sent. Returns
        Flag.EARLY if it is still valid."""
        return self.overlap.flush(weight)

    def sum(self, negotiated: Negotiated | AsPlanned) -> None:
        """As MpiSum.sum()."""
        assert isinstance(negotiated, NegotiatedByRank)
        structure, what, used = negotiated.structure, negotiated.what, negotiated.used
        early = self._finish_early(what)
        is_known = self._layout is not None and structure is self._layout.structure
        if not is_known and not self._refused:
            self.conclude(updated=False)
            early = None
            self._place(structure, what)
        if self._refused or self._layout is None:
            self._by_mpi.sum(negotiated)
            return
        summed = np.zeros_like(used)
        if early is not None:
            summed = self._take(early, used, bool(negotiated.of_all & Flag.EARLY))
            self._put(summed, negotiated.scale)
        rest = used & ~summed
        if rest.any():
            late = Round(self._sums, self._layout, rest, complete=True)
            late.open(negotiated.weight)
            self._finish(late, what)
            self._put(rest, negotiated.scale)
        self._sum_rows(negotiated)
        self.overlap.prepare(lambda: self._next_round(used))

    def _take(self, early: Round, used: NDArray[np.bool_], good: bool) -> NDArray[np.bool_]:
        """The parameters whose gradients this round has summed."""
        self.overlap.judge(good)
        if not good:
            self.conclude(updated=False)
            return np.zeros_like(used)
        return used & early.used

    def _next_round(self, used: NDArray[np.bool_]) -> Round:
        assert self._layout is not None
        round_ = Round(self._sums, self._layout, used, complete=False)
        self._under_way[:] = [round_]
        return round_

    def _sum_rows(self, negotiated: NegotiatedByRank) -> None:
        """Sums rows of tables: over the ranks of the host, each for the rows that it owns; over the
        hosts; and the ranks of the host get those of all owners."""
        which = np.flatnonzero(negotiated.rows.any(axis=0))
        factor = float(negotiated.factors[self._here.rank])
        for k in which if factor != 1 else ():
            handle = negotiated.structure.handles[len(negotiated.structure.dense) + k]
            lib.dn_param_scale_gradient(handle, factor)
        if len(self.hosts.ranks) == self._here.size:
            self._rows.sum(negotiated, which, negotiated.rows[:, which])
            return
        owners, local = self.hosts.owners, self.hosts.local
        if self._within is not None:
            counts = negotiated.rows[self.hosts.mine][:, which]
            self._within.sum(negotiated, which, counts, lambda ids: ids % owners == local)
        if self._sums.is_owner:
            self._rows.sum(negotiated, which)
        if self._within is not None:
            self._within.sum(negotiated, which)

    def _put(self, used: NDArray[np.bool_], scale: float) -> None:
        """The sums, times this factor, become the gradients."""
        assert self._layout is not None and self._sums.arrays is not None
        if self._sums.feedback is not None:
            self._sums.feedback.use(np.repeat(used[::-1], self._layout.sizes[::-1]))
        if used.any():
            lib.dn_params_put(*self._layout.whole(used), scale, self._sums.arrays.pointer)

    def _finish(self, round_: Round, what: str) -> None:
        """Waits until all ranks of the host can read the sums."""
        switch(lib.DN_EXCHANGE)
        self._here.wait_until(round_.advance, what, moves=lambda: round_.moves)
        if self._sums.local:
            self._here.wait([self._sums.local.Ibarrier()], what)

    def _finish_early(self, what: str) -> Round | None:
        early, self.overlap.round = self.overlap.round, None
        if early is not None:
            self._finish(early, what)
        self._under_way.clear()
        return early

    def drop(self, what: str) -> None:
        """Finishes what flush() has started after the ranks have failed to agree; gradients stay as
        they are. Collective."""
        early = self._finish_early(what)
        self.conclude(updated=False)
        if early is not None:
            self.overlap.prepare(lambda: self._next_round(early.used))

    def conclude(self, updated: bool, factor: float = 1.0) -> None:
        """Notes whether an update was made with the last sums, times this factor. If not, residuals
        stay as they were."""
        if self._sums.feedback is not None:
            self._sums.feedback.commit(factor) if updated else self._sums.feedback.discard()

    def _advance(self) -> int:
        """Makes progress while messages are waited for."""
        early = self.overlap.round
        if early is not None:
            early.advance()
        return early.moves if early is not None else 0

    def end(self) -> None:
        """Called at the end of the program: finishes what backward has started, if the other ranks
        have started it, too."""
        early, until = self.overlap.round, time.monotonic() + _PATIENCE
        if early is not None and early.weight is not None:
            early.complete = True
            while not early.advance() and time.monotonic() < until:
                time.sleep(1e-3)

    def _place(self, structure: Structure, what: str) -> None:
        """Makes the arrays for a new structure. Collective."""
        kept, shared = (self._kept, self._shared) if not self._layout else (self.residuals(), False)
        layout, host = Layout(structure), self.hosts.mine
        sizes = [max(layout.size, 1) * DTYPE.itemsize] if len(host) > 1 else []
        try:
            mapped = map_together(
                self._here, self._comm, host, len(host) + 1, None, lambda _: sizes, what
            )
        except OSError as error:
            self._refused = True
            say_refused(self._here, error)
            return
        self._layout, self._sums.arrays = layout, Arrays(self.hosts, max(layout.size, 1), mapped)
        self.load_residuals(kept, shared)

    # ---- residuals of compression ------------------------------------------------------

    def residuals(self) -> dict[str, NDArray[Any]]:
        """The rounding errors of this rank's messages so far, by parameter: "/w" flat, for tables
        the rows as (rows, width). Views."""
        if self._layout is None or self._sums.feedback is None:
            is_first = self._here.rank == self.hosts.mine[0]
            return dict(self._kept) if is_first or not self._shared else {}
        layout = self._layout
        places = zip(layout.structure.dense, layout.at, layout.sizes, strict=True)
        dense = {p.name(): self._sums.residual[at : at + n] for p, at, n in places}
        return dense | self._sums.row_residuals

    def load_residuals(self, residuals: Mapping[str, NDArray[Any]], shared: bool = False) -> None:
        """Continues with these residuals. Parameters that are missing, or have another size now,
        begin with zero.

        Args:
            residuals: as residuals() returns them.
            shared: they are those of the whole host: this rank takes the part that it sends.
        """
        self._kept, self._shared = dict(residuals), shared
        layout = self._layout
        if layout is None or self._sums.feedback is None:
            return
        self._sums.feedback.discard()
        rest = np.zeros(max(layout.size, 1), DTYPE)
        for p, at, n in zip(layout.structure.dense, layout.at, layout.sizes, strict=True):
            known = residuals.get(p.name())
            if known is not None and known.size == n:
                rest[at : at + n] = known
        self._sums.residual, self._sums.row_residuals = rest, {}
        for table in layout.structure.tables:
            known, mine = residuals.get(table.name()), self._sums.residual_of(table)
            if known is not None and known.shape == mine.shape:
                mine[:] = known
        if shared:
            local, owners = self.hosts.local, self.hosts.owners
            mine = np.zeros(rest.size, np.bool_)
            every = layout.buckets(np.ones(len(layout.sizes), np.bool_))
            for bucket in every if self._sums.is_owner else ():
                mine[self._sums.stripe(bucket.start, bucket.end)] = True
            rest[~mine] = 0
            for rows in self._sums.row_residuals.values():
                rows[np.arange(len(rows)) % owners != local] = 0


_exchanges: WeakSet[HybridExchange] = WeakSet()


@cache
def _end_before_mpi() -> None:
    """Registers once, after MPI was started, so that it runs before MPI ends."""
    atexit.register(_end_all)


def _end_all() -> None:
    for exchange in list(_exchanges):
        exchange.end()


def _abandon(rounds: list[Round]) -> None:
    """Keeps the buffers of messages that are under way when their exchange is gone."""
    abandoned.extend(round_ for round_ in rounds if round_.weight is not None)
