"""Touched rows of lookup tables between hosts: each crosses the wire once for each pair of hosts, or as part of a sum.

The first rank of a host adds up the rows of all its ranks, exchanges them with the first ranks of the other hosts, adds up what came in the
order of hosts, and gives the result to its ranks: the same bits everywhere. Ids travel first; then every host knows whether it is less to
send its rows to all others, or to add up the union of the rows as an array: the former if the hosts' rows together are no more than twice
the union.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, pointer
from ..params.parameters import LookupParameters
from ._world import World
from .agreement import Agreed
from .compression import Bf16, decoded
from .wire import PIECE, Hosts, Piece, Sum

Done = Callable[[], bool]

_ROWS = 1 << 14
"""Tag of ids and rows; smaller ones are those of sums of unions."""

Ids = NDArray[np.int32]


class RowsBetweenHosts:
    """The exchange of tables' gradients; dense parameters are hybrid.py's business.

    Args:
        here: all ranks.
        comm: a communicator for this alone.
        hosts: the ranks.
        compressed: rows cross the wire as bfloat16.
    """

    def __init__(self, here: World, comm: Any, hosts: Hosts, compressed: bool) -> None:
        self._here, self._comm, self._hosts, self._compressed = here, comm, hosts, compressed
        self._leaders = [ranks[0] for ranks in hosts.ranks]
        self._between = Hosts([[rank] for rank in self._leaders], hosts.host, 0)
        self._rest: dict[LookupParameters, NDArray[Any]] = {}
        self.moves = 0
        """Rises with everything that has come."""

    def steps(self, agreed: Agreed) -> Iterator[Done]:
        """Makes each table's gradient the sum over all ranks; at each step, go on when the function says so."""
        structure = agreed.structure
        chosen = np.flatnonzero(agreed.rows.any(axis=0)).tolist()
        if not chosen:
            return
        tables = [structure.tables[k] for k in chosen]
        handles = [structure.handles[len(structure.dense) + k] for k in chosen]
        mine = self._hosts.mine
        if self._here.rank == mine[0]:
            yield from self._gather(tables, handles, agreed.rows[mine][:, chosen])
            yield from self._exchange(tables, handles)
            yield from self._give(tables)
        else:
            yield self._all([self._send(part, mine[0]) for table in tables for part in (table.touched_rows(), table.touched_gradients())])
            yield from self._take(tables, handles, mine[0])

    # ---- within a host -----------------------------------------------------------------------------------------------------------------

    def _gather(self, tables: Sequence[LookupParameters], handles: Sequence[Any], counts: NDArray[np.int32]) -> Iterator[Done]:
        """Adds the rows of this host's other ranks to those of this one. counts: (rank of this host, table)."""
        pieces, requests = [], []
        for rank, row in zip(self._hosts.mine[1:], counts[1:].tolist(), strict=True):
            for table, handle, count in zip(tables, handles, row, strict=True):
                ids, rows = np.empty(count, np.int32), np.empty((count, _width(table)), DTYPE)
                requests += [self._receive(ids, rank), self._receive(rows, rank)]
                pieces.append((table, handle, ids, rows))
        if requests:
            yield self._all(requests)
        for table, handle, ids, rows in pieces:
            _add(table, handle, ids, rows)

    def _give(self, tables: Sequence[LookupParameters]) -> Iterator[Done]:
        """The result, to the other ranks of this host."""
        if len(self._hosts.mine) == 1:
            return
        counts = np.array([len(table.touched_rows()) for table in tables], np.int32)
        parts = [counts, *(part for table in tables for part in (table.touched_rows(), table.touched_gradients()))]
        yield self._all([self._send(part, rank) for rank in self._hosts.mine[1:] for part in parts])

    def _take(self, tables: Sequence[LookupParameters], handles: Sequence[Any], leader: int) -> Iterator[Done]:
        counts = np.empty(len(tables), np.int32)
        yield self._all([self._receive(counts, leader)])
        parts = [
            (np.empty(count, np.int32), np.empty((count, _width(table)), DTYPE)) for table, count in zip(tables, counts.tolist(), strict=True)
        ]
        yield self._all([self._receive(part, leader) for pair in parts for part in pair])
        for table, handle, (ids, rows) in zip(tables, handles, parts, strict=True):
            lib.dn_param_clear_gradient(handle)
            _add(table, handle, ids, rows)

    # ---- between hosts -----------------------------------------------------------------------------------------------------------------

    def _exchange(self, tables: Sequence[LookupParameters], handles: Sequence[Any]) -> Iterator[Done]:
        """Adds up the rows of all hosts, on their first ranks."""
        mine = [table.touched_rows().copy() for table in tables]
        message = np.concatenate([np.array([len(ids) for ids in mine], np.int32), *mine])
        longest = len(tables) + sum(len(table) for table in tables)
        inbox = {rank: np.empty(longest, np.int32) for rank in self._leaders if rank != self._here.rank}
        yield self._all([self._receive(place, rank) for rank, place in inbox.items()] + [self._send(message, rank) for rank in inbox])
        inbox[self._here.rank] = message
        every = [_ids(inbox[rank], len(tables)) for rank in self._leaders]  # by host, then table
        requests, rows, sums = [], [], []
        for k, (table, ids) in enumerate(zip(tables, mine, strict=True)):
            union = np.unique(np.concatenate([theirs[k] for theirs in every]))
            if sum(len(theirs[k]) for theirs in every) <= 2 * len(union):
                sent, own = self._encoded(table, ids, table.touched_gradients())
                places = [np.empty((len(theirs[k]), _width(table)), sent.dtype) for theirs in every]
                for rank, place in zip(self._leaders, places, strict=True):
                    if rank != self._here.rank:
                        requests += [self._receive(place, rank), self._send(sent, rank)]
                rows.append((k, places, own))
            else:
                block = np.zeros((len(union), _width(table)), DTYPE)
                block[np.searchsorted(union, ids)] = table.touched_gradients()
                sums.append((k, union.astype(np.int32), block))
        if requests:
            yield self._all(requests)
        for k, places, own in rows:
            lib.dn_param_clear_gradient(handles[k])
            for rank, theirs, place in zip(self._leaders, every, places, strict=True):
                _add(tables[k], handles[k], theirs[k], own if rank == self._here.rank else _numbers(place))
        for k, union, block in sums:
            yield from self._sum(tables[k], union, block)
            lib.dn_param_clear_gradient(handles[k])
            _add(tables[k], handles[k], union, block)

    def _encoded(self, table: LookupParameters, ids: Ids, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """What is sent of these rows, and the numbers that it stands for."""
        rows = rows.copy()
        if not self._compressed or not rows.size:
            return rows, rows
        compression = self._compression(table, ids)
        compression.encode(rows.reshape(-1), 0, rows.size)
        self._keep(table, ids, compression)
        return compression.code.reshape(rows.shape), decoded(compression.code).reshape(rows.shape)

    def _sum(self, table: LookupParameters, union: Ids, block: NDArray[Any]) -> Iterator[Done]:
        """Adds up a block of rows over the hosts, in place."""
        compression = self._compression(table, union) if self._compressed else None
        summing = Sum(self._comm, self._between, block.reshape(-1), compression, all_come=True)
        for number, start in enumerate(range(0, block.size, PIECE)):
            summing.begin(Piece(self._between, number, start, min(start + PIECE, block.size)))

        def done() -> bool:
            before = summing.moves
            finished = summing.advance()
            self.moves += summing.moves - before
            return finished

        yield done
        if compression is not None:
            self._keep(table, union, compression)

    # ---- what rounding has taken away --------------------------------------------------------------------------------------------------

    def _compression(self, table: LookupParameters, ids: Ids) -> Bf16:
        compression = Bf16(len(ids) * _width(table))
        if table not in self._rest:
            self._rest[table] = np.zeros((len(table), _width(table)), DTYPE)
        compression.rest[:] = self._rest[table][ids].reshape(-1)
        return compression

    def _keep(self, table: LookupParameters, ids: Ids, compression: Bf16) -> None:
        self._rest[table][ids] = compression.rest.reshape(len(ids), -1)

    def residuals(self) -> dict[str, NDArray[Any]]:
        """What messages have lacked so far, by table: (rows, width)."""
        return {table.name(): rest.copy() for table, rest in self._rest.items()}

    def load_residuals(self, tables: Sequence[LookupParameters], residuals: Mapping[str, NDArray[Any]]) -> None:
        """Goes on with these."""
        self._rest.clear()
        for table in tables:
            rest = residuals.get(table.name())
            if rest is not None and rest.size == len(table) * _width(table):
                self._rest[table] = rest.reshape(len(table), -1).astype(DTYPE)

    # ---- messages ----------------------------------------------------------------------------------------------------------------------

    def _send(self, part: NDArray[Any], rank: int) -> Any:
        return self._comm.Isend(np.ascontiguousarray(part), rank, _ROWS)

    def _receive(self, place: NDArray[Any], rank: int) -> Any:
        return self._comm.Irecv(place, rank, _ROWS)

    def _all(self, requests: list[Any]) -> Done:
        test = self._here.mpi.Request.Testall

        def done() -> bool:
            if not test(requests):
                return False
            self.moves += len(requests)
            return True

        return done


def _width(table: LookupParameters) -> int:
    return int(np.prod(table.shape()[1:]))


def _ids(message: Ids, tables: int) -> list[Ids]:
    """Of each table the ids in a message of counts and ids."""
    ends = tables + np.cumsum(message[:tables])
    return [message[end - count : end] for end, count in zip(ends.tolist(), message[:tables].tolist(), strict=True)]


def _numbers(place: NDArray[Any]) -> NDArray[Any]:
    return place if place.dtype == DTYPE else decoded(place.reshape(-1)).reshape(place.shape)


def _add(table: LookupParameters, handle: Any, ids: Ids, rows: NDArray[Any]) -> None:
    if len(ids) and lib.dn_lookup_add(handle, len(ids), ffi.from_buffer("int *", np.ascontiguousarray(ids)), pointer(rows)):
        raise MemoryError(f"gradient exchange: out of memory for the rows of {table.name()}")
