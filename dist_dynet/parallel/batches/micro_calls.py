"""What a program does for each micro-batch, though it should do it once a step: how many a rank has
depends on the number of ranks, and so would the result.

The program may be right: these are warnings, each said once.
"""

from __future__ import annotations

from ..._manner import manner, warn
from .micro_draws import Part


def warn_of_reduced(what: str, part: Part | None, is_main: bool) -> None:
    """Called when the ranks reduce or gather something; part: the micro-batch that they work on."""
    if part is None or part.is_last or "reduced in micro-batches" in manner.said:
        return
    manner.said.add("reduced in micro-batches")
    if is_main:
        warn(
            f"{what}: it was called for a micro-batch, with reproducible=True, and has what the"
            " ranks have of as many micro-batches as there are ranks: another number of ranks gets"
            " something else. Call it once a step, if batch.ends_step, or behind the loop; the"
            " number of a step's examples, or their weight, is batch.total. This is said once."
        )
