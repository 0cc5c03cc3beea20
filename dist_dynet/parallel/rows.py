"""Touched rows of lookup tables between hosts: each crosses the wire once for each pair of hosts,
or as part of a sum.

The first rank of a host adds up the rows of all its ranks, exchanges them with the first ranks of
the other hosts, adds up what came in the order of hosts, and gives the result to its ranks: the
same bits everywhere. A message says itself how many rows of which tables it holds, so that it can
leave before the ranks have agreed on anything.

It is less to send the rows to all others than to add up their union as an array if the hosts' rows
together are no more than twice the union. Between two hosts that is always so. Between more, tables
of which it was so in the last exchange are taken to be so again: their rows travel with their ids.
For the others the ids travel first, and what is less is known when all are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, pointer
from ..meter import hand_over
from ..params.parameters import LookupParameters
from ._world import World
from .compression import CODE, Bf16, decoded
from .gradients import merged_rows
from .structure import Structure
from .wire import Hosts, Piece, Sum

Done = Callable[[], bool]

Ids = NDArray[np.int32]

Message = NDArray[np.int32]

_TO_FIRST, _TO_OTHERS, _BETWEEN, _ROWS = range(1 << 14, (1 << 14) + 4)
"""Tags; smaller ones are those of sums of unions."""

_LINE = 4


class RowsBetweenHosts:
    """The exchange of tables' gradients; dense parameters are hybrid.py's business.

    Args:
        here: all ranks.
        comm: a communicator for this alone.
        hosts: the ranks.
        compressed: rows cross the wire as bfloat16.
    """

    def __init__(self, here: World, comm: Any, hosts: Hosts, compressed: bool) -> None:
        self.here, self.comm, self.hosts, self.compressed = here, comm, hosts, compressed
        self._residual: dict[LookupParameters, NDArray[Any]] = {}
        self._few: set[LookupParameters] = set()
        """Of which the rows of all hosts were no more than twice their union: known alike to the
        first ranks of all hosts."""

    def begin(self, structure: Structure, weight: float) -> RowsRound | None:
        """Sends this rank's rows, times weight, or the first part of them. To be called on all
        ranks; None: there are no tables."""
        return RowsRound(self, structure, weight) if structure.tables else None

    def rows_first(self, tables: Sequence[LookupParameters]) -> list[bool]:
        """Whether these tables' rows travel with the ids. What a checkpoint does not hold must not
        decide on rounding."""
        if len(self.hosts.ranks) == 2:
            return [True] * len(tables)
        return [table in self._few and not self.compressed for table in tables]

    def are_few(self, table: LookupParameters, ids: Sequence[Ids]) -> bool:
        """Whether it is less to send the rows, with these ids on each host, than to add up their
        union. What it was is kept in mind."""
        few = sum(map(len, ids)) <= 2 * len(_union(ids))
        (self._few.add if few else self._few.discard)(table)
        return few

    # ---- what rounding has taken away --------------------------------------------------

    def encoded(self, table: LookupParameters, ids: Ids, rows: NDArray[Any]) -> NDArray[Any]:
        """What is sent of these rows."""
        if not self.compressed or not rows.size:
            return rows
        compression = self.compression(table, ids)
        compression.encode(rows.reshape(-1), 0, rows.size)
        self.keep(table, ids, compression)
        return compression.code.reshape(rows.shape)

    def compression(self, table: LookupParameters, ids: Ids) -> Bf16:
        """Codes for these rows, with what earlier messages lacked of them."""
        compression = Bf16(len(ids) * _width(table))
        if table not in self._residual:
            self._residual[table] = np.zeros((len(table), _width(table)), DTYPE)
        compression.residual[:] = self._residual[table][ids].reshape(-1)
        return compression

    def keep(self, table: LookupParameters, ids: Ids, compression: Bf16) -> None:
        """Keeps what they lack now."""
        self._residual[table][ids] = compression.residual.reshape(len(ids), -1)

    def residuals(self) -> dict[str, NDArray[Any]]:
        """What messages have lacked so far, by table: (rows, width). Views."""
        return {table.name(): rest for table, rest in self._residual.items()}

    def load_residuals(
        self, tables: Sequence[LookupParameters], residuals: Mapping[str, NDArray[Any]]
    ) -> None:
        """Goes on with these."""
        self._residual.clear()
        for table in tables:
            rest = residuals.get(table.name())
            if rest is not None and rest.size == len(table) * _width(table):
                self._residual[table] = rest.reshape(len(table), -1).astype(DTYPE)


class RowsRound:
    """One exchange under way. Gradients stay as they are until put().

    Args:
        rows: where it belongs.
        structure: of the tables.
        weight: what this rank's rows are multiplied by.
    """

    def __init__(self, rows: RowsBetweenHosts, structure: Structure, weight: float) -> None:
        self.structure = structure
        self.moves = 0  # rises with everything that has come
        self._all, self._here, self._comm, self._hosts = rows, rows.here, rows.comm, rows.hosts
        self._tables, self._handles = structure.tables, structure.handles[len(structure.dense) :]
        self._host_leaders = [ranks[0] for ranks in rows.hosts.ranks]
        self._parts: list[list[tuple[Ids, NDArray[Any]]]] = [[] for _ in self._tables]
        """Of each table what its gradient becomes the sum of, in this order."""
        ids = [table.touched_rows() if weight else np.empty(0, np.int32) for table in self._tables]
        gradients = [
            table.touched_gradients()[: len(own)]
            for table, own in zip(self._tables, ids, strict=True)
        ]
        if weight not in (0, 1):
            gradients = [rows * DTYPE.type(weight) for rows in gradients]
        self._steps = (
            self._lead(ids, gradients)
            if self._here.rank in self._host_leaders
            else self._follow(ids, gradients)
        )
        self._next = next(self._steps, None)

    def advance(self) -> bool:
        """Does what can be done; whether all is there."""
        while self._next is not None and self._next():
            self.moves += 1
            self._next = next(self._steps, None)
        return self._next is None

    def put(self, scale: float) -> None:
        """Each table's gradient becomes the sum over all ranks of the weighted ones, times
        scale."""
        for table, handle, parts in zip(self._tables, self._handles, self._parts, strict=True):
            if not any(len(ids) for ids, _ in parts):
                continue
            lib.dn_param_clear_gradient(handle)
            for ids, rows in parts:
                _add(table, handle, ids, _numbers(rows))
            if scale != 1:
                lib.dn_param_scale_gradient(handle, scale)

    # ---- within a host -----------------------------------------------------------------

    def _follow(self, ids: list[Ids], gradients: list[NDArray[Any]]) -> Iterator[Done]:
        """What a rank does that is not the first of its host. Rows in rising order can be
        merged."""
        orders = [np.argsort(own) for own in ids]
        gradients = [rows[order] for rows, order in zip(gradients, orders, strict=True)]
        message = self._message(
            [own[order] for own, order in zip(ids, orders, strict=True)], gradients
        )
        inbox: dict[int, Message] = {}
        first = self._hosts.mine[0]
        yield self._swapped(inbox, [first], _TO_OTHERS, [(message, first, _TO_FIRST)])
        for parts, part in zip(
            self._parts, self._read(inbox[first], [DTYPE] * len(self._tables)), strict=True
        ):
            parts.append(part)

    def _lead(self, ids: list[Ids], gradients: list[NDArray[Any]]) -> Iterator[Done]:
        """What the first rank of a host does."""
        others = self._hosts.mine[1:]
        if others:
            orders = [np.argsort(own) for own in ids]
            mine = [
                (own[order], rows[order])
                for own, rows, order in zip(ids, gradients, orders, strict=True)
            ]
            inbox: dict[int, Message] = {}
            yield self._swapped(inbox, others, _TO_FIRST, [])
            for rank in others:
                mine = [
                    merged_rows(*pair)
                    for pair in zip(mine, self._read(inbox[rank], [DTYPE] * len(mine)), strict=True)
                ]
            ids, gradients = [part[0] for part in mine], [part[1] for part in mine]
        yield from self._exchange(ids, gradients)
        if others:
            sums = [
                _added_up(parts, _width(table))
                for table, parts in zip(self._tables, self._parts, strict=True)
            ]
            self._parts = [[part] for part in sums]
            message = self._message([part[0] for part in sums], [part[1] for part in sums])
            yield self._swapped(
                {}, [], _TO_OTHERS, [(message, rank, _TO_OTHERS) for rank in others]
            )

    # ---- between hosts -----------------------------------------------------------------

    def _exchange(self, ids: list[Ids], gradients: list[NDArray[Any]]) -> Iterator[Done]:
        """Adds up the rows of all hosts, on their first ranks."""
        every = self._all
        first = every.rows_first(self._tables)
        kinds: list[np.dtype[Any] | None] = [
            (CODE if every.compressed else DTYPE) if is_first else None for is_first in first
        ]
        sent = [
            every.encoded(table, own, rows) if is_first else None
            for is_first, table, own, rows in zip(first, self._tables, ids, gradients, strict=True)
        ]
        message = self._message(ids, sent)
        others = [rank for rank in self._host_leaders if rank != self._here.rank]
        inbox: dict[int, Message] = {}
        yield self._swapped(inbox, others, _BETWEEN, [(message, rank, _BETWEEN) for rank in others])
        inbox[self._here.rank] = message
        # by host, then table
        read = [self._read(inbox[rank], kinds) for rank in self._host_leaders]
        requests, sums = [], []
        for k, (table, is_first) in enumerate(zip(self._tables, first, strict=True)):
            theirs = [of[k][0] for of in read]
            few = len(self._host_leaders) == 2 or every.are_few(table, theirs)
            if is_first:
                self._parts[k] = [of[k] for of in read]
            elif few:
                code = every.encoded(table, ids[k], gradients[k].copy())
                for rank, of in zip(self._host_leaders, theirs, strict=True):
                    place = (
                        code
                        if rank == self._here.rank
                        else np.empty((len(of), _width(table)), code.dtype)
                    )
                    self._parts[k].append((of, place))
                    if rank != self._here.rank:
                        hand_over(code.nbytes)
                        requests += [
                            self._comm.Irecv(place, rank, _ROWS),
                            self._comm.Isend(code, rank, _ROWS),
                        ]
            else:
                union = _union(theirs)
                block = np.zeros((len(union), _width(table)), DTYPE)
                block[np.searchsorted(union, ids[k])] = gradients[k]
                sums.append((k, union.astype(np.int32), block))
        if requests:
            yield self._done(requests)
        for k, union, block in sums:
            yield self._summed(self._tables[k], union, block)
            self._parts[k] = [(union, block)]

    def _summed(self, table: LookupParameters, union: Ids, block: NDArray[Any]) -> Done:
        """Adds up a block of rows over the hosts, in place."""
        between = Hosts([[rank] for rank in self._host_leaders], self._hosts.host, 0)
        compression = self._all.compression(table, union) if self._all.compressed else None
        summing = Sum(self._comm, between, block.reshape(-1), compression, all_come=True)
        size = between.piece
        for number, start in enumerate(range(0, block.size, size)):
            summing.begin(Piece(between, number, start, min(start + size, block.size)))

        def done() -> bool:
            before = summing.moves
            finished = summing.advance()
            self.moves += summing.moves - before
            if finished and compression is not None:
                self._all.keep(table, union, compression)
            return finished

        return done

    # ---- messages ----------------------------------------------------------------------

    def _message(self, ids: Sequence[Ids], rows: Sequence[NDArray[Any] | None]) -> Message:
        """Of each table the number of its rows, then all ids, then rows, where they are given."""
        starts, size = self._starts(
            [len(own) for own in ids], [None if part is None else part.dtype for part in rows]
        )
        message = np.empty(size, np.int32)
        np.concatenate(
            [np.array([len(own) for own in ids], np.int32), *ids],
            out=message[: len(ids) + sum(map(len, ids))],
        )
        for part, start in zip(rows, starts, strict=True):
            if part is not None and part.size:
                message[start:].view(part.dtype)[: part.size] = part.reshape(-1)
        return message

    def _read(
        self, message: Message, kinds: Sequence[np.dtype[Any] | None]
    ) -> list[tuple[Ids, NDArray[Any]]]:
        """Of each table ids and rows, of these types; None: there are only ids."""
        counts = message[: len(kinds)].tolist()
        starts, _ = self._starts(counts, kinds)
        parts, at = [], len(kinds)
        for table, count, kind, start in zip(self._tables, counts, kinds, starts, strict=True):
            width, held = _width(table), 0 if kind is None else count
            numbers = message[start:].view(kind or DTYPE)[: held * width]
            parts.append((message[at : at + count], numbers.reshape(held, width)))
            at += count
        return parts

    def _starts(
        self, counts: Sequence[int], kinds: Sequence[np.dtype[Any] | None]
    ) -> tuple[list[int], int]:
        """Where in a message each table's rows begin, and its length."""
        starts, at = [], len(counts) + sum(counts)
        for table, count, kind in zip(self._tables, counts, kinds, strict=True):
            at = -(-at // _LINE) * _LINE
            starts.append(at)
            at += -(-count * _width(table) * (kind.itemsize if kind else 0) // 4)
        return starts, -(-at // _LINE) * _LINE

    def _swapped(
        self,
        inbox: dict[int, Message],
        sources: Sequence[int],
        tag: int,
        outbox: Sequence[tuple[Message, int, int]],
    ) -> Done:
        """Sends what is in the outbox, as (message, rank, tag), and receives a message from each
        source, of whatever length."""
        hand_over(sum(message.nbytes for message, _, _ in outbox))
        requests = [self._comm.Isend(message, rank, tag_) for message, rank, tag_ in outbox]
        awaited, status, integer = list(sources), self._here.mpi.Status(), self._here.mpi.INT
        left = self._done(requests)

        def done() -> bool:
            for rank in list(awaited):
                coming = self._comm.Improbe(rank, tag, status)
                if coming is not None:
                    inbox[rank] = np.empty(status.Get_count(integer), np.int32)
                    requests.append(coming.Irecv(inbox[rank]))
                    awaited.remove(rank)
            return left() and not awaited

        return done

    def _done(self, requests: list[Any]) -> Done:
        test = self._here.mpi.Request.Testall
        return lambda: bool(test(requests))


def _width(table: LookupParameters) -> int:
    return int(np.prod(table.shape()[1:]))


def _union(ids: Sequence[Ids]) -> NDArray[Any]:
    return np.unique(np.concatenate(ids))


def _added_up(parts: Sequence[tuple[Ids, NDArray[Any]]], width: int) -> tuple[Ids, NDArray[Any]]:
    """The sum of all, in the order in which put() would come to the rows: a norm is added up in
    that order, and must be the same everywhere."""
    union, first = np.unique(np.concatenate([ids for ids, _ in parts]), return_index=True)
    order = np.argsort(first)
    place = np.empty(len(union), np.intp)
    place[order] = np.arange(len(union))
    block = np.zeros((len(union), width), DTYPE)
    for ids, rows in parts:
        block[place[np.searchsorted(union, ids)]] += _numbers(rows)
    return union[order].astype(np.int32), block


def _numbers(rows: NDArray[Any]) -> NDArray[Any]:
    return rows if rows.dtype == DTYPE else decoded(rows.reshape(-1)).reshape(rows.shape)


def _integers(ids: Ids) -> Any:
    return ffi.from_buffer("int *", np.ascontiguousarray(ids))


def _add(table: LookupParameters, handle: Any, ids: Ids, rows: NDArray[Any]) -> None:
    if len(ids) and lib.dn_lookup_add(handle, len(ids), _integers(ids), pointer(rows)):
        raise MemoryError(f"gradient exchange: out of memory for the rows of {table.name()}")
