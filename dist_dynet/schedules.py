"""Learning-rate schedules: each sets trainer.learning_rate when it is made and at each step().

    schedule = dy.schedules.Cosine(trainer, steps=10_000, warmup=500)
    for batch in batches:
        ...
        trainer.update()
        schedule.step()

n counts the calls of step(); `base` is by default the trainer's learning rate when the schedule is
made. A schedule's state is part of trainer.state(). A DistributedTrainer is passed as it is, or its
inner trainer; all ranks step alike.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._deferred_signals import DeferSignals
from ._hints import hint
from ._integers import number_argument, whole
from ._state import count_in, number_in
from .trainers.arguments import finite, number
from .trainers.protocol import TrainerLike


class _Schedule:
    """The base of all schedules: a rate that depends on n, after a linear warm-up."""

    def __init__(self, trainer: TrainerLike, base: float | None = None, warmup: int = 0) -> None:
        warmup = whole(warmup, type(self).__name__, "warmup")
        if warmup < 0:
            raise ValueError(
                f"{type(self).__name__}: warmup must be 0 or more steps; got {warmup}."
            )
        if not hasattr(trainer, "learning_rate"):
            raise TypeError(
                f"{type(self).__name__}: takes a trainer; got {type(trainer).__name__}."
            )
        self._trainer, self._warmup, self._n = trainer, warmup, 0
        base = trainer.learning_rate if base is None else base
        self._base = finite(base, f"{type(self).__name__}: base")
        inner: Any = getattr(trainer, "inner", trainer)
        inner._schedule = weakref.ref(self)
        self._set()

    @property
    def steps_done(self) -> int:
        """How often step() was called: n."""
        return self._n

    def _settings(self) -> dict[str, float]:
        """Its constant arguments by name: all but the trainer and base, which is part of the
        state."""
        return {"warmup": self._warmup}

    @property
    def made(self) -> str:
        """The class and its arguments except base, to check that a run resumes with the same.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> dy.schedules.Linear(trainer, steps=40, warmup=5).made
        'Linear(steps=40, end=0.0, warmup=5)'
        """
        settings = ", ".join(f"{name}={value!r}" for name, value in self._settings().items())
        return f"{type(self).__name__}({settings})"

    def _factor(self, n: int) -> float:
        """The factor of base, n steps after the end of the warm-up."""
        raise NotImplementedError

    def rate(self) -> float:
        """The current learning rate: base (n + 1) / (warmup + 1) during the warm-up, then as the
        class says.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=1)
        >>> schedule = dy.schedules.Linear(trainer, steps=4)
        >>> schedule.step()
        >>> schedule.rate(), trainer.learning_rate
        (0.75, 0.75)
        """
        if self._n < self._warmup:
            return self._base * (self._n + 1) / (self._warmup + 1)
        return self._base * self._factor(self._n - self._warmup)

    def _set(self) -> None:
        self._trainer.learning_rate = self.rate()

    def step(self) -> None:
        """To be called after each update: sets the learning rate of the next one.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=1)
        >>> schedule = dy.schedules.Linear(trainer, steps=4)
        >>> schedule.step()
        >>> trainer.learning_rate, schedule.steps_done
        (0.75, 1)
        """
        with DeferSignals():
            self._n += 1
            self._set()

    def state_dict(self) -> dict[str, float]:
        """The numbers that load_state_dict() needs to continue from here.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=1)
        >>> schedule = dy.schedules.Linear(trainer, steps=4)
        >>> schedule.step()
        >>> schedule.state_dict()
        {'n': 1, 'base': 1.0}
        """
        return {"n": self._n, "base": self._base}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continues from a state_dict() of the same class. The other settings are those of this
        object.

        Raises:
            ValueError: it lacks a number, or the base is infinite; then nothing is changed.
            TypeError: it is not a dict.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=1)
        >>> schedule = dy.schedules.Linear(trainer, steps=4)
        >>> schedule.load_state_dict({"n": 3, "base": 2.0})
        >>> trainer.learning_rate
        0.5
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"{type(self).__name__}.load_state_dict: takes a state_dict(); got"
                f" {type(state).__name__}."
            )
        with DeferSignals():
            self._restore(state, f"{type(self).__name__}.load_state_dict")
            self._set()

    def _restore(self, state: Mapping[str, float], what: str) -> None:
        base = finite(number_in(state, "base", what), f"{what}: base")
        self._n, self._base = count_in(state, "n", what), base


class Constant(_Schedule):
    """rate = base, after a linear warm-up of `warmup` steps from base / (warmup + 1).

    >>> import dist_dynet as dy
    >>> trainer = dy.AdamTrainer(dy.ParameterCollection(), alpha=0.4)
    >>> schedule, rates = dy.schedules.Constant(trainer, warmup=3), []
    >>> for _ in range(5):
    ...     rates.append(round(trainer.learning_rate, 3))
    ...     schedule.step()
    >>> rates
    [0.1, 0.2, 0.3, 0.4, 0.4]
    """

    def _factor(self, n: int) -> float:
        return 1.0


class Linear(_Schedule):
    """rate = base (1 - (1 - end) min(1, n / steps)): decreases linearly to end * base during
    `steps` steps after the warm-up.

    Raises:
        ValueError: steps is below 1.

    >>> import dist_dynet as dy
    >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=1)
    >>> schedule, rates = dy.schedules.Linear(trainer, steps=4), []
    >>> for _ in range(6):
    ...     rates.append(trainer.learning_rate)
    ...     schedule.step()
    >>> rates
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    def __init__(
        self,
        trainer: TrainerLike,
        steps: int,
        end: float = 0.0,
        base: float | None = None,
        warmup: int = 0,
    ) -> None:
        steps = whole(steps, type(self).__name__, "steps")
        if steps < 1:
            raise ValueError(f"{type(self).__name__}: steps must be 1 or more; got {steps}.")
        self._steps, self._end = steps, finite(end, f"{type(self).__name__}: end")
        super().__init__(trainer, base, warmup)

    def _settings(self) -> dict[str, float]:
        return {"steps": self._steps, "end": self._end, **super()._settings()}

    def _factor(self, n: int) -> float:
        return 1 - (1 - self._end) * min(1.0, n / self._steps)


