"""Divides a step's examples: what they cost, and which rank gets which.

Every rank computes the same division of all ranks' examples on its own. Arrays make it fast: a
third of a millisecond for 32,768 examples. This module knows numbers of examples; sampling.py knows
epochs and steps.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._ffi import calls, ffi, lib
from .._integers import number_argument

Cost = Callable[[Any], float] | ArrayLike
"""A function of an example, or an array with one number per example."""

_SHORT = np.iinfo(np.uint16).max


def checked_number(value: Any, what: str, takes: str = "a number") -> float:
    """A cost or a weight: a number, 0 or more.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative, infinite or NaN.
    """
    if isinstance(value, calls.Node):
        raise TypeError(f"{what} must be {takes}; got an expression. For its value: float(x).")
    number = number_argument(value, what, takes)
    if not 0 <= number < math.inf:
        raise ValueError(f"{what} must be a number, 0 or more; got {value!r:.60}.")
    return number


def checked_weight(value: Any, what: str) -> float:
    """A weight in an average; as checked_number()."""
    return checked_number(value, what, "a number or a batch of shard()")


def assign(costs: NDArray[Any], parts: int) -> NDArray[np.int32]:
    """The part of each position, so that all parts have about equal costs: in order of falling
    cost, each goes to the least loaded part.

    Raises:
        MemoryError: there is no memory for the division.

    >>> assign(np.array([1.0, 9.0, 5.0, 5.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    n = len(costs)
    if parts == 1:
        return np.zeros(n, np.int32)
    out = np.empty(n, np.int32)
    places = ffi.from_buffer("int32_t[]", out)
    short = compact(costs) if max(n, parts) < _SHORT else costs
    if short.dtype == np.uint16:
        error = lib.dn_deal_short(n, ffi.from_buffer("uint16_t[]", short), parts, places)
    else:
        doubles = costs.astype(np.float64)
        order = np.argsort(-doubles, kind="stable").astype(np.int64, copy=False)
        error = lib.dn_deal(
            n,
            ffi.from_buffer("double[]", doubles),
            ffi.from_buffer("int64_t[]", order),
            parts,
            places,
        )
    if error:
        raise MemoryError("shard: out of memory for the division of a step")
    return out


def divide(costs: Sequence[float], parts: int) -> list[list[int]]:
    """The positions of each part, as assign() divides them.

    >>> divide([1, 9, 5, 5], 2)
    [[0, 1], [2, 3]]
    """
    of = assign(np.asarray(costs, np.float64), parts)
    order, ends = np.argsort(of, kind="stable"), np.cumsum(np.bincount(of, minlength=parts))
    return [part.tolist() for part in np.split(order, ends[:-1])]


def deal(micro_batches: int, rank: int, ranks: int) -> list[int | None]:
    """The numbers of a rank's micro-batches. They are neighbours, so that most of the summation
    tree lies within the rank.

    All ranks get lists of the same length; None: nothing to do.

    >>> [deal(8, rank, 3) for rank in range(3)]
    [[0, 1, None], [2, 3, 4], [5, 6, 7]]
    """
    numbers: list[int | None] = [
        *range(micro_batches * rank // ranks, micro_batches * (rank + 1) // ranks)
    ]
    return numbers + [None] * (-(-micro_batches // ranks) - len(numbers))


def spread(n: int) -> list[int]:
    """0 to n - 1 in bit-reversed order: each prefix is spread evenly over the range.

    >>> spread(6)
    [0, 4, 2, 1, 5, 3]
    """
    bits = max(n - 1, 1).bit_length()
    return sorted(range(n), key=lambda i: f"{i:0{bits}b}"[::-1])


def compact(numbers: NDArray[Any]) -> NDArray[Any]:
    """The same numbers, as uint16 if they fit.

    >>> compact(np.array([3.0, 4.0])).dtype, compact(np.array([0.5])).dtype
    (dtype('uint16'), dtype('float64'))
    """
    if numbers.dtype == np.uint16 or not numbers.size:
        return numbers
    if not (numbers.min() >= 0 and numbers.max() <= _SHORT):
        return numbers
    short = numbers.astype(np.uint16)
    return short if (short == numbers).all() else numbers


def bucketed(
    order: NDArray[Any],
    costs: NDArray[Any],
    batch_size: int,
    steps: int,
    generator: np.random.Generator,
) -> NDArray[Any]:
    """An order in which the examples of a step have about equal costs: the examples of every
    `steps` steps are sorted by cost, and these steps follow in random order. A last step that is
    smaller stays as it is.

    >>> generator = np.random.default_rng(1)
    >>> costs = np.array([5, 1, 4, 2, 6, 3, 7])
    >>> bucketed(np.arange(7), costs, 2, 3, generator).tolist()
    [0, 4, 1, 3, 5, 2, 6]
    """
    whole = len(order) // batch_size
    head = order[: whole * batch_size]
    windows = np.arange(len(head)) // (steps * batch_size)
    batches = head[np.lexsort((costs[head], windows))].reshape(whole, batch_size)
    places = np.lexsort((generator.random(whole), np.arange(whole) // steps))
    return np.concatenate([batches[places].reshape(-1), order[len(head) :]])


def total_of(weights: NDArray[Any]) -> float:
    """The sum from left to right, which has the same bits on every machine."""
    return float(np.add.accumulate(weights)[-1]) if len(weights) else 0.0


class Numbers:
    """A number for each example: given as an array, or computed by a function.

    Args:
        given: a function or an array; None: 1 for each example.
        data: the examples.
        name: of the argument, for errors.
        kept: the function is called once for each example.

    Raises:
        ValueError: an array that does not have a number for each example; one that is negative,
            infinite or NaN.
        TypeError: what the function returns is no number, or the array does not hold numbers.
    """

    def __init__(self, given: Cost | None, data: Any, name: str, kept: bool) -> None:
        self._data, self._name, self._kept = data, name, kept
        self._function = given if callable(given) else None
        self._given: NDArray[Any] | list[Any] | None = None
        self._values: NDArray[Any] = np.empty(0)
        self._known: NDArray[np.bool_] = np.empty(0, bool)
        self._missing = 0
        if given is not None and not callable(given):
            try:
                array = np.array(given, np.float64)
            except (TypeError, ValueError):
                raise TypeError(
                    f"shard: {name} must be a function or hold a number for each example; got"
                    f" {given!r:.60}."
                ) from None
            self._given = array = compact(self._checked(array))
            self._check()
            if not kept:  # as the program changes them
                self._given = given if isinstance(given, list) else np.asarray(given)

    @property
    def is_given(self) -> bool:
        """Whether they are an array, and so belong to the data in their original order."""
        return self._given is not None

    def checksum(self) -> int:
        """Of the array; 0 for a function."""
        if self._given is None:
            return 0
        return zlib.crc32(compact(np.array(self._given, np.float64)).tobytes())

    def _check(self) -> None:
        given = self._given
        if given is None:
            return
        shape = (len(given),) if isinstance(given, list) else given.shape
        if shape != (len(self._data),):
            raise ValueError(
                f"shard: {self._name} must be a function or hold a number for each example; got"
                f" {shape} for {len(self._data)} examples."
            )

    def fetches(self, numbers: NDArray[Any]) -> bool:
        """Whether these examples must be fetched to know their numbers."""
        if self._function is None:
            return False
        if not self._kept:
            return True
        if len(self._known) != len(self._data):
            self._begin()
        return self._missing > 0 and not self._known[numbers].all()

    def of(self, numbers: NDArray[Any], examples: Sequence[Any] | None) -> NDArray[Any]:
        """The numbers of the examples with these indices; examples: these examples, if fetches()
        says so."""
        if self._given is not None:
            self._check()
            return self._present(self._given, numbers)
        if self._function is None:
            return np.ones(len(numbers), np.uint16)
        if not self._kept:
            assert examples is not None
            return self._asked(examples)
        if examples is not None and self._missing:
            new = np.flatnonzero(~self._known[numbers])
            self._values[numbers[new]] = self._asked([examples[i] for i in new.tolist()])
            self._known[numbers[new]] = True
            self._missing -= len(new)
        values: NDArray[Any] = self._values[numbers]
        return values

    def _present(self, given: NDArray[Any] | list[Any], numbers: NDArray[Any]) -> NDArray[Any]:
        """What an array holds now for the examples with these indices."""
        if isinstance(given, list):
            here = [given[i] for i in numbers.tolist()]
            try:
                return self._checked(_numbers(here, len(here)))
            except (TypeError, ValueError):
                for value in here:
                    checked_number(value, f"shard: {self._name} of an example")
                raise
        return given[numbers] if self._kept else self._checked(given[numbers].astype(np.float64))

    def all(self) -> NDArray[Any]:
        """The numbers of all examples."""
        numbers = np.arange(len(self._data))
        every = map(self._data.__getitem__, range(len(numbers))) if self.fetches(numbers) else None
        return self.of(numbers, None if every is None else list(every))

    def _begin(self) -> None:
        """Computes them at once for data in memory, and as they are fetched for other data."""
        n = len(self._data)
        if isinstance(self._data, (list, tuple)):
            self._values, self._known, self._missing = (
                compact(self._asked(self._data)),
                np.ones(n, bool),
                0,
            )
        else:
            self._values, self._known, self._missing = np.zeros(n), np.zeros(n, bool), n

    def _asked(self, examples: Sequence[Any]) -> NDArray[Any]:
        function = self._function
        assert function is not None
        try:
            values = _numbers(map(function, examples), len(examples))
        except (TypeError, ValueError):
            if function is not len or not self._kept:
                self._check_each(examples)
                raise
            values = _numbers(  # some have no length
                (len(x) if hasattr(x, "__len__") else 1 for x in examples), len(examples)
            )
        if np.isnan(values).any():  # NumPy converts None to NaN
            self._check_each(examples)
        return self._checked(values)

    def _check_each(self, examples: Sequence[Any]) -> None:
        """Raises the error of the first number that is wrong."""
        if self._function is not None:
            for example in examples:
                checked_number(self._function(example), f"shard: {self._name}(example)")

    def _checked(self, values: NDArray[Any]) -> NDArray[Any]:
        if values.size and not (values.min() >= 0 and values.max() < np.inf):
            wrong = ~((values >= 0) & (values < np.inf))
            checked_number(float(values[wrong][0]), f"shard: {self._name}(example)")
        return values


def _numbers(numbers: Iterable[Any], n: int) -> NDArray[np.float64]:
    return np.fromiter(numbers, np.float64, n)
