"""A checksum of data, by which ranks notice that they read different data, and a resumed run that
its data have changed.

It walks plain values in a fixed order and looks at eight examples, so that it is the same in every
process, whatever PYTHONHASHSEED.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

_EXAMPLES, _MOST, _DEEPEST = 8, 10_000, 12
"""How many examples are read, and of each how many values in how many levels."""


class Sequence(Protocol):
    """Data with a length and indexed examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


def is_sequence(data: object) -> bool:
    """Whether the examples can be indexed from 0.

    >>> is_sequence("ab"), is_sequence({"a": 1}), is_sequence(iter("ab"))
    (True, False, False)
    """
    return (
        hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping)
    )


def fingerprint(data: Sequence) -> int:
    """A 63-bit checksum of the number of examples and of eight of them: the first, the last, and
    some between. 0 if an example differs between two accesses, as with data augmentation.

    The order of sets does not count. Objects count by class and attributes.

    >>> fingerprint([("a", 1), ("b", 2)]) == fingerprint([("b", 2), ("a", 1)])
    False
    >>> fingerprint([{"x", "y"}]) == fingerprint([{"y", "x"}])
    True
    """
    n = len(data)
    last = max(min(n, _EXAMPLES) - 1, 1)
    total = hashlib.blake2b(str(n).encode(), digest_size=8)
    for i in range(min(n, _EXAMPLES)):
        at = i * (n - 1) // last
        first, second = (_digest(data[at], [_MOST]) for _ in range(2))
        if first != second:
            return 0
        total.update(first)
    return int.from_bytes(total.digest(), "little") >> 1


def _digest(value: Any, left: list[int], levels: int = _DEEPEST) -> bytes:
    """The checksum of one value. left[0] counts down the values that may still be visited."""
    kind = type(value)
    found = hashlib.blake2b(f"{kind.__module__}.{kind.__qualname__}".encode(), digest_size=16)
    left[0] -= 1
    if left[0] < 0 or levels == 0:
        return found.digest()
    held: Any = ()
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        found.update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, bytes | bytearray):
        found.update(value)
    elif isinstance(value, str | bool | int | float | complex | range):
        found.update(str(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, set | frozenset):
        share = left[0] // max(len(value), 1)
        held = sorted(_digest(element, [share], levels - 1) for element in value)
    elif isinstance(value, list | tuple | np.ndarray):
        held = value
    else:
        held = value if isinstance(value, dict) else getattr(value, "__dict__", None)
        held = [x for pair in held.items() for x in pair] if isinstance(held, dict) else ()
    found.update(str(len(held)).encode())
    for element in held:
        if left[0] < 0:
            break
        found.update(_digest(element, left, levels - 1))
    return found.digest()
