"""Where the time of this process goes: at each moment it is in one phase, and C keeps the sums.

It follows one thread: the one that imports this module, later the one that makes a
DistributedTrainer. It knows neither trainers nor ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._ffi import ffi, lib

PHASES: tuple[str, ...] = tuple(
    name.removeprefix("DN_").lower()
    for number, name in sorted(ffi.typeof("dn_phase").elements.items())
    if number != lib.DN_PHASES
)
"""The names of the phases, in the order of C's enumeration."""

READING: np.dtype[Any] = np.dtype([("nanoseconds", np.int64, len(PHASES)), ("bytes", np.int64)])
"""A dn_reading: nanoseconds by phase, and bytes of gradients handed over."""

switch = lib.dn_meter_switch
"""switch(phase) enters a phase and returns the previous one; switch(previous) returns to it."""

NONE = -1
"""switch(NONE) stays in the current phase and returns it."""

wait = lib.dn_meter_wait
"""wait() enters "agreement" if the process is in "compute": a rank that waits in no other phase
waits for other ranks."""

flush = lib.dn_meter_flush
"""Writes the buffer of a timeline, if there is one."""

hand_over = lib.dn_meter_hand_over
"""hand_over(n) counts n bytes of gradients sent to other ranks."""


class Reading(NamedTuple):
    """A reading of the meter: nanoseconds by phase since it began, and bytes of gradients handed
    over."""

    nanoseconds: tuple[int, ...]
    bytes: int

    def since(self, before: Reading) -> Reading:
        """What has been added since then."""
        pairs = zip(self.nanoseconds, before.nanoseconds, strict=True)
        return Reading(tuple(now - then for now, then in pairs), self.bytes - before.bytes)

    def seconds(self) -> dict[str, float]:
        """By the names of phases."""
        return dict(zip(PHASES, (1e-9 * ns for ns in self.nanoseconds), strict=True))


def read() -> Reading:
    """What it shows now.

    >>> before = read()
    >>> with during(lib.DN_EVALUATE):
    ...     words = "something".upper()
    >>> spent = read().since(before)
    >>> spent.seconds()["evaluate"] > 0, spent.seconds()["exchange"]
    (True, 0.0)
    """
    c = ffi.new("dn_reading *")
    lib.dn_meter_read(c)
    return Reading(tuple(c.nanoseconds), c.bytes)


def reading() -> NDArray[Any]:
    """What it shows now, as an array of one READING."""
    return np.array([tuple(read())], READING)


@contextmanager
def during(phase: int) -> Iterator[None]:
    """What the with block, or the function that this decorates, does, counts for this phase."""
    before = switch(NONE)  # Ctrl-C may come between a call that changes the phase and `try`
    try:
        switch(phase)
        yield
    finally:
        switch(before)


lib.dn_meter_follow()
