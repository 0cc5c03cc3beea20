"""Buckets: the dense gradients of all ranks, side by side in an array that is sent in parts.

This module sums buckets and rows over the hosts. When a bucket may start is decided by hosts.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer
from ...meter import hand_over
from ..agreement.structure import Structure
from ..processes.world import World
from .compression import ErrorFeedback, decode, encode

_BUCKET = 1 << 17
"""Elements of a bucket: 512 kB, or 4 ms at 1 Gbit/s."""


class Hosts(NamedTuple):
    """Which rank runs where."""

    ranks: list[list[int]]  # by host
    host: int  # of this rank
    local: int  # place of this rank among those of its host

    @property
    def mine(self) -> list[int]:
        """The ranks of this host."""
        return self.ranks[self.host]

    @property
    def owners(self) -> int:
        """How many ranks of each host send."""
        return min(map(len, self.ranks))


# ---- what is sent ----------------------------------------------------------------------


class Bucket(NamedTuple):
    """Elements of the array that are sent together, if any parameter in them is used: always the
    same ones, so that the order of their sums does not depend on what is used."""

    start: int
    end: int
    members: list[int]  # the parameters
    parts: list[tuple[Any, int]]  # their handles, and how many of each's elements must be complete
    spans: tuple[int, Any]  # of their gradients: n, dn_span_taken[n]


class Layout:
    """Where the dense parameters lie in the array that is sent. It depends only on the model, so
    that it is the same on all ranks."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.sizes = [length for _, _, length in structure.places]
        ends = np.cumsum(self.sizes[::-1], dtype=np.int64)[::-1].tolist()
        self.at = [end - size for end, size in zip(ends, self.sizes, strict=True)]
        self.size = sum(self.sizes)
        self._buckets = [self._bucket(start) for start in range(0, self.size, _BUCKET)]
        self._whole: tuple[bytes, tuple[int, Any]] = b"-", (0, None)

    def _bucket(self, start: int) -> Bucket:
        end, parts = min(start + _BUCKET, self.size), []
        for i, (at, size) in enumerate(zip(self.at, self.sizes, strict=True)):
            low, high = max(start, at), min(end, at + size)
            if low < high:
                parts.append((i, low - at, high - at, low))
        awaited = [(self.structure.handles[i], to) for i, _, to, _ in parts]
        return Bucket(start, end, [i for i, *_ in parts], awaited, self._spans(parts))

    def _spans(self, parts: list[tuple[int, int, int, int]]) -> tuple[int, Any]:
        """Parts of gradients, (parameter, from, to, place in the array), as C functions take
        them."""
        handles = self.structure.handles
        return len(parts), ffi.new("dn_span_taken[]", [(handles[i], *part) for i, *part in parts])

    def whole(self, used: NDArray[np.bool_]) -> tuple[int, Any]:
        """The same for the whole gradients of these parameters."""
        key = used.tobytes()
        if key != self._whole[0]:
            chosen = np.flatnonzero(used).tolist()
            self._whole = key, self._spans([(i, 0, self.sizes[i], self.at[i]) for i in chosen])
        return self._whole[1]

    def buckets(self, used: NDArray[np.bool_]) -> list[Bucket]:
        """What is sent if these parameters are used."""
        return [bucket for bucket in self._buckets if used[bucket.members].any()]


class Arrays:
    """The arrays of this host's ranks, and that of the sums; in shared memory if the host has
    several ranks."""

    def __init__(self, hosts: Hosts, size: int, mapped: list[Any]) -> None:
        if mapped:
            ((self._whole, starts),) = mapped
            arrays = [np.frombuffer(ffi.buffer(self._whole), DTYPE, size, at) for at in starts]
        else:
            arrays = [np.zeros(size, DTYPE)] * 2
        self.sums = arrays[-1]
        self._locals = [pointer(each) for each in arrays[:-1]]
        self.mine, self.pointer = self._locals[hosts.local], pointer(self.sums)

    def add_up(self, start: int, end: int) -> None:
        """Sums these elements over the ranks of the host, in rank order."""
        if len(self._locals) > 1:
            parts = ffi.new("dn_real *[]", [at + start for at in self._locals])
            lib.dn_sum_arrays(len(parts), parts, end - start, self.pointer + start)


