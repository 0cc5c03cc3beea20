"""Trees of arrays and JSON values as one string of bytes that is whole or is refused: what a
checkpoint's file holds.

The form is that of safetensors, so that other tools can look into it: arrays as tensors, everything
else as JSON in the metadata. A checksum of all bytes, header included, stands in the header; it was
computed with zeros in its place. Knows nothing of files and of what the tree means.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

_TREE, _CHECKSUM = "dist_dynet.tree", "dist_dynet.checksum"
_ARRAY = "__array__"
_NONE = b"00000000"
_MARK = f'"{_CHECKSUM}":"'.encode()
"""What stands before the checksum. Within a text of the header each quotation mark has a backslash
in front, so that it stands nowhere else."""


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
    return b"".join(checksummed_pieces(tree))


def checksummed_pieces(tree: Mapping[str, Any]) -> list[memoryview]:
    """What add_checksum() returns, in pieces to be written one after the other: large trees are not
    copied once more."""
    from safetensors.numpy import save as serialized  # here, since few programs need it

    arrays: dict[str, NDArray[Any]] = {}
    texts = {_TREE: json.dumps(_without_arrays(tree, "", arrays)), _CHECKSUM: _NONE.decode()}
    content = serialized(arrays, texts)
    start = content.index(_MARK) + len(_MARK)
    view = memoryview(content)
    return [view[:start], memoryview(_checksum(content, start)), view[start + len(_NONE) :]]


def check(content: bytes) -> None:
    """Makes sure that this is what add_checksum() made.

    Raises:
        DamagedError: a byte is another, or missing.
    """
    length = int.from_bytes(content[:8], "little")
    start = content.find(_MARK, 8, 8 + length) + len(_MARK)
    if start < len(_MARK):
        raise DamagedError(
            f"its header is not one of a checkpoint, or it ends too early, at byte {len(content)}"
        )
    if _checksum(content, start) != content[start : start + len(_NONE)]:
        raise DamagedError(f"its {len(content)} bytes are not those that were written (checksum)")


def verify_checksum(content: bytes) -> dict[str, Any]:
    """The tree that add_checksum() was given; arrays are copies.

    Raises:
        DamagedError: a byte is another, or missing.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialized

    check(content)
    length = int.from_bytes(content[:8], "little")
    try:
        tree = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_TREE])
        whole: dict[str, Any] = _with_arrays(tree, deserialized(content))
    except (SafetensorError, LookupError, ValueError, TypeError) as error:
        raise DamagedError(f"it was not written as a checkpoint ({error})") from error
    return whole


def _checksum(content: bytes, start: int) -> bytes:
    """CRC-32 of all bytes, with zeros in its own place."""
    view = memoryview(content)
    value = zlib.crc32(view[start + len(_NONE) :], zlib.crc32(_NONE, zlib.crc32(view[:start])))
    return f"{value:08x}".encode()


def _without_arrays(leaf: Any, place: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """What JSON can hold of a tree; its arrays are put into `arrays`."""
    if isinstance(leaf, Mapping):
        return {
            _key(key, place): _without_arrays(value, _join(place, key), arrays)
            for key, value in leaf.items()
        }
    if isinstance(leaf, list | tuple):
        return [
            _without_arrays(value, _join(place, str(i)), arrays) for i, value in enumerate(leaf)
        ]
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf":
        name = next(name for name in _names(place) if name not in arrays)
        arrays[name] = np.asarray(leaf, order="C")
        return {_ARRAY: name}
    if isinstance(leaf, np.generic):
        leaf = leaf.item()
    if leaf is None or isinstance(leaf, bool | int | float | str):
        return leaf
    _refuse(place, leaf)


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        _refuse(f"{place}, a key", key)
    return key


def _refuse(place: str, leaf: Any) -> NoReturn:
    kind = type(leaf).__name__
    raise TypeError(
        "checkpoint: dicts with texts as keys, lists, arrays, numbers and texts can be saved; got"
        f" {kind} at {place}."
    )


def _join(place: str, key: Any) -> str:
    return ":".join(filter(None, (place, str(key))))


def _names(place: str) -> Iterator[str]:
    """Names for an array at this place; the first is nearly always free."""
    while True:
        yield place
        place += "'"


def _with_arrays(leaf: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(leaf, dict):
        return (
            arrays[leaf[_ARRAY]]
            if leaf.keys() == {_ARRAY}
            else {key: _with_arrays(value, arrays) for key, value in leaf.items()}
        )
    return [_with_arrays(value, arrays) for value in leaf] if isinstance(leaf, list) else leaf


__all__ = ["DamagedError", "check", "add_checksum", "checksummed_pieces", "verify_checksum"]
