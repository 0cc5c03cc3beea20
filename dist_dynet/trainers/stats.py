"""Stats: what a trainer knows about its run, in numbers; and which ranks the others wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .. import meter
from .._ffi import lib
from .._integers import number_argument

WORTH_SAYING = 0.1
"""Slow ranks are reported if the others wait for so much more of their time than these do."""


class Slowest(NamedTuple):
    """The ranks that the others wait for."""

    ranks: tuple[int, ...]
    own: float
    """The share of their time that these ranks wait, on average."""
    others: float
    """The share of their time that the other ranks wait, on average."""

    def words(self, hosts: Sequence[str] | Mapping[int, str]) -> str:
        """As a sentence; hosts: the host of each rank.

        >>> Slowest((3,), 0.004, 0.382).words(["node0", "node0", "node1", "node1"])
        'the others wait 38 % of their time for rank 3 on node1, which waits 0 %'
        """
        one = len(self.ranks) == 1
        who = f"{'rank' if one else 'ranks'} {', '.join(map(str, self.ranks))}"
        where = " and ".join(dict.fromkeys(hosts[rank] for rank in self.ranks))
        return (
            f"the others wait {100 * self.others:.0f} % of their time for {who} on {where}, which"
            f" {'waits' if one else 'wait'} {100 * self.own:.0f} %"
        )


def slowest(seconds: Mapping[str, Sequence[float]]) -> Slowest | None:
    """The ranks that the others wait for, if this costs the others more than 10 % of their time;
    None if waiting is even.

    A rank's share of waiting is its time in the phase "agreement", divided by that in all phases
    but "save" and "evaluate". The slowest ranks are those below the widest gap between the ranks'
    shares, at most half of all. They are named if the gap is wider than 10 %, and if they wait less
    than half as much as the others.

    Args:
        seconds: by phase, of each rank.

    >>> even = {"compute": [0.6, 0.6, 0.5, 0.6], "agreement": [0.4, 0.4, 0.5, 0.4]}
    >>> slowest(even) is None
    True
    >>> slowest({"compute": [0.5, 0.5, 0.5, 1.0], "agreement": [0.5, 0.5, 0.5, 0.0]})
    Slowest(ranks=(3,), own=0.0, others=0.5)
    """
    waited = seconds["agreement"]
    counted = [seconds[phase] for phase in seconds if phase not in ("save", "evaluate")]
    totals = [sum(of_rank) for of_rank in zip(*counted, strict=True)]
    if len(totals) < 2 or not all(totals):
        return None
    shares = [wait / total for wait, total in zip(waited, totals, strict=True)]
    order = sorted(range(len(shares)), key=shares.__getitem__)
    gap, low = max(
        (shares[order[i]] - shares[order[i - 1]], i) for i in range(1, len(order) // 2 + 1)
    )
    rest = [shares[b] - shares[a] for a, b in zip(order[low:], order[low + 1 :], strict=False)]
    own, others = (
        sum(shares[rank] for rank in part) / len(part) for part in (order[:low], order[low:])
    )
    if gap <= WORTH_SAYING or gap < max(rest, default=0) or 2 * own >= others:
        return None
    return Slowest(tuple(sorted(order[:low])), own, others)


class Stats(NamedTuple):
    """The result of trainer.stats(). Times are in seconds."""

    updates: int
    """Number of updates of the trainer."""
    seconds: dict[str, float]
    """By phase, for this process, since the trainer was made."""
    bytes: int
    """Bytes of gradients that this process has handed over to other ranks since then: to MPI, or in
    shared memory."""
    learning_rate: float
    """Of the next update."""
    gradient_norm: float | None
    """The L2 norm of the last update's averaged gradients before clipping; None: unknown, because
    nothing limits it."""
    ranks: dict[str, list[float]]
    """By phase, for each rank, from the first update to the last; empty with one process."""
    hosts: list[str]
    """The host of each rank; empty with one process."""

    @property
    def wall(self) -> float:
        """Seconds since the trainer was made: the sum over all phases."""
        return sum(self.seconds.values())

    @property
    def slowest(self) -> Slowest | None:
        """The ranks that the others wait for, if the others lose more than 10 % of their time."""
        return slowest(self.ranks) if self.ranks else None


class WithStats:
    """The statistics of a trainer."""

    __slots__ = ()
    _c: Any
    _settings: Any
    _since: meter.Reading
    _logged: dict[str, list[float]]

    def stats(self) -> Stats:
        """Where the time went since the trainer was made, by phase, and other figures of the run.
        See Stats for the fields and their units.

        Phases are those of the main thread: "update" is the time inside update(), "compute"
        everything else that is in no other phase.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> trainer.update()
        >>> stats = trainer.stats()
        >>> stats.updates, list(stats.seconds), stats.seconds["update"] <= stats.wall
        (1, ['compute', 'agreement', 'exchange', 'rows', 'update', 'save', 'evaluate'], True)
        """
        spent, norm = meter.read().since(self._since), lib.dn_trainer_last_norm(self._c)
        return Stats(
            updates=int(lib.dn_trainer_updates(self._c)),
            seconds=spent.seconds(),
            bytes=spent.bytes,
            learning_rate=float(self._settings.rate),
            gradient_norm=norm if norm >= 0 else None,
            ranks={},
            hosts=[],
        )

    def log(self, **values: float) -> None:
        """Adds numbers such as the loss to the next line of metrics (docs/metrics.md), on rank 0:
        the line has the mean of the values that each name was given since the previous line.

        Raises:
            TypeError: a value is not a number; nothing is added then.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> trainer.log(loss=0.25, accuracy=0.9)
        """
        numbers = {name: number_argument(value, f"log: {name}") for name, value in values.items()}
        for name, value in numbers.items():
            added = self._logged.setdefault(name, [0.0, 0])
            added[0] += value
            added[1] += 1
