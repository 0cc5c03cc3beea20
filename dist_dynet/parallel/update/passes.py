"""Which batch gradients come from when update() is called, and how much they count."""

from __future__ import annotations

from typing import Any

from ..batches.batches import Batch
from ..batches.division import checked_weight
from .accumulation import Pass, counted, pass_of_unusual_batch
from .sync import Sync


def find_pass(sync: Sync, average: str, weight: Batch[Any] | float | None) -> Pass:
    """The gradients gathered since the last update(), by the argument of this one: a batch or a
    number, or None where it is to be found out.

    Raises:
        ValueError: on this rank alone, a weight where nothing is weighted; in one process also one
            that is no weight, and a missing one.
        TypeError: in one process, a weight that is no number.
    """
    batch, problem = sync.sources.find(weight)
    if isinstance(weight, Batch):
        return _of_batch(sync, weight, problem)
    if weight is not None:
        if average == "sum":
            sync.mark_out_of_step()
            raise ValueError(
                f'update: with average="sum" nothing is weighted; got weight {weight!r:.60}.'
                " Leave it out."
            )
        return _of_number(sync, weight, batch, problem)
    weighs = batch is not None and (batch.is_weighted or batch.n == 0)
    if average == "weighted" and not problem and not weighs:
        problem = (
            'update: average="weighted" needs a weight; got none, and no batch of shard() that'
            " has one. Write update(weight), set batch.n before backward, or use shard(...,"
            " weight=len)."
        )
        if sync.here.size == 1:
            raise ValueError(problem)
    return _found(sync, batch, problem)


def _of_batch(sync: Sync, batch: Batch[Any], problem: str) -> Pass:
    """The batch that update() was given."""
    here = sync.here
    if batch.problem or batch.ranks is not here.members:
        return pass_of_unusual_batch(batch, here, True, _counts(sync))
    if here.size > 1 and sync.weighted and sync.reproducible is None:
        problem = problem or sync.sources.contradict(batch)
    total = batch.n if here.size == 1 else batch.total
    return Pass(batch, _counted(sync, batch), total, True, problem)


def _of_number(sync: Sync, weight: float, batch: Batch[Any] | None, problem: str) -> Pass:
    """The number that update() was given, and the batch that was found."""
    here = sync.here
    try:
        n = checked_weight(weight, "update: the weight")
    except (TypeError, ValueError) as error:
        if here.size == 1:
            raise
        return Pass(None, 0.0, None, True, f"{error}"[len("update: ") :])
    if sync.reproducible is not None:
        batch, problem = sync.sources.find()  # which micro-batch it is
    elif here.size > 1:
        problem = problem or sync.sources.contradict_number(n)
    return Pass(batch, n, n if here.size == 1 else None, True, problem)


def _found(sync: Sync, batch: Batch[Any] | None, problem: str) -> Pass:
    """update() was given nothing."""
    if not _counts(sync):
        problem = ""  # whatever it is, it is all there is
    if problem or batch is None:
        return Pass(None, 1.0, float(sync.here.size), False, problem)
    if batch.problem or batch.ranks is not sync.here.members:
        return pass_of_unusual_batch(batch, sync.here, False, _counts(sync))
    return Pass(batch, _counted(sync, batch), batch.total, False)


def _counts(sync: Sync) -> bool:
    """Whether it matters which batch it is."""
    return sync.here.size > 1 or sync.reproducible is not None


def _counted(sync: Sync, batch: Batch[Any]) -> float:
    return counted(batch, sync.collection) if sync.weighted else batch.n
