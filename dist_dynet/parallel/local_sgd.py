"""LocalSGD: ranks train on their own and average their parameters now and then, for networks that
are too slow for an exchange at every update.

It decides when ranks average, and what. The exchange is that of a DistributedTrainer whose
"gradient" is the distance that this rank has moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._deferred_signals import DeferSignals, deferring_signals
from .._hints import OF_TRAINERS, explain
from .._integers import real, whole
from .._state import check_state, check_states
from ..trainers import MomentumSGDTrainer, SimpleSGDTrainer, Trainer
from ..trainers.hooks import Hooks
from .agreement.structure import broadcast_state
from .anchor import Anchor
from .averaging import (
    AfterAverage,
    Batches,
    Moments,
    Now,
    accept_written,
    compare,
    hand_over,
    numbers_of,
    refuse_averages,
    said_of,
    take_over,
    used,
    weigh_rows,
)
from .batches.batches import Batch, update_called
from .exchange.engines import Compression, Engine
from .join import Join
from .trainer import DistributedTrainer
from .update.metrics import show_in_place
from .update.sync import Sync
from .wrapper import TrainerWrapper

Rows = Literal["all", "touched"]


class LocalSGD(TrainerWrapper):
    """Wraps a trainer: each rank updates its own parameters, and every k-th update() averages them.

    With a, the parameters after the last average, and w_r, those of rank r now, an average is

        g = sum n_r (a - w_r) / sum n_r,    v = momentum v - g,    a = a + v,    w_r = a

    n_r is how many examples (or what weight) rank r has used since then; those of steps that
    skip_nonfinite leaves out do not count. Without momentum a is the weighted mean of the w_r
    (local SGD: Stich 2019; McMahan et al. 2017). With it, it is slow momentum (Wang et al. 2020,
    SlowMo; Chen and Huo 2016, BMUF); 0.5 to 0.9 are usual. With k = 1 and SimpleSGDTrainer it does,
    to rounding, what DistributedTrainer does, as long as nothing is clipped: here each rank clips
    by itself. With one process it is the wrapped trainer, bit for bit, but that batches without
    examples change nothing there, too.

    Only what has changed since the last average is sent: of a table the rows that differ from a. A
    row that a rank has not used counts with a - w_r = 0 and that rank's full weight, as a gradient
    would that it does not have. So a row moves by the mean over all ranks. Weight decay changes
    all rows. A parameter that is frozen keeps its value; what has changed before it was frozen is
    averaged once more. One that is added later begins with rank 0's value.

    What the program itself writes (set_value(), populate(), Best.restore(), scale()) between an
    average and the next update() becomes a, so that no momentum carries it on; so does what it
    writes between the last update() and a call of average(), if it is the same on all ranks then.
    Before the next update() it must be the same: else the average is an error on all ranks. In
    between, and inside of join(), it is part of w_r.

    At each average the ranks compare data, settings, epoch and steps of their batches since the
    last one, and the settings of the wrapped trainer; inside of join() the settings alone, of those
    ranks whose loops go on.

    MovingAverage(this object) follows the averages, in one process as well: those with examples.
    One of the wrapped trainer, whose updates differ from rank to rank, is an error.

    Between averages the ranks' parameters differ: evaluate and save after `average()`. To save in
    the middle as well, a Checkpointer takes `outer` and, with per_rank=True, this object, which
    resume to the same bits on as many ranks, and go on with another number:

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
        RuntimeError: on all ranks: they differ; a MovingAverage follows the wrapped trainer.

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

    __slots__ = (
        "__weakref__",
        "_after",
        "_anchor",
        "_batches",
        "_calls",
        "_doubt",
        "_moments",
        "_n",
        "_outer",
        "_position",
        "_rows",
        "_rule",
        "every",
    )

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
        self.every = whole(every, "LocalSGD", "every")
        """Averages at every so many calls of update(); the same on all ranks."""
        if self.every < 1:
            raise ValueError(f"LocalSGD: every must be 1 or more; got {every}.")
        momentum = real(momentum, "LocalSGD: momentum")
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
        if self._outer.sync.negotiation is not None:  # compare() knows what the program has written
            self._outer.sync.negotiation.trust_values()
        self._outer.sync.trains_apart = True
        self._position, self._n, self._calls, self._doubt = 0, 0.0, 0, ""
        self._batches, self._anchor = Batches(), Anchor(m)
        here = self._outer.sync.here
        refuse_averages(trainer, self._rule, here.size)
        self._after = AfterAverage(self._anchor, trainer, moments, here)
        if here.size > 1:
            what = here.collective("LocalSGD")
            told = f"{trainer.whoami()} with {every=}, {moments=}, {rows=}"
            here.agree(here.comm, told, what)
            broadcast_state(here, here.comm, trainer)
            self._anchor.remember()
            Hooks(self._rule).follow(self._after)
            show_in_place(self._rule, trainer)

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
        """Number of calls of update() since the last average."""
        return self._position

    @deferring_signals
    def update(self, weight: Batch[Any] | float | None = None) -> bool:
        """Updates this rank's parameters as the wrapped trainer does; every k-th call averages. A
        batch without examples changes nothing but counts as a call: its gradients, such as those of
        a regularisation term, are discarded.

        Args:
            weight: what the gradients come from: a batch of shard(), or how much they count. None:
                the batch of the loop that is under way, else 1.

        Returns:
            Whether this call has averaged.

        Raises:
            RuntimeError: of the wrapped trainer, on this rank: with several, the gradients are
                discarded and the call counts, without its examples, so that a program that catches
                the error stays in step; an average that is due is made before. It accumulates,
                or the batch is of micro-batches or of ranks that do not train the model: these
                calls do not count. As average(), where one is due.
            ValueError: the weight is negative, infinite or NaN.
            TypeError: it is neither a number nor a batch of shard().
        """
        refuse_averages(self._inner, self._rule, self.sync.here.size)
        if self._inner.accumulation > 1:
            raise RuntimeError(
                "update: LocalSGD takes no part in accumulation; got"
                f" set_accumulation({self._inner.accumulation}). Set it to 1, and every= higher."
            )
        batch, n, doubt = used(weight, self.sync)
        self._doubt = self._doubt or doubt
        self.sync.hooks.catch_up()
        if self.sync.here.size > 1:
            self._anchor.look(self._is_first)
        with DeferSignals():
            error = self._train(batch, n)
        try:
            if error is not None:
                raise error
        finally:  # the other ranks go on, and wait for this one at the average
            if averages := self._position >= self.every and isinstance(error, Exception | None):
                self.average()
        return averages

    def _train(self, batch: Batch[Any] | None, n: float) -> BaseException | None:
        """Calls the wrapped trainer. Returns the exception of a call that counts all the same."""
        before = self._inner.updates
        try:
            if n > 0:
                self._inner.update()
            else:
                self.collection.reset_gradients()
        except BaseException as error:
            if self._inner.updates == before and not isinstance(error, RuntimeError):
                raise  # the next call tries again
            if self.sync.here.size > 1:
                self.collection.reset_gradients()
            self._count(batch, n if self._inner.updates > before else 0.0)
            return error
        self._count(batch, n if self._inner.updates > before else 0.0)
        return None

    def _count(self, batch: Batch[Any] | None, n: float) -> None:
        """Counts a call of update(), which has used n examples."""
        self.sync.sources.clear()
        update_called(batch)
        self._position += 1
        self._calls += 1
        self._n += n
        if self.sync.here.size > 1:
            self._anchor.mark()
            if batch is not None:
                self._batches = self._batches.after(batch.description)

    def average(self) -> None:
        """Averages now, as the k-th update() does. Call it on all ranks. If no rank has used an
        example since the last average, nothing changes.

        Raises:
            RuntimeError: on all ranks, which are as they were: they come from different batches of
                shard(), or it is not known from which; they have different settings; the program
                has written different values into parameters; gradients wait to be applied.

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
        here, anchor = self.sync.here, self._anchor
        refuse_averages(self._inner, self._rule, self.sync.here.size)
        self.sync.hooks.catch_up()
        if here.size > 1:
            anchor.look(self._is_first)
            if self.sync.joins:
                if Hooks(self._inner).waits():
                    raise RuntimeError("average: gradients wait to be applied. Call update() now.")
                self._average()
                return
            assert self.sync.negotiation is not None
            structure = self.sync.negotiation.structure
            waits = Hooks(self._inner).waits()
            now = Now(self._n, self._said(), waits, self._is_first, self._doubt)
            if compare(here, anchor, now, structure):
                self._average()
                return
        n = self._n
        with DeferSignals():
            self._begin()
            if here.size > 1:
                anchor.remember()
            elif n:
                self.sync.hooks.done()

    def _begin(self) -> None:
        """Begins another round of updates, up to the next average."""
        self._position, self._n, self._batches, self._doubt = 0, 0.0, Batches(), ""

    @property
    def _is_first(self) -> bool:
        """Whether changes to parameters now come before the first update after an average. Inside
        join() they never do, since ranks that have run out of data cannot be asked what they have
        written."""
        return self._position == 0 and not self.sync.joins

    def _said(self) -> list[str]:
        """What must be equal on all ranks."""
        return [self._batches.words(), f"every={self.every}", *said_of(self._inner)]

    def _average(self) -> None:
        """Makes the exchange, once the ranks know that there is one. If it is refused, everything
        is restored."""
        n, m, sync, handed_over = self._n, self.collection, self.sync, False
        since = self._position, self._n, self._batches, self._doubt
        if sync.joins:  # with the ranks that go on
            sync.refusal, sync.inner_settings = self._doubt, numbers_of(self._inner)
            sync.may_differ = self._position < self.every  # the loop has ended here
        came, averages = self._anchor.came(), self._rule.updates
        if self._rows == "touched":
            weigh_rows(self.sync.here, m.lookup_parameters_list(), n, came)
        try:
            with DeferSignals(may_leave=lambda: True):
                self._begin()
                hand_over(sync, self._after, self._anchor, came)
                handed_over = True
                self._after.undo.append(partial(m.set_weight_decay, m.get_weight_decay()))
                m.set_weight_decay(0)
            self._outer.update(n)
        except BaseException as error:
            with DeferSignals():
                if self._rule.updates == averages:
                    for p in came:
                        p.clear_gradient()
                    if handed_over:
                        self._anchor.swap(came)
                    self._position, self._n, self._batches, self._doubt = since
                    if not isinstance(error, RuntimeError):  # the others go on without this rank
                        sync.here.mark_out_of_step("average of LocalSGD")
            raise
        finally:
            with DeferSignals():
                sync.refusal, sync.inner_settings, sync.may_differ = "", (), False
                self._after.give_back()

    @contextmanager
    def join(self) -> Iterator[None]:
        """`with trainer.join():` wraps a loop with different numbers of iterations on different
        ranks, as Join does. A rank that has ended adds its part to the next average, and takes part
        in later ones with weight 0. Afterwards all ranks have the same parameters, and the
        schedule, learning rate and weight decay of the rank that made the most calls.

        Raises:
            ValueError: moments="average" or rows="touched", which need all ranks.
            RuntimeError: on all ranks, when it begins: as average().

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
        here, m, calls = self.sync.here, self.collection, self._calls
        if here.size > 1:
            self._anchor.look(self._is_first)
            said, what = dict.fromkeys(self._said(), ""), here.collective("join of LocalSGD")
            here.agree(here.comm, said, what)
            accept_written(here, self._anchor, self._anchor.marks(True), what)
        with Join(self._outer):
            yield
            if self._position:
                self.average()
            elif here.size > 1:
                self._anchor.give_back()
            decay = m.get_weight_decay()  # while it takes part it has what averages have
        if here.size > 1:
            take_over(here, self._inner, self._calls - calls, decay)

    # ---- state -------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """What this rank needs to go on: the wrapped trainer's state as "inner:...", with several
        ranks the parameters as they are, "now:/w", and after the last average, "then:/w", where the
        program has written them, "written:/w" and "late:/w" (Anchor.state()), and what was counted
        since then. It differs from rank to rank; right after an average it has no parameters."""
        self.sync.hooks.catch_up()
        kept = {f"inner:{name}": values for name, values in self._inner.state().items()}
        if self.sync.here.size > 1 and not (self._is_first and self._anchor.is_present()):
            kept |= self._anchor.state(self._is_first)
        return {**kept, "since": np.array([self._position, self._n])}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Resumes from a state() of this rank: with its parameters, if it was taken between two
        averages of several ranks.

        Raises:
            ValueError: it is of another class or another model; nothing is changed then.
        """
        check_state(state, "load_state")
        since = np.asarray(state.get("since"))
        if since.shape != (2,) or since.dtype.kind not in "iuf" or not (since >= 0).all():
            raise ValueError(f"load_state: needs a LocalSGD's state, with 'since'; got {since}.")
        anchor, kept = self._anchor, self._anchor.kept_in(state)
        inner = {name[6:]: a for name, a in state.items() if name.startswith("inner:")}
        self._inner.load_state(inner)
        if self.sync.here.size > 1 and not kept and not since[0]:  # there is nothing else in it
            return
        self._begin()
        self._position, self._n = int(since[0]), float(since[1])
        if self.sync.here.size > 1:
            anchor.remember()
            self._n *= bool(kept)  # of one process: counted from here on, as what changes is
        anchor.load(kept)

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


explain(LocalSGD, OF_TRAINERS)
