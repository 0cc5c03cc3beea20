"""What the ranks of LocalSGD send one another beside an average. Before it: whether they use the
same batches and settings, what the program has written into parameters, and which rows have
changed. After it: their moments, and at the end of a join their settings.

What is refused before the average changes nothing. The average itself is made in local_sgd.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from .._ffi import DTYPE
from ..params.collection import ParameterCollection, members_of
from ..params.parameters import AnyParameter, LookupParameters
from ..trainers import CyclicalSGDTrainer, MovingAverage, Trainer
from ..trainers.following import followers_of
from ..trainers.hooks import Hooks
from ..trainers.state import Settings
from .agreement.negotiation import Step
from .agreement.structure import Structure
from .anchor import Anchor, Difference, Mark
from .batches.batches import Batch, Description
from .batches.division import checked_weight
from .data.collectives import all_reduce, gathered
from .processes.rank_names import format_ranks
from .processes.world import World, hash_of
from .update.accumulation import pass_of_unusual_batch
from .update.sync import Sync

Moments = Literal["local", "average", "reset"]

_MESSAGE = np.dtype(
    [
        ("n", np.float64),  # examples since the last average
        ("said", np.int64),  # hash of what must be equal
        ("marks", np.int64),  # hash of what the program has written; 0: nothing
        ("waits", np.int64),  # whether gradients wait to be applied
        ("new", np.int64),  # number of parameters that were added
        ("doubt", np.int64),  # whether it is unknown which batches were used
    ]
)


class Batches(NamedTuple):
    """The batches of shard() that a rank has used since the last average."""

    steps: int = 0
    last: Description | tuple[()] = ()  # description of the last one
    order: int = 0  # a hash of all their descriptions

    def after(self, description: Description | tuple[()]) -> Batches:
        """With one more batch."""
        return Batches(self.steps + 1, description, hash_of(f"{self.order} {description}"))

    def words(self) -> str:
        """As text, for an error."""
        if not self.steps:
            return ", ".join(Step().parts())
        few = "1 batch" if self.steps == 1 else f"{self.steps} batches"
        order = f" (all of them: {self.order & 0xFFFFFFFF:x})" if self.steps > 1 else ""
        return f"{few}{order} since the last average, the last {', '.join(Step(self.last).parts())}"


class Now(NamedTuple):
    """What a rank sends to the others before an average."""

    n: float  # how many examples it has used since the last average
    said: Sequence[str]  # what must be equal, as messages show it
    waits: bool  # gradients wait to be applied
    is_first: bool  # it has not called update() since the last average
    doubt: str  # why it is not known which batches it has used


def used(weight: Batch[Any] | float | None, sync: Sync) -> tuple[Batch[Any] | None, float, str]:
    """The batch that gradients come from, how much they count, and why that is unknown, if it
    is.

    Raises:
        RuntimeError: it is a micro-batch, or shard() has given examples to other ranks.
        ValueError: the weight is negative, infinite or NaN.
        TypeError: it is neither a number nor a batch of shard().
    """
    here = sync.here
    batch, doubt = sync.sources.find(weight)
    batch = weight if isinstance(weight, Batch) else batch
    if batch is not None and batch.part is not None:
        raise RuntimeError(
            "update: LocalSGD takes no micro-batches, of shard(..., micro_batches=G); got one."
            " Leave it out."
        )
    if weight is not None and not isinstance(weight, Batch):
        return None, checked_weight(weight, "update: the weight"), doubt
    if batch is None:
        return None, 1.0, doubt if here.size > 1 else ""
    if here.size > 1 and batch is weight:
        doubt = doubt or sync.sources.contradict(batch, by_share=False)
    if here.size > 1 and (batch.problem or batch.ranks is not here.members):
        doubt = pass_of_unusual_batch(batch, here, weight is not None, True).problem
    return batch, float(batch.n), doubt if here.size > 1 else ""


def said_of(trainer: Trainer) -> list[str]:
    """What must be equal of the wrapped trainer and its parameters, as text."""
    settings, said = Settings.of(trainer), [Hooks(trainer).constants, _words_of_frozen(trainer)]
    for k, name in enumerate(Settings._fields):
        # the rate of this one depends on each rank's own updates
        if name != "learning_rate" or not isinstance(trainer, CyclicalSGDTrainer):
            said.append(settings.words(np.arange(len(settings)) == k))
    return said


def numbers_of(trainer: Trainer) -> tuple[float, ...]:
    """The settings that the program has made on a trainer, and a hash of its constants. The rate of
    a cyclical trainer is left out, since it follows the updates of each rank."""
    settings = Settings.of(trainer)
    if isinstance(trainer, CyclicalSGDTrainer):
        settings = settings._replace(learning_rate=0.0)
    return (*settings, float(hash_of(Hooks(trainer).constants)))


def _frozen(m: ParameterCollection) -> list[AnyParameter]:
    return [p for p in members_of(m) if not p.is_updated()]


def _words_of_frozen(trainer: Trainer) -> str:
    names = ", ".join(p.readable_name() for p in _frozen(trainer.collection))
    return f"{names or 'no parameter'} frozen"


def moved_and_frozen(
    sync: Sync, m: ParameterCollection, came: Mapping[AnyParameter, Any]
) -> list[AnyParameter]:
    """The frozen parameters that some rank has moved since the last average, before they were
    frozen. Collective. Inside join(), where ranks that have ended cannot take part, such parameters
    make the average refused."""
    frozen, here = _frozen(m), sync.here
    moved = np.array([p in came for p in frozen], np.uint8)
    if sync.joins and moved.any():
        first = frozen[int(moved.argmax())].readable_name()
        sync.refusal = sync.refusal or (
            f'"{first}" is frozen, and was written inside of join(), where ranks that have ended'
            " cannot average it. Write it outside of it, or call set_updated(True)."
        )
    if sync.joins:
        return []
    if frozen:
        what = here.collective("average of LocalSGD")
        every = np.empty((here.size, len(moved)), np.uint8)
        with here.uninterrupted(what):
            here.wait([here.comm.Iallgather(moved, every)], what)
        moved = every.max(axis=0)
    return [p for p, is_moved in zip(frozen, moved, strict=True) if is_moved]


def compare(here: World, anchor: Anchor, now: Now, structure: Structure) -> bool:
    """Makes sure that all ranks can average. Returns whether any rank has used examples since the
    last average; if not, all ranks have equal parameters afterwards. Collective.

    Args:
        here: the ranks.
        anchor: of this rank's parameters; moved to what the program has written on all ranks alike.
        now: of this rank.
        structure: of the parameters that the ranks have in common.

    Raises:
        RuntimeError: on all ranks, naming ranks and what is not alike.
    """
    what = here.collective("average of LocalSGD")
    n, said, waits, is_first, doubt = now
    with here.uninterrupted(what):
        marks = anchor.marks(is_first)
        marked = hash_of(repr(sorted(marks.items()))) if marks else 0
        mine = np.array(
            [(n, hash_of(repr(said)), marked, waits, len(anchor.new), bool(doubt))], _MESSAGE
        )
        every = np.empty(here.size, _MESSAGE)
        here.wait([here.comm.Iallgather(mine.view(np.uint8), every.view(np.uint8))], what)
        if every["waits"].any():
            where = format_ranks([here.members[r] for r in np.flatnonzero(every["waits"]).tolist()])
            raise RuntimeError(
                f"{here.name} {what}: gradients wait to be applied on {where}. Call average()"
                " between update() and the next backward()."
            )
        if every["doubt"].any():
            where = format_ranks([here.members[r] for r in np.flatnonzero(every["doubt"]).tolist()])
            words = doubt or f"on {where} it is not known which batch of shard() was used."
            raise RuntimeError(f"{here.name} {what}: {words}")
        if (every["said"] != every["said"][0]).any():
            here.agree(here.comm, dict.fromkeys(said, ""), what)
        if (every["marks"] != every["marks"][0]).any():
            accept_written(here, anchor, marks, what)
        else:
            anchor.accept({name: (then > 0, now > 0) for name, (then, now) in marks.items()})
        if every["n"].any():
            return True
        _refuse_changed(here, anchor, what)
        if every["new"].any():
            added = Structure(anchor.collection)
            added.check(here, here.comm, what)
            added.broadcast(here, here.comm, what, structure.parameters)
    return False


def accept_written(here: World, anchor: Anchor, marks: dict[str, Mark], what: str) -> None:
    """Moves the anchor to what the program has written, where it is the same on all ranks.
    Collective.

    Raises:
        RuntimeError: on all ranks: it is not, before the first update after an average.
    """
    every = here.gather(here.comm, (anchor.is_foreign, marks), what)
    may_differ = any(is_foreign for is_foreign, _ in every)
    accepted: dict[str, tuple[bool, bool]] = {}
    for name in sorted({name for _, theirs in every for name in theirs}):
        then, now = zip(*(theirs.get(name, (0, 0)) for _, theirs in every), strict=True)
        accepted[name] = _are_alike(then), _are_alike(now)
        if any(then) and not any(accepted[name]) and not may_differ:
            other = next(r for r in range(here.size) if then[r] != then[0])
            raise RuntimeError(
                f'{here.name} {what}: the program has changed "{name}" between an average and the'
                f" next update(), but not alike on rank {here.members[other]} and rank"
                f" {here.members[0]}. Change parameters alike on all ranks."
            )
    anchor.accept(accepted)


def _are_alike(checksums: Sequence[int]) -> bool:
    return checksums[0] > 0 and len(set(checksums)) == 1


def _refuse_changed(here: World, anchor: Anchor, what: str) -> None:
    """Refuses changes if no rank has a weight to average them by."""
    first = next((p.readable_name() for p in anchor.came()), "")
    every = here.gather(here.comm, first, what)
    if any(every):
        other = next(r for r in range(here.size) if every[r])
        raise RuntimeError(
            f'{here.name} {what}: "{every[other]}" has changed on rank {here.members[other]}, but'
            " no update() has used an example since the last average, and the ranks differ."
            " Change parameters by update(), or alike on all ranks."
        )


def weigh_rows(
    here: World, tables: list[LookupParameters], n: float, came: Mapping[AnyParameter, Difference]
) -> None:
    """Scales the rows of tables so that only ranks that have changed a row count in its mean."""
    none = np.empty(0, np.int64), np.empty(0)
    mine = [np.asarray(came.get(table, none)[0], np.uint32) for table in tables]
    every = gathered((n, mine), here.comm)
    total = sum(weight for weight, _ in every)
    for k, table in enumerate(tables):
        if table not in came:
            continue
        weights = np.zeros(len(table))
        for weight, changed in every:
            weights[changed[k]] += weight
        rows, difference = came[table]
        difference *= (total / np.maximum(weights[rows], np.finfo(DTYPE).tiny))[:, None]


def refuse_averages(inner: Trainer, outer: Trainer, ranks: int) -> None:
    """Refuses moving averages and the like that follow the wrapped trainer, whose updates differ
    from rank to rank, and averages that are swapped in while ranks train.

    Raises:
        RuntimeError: one does not, or is not.
    """
    kept = [type(f).__name__ for f in followers_of(inner)]
    if ranks > 1 and kept:
        raise RuntimeError(
            f"LocalSGD: a {kept[0]} must be of the LocalSGD, whose averages are the same on all"
            f" ranks; got one of the wrapped trainer. Write {kept[0]}(LocalSGD(trainer))."
        )
    if any(isinstance(f, MovingAverage) and f.is_in for f in followers_of(outer)):
        raise RuntimeError(
            "LocalSGD: training must go on with the values; the averages of a MovingAverage are"
            " swapped in. Call swap_out() before."
        )


class AfterAverage:
    """Follows the trainer that averages, before all other followers, also on ranks that have run
    out of data. What follows next, such as a checkpoint, sees all ranks alike."""

    def __init__(self, anchor: Anchor, inner: Trainer, moments: Moments, here: World) -> None:
        self._anchor, self._inner, self._moments, self._here = anchor, inner, moments, here
        self.undo: list[Callable[[], object]] = []
        """Calls that undo what was set for the average alone."""

    def give_back(self) -> None:
        """Calls them, once."""
        while self.undo:
            self.undo.pop()()

    def update(self) -> None:
        """Called after each average."""
        self.give_back()
        if self._moments == "reset":
            self._inner.restart()
        elif self._moments == "average":
            _average_moments(self._inner, self._here)
        self._anchor.remember()


def hand_over(
    sync: Sync, after: AfterAverage, anchor: Anchor, came: Mapping[AnyParameter, Difference]
) -> None:
    """Resets parameters to the last average, and makes the distance that this rank has moved their
    gradient. Frozen parameters that have moved are unfrozen for the average."""
    for p in moved_and_frozen(sync, anchor.collection, came):
        p.set_updated(True)
        after.undo.append(partial(p.set_updated, False))
    for p, (rows, difference) in came.items():
        p.clear_gradient()
        if isinstance(p, LookupParameters):
            p.add_gradients(rows, difference)
        else:
            p.set_gradient(difference.reshape(p.shape(), order="F"))
    anchor.swap(came)


def _average_moments(inner: Trainer, here: World) -> None:
    """Averages the moments over all ranks; those of a parameter that a rank has not updated count
    as zero."""
    state, named = inner.state(), inner.collection.named_parameters()
    # what names no parameter is of the schedule, say
    mine = {name: array for name, array in state.items() if name.partition(":")[2] in named}
    shapes: dict[str, tuple[int, ...]] = {}
    for theirs in gathered({name: array.shape for name, array in mine.items()}, here.comm):
        shapes |= theirs
    for name in sorted(shapes):
        array = mine.get(name, np.zeros(shapes[name]))
        state[name] = all_reduce(np.asarray(array, np.float64), "mean", here.comm)
    inner.load_state(state)


def take_over(here: World, inner: Trainer, calls: int, decay: float) -> None:
    """At the end of a join: takes schedule and settings from the rank that has made the most calls,
    the first of several."""
    schedule = Hooks(inner).schedule
    state = schedule.state_dict() if schedule else {}
    what = here.collective("end of join of LocalSGD")
    with here.uninterrupted(what):
        every = here.gather(here.comm, (calls, inner.learning_rate, state, decay), what)
    most = max(range(here.size), key=lambda rank: every[rank][0])
    _, rate, state, decay = every[most]
    inner.collection.set_weight_decay(decay)
    if most != here.rank:
        if schedule and state:
            schedule.load_state_dict(state)
        inner.learning_rate = rate