class Sums:
    """Sums buckets and rows over the hosts. It knows no round, and no parameters.

    Args:
        here: all ranks.
        hosts: which rank runs where.
        between: a communicator of the owners of one stripe.
        again: another one, for the second stage of compressed sums; None: no compression.
        local: a communicator of the ranks of this host; None: there is only one.
    """

    def __init__(self, here: World, hosts: Hosts, between: Any, again: Any, local: Any) -> None:
        self._here, self._hosts = here, hosts
        self.between, self._again, self.local = between, again, local
        self.test = here.mpi.Request.Testall
        self.is_owner = hosts.local < hosts.owners
        self.arrays: Arrays | None = None
        self.feedback = ErrorFeedback() if again else None
        self.residual = np.zeros(0, DTYPE)  # of the array that is sent
        self.row_residuals: dict[str, NDArray[Any]] = {}

    def bucket_stages(self, bucket: Bucket, weight: float) -> Iterator[list[Any]]:
        """Sums a bucket over all ranks. Yields requests to wait for."""
        arrays, (start, end) = self.arrays, bucket[:2]
        assert arrays is not None
        lib.dn_params_take(*bucket.spans, weight, arrays.mine)
        if self.local:
            yield [self.local.Ibarrier()]
        if self.is_owner:
            part = self.stripe(start, end)
            arrays.add_up(part.start, part.stop)
            yield from self._all_reduce(arrays.sums[part], self.residual, part)

    def stripe(self, start: int, end: int) -> slice:
        """The elements of a bucket that this rank owns."""
        local, owners = self._hosts.local, self._hosts.owners
        return slice(*(start + (end - start) * k // owners for k in (local, local + 1)))

    def _all_reduce(self, x: NDArray[Any], residual: NDArray[Any], at: Any) -> Iterator[list[Any]]:
        """Replaces x by its sum over the owners of this stripe. Yields requests to wait for.

        Compressed, each owner sums its share of x, from codes that all owners send to it, and sends
        them the codes of the sum: both messages together have half of the bytes of an all-reduce.
        """
        if not x.size:
            return
        if self.feedback is None:
            hand_over(x.nbytes)
            yield [self.between.Iallreduce(self._here.mpi.IN_PLACE, x)]
            return
        hosts = len(self._hosts.ranks)
        share = -(-x.size // hosts)
        codes, new = self.feedback.encode(x, residual, at)
        sent = np.zeros(hosts * share, np.uint16)
        sent[: x.size] = codes.reshape(-1)
        came = np.empty_like(sent)
        hand_over(sent.nbytes)
        yield [self.between.Ialltoall(sent, came)]
        total, lacks = np.zeros(share, DTYPE), np.zeros(share, DTYPE)
        for part in decode(came).reshape(hosts, share):
            total += part
        code = encode(total, lacks)
        mine = new.reshape(-1)[self._hosts.host * share :][:share]
        mine += lacks[: mine.size]
        yield [self._again.Iallgather(code, came)]
        x[...] = decode(came[: x.size]).reshape(x.shape)

    def all_reduce_rows(self, table: Any, ids: Any, rows: Any) -> Iterator[list[Any]]:
        """Sums rows of a table; yields the requests to wait for."""
        return self._all_reduce(rows, self.residual_of(table), ids)

    def encoded(self, table: Any, ids: Any, rows: Any) -> Any:
        """The message that holds these rows of a table."""
        assert self.feedback is not None
        return self.feedback.encode(rows, self.residual_of(table), ids)[0]

    def residual_of(self, table: Any) -> NDArray[Any]:
        """What earlier messages of a table have left out."""
        name, shape = table.name(), (len(table), int(np.prod(table.shape()[1:])))
        if name not in self.row_residuals or self.row_residuals[name].shape != shape:
            self.row_residuals[name] = np.zeros(shape, DTYPE)
        return self.row_residuals[name]


class _Running:
    """A bucket that has started: yields the requests to wait for, one stage after the other."""

    def __init__(self, stages: Iterator[list[Any]]) -> None:
        self.stages, self.stage, self.requests = stages, 0, next(stages, None)


class Round:
    """One sum of the gradients of these parameters: buckets on their way.

    Collective operations must start in one order on all ranks. So a bucket starts its next stage
    only after the one before it has done so; each stage has its own communicator.
    """

    def __init__(self, sums: Sums, layout: Layout, used: NDArray[np.bool_], complete: bool) -> None:
        self.layout, self.used, self.complete = layout, used, complete
        self.weight: float | None = None  # factor for the gradients; None: not open yet
        self.watched = 0  # the number of the watched backward in which it was opened
        self.moves = 0  # increases with all progress
        self._sums = sums
        self._waiting, self._running = layout.buckets(used), list[_Running]()

    def open(self, weight: float) -> None:
        """Lets buckets start, with this factor for the gradients. Further calls do nothing."""
        if self.weight is None:
            self.weight = weight
            self.watched = lib.dn_store_hook_count(self.layout.structure.root.c)

    def advance(self) -> bool:
        """Makes progress. Returns whether all buckets are summed."""
        if self.weight is None:
            return False
        while self._waiting and self._is_complete(self._waiting[0]):
            stages = self._sums.bucket_stages(self._waiting.pop(0), self.weight)
            self._running.append(_Running(stages))
            self.moves += 1
        ahead = 1 << 30  # how many stages the bucket before has started
        for bucket in self._running:
            while bucket.requests is not None and bucket.stage < ahead:
                if not self._sums.test(bucket.requests):
                    break
                bucket.requests = next(bucket.stages, None)
                bucket.stage += 1
                self.moves += 1
            ahead = bucket.stage if bucket.requests is not None else 1 << 30
        self._running = [each for each in self._running if each.requests is not None]
        return not self._waiting and not self._running

    def _is_complete(self, bucket: Bucket) -> bool:
        return self.complete or all(lib.dn_param_ready(p) >= end for p, end in bucket.parts)
