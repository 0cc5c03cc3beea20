"""One copy of the model for the ranks of a host: values of parameters, and trainers' moments, in
memory that they share.

After gradients are summed each rank updates the numbers that it owns, and none reads before all
have. C maps the shared memory over each rank's own, at the same addresses, and takes a rank back
into private memory before anything else writes there (csrc/params/shared.c): set_value(), a file
that is read, a forked child, another trainer. So what a rank writes by itself only it sees, as with
a model of its own. In the next update the ranks find out, all go private, and share anew, if
values are still the same. Where that happens often they wait longer and longer with it. This module
knows when memory is shared; gradients and rules are not its business.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from .._environment import choice
from .._ffi import DTYPE, NULL, ffi, lib
from ..params.collection import root_of
from ..params.root import Root
from ..trainers import Trainer
from ..trainers.hooks import Hooks
from ._world import World
from .backoff import Backoff
from .hybrid import HybridExchange
from .memory import map_together
from .message import Flag
from .negotiation import AsPlanned, Negotiated, Negotiation
from .plan import LOOK, Plan, check
from .structure import Structure

DEFAULT = {"auto": None, "always": True, "never": False}[
    choice("DIST_DYNET_SHARED_MODEL", ("auto", "always", "never"))
]
"""What shared_model=None means."""

WORTH = 1 << 22
"""Bytes of values and moments from which on it is the default: below, one wait more in each update
costs as much as it brings."""

_LONG = 64
"""Updates after which a sharing that ends was worth its while."""


class Block(NamedTuple):
    """Memory of values or moments; in bytes."""

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
        self.shared = False
        self.updates = 0  # in shared memory, since it was shared
        self._backoff = Backoff()
        self._refused: set[int] = set()  # of which structures
        self._said = {""}
        self.comm: Any = None  # dn_shm_comm *
        self.squares: tuple[Any, Any] = NULL, NULL  # of pieces, of rows
        self._memory: Any = None

    @staticmethod
    def of(root: Root) -> HostCopy:
        """That of this root."""
        copy = _copies.get(root.c)
        if copy is None:
            copy = _copies[root.c] = HostCopy(root)
        return copy

    def end(self) -> None:
        """Back to private memory, alike on all ranks: some rank has gone there."""
        self.root.detach()
        self.shared = False
        self._backoff.note(good=self.updates >= _LONG)

    def is_due(self, structure: Structure, least: float, moments: int) -> bool:
        """Counts an update in private memory: whether to share now, if the parameters and so many
        moments of each number have at least so many bytes."""
        self._backoff.pass_one()
        if self._backoff.left or self.refuses(structure):
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
        """Shares it, if that is possible. Collective.

        Args:
            here: all ranks.
            comm: their communicator.
            host: those of this host.
            structure: of a trainer's parameters.
            wanted: where it is not, or values differ, that is said.
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
        passing = False  # what hinders may be gone later

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
            self._backoff.note(good=False)
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
        """Moves into this memory; why it was not possible."""
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


class SharedModel:
    """The part that a trainer takes in it.

    Args:
        here: all ranks.
        comm: their communicator.
        host: those of this host.
        trainer: whose moments are shared.
        wanted: shared whether it is worth it or not, with words where it cannot be.
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
        weakref.finalize(self, lib.dn_store_detach, self._root).atexit = False

    @property
    def is_shared(self) -> bool:
        """Whether this rank's values and moments are those of its host."""
        return self.copy.shared and bool(lib.dn_store_is_shared(self._root))

    def ask(self) -> int:
        """Before ranks agree: a flag if this one has gone private. If not, so it stays."""
        self._pinned = self.copy.shared and bool(
            self.copy.comm is None or lib.dn_trainer_pin(self._trainer)
        )
        return 0 if self._pinned or not self.copy.shared else Flag.APART

    def foresee(self, follow_up: Any, plan: Plan) -> bool:
        """Before ranks agree, in place of ask() and begin(): says in a dn_follow_up what is to be
        shared if they agree as planned. False: it must be asked, and nothing is said."""
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
        """All that was foreseen has been done."""
        self.copy.updates += self.copy.shared
        self._pinned, self._plan = False, None

    def begin(
        self, agreed: Negotiated | AsPlanned, plan: Plan | None, wire: HybridExchange | None
    ) -> None:
        """Ranks have agreed, and gradients are not summed yet. Collective.

        Args:
            agreed: what on.
            plan: what gradients will be summed by, if they may be in pieces.
            wire: the same between hosts.
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
        """Goes private, or shares anew, as ranks have agreed."""
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
        """No update follows the sum: gradients are to be seen as they are."""
        if self._plan is not None:
            check(lib.dn_shm_comm_complete(self._plan.c))
        if self._wire is not None and self._agreed is not None:
            self._wire.complete(self._agreed)

    def end(self, what: str) -> None:
        """Waits, when this rank has updated its share, for the others of its host."""
        comm = self.copy.comm
        if not self._pinned or comm is None:
            return
        while True:
            outcome = lib.dn_shm_comm_close(comm, self._root, LOOK)
            if outcome != lib.DN_SHM_COMM_WAITS:
                break
            self._here.wait_until(lambda: lib.dn_shm_comm_received(comm, 0), what)
        check(outcome)
        self._pinned = False
        self.leave()

    def leave(self) -> None:
        """Readers may read. Also after an exception."""
        self._plan = None
        if self._wire is not None:
            self._wire.settle()
            self._wire = self._agreed = None
        if self._pinned:
            self._pinned = False
            lib.dn_store_close(self._root)


def _blocks(root: Root, trainers: Sequence[Trainer]) -> list[Block]:
    """The large blocks of values and moments, alike on all ranks that have made them alike: those
    of whole huge pages first, so that they begin at multiples of these where they are put one
    behind the other."""
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
    """The model cannot be updated by its owners: another thread has gone private with it.

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
    """A child goes on with the values of this moment: this process gets its own, of which the child
    has a copy."""
    for copy in list(_copies.values()):
        lib.dn_store_detach(copy.root.c)


os.register_at_fork(before=_before_fork)
