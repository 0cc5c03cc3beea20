"""Helpers for training loops: a progress bar, metrics, the best model, early stopping, entity
scores.

    run = dy.training.Run(trainer, "metrics.jsonl")
    best = dy.training.Best(model, "model.txt", patience=3)
    while not best.is_over:
        for batch in run.epoch(batches):
            ...
            run.log(loss=loss.value())
        best.update(accuracy(dev))

They show, count and keep; what is computed, and when the loop ends, is decided by the program.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from . import parallel
from ._bar import Bar, NoBar, is_wanted, make_bar
from ._best import Best
from ._derived import requires_init
from ._entities import entities, entity_scores
from ._events import Events
from ._file_names import FileName, file_path
from ._integers import number_argument
from ._state import check_state, check_states, count_in
from .parallel.processes.spans import EVERY, JsonLinesFile, Sink, report_on
from .parallel.wrapper import TrainerWrapper
from .trainers import Trainer, TrainerLike

__all__ = ["Best", "Run", "entities", "entity_scores"]

T = TypeVar("T")

# ---- a run -----------------------------------------------------------------------------


def _added(every: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, tuple[float, float]]:
    """Sums and weights of all ranks together, by name."""
    result: dict[str, tuple[float, float]] = {}
    for sums in every:
        for name, (s, w) in sums.items():
            before = result.get(name, (0.0, 0.0))
            result[name] = before[0] + s, before[1] + w
    return result


def _size_of(batch: object) -> float:
    """How many examples a batch has; 1 for an object without length."""
    return float(len(batch)) if isinstance(batch, Sized) and getattr(batch, "ndim", 1) != 0 else 1.0


def _pairs_in(state: Mapping[str, Any], what: str) -> dict[str, tuple[float, float]]:
    """The sums in a Run's state.

    Raises:
        TypeError: it is no state.
        ValueError: it has none.
    """
    check_state(state, what)
    pairs: Any = state.get("sums")
    try:
        return {name: (float(pair[0]), float(pair[1])) for name, pair in pairs.items()}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{what}: the state must have pairs 'sums'; got {pairs!r}.") from error


def _sinks(metrics: FileName | None, tensorboard: FileName | None) -> list[Sink]:
    """What lines of metrics are written to, of those that are given."""
    sinks: list[Sink] = []
    if metrics is not None:
        file = file_path(metrics, "Run").absolute()
        with _folder_of("metrics", file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        sinks.append(JsonLinesFile(str(file)))
    if tensorboard is not None:
        with _folder_of("tensorboard", file_path(tensorboard, "Run")):
            sinks.append(Events(tensorboard))
    return sinks


@contextmanager
def _folder_of(argument: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = (
            f"training.Run: the folder of {argument}= must be one that can be made and written to;"
            f" got: {error.strerror}. Give {argument}= another"
        )
        raise OSError(error.errno or errno.EIO, words, str(folder)) from error


class Run:
    """Shows and records a training run: a progress bar on rank 0, lines of metrics, means over
    ranks.

    The lines are those of docs/metrics.md, with the learning rate, the gradient norm, the values
    given to log(), and `rate`: examples per second over all ranks, while batches are processed.

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
        TypeError: not a trainer, or every is no number.
        ValueError: every is not 1 or more.
        OSError: a folder cannot be made.

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
        every = number_argument(every, "training.Run: every")
        if not every >= 1:
            raise ValueError(f"training.Run: every must be 1 or more; got {every:g}.")
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
        sinks = _sinks(metrics, tensorboard) if parallel.is_main() else []
        self._report = report_on(inner) if sinks else None
        if self._report is not None:
            self._report.further = self._rate
            for sink in sinks:
                self._report.write_to(sink, every)

    def epoch(self, batches: Iterable[T], description: str | None = None) -> Iterator[T]:
        """Iterates over the batches while a bar shows the progress. means() restarts, unless the
        loop resumes in the middle of `batches` (parallel.Checkpointer).

        Args:
            batches: anything to loop over; of parallel.shard() the number of the epoch and the
                position are known.
            description: in front of the bar; None: the number of the epoch.

        Raises:
            TypeError: there is nothing to loop over.

        >>> import dist_dynet as dy
        >>> run = dy.training.Run(dy.SimpleSGDTrainer(dy.ParameterCollection()))
        >>> [len(batch) for batch in run.epoch([[1, 2], [3]])]
        [2, 1]
        """
        is_loop = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        if not is_loop or getattr(batches, "ndim", 1) == 0:
            raise TypeError(f"Run.epoch: takes batches to loop over; got {type(batches).__name__}.")
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
                self._size = n = _size_of(batch)
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
        """Adds numbers of a batch, such as the loss, to means() and to the next line of metrics. To
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
        weight = n if weight is None else number_argument(weight, "log: the weight")
        self.trainer.log(**values)
        for name, value in values.items():
            sum_, weights = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = sum_ + weight * float(value), weights + weight

    def means(self) -> dict[str, float]:
        """The weighted means of the values given to log() since the epoch began, over all ranks.
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
        """Adds a line of metrics now, with these numbers: at the end of an epoch, for instance.

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
        """The rate since the last line, for a line of metrics."""
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
        """Resumes from a state(): lines of metrics then count as those of the same run.

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
        self._sums, self._attempt = _pairs_in(state, what), attempt + 1
        if self._report is not None:
            self._report.attempt = self._attempt = max(self._attempt, self._report.attempt)

    def load_states(self, states: Sequence[Mapping[str, Any]], rank: int) -> None:
        """As load_state(), from the states of another number of ranks: rank 0 continues with all
        sums.

        Raises:
            TypeError: they are no list of states; nothing is changed then.
            ValueError: as load_state().

        >>> import dist_dynet as dy
        >>> run = dy.training.Run(dy.SimpleSGDTrainer(dy.ParameterCollection()))
        >>> states = [{"sums": {"loss": [3.0, n]}, "attempt": 0} for n in (1.0, 2.0)]
        >>> run.load_states(states, 0)
        >>> run.means()
        {'loss': 2.0}
        """
        what = "training.Run.load_states"
        rank = check_states(states, rank, what)
        pairs = [_pairs_in(state, what) for state in states]
        self.load_state({**states[0], "sums": _added(pairs) if rank == 0 else {}})


requires_init(Run, "trainer")
