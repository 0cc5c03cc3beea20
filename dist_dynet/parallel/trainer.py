"""DistributedTrainer: a trainer whose gradients are averaged over the ranks before each update.

It decides how much the gradients of a batch count and when ranks exchange. update/sync.py makes the
update; the wrapped trainer knows the rule, the norm and the clipping.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._deferred_signals import DeferSignals
from .._ffi import ffi, lib
from .._hints import OF_TRAINERS, explain
from .._manner import manner, warn
from .._state import check_state
from ..graph import cg
from ..params.collection import handles_of, members_of
from ..params.parameters import LookupParameters, Parameters
from ..trainers import Trainer
from .agreement.message import Flag
from .agreement.negotiation import NO_BATCH, Negotiation, Step
from .agreement.structure import broadcast_state
from .batch import Batch, Use, running
from .exchange.compression import CODES
from .exchange.engines import Compression, check_choice, choose, default_engine
from .exchange.hosts import HybridExchange
from .exchange.shared import SharedExchange
from .processes import environment, saving, session, spans, trial
from .processes.world import hash_of
from .reproducible import ReproducibleSum
from .update.sync import Sync
from .wrapper import TrainerWrapper, check_trainer

Average = Literal["mean", "sum"]

_SUMS = (b"sum", b"sum_batches", b"sum_elems")
"""Operations at the end of losses that are sums over examples."""

_NEXT_TO_NOTHING = 2.0**-60
"""So small a share of the sum of all weights that it is lost when that is rounded."""

_FIRST_CALLS = 16
"""Number of calls of update() whose losses are looked at."""


class DistributedTrainer(TrainerWrapper):
    """Wraps a trainer, so that N ranks with B/N examples each do what one process does with B.

    At construction all ranks get rank 0's values and trainer state. Each update() replaces the
    gradients by g, then clips and updates as always:

    - "mean": g = sum n_r g_r / sum n_r, for losses that are means over the rank's examples. n_r is
      the number of examples (or the weight) of the batch that the running loop over shard()
      yielded last, or the argument of update(). Outside of shard() it is 1.
    - "sum": g = sum g_r, for losses that are sums over the rank's examples.

    A batch serves one update of a trainer. If it is not clear which batch that is, as with lists of
    batches, several loops or batches that were skipped, update() raises on all ranks:
    `update(batch)` names it. A rank whose batch is empty must call update(), too. With one process
    it is the wrapped trainer.

    Args:
        trainer: the trainer to wrap, made alike on all ranks.
        average: as above.
        accumulate: exchange and update at every so many calls of update(), with g = 1/k times the
            sum of each pass's g; 1 leaves the wrapped trainer's set_accumulation() as it is.
        reproducible: the same bits whatever the number of ranks; needs
            `shard(..., micro_batches=G)`, and update() after each micro-batch.
        compression: "bf16": what crosses the network between hosts is rounded to bfloat16, and the
            rounding errors are added to the next message. Not with reproducible=True.
        comm: an mpi4py communicator whose ranks train this model, such as
            MPI.COMM_WORLD.Split(color); give it to shard() as well. From then on the first of them
            writes the files. None: all.
        timeout: seconds that update() waits for ranks that are alive. None: DIST_DYNET_TIMEOUT,
            600.

    Raises:
        RuntimeError: the ranks hold different parameters or trainers; it names rank and parameter.
        ValueError: reproducible=True and compression or accumulation.

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
        reproducible: bool = False,
        compression: Compression | None = None,
        comm: Any = None,
        timeout: float | None = None,
    ) -> None:
        check_trainer(trainer)
        check_choice("average", average, get_args(Average))
        check_choice("compression", compression, (None, *CODES))
        if accumulate != 1:
            trainer.set_accumulation(accumulate)
        if reproducible and (compression or trainer.accumulation > 1):
            raise ValueError(
                "DistributedTrainer: reproducible=True takes no compression and no accumulation;"
                f" got {compression!r} and {trainer.accumulation}."
            )
        engine = default_engine()
        self._inner, self._average = trainer, average
        self._world = here = session.world(comm).with_timeout(timeout)
        if comm is not None:
            saving.install(here)
        comm = here.lend(self) if here.size > 1 else None
        micro_sum = ReproducibleSum(here, comm, trainer.collection) if reproducible else None
        self.sync = sync = Sync(here, trainer, average != "sum", micro_sum)
        """Also used by Join and Checkpointer."""
        if here.size > 1:
            what = here.collective("DistributedTrainer")
            here.agree(
                comm,
                f"{trainer.whoami()} with average={average!r}, reproducible={bool(reproducible)},"
                f" exchange={engine!r}, compression={compression!r}",
                what,
            )
            environment.compare(here, comm, what)
            if micro_sum is not None:
                micro_sum.check_hosts(what)
            sync.exchange = chosen = choose(here, comm, engine, not reproducible, compression)
            if isinstance(chosen, SharedExchange):
                chosen.share_moments(trainer)
            sync.wire = chosen if isinstance(chosen, HybridExchange) else None
            sync.negotiation = Negotiation(here, comm, trainer, average != "sum", chosen.transport)
            broadcast_state(here, comm, trainer)
            spans.follow_negotiated(trainer, here, sync.negotiation.meters)
        if (watching := trial.present()) is not None:
            watching.watch(trainer, sync, average, False)

    def update(self, weight: Batch[Any] | float | None = None) -> bool:
        """Averages the gradients over the ranks, then updates as the wrapped trainer does. Call it
        on all ranks.

        With accumulation over k calls this happens at every k-th call, on all ranks alike.

        Args:
            weight: what the gradients come from: a batch of shard(), or n_r of this rank as a
                number, such as its number of words. None: the batch of the running loop.

        Returns:
            Whether parameters were updated: False within an accumulation or no_sync(), and for a
            step left out by skip_nonfinite.

        Raises:
            RuntimeError: it is not known which batch the gradients come from; the ranks have
                different parameters, settings of the trainer or steps of shard(); the norm of the
                gradients is not finite. Parameters are as they were then.
            ValueError: the weight is negative, infinite or NaN.
            TypeError: it is neither a number nor a batch of shard().
        """
        sync = self.sync
        with DeferSignals(may_leave=sync.may_leave):
            use = self._find(weight)
            sync.calls += 1
            try:
                batch = use.batch
                is_plain = self._inner.accumulation == 1 and not sync.silent
                if sync.reproducible is not None or (batch is not None and batch.part is not None):
                    return self._update_reproducibly(use)
                if not is_plain or (sync.stash.kept and sync.stash.holds(sync.hooks.members())):
                    return self._gather(use)
                n = use.n if sync.weighted else 1.0
                return sync.step(n, self._step(use), 0, use.problem)[0]
            finally:
                sync.uses.done(use)
                if sync.wire is not None:
                    self._set_overlap()

    def _find(self, weight: Batch[Any] | float | None) -> Use:
        """The batch of this update, and how much its gradients count. A batch that counts 0 though
        it has examples has gradients of zero: they say which rows were used."""
        sync, here = self.sync, self._world
        try:
            use = sync.uses.find(weight)
        except (TypeError, ValueError) as error:
            if here.size == 1:
                raise
            use = Use(None, 0.0, None, str(error))
        if here.size == 1:
            return use
        if not sync.weighted:
            return use._replace(problem="")
        if use.batch is not None and use.n == 0 and len(use.batch):
            for handle in handles_of(members_of(sync.collection)):
                lib.dn_param_zero_gradient(handle)
            use = use._replace(n=(use.total or 0) * _NEXT_TO_NOTHING)
        if weight is None and sync.calls < _FIRST_CALLS and self._loss_is_sum(use):
            warn(
                'update: the loss is a sum, and average="mean" expects the mean over this rank\'s'
                " examples: the ranks do not end where one process ends. Divide it by len(batch)"
                ' (dy.average), or write DistributedTrainer(trainer, "sum"). This is said once.'
            )
        return use

    def _loss_is_sum(self, use: Use) -> bool:
        """Whether rank 0 should warn that the last backward began from a sum over examples."""
        is_several = use.batch is not None and len(use.batch) > 1
        if self._world.rank or not is_several:
            return False
        return ffi.string(lib.dn_loss_op(cg().number)) in _SUMS and manner.is_first("sum loss")

    def _step(self, use: Use, passes: int = 1, subset: int = 0) -> Step:
        """What must be equal on all ranks."""
        batch = use.batch
        if batch is not None and len(batch.ranks) != self._world.size:
            batch = None  # of a shard() of this rank's own data
        if batch is None and passes == 1 and not subset:
            return NO_BATCH
        described = batch.description if batch is not None else ()
        return Step(described, passes, subset, self.sync.described)

    # ---- several passes ----------------------------------------------------------------

    def _share(self, use: Use) -> tuple[float, str]:
        """What the gradients of a pass are multiplied by, n_r / sum of n_r; and why it is not
        known."""
        sync = self.sync
        if not sync.weighted or use.problem or (self._world.size == 1 and use.total is None):
            return 1.0, use.problem
        if use.total is None:
            return 1.0, (
                "update: with accumulation, no_sync() or update_subset(), every rank must know the"
                " weights of all ranks; got a number. Give shard() weight=, and write"
                " update(batch)."
            )
        return (use.n / use.total if use.total else 1.0), ""  # of weight 0 on all ranks: zeros

    def _gather(self, use: Use) -> bool:
        """One of several passes that make an update: their gradients wait, multiplied by their
        weights."""
        sync = self.sync
        is_last = sync.is_last()
        factor, problem = self._share(use)
        if self._world.size > 1 and problem:
            sync.described = hash_of(f"{sync.described} {problem}")
        elif use.batch is not None:
            sync.described = hash_of(f"{sync.described} {use.batch.description}")
        if not is_last:
            if self._world.size > 1:
                sync.stash.take(self.collection, 0.0 if problem else factor)
            sync.problem = sync.problem or problem
            sync.passes += 1
            sync.hooks.gathered += not sync.silent
            return False
        problem, sync.problem = sync.problem or problem, ""
        if not problem and (sync.stash.kept or factor != 1) and self._world.size > 1:
            sync.stash.take(self.collection, factor)
        sync.stash.put_back(sync.hooks.members())
        flags = Flag.WEIGHED * (self._world.size > 1)
        return sync.step(1.0, self._step(use, sync.passes + 1), flags, problem)[0]

    def _update_reproducibly(self, use: Use) -> bool:
        """One micro-batch of a step."""
        kept = self.sync.reproducible
        if kept is None:
            raise RuntimeError(
                "update: batches of shard(..., micro_batches=G) need DistributedTrainer(...,"
                " reproducible=True)."
            )
        if use.problem:
            raise RuntimeError(use.problem)
        part = use.batch.part if use.batch is not None else None
        kept.check_turn(part)
        assert part is not None and use.batch is not None
        n = use.batch.n
        kept.keep(part, n, n if self.sync.weighted else 1.0)
        if not part.is_last:
            return False
        return self.sync.step(1.0, self._step(use))[0]

    # ---- while backward runs -----------------------------------------------------------

    def _set_overlap(self) -> None:
        """Lets the exchange between hosts begin in the next backward if that is the last one before
        an update."""
        sync, wire = self.sync, self.sync.wire
        if wire is None or sync.reproducible is not None:
            return
        if sync.silent or sync.joins or sync.stash.kept or self._inner.accumulation > 1:
            wire.overlap.disable()
        else:
            present, thread = weakref.WeakMethod(self._present_factor), threading.get_ident()
            wire.overlap.enable(lambda: method(thread) if (method := present()) else None)

    def _present_factor(self, thread: int) -> float | None:
        """The factor that update() would multiply the gradients by if it were called now in that
        thread; None: unknown."""
        if self._average == "sum":
            return 1.0
        if thread != threading.get_ident():
            return None
        loops = running.get(thread, [])
        if len(loops) > 1 or self.sync.uses.is_number:
            return None
        use = self.sync.uses.find()
        return None if use.problem or use.n == 0 else use.n

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """In `with trainer.no_sync():`, update() moves no gradients: they add up until the first
        update() outside.

        Each pass counts as it does in one process: the update uses the sum over passes of sum n_r
        g_r / sum n_r. Divide the losses by the number of passes for a mean. These calls do not
        count towards accumulate. All ranks must make the same number of them.

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
        sync = self.sync
        if sync.reproducible is not None or sync.joins:
            raise RuntimeError(
                "no_sync: with reproducible=True and inside of Join every call of update()"
                " exchanges; got such a trainer."
            )
        before = sync.silent
        try:  # Ctrl-C may come at any call
            sync.silent = True
            self._set_overlap()
            yield
        finally:
            sync.silent = before
            self._set_overlap()

    def set_accumulation(self, k: int) -> None:
        """Exchanges and updates only at every k-th call of update(), with the mean over k backward
        passes. Call it on all ranks.

        Raises:
            RuntimeError: with reproducible=True.
        """
        if self.sync.reproducible is not None and k != 1:
            raise RuntimeError(
                f"set_accumulation: reproducible=True takes no accumulation; got {k}. Give shard()"
                " a larger batch_size and more micro_batches."
            )
        self._inner.set_accumulation(k)
        self._set_overlap()

    def update_subset(
        self,
        updated_params: Sequence[int | Parameters],
        updated_lookups: Sequence[int | LookupParameters],
        weight: Batch[Any] | float | None = None,
    ) -> None:
        """As Trainer.update_subset(), with the gradients of these parameters averaged over the
        ranks. Call it on all ranks alike.

        With several ranks the gradients of other parameters are kept aside until their update:
        has_gradient() returns False meanwhile. A second call in the same step must name its batch.

        Args:
            updated_params: as there; the same on all ranks.
            updated_lookups: as there.
            weight: as in update(), but with several ranks a batch, not a number.

        Raises:
            RuntimeError: as update(); reproducible=True, or inside of Join.
        """
        sync = self.sync
        if sync.reproducible is not None or sync.joins:
            raise RuntimeError(
                "update_subset: all parameters must be updated together with reproducible=True and"
                f" inside of Join; got {len(updated_params)} parameters and {len(updated_lookups)}"
                " tables. Write update()."
            )
        with DeferSignals(may_leave=sync.may_leave):
            use, chosen = self._find(weight), sync.hooks.chosen(updated_params, updated_lookups)
            sync.calls += 1
            try:
                factor, problem = self._share(use)
                if self._world.size > 1 and not problem:
                    sync.stash.take(self.collection, factor)
                sync.stash.put_back(chosen)
                subset = hash_of(" ".join(p.name() for p in chosen)) | 1
                flags = Flag.WEIGHED * (self._world.size > 1)
                sync.step(1.0, self._step(use, 1, subset), flags, problem, chosen)
            finally:
                sync.uses.done(use)
                self._set_overlap()

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
