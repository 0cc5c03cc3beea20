"""DistributedTrainer: a trainer whose gradients are averaged over the ranks before each update.

It decides which batch gradients belong to, how much they count, and when ranks exchange. sync.py
makes the update; the wrapped trainer knows the rule, the norm and the clipping.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._deferred_signals import deferring_signals
from .._hints import OF_TRAINERS, explain
from .._state import check_state
from ..params.parameters import LookupParameters, Parameters
from ..trainers import Trainer
from .agreement.message import Flag
from .agreement.negotiation import Negotiation
from .agreement.structure import broadcast_state
from .batches.batches import Batch, update_called
from .exchange.compression import CODES
from .exchange.engines import (
    DEFAULT_ENGINE,
    ENGINES,
    Compression,
    Engine,
    check_choice,
    choose,
    ranks_of_host,
)
from .exchange.hybrid import HybridExchange
from .exchange.shared_model import DEFAULT, SharedModel, is_of_others
from .processes import environment, saving, session, trial
from .processes.world import hash_of
from .update import metrics
from .update.accumulation import Pass, has_weightless, refuse_micro_batch, share
from .update.passes import find_pass
from .update.reproducible import ReproducibleSum
from .update.sync import Sync
from .wrapper import TrainerWrapper, check_trainer

Average = Literal["mean", "weighted", "sum"]


class DistributedTrainer(TrainerWrapper):
    """Wraps a trainer, so that N ranks with B/N examples each do what one process does with B.

    At construction all ranks get rank 0's values and trainer state. Each update() replaces the
    gradients by g, then clips and updates as always:

    - "mean": g = sum n_r g_r / sum n_r, for losses that are means over the rank's examples. n_r is
      the number of examples in the batch of shard() that the gradients come from, or their weight;
      without shard() it is 1.
    - "weighted": the same, with n_r the argument of update(weight), such as the number of words, or
      what `batch.n` was set to.
    - "sum": g = sum g_r, for losses that are sums over the rank's examples.

    Over k passes of an accumulation g = 1/k times the sum of each pass's g, as in one process; over
    those of no_sync() it is the sum. A rank with n_r = 0, whose batch is empty, takes part: it must
    call update(), too. Where it cannot be known which batch gradients come from, as with lists of
    batches and several loops at once, update() is an error on all ranks; update(batch) says it.
    With one process it is the wrapped trainer.

    Args:
        trainer: the trainer to wrap, made alike on all ranks.
        average: as above.
        accumulate: exchange and update at every so many calls of update(); 1 leaves the wrapped
            trainer's set_accumulation() as it is.
        overlap: between hosts: send gradients while backward goes on, with the same result, bit for
            bit. One host gains nothing by it. It is left out where the weight is not known before
            update(), and in an accumulation, but for average="sum".
        compression: of what crosses the wire between hosts: "bf16" or "int8", signed bytes with one
            scale for 256 numbers. What rounding takes away is added at the next update. Not with
            reproducible=True.
        exchange: how gradients are added up: "shared", in memory that the ranks of one host share,
            "hybrid", so within each host and over the wire between hosts, "mpi", by MPI's
            all-reduce, or "auto", the first of these that is possible. None: DIST_DYNET_EXCHANGE
            from the environment, "auto" by default.
        reproducible: the same bits whatever the number of ranks; needs
            `shard(..., micro_batches=G)`, and update() after each micro-batch. It keeps their
            gradients, and updates after the last of a step.
        shared_model: one copy of parameters and moments for the ranks of a host, of which each
            updates its share: as fast and as small as that makes it, and the same bits. None: where
            it pays and the system can. Outside of update() a rank that writes parameters by itself
            has its own copy, up to the next update.
        check: for finding faults: every collective operation of these ranks, not only this
            trainer's, first compares what the ranks are about to do and on which line of the
            program, and every update() the parameters, bit for bit.
        comm: an mpi4py communicator whose ranks train this model, such as
            MPI.COMM_WORLD.Split(color); give it to shard() as well. From then on the first of them
            writes the files. None: all.
        timeout: seconds that update() waits for ranks that are alive. None: DIST_DYNET_TIMEOUT,
            600.

    Raises:
        RuntimeError: the ranks hold different parameters or trainers; it names rank and parameter.
        ValueError: reproducible=True and compression.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, learning_rate=0.1))
    >>> for batch in dy.parallel.shard([3, 3], batch_size=2):
    ...     _ = dy.renew_cg()
    ...     loss = dy.average([dy.squared_distance(w, dy.scalarInput(x)) for x in batch])
    ...     loss.backward()
    ...     updated = trainer.update()
    >>> w.as_array().round(2).tolist()
    [1.4]
    """

    __slots__ = ("__weakref__", "_average", "_world", "sync")

    def __init__(
        self,
        trainer: Trainer,
        average: Average = "mean",
        *,
        accumulate: int = 1,
        overlap: bool = True,
        compression: Compression | None = None,
        exchange: Engine | None = None,
        reproducible: bool = False,
        shared_model: bool | None = None,
        check: bool = False,
        comm: Any = None,
        timeout: float | None = None,
    ) -> None:
        check_trainer(trainer)
        check_choice("average", average, get_args(Average))
        engine = exchange or DEFAULT_ENGINE
        check_choice("exchange", engine, ENGINES)
        check_choice("compression", compression, (None, *CODES))
        if reproducible and compression:
            raise ValueError(
                f"DistributedTrainer: reproducible=True takes no compression; got {compression!r}."
            )
        self._inner, self._average = trainer, average
        if accumulate != 1:
            trainer.set_accumulation(accumulate)
        self._world = here = session.world(comm).with_timeout(timeout)
        shared_model = DEFAULT if shared_model is None else bool(shared_model)
        if comm is not None:
            saving.install(here)
        comm = here.lend(self) if here.size > 1 else None
        overlap = bool(overlap) and not reproducible
        micro_sum = ReproducibleSum(here, comm, trainer.collection) if reproducible else None
        self.sync = Sync(here, trainer, average != "sum", micro_sum)
        """Also used by Join and Checkpointer."""
        watching, checks = trial.present(), check
        check = check or watching is not None
        if here.size > 1:
            what = here.collective("DistributedTrainer")
            here.agree(
                comm,
                f"{trainer.whoami()} with average={average!r}, reproducible={bool(reproducible)},"
                f" check={bool(check)}, shared_model={shared_model}, exchange={engine!r},"
                f" overlap={overlap}, compression={compression!r}",
                what,
            )
            environment.compare(here, comm, what)
            if check:
                here.set_checks()
            if self.sync.reproducible:
                self.sync.reproducible.check_hosts(what)
            host = ranks_of_host(here)
            self.sync.exchange = chosen = choose(here, comm, engine, overlap, compression, what)
            self.sync.wire = chosen if isinstance(chosen, HybridExchange) else None
            self.sync.negotiation = Negotiation(
                here, comm, trainer, average != "sum", chosen.transport
            )
            self.sync.passes.watch(self.sync.negotiation)
            broadcast_state(here, comm, trainer)
            if (
                shared_model is not False
                and host is not None
                and not is_of_others(here, comm, trainer, bool(shared_model), what)
            ):
                self.sync.model = SharedModel(
                    here, comm, host, trainer, bool(shared_model), self.sync.negotiation
                )
            metrics.follow_negotiated(trainer, here, self.sync.negotiation)
        if watching is not None:
            watching.watch(trainer, self.sync, average, checks)

    @deferring_signals
    def update(self, weight: Batch[Any] | float | None = None) -> bool:
        """Averages the gradients over the ranks, then updates as the wrapped trainer does. Call it
        on all ranks.

        With accumulation over k calls this happens at every k-th call, on all ranks alike.

        Args:
            weight: what the gradients come from: a batch of shard(), or n_r of this rank as a
                number. None: the batch of the loop that is under way. A number is needed with
                average="weighted" unless the batch has one, and an error with "sum".

        Returns:
            Whether parameters were updated: False within an accumulation or no_sync(), and for a
            step left out by skip_nonfinite.

        Raises:
            RuntimeError: it is not known which batch the gradients come from; the ranks have
                different parameters, settings of the trainer or steps of shard(); the norm of the
                gradients is not finite. Parameters are as they were then.
            ValueError: in one process the weight is negative, infinite or NaN, or missing. With
                several that is a RuntimeError on all.
            TypeError: it is neither a number nor a batch of shard(), likewise.
        """
        this, sync = self._find_pass(weight), self.sync
        passes = sync.passes
        if this.batch is not None and sync.reproducible is None:
            refuse_micro_batch(this.batch)
        sync.calls += 1
        waits = passes.silent or sync.joins or passes.begun or passes.stash.kept
        try:
            if sync.reproducible is not None:
                updated = self._update_reproducibly(this, sync.reproducible)
            elif waits or self._inner.accumulation > 1:
                with passes.watched(bool(sync.joins)):
                    updated = self._gather(this)
            else:  # nearly always
                n = this.n if sync.weighted else 1.0
                updated = sync.step(n, this.step(), 0, this.problem)[0]
        except RuntimeError:
            update_called(this.batch, refused=True)
            raise
        self._end_pass(this)
        return updated

    def _find_pass(self, weight: Batch[Any] | float | None) -> Pass:
        return find_pass(self.sync, self._average, weight)

    def _end_pass(self, this: Pass) -> None:
        """The pass was used: another one begins."""
        update_called(this.batch)
        self._set_overlap()

    # ---- several passes ----------------------------------------------------------------

    def _gather(self, this: Pass) -> bool:
        """One of several passes that make an update: their gradients wait, multiplied by their
        weights."""
        sync, passes = self.sync, self.sync.passes
        is_last, passes.begun = passes.is_last(), True
        this = this._replace(problem=this.problem or sync.refusal or passes.doubt)
        factor = 1.0
        if sync.weighted:
            flags = Flag.LAST * is_last | Flag.SILENT * passes.silent
            factor, problem = share(this, sync.negotiation, flags, is_last, bool(sync.joins))
            if problem and not is_last:
                passes.stay(problem)
                return sync.wait()
            this = this._replace(problem=problem)
        else:
            passes.stay()
        step = this.step(passes.passes + 1)
        if sync.inner_settings:
            step = step._replace(inner_settings=sync.inner_settings)
        if not is_last:
            if sync.weighted and (self._world.size > 1 or this.named or passes.stash.kept):
                passes.keep(factor)
            elif sync.weighted:
                passes.stay()
            return sync.wait()
        is_refused = bool(this.problem) and sync.weighted
        if not is_refused and (passes.stash.kept or factor != 1):
            passes.keep(factor)
            passes.restore()
        try:
            updated = sync.step(1.0, step, Flag.WEIGHED | passes.flag, this.problem)[0]
        except RuntimeError:
            if not is_refused and sync.weighted:  # they have their weights, and keep them
                passes.stash.take(self.collection, 1.0)
                sync.sources.clear()
            raise
        passes.used()
        sync.hooks.gathered = 0
        return updated

    def _update_reproducibly(self, this: Pass, kept: ReproducibleSum) -> bool:
        """One micro-batch of a step."""
        if this.problem:
            raise RuntimeError(f"update: {this.problem}")
        sync, part = self.sync, this.batch.part if this.batch is not None else None
        if not kept.resumes(part):
            sync.hooks.gathered = 0
            sync.passes.stash.invalidate(sync.hooks.members())
        assert part is not None
        kept.refuse_sums()
        if part.turn:  # steps before this one have what its first micro-batch has done to them
            sync.passes.stash.mark()
        with sync.passes.stash.unseen():
            kept.keep(part, this.n, this.n if sync.weighted else 1.0)
        sync.sources.clear()
        if not part.is_last:
            return False
        is_last = sync.passes.is_last()
        updated = sync.step(1.0, this.step(sync.passes.passes + 1))[0]
        if is_last:
            sync.hooks.gathered = 0
            return updated
        sync.passes.stash.take(self.collection, 1.0)
        return sync.wait()

    # ---- while backward runs -----------------------------------------------------------

    def _set_overlap(self) -> None:
        """Lets the exchange begin in the next backward if, and only if, that is the last one before
        an update and its weight is known."""
        sync, wire = self.sync, self.sync.wire
        if wire is None or sync.reproducible is not None:
            return
        gathers = (
            self._inner.accumulation > 1 or sync.joins
            if sync.weighted
            else not sync.passes.is_last()
        )
        if sync.passes.silent or gathers or sync.passes.stash.kept:
            wire.overlap.disable()
        else:
            present, thread = weakref.WeakMethod(self._present_factor), threading.get_ident()
            wire.overlap.enable(lambda: method(thread) if (method := present()) else None)

    def _present_factor(self, thread: int) -> float | None:
        """The factor that update() would multiply the gradients by if it were called now in that
        thread; None: unknown."""
        if self._average == "sum":
            return 1.0
        batch, certain = self.sync.sources.peek(thread)
        odd = batch is not None and (batch.problem or batch.ranks is not self._world.members)
        lacks = self._average == "weighted" and (batch is None or not batch.is_weighted)
        known = certain and not odd and not lacks and not has_weightless(batch)
        return (1.0 if batch is None else batch.n) if known else None

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """In `with trainer.no_sync():`, update() moves no gradients: they add up until the first
        update() outside.

        Each pass counts as it does in one process: the update uses the sum over passes of sum n_r
        g_r / sum n_r. Divide the losses by the number of passes for a mean. These calls do not
        count towards accumulate. All ranks must make the same number of them. Weights given as
        numbers are exchanged with each call; those of shard() are known.

        Raises:
            RuntimeError: with reproducible=True.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=0)
        >>> trainer = dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, learning_rate=1))
        >>> def one_pass():
        ...     _ = dy.renew_cg()
        ...     w.backward()
        ...     return trainer.update()
        >>> with trainer.no_sync():
        ...     one_pass()
        False
        >>> one_pass(), w.as_array().tolist()
        (True, [-2.0])
        """
        if self.sync.reproducible is not None:
            raise RuntimeError(
                "no_sync: with reproducible=True update() exchanges once a step by itself. Use"
                " accumulate=k for several steps."
            )
        passes, before = self.sync.passes, self.sync.passes.silent
        try:  # Ctrl-C may come at any call
            passes.silent = True
            self._set_overlap()
            yield
        finally:
            passes.silent = before
            self._set_overlap()

    def set_accumulation(self, k: int) -> None:
        """Exchanges and updates only at every k-th call of update(), with the mean over k backward
        passes. Call it on all ranks."""
        self._inner.set_accumulation(k)
        self._set_overlap()

    @deferring_signals
    def update_subset(
        self,
        updated_params: Sequence[int | Parameters],
        updated_lookups: Sequence[int | LookupParameters],
        weight: Batch[Any] | float | None = None,
    ) -> None:
        """As Trainer.update_subset(), with the gradients of these parameters averaged over the
        ranks. Call it on all ranks alike.

        With several ranks the gradients of other parameters are kept aside until their update:
        has_gradient() returns False meanwhile.

        Args:
            updated_params: as there; the same on all ranks.
            updated_lookups: as there.
            weight: as in update().

        Raises:
            RuntimeError: as update(); reproducible=True, or inside of Join.
        """
        sync, passes = self.sync, self.sync.passes
        if sync.reproducible is not None or sync.joins:
            raise RuntimeError(
                "update_subset: all parameters must be updated together with reproducible=True and"
                f" inside of Join; got {len(updated_params)} parameters and {len(updated_lookups)}"
                " tables. Write update()."
            )
        this, chosen = self._find_pass(weight), sync.hooks.chosen(updated_params, updated_lookups)
        sync.calls += 1
        passes.begun = True
        subset = hash_of(" ".join(p.name() for p in chosen)) | 1
        with passes.watched(False):
            if self._world.size > 1 or passes.stash.kept or this.named:
                factor = 1.0
                if sync.weighted:
                    factor, problem = share(this, sync.negotiation, Flag.LAST, True)
                    this = this._replace(problem=problem)
                if not this.problem or not sync.weighted:
                    passes.keep(factor)
                    sync.sources.clear()
                    passes.stash.put_back(chosen)
            in_place, step = passes.in_place, this.step(passes.passes + 1, subset)
            try:
                sync.step(1.0, step, Flag.WEIGHED | passes.flag, this.problem, chosen)
            except RuntimeError:
                if not this.problem:
                    passes.stash.take(self.collection, 1.0)
                update_called(this.batch, refused=True)
                raise
            passes.used(chosen)
        passes.in_place = in_place
        self._end_pass(this)

    def state(self) -> dict[str, NDArray[Any]]:
        """As Trainer.state(): the same on all ranks.

        With compression it also holds the rounding errors of this rank's messages, "rest:/w" and so
        on, which differ from rank to rank, and "rest_rank", the rank that they belong to.
        """
        named = {f"rest:{name}": rest.copy() for name, rest in self.sync.residuals().items()}
        if named:
            named["rest_rank"] = np.array(self._world.rank)
        return {**self._inner.state(), **named}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """As Trainer.load_state(). Call it on all ranks with the same state; rounding errors of
        another rank are ignored."""
        check_state(state, "load_state")
        residuals = {
            name.removeprefix("rest:"): rest
            for name, rest in state.items()
            if name.startswith("rest:")
        }
        own = {k: v for k, v in state.items() if not k.startswith(("rest:", "rest_rank"))}
        self._inner.load_state(own)
        if self.sync.wire:
            is_own = int(state.get("rest_rank", -1)) == self._world.rank
            self.sync.wire.load_residuals(residuals if is_own else {})


explain(DistributedTrainer, OF_TRAINERS)
