"""Which batch an update uses, found by the loop over shard() that is running."""

from __future__ import annotations

from typing import Any, NamedTuple

from .batches.batches import SEVERAL, present_batch, update_called
from .batches.batches import Batch as Batch
from .batches.division import checked_weight
from .processes.world import World


class Use(NamedTuple):
    """What an update uses."""

    batch: Batch[Any] | None
    n: float
    total: float | None
    problem: str = ""


class BatchUse:
    """Finds the batch of each update of one trainer."""

    def __init__(self, here: World) -> None:
        self._here = here

    def find(self, named: Batch[Any] | float | None = None) -> Use:
        """The batch of this update: the named one, or that of the running loop."""
        if named is not None and not isinstance(named, Batch):
            return Use(None, checked_weight(named, "update: the weight"), None)
        batch = named if isinstance(named, Batch) else present_batch()
        if batch is SEVERAL:
            return Use(None, 1.0, None, "update: several loops over shard() are running.")
        return Use(None, 1.0, None) if batch is None else Use(batch, batch.n, batch.total)

    def done(self, use: Use) -> None:
        """Notes that an update has used it."""
        update_called(use.batch)
