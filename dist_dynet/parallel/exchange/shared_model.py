"""One copy of the model for the ranks of a host: parameter values and trainers' moments in shared
memory.

After gradients are summed, each rank updates the numbers that it owns, and none reads before all
have. C maps the shared memory over each rank's own, at the same addresses, and moves a rank back
into private memory before anything else writes there (csrc/params/shared.c): set_value(), reading a
file, a forked child, another trainer. So only the writing rank sees what it writes, as with a model
of its own. In the next update the ranks notice this; all go private, and share again if their
values are still equal. If this happens often, they wait longer and longer before sharing again.
This module knows when memory is shared, and nothing of gradients and rules.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from ..._environment import choice
from ..._ffi import DTYPE, NULL, ffi, lib
from ...params.collection import root_of
from ...params.root import Root
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ..agreement.message import Flag
from ..agreement.negotiation import AsPlanned, Negotiated, Negotiation
from ..agreement.structure import Structure
from ..processes.memory import map_together
from ..processes.world import World
from .backoff import Backoff
from .hosts import HybridExchange
from .plan import SPIN, Plan, check

DEFAULT = {"auto": None, "always": True, "never": False}[
    choice("DIST_DYNET_SHARED_MODEL", ("auto", "always", "never"))
]
"""The meaning of shared_model=None."""

WORTH = 1 << 22
"""Bytes of values and moments from which on sharing is the default: below, the additional wait in
each update costs as much as it gains."""

_LONG = 64
"""Number of updates after which sharing was worth while."""


class Block(NamedTuple):
    """Memory of values or moments; sizes in bytes."""

    at: Any  # void *
    bytes: int
    used: int


_UNEQUAL = "parameters, or a trainer's moments, differ between ranks"


class HostCopy:
    """What the ranks of a host share of one root, for all trainers that are made alike over the
    same ranks."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.trainers: list[weakref.ref[Trainer]] = []
        self.members: list[int] = []  # their ranks, in their order
        self.shared = False
        self.updates = 0  # since it was shared
        self._backoff = Backoff()
        self._refused: set[int] = set()  # hashes of structures
        self._said = {""}
        self.comm: Any = None  # dn_shm_comm *
        self.squares: tuple[Any, Any] = NULL, NULL  # of pieces, of rows
        self._memory: Any = None

    @staticmethod
    def of(root: Root) -> HostCopy:
        """The copy of this root."""
        copy = _copies.get(root.c)
        if copy is None:
            copy = _copies[root.c] = HostCopy(root)
        return copy

    def end(self) -> None:
        """Goes back to private memory, on all ranks, after some rank has done so."""
        self.root.detach()
        self.shared = False
        self._backoff.record(good=self.updates >= _LONG)

    def is_due(self, structure: Structure, least: float, moments: int) -> bool:
        """Counts an update in private memory. Returns whether to share now: if the parameters and
        so many moments per number have at least `least` bytes."""
        self._backoff.count_try()
        if self._backoff.remaining or self.refuses(structure):
            return False
        numbers = sum(int(lib.dn_param_size(handle)) for handle in structure.handles)
        if numbers * DTYPE.itemsize * (1 + moments) >= least:
            return True
        self._refused.add(structure.hash)
        return False

    def refuses(self, structure: Structure) -> bool:
        """Whether these parameters are never shared."""
        return structure.hash in self._refused

    def share(
        self,
        here: World,
        comm: Any,
        host: Sequence[int],
        structure: Structure,
        wanted: bool,
        what: str,
    ) -> None:
        """Shares the model if possible. Collective.

        Args:
            here: all ranks.
            comm: their communicator.
            host: the ranks of this host.
            structure: of a trainer's parameters.
            wanted: report if it is not possible; raise if values differ.
            what: the name of the collective operation.

        Raises:
            RuntimeError: wanted, and ranks hold different values, on all ranks.
        """
        self.updates = 0
        self.comm = None
        trainers = [t for of in self.trainers if (t := of()) is not None]
        blocks = _blocks(self.root, trainers)
        mine = (
            [b.bytes for b in blocks],
            [lib.dn_checksum(b.at, b.used, 0) for b in blocks],
            self.root.is_lent(),
        )
        squares = [
            max(lib.dn_store_pieces(self.root.c), 1) * DTYPE.itemsize,
            max(lib.dn_store_row_squares(self.root.c, len(host)), 1),
        ]
        flags = lib.dn_shm_comm_bytes(len(host), 1)
        passing = False  # whether the obstacle may disappear later

        def sizes(every: list[Any]) -> list[int]:
            nonlocal passing
            passing = True
            if any(theirs[2] for theirs in every):
                raise OSError("the program holds memory of values, by storage()")
            if any(theirs[0] != every[0][0] for theirs in every):
                raise OSError("the ranks have made other parameters, or trainers, beside these")
            passing = False
            if any(theirs[1] != every[0][1] for theirs in every):
                raise OSError(_UNEQUAL)
            if len(host) == 1 or not blocks:
                return []
            return [*(b.bytes for b in blocks), *squares, flags]

        if wanted:
            structure.compare(here, comm, what)
        try:
            mapped = map_together(here, comm, host, 1, mine, sizes, what)
            refused = self._take(here, comm, host, blocks, trainers, mapped, what)
        except OSError as error:
            refused = str(error)
        self.shared = bool(blocks) and not refused
        if self.shared:
            return
        if passing:
            self._backoff.record(good=False)
        else:
            self._refused.add(structure.hash)
        if wanted and refused not in self._said:
            self._said.add(refused)
            _say(here, refused)

    def _take(
        self,
        here: World,
        comm: Any,
        host: Sequence[int],
        blocks: list[Block],
        trainers: list[Trainer],
        mapped: list[Any],
        what: str,
    ) -> str:
        """Moves the model into this memory. Returns why this was not possible; empty on success."""
        if mapped:
            local = host.index(here.rank)
            places = [whole + starts[0] for whole, starts in mapped]
            if local == 0:
                for block, place in zip(blocks, places, strict=False):
                    ffi.memmove(place, ffi.cast("char *", block.at), block.used)
        here.wait([comm.Ibarrier()], what)
        error = 0
        if mapped:
            error = lib.dn_store_share(
                self.root.c,
                len(blocks),
                ffi.new("dn_memory_block[]", blocks),
                ffi.new("void *[]", places[: len(blocks)]),
                local,
                len(host),
            )
        errors = [int(code) for code in here.exchange_bytes(comm, str(error).encode(), what)]
        rank = next((r for r, code in enumerate(errors) if code), None)
        if rank is not None:
            lib.dn_store_close(self.root.c)
            self.root.detach()
            return f"rank {rank}: the system cannot map it"
        if mapped:
            for trainer in trainers:
                lib.dn_trainer_join(Hooks(trainer).c)
            shm_comm = lib.dn_shm_comm_new(len(host), local, places[-1], 1)
            if shm_comm == NULL:
                raise MemoryError("shared model: out of memory")
            self.comm = ffi.gc(shm_comm, lib.dn_shm_comm_free)
            self.squares = ffi.cast("dn_real *", places[-3]), places[-2]
            self._memory = mapped[-1][0]
        return ""


