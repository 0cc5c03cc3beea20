"""One exchange of dense gradients between hosts, and the thread that drives it while backward runs.

Round.advance() does what can be done and returns. The thread calls it or, from update() on, the
main thread.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from functools import cache

from ..._ffi import lib
from ..._weak import WeakSet
from ...params.root import Root
from ..agreement.structure import Structure
from ..processes.world import World
from .compression import ErrorFeedback
from .exchange import Weight
from .layout import FILLED, READ, SUMMED, Arrays
from .wire import Hosts, Piece, Sum

_NAP = 1e-3
"""Seconds between two polls of the thread. What arrives meanwhile, 125 kB at 1 Gbit/s, waits in the
kernel's buffers, and each poll takes the core from backward."""


_PATIENCE = 3.0
"""Seconds that the end of the program waits for a round that all hosts have begun and that no
update() has asked for."""


class Wire:
    """A communicator for rounds alone. It is lent for as long as a round may use it, or is open and
    was never taken over: messages of such a round were sent, and would reach the next user of the
    communicator."""

    __slots__ = ("__weakref__", "comm")

    def __init__(self, here: World) -> None:
        self.comm = here.lend(self)


class Round:
    """Sums the gradients of some parameters over all ranks, into arrays.sum.

    Args:
        wire: the communicator, for rounds of these arrays alone.
        hosts: the ranks.
        structure: of the parameters.
        arrays: of this host.
        pieces: what is sent.
        compression: of messages.
        all_come: all ranks are in update(), so that all begin, and all gradients are complete.
    """

    def __init__(
        self,
        wire: Wire,
        hosts: Hosts,
        structure: Structure,
        arrays: Arrays,
        pieces: list[Piece],
        compression: ErrorFeedback | None,
        all_come: bool,
    ) -> None:
        self.lock = threading.Lock()  # held by whoever advances it
        self.weight: float | None = None  # factor for the gradients; None: not open yet
        self.watched = 0  # the number of the watched backward in which it was opened
        self.complete = all_come  # all gradients are complete, whatever the hook says
        self.taken_over = False
        self.error: BaseException | None = None
        self._wire, self._hosts, self._arrays, self._pieces = wire, hosts, arrays, pieces
        self.structure = structure
        self._compression = compression
        self._all_come = all_come
        self._sum: Sum | None = None
        self._filled = self._sent = 0
        self._began: float | None = None
        self._told = self._over = False
        arrays.rounds += 1
        self._number, self._first = arrays.rounds, arrays.pieces
        arrays.pieces += len(pieces)

    def open(self, weight: float) -> None:
        """Starts to take and send complete gradients, times this weight. Further calls do
        nothing."""
        if self.weight is None:
            self.watched = lib.dn_store_hook_count(self.structure.root.c)
            self.weight = weight
            _stop_before_mpi()
            _unfinished.add(self)
            self._sum = Sum(
                self._wire.comm,
                self._hosts,
                self._arrays.sum,
                self._compression,
                self._all_come,
                self._arrays.halving_sums(self._wire.comm),
            )

    def flush(self, weight: float) -> None:
        """Called in update(): all gradients are complete, and all ranks will arrive, so that
        everything that can be sent is sent now."""
        self.complete = True
        self.open(weight)
        assert self._sum is not None
        self._sum.trust()
        self.advance()

    def head_start(self) -> float:
        """How many seconds ago the first gradients were complete."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def moves(self) -> int:
        """A number that increases with all progress."""
        summed = self._sum.moves if self._sum else 0
        return self._filled + self._sent + summed + self._told + self._over

    def advance(self) -> bool:
        """Makes progress. Returns whether arrays.sum holds the sums."""
        if self._sum is None or self._over:
            return self._over
        arrays, pieces = self._arrays, self._pieces
        while self._filled < len(pieces) and self._is_complete(pieces[self._filled]):
            if self._began is None:
                self._began = time.monotonic()
            self._fill(pieces[self._filled])
            self._filled += 1
            arrays.tell(FILLED, self._first + self._filled)
        while (
            self._sent < self._filled
            and arrays.have(FILLED, self._first + self._sent + 1)
            and arrays.have(READ, self._number - 1)
        ):
            self._send(pieces[self._sent])
            self._sent += 1
        if not self._sum.advance() or self._sent < len(pieces):
            return False
        if not self._told:
            arrays.tell(SUMMED, self._number)
            self._told = True
        self._over = arrays.have(SUMMED, self._number)
        return self._over

    def take_over(self) -> None:
        """From now on the main thread alone drives it to its end."""
        self.taken_over = True
        _unfinished.discard(self)

    def end(self) -> None:
        """arrays.sum is no longer read."""
        self._arrays.tell(READ, self._number)

    def stop(self, patience: float) -> None:
        """Ends the round with the program, without an update(): what is under way gets so many
        seconds, and what never began is abandoned."""
        until = time.monotonic() + patience
        if self._sum is None:
            return
        while self._sum.met and not self._sum.advance() and time.monotonic() < until:
            time.sleep(_NAP)
        self._sum.abandon()

    def _is_complete(self, piece: Piece) -> bool:
        return self.complete or all(
            lib.dn_param_ready(self.structure.handles[i]) >= end for i, _, end, _ in piece.parts
        )

    def _fill(self, piece: Piece) -> None:
        assert self.weight is not None
        lib.dn_params_take(len(piece.parts), piece.taken, self.weight, self._arrays.pointer)

    def _send(self, piece: Piece) -> None:
        assert self._sum is not None
        if self._hosts.local >= self._hosts.stripes:
            return
        if len(self._arrays.locals) > 1:
            self._arrays.add_up(piece.start, piece.end)
        self._sum.begin(piece)


class ExchangeThread(threading.Thread):
    """Drives rounds while the main thread is in backward, which does not need Python's lock."""

    def __init__(self) -> None:
        super().__init__(name="dist_dynet exchange", daemon=True)
        self._jobs: queue.SimpleQueue[tuple[Round, Root, Weight] | None] = queue.SimpleQueue()
        self._present: tuple[Round, Root] | None = None
        self._stopped = False
        _stop_before_mpi()
        _threads.add(self)

    def watch(self, round_: Round, root: Root, weight: Weight) -> None:
        """Opens the round when the root's backward begins, with the weight at that time."""
        self._jobs.put((round_, root, weight))

    def run(self) -> None:
        """Drives one round after the other until stop()."""
        while (job := self._jobs.get()) is not None and not self._stopped:
            self._present = job[:2]
            try:
                self._drive(*job)
            except BaseException as error:  # the main thread raises it
                job[0].error = error
            del job

    def stop(self) -> None:
        """Ends the thread, and what it has begun."""
        self._stopped = True
        if self._present:
            lib.dn_store_set_hook(self._present[1].c, lib.DN_HOOK_OFF)
        self._jobs.put(None)
        self.join()
        if self._present and not self._present[0].taken_over:
            self._present[0].stop(_PATIENCE)
        self._present = None

    def _drive(self, round_: Round, root: Root, weight: Weight) -> None:
        while (state := lib.dn_store_await(root.c, 1.0)) == lib.DN_HOOK_ARMED and not self._stopped:
            pass
        with round_.lock:
            value = (
                weight() if round_.weight is None and state != lib.DN_HOOK_OFF else round_.weight
            )
            if value is None or round_.taken_over:
                return
            round_.open(value)
        while not self._stopped:
            with round_.lock:
                before = round_.moves
                if round_.taken_over or round_.advance():
                    return
                moved = round_.moves != before
            if not moved:
                time.sleep(_NAP)


_threads: WeakSet[ExchangeThread] = WeakSet()
_unfinished: set[Round] = set()
"""Rounds opened in backward that no update() has taken over: the program may end without one."""


@cache
def _stop_before_mpi() -> None:
    """Registers once, after MPI was started, so that it runs before MPI ends."""
    atexit.register(_stop_all)


def _stop_all() -> None:
    for thread in list(_threads):
        thread.stop()
    for round_ in list(_unfinished):
        round_.stop(_PATIENCE)
    _unfinished.clear()
