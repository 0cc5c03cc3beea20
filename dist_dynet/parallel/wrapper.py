"""What a DistributedTrainer passes on unchanged to the trainer that it wraps."""

from __future__ import annotations

from typing import NoReturn

from .._manner import manner, warn
from ..params.collection import ParameterCollection
from ..trainers import Trainer
from ..trainers.hooks import Hooks
from ..trainers.stats import Stats
from .update.sync import Sync


def check_trainer(trainer: object) -> None:
    """Makes sure that a DistributedTrainer can wrap this trainer, whose update() it never calls.

    Raises:
        TypeError: it is no trainer, or has an update() of its own.
    """
    if not isinstance(trainer, Trainer):
        raise TypeError(
            "DistributedTrainer: takes a trainer such as AdamTrainer(m); got"
            f" {type(trainer).__name__}."
        )
    for name in ("update", "update_subset"):
        if getattr(type(trainer), name) is not getattr(Trainer, name):
            raise TypeError(
                f"DistributedTrainer: {type(trainer).__name__}.{name}() would not be called:"
                " averaged gradients are applied by the rule alone. Write what it does beside that"
                " behind the call of update(), or as a schedule (dy.schedules); or derive from"
                " DistributedTrainer, and from the plain trainer no more."
            )


class TrainerWrapper:
    """The interface of the wrapped trainer, without update() and what depends on it."""

    __slots__ = ("_inner",)
    _inner: Trainer
    sync: Sync

    @property
    def inner(self) -> Trainer:
        """The wrapped trainer."""
        return self._inner

    @property
    def collection(self) -> ParameterCollection:
        """The collection that is trained."""
        return self._inner.collection

    @property
    def learning_rate(self) -> float:
        """The rate of the next update; must be the same on all ranks."""
        return self._inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._inner.learning_rate = value

    def set_learning_rate(self, value: float) -> None:
        """As `learning_rate = value`."""
        self._inner.set_learning_rate(value)

    def set_clip_threshold(self, thr: float) -> None:
        """The largest norm of the averaged gradients; longer ones are scaled down to it. 0 or less:
        no clipping."""
        self._inner.set_clip_threshold(thr)

    def get_clip_threshold(self) -> float:
        """The largest norm; 0: no clipping."""
        return self._inner.get_clip_threshold()

    def set_clip_value(self, limit: float) -> None:
        """Clips every element of the averaged gradients to [-limit, limit]. 0 or less: no
        clipping."""
        self._inner.set_clip_value(limit)

    def get_clip_value(self) -> float:
        """The largest absolute value of an element; 0: no clipping."""
        return self._inner.get_clip_value()

    @property
    def accumulation(self) -> int:
        """Number of calls of update() per update."""
        return self._inner.accumulation

    @property
    def skip_nonfinite(self) -> bool:
        """Whether steps whose averaged gradients hold NaN or infinity are skipped, on all ranks
        alike. `skipped` counts them."""
        return self._inner.skip_nonfinite

    @skip_nonfinite.setter
    def skip_nonfinite(self, skip: bool) -> None:
        self._inner.skip_nonfinite = skip

    @property
    def skipped(self) -> int:
        """Number of skipped steps."""
        return self._inner.skipped

    @property
    def updates(self) -> int:
        """Number of updates."""
        return self._inner.updates

    @property
    def clips(self) -> int:
        """In how many updates the averaged gradients were longer than the clip threshold."""
        return self._inner.clips

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: trainers cannot be copied or pickled. Make a new one for the"
            " copied collection, on all ranks, then new.load_state(trainer.state())."
        )

    def update_epoch(self, r: float = 1.0) -> None:
        """Does nothing, and warns of it, as Trainer.update_epoch()."""
        self._inner.update_epoch(r)

    def set_sparse_updates(self, su: bool) -> None:
        """Whether only those rows of a lookup table are updated that have a gradient on some
        rank."""
        self._inner.set_sparse_updates(su)

    def gradient_norm(self) -> float:
        """The L2 norm of the gradients that this rank has gathered since the last update. That of
        the average over ranks is stats().gradient_norm, after the update."""
        norm, here = self._inner.gradient_norm(), self.sync.here
        is_averaged = here.size > 1 and self.sync.hooks.c == Hooks(self._inner).c
        if norm and is_averaged and here.rank == 0 and manner.is_first("norm"):
            warn(
                "gradient_norm: it is that of this rank's gradients, before they are averaged over"
                " the ranks. To clip, write set_clip_threshold(), which clips the average; its norm"
                " is trainer.stats().gradient_norm, after the update. This is said once."
            )
        return norm

    def restart(self, learning_rate: float | None = None) -> None:
        """Sets the moments to zero, and the learning rate if given. Call it on all ranks."""
        self._inner.restart(learning_rate)

    def stats(self) -> Stats:
        """As Trainer.stats(), with the times of all ranks from the first update to the last, as
        they were reported in the last update; nothing is sent."""
        here, negotiation = self.sync.here, self.sync.negotiation
        stats = self._inner.stats()
        if negotiation is None or negotiation.meters.first is None:
            return stats
        hosts = [here.hosts[member] for member in here.members]
        return stats._replace(ranks=negotiation.meters.seconds(), hosts=hosts)

    def log(self, **values: float) -> None:
        """As Trainer.log(). Values of ranks other than rank 0 are not shown; all_reduce() gives
        rank 0 their mean."""
        self._inner.log(**values)

    def status(self) -> None:
        """Prints on stderr, on rank 0, the learning rate, and how many updates were clipped and
        made since the last call."""
        if self.sync.here.rank == 0:
            self._inner.status()

    def whoami(self) -> str:
        """The name of the wrapped trainer's class."""
        return self._inner.whoami()
