"""Whether ranks have models of their own: their trainers are over fewer ranks than a call that
they make together, each has trained by itself, or LocalSGD has not averaged. What such a call gives
would be mixed up of several models, or what it compares differs. This module finds the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._ffi import lib
from ..._manner import manner, warn
from ..._weak import WeakBag
from ...params.collection import handles_of, members_of
from ...trainers import MovingAverage, Trainer
from ...trainers.following import followers_of
from ...trainers.hooks import Hooks
from .world import World, hash_of

_living: WeakBag[Any] = WeakBag()
_wrapped: WeakBag[Trainer] = WeakBag()
_made: WeakBag[Trainer] = WeakBag()

_AVERAGE = (
    "Since its last average LocalSGD has given each rank parameters of its own. Call average() of"
    " the LocalSGD before."
)
_PLAIN = (
    "Trainers of one process have trained another model on each rank. Write [fn(x) for x in data],"
    " or give evaluate() comm=MPI.COMM_SELF."
)


def install() -> None:
    """Knows all trainers that are made from now on, as long as they live."""
    Hooks.on_new(Trainer, _made.add)


def follow(trainer: Any) -> None:
    """Knows a DistributedTrainer, or a LocalSGD, as long as it lives; what it wraps is no trainer
    of one process, also if it outlives it."""
    _living.add(trainer)
    _wrapped.add(trainer.inner)


def advice(here: World) -> str:
    """What to do if this rank's trainers are all over fewer ranks than a call; else empty."""
    if not _living or _is_covered(here):
        return ""
    return (
        f" This call is over {here.size} ranks; the trainers of this program are over fewer ranks,"
        " with a model for each group of them. Give it comm=, as the trainer."
    )


def _is_covered(here: World) -> bool:
    """Whether one of the trainers is over all of these ranks."""
    over = [trainer.sync.here for trainer in _living]
    return any(some.size > 1 and {*here.members} <= {*some.members} for some in over)


def reason(here: World) -> tuple[str, tuple[int, int]]:
    """Why ranks may have other models, empty if nothing is known of it; and how many parameters
    trainers of one process have updated, with a checksum of them."""
    if here.size == 1:
        return "", (0, 0)
    words = advice(here) or (_AVERAGE if any(map(_has_gone_apart, _living)) else "")
    return words, (0, 0) if words or _is_covered(here) else _trained_here()


def _trained_here() -> tuple[int, int]:
    wrapped = {id(trainer) for trainer in _wrapped}
    sums = sorted(
        lib.dn_param_checksum(handle)
        for trainer in _made
        if trainer.updates and id(trainer) not in wrapped
        for handle in handles_of(members_of(trainer.collection))
    )
    return len(sums), hash_of(f"{sums}") if sums else 0


def _has_gone_apart(trainer: Any) -> bool:
    """Whether this is a LocalSGD between two averages, whose values are in use."""
    if not getattr(trainer, "position", 0) or trainer.sync.here.size == 1:
        return False
    followers = followers_of(trainer.outer.inner)
    return not any(isinstance(f, MovingAverage) and f.is_in for f in followers)


def warn_of(here: World, every: Sequence[tuple[str, tuple[int, int]]]) -> None:
    """Rank 0 says that evaluate() has mixed models up, by each rank's reason()."""
    if here.rank:
        return
    # of other numbers of parameters nothing is known: when a trainer is gone is up to the collector
    trained = {plain for _, plain in every if plain[0]}
    is_unlike = len(trained) > len({number for number, _ in trained})
    for words in [words.strip() for words, _ in every] + [_PLAIN] * is_unlike:
        key = "evaluate " + words[-30:]  # without the number of ranks
        if words and manner.is_first(key):
            warn(
                f"evaluate: the results may come from several models. {words} It does no harm if"
                " fn uses only models that are the same on all ranks. This is said once."
            )
