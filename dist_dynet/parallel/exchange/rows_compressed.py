"""Exchanges touched rows of lookup tables between hosts in fewer bytes (compression.py).

Numbers should be rounded as seldom as possible: a rank's rows once, and a sum of them once. So each
rank sends its rows to its counterparts on all hosts if the hosts' rows together are at most twice
their union; otherwise the union is summed as an array. Between two hosts the rows are sent with
their ids; between more the ids are sent first, and when all have arrived it is known which is less.
This module knows one rank's share of the rows and its counterparts', and nothing of windows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE
from ...meter import hand_over
from ...params.parameters import LookupParameters
from .compression import Code, ErrorFeedback
from .row_messages import Message
from .wire import Hosts, Piece, Sum

Done = Callable[[], bool]

Ids = NDArray[np.int32]

Rows = tuple[Ids, NDArray[Any]]

_ALIGN = 4


class Residuals:
    """The rounding errors of rows so far.

    Args:
        hosts: the ranks.
        code: how messages encode numbers.
    """

    def __init__(self, hosts: Hosts, code: Code) -> None:
        self.code, self._hosts = code, hosts
        self._of: dict[LookupParameters, NDArray[Any]] = {}
        # the residuals before the messages since commit()
        self._before: list[tuple[LookupParameters, Ids, NDArray[Any]]] = []
        self.sums: dict[LookupParameters, Rows] = {}
        """Of the last exchange."""

    def encoded(self, table: LookupParameters, ids: Ids, rows: NDArray[Any]) -> NDArray[Any]:
        """The message for these rows."""
        items = np.empty((len(ids), self.code.items(_width(table))), self.code.dtype)
        if rows.size:
            feedback = self.feedback(table, ids)
            self.code.encode(rows, feedback.residual, items)
            self.keep(table, ids, feedback)
        return items

    def feedback(self, table: LookupParameters, ids: Ids) -> ErrorFeedback:
        """Error feedback for these rows, with their residuals so far."""
        compression = ErrorFeedback(self.code, len(ids) * _width(table))
        if table not in self._of:
            self._of[table] = np.zeros((len(table), _width(table)), DTYPE)
        compression.residual[:] = self._of[table][ids].reshape(-1)
        return compression

    def keep(self, table: LookupParameters, ids: Ids, compression: ErrorFeedback) -> None:
        """Stores the new residuals of these rows."""
        self._before.append((table, ids, self._of[table][ids]))
        self._of[table][ids] = compression.residual.reshape(len(ids), -1)

    def commit(self, factor: float = 1.0, limit: float = 0.0) -> None:
        """As ErrorFeedback.commit(), with the sums of the last exchange."""
        for table, ids, _ in self._before if factor != 1 or limit > 0 else ():
            rest = self._of[table][ids] * DTYPE.type(factor)
            if limit > 0:
                union, sums = self.sums[table]
                rest[np.abs(sums[np.searchsorted(union, ids)]) > limit] = 0
            self._of[table][ids] = rest
        self._before.clear()

    def take_back(self) -> None:
        """Restores the residuals from before the messages since commit()."""
        for table, ids, before in reversed(self._before):
            self._of[table][ids] = before
        self._before.clear()

    def by_name(self) -> dict[str, NDArray[Any]]:
        """The residuals by table: (rows, width). Views."""
        return {table.name(): rest for table, rest in self._of.items()}

    def load(
        self,
        tables: Sequence[LookupParameters],
        residuals: Mapping[str, NDArray[Any]],
        shared: bool,
    ) -> None:
        """Continues with these residuals; shared: this rank takes the part that it sends."""
        self._of.clear()
        self._before.clear()
        for table in tables:
            rest = residuals.get(table.name())
            if rest is not None and rest.size == len(table) * _width(table):
                kept = rest.reshape(len(table), -1).astype(DTYPE)
                if shared:
                    kept[np.arange(len(table)) % self._hosts.stripes != self._hosts.local] = 0
                self._of[table] = kept


class CompressedExchange:
    """Sums this rank's and its counterparts' rows.

    Args:
        residuals: of what this rank sends.
        hosts: the ranks.
        comm: a communicator for rows alone.
        swap: receives from ranks, and sends to others; see RowsRound.
        done: returns a function that tells whether requests are complete.
        tag: of rows that are sent after their ids.
    """

    def __init__(
        self,
        residuals: Residuals,
        hosts: Hosts,
        comm: Any,
        swap: Callable[..., Generator[Done, None, list[Message]]],
        done: Callable[[list[Any]], Done],
        tag: int,
    ) -> None:
        self._residuals, self._code, self._comm = residuals, residuals.code, comm
        self._hosts, self._counterparts = hosts, hosts.counterparts
        self._swap, self._done, self._tag = swap, done, tag
        self.moves = 0

    def run(
        self, tables: Sequence[LookupParameters], mine: list[Rows]
    ) -> Generator[Done, None, list[Rows]]:
        """For each table the sum, with its rows in rising order."""
        me, code = self._counterparts[self._hosts.host], self._code
        two = len(self._counterparts) == 2
        sent = [
            self._residuals.encoded(table, *rows) if two else None
            for table, rows in zip(tables, mine, strict=True)
        ]
        message = _message([ids for ids, _ in mine], sent)
        others = [rank for rank in self._counterparts if rank != me]
        came = yield from self._swap(others, [(message, rank) for rank in others])
        inbox = {me: message, **dict(zip(others, came, strict=True))}
        # by host, then table
        read = [_read(inbox[rank], tables, code, two) for rank in self._counterparts]
        parts: list[list[Rows]] = [[of[k] for of in read] for k in range(len(tables))]
        requests, sums = [], []
        for k, table in enumerate(tables) if not two else ():
            theirs, (ids, rows) = [of for of, _ in parts[k]], mine[k]
            union = np.unique(np.concatenate(theirs))
            if sum(map(len, theirs)) > 2 * len(union):
                block = np.zeros((len(union), _width(table)), DTYPE)
                block[np.searchsorted(union, ids)] = rows
                sums.append((table, union, block))
                parts[k] = [(union, block)]
                continue
            items = self._residuals.encoded(table, ids, rows)
            for host, (rank, of) in enumerate(zip(self._counterparts, theirs, strict=True)):
                if rank == me:
                    parts[k][host] = (of, items)
                    continue
                place = np.empty((len(of), items.shape[1]), code.dtype)
                parts[k][host] = (of, place)
                hand_over(items.nbytes)
                requests += [
                    self._comm.Irecv(place, rank, self._tag),
                    self._comm.Isend(items, rank, self._tag),
                ]
        if requests:
            yield self._done(requests)
        for table, union, block in sums:
            yield self._summed(table, union, block)
        added = [
            _added_up(of, code, _width(table)) for of, table in zip(parts, tables, strict=True)
        ]
        self._residuals.sums = dict(zip(tables, added, strict=True))
        return added

    def _summed(self, table: LookupParameters, union: Ids, block: NDArray[Any]) -> Done:
        """Sums a block of rows over the hosts, in place."""
        between = Hosts([[rank] for rank in self._counterparts], self._hosts.host, 0)
        compression = self._residuals.feedback(table, union)
        summing = Sum(self._comm, between, block.reshape(-1), compression, all_come=True)
        size = between.piece
        for number, start in enumerate(range(0, block.size, size)):
            summing.begin(Piece(between, number, start, min(start + size, block.size)))

        def done() -> bool:
            before = summing.moves
            finished = summing.advance()
            self.moves += summing.moves - before
            if finished:
                self._residuals.keep(table, union, compression)
            return finished

        return done


def _added_up(parts: list[Rows], code: Code, width: int) -> Rows:
    union = np.unique(np.concatenate([ids for ids, _ in parts]))
    block = np.zeros((len(union), width), DTYPE)
    for ids, rows in parts:
        block[np.searchsorted(union, ids)] += (
            rows if rows.dtype == DTYPE else code.decoded(rows, width)
        )
    return union, block


# ---- messages --------------------------------------------------------------------------


def _message(ids: Sequence[Ids], rows: Sequence[NDArray[Any] | None]) -> Message:
    """For each table the number of its rows, then all ids, then the rows that are given."""
    starts, size = _starts(
        [len(own) for own in ids],
        [0 if part is None else part.shape[1] * part.itemsize for part in rows],
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
    message: Message, tables: Sequence[LookupParameters], code: Code, with_rows: bool
) -> list[Rows]:
    """For each table the ids and, if with_rows, the encoded rows."""
    counts = message[: len(tables)].tolist()
    items = [code.items(_width(table)) * with_rows for table in tables]
    starts, _ = _starts(counts, [n * code.dtype.itemsize for n in items])
    parts, at = [], len(tables)
    for count, width, start in zip(counts, items, starts, strict=True):
        numbers = message[start:].view(code.dtype)[: count * width]
        parts.append((message[at : at + count], numbers.reshape(count, width)))
        at += count
    return parts


def _starts(counts: Sequence[int], row_bytes: Sequence[int]) -> tuple[list[int], int]:
    """Where each table's rows begin in a message, and the length of the message."""
    starts, at = [], len(counts) + sum(counts)
    for count, size in zip(counts, row_bytes, strict=True):
        at = -(-at // _ALIGN) * _ALIGN
        starts.append(at)
        at += -(-count * size // 4)
    return starts, -(-at // _ALIGN) * _ALIGN


def _width(table: LookupParameters) -> int:
    return int(np.prod(table.shape()[1:]))
