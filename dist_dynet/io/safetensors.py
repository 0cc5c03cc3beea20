"""Models in the safetensors format, which is fast and which other tools can read.

Parameters are stored under their names within the collection
(ParameterCollection.named_parameters()) with their shapes, row-major as the format demands. The
arrays of a trainer's state() and of random_state() are stored under "trainer:..." and "random:...".
The metadata has a checksum of the whole file, and one of each array, which locates damage. Files of
other programs, without checksums, can be read as well, and those of earlier versions, with
checksums of the arrays alone.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE
from .._file_names import FileName, file_path, is_text
from .._manner import no_collection
from .._random_state import random_state, set_random_state
from ..params.collection import ParameterCollection
from ..params.parameters import AnyParameter
from ..params.root import Assignment, unchanged
from ..trainers import Trainer
from .checksummed import CHECKSUM, DTYPES, NO_CHECKSUM, OWN, TREE, head_of, is_whole, pieces_of
from .files import atomic_write, unreadable

_ARRAYS, _ARRAYS_ALONE = f"{OWN}arrays", f"{OWN}crc32"
"""Names of the metadata text with the checksums of all arrays: in a file with CHECKSUM, and in one
without, as earlier versions wrote it."""
_TRAINER, _RANDOM = "trainer:", "random:"
_BLOCK = 1 << 20
"""Bytes to read at once for a checksum, so that they stay in the processor's cache."""
Arrays = dict[str, NDArray[Any]]


class LoadReport(NamedTuple):
    """What load_safetensors() found, by name."""

    missing: list[str]
    """Parameters of the model that the file lacks; "trainer:" and "random:" if they were
    requested."""
    unexpected: list[str]
    """Entries of the file that the model lacks."""
    mismatched: list[str]
    """Parameters whose shape in the file differs, or whose numbers there are not floats, with both
    shapes."""
    metadata: dict[str, str]
    """The metadata given to save_safetensors()."""


def save_safetensors(
    collection: ParameterCollection,
    path: FileName,
    trainer: Trainer | None = None,
    metadata: Mapping[str, str] | None = None,
    random: bool = False,
) -> None:
    """Writes all parameters to a file in the safetensors format, in the number type of the build.

    The file is written under a temporary name, flushed to disk, then renamed: a save that fails or
    is killed leaves the old file intact.

    Args:
        collection: what is written.
        path: of the file.
        trainer: also its state(), to resume training.
        metadata: texts by name, which load_safetensors() returns.
        random: also the random_state().

    Raises:
        RuntimeError: the file cannot be written; two parameters have one name.
        TypeError: metadata is not of texts; no collection or trainer.

    >>> import tempfile
    >>> import dist_dynet as dy
    >>> from dist_dynet.io import load_safetensors, save_safetensors
    >>> m, n = dy.ParameterCollection(), dy.ParameterCollection()
    >>> W, V = m.add_parameters((2, 3), name="W"), n.add_parameters((2, 3), name="W")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors(m, f"{folder}/m.safetensors", metadata={"epoch": "3"})
    ...     report = load_safetensors(n, f"{folder}/m.safetensors")
    >>> bool((W.as_array() == V.as_array()).all()), report.metadata
    (True, {'epoch': '3'})
    """
    _check("save_safetensors", collection, trainer)
    texts = _checked_texts(metadata)
    with unchanged([collection._root], "save_safetensors"):
        arrays: Arrays = {
            name: p._shaped(p._values()) for name, p in collection.named_parameters().items()
        }
    if trainer is not None:
        arrays |= {_TRAINER + name: array for name, array in trainer.state().items()}
    if random:
        arrays |= {_RANDOM + name: array for name, array in random_state().items()}
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    texts[_ARRAYS] = json.dumps({name: zlib.crc32(array.data) for name, array in arrays.items()})
    content = pieces_of(*head_of(arrays, {**texts, CHECKSUM: NO_CHECKSUM}))
    with atomic_write(path, what="save_safetensors") as file:
        file.writelines(content)


