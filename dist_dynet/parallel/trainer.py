"""DistributedTrainer: a trainer whose gradients are averaged over the ranks before each update.

It knows when to exchange and with what weights. The wrapped trainer knows the rule, the norm and the clipping; an Exchange moves the numbers.
"""

from __future__ import annotations

import pickle
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._ffi import lib
from .._habits import OF_TRAINERS, explain
from ..params.collection import ParameterCollection
from ..params.parameters import AnyParameter, LookupParameters, Parameters
from ..trainers import Trainer
from ..trainers.state import Settings
from . import _saving, environment
from ._session import world
from ._world import World, hash_of
from .agreement import Agreement, Step
from .batches import Batch, Part, Sources, checked_weight, update_called
from .engines import ENGINES, Compression, Engine, choose
from .exchange import Exchange
from .gradients import Stash
from .report import Flag
from .reproducible import ReproducibleSum

Average = Literal["mean", "weighted", "sum"]


@dataclass(slots=True)
class _Pass:
    """What was gathered since the last call of update()."""

    batch: Batch[Any] | None
    n: float
    total: float | None
    """n of all ranks together; None: they must be asked."""
    named: bool
    """The program has said what it is."""
    problem: str = ""
    """Why it is not known which batch it is."""

    def step(self, passes: int = 1, subset: int = 0) -> Step:
        """What must be alike on all ranks."""
        return Step(self.batch.description if self.batch is not None else (), passes, subset)


