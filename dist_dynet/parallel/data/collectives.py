"""Collective operations outside training steps: reductions, barriers, and parameters broadcast or
compared.

Every function here must be called on all ranks in the same order; with `comm=`, an mpi4py
communicator, on all of its ranks. With one process each is a plain local computation.
"""

from __future__ import annotations

import pickle
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._manner import no_collection
from ...params.collection import ParameterCollection
from ...trainers.arguments import number
from ..agreement.structure import Structure
from ..exchange import by_host
from ..processes.session import world
from ..processes.world import World, hash_of

T = TypeVar("T")
Operation = Literal["sum", "mean", "max", "min", "prod"]


def rank() -> int:
    """The rank of this process in the job, from 0; 0 without a launcher.

    >>> from dist_dynet import parallel
    >>> parallel.rank(), parallel.world_size(), parallel.local_rank(), parallel.is_main()
    (0, 1, 0, True)
    """
    return world().rank


def world_size() -> int:
    """The number of processes in the job; 1 without a launcher.

    >>> from dist_dynet import parallel
    >>> parallel.world_size()
    1
    """
    return world().size


def local_rank() -> int:
    """The rank of this process among those of its host.

    >>> from dist_dynet import parallel
    >>> parallel.local_rank()
    0
    """
    return world().local_rank


def is_main() -> bool:
    """Whether this is rank 0, which prints and shows progress. save() does not need this check.

    >>> from dist_dynet import parallel
    >>> if parallel.is_main():
    ...     print("epoch 1")
    epoch 1
    """
    return world().rank == 0


# ---- values ----------------------------------------------------------------------------


def gather(obj: T, comm: Any = None) -> list[T]:
    """The objects of all ranks in rank order, on every rank. Objects are pickled.

    Raises:
        RuntimeError: the object of another rank cannot be pickled; on that rank the exception of
            pickle.

    >>> from dist_dynet import parallel
    >>> parallel.gather("a")
    ['a']
    """
    return gathered(obj, comm)


def gathered(obj: T, comm: Any = None) -> list[T]:
    """As gather(), for the package's own use.

    Raises:
        RuntimeError: the object of another rank cannot be pickled.
    """
    here = world(comm)
    if here.size == 1:
        return [obj]
    what = here.collective("gather")
    with here.uninterrupted(what):
        mine, failure = _pickled(obj)
        every = by_host.exchange_bytes(here, here.comm, mine, what)
    if failure is not None:
        raise failure
    for rank, text in enumerate(every):
        if text.startswith(_FAILED):
            words = text.removeprefix(_FAILED).decode()
            raise RuntimeError(
                f"{here.name} {what}: all ranks must give what can be pickled; on rank"
                f" {here.members[rank]} got {words}."
            )
    return [pickle.loads(b) for b in every]


_FAILED = b"failed "
"""Prefix of what a rank sends whose object cannot be pickled. No pickle begins with it."""


def _pickled(obj: Any) -> tuple[bytes, Exception | None]:
    """The bytes to send, and the exception if the object cannot be pickled. A rank that fails takes
    part all the same, so that all stay in step."""
    try:
        return pickle.dumps(obj), None
    except Exception as error:
        return _FAILED + f"{type(error).__name__}: {error}".encode(errors="replace"), error


def all_reduce(value: ArrayLike, op: Operation = "sum", comm: Any = None) -> Any:
    """The sum, "mean", "max", "min" or "prod" (product) over the ranks, on every rank: of a number,
    or elementwise of arrays, as a new array.

    Sums and products of integers have 64 bits; means are floats.

    Args:
        value: a number, or an array of one shape and kind of number on all ranks. True and False
            count as 1 and 0; where one rank has an int and another a float, all have floats.
        op: as above.
        comm: an mpi4py communicator; None: all ranks.

    Raises:
        ValueError: the shapes or kinds of number differ between the ranks; an unknown operation.
        TypeError: not numbers. If it is so on one rank, the others raise a ValueError.
        OverflowError: on all ranks: a sum or product of integers does not fit into 64 bits.

    >>> from dist_dynet import parallel
    >>> parallel.all_reduce(3), parallel.all_reduce([1.0, 2.0], "mean")
    (3, array([1., 2.]))
    """
    here, array, failure = world(comm), np.empty(0), None
    try:
        array = _as_numbers(value, op)
        mine = f"{op} of {array.dtype} {array.shape}"
    except Exception as error:
        mine, failure = f"{type(error).__name__}: {error}", error
    overflows = False
    if here.size > 1:
        what = here.collective(f"all_reduce {op}")
        with here.uninterrupted(what):
            # checked even without check=True: different lengths may kill a process
            numbers = f"{op} of int64 ()", f"{op} of float64 ()"
            kind = _same_kind(here, mine, what, failure is not None, numbers)
            if kind and failure is None:
                array = array if kind == mine else array.astype(np.float64)
                array, overflows = _reduced(here, array, op, what)
        if overflows:
            raise OverflowError(
                f"{here.name} {what}: the {op} must fit into {array.dtype}; got a larger one."
                " Give floats."
            )
    if failure is not None:
        raise failure
    if op == "mean":
        array = array / here.size
    return array.item() if array.ndim == 0 and not isinstance(value, np.ndarray) else array


