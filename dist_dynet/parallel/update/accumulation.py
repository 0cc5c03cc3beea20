"""The passes of an accumulation: what each one was, how many there are, and the gradients of
earlier passes, which wait for the update.

It knows when gradients move into the stash and out of it. Its callers decide how much a pass counts
and when the ranks exchange.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, lib
from ...params.collection import ParameterCollection, handles_of, members_of, root_of
from ...params.parameters import AnyParameter
from ...params.root import Root
from ...trainers import Trainer
from ...trainers.hooks import Hooks
from ..agreement.message import Flag
from ..agreement.negotiation import Negotiation, Step
from ..agreement.structure import Structure
from ..batches.batches import Batch
from ..processes.rank_names import format_ranks
from ..processes.world import World, hash_of
from .gradients import FlatLayout, Node, add_up, empty_node, marks_of, put_back, take_out
from .pass_changes import PassChanges

_NO_BATCH = Step()


class Pass(NamedTuple):
    """The gradients gathered since the last call of update()."""

    batch: Batch[Any] | None
    n: float
    total: float | None  # n over all ranks; None: they must be asked
    named: bool  # the program has named the batch or the weight
    problem: str = ""  # why it is not known which batch it is

    def step(self, passes: int = 1, subset: int = 0) -> Step:
        """What must be equal on all ranks."""
        if self.batch is None and passes == 1 and not subset:
            return _NO_BATCH
        return Step(self.batch.description if self.batch is not None else (), passes, subset)


_NEXT_TO_NOTHING = 2.0**-60
"""So small a share of the sum of all weights that it is lost when that is rounded."""


def has_weightless(batch: Batch[Any] | None) -> bool:
    """Whether it has examples, all of weight 0 by shard(weight=), and others have a weight."""
    return batch is not None and batch.n == 0 and len(batch) > 0 and bool(batch.total)


def counted(batch: Batch[Any], m: ParameterCollection) -> float:
    """How much the gradients of this batch of shard() count in the average: its n. If that is 0,
    though it has examples, they become zeros, as 0/0 may be among them, and count next to nothing:
    so they say which parameters and rows were used, and trainers with moments move these, as in one
    process."""
    if not has_weightless(batch):
        return batch.n
    for handle in handles_of(members_of(m)):
        lib.dn_param_zero_gradient(handle)
    return float(batch.total or 0) * _NEXT_TO_NOTHING


def pass_of_unusual_batch(batch: Batch[Any], here: World, named: bool, counts: bool) -> Pass:
    """The pass of a batch that was changed in place, or whose shard() is over other ranks than the
    trainer's.

    Args:
        batch: the batch.
        here: the trainer's ranks.
        named: as in Pass.
        counts: whether n matters.

    Raises:
        RuntimeError: shard() has given examples to ranks that do not train the model.
    """
    ranks = here.members if batch.ranks is None else batch.ranks
    problem = batch.problem if counts else ""
    if list(ranks) == list(here.members):
        return Pass(batch, batch.n, batch.total, named, problem)
    if len(ranks) > 1 and not {*ranks} <= {*here.members}:
        raise RuntimeError(
            f"{here.name} update: the batch must be of a shard() over the trainer's"
            f" {format_ranks(here.members)}; got one over {format_ranks(ranks)}. Give shard() the"
            " same comm= as the trainer."
        )
    # each rank or group has its own data: the total must be asked for
    return Pass(batch, batch.n, batch.n if here.size == 1 else None, named, problem)


def refuse_micro_batch(batch: Batch[Any]) -> None:
    """Refuses micro-batches, for trainers that do not support them.

    Raises:
        RuntimeError: it is one.
    """
    if batch.part is not None:
        raise RuntimeError(
            "update: batches of shard(..., micro_batches=G) need DistributedTrainer(...,"
            " reproducible=True)."
        )


def share(
    this: Pass, negotiation: Negotiation | None, flags: int, is_last: bool, joins: bool = False
) -> tuple[float, str]:
    """What the gradients of a pass are multiplied by, n_r / sum of n_r; and why that, or what was
    taken for the sums of earlier passes, is not known.

    Waits for the others where the sum is not known, and before an exchange.

    Args:
        this: the pass.
        negotiation: with the other ranks; None: there are none.
        flags: of the pass.
        is_last: an exchange follows.
        joins: it is inside of Join.
    """
    total, problem = this.total, this.problem
    if negotiation is None:
        if not this.named:
            return 1.0, problem
    elif joins or total is None:
        asked = negotiation.gather_weights(this.n, flags | Flag.JOIN * joins, problem)
        total = asked[0]
        if total is None and not problem:
            problem = "another rank does not know which batch its gradients come from."
    else:
        negotiation.send_weight(this.n, total, flags, problem)
    if negotiation is not None and is_last:
        of_earlier = negotiation.wrong_weights_problem()
        problem = problem or of_earlier
    if total:
        return this.n / total, problem
    has_examples = this.batch is not None and len(this.batch) > 0
    return (_NEXT_TO_NOTHING if has_examples else 0.0), problem


class Accumulation:
    """The passes since the last update of a trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._hooks = trainer, Hooks(trainer)
        self.stash = Stash.of(root_of(trainer.collection))
        self.passes = 0  # calls of update() since the last exchange
        self.in_place = 0  # passes among these whose gradients were not moved to the stash
        self.silent = False  # inside no_sync()
        self.begun = False  # there are passes, on all ranks alike, even if an update was refused
        self._doubt = ""
        self._changes: PassChanges | None = None  # with several ranks
        self._watched: PassChanges | None = None

    @property
    def doubt(self) -> str:
        """Why the batch of one of these passes is unknown. The ranks learn this at the exchange."""
        if self._doubt and not self._hooks.waits():
            self._doubt = ""
        return self._doubt

    def watch(self, negotiation: Negotiation) -> None:
        """Makes the ranks compare what the program does to gradients between passes."""
        self._changes = PassChanges(self._trainer.collection)
        negotiation.on_changed = self._changes.compare

    @contextmanager
    def watched(self, joins: bool) -> Iterator[None]:
        """Wraps one pass. Notes what the program has done to gradients since the last one, except
        inside Join, where ranks make different passes."""
        self._watched = changes = None if joins else self._changes
        if changes is not None:
            changes.look()
        try:
            yield
        finally:
            if changes is not None:
                changes.mark()
            self._watched = None

    @property
    def flag(self) -> int:
        """The flag that this rank sends before an exchange."""
        return self._watched.flag if self._watched is not None else 0

    def used(self, params: Iterable[AnyParameter] | None = None) -> None:
        """Notes that the gradients of these parameters (None: of all), of all passes, were used by
        an update."""
        if self._watched is not None:
            self._watched.end(params)

    def is_last(self) -> bool:
        """Whether the update comes with the next pass."""
        return not self.silent and self._hooks.gathered + 1 >= self._trainer.accumulation

    def count(self, silent: bool | None = None) -> None:
        """Counts a pass whose gradients wait for others. A silent pass does not count towards k."""
        self.passes += 1
        self._hooks.gathered += not (self.silent if silent is None else silent)

    def stay(self, doubt: str = "") -> None:
        """Counts a pass that leaves its gradients where they are."""
        self.in_place += 1
        self._doubt = doubt or self._doubt
        if doubt:  # on this rank alone, perhaps
            self.stash.hold_nothing(self._trainer.collection)
        if self._watched is not None:
            self._watched.hold()

    def keep(self, factor: float) -> None:
        """Moves the gradients, times factor, into the stash.

        Raises:
            RuntimeError: earlier passes were not named, so that this one cannot be left out.
        """
        if factor != 1 and self.in_place:
            raise RuntimeError(
                "update: earlier passes of this accumulation were not named, so that this one"
                f" cannot be left out; got weight {factor:g}. Give a weight with each call."
            )
        if factor and self._watched is not None:
            self._watched.hold()
        self.stash.take(self._trainer.collection, factor)
        self.in_place = 0

    def restore(self) -> None:
        """Adds the stash to the gradients."""
        self.stash.put_back(self._hooks.members())

    def complete(self, passes: int) -> None:
        """Ends the accumulation. With fewer than k passes, gradients are scaled so that they count
        as the mean of so many."""
        self.restore()
        for p in self._hooks.members() if passes else ():
            p.scale_gradient(self._trainer.accumulation / passes)
        self._hooks.gathered = 0

    def waits(self) -> bool:
        """Whether gradients wait to be applied."""
        return self.passes > 0 or bool(self.stash.kept) or self._hooks.waits()


