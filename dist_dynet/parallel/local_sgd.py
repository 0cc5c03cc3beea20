"""LocalSGD: each rank trains on its own, and now and then all average their parameters, for
networks that are too slow for an exchange at every update.

It knows when to average, and what. It exchanges no gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import meter
from .._deferred_signals import DeferSignals, deferring_signals
from .._ffi import DTYPE
from .._hints import OF_TRAINERS, explain
from .._integers import whole
from .._state import check_state, check_states
from ..params.parameters import AnyParameter, LookupParameters
from ..trainers import CyclicalSGDTrainer, Trainer
from ..trainers.following import followers_of
from ..trainers.hooks import Hooks
from ..trainers.state import Settings
from ..trainers.stats import Stats
from .agreement.structure import Structure, broadcast_state
from .batch import Batch, BatchUse
from .processes import environment, saving, session, spans
from .processes.world import World, hash_of
from .wrapper import TrainerWrapper

_MESSAGE = np.dtype([("hash", np.int64), ("n", np.float64), ("flags", np.int64)])
"""What each rank sends before an average: a hash of what must be equal, how many examples it has
used since the last one, and the answers of `asks`."""


class LocalSGD(TrainerWrapper):
    """Wraps a trainer: each rank updates its own parameters, which are averaged now and then.

    Every k-th update() sets them to

        w = sum n_r w_r / sum n_r

    n_r is how many examples (or what weight) rank r has used since the last average (local SGD:
    Stich 2019; McMahan et al. 2017). Each rank keeps moments of its own and clips by itself. With
    k = 1, SimpleSGDTrainer and no clipping it does, to rounding, what DistributedTrainer does. With
    one process it is the wrapped trainer. What the program itself writes into parameters is part
    of w_r. Parameters that are added later begin with rank 0's values at the next average.

    Every rank must call update() equally often, also for batches without examples, as loops over
    shard() do. Between averages the ranks hold different parameters: call average() before
    evaluate() and save(). A Checkpointer that is given this object saves after an average. Learning
    rate schedules act on the wrapped trainer. For a moving average write `average =
    MovingAverage(m)`, and call `average.update()` where update() returns True.

    Args:
        trainer: the trainer to wrap, made alike on all ranks.
        every: k.
        comm: as of DistributedTrainer.
        timeout: as there.

    Raises:
        ValueError: every is below 1.
        TypeError: not a trainer.
        RuntimeError: on all ranks: they differ in parameters, trainer or settings.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.parallel.LocalSGD(dy.SimpleSGDTrainer(m, learning_rate=0.1), every=8)
    >>> for batch in dy.parallel.shard([3, 3], batch_size=2):
    ...     _ = dy.renew_cg()
    ...     loss = dy.average([dy.squared_distance(w, dy.scalarInput(x)) for x in batch])
    ...     loss.backward()
    ...     averaged = trainer.update()
    >>> trainer.average()
    >>> w.as_array().round(2).tolist()
    [1.4]
    """

    def __init__(
        self, trainer: Trainer, every: int = 8, *, comm: Any = None, timeout: float | None = None
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(
                f"LocalSGD: takes a trainer such as AdamTrainer(m); got {type(trainer).__name__}."
            )
        self.every = whole(every, "LocalSGD", "every")
        """Averages at every so many calls of update(); the same on all ranks."""
        if self.every < 1:
            raise ValueError(f"LocalSGD: every must be 1 or more; got {every}.")
        self._inner = trainer
        self.here: World = session.world(comm).with_timeout(timeout)
        """The ranks that train together."""
        if comm is not None:
            saving.install(self.here)
        self._comm: Any = None
        self._position, self._calls, self._n, self._batch = 0, 0, 0.0, ""
        self._structure, self._anchor = Structure(trainer.collection), list[NDArray[Any]]()
        self.asks: list[Callable[[], int]] = []
        """Called before each average for flags, of which all ranks get the union."""
        self.on_average: list[Callable[[int], object]] = []
        """Called with these flags after each average."""
        if self.here.size > 1:
            self._comm, what = self.here.lend(self), self.here.collective("LocalSGD")
            self.here.agree(self._comm, f"{trainer.whoami()} with {every=}", what)
            environment.compare(self.here, self._comm, what)
            self._structure.check(self.here, self._comm, what)
            self._structure.broadcast(self.here, self._comm, what)
            broadcast_state(self.here, self._comm, trainer)
            self._remember()
            if self.here.rank == 0:
                spans.follow_alone(trainer)
        self._uses = BatchUse(self.here)

    @property
    def position(self) -> int:
        """Number of calls of update() since the last average."""
        return self._position

    @property
    def updates(self) -> int:
        """Number of calls of update(), which is the same on all ranks."""
        return self._calls

    @deferring_signals
    def update(self, weight: Batch[Any] | float | None = None) -> bool:
        """Updates this rank's parameters as the wrapped trainer does; every k-th call averages. A
        batch without examples changes nothing but counts as a call.

        Args:
            weight: what the gradients come from: a batch of shard(), or how much they count. None:
                the batch of the running loop; outside of shard() it counts 1.

        Returns:
            Whether this call has averaged.

        Raises:
            RuntimeError: it is not known which batch the gradients come from; as the wrapped
                trainer and average().
            ValueError: the weight is negative, infinite or NaN.
            TypeError: it is neither a number nor a batch of shard().
        """
        use, inner = self._uses.find(weight), self._inner
        if use.problem:
            raise RuntimeError(use.problem)
        if inner.accumulation > 1 or (use.batch is not None and use.batch.part is not None):
            raise RuntimeError(
                "update: LocalSGD takes neither accumulation nor micro-batches. Set"
                " set_accumulation(1), leave out micro_batches=, and take a larger every=."
            )
        if followers_of(inner):
            raise RuntimeError(
                f"update: a {type(followers_of(inner)[0]).__name__} of LocalSGD would follow the"
                " updates of one rank. Make it of the collection, average = MovingAverage(m), and"
                " call average.update() where trainer.update() returns True."
            )
        updates = inner.updates
        if use.n > 0:
            inner.update()
            self._n += use.n * (inner.updates > updates)
        else:
            self.collection.reset_gradients()
        self._uses.done(use)
        if use.batch is not None:
            self._batch = str(use.batch.description)
        self._position += 1
        self._calls += 1
        if self._position < self.every:
            return False
        self.average()
        return True

    def average(self) -> None:
        """Averages now, as the k-th update() does. Call it on all ranks. If no rank has used an
        example since the last average, nothing changes.

        Raises:
            RuntimeError: on all ranks, which are as they were: they differ in parameters, settings,
                number of updates or batches of shard().

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> trainer = dy.parallel.LocalSGD(dy.SimpleSGDTrainer(m), every=8)
        >>> averaged = trainer.update(1)
        >>> before = trainer.position
        >>> trainer.average()
        >>> before, trainer.position
        (1, 0)
        """
        flags = 0
        for ask in self.asks:
            flags |= ask()
        if self.here.size > 1:
            what = self.here.collective("average of LocalSGD")
            with self.here.uninterrupted(what):
                flags = self._average_values(flags, what)
        with DeferSignals():
            self._position, self._n, self._batch = 0, 0.0, ""
        for follower in self.on_average:
            follower(flags)

    def _average_values(self, flags: int, what: str) -> int:
        """Compares the ranks and averages. Returns the flags of all."""
        here, comm, known = self.here, self._comm, self._structure
        added = not known.fits(self.collection)
        present = Structure(self.collection) if added else known
        said = [f"parameters {present.hash & 0xFFFFFFFF:x}", *self._said()]
        mine = np.array([(hash_of(repr(said)), self._n, flags)], _MESSAGE)
        every = np.empty(here.size, _MESSAGE)
        here.wait([comm.Iallgather(mine.view(np.uint8), every.view(np.uint8))], what)
        if (every["hash"] != every["hash"][0]).any():
            present.check(here, comm, what)
            here.agree(comm, dict.fromkeys(said, ""), what)
        if added:
            present.broadcast(here, comm, what, known.parameters)
            self._structure = present
            self._remember()
        total = float(every["n"].sum())
        if total:
            self._exchange(self._n / total, what)
        return int(np.bitwise_or.reduce(every["flags"]))

    def _said(self) -> list[str]:
        """What must be equal on all ranks at an average, as messages show it."""
        trainer, settings = self._inner, Settings.of(self._inner)
        if isinstance(trainer, CyclicalSGDTrainer) or Hooks(trainer).schedule:
            settings = settings._replace(learning_rate=0.0)  # it follows this rank's own updates
        values = (f"{name.replace('_', ' ')} {x:g}" for name, x in settings._asdict().items())
        return [
            Hooks(trainer).constants,
            f"every={self.every}",
            f"{self._position} updates since the last average",
            self._batch or "no batch of shard()",
            *values,
        ]

    def _exchange(self, share: float, what: str) -> None:
        """Adds to the last average, the anchor, the weighted mean of how far the ranks have moved.
        Rows and parameters that no rank has changed are not sent, and keep their bits."""
        here, comm, parameters = self.here, self._comm, self._structure.parameters
        values = [_by_row(p) for p in parameters]
        pairs = list(zip(values, self._anchor, strict=True))
        moved = np.concatenate([np.empty(0, bool), *((v != a).any(axis=1) for v, a in pairs)])
        here.wait([comm.Iallreduce(here.mpi.IN_PLACE, moved, op=here.mpi.LOR)], what)
        rows = np.split(moved, np.cumsum([len(v) for v in values]))
        with np.errstate(all="ignore"):  # NaN comes to all ranks
            moves = [
                ((v[r] - a[r]) * share).ravel() for (v, a), r in zip(pairs, rows, strict=False)
            ]
        length = sum(map(len, moves))
        # each element is added up on one rank, so that all ranks get the same bits
        part = np.empty(-(-length // here.size), DTYPE)
        flat = np.concatenate(
            [*moves, np.zeros(len(part) * here.size - length, DTYPE)], dtype=DTYPE
        )
        here.wait([comm.Ireduce_scatter_block(flat, part, op=here.mpi.SUM)], what)
        here.wait([comm.Iallgather(part, flat)], what)
        meter.hand_over(2 * part.nbytes * (here.size - 1))
        means = np.split(flat, np.cumsum([len(move) for move in moves]))
        with DeferSignals():
            for p, (v, a), r, mean in zip(parameters, pairs, rows, means, strict=False):
                if len(mean):
                    a[r] += mean.reshape(-1, a.shape[1])
                    v[r] = a[r]
                    p.changed()

    def _remember(self) -> None:
        """Makes the present values, which are equal on all ranks, the anchor."""
        self._anchor = [_by_row(p).copy() for p in self._structure.parameters]

    # ---- state -------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """What this rank needs to resume beside the parameters; moments differ by rank."""
        kept = {f"inner:{name}": values for name, values in self._inner.state().items()}
        return {**kept, "since": np.array([self._position, self._n, self._calls], np.float64)}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Resumes from a state() of this rank, after its parameters were restored.

        Raises:
            ValueError: it is of another class or another model; nothing is changed then.
        """
        check_state(state, "load_state")
        since = np.asarray(state.get("since"))
        if since.shape != (3,) or since.dtype.kind not in "iuf" or not (since >= 0).all():
            raise ValueError(f"load_state: needs a LocalSGD's state, with 'since'; got {since}.")
        self._inner.load_state({k[6:]: v for k, v in state.items() if k.startswith("inner:")})
        self._position, self._n, self._calls = int(since[0]), float(since[1]), int(since[2])
        self._batch = ""
        if self.here.size > 1 and not self._position and self._structure.fits(self.collection):
            self._remember()

    def load_states(self, states: Sequence[Mapping[str, NDArray[Any]]], rank: int) -> None:
        """As load_state(), from the states of another number of ranks: additional ranks take rank
        0's.

        >>> import dist_dynet as dy
        >>> trainer = dy.parallel.LocalSGD(dy.AdamTrainer(dy.ParameterCollection(), 0.5))
        >>> states = [trainer.state()] * 2
        >>> trainer.learning_rate = 0.1
        >>> trainer.load_states(states, rank=0)
        >>> trainer.learning_rate
        0.5
        """
        rank = check_states(states, rank, "LocalSGD.load_states")
        self.load_state(states[rank if 0 <= rank < len(states) else 0])

    def gradient_norm(self) -> float:
        """The L2 norm of this rank's gradients."""
        return self._inner.gradient_norm()

    def stats(self) -> Stats:
        """As Trainer.stats(), of this rank."""
        return self._inner.stats()

    def status(self) -> None:
        """As Trainer.status(), on rank 0."""
        if self.here.rank == 0:
            self._inner.status()


def _by_row(p: AnyParameter) -> NDArray[Any]:
    """A view: the rows of a table, with weight decay applied; one row for a dense parameter."""
    return p.storage().reshape(len(p) if isinstance(p, LookupParameters) else 1, -1)


explain(LocalSGD, OF_TRAINERS)
