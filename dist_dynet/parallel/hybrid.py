"""The exchange between hosts: shared memory within each, the wire between them, while backward goes on.

Dense gradients are copied, times the rank's weight, into an array in the order of sending (layout.py). Within a host the arrays are shared
memory and are added up by stripes, in rank order; wire.py adds up the hosts' sums. What comes out, times 1 / sum of weights, becomes the
gradient. Since gradients stay as they are until update(), another backward() in between does no harm: what was sent early is dropped then,
and sent again.

Which parameters will be used is not known when backward begins: those of the last update are sent early, as zeros where they are not used
now; the rest follows in update(). A round is the same whether it begins in backward or in update(), so that both give the same bits. This
module knows what was agreed on; averages and updates are not its business.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, lib
from ._world import World
from .agreement import Agreed
from .compression import Bf16
from .exchange import MpiExchange, Weight
from .layout import Arrays, Layout
from .memory import map_together, say_refused
from .report import Flag
from .rounds import Helper, Round
from .rows import Done, RowsBetweenHosts
from .structure import Structure
from .wire import Hosts

_MOST_SKIPPED = 1024


class HybridExchange(MpiExchange):
    """The engine for several hosts. Where a host has no room in shared memory it goes on as MpiExchange, and rank 0 says so on stderr.

    Args:
        here: all ranks.
        comm: their communicator.
        hosts: which of them runs where.
        overlap: send gradients while backward goes on, if MPI can be used by two threads.
        compressed: send bfloat16.
    """

    def __init__(self, here: World, comm: Any, hosts: Hosts, overlap: bool, compressed: bool) -> None:
        super().__init__(here, comm)
        self._hosts, self._compressed = hosts, compressed
        self._wire = here.duplicate(comm)
        self._rows = RowsBetweenHosts(here, here.duplicate(comm), hosts, compressed)
        self._overlap = overlap and here.mpi.Query_thread() == here.mpi.THREAD_MULTIPLE
        self._helper: Helper | None = None
        self._layout: Layout | None = None
        self._arrays: Arrays | None = None
        self._compression: Bf16 | None = None
        self._refused = False
        self._early: Round | None = None
        self._early_used: NDArray[np.bool_] = np.zeros(0, bool)
        self._vain = self._skip = 0
        self.held = self.dropped = 0
        """How many rounds that began before update() were of use, and how many were not."""
        self._kept: dict[str, NDArray[Any]] = {}

    # ---- while backward goes on --------------------------------------------------------------------------------------------------------

    def arm(self, weight: Weight) -> None:
        """The next backward is the last before update(): what is complete may be sent, times this weight."""
        if self._early is None or self._layout is None or self._early.weight is not None:
            return
        if self._helper is None:
            self._helper = Helper()
            self._helper.start()
            weakref.finalize(self, self._helper.stop).atexit = False  # at exit rounds.py sees to it
        root = self._layout.structure.root
        lib.dn_root_watch(root.c, lib.DN_WATCH_ARMED)
        self._helper.watch(self._early, root, weight)

    def disarm(self) -> None:
        """The next backward is not the last."""
        if self._early is not None and self._early.weight is None and self._layout is not None:
            lib.dn_root_watch(self._layout.structure.root.c, lib.DN_WATCH_OFF)

    def hasten(self, weight: float) -> bool:
        """update() has come: all gradients are complete, and this is their weight. Whether what was sent early is what there is to be sent."""
        early = self._early
        if early is None or self._layout is None:
            return False
        structure = self._layout.structure
        with early.lock:
            state = lib.dn_root_await(structure.root.c, 0.0)
            lib.dn_root_watch(structure.root.c, lib.DN_WATCH_OFF)
            good = early.weight is None or (
                early.weight == weight
                and state == lib.DN_WATCH_COMPLETE
                and all(lib.dn_param_unchanged(handle) for handle in structure.handles[: len(structure.dense)])
            )
            early.complete = True
            early.open(weight)
        return good

    # ---- in update() -------------------------------------------------------------------------------------------------------------------

    def sum(self, agreed: Agreed, what: str) -> None:
        """As Exchange.sum."""
        held = self._finish_early(agreed, what)
        structure = agreed.structure
        if (self._layout is None or structure is not self._layout.structure) and not self._refused:
            self._place(structure, what)
            held = np.zeros(len(structure.dense), bool)
        if self._refused or self._layout is None:
            super().sum(agreed, what)
            return
        used = np.logical_or.reduce(agreed.filled)
        self._filled_elsewhere(agreed, used)
        rest = used & ~held
        round_ = self._round(rest, all_come=True) if rest.any() else None
        if round_:
            round_.open(float(agreed.weights[self._here.rank]))
        self._scale(agreed, structure.handles[len(structure.dense) :])
        self._drive(round_, self._rows.steps(agreed), what)
        if round_:
            self._put(rest, agreed.scale)
            round_.end()
        self._prepare(used)

    def _finish_early(self, agreed: Agreed, what: str) -> NDArray[np.bool_]:
        """Waits for what was sent early; the parameters whose gradients are summed by it."""
        early, self._early = self._early, None
        none = np.zeros(len(agreed.structure.dense), bool)
        if early is None:
            return none
        self._drive(early, iter(()), what)
        is_known = self._layout is not None and agreed.structure is self._layout.structure
        good = is_known and bool((agreed.flags & Flag.EARLY).all())
        held = self._early_used & np.logical_or.reduce(agreed.filled) if good else none
        self._put(held, agreed.scale)
        early.end()
        self.held, self.dropped = self.held + good, self.dropped + (not good)
        self._vain = 0 if good else min(max(2 * self._vain, 1), _MOST_SKIPPED)
        self._skip = self._vain
        return held

    def _prepare(self, used: NDArray[np.bool_]) -> None:
        """What the next backward may send early. Where two backward() a step are the rule, that is tried more and more seldom."""
        self._skip -= 1
        if self._overlap and self._skip < 0 and used.any():
            self._early, self._early_used = self._round(used, all_come=False), used

    def _round(self, used: NDArray[np.bool_], all_come: bool) -> Round:
        assert self._layout is not None and self._arrays is not None
        layout = self._layout
        return Round(self._wire, self._hosts, layout.structure, self._arrays, layout.pieces(used), self._compression, all_come)

    def _drive(self, round_: Round | None, steps: Iterator[Done], what: str) -> None:
        """Drives a round and the exchange of rows side by side."""
        if round_:
            round_.taken_over = True
            round_.lock.acquire()  # the thread leaves it alone from now on
            round_.lock.release()
            if round_.error:
                raise round_.error
        ready = next(steps, None)

        def done() -> bool:
            nonlocal ready
            is_summed = round_ is None or round_.advance()
            while ready is not None and ready():
                ready = next(steps, None)
            return is_summed and ready is None

        self._here.wait_until(done, what, moves=lambda: (round_.moves if round_ else 0) + self._rows.moves)

    def _put(self, used: NDArray[np.bool_], scale: float) -> None:
        assert self._layout is not None and self._arrays is not None
        sums, layout = self._arrays.sum_pointer, self._layout
        for i in np.flatnonzero(used).tolist():
            lib.dn_param_put(layout.structure.handles[i], scale, sums + layout.at[i])

    # ---- memory ------------------------------------------------------------------------------------------------------------------------

    def _place(self, structure: Structure, what: str) -> None:
        """Arrays for a new structure. Collective."""
        layout = Layout(structure, self._hosts)
        self._kept = self.residuals()
        host = self._hosts.mine
        sizes = [max(layout.size, 1) * DTYPE.itemsize, 3 * 64]
        try:
            mapped = map_together(
                self._here, self._comm, host, len(host) + 1, None, lambda _: sizes if len(host) > 1 else [], what
            )
        except OSError as error:
            self._refused = True
            say_refused(self._here, error)
            return
        self._layout, self._arrays = layout, Arrays(self._hosts, max(layout.size, 1), mapped)
        self._compression = Bf16(max(layout.size, 1)) if self._compressed else None
        self.load_residuals(self._kept)

    # ---- what compression has left over ------------------------------------------------------------------------------------------------

    def residuals(self) -> dict[str, NDArray[Any]]:
        """What this rank's messages have lacked so far, by parameter: "/w" flat, of tables the rows that were sent as (rows, width)."""
        if self._layout is None or self._compression is None:
            return dict(self._kept)
        layout, rest = self._layout, self._compression.rest
        dense = {p.name(): rest[at : at + n].copy() for p, at, n in zip(layout.structure.dense, layout.at, layout.sizes, strict=True)}
        return dense | self._rows.residuals()

    def load_residuals(self, residuals: Mapping[str, NDArray[Any]]) -> None:
        """Goes on with these; parameters that are not named, or have another size now, begin with nothing."""
        self._kept = dict(residuals)
        if self._layout is None or self._compression is None:
            return
        layout, rest = self._layout, self._compression.rest
        rest[:] = 0
        for p, at, n in zip(layout.structure.dense, layout.at, layout.sizes, strict=True):
            if residuals.get(p.name(), rest[:0]).size == n:
                rest[at : at + n] = residuals[p.name()]
        self._rows.load_residuals(layout.structure.tables, residuals)
