"""LocalSGD: ranks train by themselves and average their parameters now and then, for networks that
are too slow for an exchange at every update.

It knows when ranks average, and what of. The exchange is that of a DistributedTrainer, whose
"gradient" is how far this rank has come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE
from .._hints import OF_TRAINERS, explain
from .._integers import count
from ..params.parameters import AnyParameter, LookupParameters
from ..trainers import MomentumSGDTrainer, SimpleSGDTrainer, Trainer
from ..trainers.hooks import Hooks
from .batches import Batch, checked_weight, update_called
from .collectives import all_reduce, gather
from .engines import Compression, Engine
from .join import Join
from .structure import broadcast_state
from .sync import Sync
from .trainer import DistributedTrainer
from .wrapper import TrainerWrapper

Moments = Literal["local", "average", "reset"]
Rows = Literal["all", "touched"]

_Difference = tuple[NDArray[np.intp], NDArray[Any]]
"""Rows, and how far each has come: what it was - what it is."""


class LocalSGD(TrainerWrapper):
    """Wraps a trainer: each rank updates its own parameters, and every k-th update() averages them.

    With a, the parameters after the last average, and w_r, those of rank r now, an average is

        g = sum n_r (a - w_r) / sum n_r,    v = momentum v - g,    a = a + v,    w_r = a

    n_r is how many examples (or what weight) rank r has used since then; those of steps that
    skip_nonfinite leaves out do not count. Without momentum a is the weighted mean of the w_r
    (local SGD: Stich 2019; McMahan et al. 2017). With it, it is slow momentum (Wang et al. 2020,
    SlowMo; Chen and Huo 2016, BMUF); 0.5 to 0.9 are usual. With k = 1 and SimpleSGDTrainer it does,
    to rounding, what DistributedTrainer does, as long as nothing is clipped: here each rank clips
    by itself. With one process it is the wrapped trainer, bit for bit.

    Only what has changed since the last average is sent: of a table the rows that differ from a. A
    row that a rank has not used counts with a - w_r = 0 and that rank's full weight, as a gradient
    would that it does not have. So a row moves by the mean over all ranks. Weight decay changes
    all rows. A parameter that is frozen keeps its value; what has changed before it was frozen is
    averaged once more.

    Between averages the ranks' parameters differ: evaluate and save after `average()`. To save in
    the middle as well, a Checkpointer takes `outer` and, with per_rank=True, this object, which
    resume to the same bits on as many ranks:

        checkpointer = Checkpointer("run", m, trainer.outer, batches)
        checkpointer.add("local", trainer, per_rank=True)

    An average needs a - w_r as a whole, so that there is neither accumulation nor
    reproducible=True; use DistributedTrainer for these. NaN on one rank comes to all.

    Args:
        trainer: the trainer to wrap, made alike on all ranks.
        every: k.
        momentum: as above, at least 0 and below 1.
        moments: what an average does to the moments of the wrapped trainer. "local": nothing, as in
            SlowMo, and in DiLoCo (Douillard et al. 2023) for Adam: their average would multiply
            what is sent by two or three. "average": the mean over ranks (Yu et al. 2019 for
            momentum). "reset": zero.
        rows: which ranks count in the mean of a table's row: "all", as a gradient would, or those
            that have "touched" (changed) it since the last average. With Adam, whose steps are as
            long however many examples use a row, rows of rare words learn faster with the second.
            Its ranks tell all others the numbers of these rows.
        compression: as of DistributedTrainer, of the differences a - w_r.
        exchange: as there.
        check: as there; parameters are compared as they were after the last average.
        comm: as there.
        timeout: as there.

    Raises:
        ValueError: every is below 1, momentum not in [0, 1), moments unknown.
        TypeError: not a trainer.

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

    __slots__ = ("_anchor", "_moments", "_n", "_outer", "_position", "_rows", "_rule", "every")

    def __init__(
        self,
        trainer: Trainer,
        every: int = 8,
        *,
        momentum: float = 0.0,
        moments: Moments = "local",
        rows: Rows = "all",
        compression: Compression | None = None,
        exchange: Engine | None = None,
        check: bool = False,
        comm: Any = None,
        timeout: float | None = None,
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(
                f"LocalSGD: takes a trainer such as AdamTrainer(m); got {type(trainer).__name__}."
            )
        self.every = count(every, "LocalSGD", "every")
        """Averages at every so many calls of update(); the same on all ranks."""
        if self.every < 1:
            raise ValueError(f"LocalSGD: every must be 1 or more; got {every}.")
        if not 0 <= momentum < 1:
            raise ValueError(f"LocalSGD: momentum must be at least 0 and below 1; got {momentum}.")
        if moments not in get_args(Moments):
            raise ValueError(
                f"LocalSGD: moments must be local, average or reset; got {moments!r:.60}."
            )
        if rows not in get_args(Rows):
            raise ValueError(f"LocalSGD: rows must be all or touched; got {rows!r:.60}.")
        self._rows = rows
        self._inner, self._moments, m = trainer, moments, trainer.collection
        self._rule: Trainer = (
            MomentumSGDTrainer(m, 1.0, momentum) if momentum else SimpleSGDTrainer(m, 1.0)
        )
        self._rule.set_clip_threshold(0)
        self._outer = DistributedTrainer(
            self._rule,
            "weighted",
            overlap=False,
            compression=compression,
            exchange=exchange,
            check=check,
            comm=comm,
            timeout=timeout,
        )
        self._position, self._n = 0, 0.0
        self._anchor: dict[AnyParameter, NDArray[Any]] = {}
        here = self._outer.sync.here
        if here.size > 1:
            what = here.collective("LocalSGD")
            here.agree(
                here.comm,
                f"{trainer.whoami()} with {every=}, momentum={float(momentum)}, {moments=},"
                f" {rows=}",
                what,
            )
            broadcast_state(here, here.comm, trainer)
            self._remember()

    @property
    def outer(self) -> DistributedTrainer:
        """The trainer that averages, for Checkpointer."""
        return self._outer

    @property
    def sync(self) -> Sync:  # type: ignore[override]
        """What the ranks do together."""
        return self._outer.sync

    @property
    def position(self) -> int:
        """How many calls of update() there were since the last average."""
        return self._position

    def update(self, weight: Batch[Any] | float | None = None) -> bool:
        """Updates this rank's parameters as the wrapped trainer does; the k-th call averages. A
        batch without examples changes nothing, and counts as a call: gradients are discarded, as
        those of a term of the loss that needs no examples.

        Args:
            weight: what the gradients come from: a batch of shard(), or how much they count. None:
                the batch of the loop that is under way, else 1.

        Returns:
            Whether this call has averaged.

        Raises:
            RuntimeError: of the wrapped trainer, on this rank: with several, the gradients are
                discarded and the call counts, without its examples, so that a program that catches
                the error stays in step; an average that is due is made before. It accumulates; it
                is not known which batch the gradients come from: these calls do not count.
            ValueError: the weight is negative, infinite or NaN.
            TypeError: it is neither a number nor a batch of shard().
        """
        if self._inner.accumulation > 1:
            raise RuntimeError(
                "update: LocalSGD takes no part in accumulation; got"
                f" set_accumulation({self._inner.accumulation}). Set it to 1, and every= higher."
            )
        batch, problem = self.sync.sources.find(weight is not None)
        if isinstance(weight, Batch):
            batch, n = weight, float(weight.n)
        elif weight is not None:
            n = checked_weight(weight, "update: the weight")
        elif problem and self.sync.here.size > 1:
            raise RuntimeError(f"{self.sync.here.name} update: {problem}")
        else:
            n = 1.0 if batch is None else float(batch.n)
        before = self._inner.updates
        try:
            if n > 0:
                self._inner.update()
            else:
                self.collection.reset_gradients()
        except RuntimeError:  # on this rank: the others go on, and wait for it at the average
            if self.sync.here.size > 1:
                self.collection.reset_gradients()
            self._count(batch, n if self._inner.updates > before else 0.0)
            raise
        return self._count(batch, n if self._inner.updates > before else 0.0)

    def _count(self, batch: Batch[Any] | None, n: float) -> bool:
        """A call of update() is done, which has used n examples: whether it averages."""
        self.sync.sources.clear()
        update_called(batch)
        self._position += 1
        self._n += n
        if self._position < self.every:
            return False
        self.average()
        return True

    def average(self) -> None:
        """Averages now, as the k-th update() does. To be called on all ranks. If no rank has
        changed anything, nothing changes but by momentum.

        Raises:
            RuntimeError: gradients wait to be applied.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=1)
        >>> trainer = dy.parallel.LocalSGD(dy.SimpleSGDTrainer(m), every=8)
        >>> averaged = trainer.update(1)
        >>> before = trainer.position
        >>> trainer.average()
        >>> before, trainer.position
        (1, 0)
        """
        position, self._position = self._position, 0
        n, self._n = self._n, 0.0
        here, m = self.sync.here, self.collection
        if here.size == 1:
            return
        if Hooks(self._inner).waits():
            self._position, self._n = position, n
            raise RuntimeError(
                "average: gradients wait to be applied. Call average() between update() and the"
                " next backward()."
            )
        came = self._came()
        if self._rows == "touched":
            self._weigh_rows(n, came)
        thawed = self._take_back(came)
        decay = m.get_weight_decay()
        m.set_weight_decay(0)
        try:
            self._outer.update(n)
        finally:
            m.set_weight_decay(decay)
            for p in thawed:
                p.set_updated(False)
        if self._moments == "reset":
            self._inner.restart()
        elif self._moments == "average":
            self._average_moments()
        self._remember()

    @contextmanager
    def join(self) -> Iterator[None]:
        """`with trainer.join():` stands around a loop of which ranks make different numbers of
        turns, as Join does. A rank that has ended adds what it has to the next average, and
        takes part in the others' with the weight 0. After it all ranks have the same parameters.

        Raises:
            ValueError: moments="average" or rows="touched", which need all ranks.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=0)
        >>> trainer = dy.parallel.LocalSGD(dy.SimpleSGDTrainer(m, learning_rate=1), every=2)
        >>> with trainer.join():
        ...     for batch in range(dy.parallel.rank() + 2):
        ...         _ = dy.renew_cg()
        ...         w.backward()
        ...         averaged = trainer.update()
        >>> w.as_array().tolist()
        [-2.0]
        """
        if self._moments == "average":
            raise ValueError(
                'join: ranks that have ended have no moments to average; got moments="average".'
                ' Use "local" or "reset".'
            )
        if self._rows == "touched":
            raise ValueError(
                'join: ranks that have ended cannot tell which rows they have; got rows="touched".'
                ' Use rows="all".'
            )
        with Join(self._outer):
            yield
            if self._position:
                self.average()
        self._remember()

    # ---- state -------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """What this rank needs to go on: the wrapped trainer's state as "inner:...", with several
        ranks the parameters as they are, "now:/w", and after the last average, "then:/w", and what
        was counted since then. It differs from rank to rank."""
        kept = {f"inner:{name}": values for name, values in self._inner.state().items()}
        for p, anchor in self._anchor.items():
            kept[f"now:{p.name()}"] = p.storage().copy()
            kept[f"then:{p.name()}"] = anchor.copy()
        return {**kept, "since": np.array([self._position, self._n])}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from a state() of this rank, of a run with as many ranks.

        Raises:
            ValueError: it is of another class or another model; nothing is changed then.
        """
        since = np.asarray(state.get("since"))
        if since.shape != (2,) or since.dtype.kind not in "iuf" or not (since >= 0).all():
            raise ValueError(
                "load_state: the state must be of a LocalSGD, with two numbers 'since'; got"
                f" {state.get('since')!r}."
            )
        kept = {
            p: [np.asarray(state[f"{when}:{p.name()}"]) for when in ("now", "then")]
            for p in self._anchor
            if f"now:{p.name()}" in state and f"then:{p.name()}" in state
        }
        for p, pair in kept.items():
            if any(a.shape != self._anchor[p].shape or a.dtype.kind not in "biuf" for a in pair):
                raise ValueError(
                    f"load_state: the values kept of {p.name()} must be {self._anchor[p].size}"
                    f" numbers; got {[(a.dtype.name, a.shape) for a in pair]}."
                )
        self._inner.load_state(
            {name[6:]: values for name, values in state.items() if name.startswith("inner:")}
        )
        self._position, self._n = int(since[0]), float(since[1])
        self._remember()
        for p, (now, then) in kept.items():
            p.storage()[:], self._anchor[p][:] = now, then
            p.changed()

    # ---- what is averaged --------------------------------------------------------------

    def _remember(self) -> None:
        """The parameters are those of all ranks now."""
        if self.sync.here.size == 1:
            return
        for p in Hooks(self._rule).members():
            values, anchor = p.storage(), self._anchor.get(p)
            if anchor is None or anchor.size != values.size:
                self._anchor[p] = values.copy()
            else:
                anchor[:] = values

    def _came(self) -> dict[AnyParameter, _Difference]:
        """How far this rank has come since the last average, of what has changed."""
        came: dict[AnyParameter, _Difference] = {}
        for p in Hooks(self._rule).members():
            if p not in self._anchor:  # added since then, alike on all ranks
                self._anchor[p] = p.storage().copy()
            values, anchor = _by_row(p, p.storage()), _by_row(p, self._anchor[p])
            rows = np.flatnonzero((values != anchor).any(axis=1))
            if len(rows):
                came[p] = rows, anchor[rows] - values[rows]
        return came

    def _take_back(self, came: Mapping[AnyParameter, _Difference]) -> list[AnyParameter]:
        """Parameters go back to what they were after the last average, and how far this rank has
        come becomes their gradient. Those that are frozen and have changed are not any more, and
        are given back."""
        thawed: list[AnyParameter] = []
        try:
            for p, (rows, difference) in came.items():
                if not p.is_updated():
                    p.set_updated(True)
                    thawed.append(p)
                p.clear_gradient()
                if isinstance(p, LookupParameters):
                    p.add_gradients(rows, difference)
                else:
                    p.set_gradient(difference.reshape(p.shape(), order="F"))
        except MemoryError:
            for p in came:
                p.clear_gradient()
            for p in thawed:
                p.set_updated(False)
            raise
        for p, (rows, _) in came.items():
            _by_row(p, p.storage())[rows] = _by_row(p, self._anchor[p])[rows]
            p.changed()
        return thawed

    def _weigh_rows(self, n: float, came: dict[AnyParameter, _Difference]) -> None:
        """Rows count as if only the ranks that have changed them had a weight."""
        tables = self.collection.lookup_parameters_list()
        none = np.empty(0, np.int64), np.empty(0)
        mine = [np.asarray(came.get(table, none)[0], np.uint32) for table in tables]
        every = gather((n, mine), self.sync.here.comm)
        total = sum(weight for weight, _ in every)
        for k, table in enumerate(tables):
            if table not in came:
                continue
            weights = np.zeros(len(table))
            for weight, rows in every:
                weights[rows[k]] += weight
            rows, difference = came[table]
            difference *= (total / np.maximum(weights[rows], np.finfo(DTYPE).tiny))[:, None]

    def _average_moments(self) -> None:
        """The mean of all ranks' moments; of a parameter that a rank has not updated they are
        zero."""
        comm, state = self.sync.here.comm, self._inner.state()
        named = self.collection.named_parameters()  # else it is of the schedule, say
        mine = {name: array for name, array in state.items() if name.partition(":")[2] in named}
        shapes: dict[str, tuple[int, ...]] = {}
        for theirs in gather({name: array.shape for name, array in mine.items()}, comm):
            shapes |= theirs
        for name in sorted(shapes):
            array = mine.get(name, np.zeros(shapes[name]))
            state[name] = all_reduce(np.asarray(array, np.float64), "mean", comm)
        self._inner.load_state(state)


def _by_row(p: AnyParameter, flat: NDArray[Any]) -> NDArray[Any]:
    """A view: of a table its rows, of a dense parameter one row."""
    return flat.reshape(len(p) if isinstance(p, LookupParameters) else 1, -1)


explain(LocalSGD, OF_TRAINERS)
