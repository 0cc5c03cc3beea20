"""Trees of arrays and JSON values as bytes with a checksum: the content of a checkpoint's file.

The format is that of safetensors, so that other tools can read it: arrays are tensors, everything
else is JSON in the metadata. The header holds a checksum of all bytes, header included, which is
computed with zeros in its own place. This module knows nothing of files or of what the tree means.
"""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | mmap.mmap
OWN = "dist_dynet."
"""Prefix of the names of our texts in the metadata of a file in this format."""
TREE, CHECKSUM = f"{OWN}tree", f"{OWN}checksum"
NO_CHECKSUM = "00000000"
_ARRAY = "__array__"
"""{_ARRAY: name} stands for an array, {_ARRAY: {_ARRAY: x}} for a dict {_ARRAY: x} of the tree."""
_NONE = NO_CHECKSUM.encode()
_ALIGNMENT = 8
_DEEPEST, _LONGEST = 100, 10_000
"""Levels of a tree, and bits of an integer: below the limits of Python's own json module."""
_KINDS = {
    "b1": "BOOL",
    **{f"{kind}{size}": f"{kind.upper()}{8 * size}" for kind in "iu" for size in (1, 2, 4, 8)},
    **{f"f{size}": f"F{8 * size}" for size in (2, 4, 8)},
}
"""{NumPy's name of a dtype: that of safetensors}."""
DTYPES = {theirs: np.dtype(f"<{ours}") for ours, theirs in _KINDS.items()}
"""{dtype of safetensors: that of NumPy}."""
_MARK = f'"{CHECKSUM}":"'.encode()
"""What stands before the checksum. It occurs only once: within a text of the header each quotation
mark is escaped."""


class DamagedError(ValueError):
    """The bytes are not those that add_checksum() made."""


def add_checksum(tree: Mapping[str, Any]) -> bytes:
    """The tree as bytes: nested dicts and lists whose leaves are arrays, numbers, texts and None.

    An array is stored under its keys, joined by colons; an empty key is left out.

    Raises:
        TypeError: a leaf is something else; it names the place.

    >>> tree = {"step": 3, "trainer": {"rates": np.array([0.5, 0.25])}}
    >>> verify_checksum(add_checksum(tree))
    {'step': 3, 'trainer': {'rates': array([0.5 , 0.25])}}
    """
    return b"".join(pieces(tree))


def pieces(tree: Mapping[str, Any]) -> list[memoryview]:
    """As add_checksum(), in pieces to be written one after the other. Nothing is copied: the arrays
    must not change before all pieces are written.

    Raises:
        TypeError: a leaf is of no kind that can be saved; it names the place.
    """
    arrays: dict[str, NDArray[Any]] = {}
    texts = {TREE: json.dumps(_without_arrays(tree, "", arrays)), CHECKSUM: NO_CHECKSUM}
    return pieces_of(*head_of(arrays, texts))


def head_of(
    arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]
) -> tuple[bytes, list[NDArray[Any]]]:
    """The header of a file with these arrays and texts, and the arrays in the order of the file."""
    # the widest numbers first, so that each array begins at a multiple of its numbers' size
    ordered = sorted(arrays.items(), key=lambda named: -named[1].itemsize)
    header: dict[str, Any] = {"__metadata__": texts}
    end = 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _KINDS[array.dtype.str[1:]],
            "shape": array.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, [array for _, array in ordered]


def pieces_of(head: bytes, arrays: Iterable[NDArray[Any]]) -> list[memoryview]:
    """A file of head_of(), with its checksum: nothing is copied."""
    data = [array.data.cast("B") for array in arrays if array.size]
    return [*with_checksum(head, data), *data]


def with_checksum(head: bytes, data: Iterable[Buffer]) -> list[memoryview]:
    """A header that has NO_CHECKSUM under CHECKSUM, with that replaced by the checksum of the
    header and of the data that follow. In pieces, without the data."""
    view, start = memoryview(head), _place(head)
    return [view[:start], memoryview(_text(_sum(head, start, data))), view[start + len(_NONE) :]]


def is_whole(head: bytes, data: Iterable[Buffer]) -> bool | None:
    """Whether header and data are those of with_checksum(). None if the header has no checksum."""
    start = _place(head)
    if start < 0:
        return None
    return _text(_sum(head, start, data)) == head[start : start + len(_NONE)]


def _place(head: bytes) -> int:
    """Offset of the checksum in a header; -1 if there is none."""
    mark = head.find(_MARK, 8)
    return mark + len(_MARK) if mark >= 0 else -1


def _sum(head: bytes, start: int, data: Iterable[Buffer]) -> int:
    """The checksum of all bytes, with zeros in its own place."""
    view = memoryview(head)
    value = zlib.crc32(view[start + len(_NONE) :], zlib.crc32(_NONE, zlib.crc32(view[:start])))
    for piece in data:
        value = zlib.crc32(piece, value)
    return value


