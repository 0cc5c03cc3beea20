"""A fingerprint by which ranks notice that they have read different data: a hash of a few examples,
equal in every process.

It walks Python's and NumPy's values in a fixed order, with bounded work. It calls no user code
except `len(data)` and `data[i]`: no repr, no hash, no property. A value that it cannot look into
counts by its class.
"""

from __future__ import annotations

import array
import datetime
import hashlib
import struct
import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_EXAMPLES = 8
_VALUES = 10_000
"""At most so many values of an example are hashed, alike in all processes."""

_DEPTH = 12
_MOST = 1 << 14
"""Of a longer string or array, the first and last so many elements are hashed."""

_UNCHANGING = (str, bytes, int, float, complex, np.ndarray, np.generic, type(None))
"""Classes of examples that hold nothing but their value."""

_BY_NAME = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


class Sequence(Protocol):
    """Data with a length and indexed examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Any: ...


def _plain_fingerprint(data: Sequence) -> int:
    """A 63-bit hash of the number of examples and of about eight of them: the first, the last, and
    some between, each fetched once.

    Equal examples in equal order give the same number in every process, whatever PYTHONHASHSEED is.
    The order of sets does not matter; dicts, lists and objects count by their contents. Different
    numbers mean different data; equal numbers mean that the sampled examples are equal.

    >>> fingerprint([("a", 1), ("b", 2)]) == fingerprint([("a", 1), ("b", 2)])
    True
    >>> fingerprint([("a", 1), ("b", 2)]) == fingerprint([("b", 2), ("a", 1)])
    False
    >>> fingerprint([{"x", "y"}]) == fingerprint([{"y", "x"}])
    True
    """
    return _number(len(data), (_digest(data[i], _VALUES, 0)[0] for i in _chosen(len(data))))


def _chosen(n: int) -> Iterable[int]:
    """Which of so many examples are hashed."""
    last = min(n, _EXAMPLES) - 1
    return range(n) if n <= _EXAMPLES else [i * (n - 1) // last for i in range(_EXAMPLES)]


def _number(n: int, digests: Iterable[bytes]) -> int:
    total = hashlib.blake2b(struct.pack("<q", n), digest_size=8)
    for digest in digests:
        total.update(digest)
    return int.from_bytes(total.digest(), "little") >> 1


_MOST_SEEN = 64
_seen: OrderedDict[int, tuple[Any, bytes]] = OrderedDict()
"""By id: examples of lists that were hashed last, with their digests at first sight."""


def fingerprint(data: Sequence) -> int:
    """The fingerprint; 0 for examples that change with each access, which identify nothing.
    Examples of lists and tuples count as they were at first sight: a program may store results in
    them, on one rank more than on another."""
    digests, lasting = [], type(data) in (list, tuple)
    for i in _chosen(len(data)):
        example = data[i]
        known, digest = _seen.get(id(example), (None, b""))
        if known is None or known is not example:
            digest = _digest(example, _VALUES, 0)[0]
            if _digest(data[i], _VALUES, 0)[0] != digest:
                return 0
            if lasting and not issubclass(type(example), _UNCHANGING):
                _seen[id(example)] = example, digest
                if len(_seen) > _MOST_SEEN:
                    _seen.popitem(last=False)
        digests.append(digest)
    return _number(len(data), digests)


class Sighting:
    """The fingerprint of data that are looked at repeatedly and may be reordered in place. The
    examples of a list are recognised as objects, so that it does not matter what a program stores
    in them."""

    def __init__(self) -> None:
        self._fingerprint: int | None = None
        self.has_new = False
        """Whether there are examples that were not there at first sight."""
        # for a list: the examples at first sight, kept so that their ids stay valid; their ids
        self._examples: list[Any] | None = None
        self._ids = np.empty(0, np.int64)

    def fingerprint(self, data: Sequence) -> int:
        """Of the data as they are now."""
        if isinstance(data, np.ndarray):
            return fingerprint(data)
        if type(data) is not list:
            if self._fingerprint is None:
                self._fingerprint = fingerprint(data)
            return self._fingerprint
        if all(issubclass(type(data[i]), _UNCHANGING) for i in _chosen(len(data))):
            return fingerprint(data)  # others may be one object here, and two elsewhere
        examples, ids = self.look(data), _ids_of(data)
        if self._fingerprint is None:
            self._fingerprint = fingerprint(examples)
        if np.array_equal(ids, self._ids):
            return self._fingerprint
        places = self._places(ids)
        digests = [self._fingerprint.to_bytes(8, "little"), places.tobytes()]
        if (places >= 0).all():
            return _number(len(data), digests)
        new = fingerprint([data[i] for i in np.flatnonzero(places < 0).tolist()])
        self._examples, self._ids, self.has_new = [*data], ids, True
        self._fingerprint = _number(len(data), [*digests, new.to_bytes(8, "little")])
        return self._fingerprint

    def look(self, data: list[Any]) -> list[Any]:
        """The examples of a list at first sight, which is now if there was none."""
        if self._examples is None:
            self._examples, self._ids = [*data], _ids_of(data)
        return self._examples

    def is_moved(self, data: list[Any]) -> bool:
        """Whether examples of a list have changed places since first sight."""
        ids = _ids_of(data)
        if self._examples is None or np.array_equal(ids, self._ids):
            return False
        common = min(len(ids), len(self._ids))
        others = ids[:common][ids[:common] != self._ids[:common]]
        return bool(np.isin(others, self._ids).any())

    def _places(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """Where these examples were at first sight; -1: nowhere."""
        numbers = {each: i for i, each in enumerate(self._ids.tolist())}
        return np.array([numbers.get(each, -1) for each in ids.tolist()], "<i8")


def _ids_of(data: list[Any]) -> NDArray[np.int64]:
    return np.fromiter(map(id, data), np.int64, len(data))


def is_sequence(data: object) -> bool:
    """Whether the examples can be indexed from 0.

    >>> is_sequence("ab"), is_sequence({"a": 1}), is_sequence(iter("ab"))
    (True, False, False)
    """
    return (
        hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping)
    )


def _digest(value: Any, values: int, depth: int) -> tuple[bytes, int]:
    """The digest of one value, and how many values were visited."""
    walk = _Walk(values)
    walk.add(value, depth)
    return walk.hash.digest(), values - walk.left


class _Walk:
    """A hash of the values visited so far."""

    def __init__(self, values: int) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self.left = values

    def add(self, value: Any, depth: int) -> None:
        """Hashes this value. Methods are those of the built-in classes, also for subclasses."""
        self.left -= 1
        kind = type(value)
        self._put("class", _name_of(kind))
        if self.left < 0 or depth > _DEPTH or value is None:
            return
        if isinstance(value, (np.ndarray, np.generic)):
            self._add_array(np.asarray(value), depth)
        elif isinstance(value, str):
            self._put(
                "str",
                str.__len__(value),
                *(str.__getitem__(value, piece) for piece in _ends(str.__len__(value))),
            )
        elif isinstance(value, int):
            self._put("int", f"{int.__index__(value):x}")
        elif isinstance(value, float):
            self._put("float", float.hex(value))
        elif isinstance(value, complex):
            self._put(
                "complex",
                float.hex(complex.__getattribute__(value, "real")),
                float.hex(complex.__getattribute__(value, "imag")),
            )
        elif isinstance(value, (bytes, bytearray, memoryview, array.array)):
            self._add_array(
                np.frombuffer(memoryview(value).cast("B"), np.uint8)
                if memoryview(value).nbytes
                else np.zeros(0),
                depth,
            )
        elif isinstance(value, list):
            self._add_all("sequence", list.__len__(value), list.__iter__(value), depth)
        elif isinstance(value, tuple):
            self._add_all("sequence", tuple.__len__(value), tuple.__iter__(value), depth)
        elif isinstance(value, dict):
            self._add_all(
                "dict", dict.__len__(value), (x for item in dict.items(value) for x in item), depth
            )
        elif isinstance(value, (set, frozenset)):
            self._add_set(value, depth)
        else:
            self._add_object(value, depth)

    def _put(self, *words: object) -> None:
        for word in words:
            text = str(word).encode("utf-8", "surrogatepass")
            self.hash.update(struct.pack("<q", len(text)) + text)

    def _add_all(self, what: str, count: int, values: Iterable[Any], depth: int) -> None:
        self._put(what, count)
        for value in values:
            if self.left <= 0:
                return
            self.add(value, depth + 1)

    def _add_set(self, value: Any, depth: int) -> None:
        """Hashes each element separately, with an equal share of the values that are left, so that
        the order does not matter."""
        base = set if isinstance(value, set) else frozenset
        count = base.__len__(value)
        self._put("set", count)
        share = max(self.left, 0) // count if count else 0
        if share:
            digests, used = zip(
                *(_digest(element, share, depth + 1) for element in base.__iter__(value)),
                strict=True,
            )
            self.left -= sum(used)
            self._put(*(digest.hex() for digest in sorted(digests)))

    def _add_array(self, x: Any, depth: int) -> None:
        self._put("array", x.dtype.str, x.shape)
        if x.dtype.names:
            for name in x.dtype.names:  # skips the padding between fields
                self._put(name)
                self._add_array(x[name], depth)
            return
        for piece in _ends(x.size):
            if x.dtype.hasobject:
                self._add_all("objects", x.size, x.flat[piece], depth)
            else:
                self.hash.update(x.flat[piece].tobytes())

    def _add_object(self, value: Any, depth: int) -> None:
        """Hashes an object by its contents, without attributes that store hashes, which differ
        between processes."""
        if isinstance(value, _BY_NAME):
            self._put(
                *(
                    name
                    for name in (
                        getattr(value, "__module__", ""),
                        getattr(value, "__qualname__", ""),
                    )
                    if type(name) is str
                )
            )
        elif isinstance(value, range):
            self._put(value.start, value.stop, value.step)
        elif isinstance(value, PurePath):
            self._put(PurePath.__str__(value))
        elif isinstance(value, datetime.timedelta):
            self._put(value.days, value.seconds, value.microseconds)
        elif type(value) in (datetime.date, datetime.datetime, datetime.time):
            self._put(
                *(
                    getattr(value, name, 0)
                    for name in ("year", "month", "day", "hour", "minute", "second", "microsecond")
                )
            )
        else:
            held = sorted(
                ((name, x) for name, x in _held_by(value).items() if "hash" not in name),
                key=lambda pair: pair[0],
            )
            self._add_all("object", len(held), (x for pair in held for x in pair), depth)


def _held_by(value: Any) -> dict[str, Any]:
    """The object's own attributes: its slots and its __dict__."""
    held: dict[str, Any] = {}
    for kind in type(value).__mro__:
        if "__slots__" in kind.__dict__:
            for name, slot in kind.__dict__.items():
                if isinstance(slot, types.MemberDescriptorType):
                    try:
                        held[name] = slot.__get__(value, kind)
                    except AttributeError:  # not set
                        continue
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return held
    if type(own) is dict:
        held.update((name, x) for name, x in islice(own.items(), _VALUES) if type(name) is str)
    return held


def _name_of(kind: type) -> str:
    return (
        f"{type.__getattribute__(kind, '__module__')}.{type.__getattribute__(kind, '__qualname__')}"
    )


def _ends(count: int) -> list[slice]:
    """Slices for all of so many elements, or for the first and the last of them."""
    return [slice(None)] if count <= 2 * _MOST else [slice(0, _MOST), slice(count - _MOST, count)]
