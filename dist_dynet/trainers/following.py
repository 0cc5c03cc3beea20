"""Objects that follow the updates of a trainer and have a state of their own, such as moving
averages. They see each update, may refuse one, and are part of the trainer's checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from .._deferred_signals import DeferSignals
from .._manner import no_collection
from ..params.collection import ParameterCollection
from .base import Trainer
from .hooks import Hooks
from .protocol import TrainerLike


class FollowsTrainer(ABC):
    """The base of such objects. A constructor must end with _follow()."""

    _collection: ParameterCollection

    def _follow(self, of: TrainerLike | ParameterCollection) -> None:
        """Makes a trainer call update() after each of its updates. For a collection alone, the
        program calls it.

        Raises:
            TypeError: it is neither.
        """
        of = getattr(of, "inner", of)  # of a DistributedTrainer or LocalSGD
        if isinstance(of, Trainer):
            with DeferSignals():
                self._collection = of.collection
                Hooks(of).follow(self)
                Hooks(of).refuse(self._prepare)
        elif isinstance(of, ParameterCollection):
            self._collection = of
        else:
            raise TypeError(
                f"{type(self).__name__}: takes a trainer or a ParameterCollection;"
                f" {no_collection(of)}"
            )

    def _prepare(self) -> None:  # noqa: B027 - most refuse nothing
        """Called before an update: raises an exception to refuse it, and allocates what update()
        needs. May be called again without an update in between."""

    @abstractmethod
    def update(self) -> None:
        """Takes in the present values after an update: everything, or nothing if it raises an
        exception.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> average = dy.MovingAverage(m)
        >>> average.update()
        >>> average.state()["calls"].tolist()
        1
        """

    @abstractmethod
    def state(self) -> dict[str, NDArray[Any]]:
        """What load_state() needs to resume; copies.

        >>> import dist_dynet as dy
        >>> sorted(dy.MovingAverage(dy.ParameterCollection()).state())
        ['averaged', 'calls', 'decay', 'every']
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Resumes from a state() of an object with the same settings.

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
    """The followers of a trainer, the earliest first."""
    return [f for f in Hooks(trainer).followers if isinstance(f, FollowsTrainer)]
