"""The ranks of one host as csrc/parallel/shm_comm.c sees them: messages in shared memory, and the
steady state without Python.

After a backward pass, neither Python's code nor its data are in the caches. So an update is one
call of C, or one each that negotiates and sums, if there is a plan for its parameters, whichever of
them each rank has used, and rows fit into their buffers. This module knows how to wait; shared.py
knows what is shared, and makes the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import FAST_PATHS, NULL, declines, ffi, lib
from ..agreement.message import Flag, MessageLayout
from ..agreement.negotiation import MpiTransport
from ..processes.memory import map_together, say_refused
from ..processes.world import World
from .plan import SPIN, Plan, check

_negotiate = lib.dn_shm_comm_negotiate
_update = lib.dn_shm_comm_update
_sum = lib.dn_shm_comm_sum
_DONE = lib.DN_SHM_COMM_DONE
_WAITS = lib.DN_SHM_COMM_WAITS

_CAPACITY = 1024
"""Smallest size of a message buffer in bytes: a model that grows a little needs no new
communicator."""


class SharedTransport:
    """Messages through shared memory. Without it MPI is used instead, and rank 0 reports this on
    stderr.

    Args:
        here: the ranks.
        comm: their communicator.
    """

    def __init__(self, here: World, comm: Any) -> None:
        self._here, self._comm, self._by_mpi = here, comm, MpiTransport(here, comm)
        self.plan: Plan | None = None  # of the steady state; the same on all ranks
        self.refused = False  # there is no shared memory
        self.quick = 0  # how many negotiations went as planned
        self._c: Any = None
        self._capacity = 0  # bytes of the longest message
        self._memory: Any = None
        self._name: Callable[[], str] = str  # of the present collective operation
        self._alike = False  # whether all ranks follow plans

    def send(
        self,
        layout: MessageLayout,
        message: Any,
        average: bool,
        plannable: bool,
        name: Callable[[], str],
        follow_up: Any = None,
    ) -> bool:
        """As Transport.send."""
        if layout.size > self._capacity and not self._share(layout, name):
            return self._by_mpi.send(layout, message, average, plannable, name)
        plan, self._name = NULL, name
        if (
            plannable
            and self.plan is not None
            and self.plan.structure is layout.structure
            and not message.flags & Flag.UNPLANNED
            and (FAST_PATHS or not declines("update"))
            and self._alike
        ):
            plan = self.plan.c
        call, what = _negotiate, [message, layout.members, plan, average]
        if follow_up is not None:
            call, what = _update, [*what, follow_up]
        while (outcome := call(self._c, *what, SPIN)) == _WAITS:
            self._await()
        if outcome < 0:
            check(outcome)
        if outcome != _DONE:
            return False
        self.quick += 1
        return True

    def received(self, layout: MessageLayout) -> NDArray[Any]:
        """As Transport.received."""
        if self.refused:
            return self._by_mpi.received(layout)
        size = layout.size
        said = b"".join(
            ffi.buffer(lib.dn_shm_comm_message(self._c, rank), size)[:]
            for rank in range(self._here.size)
        )
        return np.frombuffer(said, layout.dtype)

    def sum(self) -> None:
        """Sums gradients as planned, after a send() that has returned True. Collective."""
        assert self.plan is not None
        while (outcome := _sum(self._c, self.plan.c, SPIN)) == _WAITS:
            self._await()
        check(outcome)

    def close(self, trainer: Any, n: int, params: Any) -> None:
        """Waits until all ranks have updated what they own, and takes the new values of n
        parameters of this dn_trainer *; n < 0: of all. Collective."""
        while lib.dn_shm_comm_close(self._c, trainer, n, params, SPIN) == _WAITS:
            self._await()

    def _await(self) -> None:
        """Waits until all ranks have sent as much as this one."""
        self._here.wait_until(lambda: lib.dn_shm_comm_received(self._c, 0), self._name())

    def _share(self, layout: MessageLayout, name: Callable[[], str]) -> bool:
        """Whether there is memory for such messages. Collective."""
        if self.refused:
            return False
        here = self._here
        capacity = max(2 * layout.size, _CAPACITY)
        share = -(-lib.dn_shm_comm_bytes(here.size, capacity) // here.size)

        def sizes(fast: list[bool]) -> list[int]:
            # one rank without fast paths decides for all, so that all take the same path
            self._alike = all(fast)
            return [share]

        try:
            if here.size > lib.DN_MOST_RANKS:
                raise OSError(
                    f"at most {lib.DN_MOST_RANKS} ranks can share memory; got {here.size}"
                )
            ((whole, starts),) = map_together(
                here, self._comm, range(here.size), here.size, FAST_PATHS, sizes, name()
            )
        except OSError as error:
            self.refused, self.plan = True, None
            self._capacity = 0
            say_refused(here, error)
            return False
        shm_comm = lib.dn_shm_comm_new(here.size, here.rank, whole + starts[0], capacity)
        if shm_comm == NULL:
            raise MemoryError("gradient exchange: out of memory")
        self._c = ffi.gc(shm_comm, lib.dn_shm_comm_free)
        self._memory = whole
        self._capacity = capacity
        return True
