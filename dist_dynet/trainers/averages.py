"""Moving averages of parameters: smoother values for evaluating and saving than those that are
trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._deferred_signals import DeferSignals
from .._ffi import DTYPE, lib, pointer
from .._integers import number_argument, whole
from .._state import count_in, number_in
from ..params.collection import ParameterCollection, members_of
from ..params.parameters import AnyParameter
from ..params.root import Assignment
from .following import FollowsTrainer
from .protocol import TrainerLike


class MovingAverage(FollowsTrainer):
    """Averages of all values of a collection, to be swapped in for evaluating and saving, and out
    for training.

    Exponential: a = decay a + (1 - decay) p, from a = 0; after n updates a / (1 - decay^n) is used
    (bias correction). Cumulative (decay=None): the mean of all values so far.

    Given a trainer, it follows the trainer's updates; given a collection, call update() yourself.
    Frozen parameters are averaged, too. For parameters that are added later, their value at that
    time counts for all earlier updates.

    Args:
        of: a trainer (a DistributedTrainer, too), or a collection; with LocalSGD the collection.
        decay: None: cumulative.
        every: average at every so many updates.
        bias_correction: False: a itself is used, which starts near zero.

    Raises:
        ValueError: decay is outside of [0, 1), or every below 1.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=0)
    >>> trainer = dy.SimpleSGDTrainer(m, learning_rate=1)
    >>> average = dy.MovingAverage(trainer, decay=None)
    >>> for _ in range(3):
    ...     _ = dy.renew_cg()
    ...     w.backward()
    ...     trainer.update()
    >>> with average.applied():
    ...     print(w.as_array().tolist())
    [-2.0]
    >>> w.as_array().tolist()
    [-3.0]
    """

    def __init__(
        self,
        of: TrainerLike | ParameterCollection,
        decay: float | None = 0.999,
        every: int = 1,
        bias_correction: bool = True,
    ) -> None:
        decay = None if decay is None else number_argument(decay, "MovingAverage: decay")
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"MovingAverage: decay must lie in [0, 1), or be None; got {decay}.")
        every = whole(every, "MovingAverage", "every")
        if every < 1:
            raise ValueError(f"MovingAverage: every must be 1 or more; got {every}.")
        self._decay, self._every, self._correct = decay, every, bias_correction
        self._calls = self._averaged = 0
        self._averages: dict[AnyParameter, NDArray[Any]] = {}
        self._memory: dict[AnyParameter, NDArray[Any]] = {}  # for averages still to be made
        self._weights: dict[AnyParameter, NDArray[Any]] | None = None
        self._follow(of)

    @property
    def is_in(self) -> bool:
        """Whether the averages are swapped in."""
        return self._weights is not None

    def _bias(self) -> float:
        """What the averages must be divided by."""
        return 1.0 if self._decay is None else 1 - self._decay**self._averaged

    def _prepare(self) -> None:
        """Called before an update of the trainer: raises the errors of update(), and allocates
        memory."""
        if self._weights is not None:
            raise RuntimeError(
                "MovingAverage: training must go on with the values; the averages are swapped in."
                " Call swap_out() before."
            )
        members = members_of(self._collection)
        if len(members) > len(self._averages) + len(self._memory):
            for p in members:
                if p not in self._averages and p not in self._memory:
                    self._memory[p] = np.empty(prod(p.shape()), DTYPE)

    def update(self) -> None:
        """Takes the present values into the averages: all of them, or none if it raises an
        exception.

        Raises:
            RuntimeError: the averages are swapped in.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w, average = m.add_parameters(1), dy.MovingAverage(m, decay=None)
        >>> for value in 1, 2:
        ...     w.set_value([value])
        ...     average.update()
        >>> average.state()["average:/_0"].tolist()
        [1.5]
        """
        self._prepare()
        calls, averaged, averages = self._calls + 1, self._averaged, self._averages
        blended: list[tuple[int, float, Any, Any]] = []
        if calls % self._every == 0:
            bias, averaged = self._bias(), averaged + 1
            share = 1 / averaged if self._decay is None else 1 - self._decay
            if self._memory:
                averages = {**averages, **self._memory}
                for p, average in self._memory.items():
                    average[:] = 0
                    if averaged > 1:
                        np.multiply(p._values(), DTYPE.type(bias), out=average)
            blended = [
                (average.size, share, pointer(p._values()), pointer(average))
                for p, average in averages.items()
                if average.size
            ]
        memory = self._memory if averaged == self._averaged else {}
        with DeferSignals():
            for numbers in blended:
                lib.dn_blend(*numbers)
            self._calls, self._averaged = calls, averaged
            self._averages, self._memory = averages, memory

    def swap_in(self) -> None:
        """Replaces the values by the averages, and keeps the values.

        Raises:
            RuntimeError: they are in already, or there was no update yet.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w, average = m.add_parameters(1), dy.MovingAverage(m, decay=None)
        >>> for value in 1, 2:
        ...     w.set_value([value])
        ...     average.update()
        >>> average.swap_in()
        >>> w.as_array().tolist(), average.is_in
        ([1.5], True)
        """
        if self._weights is not None or not self._averaged:
            state = (
                "they are swapped in" if self._weights is not None else "there was no update yet"
            )
            raise RuntimeError(
                f"MovingAverage: swap_in needs averages and values in their places; got {state}."
            )
        bias = self._bias() if self._correct else 1.0
        self._weights = {p: p._values() for p in self._averages}
        try:
            self._collection._root.write(
                Assignment(p._c, average / DTYPE.type(bias))
                for p, average in self._averages.items()
            )
        except BaseException:  # Ctrl-C, or no memory
            self.swap_out()
            raise

    def swap_out(self) -> None:
        """Restores the values.

        Raises:
            RuntimeError: the averages are not in.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w, average = m.add_parameters(1), dy.MovingAverage(m, decay=None)
        >>> for value in 1, 2:
        ...     w.set_value([value])
        ...     average.update()
        >>> average.swap_in()
        >>> average.swap_out()
        >>> w.as_array().tolist(), average.is_in
        ([2.0], False)
        """
        if self._weights is None:
            raise RuntimeError(
                "MovingAverage: swap_out needs averages that are swapped in. Call swap_in() before."
            )
        self._collection._root.write(Assignment(p._c, kept) for p, kept in self._weights.items())
        self._weights = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swaps in for the duration of a with block.

        Raises:
            RuntimeError: as swap_in().

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w, average = m.add_parameters(1), dy.MovingAverage(m, decay=None)
        >>> for value in 1, 2:
        ...     w.set_value([value])
        ...     average.update()
        >>> with average.applied():
        ...     print(w.as_array().tolist())
        [1.5]
        >>> w.as_array().tolist()
        [2.0]
        """
        before = self._weights
        try:  # Ctrl-C may come at any call, also between that of swap_in() and the block
            self.swap_in()
            yield
        finally:
            if self._weights is not before:
                try:
                    self.swap_out()
                except BaseException:
                    if self._weights is not None:
                        self.swap_out()
                    raise

    # ---- state -------------------------------------------------------------------------

    def _settings(self) -> dict[str, NDArray[Any]]:
        return {
            "decay": np.array(-1.0 if self._decay is None else self._decay),
            "every": np.array(self._every, np.int64),
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """What is needed to continue averaging: counts, and "average:/W" for the parameter /W, with
        its shape; copies.

        Raises:
            RuntimeError: the averages are swapped in: values and averages are not in their places.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=2)
        >>> average, other = dy.MovingAverage(m, decay=None), dy.MovingAverage(m, decay=None)
        >>> average.update()
        >>> sorted(average.state())
        ['average:/_0', 'averaged', 'calls', 'decay', 'every']
        >>> other.load_state(average.state())
        >>> other.state()["average:/_0"].tolist()
        [2.0]
        """
        if self._weights is not None:
            raise RuntimeError(
                "MovingAverage: state needs averages and values in their places; they are swapped"
                " in. Call swap_out() before."
            )
        counts = {
            "calls": np.array(self._calls, np.int64),
            "averaged": np.array(self._averaged, np.int64),
        }
        named = self._collection.named_parameters().items()
        averages = {
            f"average:{name}": p._shaped(self._averages[p].copy())
            for name, p in named
            if p in self._averages
        }
        return {**self._settings(), **counts, **averages}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Resumes from a state() of an average with the same settings, of the same parameters.

        Raises:
            ValueError: it is of another; nothing is changed then.
            RuntimeError: the averages are swapped in.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=2)
        >>> average, other = dy.MovingAverage(m), dy.MovingAverage(m)
        >>> average.update()
        >>> other.load_state(average.state())
        >>> other.state()["averaged"].tolist()
        1
        """
        if self._weights is not None:
            raise RuntimeError(
                "MovingAverage: load_state must not be called while the averages are swapped in."
                " Call swap_out() before."
            )
        for name, value in self._settings().items():
            if number_in(state, name, "MovingAverage") != float(value):
                raise ValueError(
                    f"MovingAverage: {name} of a state must be this one's, {value}; got"
                    f" {state[name]}."
                )
        named = self._collection.named_parameters()
        averages: dict[AnyParameter, NDArray[Any]] = {}
        for key in (key for key in state if key.startswith("average:")):
            name = key.removeprefix("average:")
            array = np.asarray(state[key])
            if (
                name not in named
                or array.shape != named[name].shape()
                or array.dtype.kind not in "biuf"
            ):
                raise ValueError(
                    f"MovingAverage: {key!r} of a state must be of a parameter of the collection;"
                    f" got {array.dtype} of the shape {array.shape}."
                )
            p = named[name]
            averages[p] = np.empty(int(lib.dn_param_size(p._c)), DTYPE)
            p._shaped(averages[p])[...] = state[key]
        calls, averaged = (count_in(state, name, "MovingAverage") for name in ("calls", "averaged"))
        with DeferSignals():
            self._memory = {}
            self._calls, self._averaged, self._averages = calls, averaged, averages
