"""What training loops share: a progress bar, metrics, the best model, early stopping, scores of
entities.

    run = dy.training.Run(trainer, "metrics.jsonl")
    best = dy.training.Best(model, "model.txt", patience=3)
    while not best.is_over:
        for batch in run.epoch(batches):
            ...
            run.log(loss=loss.value())
        best.update(accuracy(dev))

It shows, counts and keeps; what is computed, and when a loop ends, is the program's business.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

from . import parallel
from ._bar import Bar, NoBar, is_wanted, make_bar
from ._derived import requires_init
from ._entities import entities, entity_scores
from ._events import Events
from ._file_names import FileName, file_path
from ._integers import named_number
from ._state import count_in, number_in
from .io import save
from .parallel.metrics import EVERY, LinesOfFile, report_on
from .parallel.wrapper import TrainerWrapper
from .params.collection import ParameterCollection
from .trainers import Trainer, TrainerLike

__all__ = ["Best", "Run", "entities", "entity_scores"]

T = TypeVar("T")

# ---- a run -----------------------------------------------------------------------------


def _added(every: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, tuple[float, float]]:
    """Sums and weights by name, of all ranks together."""
    result: dict[str, tuple[float, float]] = {}
    for sums in every:
        for name, (s, w) in sums.items():
            before = result.get(name, (0.0, 0.0))
            result[name] = before[0] + s, before[1] + w
    return result


class Run:
    """Shows and writes what a training run does: a progress bar on rank 0, lines of metrics, means
    over ranks.

    Lines are those of docs/metrics.md, with the learning rate, the norm of the gradients, what
    log() was given, and `rate`: examples a second over all ranks, while batches are worked on.
    `dist-dynet plot FILE` draws them.

    Args:
        trainer: whose updates are counted.
        metrics: file to which rank 0 adds lines of JSON; its folder is made. None: none.
        every: updates from one line to the next.
        tensorboard: folder for TensorBoard's event files of the same numbers (needs tensorboardX).
        bar: whether rank 0 shows a progress bar on stderr: by tqdm, or, where that is missing, a
            plain line. None: if stderr is a terminal, or that of the launcher is
            (DIST_DYNET_BARS).

    Raises:
        ModuleNotFoundError: tensorboard is given, and tensorboardX is not installed.
        TypeError: not a trainer.
        ValueError: every is not 1 or more.

    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(2, init=1)
    >>> trainer = dy.SimpleSGDTrainer(m)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = dy.training.Run(trainer, f"{folder}/metrics.jsonl")
    ...     for batch in run.epoch([[1, 2], [3]]):
    ...         _ = dy.renew_cg()
    ...         loss = dy.squared_norm(w)
    ...         run.log(loss=loss.value())
    ...         loss.backward()
    ...         trainer.update()
    ...     run.write(accuracy=0.5)
    ...     (text,) = Path(folder, "metrics.jsonl").read_text().splitlines()
    >>> line = json.loads(text)
    >>> line["update"], line["accuracy"], round(run.means()["loss"], 3), line["rate"] > 0
    (2, 0.5, 1.76, True)
    """

    def __init__(
        self,
        trainer: TrainerLike,
        metrics: FileName | None = None,
        *,
        every: float = EVERY,
        tensorboard: FileName | None = None,
        bar: bool | None = None,
    ) -> None:
        if not every >= 1:
            raise ValueError(f"training.Run: every must be 1 or more; got {every!r}.")
        if not isinstance(trainer, Trainer | TrainerWrapper):
            raise TypeError(f"training.Run: takes a trainer; got {type(trainer).__name__}.")
        self.trainer: TrainerLike = trainer
        self._is_shown = parallel.is_main() and is_wanted(bar)
        self._sums: dict[str, tuple[float, float]] = {}
        self._bar: Bar = NoBar()
        self._batch: Any = None  # of epoch()'s loop, the present one; its size
        self._size, self._examples, self._seconds = 1.0, 0.0, 0.0
        self._attempt = 0
        inner = trainer if isinstance(trainer, Trainer) else trainer.inner
        wanted = metrics is not None or tensorboard is not None
        self._report = report_on(inner) if wanted and parallel.is_main() else None
        if self._report is not None:
            self._report.further = self._rate
            if metrics is not None:
                file = file_path(metrics, "Run").absolute()
                file.parent.mkdir(parents=True, exist_ok=True)
                self._report.write_to(LinesOfFile(str(file)), every)
            if tensorboard is not None:
                self._report.write_to(Events(tensorboard), every)

    def epoch(self, batches: Iterable[T], description: str | None = None) -> Iterator[T]:
        """The batches, while a bar shows how far they are. What means() has begins anew, unless
        the loop resumes in the middle of `batches` (parallel.Checkpointer).

        Args:
            batches: anything to loop over; of parallel.shard() the number of the epoch and the
                position are known.
            description: in front of the bar; None: the number of the epoch.

        >>> import dist_dynet as dy
        >>> run = dy.training.Run(dy.SimpleSGDTrainer(dy.ParameterCollection()))
        >>> [len(batch) for batch in run.epoch([[1, 2], [3]])]
        [2, 1]
        """
        first = int(getattr(batches, "position", 0))
        total = len(batches) if isinstance(batches, Sized) else None
        if not first:
            self._sums.clear()
        if description is None:
            description = f"epoch {batches.epoch}" if hasattr(batches, "epoch") else "batches"
        if self._is_shown:
            self._bar = make_bar(description, total, first)
        last, examples, began = time.perf_counter(), 0.0, time.perf_counter()
        try:
            for batch in batches:
                self._batch, every = batch, getattr(batch, "total", None)
                self._size = n = float(len(batch)) if isinstance(batch, Sized) else 1.0
                examples += n if every is None else every
                yield batch
                now = time.perf_counter()
                self._examples += n if every is None else every
                self._seconds += now - last
                last = now
                if self._is_shown:
                    means = [f"{name} {s / w:.4g}" for name, (s, w) in self._sums.items() if w]
                    rate = f"{examples / max(now - began, 1e-9):,.0f} examples/s"
                    self._bar.set_postfix_str(", ".join([*means, rate]), refresh=False)
                    self._bar.update()
        finally:
            self._bar.close()
            self._bar = NoBar()
            self._size, self._batch = getattr(self._batch, "n", self._size), None

    def log(self, weight: float | None = None, /, **values: float) -> None:
        """Adds numbers of a batch, such as the loss, to means() and to the next line of metrics: to
        be called before update(). They are means over the batch's examples: log sum / batch.n.

        Args:
            weight: what they count in means(); None: the n of the present batch of epoch(), or its
                size.
            values: by name.

        Raises:
            TypeError: a value is not a number; nothing is added then.

        >>> import dist_dynet as dy
        >>> run = dy.training.Run(dy.SimpleSGDTrainer(dy.ParameterCollection()))
        >>> run.log(3, loss=1.0)
        >>> run.log(1, loss=2.0)
        >>> run.means()
        {'loss': 1.25}
        """
        n = getattr(self._batch, "n", self._size)
        weight = n if weight is None else named_number(weight, "log: the weight")
        self.trainer.log(**values)
        for name, value in values.items():
            sum_, weights = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = sum_ + weight * float(value), weights + weight

    def means(self) -> dict[str, float]:
        """The weighted means of what log() was given since the epoch began, over all ranks.
        Collective.

        >>> import dist_dynet as dy
        >>> run = dy.training.Run(dy.SimpleSGDTrainer(dy.ParameterCollection()))
        >>> for batch in run.epoch([[1, 2, 3], [4]]):
        ...     run.log(loss=float(sum(batch)))
        >>> run.means()  # (3 * 6 + 1 * 4) / 4
        {'loss': 5.5}
        """
        sums = _added(parallel.gather(self._sums))
        return {name: s / w if w else math.nan for name, (s, w) in sums.items()}

    def write(self, **values: float) -> None:
        """Adds a line of metrics now, with these numbers: at the end of an epoch, say.

        >>> import json, pathlib, tempfile
        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dy.training.Run(trainer, f"{folder}/metrics.jsonl").write(accuracy=0.5)
        ...     line = json.loads(pathlib.Path(folder, "metrics.jsonl").read_text())
        >>> line["update"], line["accuracy"]
        (0, 0.5)
        """
        self.trainer.log(**values)
        if self._report is not None:
            self._report.write()

    def _rate(self) -> dict[str, float]:
        """For a line: since the last one."""
        if not self._seconds:
            return {}
        rate = self._examples / self._seconds
        self._examples = self._seconds = 0.0
        return {"rate": rate}

    def state(self) -> dict[str, Any]:
        """For Checkpointer.add(name, run, per_rank=True).

        >>> import dist_dynet as dy
        >>> run = dy.training.Run(dy.SimpleSGDTrainer(dy.ParameterCollection()))
        >>> run.log(3, loss=1.0)
        >>> run.state()
        {'sums': {'loss': [3.0, 3.0]}, 'attempt': 0}
        """
        sums = {name: list(pair) for name, pair in self._sums.items()}
        return {"sums": sums, "attempt": self._attempt}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state(): lines of metrics count as those of the same run.

        Raises:
            ValueError: it is no such state; nothing is changed then.

        >>> import dist_dynet as dy
        >>> run = dy.training.Run(dy.SimpleSGDTrainer(dy.ParameterCollection()))
        >>> run.load_state({"sums": {"loss": [3.0, 3.0]}, "attempt": 0})
        >>> run.log(1, loss=2.0)
        >>> run.means(), run.state()["attempt"]
        ({'loss': 1.25}, 1)
        """
        what = "training.Run.load_state"
        attempt = count_in(state, "attempt", what)
        pairs: Any = state.get("sums")
        try:
            sums = {name: (float(pair[0]), float(pair[1])) for name, pair in pairs.items()}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{what}: the state must have pairs 'sums'; got {pairs!r}.") from error
        self._sums, self._attempt = sums, attempt + 1
        if self._report is not None:
            self._report.attempt = self._attempt = max(self._attempt, self._report.attempt)

    def load_states(self, states: Sequence[Mapping[str, Any]], rank: int) -> None:
        """As load_state(), from those of another number of ranks: rank 0 goes on with all sums.

        >>> import dist_dynet as dy
        >>> run = dy.training.Run(dy.SimpleSGDTrainer(dy.ParameterCollection()))
        >>> states = [{"sums": {"loss": [3.0, n]}, "attempt": 0} for n in (1.0, 2.0)]
        >>> run.load_states(states, 0)
        >>> run.means()
        {'loss': 2.0}
        """
        sums = _added(state["sums"] for state in states) if rank == 0 else {}
        self.load_state({**states[0], "sums": sums})


