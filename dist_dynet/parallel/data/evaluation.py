"""evaluate(): all ranks score the examples of one data set together.

It decides which rank computes what and which random numbers it draws, and tells all ranks if one
fails. The program supplies the computation.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from ... import _random
from ..._ffi import lib
from ...graph import cg
from ...meter import during
from ..batches.division import Cost, Numbers, assign
from ..batches.micro_draws import Outside
from ..processes.session import world
from ..processes.world import World, hash_of
from ..update.sources import within_evaluation
from .collectives import gathered
from .fingerprint import is_sequence, stable_fingerprint

T = TypeVar("T")
R = TypeVar("R")

_EXAMPLES = 1 << 62
"""Random streams from this number on belong to examples."""
_GRAPHS_BITS = 24
"""An example may build 2^24 graphs before its draws overlap those of the next evaluation."""


@during(lib.DN_EVALUATE)
def evaluate(
    fn: Callable[[T], R], data: Iterable[T], cost: Cost | None = len, comm: Any = None
) -> list[R]:
    """[fn(example) for example in data] on every rank, computed by all ranks together: each example
    once, with the results in the order of the data.

    Random draws in graphs, such as dropout, depend on the seed, the example's number and the number
    of evaluations since the seed was set: they are the same for any number of ranks. Afterwards the
    program's own draws continue where they were.

    Args:
        fn: computes one result; results are pickled.
        data: the same on all ranks. What is not a sequence, such as a generator, is made a list
            first.
        cost: work of an example, as in shard().
        comm: an mpi4py communicator; None: all ranks.

    Raises:
        ValueError: on all ranks: they hold different data, or have different costs.
        RuntimeError: fn has raised an exception on another rank; here it passes through. With
            several ranks fn calls what all ranks call together, such as update().
        TypeError: fn cannot be called, or data holds no examples.

    >>> from dist_dynet import parallel
    >>> parallel.evaluate(len, ["a", "bcd"])
    [1, 3]
    """
    if not callable(fn) or not (is_sequence(data) or isinstance(data, Iterable)):
        raise TypeError(
            f"evaluate: takes a function, then the data; got {type(fn).__name__} and"
            f" {type(data).__name__}."
        )
    here = world(comm)
    failure: Exception | None = None
    values: list[R] = []
    examples: Any = ()
    of, said = np.empty(0, np.int32), (0, 0, 0)
    mine, outside, number = b"", Outside(), _random.next_evaluation()
    outside.begin_batch(None)  # whatever fn draws, an enclosing micro-batch continues unchanged
    try:  # a rank that fails still takes part, so that all stay in step
        examples = data if is_sequence(data) else list(data)
        of = assign(Numbers(cost, examples, "cost", kept=True).all(), here.size)
        if here.size > 1:
            said = len(examples), stable_fingerprint(examples), hash_of(of.tobytes().hex())
        with here.no_collectives("evaluate()"), within_evaluation(here.size):
            values = _computed(fn, examples, np.flatnonzero(of == here.rank).tolist(), number)
        mine = pickle.dumps(values) if here.size > 1 else b""
    except Exception as error:
        failure = error
    except BaseException:
        here.mark_out_of_step("evaluate")
        raise
    finally:
        outside.ends(None)
    if here.size == 1 and failure is None:
        return values
    words = failure and f"{type(failure).__name__}: {failure}"
    every = gathered((said, mine, words), comm)
    if failure is not None:
        raise failure
    _compare(here, said, every)
    results: list[Any] = [None] * len(examples)
    by_rank = (value for _, theirs, _ in every for value in pickle.loads(theirs))
    for i, value in zip(np.argsort(of, kind="stable").tolist(), by_rank, strict=True):
        results[i] = value
    return results


def _computed(
    fn: Callable[[T], R], examples: Sequence[T], which: list[int], number: int
) -> list[R]:
    """fn of these examples. Their draws depend neither on other examples nor on which rank computes
    them."""
    graph, values = cg(), []
    before = graph.draws()
    try:
        for i in which:
            graph.draw_from(_EXAMPLES + i, number << _GRAPHS_BITS)
            values.append(fn(examples[i]))
    finally:
        try:
            graph.draw_from(*before)
        except BaseException:  # Ctrl-C
            graph.draw_from(*before)
            raise
    return values


def _compare(here: World, said: tuple[int, int, int], every: list[Any]) -> None:
    """Makes sure that all ranks have evaluated the same data in the same division."""
    for rank, (theirs, _, words) in enumerate(every):
        name = f"rank {here.members[rank]}"
        if words:
            raise RuntimeError(f"{here.name} evaluate: on {name} it has raised {words}")
        if theirs[0] != said[0]:
            raise ValueError(
                f"{here.name} evaluate: the data must be the same on all ranks; got {said[0]}"
                f" examples here, {theirs[0]} on {name}."
            )
        if theirs[1] != said[1]:
            raise ValueError(
                f"{here.name} evaluate: the data must be the same on all ranks, in one order; got"
                f" {said[0]} examples with fingerprint {said[1]:x} here, {theirs[1]:x} on {name}."
            )
        if theirs[2] != said[2]:
            raise ValueError(
                f"{here.name} evaluate: cost must be the same on all ranks; got other costs on"
                f" {name} than here. Give an array, or a function of the example alone; None where"
                " all count alike."
            )