def _length(view: memoryview) -> int:
    """Length of the header, including the eight bytes that state it."""
    return 8 + int.from_bytes(view[:8], "little")


def check(content: Buffer) -> None:
    """Checks that the bytes are those that add_checksum() made.

    Raises:
        DamagedError: a byte differs or is missing.
    """
    view = memoryview(content)
    begin = _length(view)
    whole = is_whole(bytes(view[:begin]), [view[begin:]])
    if whole is None:
        raise DamagedError(
            f"its header is not one of a checkpoint, or it ends too early, at byte {len(view)}"
        )
    if not whole:
        raise DamagedError(f"its {len(view)} bytes are not those that were written (checksum)")


def verify_checksum(content: Buffer) -> dict[str, Any]:
    """The tree that add_checksum() was given; arrays are read-only views of the bytes.

    Raises:
        DamagedError: a byte differs or is missing.
    """
    check(content)
    return tree_of(content)


def tree_of(content: Buffer) -> dict[str, Any]:
    """As verify_checksum(), for bytes that have been checked.

    Raises:
        DamagedError: they are no such tree.
    """
    view = memoryview(content).toreadonly()
    begin = _length(view)
    try:
        header = json.loads(bytes(view[8:begin]))
        tree = json.loads(header.pop("__metadata__")[TREE])
        arrays = {name: _array(view[begin:], **entry) for name, entry in header.items()}
        whole: dict[str, Any] = _with_arrays(tree, arrays)
    except (LookupError, ValueError, TypeError) as error:
        raise DamagedError(f"it was not written as a checkpoint ({error})") from error
    return whole


def _array(
    view: memoryview, dtype: str, shape: Sequence[int], data_offsets: Sequence[int]
) -> NDArray[Any]:
    start, end = data_offsets
    return np.frombuffer(view[start:end], DTYPES[dtype]).reshape(shape)


def _text(checksum: int) -> bytes:
    return f"{checksum:08x}".encode()


def _without_arrays(
    leaf: Any, place: str, arrays: dict[str, NDArray[Any]], levels: int = _DEEPEST
) -> Any:
    """What JSON can hold of a tree. Its arrays are put into `arrays`."""
    if isinstance(leaf, Mapping | list | tuple) and not levels:
        _refuse(place, type(leaf).__name__, f", {_DEEPEST} levels deep. Does it hold itself?")
    if isinstance(leaf, Mapping):
        texts = {
            _key(key, place): _without_arrays(value, _join(place, key), arrays, levels - 1)
            for key, value in leaf.items()
        }
        return {_ARRAY: texts} if texts.keys() == {_ARRAY} else texts
    if isinstance(leaf, list | tuple):
        return [
            _without_arrays(value, _join(place, str(i)), arrays, levels - 1)
            for i, value in enumerate(leaf)
        ]
    if (
        isinstance(leaf, np.ndarray)
        and not isinstance(leaf, np.ma.MaskedArray)  # whose mask would be lost
        and leaf.dtype.str[1:] in _KINDS
    ):
        name = next(name for name in _names(place) if name not in arrays)
        arrays[name] = np.asarray(leaf, leaf.dtype.newbyteorder("<"), order="C")
        return {_ARRAY: name}
    if isinstance(leaf, np.generic):
        leaf = leaf.item()
    if isinstance(leaf, int) and leaf.bit_length() > _LONGEST:
        _refuse(place, f"an integer of {leaf.bit_length()} bits")
    if leaf is None or isinstance(leaf, bool | int | float | str):
        return leaf
    _refuse(place, type(leaf).__name__)


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        _refuse(f"{place}, a key", type(key).__name__)
    return key


def _refuse(place: str, got: str, more: str = ".") -> NoReturn:
    raise TypeError(
        "checkpoint: dicts with texts as keys, lists, arrays, numbers and texts can be saved; got"
        f" {got} at {place[:100]}{more}"
    )


def _join(place: str, key: Any) -> str:
    return ":".join(filter(None, (place, str(key))))


def _names(place: str) -> Iterator[str]:
    """Names for an array at this place; the first one is nearly always free. Other tools only read
    names of whole characters."""
    place = place.encode(errors="replace").decode()
    while True:
        yield place
        place += "'"


def _with_arrays(leaf: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(leaf, list):
        return [_with_arrays(value, arrays) for value in leaf]
    if not isinstance(leaf, dict):
        return leaf
    if leaf.keys() == {_ARRAY}:
        leaf = leaf[_ARRAY]
        if not (isinstance(leaf, dict) and leaf.keys() == {_ARRAY}):
            return arrays[leaf]
    return {key: _with_arrays(value, arrays) for key, value in leaf.items()}


__all__ = ["DamagedError", "add_checksum", "check", "pieces", "tree_of", "verify_checksum"]