class DistributedTrainer:
    """Wraps a trainer, so that N ranks with B/N examples each do what one process does with B.

    At construction all ranks get rank 0's values and trainer state. Each update() replaces the gradients by g, then clips and updates as ever:

    - "mean": g = sum n_r g_r / sum n_r, for losses that are means over the rank's examples. n_r is the number of examples in the batch of
      shard() that the gradients come from, or their weight; without shard() it is 1.
    - "weighted": the same, with n_r the argument of update(weight), such as the number of words, or what `batch.n` was set to.
    - "sum": g = sum g_r, for losses that are sums over the rank's examples.

    Over k passes of an accumulation g = 1/k times the sum of each pass's g, as in one process; over those of no_sync() it is the sum. A rank
    with n_r = 0, whose batch is empty, takes part: it must call update(), too. Where it cannot be known which batch gradients come from, as
    with lists of batches and several loops at once, update() is an error on all ranks; update(batch) says it. With one process it is
    the wrapped trainer.

    Args:
        trainer: the trainer to wrap, made alike on all ranks.
        average: as above.
        accumulate: exchange and update at every so many calls of update(); 1 leaves the wrapped trainer's set_accumulation() as it is.
        overlap: between hosts: send gradients while backward goes on, with the same result, bit for bit. One host gains nothing by it. It is
            left out where the weight is not known before update(), and in an accumulation, but for average="sum".
        compression: "bf16": what crosses the wire between hosts is rounded to bfloat16; what rounding takes away is added at the next update.
        exchange: how gradients are added up: "shared", in memory that the ranks of one host share, "hybrid", so within each host and over
            the wire between hosts, "mpi", by MPI's all-reduce, or "auto", the first of these that is possible. None: DIST_DYNET_EXCHANGE from
            the environment, "auto" by default.
        reproducible: the same bits whatever the number of ranks; needs `shard(..., micro_batches=G)`, and update() after each micro-batch. It
            keeps their gradients, and updates after the last of a step.
        check: for finding faults: every meeting of these ranks, not only this trainer's, first compares what the ranks are about to do and on
            which line of the program, and every update() the parameters, bit for bit.
        comm: an mpi4py communicator whose ranks train this model, such as MPI.COMM_WORLD.Split(color); give it to shard() as well. From then
            on the first of them writes the files. None: all.
        timeout: seconds that update() waits for ranks that are alive. None: DIST_DYNET_TIMEOUT, 600.

    Raises:
        RuntimeError: the ranks hold different parameters or trainers; it names rank and parameter.

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

    __slots__ = (
        "__weakref__", "_agreement", "_average", "_calls", "_doubt", "_exchange", "_in_place", "_inner", "_is_amid", "_joins", "_part",
        "_passes", "_silent", "_sources", "_stash", "_sum", "_world",
    )  # fmt: skip

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
        check: bool = False,
        comm: Any = None,
        timeout: float | None = None,
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(f"DistributedTrainer: takes a trainer such as AdamTrainer(m); got {type(trainer).__name__}.")
        if average not in ("mean", "weighted", "sum"):
            raise ValueError(f"DistributedTrainer: average must be mean, weighted or sum; got {average!r}.")
        if exchange is not None and exchange not in ENGINES:
            raise ValueError(f"DistributedTrainer: exchange must be {', '.join(ENGINES[:-1])} or {ENGINES[-1]}; got {exchange!r}.")
        if compression not in (None, "bf16"):
            raise ValueError(f"DistributedTrainer: compression must be None or 'bf16'; got {compression!r}.")
        self._inner, self._average = trainer, average
        if accumulate != 1:
            trainer.set_accumulation(accumulate)
        self._calls = 0  # of update()
        self._passes = 0  # of them since the last exchange
        self._in_place = 0  # of these, whose gradients lie where they were made
        self._doubt = ""  # why it was not known what one of them came from: all ranks hear it at the exchange
        self._stash = Stash.of(trainer.collection._root)
        self._sources = Sources(trainer.collection)
        self._silent = False  # inside of no_sync()
        self._joins = 0  # how many Joins it is inside of
        self._is_amid = False  # an update has begun that is not done: so it stays if an exception comes that other ranks do not have
        self._world = here = world(comm).patient(timeout)
        if comm is not None:
            _saving.install(here)
        self._part: Part | None = None  # the last micro-batch
        self._agreement: Agreement | None = None
        self._exchange: Exchange | None = None
        comm = here.lend(self) if here.size > 1 else None
        self._sum = ReproducibleSum(here, comm, trainer.collection) if reproducible else None
        if here.size > 1:
            what = here.collective("DistributedTrainer")
            here.agree(comm, f"{trainer.whoami()} with average={average!r}, reproducible={bool(reproducible)}, check={bool(check)}", what)
            environment.compare(here, comm, what)
            if check:
                here.check_from_now_on()
            if self._sum:
                self._sum.check_hosts(what)
            self._agreement = Agreement(here, comm, trainer.collection, average != "sum")
            self._exchange = choose(here, comm, exchange, overlap and not reproducible, compression)
            _broadcast_state(here, comm, trainer)

    def update(self, weight: Batch[Any] | float | None = None) -> bool:
        """Averages the gradients over the ranks, then updates as the wrapped trainer does. To be called on all ranks.

        With accumulation over k calls that happens at every k-th, alike on all ranks.

        Args:
            weight: what the gradients come from: a batch of shard(), or n_r of this rank as a number. None: the batch of the loop that is under
                way. A number is needed with average="weighted" unless the batch has one, and an error with "sum".

        Returns:
            Whether parameters were updated: False within an accumulation or no_sync(), and for a step left out by skip_nonfinite.

        Raises:
            RuntimeError: it is not known which batch the gradients come from; the ranks have different parameters, settings of the trainer or
                steps of shard(); the norm of the gradients is not finite. Parameters are as they were then.
            ValueError: the weight is negative, infinite or NaN, or, in one process, missing.
            TypeError: it is neither a number nor a batch of shard().
        """
        this = self._pass(weight)
        if self._sum is None and this.batch is not None and this.batch.part is not None:
            raise RuntimeError("update: batches of shard(..., micro_batches=G) need DistributedTrainer(..., reproducible=True).")
        self._calls += 1
        if self._sum is not None:
            updated = self._update_reproducibly(this)
        elif self._silent or self._joins or self._stash or self._inner._accumulation > 1:
            updated = self._gather(this)
        else:  # nearly always
            updated = self._step(1.0 if self._average == "sum" else this.n, this.step(), 0, this.problem)[0]
        self._end_pass(this)
        return updated

    def _pass(self, weight: Batch[Any] | float | None) -> _Pass:
        batch, problem = self._sources.find(weight is not None)
        if isinstance(weight, Batch):
            return _Pass(weight, weight.n, weight.n if self._world.size == 1 else weight.total, True)
        if weight is not None:
            if self._average == "sum":
                raise ValueError(f'update: with average="sum" nothing is weighted; got weight {weight!r:.60}. Leave it out.')
            n = checked_weight(weight, "update: the weight")
            if self._sum is not None:
                batch, problem = self._sources.find()  # which micro-batch it is
            return _Pass(batch, n, n if self._world.size == 1 else None, True, problem)
        if self._average == "weighted" and not problem and (batch is None or not batch.is_weighted):
            problem = (
                'update: average="weighted" needs a weight; got none, and no batch of shard() that has one. Write update(weight), set batch.n '
                "before backward, or use shard(..., weight=len)."
            )
            if self._world.size == 1:
                raise ValueError(problem)
        if self._world.size == 1 and self._sum is None:
            problem = ""  # whatever it is, it is all there is
        if batch is None:
            return _Pass(None, 1.0, float(self._world.size), False, problem)
        return _Pass(batch, batch.n, batch.total, False)

    def _end_pass(self, this: _Pass) -> None:
        """It was taken: what comes next is another one."""
        update_called()
        if this.batch is not None and this.batch._loop is not None:
            this.batch._loop.is_used(this.batch)
        if self._exchange is not None and self._exchange.begins_early:
            self._arm()

    # ---- several passes ----------------------------------------------------------------------------------------------------------------

    def _gather(self, this: _Pass) -> bool:
        """One of several passes that make an update: their gradients wait as they count in it."""
        inner, is_last = self._inner, self._is_last()
        if self._doubt and not inner._waits():
            self._doubt = ""
        this.problem = this.problem or self._doubt
        if this.problem and self._average != "sum" and not is_last and this.total is not None and not self._joins:
            self._doubt = this.problem
            self._in_place += 1
            return self._wait()
        if self._average == "sum":
            self._in_place += 1
            factor = 1.0
        else:
            factor = self._factor(this, Flag.LAST * is_last | Flag.SILENT * self._silent)
        step = this.step(self._passes + 1)
        if not is_last:
            if self._average != "sum" and (self._world.size > 1 or this.named or self._stash):
                self._keep(factor)
            elif self._average != "sum":
                self._in_place += 1
            return self._wait()
        is_refused = bool(this.problem) and self._average != "sum"
        if not is_refused and (self._stash or factor != 1):
            self._keep(factor)
            self._stash.put_back(self._inner._members())
        try:
            updated = self._step(1.0, step, Flag.WEIGHED, this.problem)[0]
        except RuntimeError:
            if not is_refused and self._average != "sum":  # they have their weights, and keep them
                self._stash.take(self.collection, 1.0)
                self._sources.clear()
            raise
        inner._gathered = 0
        return updated

    def _wait(self) -> bool:
        """Counts a pass whose gradients wait for others: nothing was updated."""
        self._sources.clear()
        self._passes += 1
        self._inner._gathered += not self._silent
        return False

    def _is_last(self) -> bool:
        """Whether the update comes with this call."""
        return not self._silent and self._inner._gathered + 1 >= self._inner._accumulation

    def _factor(self, this: _Pass, flags: int = 0) -> float:
        """What the gradients of a pass are multiplied by: n_r / sum of n_r. Collective where weights are not known."""
        total = this.total
        if self._agreement is not None and (self._joins or total is None):
            flags |= Flag.JOIN if self._joins else 0
            total = self._agreement.gather_weights(this.n, flags, this.problem)[0]
        if self._world.size == 1 and not this.named:
            return 1.0
        assert total is not None, "one process knows all weights, several have told them"
        return this.n / total if total else 0.0

    def _keep(self, factor: float) -> None:
        """Puts the gradients by, times factor."""
        if factor != 1 and self._in_place:
            raise RuntimeError(
                f"update: earlier passes of this accumulation were not named, so that this one cannot be left out; got weight {factor:g}. Give "
                "a weight with each call."
            )
        self._stash.take(self.collection, factor)
        self._in_place = 0

    # ---- an update ---------------------------------------------------------------------------------------------------------------------

    def _step(
        self, weight: float, step: Step, flags: int = 0, problem: str = "", chosen: Sequence[AnyParameter] | None = None
    ) -> tuple[bool, bool]:
        """Exchanges and applies what was gathered: whether parameters were updated, and whether all ranks have run out of data."""
        flags |= Flag.JOIN if self._joins else 0
        over, what, inner, exchange = bool(flags & Flag.ENDED), "", self._inner, self._exchange
        if self._agreement is not None and exchange is not None:
            if self._is_amid:
                raise RuntimeError(
                    f"{self._world.name} update: one before it was interrupted, so that this rank is out of step with the others. "
                    "Start the job again from a checkpoint."
                )
            self._world.refuse_child()
            self._is_amid = True
            if exchange.begins_early:
                flags |= exchange.hasten(weight if self._average != "sum" else float(weight > 0))
            self._stash.follow()
            try:
                agreed, what = self._agreement.reach(exchange, weight, Settings.of(inner), step, flags, problem)
            except RuntimeError:  # on all ranks
                exchange.drop("gradient exchange that was given up")
                self._stash.mark()
                self._is_amid = False
                raise
            over = agreed is not None and agreed.over
            if agreed is not None and not over and flags & Flag.ENDED:
                agreed.settings.set_on(inner)  # goes on as the ranks do that still have data
            if agreed is not None and self._sum is None:
                exchange.sum(agreed, what)
            self._stash.mark()
        elif weight == 0:
            self.collection.reset_gradients()
        if self._sum is not None:
            self._sum.sum(what, self._average != "sum")
            if not self._is_last():
                self._is_amid = False
                return False, over
            self._stash.put_back(self._inner._members())
        if over and not inner._waits():
            self._is_amid = False
            return False, over
        try:
            updated = inner._change() if chosen is None else inner._change_these(chosen)
        except RuntimeError:  # of gradients that are not finite, on all ranks
            self._is_amid = False
            raise
        self._is_amid = False
        self._passes = self._in_place = 0
        self._sources.clear()
        if updated:
            inner._done()
            inner._end()
        return updated, over

    # ---- the same bits whatever the number of ranks --------------------------------------------------------------------------------------

    def _update_reproducibly(self, this: _Pass) -> bool:
        assert self._sum is not None
        if this.problem:
            raise RuntimeError(f"update: {this.problem}")
        part = this.batch.part if this.batch is not None else None
        if part is None:
            raise RuntimeError("update: with reproducible=True each call belongs to a batch of shard(..., micro_batches=G); got one outside.")
        before = self._part
        goes_on = before is not None and before.loop is part.loop
        if part.turn != ((before.turn + 1) % before.turns if before and goes_on else 0):
            raise RuntimeError(
                "update: with reproducible=True it is called once after each batch of shard(), empty ones too; got two calls for one, or none."
            )
        if before and not goes_on and not before.is_last:  # that loop was left within a step
            self._inner._gathered = 0
            self._sum.clear()
            self._stash.forget(self._inner._members())
        if part.number is not None:
            with self._stash.unseen():
                self._sum.keep(part.number, this.n, 1.0 if self._average == "sum" else this.n)
        self._sources.clear()
        self._part = part
        if not part.is_last:
            return False
        inner, is_last = self._inner, self._is_last()
        updated = self._step(1.0, this.step(self._passes + 1))[0]
        if is_last:
            inner._gathered = 0
            return updated
        self._stash.take(self.collection, 1.0)
        return self._wait()

    # ---- while backward goes on --------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Lets the exchange begin in the next backward if that is the last before an update, and its weight is known, and only then."""
        if self._exchange is None or self._sum is not None:
            return
        gathers = self._silent or (not self._is_last() if self._average == "sum" else self._inner._accumulation > 1 or self._joins)
        if gathers or self._stash:
            self._exchange.disarm()
        else:
            present, thread = weakref.WeakMethod(self._present_factor), threading.get_ident()
            self._exchange.arm(lambda: method(thread) if (method := present()) else None)

    def _present_factor(self, thread: int) -> float | None:
        """What update() would multiply the gradients by if it were called now in that thread; None: that is not known."""
        if self._average == "sum":
            return 1.0
        batch, certain = self._sources.peek(thread)
        if not certain or (self._average == "weighted" and (batch is None or not batch.is_weighted)):
            return None
        return 1.0 if batch is None else batch.n

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """In `with trainer.no_sync():`, update() moves no gradients: they add up, until the first update() outside.

        Each pass counts as it does in one process: the update is by the sum over passes of sum n_r g_r / sum n_r. Divide the losses by the
        number of passes where a mean is wanted. These calls do not count towards accumulate. All ranks make equally many. Weights that are
        numbers are exchanged with each call; those of shard() are known.

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
        if self._sum is not None:
            raise RuntimeError("no_sync: with reproducible=True update() exchanges once a step by itself. Use accumulate=k for several steps.")
        before, self._silent = self._silent, True
        self._arm()
        try:
            yield
        finally:
            self._silent = before
            self._arm()

    def _waits(self) -> bool:
        """Whether gradients wait to be applied; then there is no checkpoint."""
        return self._passes > 0 or bool(self._stash) or self._inner._waits() or (self._sum is not None and self._sum.pending)

    # ---- what Join needs ---------------------------------------------------------------------------------------------------------------

    def _take_part(self) -> bool:
        """One pass of the others after this rank has run out of data; True: all have.

        An accumulation that the end cuts short counts by the mean of its passes.
        """
        inner = self._inner
        if self._agreement is None or self._average == "sum":
            begun, k = inner._gathered, inner.accumulation
            self._stash.put_back(self._inner._members())
            if self._average != "sum" and 0 < begun < k:
                for p in inner._members():
                    lib.dn_param_scale_gradient(p._c, k / begun)
            inner._gathered = 0
            return self._step(float(self._in_place > 0), Step(), Flag.ENDED)[1]
        _, of_any, of_all = self._agreement.gather_weights(0.0, Flag.JOIN | Flag.ENDED)
        over = bool(of_all & Flag.ENDED)
        if not over:
            with self._stash.unseen():
                self.collection.reset_gradients()
            self._passes += 1
            if not of_any & Flag.LAST:
                inner._gathered += not of_any & Flag.SILENT
                return False
        elif not inner._gathered:
            return True
        self._stash.put_back(self._inner._members())
        if over:
            for p in inner._members():
                lib.dn_param_scale_gradient(p._c, inner.accumulation / inner._gathered)
        inner._gathered = 0
        self._step(1.0, Step(), Flag.ENDED | Flag.WEIGHED)
        return over

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
        self._inner.set_accumulation(k)
        self._arm()

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

    @property
    def clips(self) -> int:
        """In how many updates the averaged gradients were longer than the clip threshold."""
        return self._inner.clips

    def update_epoch(self, r: float = 1.0) -> None:
        """Does nothing, and warns of it, as Trainer.update_epoch()."""
        self._inner.update_epoch(r)

    def update_subset(
        self,
        updated_params: Sequence[int | Parameters],
        updated_lookups: Sequence[int | LookupParameters],
        weight: Batch[Any] | float | None = None,
    ) -> None:
        """As Trainer.update_subset(), with the gradients of these parameters averaged over the ranks. To be called on all ranks alike.

        With several ranks the gradients of the others are put by until their update: has_gradient() says no meanwhile.

        Args:
            updated_params: as there; the same on all ranks.
            updated_lookups: as there.
            weight: as in update().

        Raises:
            RuntimeError: as update(); reproducible=True, or inside of Join.
        """
        if self._sum is not None or self._joins:
            raise RuntimeError(
                f"update_subset: all parameters must be updated together with reproducible=True and inside of Join; got "
                f"{len(updated_params)} parameters and {len(updated_lookups)} tables. Write update()."
            )
        this, chosen = self._pass(weight), self._inner._chosen(updated_params, updated_lookups)
        self._calls += 1
        if self._world.size > 1 or self._stash or this.named:
            factor = 1.0 if self._average == "sum" else self._factor(this, Flag.LAST)
            if not this.problem or self._average == "sum":
                self._keep(factor)
                self._sources.clear()
                self._stash.put_back(chosen)
        passes, in_place = self._passes, self._in_place
        subset = hash_of(" ".join(p.name() for p in chosen)) | 1
        try:
            self._step(1.0, this.step(passes + 1, subset), Flag.WEIGHED, this.problem, chosen)
        except RuntimeError:
            if not this.problem:
                self._stash.take(self.collection, 1.0)
            raise
        self._in_place = in_place
        self._end_pass(this)

    def state(self) -> dict[str, NDArray[Any]]:
        """As Trainer.state(): the same on all ranks.

        With compression there is also what this rank's messages have lacked so far, "rest:/w" and so on, which differs from rank to rank, and
        "rest_rank", the rank that it belongs to.
        """
        rests = self._exchange.residuals() if self._exchange else {}
        named = {f"rest:{name}": rest for name, rest in rests.items()}
        return {**self._inner.state(), **named, **({"rest_rank": np.array(self._world.rank)} if named else {})}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """As Trainer.load_state(). To be called on all ranks with the same state; what another rank's messages lacked is left out."""
        rests = {name.removeprefix("rest:"): rest for name, rest in state.items() if name.startswith("rest:")}
        self._inner.load_state({name: values for name, values in state.items() if not name.startswith(("rest:", "rest_rank"))})
        if self._exchange:
            self._exchange.load_residuals(rests if int(state.get("rest_rank", -1)) == self._world.rank else {})

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
        """Prints on stderr, on rank 0, the learning rate, and how many updates were clipped and done since the last call."""
        if self._world.rank == 0:
            self._inner.status()

    def whoami(self) -> str:
        """The name of the wrapped trainer's class."""
        return self._inner.whoami()


explain(DistributedTrainer, OF_TRAINERS)


def _broadcast_state(here: World, comm: Any, trainer: Trainer) -> None:
    """Gives every rank rank 0's trainer state, if any rank has made updates. Collective."""
    what = here.collective("DistributedTrainer")
    updates = np.empty(here.size, np.int64)
    here.wait([comm.Iallgather(np.array([trainer.updates]), updates)], what)
    if not updates.any():
        return
    state = np.frombuffer(pickle.dumps(trainer.state()) if here.rank == 0 else b"", np.uint8)
    size = np.array([len(state)])
    here.wait([comm.Ibcast(size, root=0)], what)
    received = state.copy() if here.rank == 0 else np.empty(int(size[0]), np.uint8)
    here.wait([comm.Ibcast(received, root=0)], what)
    if here.rank > 0:
        trainer.load_state(pickle.loads(received.tobytes()))
