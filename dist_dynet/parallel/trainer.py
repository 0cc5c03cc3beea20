"""DistributedTrainer: a trainer whose gradients are averaged over the ranks before each update.

It knows when to exchange and with what weights. The wrapped trainer knows the rule, the norm and the clipping; an Exchange moves the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from ..params.collection import LookupParameters, ParameterCollection, Parameters
from ..trainers import Trainer
from ._session import world
from .agreement import Agreement
from .exchange import Exchange
from .sampling import last_step
from .shared import ENGINES, Engine, choose

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
        exchange: how dense gradients are added up: "shared", in memory that the ranks share, "mpi", by MPI's all-reduce, or "auto", the first
            where all ranks run on one host. None: DIST_DYNET_EXCHANGE from the environment, "auto" by default.

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

    def __init__(self, trainer: Trainer, average: Average = "mean", exchange: Engine | None = None) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(f"DistributedTrainer: takes a trainer such as AdamTrainer(m); got {type(trainer).__name__}.")
        if average not in ("mean", "weighted", "sum"):
            raise ValueError(f"DistributedTrainer: average must be mean, weighted or sum; got {average!r}.")
        if exchange is not None and exchange not in ENGINES:
            raise ValueError(f"DistributedTrainer: exchange must be auto, mpi or shared; got {exchange!r}.")
        self._inner, self._average = trainer, average
        self._gathered = 0.0  # n_r of the passes since the last update
        self._world = here = world()
        self._agreement: Agreement | None = None
        self._exchange: Exchange | None = None
        if here.size > 1:
            comm = here.duplicate()
            self._agreement = Agreement(here, comm, trainer.collection, average != "sum")
            self._exchange = choose(here, comm, exchange)

    def update(self, weight: float | None = None) -> None:
        """Averages the gradients over the ranks, then updates as the wrapped trainer does. To be called on all ranks.

        With set_accumulation(k) that happens at every k-th call, alike on all ranks; n_r is then the sum over the k calls.

        Args:
            weight: n_r of this rank; needed with average="weighted", an error otherwise.

        Raises:
            RuntimeError: the ranks have different parameters, learning rates, clip thresholds or steps of shard(); the norm of the
                gradients is not finite.
        """
        self._gathered += self._weight(weight)
        if not self._inner._due():
            return
        n, self._gathered = self._gathered, 0.0
        if self._agreement is not None and self._exchange is not None:
            settings = (self._inner.learning_rate, self._inner.get_clip_threshold())
            agreed, what = self._agreement.reach(n, settings, last_step())
            self._exchange.sum(agreed, what)
        elif n == 0:
            self.collection.reset_gradients()
        self._inner._apply()

    def _weight(self, weight: float | None) -> float:
        if (weight is not None) != (self._average == "weighted"):
            raise ValueError(f'update: takes a weight exactly if average="weighted"; got weight {weight} with average="{self._average}".')
        if weight is not None:
            if not 0 <= weight < float("inf"):
                raise ValueError(f"update: weight must be a number, 0 or more; got {weight}.")
            return float(weight)
        step = last_step() if self._average == "mean" else None
        return float(step.count) if step else 1.0

    def _pending(self) -> bool:
        """Whether gradients wait to be applied; nothing is saved then."""
        return self._inner._pending()

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

    def set_clip_value(self, limit: float) -> None:
        """Clips every element of the averaged gradients to [-limit, limit]. 0 or less: does not."""
        self._inner.set_clip_value(limit)

    def get_clip_value(self) -> float:
        """The greatest size of one element of a gradient; 0: any."""
        return self._inner.get_clip_value()

    def set_accumulation(self, k: int) -> None:
        """Exchanges and updates only at every k-th call of update(), by the mean of k backward passes. To be called on all ranks."""
        self._gathered = 0.0
        self._inner.set_accumulation(k)

    @property
    def accumulation(self) -> int:
        """How many calls of update() make one update."""
        return self._inner.accumulation

    @property
    def skip_nonfinite(self) -> bool:
        """Whether steps whose averaged gradients hold NaN or infinity are left out, alike on all ranks. `skipped` counts them."""
        return self._inner.skip_nonfinite

    @skip_nonfinite.setter
    def skip_nonfinite(self, skip: bool) -> None:
        self._inner.skip_nonfinite = skip

    @property
    def skipped(self) -> int:
        """How many steps were left out."""
        return self._inner.skipped

    @property
    def updates(self) -> int:
        """How many updates were done."""
        return self._inner.updates

    def update_subset(self, updated_params: Sequence[int | Parameters], updated_lookups: Sequence[int | LookupParameters]) -> None:
        """As Trainer.update_subset(), in one process.

        Raises:
            RuntimeError: there are several ranks.
        """
        if self._world.size > 1:
            raise RuntimeError(
                f"{self._world.name} update_subset: cannot exchange a part of the gradients; got {self._world.size} ranks. "
                "Use update() and freeze the others by set_updated(False)."
            )
        self._inner.update_subset(updated_params, updated_lookups)

    def state(self) -> dict[str, NDArray[Any]]:
        """As Trainer.state(): the same on all ranks."""
        return self._inner.state()

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """As Trainer.load_state(). To be called on all ranks with the same state."""
        self._inner.load_state(state)

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