def _compared(file: _File, named: Mapping[str, AnyParameter]) -> tuple[list[str], LoadReport]:
    """The names of a file's values that a model can take, and what else is in one of the two."""
    own = [key for key in file.entries if not key.startswith((_TRAINER, _RANDOM))]
    fits = [key for key in own if key in named and file.entries[key].fits(named[key])]
    report = LoadReport(
        missing=[key for key in named if key not in file.entries],
        unexpected=[key for key in own if key not in named],
        mismatched=[
            f"{key}: {file.entries[key]} in the file, floats {named[key].shape()} in the model"
            for key in own
            if key in named and key not in fits
        ],
        metadata=file.texts,
    )
    return fits, report


def load_safetensors(
    collection: ParameterCollection,
    path: FileName,
    strict: bool = True,
    trainer: Trainer | None = None,
    random: bool = False,
) -> LoadReport:
    """Reads the values of all parameters, matched by name. Accumulated gradients are dropped.

    Args:
        collection: what is read into.
        path: of the file.
        strict: False: takes what fits and reports the rest.
        trainer: also its state; made beforehand, as at the first start. A DistributedTrainer will
            do, on all ranks.
        random: also the random_state().

    Raises:
        RuntimeError: the file is missing or damaged (file, entry and byte are named); or strict,
            and its names or shapes are not the model's. The model then is unchanged.
        ValueError: the trainer's state is that of another class of trainers, or it
            or the random_state() is damaged. Then nothing is changed.

    >>> import dist_dynet as dy, tempfile
    >>> m, other = dy.ParameterCollection(), dy.ParameterCollection()
    >>> W, V = m.add_parameters(3, init=2), other.add_parameters(3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dy.save_safetensors(m, f"{folder}/model.safetensors")
    ...     report = dy.load_safetensors(other, f"{folder}/model.safetensors")
    >>> V.as_array().tolist(), report.missing
    ([2.0, 2.0, 2.0], [])
    """
    _check("load_safetensors", collection, trainer)
    random = bool(random)
    with _File(path) as file:
        file.check()
        named = collection.named_parameters()
        fits, report = _compared(file, named)
        state = file.arrays(_TRAINER) if trainer is not None else {}
        draws = file.arrays(_RANDOM) if random else {}
        report.missing.extend(_TRAINER for _ in range(trainer is not None and not state))
        report.missing.extend(_RANDOM for _ in range(random and not draws))
        if strict and (report.missing or report.unexpected or report.mismatched):
            _refuse(file.name, report)
        assignments = [
            Assignment(named[key]._c, file.values(named[key], key), sets_gradient=True)
            for key in fits
        ]
    draws_before, done = random_state(), np.zeros(1, np.uint8)
    state_before = trainer.state() if trainer is not None and state else {}
    try:
        if draws:
            set_random_state(draws)
        if trainer is not None and state:
            trainer.load_state(state if strict else _of_members(state, trainer))
        collection._root.write(assignments, [(done, np.ones_like(done))])
    except BaseException:
        if not done[0]:
            set_random_state(draws_before)
            if trainer is not None and state:
                trainer.load_state(state_before)
        raise
    return report


def _check(what: str, collection: ParameterCollection, trainer: Trainer | None) -> None:
    if not isinstance(collection, ParameterCollection):
        raise TypeError(f"{what}: takes a ParameterCollection; {no_collection(collection)}")
    if trainer is not None and not isinstance(getattr(trainer, "inner", trainer), Trainer):
        raise TypeError(
            f"{what}: trainer must be a trainer such as AdamTrainer(m), or None; got"
            f" {type(trainer).__name__}."
        )


def _checked_texts(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Raises: TypeError, ValueError: a file cannot hold them."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(
            "save_safetensors: metadata must be texts by name, in a dict; got"
            f" {type(metadata).__name__}."
        )
    texts = dict(metadata or {})
    for key, value in texts.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"save_safetensors: metadata must be texts by name; got {key!r}: {value!r}. Use"
                " json.dumps()."
            )
        if key.startswith(OWN):
            raise ValueError(
                f"save_safetensors: names of metadata that begin with {OWN!r} are taken by the"
                f" file's checksums; got {key!r}. Use another name."
            )
        for text in key, value:
            if not is_text(text):
                raise ValueError(
                    "save_safetensors: metadata must be texts that a file can hold; got"
                    f" {text!r:.200}, with half of a character. Use json.dumps()."
                )
    return texts