_copies: weakref.WeakValueDictionary[Any, HostCopy] = weakref.WeakValueDictionary()


def is_of_others(here: World, comm: Any, trainer: Trainer, wanted: bool, what: str) -> bool:
    """Whether trainers over other ranks than these may share this model, on some rank. Then it is
    not shared for this one, whose updates give its ranks copies of their own; which is said if
    sharing is wanted. Collective."""
    copy = _copies.get(root_of(trainer.collection).c)
    others = copy is not None and copy.members != [*here.members]
    found = any(here.gather(comm, others, what))
    if found and wanted:
        _say(
            here,
            "a trainer over other ranks, or in another order, may share it",
        )
    return found


class SharedModel:
    """A trainer's part in the shared model.

    Args:
        here: all ranks.
        comm: their communicator.
        host: the ranks of this host.
        trainer: the trainer whose moments are shared.
        wanted: share whether it pays or not, and report if this is not possible.
        negotiation: of the same ranks.
    """

    def __init__(
        self,
        here: World,
        comm: Any,
        host: Sequence[int],
        trainer: Trainer,
        wanted: bool,
        negotiation: Negotiation,
    ) -> None:
        self._here, self._comm, self._host, self._wanted = here, comm, host, wanted
        self._trainer = Hooks(trainer).c
        self._negotiation, self._moments = negotiation, Hooks(trainer).moments
        self._plan: Plan | None = None
        self._wire: HybridExchange | None = None
        self._agreed: Negotiated | AsPlanned | None = None
        self._structure = negotiation.structure
        self._root = root_of(trainer.collection).c
        self._pinned = False
        self._foreseen: Any = None  # the window's dn_shm_comm that a dn_follow_up has
        self.copy = HostCopy.of(root_of(trainer.collection))
        self.copy.trainers.append(weakref.ref(trainer))
        self.copy.members = [*here.members]
        weakref.finalize(self, lib.dn_store_detach, self._root).atexit = False

    @property
    def is_shared(self) -> bool:
        """Whether this rank's values and moments are those of its host."""
        return self.copy.shared and bool(lib.dn_store_is_shared(self._root))

    def ask(self) -> int:
        """The flag to send before the negotiation if this rank has gone private. If it has not, it
        stays shared during the update."""
        self._pinned = self.copy.shared and bool(
            self.copy.comm is None or lib.dn_trainer_pin(self._trainer)
        )
        return 0 if self._pinned or not self.copy.shared else Flag.APART

    def foresee(self, follow_up: Any, plan: Plan) -> bool:
        """Before the negotiation, in place of ask() and begin(): enters into a dn_follow_up what is
        shared if all messages are as planned. Returns False, having entered nothing, if the ranks
        must negotiate about it."""
        copy = self.copy
        if not copy.shared:
            follow_up.window, self._foreseen = NULL, None
            return copy.refuses(self._structure)
        if copy.comm is None or not lib.dn_trainer_pin(self._trainer):
            return False
        self._pinned, self._plan = True, plan
        if copy.comm is not self._foreseen:  # that of another sharing
            follow_up.window, follow_up.store = copy.comm, self._root
            follow_up.squares, follow_up.row_squares = copy.squares
            self._foreseen = copy.comm
        return True

    def ended(self) -> None:
        """Called when all of the follow-up has been done."""
        self.copy.updates += self.copy.shared
        self._pinned, self._plan = False, None

    def begin(
        self, agreed: Negotiated | AsPlanned, plan: Plan | None, wire: HybridExchange | None
    ) -> None:
        """Called after the negotiation, before gradients are summed. Collective.

        Args:
            agreed: what was negotiated.
            plan: the plan for the sum, if each rank may take only its part.
            wire: the exchange between hosts, likewise.
        """
        copy = self.copy
        if not copy.shared or agreed.__class__ is not AsPlanned:  # in the steady state it is
            self._share(agreed)
            if not copy.shared:
                return
            plan = None
        copy.updates += 1
        if copy.comm is None:
            return
        self._pinned = True
        wire = wire if wire is not None and wire.is_steady(agreed) else None
        squares = (NULL, NULL) if plan is None and wire is None else copy.squares
        outcome = lib.dn_trainer_open(self._trainer, *squares)
        if outcome < 0:
            refuse_written()
        if outcome and plan is not None:
            self._plan = plan
        if outcome and wire is not None:
            self._wire, self._agreed = wire, agreed
            wire.own()

    def _share(self, agreed: Negotiated | AsPlanned) -> None:
        """Goes private or shares again, as negotiated."""
        copy, structure = self.copy, self._negotiation.structure
        adopted, self._structure = structure is not self._structure, structure
        apart = isinstance(agreed, Negotiated) and bool(agreed.of_any & Flag.APART)
        if copy.shared and (apart or adopted):  # all have got rank 0's values of new parameters
            lib.dn_store_close(self._root)
            self._pinned = False  # as on the ranks that have gone
            copy.end()
        if not copy.shared and copy.is_due(structure, 0 if self._wanted else WORTH, self._moments):
            what = agreed.what or "update"
            copy.share(self._here, self._comm, self._host, structure, self._wanted, what)

    def complete(self) -> None:
        """Makes all gradients visible, since no update follows the sum."""
        if self._plan is not None:
            check(lib.dn_shm_comm_complete(self._plan.c))
        if self._wire is not None and self._agreed is not None:
            self._wire.complete(self._agreed)

    def end(self, what: str) -> None:
        """Waits for the other ranks of the host after this rank has updated its share."""
        comm = self.copy.comm
        if not self._pinned or comm is None:
            return
        while True:
            outcome = lib.dn_shm_comm_close(comm, self._root, SPIN)
            if outcome != lib.DN_SHM_COMM_WAITS:
                break
            self._here.wait_until(lambda: lib.dn_shm_comm_received(comm, 0), what)
        check(outcome)
        self._pinned = False
        self.leave()

    def leave(self) -> None:
        """Lets readers read, also after an exception."""
        self._plan = None
        if self._wire is not None:
            self._wire.settle()
            self._wire = self._agreed = None
        if self._pinned:
            self._pinned = False
            lib.dn_store_close(self._root)


