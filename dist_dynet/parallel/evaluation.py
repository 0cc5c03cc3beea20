"""Scoring: evaluate() divides examples over the ranks and gives the results to all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from .._ffi import lib
from ..meter import during
from ._session import world
from .collectives import gather
from .division import Cost, Numbers, assign
from .sampling import is_sequence

T = TypeVar("T")
R = TypeVar("R")


@during(lib.DN_EVALUATE)
def evaluate(
    fn: Callable[[T], R], data: Iterable[T], cost: Cost | None = len, comm: Any = None
) -> list[R]:
    """[fn(example) for example in data] on every rank, computed by all of them together: each
    example once, results in data order.

    Args:
        fn: computes one result; results are pickled.
        data: the same on all ranks. What is not a sequence, such as a generator, is made a list
            first.
        cost: work of an example, as in shard().
        comm: an mpi4py communicator; None: all ranks.

    Raises:
        ValueError: the ranks hold different numbers of examples.
        RuntimeError: fn has raised an exception on another rank; here it passes through.

    >>> from dist_dynet import parallel
    >>> parallel.evaluate(len, ["a", "bcd"])
    [1, 3]
    """
    here = world(comm)
    examples: Any = data if is_sequence(data) else list(data)
    costs = Numbers(cost, examples, "cost", kept=True).all()
    of = assign(costs, here.size)
    mine = np.flatnonzero(of == here.rank).tolist()
    failure: Exception | None = None
    values: list[Any] = []
    try:
        values = [fn(examples[i]) for i in mine]
    except Exception as error:
        failure = error
    every = gather(
        (len(examples), values, failure and f"{type(failure).__name__}: {failure}"), comm
    )
    if failure:
        raise failure
    for rank, (count, _, words) in enumerate(every):
        if words:
            raise RuntimeError(
                f"{here.name} evaluate: on rank {here.members[rank]} fn has raised {words}"
            )
        if count != len(examples):
            raise ValueError(
                f"{here.name} evaluate: the data must be the same on all ranks; got {len(examples)}"
                f" examples here, {count} on rank {here.members[rank]}."
            )
    results: list[Any] = [None] * len(examples)
    by_rank = (value for _, theirs, _ in every for value in theirs)
    for i, value in zip(np.argsort(of, kind="stable").tolist(), by_rank, strict=True):
        results[i] = value
    return results
