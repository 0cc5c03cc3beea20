"""Exchanges touched rows of lookup tables between hosts: each crosses the network once for each
pair of hosts, or as part of a sum.

The ranks of a host share its rows by row number: rank k of n has the rows with remainder k. It sums
these rows over all ranks of the host, in rank order, exchanges them with rank k of each other host,
and gives the result to its host's ranks: the same bits everywhere. Within a host all of this
happens in memory that its ranks share (windows.py). A message states how many rows of which tables
it holds (row_messages.py), so that it can be sent before the negotiation.

Two hosts send each other all rows. More hosts sum rows by recursive halving (recursive_halving.py),
by ranges of keys. The number of rows grows on the way to the sums as the range of keys of a rank
shrinks, so that nothing need be known about the rows that other ranks have used; and the number of
messages grows with the logarithm of the number of hosts. rows_compressed.py does it with
compression.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from numpy.typing import NDArray

from ...meter import hand_over
from ...params.parameters import LookupParameters
from ..agreement.structure import Structure
from ..processes.world import World
from .compression import Code
from .recursive_halving import Range, Step, both, steps
from .row_messages import Allocate, Cuts, KeyRange, Message, Pointers, ReusedBuffer, RowMessages
from .rows_compressed import CompressedExchange, Residuals
from .windows import GIVEN, READ, SUMMED, Windows
from .wire import Hosts

Done = Callable[[], bool]

_GIVEN, _SUMMED, _BETWEEN, _BACK, _ROWS = range(1 << 14, (1 << 14) + 5)
"""Tags; smaller ones are used by sums of unions."""

_GROUPS = 8
"""Number of groups of hosts that merge at a time. With four, a rank would send a sixth fewer
messages at 32 hosts, but in more steps, in each of which it merges rows, and more bytes: the later
rows are summed, the more often they are sent."""

_STAYS = -1
"""In place of a rank: the part stays here."""


class _Step:
    """A step of recursive_halving.py, with what its messages need.

    Args:
        step: of recursive_halving.py.
        owned: what this host owns before it.
        counterparts: the ranks, by host.
    """

    def __init__(self, step: Step, owned: Range, counterparts: list[int]) -> None:
        self.ranks = [counterparts[swap.host] for swap in step.swaps]
        self.before = sum(swap.group < step.group for swap in step.swaps)
        """How many of them are in groups before this host's: rows are summed in the order of
        groups."""
        parts = [(swap.sent, counterparts[swap.host]) for swap in step.swaps]
        parts.append((both(owned, step.owned), _STAYS))
        parts.sort()
        self.parts = [rank for _, rank in parts]
        """Where the parts go that this host has owned, in rising order."""
        self.cuts = Cuts([end for (_, end), _ in parts[:-1]])
        self.got = [None if swap.got == step.owned else KeyRange(swap.got) for swap in step.swaps]
        """What each of them receives of the sum; None: all of it."""
        self.came = [[ReusedBuffer() for _ in self.ranks] for _ in range(2)]
        self.sums = ReusedBuffer(), ReusedBuffer()
        """Memory for received messages and for sums: while summing, and while distributing."""


class RowsBetweenHosts:
    """The exchange of tables' gradients; hybrid.py exchanges dense parameters.

    Args:
        here: all ranks.
        comm: a communicator for rows alone.
        hosts: the ranks.
        code: how messages between hosts encode numbers; None: as they are.
    """

    def __init__(self, here: World, comm: Any, hosts: Hosts, code: Code | None) -> None:
        self.here, self.comm, self.hosts = here, comm, hosts
        self.windows: Windows | None = None
        """Windows of this host's ranks, if there are several and they have tables."""
        self.lacking = Residuals(hosts, code) if code else None
        self._messages: RowMessages | None = None
        self.way: list[_Step] = []
        """The steps by which it sums rows with other hosts."""
        counterparts, owned = hosts.counterparts, (Fraction(0), Fraction(1))
        for step in steps(len(hosts.ranks), hosts.host, _GROUPS) if counterparts else ():
            self.way.append(_Step(step, owned, counterparts))
            owned = step.owned
        self.given, self.mine, self.came, self.summed = (
            ReusedBuffer(),
            ReusedBuffer(),
            ReusedBuffer(),
            ReusedBuffer(),
        )
        """Buffers: for the window and the sum of a rank that is alone on its host; for the sum of
        the host's ranks; for messages of the only other host."""

    def begin(self, structure: Structure, weight: float) -> RowsRound | None:
        """Sends this rank's rows, times weight, or their first part. Call it on all ranks; None:
        there are no tables."""
        if not structure.tables:
            return None
        if self._messages is None or self._messages.structure is not structure:
            spread = len(self.hosts.ranks) > 2 and self.lacking is None
            self._messages = RowMessages(structure, self.hosts.stripes, spread)
        return RowsRound(self, self._messages, weight)

    def residuals(self) -> dict[str, NDArray[Any]]:
        """The rounding errors of messages so far, by table: (rows, width). Views."""
        return self.lacking.by_name() if self.lacking else {}

    def conclude(self, updated: bool, factor: float = 1.0, limit: float = 0.0) -> None:
        """As HybridExchange.conclude(), with sums that are not yet scaled."""
        if self.lacking is None:
            return
        if not updated:
            self.lacking.take_back()
        self.lacking.commit(factor, limit)

    def load_residuals(
        self,
        tables: Sequence[LookupParameters],
        residuals: Mapping[str, NDArray[Any]],
        shared: bool,
    ) -> None:
        """Continues with these residuals; shared: this rank takes the part that it sends."""
        if self.lacking:
            self.lacking.load(tables, residuals, shared)


