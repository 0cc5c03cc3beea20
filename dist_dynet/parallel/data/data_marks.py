"""Checksums of a shard's examples and of their order, by which a resumed run recognises data other
than its own.

It knows how to look at data. sampling.py, where the loop is, decides when.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from ..._state import count_in
from ..batches.division import Numbers
from .fingerprint import Sequence, Sighting


class DataMarks:
    """The checksums of a shard's examples.

    Args:
        data: the examples.
        numbers: the numbers that belong to each example, by name of the argument.
    """

    def __init__(self, data: Sequence, numbers: Mapping[str, Numbers]) -> None:
        self._data, self._numbers = data, numbers
        self._sighting = Sighting()
        self._marks: dict[str, int] = {}
        self._given = [name for name, n in numbers.items() if n.is_given]
        if self._given and isinstance(data, list):
            self._sighting.look(data)

    def begin(self) -> None:
        """Looks at the data as they are now: as at the first start of a run, before the program has
        stored anything in examples."""
        if not self._marks:
            self._marks = {
                "data": _mark(self._sighting.fingerprint(self._data)),
                **{name: numbers.checksum() for name, numbers in self._numbers.items()},
            }

    def state(self, order: int) -> dict[str, int]:
        """The checksums for a state of the shard, with the order of the data in its loop."""
        return {**self._marks, "order": order} if self._marks else {}

    def look(self, expected: int, compares: bool) -> tuple[int, int]:
        """Looks at the data when a loop begins. Returns their fingerprint, if ranks compare it, and
        their order; 0: unknown, because it is not needed or new examples have come. expected: the
        order that is required; 0: any.

        Raises:
            RuntimeError: it is another one, or not that of an array which belongs to the examples.
        """
        if self._given and isinstance(self._data, list) and self._sighting.is_moved(self._data):
            raise RuntimeError(
                f"shard: {self._given[0]} was given as numbers of the examples, which have come"
                " into another order since then. Give a function of an example, or make a new"
                " shard()."
            )
        if not (compares or self._marks):
            return 0, 0
        number = self._sighting.fingerprint(self._data)
        now = 0 if not self._marks or self._sighting.has_new else _mark(number)
        if expected and now and now != expected:
            raise RuntimeError(
                "shard: a loop that goes on in an epoch needs the data in the order which they had"
                " then; got another one, as of a list that is shuffled in place, which is no part"
                " of a state(). Leave the order to shard(shuffle=True), or make it of the epoch"
                " alone: data[:] = random.Random(epoch).sample(all, len(all))."
            )
        return number, now

    def order_in(self, state: Mapping[str, Any]) -> int:
        """The order of the data in a state, if the state is of these data; 0: unknown.

        Raises:
            ValueError: it is of others.
        """
        for name, mark in self._marks.items():
            if name in state and mark and count_in(state, name, "shard") not in (0, mark):
                raise ValueError(
                    f"shard: {name} must be what it was in the run that the state is of, when the"
                    " Checkpointer was made; got other contents. Make the shard as at the first"
                    " start."
                )
        return count_in(state, "order", "shard") if self._marks and "order" in state else 0


def _mark(number: int) -> int:
    """A 32-bit checksum of a fingerprint, which fits into any file; 0 stays 0."""
    return zlib.crc32(number.to_bytes(8, "little")) if number else 0
