"""Touched rows of lookup tables between hosts: each crosses the wire once for each pair of hosts,
or as part of a sum.

The ranks of a host share its rows by their numbers: rank k of n has those whose remainder by n is
k. It adds up what all ranks of the host have of these, in rank order, exchanges them with rank k of
each other host, and gives the result to its host's ranks: the same bits everywhere. Within a host
all of this lies in memory that its ranks share (windows.py). A message says itself how many rows of
which tables it holds (row_messages.py), so that it can leave before the ranks have agreed on
anything.

Two hosts send each other all rows. More of them add up rows as joining.py says, by ranges of keys:
on the way from the ranks' rows to the sums there are the more of them the fewer keys a rank has, so
that nothing need be known of what others have used; and messages grow in number with the logarithm
of the hosts. With compression it is as rows_coded.py says.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..meter import hand_over
from ..params.parameters import LookupParameters
from ._world import World
from .compression import Code
from .joining import steps
from .row_messages import Message, Part, Pointers, Room, RowMessages
from .rows_coded import CodedExchange, Residuals
from .structure import Structure
from .windows import GIVEN, READ, SUMMED, Windows
from .wire import Hosts

Done = Callable[[], bool]

_GIVEN, _SUMMED, _BETWEEN, _BACK, _ROWS = range(1 << 14, (1 << 14) + 5)
"""Tags; smaller ones are those of sums of unions."""


class _Step(NamedTuple):
    """Of a sum over hosts: joining.py's, as rows.c takes it."""

    ranks: list[int]
    owned: Part
    sent: list[Part]  # to each of them
    got: list[Part]
    before: int
    """How many of them are in groups before this host's: rows are added up in the order of groups.
    """


class RowsBetweenHosts:
    """The exchange of tables' gradients; dense parameters are hybrid.py's business.

    Args:
        here: all ranks.
        comm: a communicator for this alone.
        hosts: the ranks.
        code: what messages between hosts hold instead of numbers as they are.
    """

    def __init__(self, here: World, comm: Any, hosts: Hosts, code: Code | None) -> None:
        self.here, self.comm, self.hosts = here, comm, hosts
        self.windows: Windows | None = None
        """Of this host's ranks, where there are several and they have tables."""
        self.lacking = Residuals(hosts, code) if code else None
        self._messages: RowMessages | None = None
        counterparts = hosts.counterparts
        self.way = [
            _Step(
                [counterparts[swap.host] for swap in step.swaps],
                Part(step.owned),
                [Part(swap.sent) for swap in step.swaps],
                [Part(swap.got) for swap in step.swaps],
                sum(swap.group < step.group for swap in step.swaps),
            )
            for step in (steps(len(hosts.ranks), hosts.host) if counterparts else ())
        ]
        """How it adds up rows with those of other hosts."""

    def begin(self, structure: Structure, weight: float) -> RowsRound | None:
        """Sends this rank's rows, times weight, or the first part of them. To be called on all
        ranks; None: there are no tables."""
        if not structure.tables:
            return None
        if self._messages is None or self._messages.structure is not structure:
            spread = len(self.hosts.ranks) > 2 and self.lacking is None
            self._messages = RowMessages(structure, self.hosts.stripes, spread)
        return RowsRound(self, self._messages, weight)

    def residuals(self) -> dict[str, NDArray[Any]]:
        """What messages have lacked so far, by table: (rows, width). Views."""
        return self.lacking.by_name() if self.lacking else {}

    def load_residuals(
        self,
        tables: Sequence[LookupParameters],
        residuals: Mapping[str, NDArray[Any]],
        shared: bool,
    ) -> None:
        """Goes on with these; shared: this rank takes of them what it sends."""
        if self.lacking:
            self.lacking.load(tables, residuals, shared)