class RowsRound:
    """One exchange under way. Gradients do not change before put().

    Args:
        rows: the exchange that it belongs to.
        messages: about the tables.
        weight: the factor for this rank's rows.
    """

    def __init__(self, rows: RowsBetweenHosts, messages: RowMessages, weight: float) -> None:
        self.structure = messages.structure
        self._moves = 0
        self._coded: CompressedExchange | None = None
        self._all, self._here, self._comm, self._hosts = rows, rows.here, rows.comm, rows.hosts
        self._messages = messages
        self._counterparts = rows.hosts.counterparts
        self._sums: Pointers | None = None  # a message of each owner
        self._own: Message | None = None  # this one's
        self._windows = rows.windows if len(rows.hosts.mine) > 1 else None
        if self._windows is not None:
            self._windows.round += 1
            self._steps = self._share(self._windows, weight)
        else:
            self._steps = self._alone(weight)
        self._next = next(self._steps, None)
        self.advance()

    @property
    def moves(self) -> int:
        """A number that increases with all progress."""
        return self._moves + (self._coded.moves if self._coded else 0)

    def advance(self) -> bool:
        """Makes progress. Returns whether everything has arrived."""
        while self._next is not None and self._next():
            self._moves += 1
            self._next = next(self._steps, None)
        return self._next is None

    def has_own(self) -> bool:
        """Makes progress. Returns whether the rows that this rank sums are complete."""
        return self.advance() or self._own is not None

    def put(self, scale: float, own: bool = False) -> None:
        """Sets each table's gradient to the sum over all ranks of the weighted gradients, times
        scale. own: in tables whose rows have owners, only the rows of this rank."""
        assert self._sums is not None
        self._messages.put(self._sums.c, scale, own)

    def are_owned(self) -> bool:
        """Whether put() with own=True needs only the rows that this rank sums."""
        return self._messages.are_owned()

    def put_own(self, scale: float) -> bool:
        """As put() with own=True, from these rows. Returns whether mark() must follow when
        everything has arrived."""
        assert self._own is not None
        return self._messages.put_own(self._own, self._hosts.local, scale)

    def mark(self) -> None:
        """Marks tables as having gradients if other ranks have used rows of them."""
        assert self._sums is not None
        self._messages.mark(self._sums.c)

    def end(self) -> None:
        """What was received is no longer read."""
        if self._windows is not None:
            self._sums = self._own = None
            self._windows.tell(READ)

    # ---- within a host -----------------------------------------------------------------

    def _alone(self, weight: float) -> Iterator[Done]:
        """The steps of a rank that is alone on its host."""
        window = self._messages.give(weight, self._all.given)
        given = self._messages.of(_parts_of(window, 1))
        self._sums = self._messages.of([(yield from self._exchange(given, self._all.summed))])

    def _share(self, windows: Windows, weight: float) -> Iterator[Done]:
        """The steps of a rank that shares its host."""
        hosts, owners, messages = self._hosts, self._hosts.stripes, self._messages
        yield windows.have(READ, len(hosts.mine), behind=1)
        given = messages.give(weight, lambda size: windows.own(GIVEN, size))
        sent: list[Any] = []
        if not windows.is_shared(GIVEN, hosts.local):
            sent += self._send_to_host(_parts_of(given, owners), _GIVEN)
        windows.tell(GIVEN)
        if hosts.local < owners:
            yield windows.have(GIVEN, len(hosts.mine))
            shared = windows.shared(GIVEN, len(hosts.mine))
            if not shared.absent:
                theirs = messages.given(shared.c, len(hosts.mine), hosts.local)
            else:
                inbox = yield from self._receive_from_host(shared.absent, _GIVEN)
                theirs = messages.of(
                    [
                        inbox[local] if local in inbox else _parts_of(window, owners)[hosts.local]
                        for local, window in enumerate(shared.windows)
                    ]
                )
            summed = yield from self._exchange(theirs, lambda size: windows.own(SUMMED, size))
            self._own = summed
            if not windows.is_shared(SUMMED, hosts.local):
                sent += self._send_to_host([summed] * len(hosts.mine), _SUMMED)
            windows.tell(SUMMED)
        yield windows.have(SUMMED, owners)
        shared = windows.shared(SUMMED, owners)
        if not shared.absent:
            self._sums = Pointers(shared.c, owners, 0)
        else:
            inbox = yield from self._receive_from_host(shared.absent, _SUMMED)
            self._sums = messages.of(
                [inbox.get(local, window) for local, window in enumerate(shared.windows)]
            )
        if sent:
            yield self._done(sent)

    def _send_to_host(self, messages: Sequence[Message], tag: int) -> list[Any]:
        """Sends each message to a rank of this host that cannot read this rank's window."""
        pairs = zip(messages, self._hosts.mine, strict=False)
        return self._send([pair for pair in pairs if pair[1] != self._here.rank], tag)

    def _receive_from_host(
        self, absent: list[int], tag: int
    ) -> Generator[Done, None, dict[int, Message]]:
        """The messages of ranks of this host whose windows this rank cannot read, by their
        place."""
        ranks = [self._hosts.mine[local] for local in absent]
        came = yield from self._swap(ranks, [], tag)
        return dict(zip(absent, came, strict=True))

    # ---- between hosts -----------------------------------------------------------------

    def _exchange(self, given: Pointers, allocate: Allocate) -> Generator[Done, None, Message]:
        """The sum of what this host's ranks have given and what its counterparts have."""
        messages, way = self._messages, self._all.way
        if (lacking := self._all.lacking) is not None:
            (mine,) = messages.add(given, self._all.mine)
            self._coded = coded = CompressedExchange(
                lacking,
                self._hosts,
                self._comm,
                lambda sources, outbox: self._swap(sources, outbox, _BETWEEN),
                self._done,
                _ROWS,
            )
            owner = self._hosts.local
            parts = yield from coded.run(messages.tables, messages.unpacked(mine, owner))
            return messages.packed(parts, allocate)
        if len(self._counterparts) == 2:
            (mine,) = messages.add(given, self._all.mine)
            other = self._counterparts[1 - self._hosts.host]
            came = yield from self._swap([other], [(mine, other)], _BETWEEN, [self._all.came])
            came.insert(self._hosts.host, mine)
            return messages.add(messages.of(came), allocate)[0]
        sums = self._all.mine
        for step in way:
            cut = dict(zip(step.parts, messages.add(given, sums, step.cuts), strict=True))
            kept = cut.pop(_STAYS)
            outbox = [(part, rank) for rank, part in cut.items()]
            came = yield from self._swap(step.ranks, outbox, _BETWEEN, step.came[0])
            came.insert(step.before, kept)
            given, sums = messages.of(came), step.sums[0]
        (mine,) = messages.add(given, sums if way else allocate)
        for step in reversed(way):
            outbox = [
                (mine if part is None else messages.cut(mine, part), rank)
                for part, rank in zip(step.got, step.ranks, strict=True)
            ]
            came = yield from self._swap(step.ranks, outbox, _BACK, step.came[1])
            last = step is way[0]
            (mine,) = messages.add(messages.of([mine, *came]), allocate if last else step.sums[1])
        return mine

    # ---- messages ----------------------------------------------------------------------

    def _send(self, outbox: Sequence[tuple[Message, int]], tag: int) -> list[Any]:
        hand_over(sum(message.nbytes for message, _ in outbox))
        return [self._comm.Isend(message, rank, tag) for message, rank in outbox]

    def _swap(
        self,
        sources: Sequence[int],
        outbox: Sequence[tuple[Message, int]],
        tag: int,
        allocators: Sequence[Allocate] | None = None,
    ) -> Generator[Done, None, list[Message]]:
        """Sends the outbox, as (message, rank), and receives a message of any length from each
        source, into memory of these allocators."""
        requests, status = self._send(outbox, tag), self._here.mpi.Status()
        integer, test = self._here.mpi.INT, self._here.mpi.Request.Testall
        came: dict[int, Message] = {}
        allocators = allocators or [ReusedBuffer() for _ in sources]
        awaited = list(enumerate(sources))

        def done() -> bool:
            for pair in awaited[:]:
                coming = self._comm.Improbe(pair[1], tag, status)
                if coming is not None:
                    came[pair[0]] = place = allocators[pair[0]](status.Get_count(integer))
                    requests.append(coming.Irecv(place))
                    awaited.remove(pair)
            return not awaited and bool(test(requests))

        yield done
        return [came[k] for k in range(len(sources))]

    def _done(self, requests: list[Any]) -> Done:
        test = self._here.mpi.Request.Testall
        return lambda: bool(test(requests))


def _parts_of(window: Message, owners: int) -> list[Message]:
    """The part of a window for each owner."""
    at = window[: owners + 1].tolist()
    return [window[at[k] : at[k + 1]] for k in range(owners)]
