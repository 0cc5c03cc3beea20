"""Models in the safetensors format: fast, and read by other tools, too.

Parameters are stored under their names within the collection (ParameterCollection.named_parameters()) with their shapes, row-major as the
format demands; the arrays of a trainer's state() and of random_state() beside them, under "trainer:..." and "random:...". The metadata has
a checksum of each array, so that a damaged file is told from a whole one; files of other programs, without checksums, are read as well.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._random_state import random_state, set_random_state
from ..params.collection import LookupParameters, ParameterCollection, Parameters
from ..trainers import Trainer
from .files import FileName, atomic_write

_CHECKSUMS = "dist_dynet.crc32"
_TRAINER, _RANDOM = "trainer:", "random:"
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
Arrays = dict[str, NDArray[Any]]


class LoadReport(NamedTuple):
    """What load_safetensors() found, by names."""

    missing: list[str]
    """Parameters of the model that the file lacks; "trainer:" and "random:" if these were asked for."""
    unexpected: list[str]
    """Entries of the file that the model lacks."""
    mismatched: list[str]
    """Parameters whose shape in the file is another, with both shapes."""
    metadata: dict[str, str]
    """What save_safetensors() was given."""


def save_safetensors(
    collection: ParameterCollection,
    path: FileName,
    trainer: Trainer | None = None,
    metadata: Mapping[str, str] | None = None,
    random: bool = False,
) -> None:
    """Writes all parameters to a file in the safetensors format, in the number type of the build.

    The file is written under a temporary name, flushed to disk, then renamed: a save that fails or is killed leaves the old file whole.

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
    from safetensors.numpy import save as serialized  # here, since few programs need it

    _check("save_safetensors", collection, trainer)
    texts = dict(metadata or {})
    for key, value in texts.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"save_safetensors: metadata must be texts by name; got {key!r}: {value!r}. Use json.dumps().")
    arrays: Arrays = {name: p._shaped(p.storage()) for name, p in collection.named_parameters().items()}
    if trainer is not None:
        arrays |= {_TRAINER + name: array for name, array in trainer.state().items()}
    if random:
        arrays |= {_RANDOM + name: array for name, array in random_state().items()}
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    texts[_CHECKSUMS] = json.dumps({name: zlib.crc32(array.data) for name, array in arrays.items()})
    content = serialized(arrays, texts)
    with atomic_write(path) as file:
        file.write(content)


def load_safetensors(
    collection: ParameterCollection, path: FileName, strict: bool = True, trainer: Trainer | None = None, random: bool = False
) -> LoadReport:
    """Reads the values of all parameters, matched by name; gradients gathered before are dropped.

    Args:
        collection: what is read into.
        path: of the file.
        strict: False: takes what fits and reports the rest.
        trainer: also its state; made beforehand, as at the first start. A DistributedTrainer will do, on all ranks.
        random: also the random_state().

    Raises:
        RuntimeError: the file is missing or damaged (file, entry and byte are named); or strict, and its names or shapes are not the
            model's. The model is as it was then.
        ValueError: the trainer's state is of another class of trainers.
    """
    _check("load_safetensors", collection, trainer)
    name = os.fspath(path)
    arrays, texts = _read(name)
    parts = {prefix: _taken(arrays, prefix) for prefix in (_TRAINER, _RANDOM)}
    named = collection.named_parameters()
    fits = {key for key in named if key in arrays and arrays[key].shape == named[key].shape() and arrays[key].dtype.kind == "f"}
    report = LoadReport(
        missing=[key for key in named if key not in arrays],
        unexpected=[key for key in arrays if key not in named],
        mismatched=[
            f"{key}: {arrays[key].dtype} {arrays[key].shape} in the file, {named[key].shape()} in the model"
            for key in named
            if key in arrays and key not in fits
        ],
        metadata=texts,
    )
    report.missing.extend(p for p, wanted in ((_TRAINER, trainer is not None), (_RANDOM, random)) if wanted and not parts[p])
    if strict and (report.missing or report.unexpected or report.mismatched):
        _refuse(name, report)
    if trainer is not None and parts[_TRAINER]:
        trainer.load_state(parts[_TRAINER] if strict else _of_members(parts[_TRAINER], trainer))
    if random and parts[_RANDOM]:
        set_random_state(parts[_RANDOM])
    for key in fits:
        _fill(named[key], arrays[key])
    return report