class RowsRound:
    """One exchange under way. Gradients stay as they are until put().

    Args:
        rows: where it belongs.
        messages: about the tables.
        weight: what this rank's rows are multiplied by.
    """

    def __init__(self, rows: RowsBetweenHosts, messages: RowMessages, weight: float) -> None:
        self.structure = messages.structure
        self._moves = 0
        self._coded: CodedExchange | None = None
        self._all, self._here, self._comm, self._hosts = rows, rows.here, rows.comm, rows.hosts
        self._messages = messages
        self._counterparts = rows.hosts.counterparts
        self._sums: Pointers | None = None  # a message of each owner
        self._windows = rows.windows if len(rows.hosts.mine) > 1 else None
        if self._windows is not None:
            self._windows.round += 1
            self._steps = self._share(self._windows, weight)
        else:
            self._steps = self._alone(weight)
        self._next = next(self._steps, None)

    @property
    def moves(self) -> int:
        """Rises with everything that has come."""
        return self._moves + (self._coded.moves if self._coded else 0)

    def advance(self) -> bool:
        """Does what can be done; whether all is there."""
        while self._next is not None and self._next():
            self._moves += 1
            self._next = next(self._steps, None)
        return self._next is None

    def put(self, scale: float) -> None:
        """Each table's gradient becomes the sum over all ranks of the weighted ones, times
        scale."""
        assert self._sums is not None
        self._messages.put(self._sums.c, scale)

    def end(self) -> None:
        """What came is not read any more."""
        if self._windows is not None:
            self._sums = None
            self._windows.tell(READ)

    # ---- within a host -----------------------------------------------------------------

    def _alone(self, weight: float) -> Iterator[Done]:
        """What a rank does that is alone on its host."""
        window = self._messages.give(weight, lambda size: np.empty(size, np.int32))
        (mine,) = _parts_of(window, 1)
        summed = yield from self._exchange(mine, None)
        self._sums = self._messages.of([summed])

    def _share(self, windows: Windows, weight: float) -> Iterator[Done]:
        """What a rank does that is not."""
        hosts, owners, messages = self._hosts, self._hosts.stripes, self._messages
        yield windows.have(READ, len(hosts.mine), behind=1)
        given = messages.give(weight, lambda size: windows.own(GIVEN, size))
        sent = self._swapped({}, [], self._told(windows, GIVEN, _parts_of(given, owners)), _GIVEN)
        windows.tell(GIVEN)
        if hosts.local < owners:
            yield windows.have(GIVEN, len(hosts.mine))
            shared, inbox = windows.shared(GIVEN, len(hosts.mine)), dict[int, Message]()
            yield self._swapped(inbox, [hosts.mine[k] for k in shared.absent], [], _GIVEN)
            if not shared.absent:
                theirs = messages.given(shared.c, len(hosts.mine), hosts.local)
            else:
                parts = [
                    inbox[rank]
                    if rank in inbox
                    else _parts_of(shared.windows[local], owners)[hosts.local]
                    for local, rank in enumerate(hosts.mine)
                ]
                theirs = messages.of(parts)
            mine = messages.add(theirs)
            summed = yield from self._exchange(mine, lambda size: windows.own(SUMMED, size))
            told = self._told(windows, SUMMED, [summed] * len(hosts.mine))
            sent = _both(sent, self._swapped({}, [], told, _SUMMED))
            windows.tell(SUMMED)
        yield windows.have(SUMMED, owners)
        shared, inbox = windows.shared(SUMMED, owners), {}
        yield self._swapped(inbox, [hosts.mine[k] for k in shared.absent], [], _SUMMED)
        if shared.absent:
            every = [
                inbox.get(rank, window)
                for rank, window in zip(hosts.mine, shared.windows, strict=False)
            ]
            self._sums = messages.of(every)
        else:
            self._sums = Pointers(shared.c, owners, 0)
        yield sent

    def _told(
        self, windows: Windows, kind: int, messages: Sequence[Message]
    ) -> list[tuple[Message, int]]:
        """What this rank has to send to others of its host, which cannot read its window."""
        if windows.is_shared(kind, self._hosts.local):
            return []
        pairs = zip(messages, self._hosts.mine, strict=False)
        return [(message, rank) for message, rank in pairs if rank != self._here.rank]

    # ---- between hosts -----------------------------------------------------------------

    def _exchange(self, mine: Message, room: Room | None) -> Generator[Done, None, Message]:
        """The sum of this rank's and its counterparts' rows."""
        lacking, messages = self._all.lacking, self._messages
        if lacking is not None:
            self._coded = coded = CodedExchange(
                lacking,
                self._hosts,
                self._comm,
                lambda inbox, sources, outbox: self._swapped(inbox, sources, outbox, _BETWEEN),
                self._done,
                _ROWS,
            )
            owner = self._hosts.local
            parts = yield from coded.run(messages.tables, messages.unpacked(mine, owner))
            return messages.packed(parts, room)
        if len(self._counterparts) == 2:
            other = self._counterparts[1 - self._hosts.host]
            inbox: dict[int, Message] = {self._here.rank: mine}
            yield self._swapped(inbox, [other], [(mine, other)], _BETWEEN)
            return messages.add(messages.of([inbox[rank] for rank in self._counterparts]), room)
        way = self._all.way
        for step in way:
            inbox = {}
            outbox = [
                (messages.cut(mine, part), rank)
                for part, rank in zip(step.sent, step.ranks, strict=True)
            ]
            kept = messages.cut(mine, step.owned)
            yield self._swapped(inbox, step.ranks, outbox, _BETWEEN)
            came = [inbox[rank] for rank in step.ranks]
            came.insert(step.before, kept)
            mine = messages.add(messages.of(came))
        for step in reversed(way):
            inbox = {}
            outbox = [
                (messages.cut(mine, part), rank)
                for part, rank in zip(step.got, step.ranks, strict=True)
            ]
            yield self._swapped(inbox, step.ranks, outbox, _BACK)
            mine = messages.add(
                messages.of([mine, *inbox.values()]), room if step is way[0] else None
            )
        return mine

    # ---- messages ----------------------------------------------------------------------

    def _swapped(
        self,
        inbox: dict[int, Message],
        sources: Sequence[int],
        outbox: Sequence[tuple[Message, int]],
        tag: int,
    ) -> Done:
        """Sends what is in the outbox, as (message, rank), and receives a message from each source,
        of whatever length."""
        hand_over(sum(message.nbytes for message, _ in outbox))
        requests = [self._comm.Isend(message, rank, tag) for message, rank in outbox]
        awaited, status, integer = list(sources), self._here.mpi.Status(), self._here.mpi.INT
        left = self._done(requests)

        def done() -> bool:
            for rank in list(awaited):
                coming = self._comm.Improbe(rank, tag, status)
                if coming is not None:
                    inbox[rank] = np.empty(status.Get_count(integer), np.int32)
                    requests.append(coming.Irecv(inbox[rank]))
                    awaited.remove(rank)
            return not awaited and left()

        return done

    def _done(self, requests: list[Any]) -> Done:
        test = self._here.mpi.Request.Testall
        return lambda: bool(test(requests))


def _parts_of(window: Message, owners: int) -> list[Message]:
    """What a window has for each owner."""
    at = window[: owners + 1].tolist()
    return [window[at[k] : at[k + 1]] for k in range(owners)]


def _both(first: Done, second: Done) -> Done:
    return lambda: first() and second()