def _of_members(state: Arrays, trainer: Trainer) -> Arrays:
    """The part of a trainer's state that is of parameters of the trainer, with matching shapes."""
    named = trainer.collection.named_parameters()

    def fits(key: str) -> bool:
        kind, _, name = key.partition(":")
        return (
            not name
            or kind == "schedule"
            or (name in named and named[name].shape() == state[key].shape)
        )

    return {key: array for key, array in state.items() if fits(key)}


def _refuse(name: str, report: LoadReport) -> NoReturn:
    found = [
        f"{what}"
        f" {', '.join(entries[:5])}{f' and {len(entries) - 5} more' if len(entries) > 5 else ''}"
        for what, entries in (
            ("missing", report.missing),
            ("unexpected", report.unexpected),
            ("of another shape or type", report.mismatched),
        )
        if entries
    ]
    raise RuntimeError(
        f"load_safetensors: '{name}' must have the model's names and shapes; got"
        f" {'; '.join(found)}. The model is as it was; strict=False takes what fits."
    )


# ---- reading ---------------------------------------------------------------------------


class _Entry(NamedTuple):
    """Where an array lies in a file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    size: int
    """in bytes"""

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"

    def fits(self, parameter: AnyParameter) -> bool:
        return self.shape == parameter.shape() and self.dtype.kind == "f"


class _File:
    """A file open for reading, whose header has been checked. It is opened once, since another
    process may save to the name meanwhile.

    Its numbers are read twice, first for the checksums: a model only changes after everything has
    been found to be right.

    Raises:
        RuntimeError: it cannot be opened or its header is not right.
    """

    def __init__(self, path: FileName) -> None:
        path = file_path(path, "load_safetensors")
        self.name = os.fspath(path)
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise unreadable(self.name, error) from error
        try:
            self._read_header()
        except BaseException:
            self._file.close()
            raise
        self._buffer = memoryview(bytearray(_BLOCK))

    def _read_header(self) -> None:
        import safetensors  # here, since few programs need it

        try:
            status, first = os.fstat(self._file.fileno()), b""
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a file")
            size, first = status.st_size, self._file.read(8)
            length = int.from_bytes(first, "little")
            head = self._file.read(length) if 8 + length <= size else b""
            same = f"/proc/self/fd/{self._file.fileno()}"
            with safetensors.safe_open(
                same if Path(same).exists() else self.name, framework="numpy"
            ):
                header = json.loads(head)
        except OSError as error:
            raise unreadable(self.name, error) from error
        except (safetensors.SafetensorError, ValueError) as error:
            if first in (b"#Paramet", b"#LookupP"):
                words = (
                    f"load_safetensors: '{self.name}' is a file in DyNet's text format. Read it by"
                    " the collection's populate()."
                )
                raise RuntimeError(words) from error
            _damaged(self.name, *_diagnosis(head, length, size, error))
        texts = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        self._head, self._checksums = first + head, _checksums(self.name, texts)
        self.texts = {k: text for k, text in texts.items() if not k.startswith(OWN)}
        self.entries: dict[str, _Entry] = {}
        for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            if entry["dtype"] not in DTYPES:
                _damaged(
                    self.name,
                    key,
                    8 + length + start,
                    f"its type {entry['dtype']} is none that can be read",
                )
            self.entries[key] = _Entry(
                DTYPES[entry["dtype"]],
                tuple(entry["shape"]),
                8 + length + start,
                end - start,
            )

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check(self) -> None:
        """Compares the file with its checksum. If that differs or is missing, compares the arrays
        with theirs.

        Raises:
            RuntimeError: something differs from what was written, or is missing.
        """
        self._file.seek(len(self._head))
        whole = is_whole(self._head, iter(self._block, memoryview(b"")))
        if not whole:
            self._check_arrays()
        if whole is False:
            _damaged(self.name, "(header)", 8, "it is not what was written (checksum)")

    def _block(self) -> memoryview:
        """The next bytes of the file; empty at its end."""
        return self._buffer[: self._file.readinto(self._buffer)]

    def _check_arrays(self) -> None:
        for key, expected in self._checksums.items():
            if key not in self.entries:
                _damaged(self.name, key, 8, "it is not in the header")
            entry, found = self.entries[key], 0
            for start in range(0, entry.size, _BLOCK):
                block = self._buffer[: min(_BLOCK, entry.size - start)]
                self._read(key, start, block)
                found = zlib.crc32(block, found)
            if found != expected:
                _damaged(
                    self.name,
                    key,
                    entry.offset,
                    "its numbers are not those that were written (checksum)",
                )

    def _read(self, key: str, start: int, into: memoryview) -> None:
        self._file.seek(self.entries[key].offset + start)
        if self._file.readinto(into) != len(into):
            _damaged(
                self.name,
                key,
                self.entries[key].offset,
                "the file became shorter while it was read",
            )

    def array(self, key: str) -> NDArray[Any]:
        """A copy of an array."""
        entry = self.entries[key]
        flat = np.empty(entry.size // entry.dtype.itemsize, entry.dtype)
        if flat.size:
            self._read(key, 0, flat.data.cast("B"))
        return flat.reshape(entry.shape)

    def arrays(self, prefix: str) -> Arrays:
        """Copies of all arrays whose names begin with `prefix`, by the rest of their names."""
        return {
            key.removeprefix(prefix): self.array(key)
            for key in self.entries
            if key.startswith(prefix)
        }

    def values(self, parameter: AnyParameter, key: str) -> NDArray[Any]:
        """The values of a parameter, in storage order.

        Raises:
            RuntimeError: some number is too large for DTYPE.
        """
        values = np.empty(prod(parameter.shape()), DTYPE)
        shaped = parameter._shaped(values)
        if shaped.flags.c_contiguous and values.size and self.entries[key].dtype == DTYPE:
            self._read(key, 0, values.data.cast("B"))
            return values
        given = self.array(key)
        with np.errstate(over="ignore"):
            shaped[...] = given
        if (np.isinf(shaped) & np.isfinite(given)).any():
            too_large = f"a number is too large for {DTYPE}"
            _damaged(self.name, key, self.entries[key].offset, too_large)
        return values


def _checksums(name: str, texts: Mapping[str, str]) -> dict[str, int]:
    """The checksums of the arrays.

    Raises:
        RuntimeError: a text of ours is damaged.
    """
    own = {key for key in texts if key.startswith(OWN)}
    # a flipped bit makes one of our names an unknown one, or hides one of a pair
    if own not in (set(), {CHECKSUM, _ARRAYS}, {CHECKSUM, TREE}, {_ARRAYS_ALONE}):
        found = ", ".join(sorted(own))
        _damaged(name, "__metadata__", 8, f"no version writes these texts together: {found:.200}")
    try:
        checksums = json.loads(texts.get(_ARRAYS, texts.get(_ARRAYS_ALONE, "{}")))
        return {str(key): int(value) for key, value in checksums.items()}
    except (ValueError, TypeError, AttributeError, OverflowError):
        _damaged(name, "__metadata__", 8, "the checksums cannot be read")


def _damaged(name: str, entry: str, offset: int, what: str) -> NoReturn:
    raise RuntimeError(
        f"load_safetensors: all of a model file must be there; got '{name}', entry {entry} at byte"
        f" {offset}: {what}. The model is as it was; take another copy of the file."
    )


def _diagnosis(head: bytes, length: int, size: int, error: Exception) -> tuple[str, int, str]:
    """Entry, byte and message for a file of `size` bytes that cannot be read. `head` is its header
    of `length` bytes, if it is there."""
    if size < 8 or 8 + length > size:
        return "(header)", min(8, size), f"the file ends at byte {size}, within the header"
    try:
        entries = json.loads(head).items()
        placed = sorted(
            (int(e["data_offsets"][0]), int(e["data_offsets"][1]), key)
            for key, e in entries
            if key != "__metadata__"
        )
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as fault:
        return "(header)", 8, f"the header cannot be read ({fault or error})"
    for start, end, key in placed:
        if 8 + length + end > size:
            return (
                key,
                8 + length + start,
                f"the file ends at byte {size}, before its end at byte {8 + length + end}",
            )
    return "(header)", 8, str(error)


__all__ = ["LoadReport", "load_safetensors", "save_safetensors"]
