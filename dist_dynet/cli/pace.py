"""Where the time of an update goes, and the scaling that follows from it; for `dist-dynet check`.

Seconds of an update: c(b) for computing with b examples on a rank, w for waiting for other ranks, x
for the exchange, u for the update itself. Of the computing, a part A does not depend on the number
of examples and a part B does: c(batch) = A + B with one rank, c(batch / N) = A + B / N with N,
where neither is taken to be less than 0. Then M ranks that divide the batch are (A + B + u) / (A +
B / M + w + x + u) times as fast as one, and M ranks with a full batch each have the efficiency (A +
B + u) / (A + B + w + x + u). w and x are those measured with N ranks. docs/scaling.md says what
several hosts add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .trials import Run

PARTS = ("computing", "waiting", "exchange", "update")
_RANKS = (2, 4, 8, 16)


@dataclass(frozen=True)
class Pace:
    """Median seconds of each part of an update, a row for each rank."""

    parts: NDArray[np.float64]
    updates: int

    @property
    def mean(self) -> list[float]:
        """Over the ranks."""
        return [float(x) for x in self.parts.mean(axis=0)]


def pace_of(run: Run) -> Pace | None:
    """The pace of the first trainer, by the phases of docs/metrics.md; None if too few updates were
    timed.

    The rank that comes last waits for no other: the excess of the others' agreement times is
    waiting, the rest belongs to the exchange.
    """
    times = [record["trainers"][0]["times"] for _, record in sorted(run.records.items())]
    updates = min(map(len, times), default=0)
    if not updates:
        return None
    every = np.array([rank[:updates] for rank in times], np.float64)  # (ranks, updates, parts)
    agreed = every[:, :, 1].min(axis=0)
    waited = every[:, :, 1] - agreed
    parts = np.stack([every[:, :, 0], waited, every[:, :, 2] + agreed, every[:, :, 3]], axis=-1)
    return Pace(np.median(parts, axis=1), updates)


def table(one: Pace, many: Pace) -> list[str]:
    """The times as lines, in ms."""
    ranks = [f"rank {i}" for i in range(len(many.parts))]
    lines = [f"{'ms':<10} {'1 rank':>9}" + "".join(f" {name:>9}" for name in ranks)]
    for i, part in enumerate(PARTS):
        numbers = (1000 * float(x) for x in (one.parts[0, i], *many.parts[:, i]))
        lines.append(f"{part:<10}" + "".join(f" {x:9.3f}" for x in numbers))
    return lines


def expected(one: Pace, many: Pace, divided: bool) -> list[str]:
    """The expected speed with other numbers of ranks on one host. divided: the N ranks shared the
    batch of the single rank."""
    n = len(many.parts)
    c, _, _, u = one.mean
    cn, w, x, un = many.mean
    if not divided:
        return [f"{n} ranks: efficiency {(c + u) / (cn + w + x + un):.2f}"]
    fixed = cn if cn > c else max((n * cn - c) / (n - 1), 0.0)
    shared = n * (cn - fixed)
    speed = ", ".join(f"{m}: {(c + u) / (fixed + shared / m + w + x + un):.2f}" for m in _RANKS)
    return [
        f"measured with {n} ranks: {(c + u) / (cn + w + x + un):.2f} times as fast as 1",
        f"times as fast with so many ranks, the batch divided: {speed}",
        f"efficiency with a batch as large for each rank: {(c + u) / (c + w + x + un):.2f}",
    ]
