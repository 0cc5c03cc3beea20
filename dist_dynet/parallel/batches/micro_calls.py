"""What a program does for each micro-batch, though it should do it once a step: how many a rank has
depends on the number of ranks, and so would the result.

The program may be right: these are warnings, each said once.
"""

from __future__ import annotations

from ..._manner import manner, warn
from .micro_draws import Part


class Rates:
    """The learning rates of micro-batches: warns if they change several times within a step."""

    __slots__ = ("_changes", "_rate")

    def __init__(self) -> None:
        self._rate: float | None = None
        self._changes = 0  # since the first micro-batch of the present step

    def look(self, part: Part, rate: float, is_main: bool) -> None:
        """Called at each update() of a micro-batch, with the rate of its trainer."""
        self._changes += self._rate is not None and rate != self._rate
        self._rate = rate
        if part.turn:
            return
        changes, self._changes = self._changes, 0
        if changes < 2 or part.turns == 1 or "rates of micro-batches" in manner.said:
            return
        manner.said.add("rates of micro-batches")
        if is_main:
            warn(
                "update: with reproducible=True the learning rate was changed more than once in a"
                " step. If that is done for each micro-batch, how often depends on the number of"
                " ranks: another number ends elsewhere. Change it where update() returns True."
                " This is said once."
            )


def warn_of_reduced(part: Part, is_main: bool) -> None:
    """Called when the ranks reduce numbers while they work on a micro-batch."""
    if part.is_last or "reduced in micro-batches" in manner.said:
        return
    manner.said.add("reduced in micro-batches")
    if is_main:
        warn(
            "all_reduce: it was called for a micro-batch, with reproducible=True, and reduces what"
            " the ranks have of as many micro-batches as there are ranks: another number of ranks"
            " gets other numbers. Call it once a step, if batch.ends_step, or behind the loop; the"
            " number of a step's examples, or their weight, is batch.total. This is said once."
        )