# ---- the best model --------------------------------------------------------------------


class Best:
    """Keeps the values of the parameters that had the best score, and says when to stop.

    Args:
        model: a ParameterCollection, which is kept by its save(); or an object with spec,
            from_spec() and param_collection(), or a list of such objects, by dy.save().
        file: to which the best is saved, its folder being made; None: kept in memory.
        patience: the run is over after so many scores in a row that were not better; None: never.
        lower: whether lower scores are better, as of a loss.
        comm: an mpi4py communicator whose ranks train this model; None: all.

    Raises:
        TypeError: model is none of these.
        ValueError: patience is not 1 or more.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=0)
    >>> best = dy.training.Best(m, patience=2)
    >>> for score in 0.5, 0.7, 0.6, 0.65:
    ...     w.set_value([score])
    ...     is_best = best.update(score)
    >>> best.score, best.is_over
    (0.7, True)
    >>> best.restore()
    >>> round(float(w.as_array()[0]), 4)
    0.7
    """

    def __init__(
        self,
        model: Any,
        file: FileName | None = None,
        *,
        patience: int | None = None,
        lower: bool = False,
        comm: Any = None,
    ) -> None:
        if patience is not None and not patience >= 1:
            raise ValueError(f"training.Best: patience must be 1 or more; got {patience!r}.")
        objects = list(model) if isinstance(model, list | tuple) else [model]
        for thing in objects:
            if not isinstance(thing, ParameterCollection) and not hasattr(
                thing, "param_collection"
            ):
                raise TypeError(
                    "training.Best: takes a collection, or objects with param_collection(); got"
                    f" {type(thing).__name__}."
                )
        self._objects, self._is_collection = objects, isinstance(model, ParameterCollection)
        self._file = None if file is None else file_path(file, "Best").absolute()
        self._patience, self._lower, self._comm = patience, lower, comm
        self._kept: list[ParameterCollection] = []
        self.score: float | None = None
        """The best so far; None: there was none."""
        self.number = 0
        """Which of the scores it was, from 1."""
        self.count = 0
        """How many scores there were."""

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` scores were not better than the best before."""
        return self._patience is not None and self.count - self.number >= self._patience

    def update(self, score: float) -> bool:
        """Takes a score, the same on all ranks; if it is the best so far, keeps the model and
        returns True. NaN is never the best. Collective.

        Raises:
            TypeError: the score is not a number.
            RuntimeError: on all ranks: the ranks have different scores, or the file cannot be
                written; nothing is changed then.

        >>> import dist_dynet as dy
        >>> best = dy.training.Best(dy.ParameterCollection())
        >>> [best.update(score) for score in (0.5, 0.7, 0.6)], best.score, best.number
        ([True, True, False], 0.7, 2)
        """
        score = self._common(score)
        better = not math.isnan(score) and (
            self.score is None or (score < self.score if self._lower else score > self.score)
        )
        if better:
            self._keep()
        self.count += 1
        if better:
            self.score, self.number = score, self.count
        return better

    def _common(self, score: float) -> float:
        """The score, which is that of all ranks."""
        failure: Exception | None = None
        try:
            score = named_number(score, "training.Best: the score")
        except TypeError as error:  # meets the other ranks all the same
            failure = error
        every = parallel.gather(repr(score), self._comm)
        if failure is not None:
            raise failure
        mine = repr(score)
        for rank, other in enumerate(every):
            if other != mine:
                raise RuntimeError(
                    f"training.Best: the score must be the same on all ranks; got {mine:.60} here,"
                    f" {other:.60} on rank {rank}. Score all examples by parallel.evaluate(), or"
                    " add the ranks' numbers up by parallel.all_reduce()."
                )
        return score

    def _collections(self) -> list[ParameterCollection]:
        return [
            thing if isinstance(thing, ParameterCollection) else thing.param_collection()
            for thing in self._objects
        ]

    def _keep(self) -> None:
        if self._file is None:
            if self._kept and self._fits():
                for kept, now in zip(self._kept, self._collections(), strict=True):
                    kept.copy_from(now)
            else:
                self._kept = [copy.deepcopy(now) for now in self._collections()]
            return
        self._file.absolute().parent.mkdir(parents=True, exist_ok=True)
        if self._is_collection:
            self._objects[0].save(self._file)
        else:
            save(self._file, self._objects)

    def _fits(self) -> bool:
        """Whether the model has the parameters that were kept."""
        now, kept = (
            [[p.shape() for p in (*m.parameters_list(), *m.lookup_parameters_list())] for m in of]
            for of in (self._collections(), self._kept)
        )
        return now == kept

    def restore(self) -> None:
        """Gives the parameters the values that were best. Gradients stay.

        Raises:
            RuntimeError: there was no score, the best is not there any more, or parameters were
                added since then; nothing is changed then.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w, best = m.add_parameters(1), dy.training.Best(m, lower=True)
        >>> for loss in 2, 1, 3:
        ...     w.set_value([loss])
        ...     is_best = best.update(loss)
        >>> best.restore()
        >>> w.as_array().tolist()
        [1.0]
        """
        if self.score is None:
            raise RuntimeError("training.Best.restore: there was no score yet.")
        if self._file is None:
            if not self._kept:
                why = "a run that resumes has the best in a file alone. Write Best(model, file)."
                raise RuntimeError(f"training.Best.restore: {why}")
            if not self._fits():
                raise RuntimeError(
                    "training.Best.restore: the model must have the parameters of the best; some"
                    " were added since then. Give update() a score of the model as it is before."
                )
            for kept, now in zip(self._kept, self._collections(), strict=True):
                now.copy_from(kept)
        elif self._is_collection:
            (now,) = self._collections()
            best = copy.deepcopy(now)
            best.populate(self._file)
            now.copy_from(best)
        else:
            from .io import load

            for now, kept in zip(
                self._collections(), load(self._file, ParameterCollection()), strict=True
            ):
                now.copy_from(kept.param_collection())

    def state(self) -> dict[str, Any]:
        """For Checkpointer.add(): the scores; the model is in its file.

        >>> import dist_dynet as dy
        >>> best = dy.training.Best(dy.ParameterCollection())
        >>> is_best = [best.update(score) for score in (0.5, 0.7, 0.6)]
        >>> best.state()
        {'score': 0.7, 'number': 2, 'count': 3}
        """
        return {"score": self.score, "number": self.number, "count": self.count}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state().

        Raises:
            ValueError: it is no such state; nothing is changed then.

        >>> import dist_dynet as dy
        >>> best = dy.training.Best(dy.ParameterCollection())
        >>> best.load_state({"score": 0.7, "number": 2, "count": 3})
        >>> best.update(0.6), best.score, best.count
        (False, 0.7, 4)
        """
        what = "training.Best.load_state"
        known = None if state.get("score", 0) is None else number_in(state, "score", what)
        number, count = (count_in(state, name, what) for name in ("number", "count"))
        self.score, self.number, self.count = known, number, count


requires_init(Run, "trainer")
requires_init(Best, "count")
