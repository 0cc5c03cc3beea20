"""Backoff: how often what was in vain is left out before it is tried again."""

from __future__ import annotations

MOST = 1024
"""Tries that are left out at the most."""


class Backoff:
    """Twice as many tries are left out after each that was in vain; none after one that was not.

    >>> backoff, tried = Backoff(), []
    >>> for step in range(12):
    ...     backoff.pass_one()
    ...     if not backoff.left:
    ...         tried.append(step)
    ...         backoff.note(good=False)
    >>> tried
    [0, 1, 3, 7]
    """

    __slots__ = ("_last", "left")

    def __init__(self) -> None:
        self.left = self._last = 0

    def pass_one(self) -> None:
        """A try has come, or was left out."""
        self.left -= self.left > 0

    def note(self, good: bool) -> None:
        """One was made; good: it was of use."""
        self.left = self._last = 0 if good else min(max(2 * self._last, 1), MOST)