def _as_numbers(value: ArrayLike, op: str) -> NDArray[Any]:
    """A new array, of a dtype that MPI can reduce and that can hold the result."""
    operations = get_args(Operation)
    if not isinstance(op, str) or op not in operations:
        raise ValueError(f"all_reduce: op must be one of {', '.join(operations)}; got {op!r}.")
    try:
        array = np.array(value, order="C")
    except ValueError as error:  # lists of different lengths
        raise TypeError(f"all_reduce: takes numbers and arrays of numbers; {error}.") from None
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"all_reduce: takes numbers and arrays of numbers; got {type(value).__name__} of"
            f" {array.dtype}."
        )
    if array.dtype.kind in "iu" and op == "mean":
        return array.astype(np.float64)
    if array.dtype.kind in "iu" and op in ("sum", "prod") and array.itemsize < 8:
        return array.astype(np.int64)
    return array.astype(
        np.float32 if array.dtype == np.float16 else array.dtype.newbyteorder("="), copy=False
    )


def _reduced(here: World, array: NDArray[Any], op: str, what: str) -> tuple[NDArray[Any], bool]:
    """The result, and whether it overflows, alike on all ranks."""
    operation, kind = getattr(here.mpi, "SUM" if op == "mean" else op.upper()), array.dtype.kind
    if op in ("max", "min") and kind == "f":
        marked = _mark_nan(array, op)
        here.wait([here.comm.Iallreduce(here.mpi.IN_PLACE, marked, op=operation)], what)
        return np.where(marked[1] == 0, marked[0], np.nan).astype(array.dtype), False
    # for integers, reduce in float64 as well: without overflow both results are close
    about = array.astype(np.float64) if kind in "iu" and op in ("sum", "prod") else None
    here.wait(
        [
            here.comm.Iallreduce(here.mpi.IN_PLACE, each, op=operation)
            for each in (array, about)
            if each is not None
        ],
        what,
    )
    return array, about is not None and bool((abs(about - array) > 2.0**62).any())


def _mark_nan(array: NDArray[Any], op: str) -> NDArray[Any]:
    """The array, and below it where it was NaN: MPI may lose NaN on some ranks, since no comparison
    with it is true."""
    is_nan, end = np.isnan(array), 1 if op == "max" else -1
    return np.stack([np.where(is_nan, -end * np.inf, array), end * is_nan]).astype(array.dtype)


def _same_kind(
    here: World, mine: str, what: str, failed: bool, numbers: tuple[str, str] = ("", "")
) -> str:
    """The kind that all ranks give; an error if they differ, on those that have not failed. Of an
    integer and a float, as from sum([]) and sum([0.5]), the float."""
    marks = np.empty(here.size, np.int64)
    here.wait([here.comm.Iallgather(np.array([hash_of(mine)]), marks)], what)
    if (marks == marks[0]).all():
        return mine
    every = [b.decode() for b in here.exchange_bytes(here.comm, mine.encode(), what)]
    if {*every} == {*numbers}:
        return numbers[1]
    other = next(rank for rank, theirs in enumerate(every) if theirs != mine)
    if failed:
        return ""
    raise ValueError(
        f"{here.name} {what}: all ranks must give the same kind of value; got {mine} here,"
        f" {every[other]} on rank {here.members[other]}."
    )


def barrier(timeout: float | None = None, comm: Any = None) -> None:
    """Returns when all ranks have called it.

    Args:
        timeout: seconds; None: DIST_DYNET_TIMEOUT, 600.
        comm: an mpi4py communicator; None: all ranks.

    Raises:
        TimeoutError: some did not come in time; it names them and says where they are. A second
            call goes on waiting for them.
        ValueError: the time is negative.

    >>> from dist_dynet import parallel
    >>> parallel.barrier(timeout=10)
    """
    if timeout is not None and number(timeout, "barrier: timeout") < 0:
        raise ValueError(f"barrier: timeout must be 0 seconds or more; got {timeout}.")
    here = world(comm)
    if here.size > 1:
        here.barrier(None if timeout is None else float(timeout))


# ---- parameters ------------------------------------------------------------------------


def _check_collection(m: Any, what: str) -> None:
    if not isinstance(m, ParameterCollection):
        raise TypeError(f"{what}: takes a ParameterCollection; {no_collection(m)}")


def broadcast_parameters(m: ParameterCollection, comm: Any = None) -> None:
    """Gives every rank the parameter values of rank 0.

    Raises:
        RuntimeError: the ranks hold different parameters; it names the first.
        TypeError: m is no collection.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> W = m.add_parameters(3)
    >>> dy.parallel.broadcast_parameters(m)
    """
    _check_collection(m, "broadcast_parameters")
    here = world(comm)
    if here.size > 1:
        what = here.collective("broadcast_parameters")
        with here.uninterrupted(what):
            structure = Structure(m)
            structure.check(here, here.comm, what)
            structure.broadcast(here, here.comm, what)


def assert_in_sync(m: ParameterCollection, comm: Any = None) -> None:
    """Compares the parameters' values over the ranks, bit for bit.

    Raises:
        RuntimeError: they differ; it names rank and parameter.
        TypeError: m is no collection.

    >>> import dist_dynet as dy
    >>> dy.parallel.assert_in_sync(dy.ParameterCollection())
    """
    _check_collection(m, "assert_in_sync")
    here = world(comm)
    if here.size > 1:
        what = here.collective("assert_in_sync")
        with here.uninterrupted(what):
            structure = Structure(m)
            structure.check(here, here.comm, what)
            structure.materialise()
            structure.compare(here, here.comm, what)
