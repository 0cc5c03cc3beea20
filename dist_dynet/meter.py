"""Where the time of this process goes: at each moment it is in one phase, and C keeps the sums.

One thread is followed: the one that imports this, later the one that makes a DistributedTrainer. It
knows neither trainers nor ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ._ffi import ffi, lib

PHASES: tuple[str, ...] = tuple(
    name.removeprefix("DN_").lower()
    for number, name in sorted(ffi.typeof("dn_phase").elements.items())
    if number != lib.DN_PHASES
)
"""Their names, in the order of C's enumeration."""

switch = lib.dn_meter_switch
"""switch(phase) goes over to a phase and returns the one before; switch(before) goes back."""

NONE = -1
"""switch(NONE) stays in the phase that there is, and returns it."""

wait = lib.dn_meter_wait
"""wait() goes over to "agreement" in a process that is in "compute": whoever waits while nothing
else is said of what it does, waits for other ranks."""

flush = lib.dn_meter_flush
"""Writes what is held of a timeline, if there is one."""

hand_over = lib.dn_meter_hand_over
"""hand_over(n) counts n bytes of gradients that go to other ranks."""


class Reading(NamedTuple):
    """What the meter shows: nanoseconds by phase since it began, and bytes of gradients handed over
    to other ranks."""

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