def _blocks(root: Root, trainers: Sequence[Trainer]) -> list[Block]:
    """The large blocks of values and moments, in the same order on all ranks. Blocks of whole huge
    pages come first, so that they stay aligned to huge pages when placed one after the other."""
    blocks: list[Block] = []
    for of, call in [
        (root.c, lib.dn_store_blocks),
        *((Hooks(trainer).c, lib.dn_trainer_blocks) for trainer in trainers),
    ]:
        count = call(of, 0, NULL)
        if count < 0:
            raise MemoryError("shared model: out of memory for the moments")
        out = ffi.new("dn_memory_block[]", max(count, 1))
        call(of, count, out)
        blocks += [Block(out[i].at, out[i].bytes, out[i].used) for i in range(count)]
    return sorted(blocks, key=lambda block: block.bytes % lib.dn_huge_page() > 0)


def refuse_written() -> NoReturn:
    """Raises because the model cannot be updated by its owners: another thread has made it
    private.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "update: parameters were written while ranks agreed. Let threads take turns."
    )


def _say(here: World, error: str) -> None:
    if here.rank == 0:
        sys.stderr.write(f"dist_dynet: each rank keeps a model of its own ({error})\n")
        sys.stderr.flush()


def _before_fork() -> None:
    """Makes the model private before a fork, so that the child has a copy of the present values."""
    for copy in list(_copies.values()):
        lib.dn_store_detach(copy.root.c)


os.register_at_fork(before=_before_fork)
