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
from fractions import Fraction
from typing import Any

from numpy.typing import NDArray

from ..meter import hand_over
from ..params.parameters import LookupParameters
from ._world import World
from .compression import Code
from .joining import Range, Step, both, steps
from .row_messages import Allocate, Cuts, Kept, Message, Part, Pointers, RowMessages
from .rows_coded import CodedExchange, Residuals
from .structure import Structure
from .windows import GIVEN, READ, SUMMED, Windows
from .wire import Hosts

Done = Callable[[], bool]

_GIVEN, _SUMMED, _BETWEEN, _BACK, _ROWS = range(1 << 14, (1 << 14) + 5)
"""Tags; smaller ones are those of sums of unions."""

_GROUPS = 8
"""So many groups of hosts join at a time. Of four, a rank would send a sixth fewer messages at 32
hosts, but in more steps, in each of which it merges rows, and more bytes: the later rows are added
up, the more often they are sent."""

_STAYS = -1
"""No rank."""


class _Step:
    """Of a sum over hosts: joining.py's, as messages are made for it.

    Args:
        step: joining.py's.
        owned: what this host has owned before.
        counterparts: the ranks, by host.
    """

    def __init__(self, step: Step, owned: Range, counterparts: list[int]) -> None:
        self.ranks = [counterparts[swap.host] for swap in step.swaps]
        self.before = sum(swap.group < step.group for swap in step.swaps)
        """How many of them are in groups before this host's: rows are added up in the order of
        groups."""
        parts = [(swap.sent, counterparts[swap.host]) for swap in step.swaps]
        parts.append((both(owned, step.owned), _STAYS))
        parts.sort()
        self.parts = [rank for _, rank in parts]
        """Where the parts go of what this host has owned, in rising order."""
        self.cuts = Cuts([end for (_, end), _ in parts[:-1]])
        self.got = [None if swap.got == step.owned else Part(swap.got) for swap in step.swaps]
        """What each of them gets of the sum; None: all of it."""
        self.came = [[Kept() for _ in self.ranks] for _ in range(2)]
        self.sums = Kept(), Kept()
        """Memory for what comes, and its sums: on the way there, and back."""


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
        self.way: list[_Step] = []
        """How it adds up rows with those of other hosts."""
        counterparts, owned = hosts.counterparts, (Fraction(0), Fraction(1))
        for step in steps(len(hosts.ranks), hosts.host, _GROUPS) if counterparts else ():
            self.way.append(_Step(step, owned, counterparts))
            owned = step.owned
        self.given, self.mine, self.came, self.summed = Kept(), Kept(), Kept(), Kept()
        """Memory for a window and for the sum of a rank that is alone on its host; for what the
        host's ranks have given together; for what comes of the only other host."""

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

    def conclude(self, updated: bool, factor: float = 1.0, limit: float = 0.0) -> None:
        """As HybridExchange.conclude(), of sums that are not yet scaled."""
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
        """Rises with everything that has come."""
        return self._moves + (self._coded.moves if self._coded else 0)

    def advance(self) -> bool:
        """Does what can be done; whether all is there."""
        while self._next is not None and self._next():
            self._moves += 1
            self._next = next(self._steps, None)
        return self._next is None

    def has_own(self) -> bool:
        """Does what can be done; whether the rows that this rank adds up are there."""
        return self.advance() or self._own is not None

    def put(self, scale: float, own: bool = False) -> None:
        """Each table's gradient becomes the sum over all ranks of the weighted ones, times scale;
        own: where tables have owners of rows this rank's alone."""
        assert self._sums is not None
        self._messages.put(self._sums.c, scale, own)

    def are_owned(self) -> bool:
        """Whether for put() of own rows those are enough that this rank adds up."""
        return self._messages.are_owned()

    def put_own(self, scale: float) -> bool:
        """As put() of own rows, which are there. Whether mark() is to follow when all is there."""
        assert self._own is not None
        return self._messages.put_own(self._own, self._hosts.local, scale)

    def mark(self) -> None:
        """Tables of which this rank owns no row that is used have gradients if others do."""
        assert self._sums is not None
        self._messages.mark(self._sums.c)

    def end(self) -> None:
        """What came is not read any more."""
        if self._windows is not None:
            self._sums = self._own = None
            self._windows.tell(READ)

    # ---- within a host -----------------------------------------------------------------

    def _alone(self, weight: float) -> Iterator[Done]:
        """What a rank does that is alone on its host."""
        window = self._messages.give(weight, self._all.given)
        given = self._messages.of(_parts_of(window, 1))
        self._sums = self._messages.of([(yield from self._exchange(given, self._all.summed))])

    def _share(self, windows: Windows, weight: float) -> Iterator[Done]:
        """What a rank does that is not."""
        hosts, owners, messages = self._hosts, self._hosts.stripes, self._messages
        yield windows.have(READ, len(hosts.mine), behind=1)
        given = messages.give(weight, lambda size: windows.own(GIVEN, size))
        sent: list[Any] = []
        if not windows.is_shared(GIVEN, hosts.local):
            sent += self._tell(_parts_of(given, owners), _GIVEN)
        windows.tell(GIVEN)
        if hosts.local < owners:
            yield windows.have(GIVEN, len(hosts.mine))
            shared = windows.shared(GIVEN, len(hosts.mine))
            if not shared.absent:
                theirs = messages.given(shared.c, len(hosts.mine), hosts.local)
            else:
                inbox = yield from self._told(shared.absent, _GIVEN)
                theirs = messages.of(
                    [
                        inbox[local] if local in inbox else _parts_of(window, owners)[hosts.local]
                        for local, window in enumerate(shared.windows)
                    ]
                )
            summed = yield from self._exchange(theirs, lambda size: windows.own(SUMMED, size))
            self._own = summed
            if not windows.is_shared(SUMMED, hosts.local):
                sent += self._tell([summed] * len(hosts.mine), _SUMMED)
            windows.tell(SUMMED)
        yield windows.have(SUMMED, owners)
        shared = windows.shared(SUMMED, owners)
        if not shared.absent:
            self._sums = Pointers(shared.c, owners, 0)
        else:
            inbox = yield from self._told(shared.absent, _SUMMED)
            self._sums = messages.of(
                [inbox.get(local, window) for local, window in enumerate(shared.windows)]
            )
        if sent:
            yield self._done(sent)

    def _tell(self, messages: Sequence[Message], tag: int) -> list[Any]:
        """Sends each of these to a rank of this host, which cannot read this one's window."""
        pairs = zip(messages, self._hosts.mine, strict=False)
        return self._send([pair for pair in pairs if pair[1] != self._here.rank], tag)

    def _told(self, absent: list[int], tag: int) -> Generator[Done, None, dict[int, Message]]:
        """What ranks of this host have sent whose windows this one cannot read; by their place."""
        ranks = [self._hosts.mine[local] for local in absent]
        came = yield from self._swap(ranks, [], tag)
        return dict(zip(absent, came, strict=True))

    # ---- between hosts -----------------------------------------------------------------

    def _exchange(self, given: Pointers, allocate: Allocate) -> Generator[Done, None, Message]:
        """The sum of what this host's ranks have given, and those of its counterparts."""
        messages, way = self._messages, self._all.way
        if (lacking := self._all.lacking) is not None:
            (mine,) = messages.add(given, self._all.mine)
            self._coded = coded = CodedExchange(
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
        """Sends what is in the outbox, as (message, rank), and receives a message from each source,
        of whatever length, into what these allocate."""
        requests, status = self._send(outbox, tag), self._here.mpi.Status()
        integer, test = self._here.mpi.INT, self._here.mpi.Request.Testall
        came: dict[int, Message] = {}
        allocators = allocators or [Kept() for _ in sources]
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
    """What a window has for each owner."""
    at = window[: owners + 1].tolist()
    return [window[at[k] : at[k + 1]] for k in range(owners)]