class Stash:
    """The gradients of earlier passes, for the parameters of one root, each as it counts in the
    coming update, whichever trainer makes it.

    What the program does to gradients in the meantime is done to these as well: if it clears or
    scales a gradient, the stashed part is dropped or scaled.
    """

    def __init__(self) -> None:
        self.kept: list[_Kept] = []
        """The nodes that may hold gradients. They are the same on all ranks, empty or not,
        whichever parameters each rank has used."""
        self._layouts: weakref.WeakKeyDictionary[ParameterCollection, FlatLayout] = (
            weakref.WeakKeyDictionary()
        )
        self._pools: weakref.WeakKeyDictionary[FlatLayout, list[NDArray[Any]]] = (
            weakref.WeakKeyDictionary()
        )

    @staticmethod
    def of(root: Root) -> Stash:
        """The stash of this root, shared by all its trainers."""
        stash = _stashes.get(root.c)
        if stash is None:
            stash = _stashes[root.c] = Stash()
        return stash

    def take(self, m: ParameterCollection, factor: float) -> None:
        """Moves the gradients of a collection, times factor, into the stash."""
        with self.unseen():
            layout = self._layout(m)
            self._add(layout, take_out(layout, 0, factor, self._pools.setdefault(layout, [])))

    def hold_nothing(self, m: ParameterCollection) -> None:
        """What take() does on the other ranks, where the gradients of this one stay where they
        are."""
        with self.unseen():
            layout = self._layout(m)
            self._add(layout, empty_node(layout))

    def _layout(self, m: ParameterCollection) -> FlatLayout:
        layout = self._layouts.get(m)
        if layout is None or not layout.structure.fits(m):  # parameters were added
            layout = self._layouts[m] = FlatLayout(Structure(m))
        return layout

    def _add(self, layout: FlatLayout, node: Node) -> None:
        same = [kept for kept in self.kept if kept.layout is layout]
        if same:
            add_up(layout, same[0].node, node, self._pools.setdefault(layout, []))
            same[0].left[:] = True
        else:
            self.kept.append(_Kept(layout, node))

    def put_back(self, params: Iterable[AnyParameter]) -> None:
        """Moves the stashed gradients of these parameters back, adding them to the present ones."""
        with self.unseen():
            for kept, node in self._part(params):
                put_back(kept.layout, node)

    def invalidate(self, params: Iterable[AnyParameter]) -> None:
        """Drops the stashed gradients of these parameters."""
        with self.unseen():
            self._part(params)

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Changes to gradients inside the block are not the program's."""
        self.follow()
        yield
        self.mark()

    def follow(self) -> None:
        """Applies what the program has done to gradients since mark(). Changes between here and
        mark() are not the program's."""
        for kept in self.kept:
            kept.follow()

    def mark(self) -> None:
        """From here on, changes to gradients are the program's."""
        for kept in self.kept:
            kept.mark()

    def changes(self) -> list[int]:
        """A hash for each node of what the program has done to it: ranks with equal gradients still
        have equal ones if these agree."""
        return [kept.changes() for kept in self.kept]

    def _part(self, params: Iterable[AnyParameter]) -> list[tuple[_Kept, Node]]:
        """Takes the gradients of these parameters out of the stash."""
        wanted = {*handles_of(params)}
        parts = [(kept, kept.part(wanted)) for kept in self.kept]
        for kept, node in parts:
            if not kept.left.any() and node.dense is not None:
                self._pools.setdefault(kept.layout, []).append(node.dense)
        self.kept = [kept for kept in self.kept if kept.left.any()]
        return parts


