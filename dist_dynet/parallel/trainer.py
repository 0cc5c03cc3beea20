"""DistributedTrainer: a trainer whose gradients are averaged over the ranks before each update.

It knows when to exchange and with what weights. The wrapped trainer knows the rule, the norm and the clipping; an Exchange moves the numbers.
"""

from __future__ import annotations

from typing import Literal

from ..params.collection import ParameterCollection
from ..trainers import Trainer
from ._session import world
from .agreement import Agreement
from .exchange import Exchange, MpiExchange
from .sampling import last_step

Average = Literal["mean", "weighted", "sum"]


class DistributedTrainer:
    """Wraps a trainer, so that N ranks with B/N examples each do what one process does with B.

    At construction all ranks get rank 0's values. Each update() replaces the gradients by g, then clips and updates as ever:

    - "mean": g = sum n_r g_r / sum n_r, for losses that are means over the rank's examples. n_r is the number of examples in the rank's
      present batch from shard(), 1 outside of a loop over shard().
    - "weighted": the same, with n_r the argument of update(weight), such as the number of words.
    - "sum": g = sum g_r, for losses that are sums over the rank's examples.

    A rank with n_r = 0, whose batch is empty, takes part: it must call update(), too. With one process it is the wrapped trainer.

    Args:
        trainer: the trainer to wrap, made alike on all ranks.
        average: as above.

    Raises:
        RuntimeError: the ranks hold different parameters; it names rank and parameter.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, learning_rate=0.1))
    >>> for batch in dy.parallel.shard([3, 3], batch_size=2):
    ...     _ = dy.renew_cg()
    ...     loss = dy.average([dy.squared_distance(w, dy.scalarInput(x)) for x in batch])
    ...     loss.backward()
    ...     trainer.update()
    >>> w.as_array().round(2).tolist()
    [1.4]
    """

    def __init__(self, trainer: Trainer, average: Average = "mean") -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(f"DistributedTrainer: takes a trainer such as AdamTrainer(m); got {type(trainer).__name__}.")
        if average not in ("mean", "weighted", "sum"):
            raise ValueError(f"DistributedTrainer: average must be mean, weighted or sum; got {average!r}.")
        self._inner, self._average = trainer, average
        self._world = here = world()
        self._agreement: Agreement | None = None
        self._exchange: Exchange | None = None
        if here.size > 1:
            comm = here.duplicate()
            self._agreement = Agreement(here, comm, trainer.collection, average != "sum")
            self._exchange = MpiExchange(here, comm)

    def update(self, weight: float | None = None) -> None:
        """Averages the gradients over the ranks, then updates as the wrapped trainer does. To be called on all ranks.

        Args:
            weight: n_r of this rank; needed with average="weighted", an error otherwise.

        Raises:
            RuntimeError: the ranks have different parameters, learning rates, clip thresholds or steps of shard(); the norm of the
                gradients is not finite.
        """
        n = self._weight(weight)
        if self._agreement is not None and self._exchange is not None:
            settings = (self._inner.learning_rate, self._inner.get_clip_threshold())
            agreed, what = self._agreement.reach(n, settings, last_step())
            self._exchange.sum(agreed, what)
        elif n == 0:
            self.collection.reset_gradients()
        self._inner.update()

    def _weight(self, weight: float | None) -> float:
        if (weight is not None) != (self._average == "weighted"):
            raise ValueError(f'update: takes a weight exactly if average="weighted"; got weight {weight} with average="{self._average}".')
        if weight is not None:
            if not 0 <= weight < float("inf"):
                raise ValueError(f"update: weight must be a number, 0 or more; got {weight}.")
            return float(weight)
        step = last_step() if self._average == "mean" else None
        return float(step.count) if step else 1.0

    # ---- the wrapped trainer's interface ---------------------------------------------------------------------------------------------

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
        """The greatest norm of the averaged gradients; longer ones are shortened to it. 0 or less: no clipping."""
        self._inner.set_clip_threshold(thr)

    def get_clip_threshold(self) -> float:
        """The greatest norm; 0: no clipping."""
        return self._inner.get_clip_threshold()

    def set_sparse_updates(self, su: bool) -> None:
        """Whether of a lookup table only rows with a gradient, on any rank, are updated."""
        self._inner.set_sparse_updates(su)

    def gradient_norm(self) -> float:
        """The L2 norm of the gradients that this rank has gathered since the last update."""
        return self._inner.gradient_norm()

    def restart(self, learning_rate: float | None = None) -> None:
        """Sets the moments to zero, and the learning rate if given. To be called on all ranks."""
        self._inner.restart(learning_rate)

    def status(self) -> None:
        """Prints the learning rate and the number of updates on stderr, on rank 0."""
        if self._world.rank == 0:
            self._inner.status()

    def whoami(self) -> str:
        """The name of the wrapped trainer's class."""
        return self._inner.whoami()