class Cosine(Linear):
    """rate = base (end + (1 - end) (1 + cos(pi min(1, n / steps))) / 2): decreases along a half
    cosine wave (Loshchilov and Hutter 2017).

    >>> import dist_dynet as dy
    >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=1)
    >>> schedule, rates = dy.schedules.Cosine(trainer, steps=4, end=0.1), []
    >>> for _ in range(6):
    ...     rates.append(round(trainer.learning_rate, 3))
    ...     schedule.step()
    >>> rates
    [1.0, 0.868, 0.55, 0.232, 0.1, 0.1]
    """

    def _factor(self, n: int) -> float:
        return self._end + (1 - self._end) * (1 + math.cos(math.pi * min(1.0, n / self._steps))) / 2


class InverseSquareRoot(_Schedule):
    """rate = base sqrt((warmup + 1) / (n + 1)): after a linear warm-up to base, decreases as 1 /
    sqrt(n) (Vaswani et al. 2017).

    >>> import dist_dynet as dy
    >>> trainer = dy.AdamTrainer(dy.ParameterCollection(), alpha=1)
    >>> schedule, rates = dy.schedules.InverseSquareRoot(trainer, warmup=3), []
    >>> for _ in range(16):
    ...     rates.append(trainer.learning_rate)
    ...     schedule.step()
    >>> rates[0], rates[3], rates[15]
    (0.25, 1.0, 0.5)
    """

    def __init__(self, trainer: TrainerLike, base: float | None = None, warmup: int = 0) -> None:
        super().__init__(trainer, base, warmup)

    def _factor(self, n: int) -> float:
        return math.sqrt((self._warmup + 1) / (n + self._warmup + 1))


class Plateau(_Schedule):
    """rate = base factor^k: multiplies the rate by `factor` whenever a measure has not improved for
    more than `patience` steps.

    step(measure) is usually called once per epoch, with the loss on held-out data.

    Args:
        trainer: whose rate is set.
        factor: of each cut, in (0, 1).
        patience: how many steps without improvement are tolerated.
        threshold: a measure has improved if it is better than the best by more than this.
        greatest_is_best: the measure is an accuracy or the like.
        least: the rate does not fall below.
        base: the rate at the start.

    Raises:
        ValueError: factor is outside of (0, 1), or patience negative.

    >>> import dist_dynet as dy
    >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=1)
    >>> schedule, rates = dy.schedules.Plateau(trainer, factor=0.5, patience=1), []
    >>> for loss in (3.0, 2.0, 2.0, 2.1, 1.9):
    ...     schedule.step(loss)
    ...     rates.append(trainer.learning_rate)
    >>> rates
    [1.0, 1.0, 1.0, 0.5, 0.5]
    """

    def __init__(
        self,
        trainer: TrainerLike,
        factor: float = 0.5,
        patience: int = 5,
        threshold: float = 0.0,
        greatest_is_best: bool = False,
        least: float = 0.0,
        base: float | None = None,
    ) -> None:
        patience = whole(patience, "Plateau", "patience")
        factor = number(factor, "Plateau: factor")
        if not 0 < factor < 1 or patience < 0:
            raise ValueError(
                f"Plateau: factor must lie in (0, 1), patience be 0 or more; got factor {factor},"
                f" patience {patience}."
            )
        self._cut, self._patience = factor, patience
        self._threshold = number(threshold, "Plateau: threshold")
        self._least = finite(least, "Plateau: least")
        self._sign = 1 if greatest_is_best else -1
        self._best, self._bad, self._cuts = -math.inf, 0, 0
        super().__init__(trainer, base)

    def _settings(self) -> dict[str, float]:
        return {
            "factor": self._cut,
            "patience": self._patience,
            "threshold": self._threshold,
            "greatest_is_best": self._sign > 0,
            "least": self._least,
        }

    def rate(self) -> float:
        """The current learning rate."""
        return max(self._least, self._base * self._cut**self._cuts)

    def step(self, measure: float) -> None:  # type: ignore[override]
        """To be called with each new measure; NaN counts as no improvement."""
        score = self._sign * number_argument(measure, "Plateau.step: the measure")
        with DeferSignals():
            if score > self._best + self._threshold:
                self._best, self._bad = score, 0
            else:
                self._bad += 1
                if self._bad > self._patience:
                    self._cuts, self._bad = self._cuts + 1, 0
            super().step()

    def state_dict(self) -> dict[str, float]:
        """As in the other schedules."""
        return {**super().state_dict(), "best": self._best, "bad": self._bad, "cuts": self._cuts}

    def _restore(self, state: Mapping[str, float], what: str) -> None:
        best = number_in(state, "best", what)
        bad, cuts = (count_in(state, name, what) for name in ("bad", "cuts"))
        super()._restore(state, what)
        self._best, self._bad, self._cuts = best, bad, cuts


__all__ = ["Constant", "Cosine", "InverseSquareRoot", "Linear", "Plateau"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint(name)}")


def __dir__() -> list[str]:
    return sorted(__all__)
