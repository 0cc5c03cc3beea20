"""Meetings of all ranks outside of training steps: sums, barriers, parameters made alike and compared.

Every function here must be called on all ranks in the same order. With one process each is a plain local computation.
"""

from __future__ import annotations

import hashlib
import pickle
import zlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..params.collection import ParameterCollection
from ._session import world
from ._world import TIMEOUT, World
from .structure import Structure


def rank() -> int:
    """The number of this process in the job, from 0; 0 without a launcher.

    >>> from dist_dynet import parallel
    >>> parallel.rank(), parallel.world_size(), parallel.local_rank(), parallel.is_main()
    (0, 1, 0, True)
    """
    return world().rank


def world_size() -> int:
    """How many processes the job has; 1 without a launcher."""
    return world().size


def local_rank() -> int:
    """The number of this process among those of its host."""
    return world().local_rank


def is_main() -> bool:
    """Whether this is rank 0: the one that prints and shows progress. save() needs no such question."""
    return world().rank == 0


# ---- values --------------------------------------------------------------------------------------------------------------------------


def gather(obj: Any) -> list[Any]:
    """The objects of all ranks in rank order, on every rank. They are pickled.

    >>> from dist_dynet import parallel
    >>> parallel.gather("a")
    ['a']
    """
    here = world()
    if here.size == 1:
        return [obj]
    return [pickle.loads(b) for b in here.exchange_bytes(here.comm, pickle.dumps(obj), here.collective("gather"))]


_OPERATIONS = {"sum": "SUM", "mean": "SUM", "max": "MAX", "min": "MIN"}


def all_reduce(value: ArrayLike, op: str = "sum") -> Any:
    """The sum, "max", "min" or "mean" over the ranks, on every rank: of a number, or elementwise of an array (a new one is returned).

    Raises:
        ValueError: the shapes or kinds of number differ between the ranks; an unknown operation.
        TypeError: not numbers.

    >>> from dist_dynet import parallel
    >>> parallel.all_reduce(3), parallel.all_reduce([1.0, 2.0], "mean")
    (3, array([1., 2.]))
    """
    if op not in _OPERATIONS:
        raise ValueError(f"all_reduce: op must be one of {', '.join(_OPERATIONS)}; got {op!r}.")
    array = np.array(value, order="C")
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"all_reduce: takes numbers and arrays of numbers; got {type(value).__name__} of {array.dtype}.")
    here = world()
    if here.size > 1:
        _sum_over_ranks(here, array, op)
    if op == "mean":
        array = array / here.size
    return array.item() if np.isscalar(value) else array


def _sum_over_ranks(here: World, array: NDArray[Any], op: str) -> None:
    what = here.collective(f"all_reduce {op}")
    mine = f"{array.dtype.str}{array.shape}{op}"
    marks = np.empty(here.size, np.int64)
    here.wait([here.comm.Iallgather(np.array([zlib.crc32(mine.encode())]), marks)], what)
    if (marks != marks[0]).any():
        kinds = [b.decode() for b in here.exchange_bytes(here.comm, mine.encode(), what)]
        other = next(r for r, kind in enumerate(kinds) if kind != mine)
        raise ValueError(f"{here.name} {what}: all ranks must give the same kind of value; got {mine} here, {kinds[other]} on rank {other}.")
    operation = getattr(here.mpi, _OPERATIONS[op])
    here.wait([here.comm.Iallreduce(here.mpi.IN_PLACE, array, op=operation)], what)


def barrier(timeout: float = TIMEOUT) -> None:
    """Returns when all ranks have called it.

    Raises:
        TimeoutError: some did not within `timeout` seconds; it says where they are.
    """
    here = world()
    if here.size > 1:
        here.wait([here.comm.Ibarrier()], here.collective("barrier"), timeout)


# ---- parameters ----------------------------------------------------------------------------------------------------------------------


def broadcast_parameters(m: ParameterCollection) -> None:
    """Gives every rank the values that rank 0's parameters have.

    Raises:
        RuntimeError: the ranks hold different parameters; it names the first.
    """
    here = world()
    if here.size > 1:
        what = here.collective("broadcast_parameters")
        structure = Structure(m)
        structure.check(here, here.comm, what)
        structure.broadcast(here, here.comm, what)


def assert_in_sync(m: ParameterCollection) -> None:
    """Compares the parameters' values over the ranks, bit for bit.

    Raises:
        RuntimeError: they differ; it names rank and parameter.

    >>> import dist_dynet as dy
    >>> dy.parallel.assert_in_sync(dy.ParameterCollection())
    """
    here = world()
    if here.size == 1:
        return
    what = here.collective("assert_in_sync")
    structure = Structure(m)
    structure.check(here, here.comm, what)
    mine = np.array([_checksum(p.storage()) for p in structure.parameters], np.int64)
    every = np.empty((here.size, len(mine)), np.int64)
    here.wait([here.comm.Iallgather(mine, every)], what)
    wrong = np.argwhere(every != every[0])
    if len(wrong):
        other, parameter = wrong[0]
        name = structure.parameters[parameter].name()
        raise RuntimeError(f'{here.name} {what}: rank {other} and rank 0 differ, first in "{name}". Change parameters alike on all ranks.')


def _checksum(values: NDArray[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(values.tobytes(), digest_size=8).digest(), "little", signed=True)
