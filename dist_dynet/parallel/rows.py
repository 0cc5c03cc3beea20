"""Touched rows of lookup tables between hosts: each crosses the wire once for each pair of hosts,
or as part of a sum.

The ranks of a host share its rows by their numbers: rank k of n has those whose remainder by n is
k. It adds up what all ranks of the host have of these, in rank order, exchanges them with rank k of
each other host, adds up what came in the order of hosts, and gives the result to its host's ranks:
the same bits everywhere. Within a host all of this lies in memory that its ranks share
(windows.py). A message says itself how many rows of which tables it holds, so that it can leave
before the ranks have agreed on anything.

It is less to send the rows to all others than to add up their union as an array if the hosts' rows
together are no more than twice the union. Between two hosts that is always so. Between more, tables
of which it was so in the last exchange are taken to be so again: their rows travel with their ids.
For the others the ids travel first, and what is less is known when all are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, pointer
from ..meter import hand_over
from ..params.parameters import LookupParameters
from ._world import World
from .compression import Code, ErrorFeedback
from .gradients import merged_rows
from .structure import Structure
from .windows import GIVEN, READ, SUMMED, Windows
from .wire import Hosts, Piece, Sum

Done = Callable[[], bool]

Ids = NDArray[np.int32]

Message = NDArray[np.int32]

_GIVEN, _SUMMED, _BETWEEN, _ROWS = range(1 << 14, (1 << 14) + 4)
"""Tags; smaller ones are those of sums of unions."""

_LINE = 4


class RowsBetweenHosts:
    """The exchange of tables' gradients; dense parameters are hybrid.py's business.

    Args:
        here: all ranks.
        comm: a communicator for this alone.
        hosts: the ranks.
        code: what messages between hosts hold instead of numbers as they are.
    """

    def __init__(self, here: World, comm: Any, hosts: Hosts, code: Code | None) -> None:
        self.here, self.comm, self.hosts, self.code = here, comm, hosts, code
        self.windows: Windows | None = None
        """Of this host's ranks, where there are several and they have tables."""
        self._residual: dict[LookupParameters, NDArray[Any]] = {}
        self._few: set[LookupParameters] = set()
        """Of which the rows of all hosts were no more than twice their union: known alike to the
        counterparts of all hosts."""

    def begin(self, structure: Structure, weight: float) -> RowsRound | None:
        """Sends this rank's rows, times weight, or the first part of them. To be called on all
        ranks; None: there are no tables."""
        return RowsRound(self, structure, weight) if structure.tables else None

    def rows_first(self, tables: Sequence[LookupParameters]) -> list[bool]:
        """Whether these tables' rows travel with the ids. What a checkpoint does not hold must not
        decide on rounding."""
        if len(self.hosts.ranks) == 2:
            return [True] * len(tables)
        return [table in self._few and self.code is None for table in tables]

    def are_few(self, table: LookupParameters, ids: Sequence[Ids]) -> bool:
        """Whether it is less to send the rows, with these ids on each host, than to add up their
        union. What it was is kept in mind."""
        few = sum(map(len, ids)) <= 2 * len(_union(ids))
        (self._few.add if few else self._few.discard)(table)
        return few

    # ---- what rounding has taken away --------------------------------------------------

    def encoded(self, table: LookupParameters, ids: Ids, rows: NDArray[Any]) -> NDArray[Any]:
        """What is sent of these rows."""
        if self.code is None:
            return rows
        items = np.empty((len(ids), self.code.items(_width(table))), self.code.dtype)
        if rows.size:
            feedback = self.feedback(self.code, table, ids)
            self.code.encode(rows, feedback.residual, items)
            self.keep(table, ids, feedback)
        return items

    def feedback(self, code: Code, table: LookupParameters, ids: Ids) -> ErrorFeedback:
        """Messages of these rows, with what earlier ones lacked of them."""
        compression = ErrorFeedback(code, len(ids) * _width(table))
        if table not in self._residual:
            self._residual[table] = np.zeros((len(table), _width(table)), DTYPE)
        compression.residual[:] = self._residual[table][ids].reshape(-1)
        return compression

    def keep(self, table: LookupParameters, ids: Ids, compression: ErrorFeedback) -> None:
        """Keeps what they lack now."""
        self._residual[table][ids] = compression.residual.reshape(len(ids), -1)

    def residuals(self) -> dict[str, NDArray[Any]]:
        """What messages have lacked so far, by table: (rows, width). Views."""
        return {table.name(): rest for table, rest in self._residual.items()}

    def load_residuals(
        self,
        tables: Sequence[LookupParameters],
        residuals: Mapping[str, NDArray[Any]],
        shared: bool,
    ) -> None:
        """Goes on with these; shared: this rank takes of them what it sends."""
        self._residual.clear()
        for table in tables:
            rest = residuals.get(table.name())
            if rest is not None and rest.size == len(table) * _width(table):
                kept = rest.reshape(len(table), -1).astype(DTYPE)
                if shared:
                    kept[np.arange(len(table)) % self.hosts.stripes != self.hosts.local] = 0
                self._residual[table] = kept


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
        self._counterparts = rows.hosts.counterparts
        self._parts: list[list[tuple[Ids, NDArray[Any]]]] = [[] for _ in self._tables]
        """Of each table what its gradient becomes the sum of, in this order."""
        self._windows = rows.windows if len(rows.hosts.mine) > 1 else None
        ids = [table.touched_rows() if weight else np.empty(0, np.int32) for table in self._tables]
        gradients = [
            table.touched_gradients()[: len(own)]
            for table, own in zip(self._tables, ids, strict=True)
        ]
        if self._windows is None:
            if weight not in (0, 1):
                gradients = [rows * DTYPE.type(weight) for rows in gradients]
            self._steps = self._exchange(ids, gradients)
        else:
            self._windows.round += 1
            self._steps = self._share(self._windows, ids, gradients, weight)
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
                _add(table, handle, ids, _numbers(rows, self._all.code, _width(table)))
            if scale != 1:
                lib.dn_param_scale_gradient(handle, scale)

    def end(self) -> None:
        """What came is not read any more."""
        if self._windows is not None:
            self._parts = []
            self._windows.tell(READ)

    # ---- within a host -----------------------------------------------------------------

    def _share(
        self, windows: Windows, ids: list[Ids], gradients: list[NDArray[Any]], weight: float
    ) -> Iterator[Done]:
        """What a rank does that is not alone on its host."""
        hosts, owners = self._hosts, self._hosts.stripes
        all_, leaving = [True] * len(self._tables), []
        yield windows.have(READ, len(hosts.mine), behind=1)
        given = self._give(windows, ids, gradients, weight)
        if not windows.is_shared(GIVEN, hosts.local):
            leaving += [
                (part, rank, _GIVEN)
                for part, rank in zip(given, hosts.mine, strict=False)
                if rank != self._here.rank
            ]
        sent = self._swapped({}, [], _GIVEN, leaving)
        windows.tell(GIVEN)
        if hosts.local < owners:
            yield windows.have(GIVEN, len(hosts.mine))
            inbox: dict[int, Message] = {}
            yield self._swapped(inbox, self._absent(windows, GIVEN), _GIVEN, [])
            mine: list[tuple[Ids, NDArray[Any]]] = []
            for local, rank in enumerate(hosts.mine):
                if local == hosts.local:
                    message = given[local]
                elif rank in inbox:
                    message = inbox[rank]
                else:
                    message = _parts_of(windows.of(GIVEN, local), owners)[hosts.local]
                theirs = self._read(message, all_, None)
                if mine:
                    theirs = [merged_rows(*pair) for pair in zip(mine, theirs, strict=True)]
                mine = theirs
            yield from self._exchange([part[0] for part in mine], [part[1] for part in mine])
            sums = [
                _added_up(parts, self._all.code, _width(table))
                for table, parts in zip(self._tables, self._parts, strict=True)
            ]
            summed = self._message(
                [part[0] for part in sums],
                [part[1] for part in sums],
                lambda length: windows.own(SUMMED, length),
            )
            if not windows.is_shared(SUMMED, hosts.local):
                others = [rank for rank in hosts.mine if rank != self._here.rank]
                leaving = [(summed, rank, _SUMMED) for rank in others]
                sent = _both(sent, self._swapped({}, [], _SUMMED, leaving))
            windows.tell(SUMMED)
        yield windows.have(SUMMED, owners)
        inbox = {}
        yield self._swapped(inbox, self._absent(windows, SUMMED)[:owners], _SUMMED, [])
        self._parts = [[] for _ in self._tables]
        for local in range(owners):
            if local == hosts.local:
                message = summed
            else:
                rank = hosts.mine[local]
                message = inbox[rank] if rank in inbox else windows.of(SUMMED, local)
            for parts, part in zip(self._parts, self._read(message, all_, None), strict=True):
                parts.append(part)
        yield sent

    def _absent(self, windows: Windows, kind: int) -> list[int]:
        """The other ranks of this host whose windows of this kind cannot be read."""
        count = self._hosts.stripes if kind == SUMMED else len(self._hosts.mine)
        return [
            rank
            for local, rank in enumerate(self._hosts.mine[:count])
            if local != self._hosts.local and not windows.is_shared(kind, local)
        ]

    def _give(
        self, windows: Windows, ids: list[Ids], gradients: list[NDArray[Any]], weight: float
    ) -> list[Message]:
        """Puts this rank's rows, times weight, into its window: a message for each owner, in rising
        order of numbers, so that they can be merged."""
        owners = self._hosts.stripes
        orders = [np.lexsort((own, own % owners)) for own in ids]
        ends = [
            np.searchsorted((own % owners)[order], np.arange(owners + 1))
            for own, order in zip(ids, orders, strict=True)
        ]
        whole = [_row_bytes(table, None) for table in self._tables]
        sizes = [
            self._starts([int(end[k + 1] - end[k]) for end in ends], whole)[1]
            for k in range(owners)
        ]
        head = -(-(owners + 1) // _LINE) * _LINE
        at = np.cumsum([head, *sizes])
        window = windows.own(GIVEN, int(at[-1]))
        window[: owners + 1] = at
        messages = _parts_of(window, owners)
        for k, message in enumerate(messages):
            chosen = [order[end[k] : end[k + 1]] for order, end in zip(orders, ends, strict=True)]
            self._message(
                [own[some] for own, some in zip(ids, chosen, strict=True)],
                [rows[some] for rows, some in zip(gradients, chosen, strict=True)],
                message,
                weight,
            )
        return messages

    # ---- between hosts -----------------------------------------------------------------

    def _exchange(self, ids: list[Ids], gradients: list[NDArray[Any]]) -> Iterator[Done]:
        """Adds up this rank's and its counterparts' rows."""
        every = self._all
        first = every.rows_first(self._tables)
        sent = [
            every.encoded(table, own, rows) if is_first else None
            for is_first, table, own, rows in zip(first, self._tables, ids, gradients, strict=True)
        ]
        message = self._message(ids, sent)
        others = [rank for rank in self._counterparts if rank != self._here.rank]
        inbox: dict[int, Message] = {}
        yield self._swapped(inbox, others, _BETWEEN, [(message, rank, _BETWEEN) for rank in others])
        inbox[self._here.rank] = message
        # by host, then table
        read = [self._read(inbox[rank], first, every.code) for rank in self._counterparts]
        requests, sums = [], []
        for k, (table, is_first) in enumerate(zip(self._tables, first, strict=True)):
            theirs = [of[k][0] for of in read]
            few = len(self._counterparts) == 2 or every.are_few(table, theirs)
            if is_first:
                self._parts[k] = [of[k] for of in read]
            elif few:
                code = every.encoded(table, ids[k], gradients[k].copy())
                for rank, of in zip(self._counterparts, theirs, strict=True):
                    place = (
                        code
                        if rank == self._here.rank
                        else np.empty((len(of), code.shape[1]), code.dtype)
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
        between = Hosts([[rank] for rank in self._counterparts], self._hosts.host, 0)
        code = self._all.code
        compression = self._all.feedback(code, table, union) if code else None
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

    def _message(
        self,
        ids: Sequence[Ids],
        rows: Sequence[NDArray[Any] | None],
        room: Callable[[int], Message] | Message | None = None,
        weight: float = 1.0,
    ) -> Message:
        """Of each table the number of its rows, then all ids, then rows, where they are given,
        times weight; room: where, or what makes room for so many numbers."""
        starts, size = self._starts(
            [len(own) for own in ids],
            [0 if part is None else part.shape[1] * part.itemsize for part in rows],
        )
        message = (
            np.empty(size, np.int32) if room is None else room(size) if callable(room) else room
        )
        np.concatenate(
            [np.array([len(own) for own in ids], np.int32), *ids],
            out=message[: len(ids) + sum(map(len, ids))],
        )
        for part, start in zip(rows, starts, strict=True):
            if part is not None and part.size:
                out = message[start:].view(part.dtype)[: part.size]
                if weight in (0, 1):
                    out[:] = part.reshape(-1)
                else:
                    np.multiply(part.reshape(-1), DTYPE.type(weight), out=out)
        return message

    def _read(
        self, message: Message, with_rows: Sequence[bool], code: Code | None
    ) -> list[tuple[Ids, NDArray[Any]]]:
        """Of each table ids and rows, in this code; there may be only ids."""
        counts = message[: len(with_rows)].tolist()
        sizes = [_row_bytes(table, code) for table in self._tables]
        starts, _ = self._starts(counts, np.multiply(sizes, with_rows).tolist())
        parts, at = [], len(with_rows)
        for table, count, has, start in zip(self._tables, counts, with_rows, starts, strict=True):
            width, held = _width(table), count * has
            items = code.items(width) if code else width
            numbers = message[start:].view(code.dtype if code else DTYPE)[: held * items]
            parts.append((message[at : at + count], numbers.reshape(held, items)))
            at += count
        return parts

    def _starts(self, counts: Sequence[int], row_bytes: Sequence[int]) -> tuple[list[int], int]:
        """Where in a message each table's rows begin, and its length."""
        starts, at = [], len(counts) + sum(counts)
        for count, size in zip(counts, row_bytes, strict=True):
            at = -(-at // _LINE) * _LINE
            starts.append(at)
            at += -(-count * size // 4)
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


def _parts_of(window: Message, owners: int) -> list[Message]:
    """What a window has for each owner."""
    at = window[: owners + 1].tolist()
    return [window[start:end] for start, end in pairwise(at)]


def _both(first: Done, second: Done) -> Done:
    return lambda: first() and second()


def _width(table: LookupParameters) -> int:
    return int(np.prod(table.shape()[1:]))


def _row_bytes(table: LookupParameters, code: Code | None) -> int:
    width = _width(table)
    return code.items(width) * code.dtype.itemsize if code else width * DTYPE.itemsize


def _union(ids: Sequence[Ids]) -> NDArray[Any]:
    return np.unique(np.concatenate(ids))


def _added_up(
    parts: Sequence[tuple[Ids, NDArray[Any]]], code: Code | None, width: int
) -> tuple[Ids, NDArray[Any]]:
    """The sum of all, in the order in which put() would come to the rows: a norm is added up in
    that order, and must be the same everywhere."""
    union, first = np.unique(np.concatenate([ids for ids, _ in parts]), return_index=True)
    order = np.argsort(first)
    place = np.empty(len(union), np.intp)
    place[order] = np.arange(len(union))
    block = np.zeros((len(union), width), DTYPE)
    for ids, rows in parts:
        block[place[np.searchsorted(union, ids)]] += _numbers(rows, code, width)
    return union[order].astype(np.int32), block


def _numbers(rows: NDArray[Any], code: Code | None, width: int) -> NDArray[Any]:
    return rows if code is None or rows.dtype == DTYPE else code.decoded(rows, width)


def _integers(ids: Ids) -> Any:
    return ffi.from_buffer("int *", np.ascontiguousarray(ids))


def _add(table: LookupParameters, handle: Any, ids: Ids, rows: NDArray[Any]) -> None:
    if len(ids) and lib.dn_lookup_add(handle, len(ids), _integers(ids), pointer(rows)):
        raise MemoryError(
            f"gradient exchange: out of memory for the rows of {table.readable_name()}"
        )
