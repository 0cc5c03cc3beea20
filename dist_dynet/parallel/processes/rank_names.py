"""Formats ranks in messages."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 8
"""Up to so many ranks are named one by one."""


def format_ranks(ranks: Sequence[int]) -> str:
    """The ranks as error messages name them.

    >>> format_ranks([2]), format_ranks([0, 1, 4])
    ('rank 2', 'ranks 0, 1 and 4')
    >>> format_ranks([*range(500), 600, 601])
    'ranks 0 to 499, 600 and 601'
    """
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    words = [*map(str, ranks)]
    if len(ranks) > FEW:
        words = []
        for first, last in _runs(ranks):
            words += (
                [f"{first} to {last}"] if last - first > 1 else map(str, range(first, last + 1))
            )
    if len(words) == 1:
        return f"ranks {words[0]}"
    return f"ranks {', '.join(words[:-1])} and {words[-1]}"


def _runs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """First and last rank of each run of consecutive ranks."""
    runs: list[tuple[int, int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], rank
        else:
            runs.append((rank, rank))
    return runs
