"""Whether ranks have models of their own: their trainers are over fewer ranks than a call that
they make together, or LocalSGD has not averaged. What such a call gives would be mixed up of
several models, or what it compares differs. This module finds the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from ..._manner import manner, warn
from ...trainers import MovingAverage
from ...trainers.following import followers_of
from .world import World

_living: WeakSet[Any] = WeakSet()

_AVERAGE = (
    "since its last average LocalSGD has given each rank parameters of its own. Call average() of"
    " the LocalSGD before."
)


def follow(trainer: Any) -> None:
    """Knows a DistributedTrainer, or a LocalSGD, as long as it lives."""
    _living.add(trainer)


def advice(here: World) -> str:
    """What to do if this rank's trainers are all over fewer ranks than a call; else empty."""
    over = [trainer.sync.here for trainer in _living]
    members = set(here.members)
    if not over or any(some.size > 1 and members <= {*some.members} for some in over):
        return ""
    return (
        f" This call is over {here.size} ranks; the trainers of this program are over fewer ranks,"
        " with a model for each group of them. Give it comm=, as the trainer."
    )


def reason(here: World) -> str:
    """Why ranks may have other models; empty if nothing is known of it."""
    if here.size == 1:
        return ""
    return advice(here) or (_AVERAGE if any(map(_has_gone_apart, list(_living))) else "")


def _has_gone_apart(trainer: Any) -> bool:
    """Whether this is a LocalSGD between two averages, whose values are in use."""
    if not getattr(trainer, "position", 0) or trainer.sync.here.size == 1:
        return False
    followers = followers_of(trainer.outer.inner)
    return not any(isinstance(f, MovingAverage) and f.is_in for f in followers)


def warn_of(here: World, every: Sequence[str]) -> None:
    """Rank 0 says that evaluate() has mixed models up, by each rank's reason()."""
    for words in every:
        key = "evaluate " + ("average" if words == _AVERAGE else "groups")
        if words and here.rank == 0 and key not in manner.said:
            manner.said.add(key)
            warn(
                f"evaluate: the results may come from several models:{' ' * (words == _AVERAGE)}"
                f"{words} It does no harm if fn uses only models that are the same on all ranks."
                " This is said once."
            )
