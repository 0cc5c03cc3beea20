"""What follows the updates of a trainer and has a state of its own, such as a moving average: it
knows each update, may refuse one, and is part of the trainer's checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..params.collection import ParameterCollection
from .at_once import AtOnce
from .base import Trainer
from .hooks import Hooks
from .protocol import TrainerLike


class FollowsTrainer(ABC):
    """The base of all of them. A constructor ends with _follow()."""

    _collection: ParameterCollection

    def _follow(self, of: TrainerLike | ParameterCollection) -> None:
        """From now on update() is called after each update of a trainer; for that of a collection
        alone the program calls it.

        Raises:
            TypeError: it is neither.
        """
        of = getattr(of, "outer", of)  # of a LocalSGD, whose averages it follows
        of = getattr(of, "inner", of)  # of a DistributedTrainer
        if isinstance(of, Trainer):
            with AtOnce():
                self._collection = of.collection
                Hooks(of).follow(self)
                Hooks(of).refuse(self._prepare)
        elif isinstance(of, ParameterCollection):
            self._collection = of
        else:
            raise TypeError(
                f"{type(self).__name__}: takes a trainer or a ParameterCollection; got"
                f" {type(of).__name__}."
            )

    def _prepare(self) -> None:  # noqa: B027 - most refuse nothing
        """Before the trainer updates: refuses that by an exception, and gets what update() needs;
        it may be called again without an update between."""

    @abstractmethod
    def update(self) -> None:
        """After an update: takes all of it in, or, where it raises something, nothing.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> average = dy.MovingAverage(m)
        >>> average.update()
        >>> average.state()["calls"].tolist()
        1
        """

    @abstractmethod
    def state(self) -> dict[str, NDArray[Any]]:
        """What load_state() needs to go on from here; copies.

        >>> import dist_dynet as dy
        >>> sorted(dy.MovingAverage(dy.ParameterCollection()).state())
        ['averaged', 'calls', 'decay', 'every']
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a state() of one with the same settings.

        Raises:
            ValueError: it is of another; nothing is changed then.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> average, other = dy.MovingAverage(m), dy.MovingAverage(m)
        >>> average.update()
        >>> other.load_state(average.state())
        >>> other.state()["calls"].tolist()
        1
        """


def followers_of(trainer: Trainer) -> list[FollowsTrainer]:
    """Those of a trainer, the earliest first."""
    return [f for f in Hooks(trainer).followers if isinstance(f, FollowsTrainer)]