def _check(what: str, collection: ParameterCollection, trainer: Trainer | None) -> None:
    if not isinstance(collection, ParameterCollection):
        raise TypeError(f"{what}: takes a ParameterCollection; got {type(collection).__name__}.")
    if trainer is not None and not isinstance(getattr(trainer, "inner", trainer), Trainer):
        raise TypeError(f"{what}: trainer must be a trainer such as AdamTrainer(m), or None; got {type(trainer).__name__}.")


def _fill(parameter: Parameters | LookupParameters, array: NDArray[Any]) -> None:
    parameter._shaped(parameter.storage())[...] = array
    parameter.clear_gradient()
    parameter.changed()


def _taken(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays of this prefix, without it; they leave `arrays`."""
    return {key.removeprefix(prefix): arrays.pop(key) for key in [key for key in arrays if key.startswith(prefix)]}


def _of_members(state: Arrays, trainer: Trainer) -> Arrays:
    """What of a trainer's state is of parameters that the trainer has, in the right shape."""
    named = trainer.collection.named_parameters()

    def fits(key: str) -> bool:
        kind, _, name = key.partition(":")
        return not name or kind == "schedule" or (name in named and named[name].shape() == state[key].shape)

    return {key: array for key, array in state.items() if fits(key)}


def _refuse(name: str, report: LoadReport) -> NoReturn:
    found = [
        f"{what} {', '.join(entries[:5])}{f' and {len(entries) - 5} more' if len(entries) > 5 else ''}"
        for what, entries in (("missing", report.missing), ("unexpected", report.unexpected), ("of another shape", report.mismatched))
        if entries
    ]
    raise RuntimeError(
        f"load_safetensors: '{name}' must have the model's names and shapes; got {'; '.join(found)}. The model is as it was; "
        "strict=False takes what fits."
    )


# ---- reading ---------------------------------------------------------------------------------------------------------------------------


def _read(name: str) -> tuple[Arrays, dict[str, str]]:
    """All arrays of a file, checked, and its metadata."""
    import safetensors

    try:
        content = Path(name).read_bytes()
    except OSError as error:
        raise RuntimeError(f"Could not read model from {name}: {error.strerror or error}") from error
    try:
        entries = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
        header = _header(content)
    except (safetensors.SafetensorError, ValueError) as error:
        _damaged(name, *_diagnosis(content, error))
    texts = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
    begin = 8 + int.from_bytes(content[:8], "little")
    del content
    checksums = _checksums(name, texts)
    arrays: Arrays = {}
    for key, entry in entries:
        offset = begin + header[key]["data_offsets"][0]
        if entry["dtype"] not in _TYPES:
            _damaged(name, key, offset, f"its type {entry['dtype']} is none that can be read")
        if key in checksums and zlib.crc32(entry["data"]) != checksums[key]:
            _damaged(name, key, offset, "its numbers are not those that were written (checksum)")
        arrays[key] = np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"])
    absent = [key for key in checksums if key not in arrays]
    if absent:
        _damaged(name, absent[0], 8, "it is not in the header")
    return arrays, texts


def _checksums(name: str, texts: dict[str, str]) -> dict[str, int]:
    text = texts.pop(_CHECKSUMS, "{}")
    try:
        checksums = json.loads(text)
        return {str(key): int(value) for key, value in checksums.items()}
    except (ValueError, TypeError, AttributeError):
        _damaged(name, "__metadata__", 8, "the checksums cannot be read")


def _damaged(name: str, entry: str, offset: int, what: str) -> NoReturn:
    raise RuntimeError(
        f"load_safetensors: all of a model file must be there; got '{name}', entry {entry} at byte {offset}: {what}. "
        "The model is as it was; take another copy of the file."
    )


def _header(content: bytes) -> dict[str, Any]:
    """The header of a file: name -> dtype, shape, data_offsets."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    return header


def _diagnosis(content: bytes, error: Exception) -> tuple[str, int, str]:
    """Entry, byte and words for a file that cannot be read."""
    size = len(content)
    length = int.from_bytes(content[:8], "little")
    if size < 8 or 8 + length > size:
        return "(header)", min(8, size), f"the file ends at byte {size}, within the header"
    try:
        entries = _header(content).items()
        placed = sorted((int(e["data_offsets"][0]), int(e["data_offsets"][1]), key) for key, e in entries if key != "__metadata__")
    except (ValueError, TypeError, LookupError, AttributeError) as fault:
        return "(header)", 8, f"the header cannot be read ({fault or error})"
    for start, end, key in placed:
        if 8 + length + end > size:
            return key, 8 + length + start, f"the file ends at byte {size}, before its end at byte {8 + length + end}"
    return "(header)", 8, str(error)


__all__ = ["LoadReport", "load_safetensors", "save_safetensors"]