_stashes: weakref.WeakValueDictionary[Any, Stash] = weakref.WeakValueDictionary()


class _Kept:
    """A node of a Stash, and the state of the program's changes when it was made."""

    def __init__(self, layout: FlatLayout, node: Node) -> None:
        self.layout, self.node = layout, node
        self.left = np.ones(len(layout.structure.parameters), np.bool_)
        """The parameters that the node still holds."""
        self._factors = np.ones(len(layout.structure.parameters))
        self.mark()

    def changes(self) -> int:
        """As Stash.changes()."""
        there = np.array([*self.node.filled, *(rows is not None for rows in self.node.tables)])
        factors = self._factors[there].astype(np.float32)
        return hash_of(there.tobytes().hex() + factors.tobytes().hex())

    def mark(self) -> None:
        """From here on, changes to gradients are the program's."""
        self._clears, self._scales = marks_of(self.layout.structure.handles)

    def follow(self) -> None:
        """Applies to the node what was done to gradients since mark()."""
        clears, scales = marks_of(self.layout.structure.handles)
        node, dense = self.node, len(self.layout.structure.dense)
        cleared = clears != self._clears
        if cleared.any():
            self._split(~cleared)
        for i in np.flatnonzero(scales != self._scales).tolist():
            by = DTYPE.type(scales[i] / self._scales[i] if self._scales[i] else 0)
            self._factors[i] *= by
            if i >= dense:
                rows = node.tables[i - dense]
                node.tables[i - dense] = rows and (rows[0], rows[1] * by)
            elif node.filled[i]:
                for _, start, end in self.layout.runs(np.arange(dense) == i):
                    node.dense[start:end] *= by  # type: ignore[index]
        self._clears, self._scales = clears, scales

    def part(self, wanted: set[Any]) -> Node:
        """Takes these parameters out of the node."""
        mine = np.array([handle in wanted for handle in self.layout.structure.handles], np.bool_)
        self.left &= ~mine
        return self._split(~mine)

    def _split(self, stays: NDArray[np.bool_]) -> Node:
        """Takes those that do not stay out of the node. Both parts share the array of dense
        gradients."""
        node, dense = self.node, len(self.layout.structure.dense)
        choice = list(zip(node.tables, stays[dense:].tolist(), strict=True))
        rest = Node(
            0,
            0,
            node.filled & ~stays[:dense],
            node.dense,
            0,
            [None if stay else rows for rows, stay in choice],
        )
        node.filled = node.filled & stays[:dense]
        node.tables = [rows if stay else None for rows, stay in choice]
        return rest
