"""The best model of a training run."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import parallel
from ._derived import requires_init
from ._ffi import DTYPE
from ._file_names import FileName, file_path
from ._integers import number_argument
from ._state import check_state, count_in, number_in
from .io import save
from .io.objects import collection_of
from .params.collection import ParameterCollection, members_of
from .params.parameters import AnyParameter
from .params.root import Assignment, unchanged


class Best:
    """Keeps the parameter values with the best score, and says when to stop.

    Args:
        model: a ParameterCollection, which is kept by its save(); or an object with spec,
            from_spec() and param_collection(), or a list of such objects, by dy.save().
        file: to which the best is saved, its folder being made; None: kept in memory, and in the
            checkpoints of a Checkpointer that it is added to.
        patience: the run is over after so many scores in a row without improvement; None: never.
        lower: whether lower scores are better, as of a loss.
        comm: an mpi4py communicator whose ranks train this model; None: all.

    Raises:
        TypeError: model is none of these, or patience no number.
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
        patience: float | None = None,
        lower: bool = False,
        comm: Any = None,
    ) -> None:
        if patience is not None:
            patience = number_argument(patience, "training.Best: patience")
            if not patience >= 1:
                raise ValueError(f"training.Best: patience must be 1 or more; got {patience:g}.")
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
        self._kept: list[list[NDArray[Any]]] = []  # of each collection; never changed
        self.score: float | None = None
        """The best so far; None if there was none."""
        self.number = 0
        """Which of the scores was the best, from 1."""
        self.count = 0
        """The number of scores."""

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` scores were no improvement."""
        return self._patience is not None and self.count - self.number >= self._patience

    def update(self, score: float) -> bool:
        """Takes a score, the same on all ranks. If it is the best so far, keeps the model and
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
        """The score, checked to be the same on all ranks."""
        failure: Exception | None = None
        try:
            score = number_argument(score, "training.Best: the score")
        except TypeError as error:  # raised after gather(), which the other ranks call, too
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
            thing
            if isinstance(thing, ParameterCollection)
            else collection_of(thing, "training.Best")
            for thing in self._objects
        ]

    def _keep(self) -> None:
        if self._file is None:
            collections = self._collections()
            with unchanged({m._root for m in collections}, "training.Best"):
                self._kept = [[p._shaped(p._values()) for p in members_of(m)] for m in collections]
            return
        with suppress(OSError):  # save() says what is wrong with the folder, on all ranks
            self._file.parent.mkdir(parents=True, exist_ok=True)
        if self._is_collection:
            self._objects[0].save(self._file)
        else:
            save(self._file, self._objects)

    def _check(self, kept: list[list[tuple[int, ...]]]) -> None:
        """Makes sure that the model has the parameters that were kept, of these shapes.

        Raises:
            RuntimeError: it has others.
        """
        if kept != [_shapes(m) for m in self._collections()]:
            raise RuntimeError(
                "training.Best.restore: the model must have the parameters of the best; some were"
                " added since then. Give update() a score of the model as it is before."
            )

    def restore(self) -> None:
        """Gives the parameters their best values. Gradients are not changed.

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
            self._check([[array.shape for array in arrays] for arrays in self._kept])
            for arrays, now in zip(self._kept, self._collections(), strict=True):
                now._root.write(
                    Assignment(p._c, _flat(p, array))
                    for p, array in zip(members_of(now), arrays, strict=True)
                )
        elif self._is_collection:
            (now,) = self._collections()
            best = copy.deepcopy(now)
            best.populate(self._file)
            now.copy_from(best)
        else:
            from .io import load

            objects = load(self._file, ParameterCollection())
            kept = [thing.param_collection() for thing in objects]
            self._check([_shapes(m) for m in kept])
            for now, m in zip(self._collections(), kept, strict=True):
                now.copy_from(m)

    def state(self) -> dict[str, Any]:
        """For Checkpointer.add(): the scores, and the best values unless they are in a file.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w, best = m.add_parameters(1, init=2), dy.training.Best(m)
        >>> is_best = [best.update(score) for score in (0.5, 0.7, 0.6)]
        >>> state = best.state()
        >>> state["score"], state["number"], state["count"], state["kept"][0][0].tolist()
        (0.7, 2, 3, [2.0])
        """
        scores = {"score": self.score, "number": self.number, "count": self.count}
        return {**scores, "kept": [list(arrays) for arrays in self._kept]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from a state().

        Raises:
            ValueError: it is no such state, or one of a Best that kept the model elsewhere, in a
                file or in memory; nothing is changed then.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> best, resumed = dy.training.Best(m), dy.training.Best(m)
        >>> is_best = best.update(0.7)
        >>> resumed.load_state(best.state())
        >>> resumed.update(0.6), resumed.score, resumed.count
        (False, 0.7, 2)
        """
        what = "training.Best.load_state"
        check_state(state, what)
        known = None if state.get("score", 0) is None else number_in(state, "score", what)
        number, count = (count_in(state, name, what) for name in ("number", "count"))
        kept: Any = state.get("kept", [])  # earlier versions kept the best in files alone
        if not isinstance(kept, list) or not all(map(_is_list_of_arrays, kept)):
            raise ValueError(
                f"{what}: 'kept' of a state must be lists of arrays of floats; got {kept!r:.60}."
            )
        here = len(self._objects) if known is not None and self._file is None else 0
        if len(kept) != here:
            raise ValueError(
                f"{what}: the state must have the best values of {here} models, as it is here; got"
                f" {len(kept)}. Make it as at the first start, with a file or without one."
            )
        kept = [list(arrays) for arrays in kept]
        self.score, self.number, self.count, self._kept = known, number, count, kept


def _shapes(m: ParameterCollection) -> list[tuple[int, ...]]:
    return [p.shape() for p in members_of(m)]


def _flat(p: AnyParameter, array: NDArray[Any]) -> NDArray[Any]:
    """An array of p's shape in the order of its storage."""
    flat = np.empty(array.size, DTYPE)
    p._shaped(flat)[...] = array
    return flat


def _is_list_of_arrays(thing: object) -> bool:
    return isinstance(thing, list) and all(
        isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in thing
    )


requires_init(Best, "count")
