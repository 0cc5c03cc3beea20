"""Backoff: how many attempts to skip after a failed one."""

from __future__ import annotations

MOST = 1024
"""The largest number of attempts that are skipped."""


class Backoff:
    """After each failed attempt twice as many are skipped as after the one before; after a success,
    none.

    >>> backoff, tried = Backoff(), []
    >>> for step in range(12):
    ...     backoff.count_try()
    ...     if not backoff.remaining:
    ...         tried.append(step)
    ...         backoff.record(good=False)
    >>> tried
    [0, 1, 3, 7]
    """

    __slots__ = ("_last", "remaining")

    def __init__(self) -> None:
        self.remaining = self._last = 0

    def count_try(self) -> None:
        """Counts an attempt, made or skipped."""
        self.remaining -= self.remaining > 0

    def record(self, good: bool) -> None:
        """Records whether an attempt that was made was useful."""
        self.remaining = self._last = 0 if good else min(max(2 * self._last, 1), MOST)
