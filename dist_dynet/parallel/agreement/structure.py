"""The parameters of a collection, in an order that all ranks share: compared over the ranks, and
broadcast.

It knows names, dims and places in chunks, and nothing about gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..._ffi import lib
from ...params.collection import ParameterCollection, counts_of, handles_of, root_of
from ...params.parameters import AnyParameter, Parameters
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ..processes.world import World, hash_of


class Structure:
    """The parameters of a collection at one time: the dense ones, then the tables, in the order in
    which they were added."""

    def __init__(self, m: ParameterCollection) -> None:
        self.dense = m.parameters_list()
        self.tables = m.lookup_parameters_list()
        self.parameters: list[AnyParameter] = [*self.dense, *self.tables]
        self.root = root_of(m)
        self.handles = handles_of(self.parameters)  # arguments of C functions
        self.places = [
            (lib.dn_param_chunk(p), lib.dn_param_offset(p), lib.dn_param_size(p))
            for p in self.handles[: len(self.dense)]
        ]
        """(chunk, offset, length) of the dense parameters' values and gradients."""
        self._counts = counts_of(m)
        self._entries = [(p.readable_name(), _kind_of(p)) for p in self.parameters]
        self.hash = hash_of(repr(self._entries))

    def fits(self, m: ParameterCollection) -> bool:
        """Whether the collection still has exactly these parameters; it can only gain some."""
        return counts_of(m) == self._counts

    def check(self, here: World, comm: Any, what: str) -> None:
        """Makes sure that all ranks hold the same parameters. Collective.

        Raises:
            RuntimeError: on all ranks, naming a rank and the first parameter in which it differs
                from rank 0.
        """
        hashes = np.empty(here.size, np.int64)
        here.wait([comm.Iallgather(np.array([self.hash]), hashes)], what)
        if (hashes == hashes[0]).all():
            return
        every = here.gather(comm, self._entries, what)
        other = (
            here.rank
            if every[here.rank] != every[0]
            else next(r for r, e in enumerate(every) if e != every[0])
        )
        who = "this rank" if other == here.rank else f"rank {here.members[other]}"
        raise RuntimeError(
            f"{here.name} {what}:"
            f" {_difference(who, every[other], every[0], f'rank {here.members[0]}')}"
        )

    def broadcast(
        self, here: World, comm: Any, what: str, known: Iterable[AnyParameter] = ()
    ) -> None:
        """Gives every rank the values of rank 0, except for known parameters. Collective."""
        skip = set(known)
        new = [h for p, h in zip(self.parameters, self.handles, strict=True) if p not in skip]
        self.root.detach()
        here.wait([comm.Ibcast(self.root.values(handle), root=0) for handle in new], what)
        self.root.changed(new)

    def materialise(self, chosen: Iterable[bool] | None = None) -> None:
        """Multiplies the pending weight decay into the rows of these tables, as reading them does;
        None: of all tables."""
        handles = self.handles[len(self.dense) :]
        for handle, wanted in zip(handles, chosen or [True] * len(handles), strict=True):
            if wanted:
                self.root.values(handle)

    def compare(
        self, here: World, comm: Any, what: str, chosen: Sequence[int] | None = None
    ) -> None:
        """Makes sure that the stored values are equal on all ranks, bit for bit. Collective.

        Args:
            here: the ranks.
            comm: their communicator.
            what: the name of the collective operation.
            chosen: positions of the parameters to compare; None: all.

        Raises:
            RuntimeError: on all ranks, naming rank and parameter.
        """
        places = range(len(self.handles)) if chosen is None else chosen
        mine = np.array([lib.dn_param_checksum(self.handles[k]) for k in places], np.uint64)
        every = np.empty((here.size, len(mine)), np.uint64)
        here.wait([comm.Iallgather(mine, every)], what)
        wrong = np.argwhere(every != every[0])
        if len(wrong):
            other, parameter = wrong[0]
            name = self.parameters[places[parameter]].readable_name()
            raise RuntimeError(
                f"{here.name} {what}: rank {here.members[other]} and rank {here.members[0]} differ,"
                f' first in "{name}". Change parameters alike on all ranks.'
            )


def _kind_of(p: AnyParameter) -> str:
    """What must be equal on all ranks beside the name."""
    precision = p.precision() if isinstance(p, Parameters) else None
    return f"{p.shape()}" + ("" if precision is None else f" with precision {precision!r}")


_MAKE = (
    " Make the same parameters on all ranks, in one order: those that only some examples need"
    " beforehand, not when a rank meets the first of these."
)


def _difference(who: str, theirs: list[Any], first: list[Any], who_0: str) -> str:
    names, names_0 = {name for name, _ in theirs}, {name for name, _ in first}
    counts = f"{who} has {len(theirs)} parameters, {who_0} has {len(first)}"
    missing = next((name for name, _ in first if name not in names), None)
    if missing is not None:
        return f'{counts}; first missing "{missing}".{_MAKE}'
    extra = next((name for name, _ in theirs if name not in names_0), None)
    if extra is not None:
        return f'{counts}; first that {who_0} lacks "{extra}".{_MAKE}'
    (name, kind), (name_0, kind_0) = next(
        (a, b) for a, b in zip(theirs, first, strict=True) if a != b
    )
    return (
        "parameters must be made in one order, with one shape and precision;"
        f' {who} has "{name}" {kind} where {who_0} has "{name_0}" {kind_0}.'
    )


def broadcast_state(here: World, comm: Any, trainer: Trainer) -> None:
    """Gives every rank the trainer state of rank 0, if any rank has made updates. Collective.

    Raises:
        RuntimeError: on all ranks: the trainers were made with different constants.
    """
    what = here.collective("DistributedTrainer")
    here.agree(comm, Hooks(trainer).constants, what)
    every = here.gather(comm, (trainer.updates, trainer.state() if here.rank == 0 else None), what)
    if any(updates for updates, _ in every) and here.rank > 0:
        trainer.load_state(every[0][1])
