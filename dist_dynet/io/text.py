"""DyNet's text format of parameters, byte for byte.

    #Parameter# /name {2,3} BYTES FLAG
    +1.00000000e+00 ... (column-major, each number followed by a blank)
    the gradients, likewise, if FLAG is FULL_GRAD and not ZERO_GRAD

Tables have the tag #LookupParameter# and their number of rows as last size. BYTES is the length of
what follows the header. DyNet states it wrongly where numbers are NaN or infinite, and other tools
may spell numbers differently, so reading counts lines instead. But where lines are as long as
finite numbers make them, any other BYTES means damage. A model only changes after everything has
been read and checked.

Nine digits hold every float32 exactly; float64 numbers are rounded to them.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE
from .._file_names import FileName, file_path, is_text
from ..params.dims import MAX_DIMS, MAX_NUMBERS
from ..params.initializers import GlorotInitializer
from ..params.root import Assignment, unchanged
from ..params.undo import all_or_nothing
from ._numerals import AT_ONCE, WIDTH, spelt
from ._protocols import CollectionLike, ParameterLike
from .files import BUFFER, atomic_write, keeps_gradients, unreadable

# ---- writing ---------------------------------------------------------------------------


def _formatted(numbers: NDArray[Any]) -> Iterator[bytes]:
    for start in range(0, numbers.size, AT_ONCE):
        yield spelt(numbers[start : start + AT_ONCE])


def _line_bytes(numbers: NDArray[Any]) -> int:
    if numbers.dtype == np.float32 and bool(np.isfinite(numbers).all()):
        return WIDTH * numbers.size + 1
    return sum(map(len, _formatted(numbers))) + 1


def _dims_text(dims: Sequence[int]) -> str:
    return "{" + ",".join(map(str, dims)) + "}"


def _file_dims(parameter: ParameterLike) -> tuple[int, ...]:
    return (*parameter._dims, parameter._rows) if parameter._rows else parameter._dims


def _tag(parameter: ParameterLike) -> str:
    return "LookupParameter" if parameter._rows else "Parameter"


def write_entry(file: BinaryIO, key: str, parameter: ParameterLike) -> None:
    """Writes one parameter under this name."""
    lines = [parameter._values()]
    if parameter.has_gradient() and keeps_gradients():
        lines.append(parameter._flat_gradient())
    size = sum(map(_line_bytes, lines))
    flag = "ZERO_GRAD" if len(lines) == 1 else "FULL_GRAD"
    file.write(
        f"#{_tag(parameter)}# {key} {_dims_text(_file_dims(parameter))} {size} {flag}\n".encode()
    )
    for line in lines:
        file.writelines(_formatted(line))
        file.write(b"\n")


def _check_key(what: str, key: object) -> None:
    if not isinstance(key, str):
        raise TypeError(f"{what}: the key must be text; got {type(key).__name__}.")


def _is_word(key: str) -> bool:
    return key not in ("", "/") and not any(c == "#" or c.isspace() for c in key) and is_text(key)


def save_parameters(
    entries: Iterable[tuple[str, ParameterLike]], fname: FileName, append: bool
) -> None:
    """Writes these parameters under these names. With `append`, they follow what the file holds.

    Raises:
        TypeError: a name is no text.
        ValueError: a name is empty, '/', or holds a blank or '#'.
        RuntimeError: the file cannot be written, or should be appended to and ends within a line.
            It then is unchanged.
    """
    entries = list(entries)
    for key, _ in entries:
        _check_key("save", key)
        if not _is_word(key):
            raise ValueError(
                "save: Key could not include ' ' or '#', be empty or '/' alone, or be what no file"
                f" can hold; got {key!r}. Give another key."
            )
    with atomic_write(fname, append) as file:
        if file.readable() and file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                raise RuntimeError(
                    "save: the file to append to must end with a whole line; got"
                    f" '{os.fspath(fname)}', which is cut short."
                )
        with unchanged((parameter._root for _, parameter in entries), "save"):
            for key, parameter in entries:
                write_entry(file, key, parameter)


def collection_entries(
    collection: CollectionLike, key: str = ""
) -> list[tuple[str, ParameterLike]]:
    """The parameters of a collection with their names in a file, in file order. `key` replaces the
    collection's name at the front."""
    prefix = key.rstrip("/") + "/"

    def name(p: ParameterLike) -> str:
        return prefix + p.name().removeprefix(collection.name()).lstrip("/") if key else p.name()

    members: list[ParameterLike] = [
        *collection.parameters_list(),
        *collection.lookup_parameters_list(),
    ]
    return [(name(p), p) for p in members]


def save_collection(collection: CollectionLike, fname: FileName, name: str, append: bool) -> None:
    """Writes a collection: see ParameterCollection.save().

    Raises:
        TypeError: name is no text.
        ValueError: name cannot stand in front of names in a file.
    """
    _check_key("save", name)
    if name and not (name.startswith("/") and _is_word(name.rstrip("/"))):
        raise ValueError(
            "save: Key should start with '/' and could not include ' ' or '#', or be '/' alone;"
            f" got {name!r}. Use name='/foo'."
        )
    save_parameters(collection_entries(collection, name), fname, append)


# ---- reading ---------------------------------------------------------------------------

_HEADER = re.compile(
    rb"#(Parameter|LookupParameter)#\s+(\S+)\s+\{(\d{1,10}(?:,\d{1,10})*)\}\s+(\d+)(?:\s+(ZERO_GRAD|FULL_GRAD))?\s*\n"
)


@dataclass(frozen=True)
class Entry:
    """What a header says, and where it is."""

    tag: str
    name: str
    dims: tuple[int, ...]
    has_gradient: bool
    number: int
    """among the entries of the file"""
    offset: int
    """of the header, in bytes"""
    body: int
    """of what follows it"""
    stated: bytes
    """how many bytes follow, in the header's words"""

    @property
    def size(self) -> int:
        """The number of numbers."""
        return math.prod(self.dims)

    @property
    def is_table(self) -> bool:
        """Whether it is a lookup table."""
        return self.tag == "LookupParameter"


class ModelFile:
    """A file of parameters, open for reading.

    Raises:
        RuntimeError: it cannot be opened or read.
    """

    def __init__(self, fname: FileName) -> None:
        path = file_path(fname, "load")
        self.name = os.fspath(fname)
        try:
            self._file = path.open("rb", BUFFER)
        except OSError as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _unreadable(self, error: OSError) -> RuntimeError:
        return unreadable(self.name, error)

    def _damaged(self, name: str, offset: int, what: str) -> NoReturn:
        raise RuntimeError(
            f"load: all of a model file must be there; got '{self.name}', entry {name} at byte"
            f" {offset}: {what}. The model is as it was; take another copy of the file."
        )

    def _line(self, most: int = -1) -> bytes:
        try:
            return self._file.readline(most)
        except OSError as error:
            raise self._unreadable(error) from error

    def entries(self) -> Iterator[Entry]:
        """The entries from the first on. The header and the lines of each are checked before it is
        yielded.

        Raises:
            RuntimeError: a header is damaged, lines are missing, or the file cannot be read.
        """
        offset = 0
        for number in itertools.count():
            self._file.seek(offset)
            line = self._line()
            if not line:
                return
            match = _HEADER.fullmatch(line)
            entry = match and self._entry(match, number, offset)
            if not entry:
                if not offset and line[8:9] == b"{":
                    raise RuntimeError(
                        f"load: '{self.name}' is a safetensors file. Read it by load_safetensors()."
                    )
                shown = line[:80].decode(errors="replace").rstrip("\n")
                raise RuntimeError(
                    f"Bad parameter specification in model: {shown} (in '{self.name}' at byte"
                    f" {offset}). The model is as it was; take another copy of the file."
                )
            self._file.seek(entry.body)
            offset = entry.body
            for _ in range(1 + entry.has_gradient):
                offset += sum(map(len, self._pieces(entry, offset)))
            following = offset - entry.body
            usual = (WIDTH * entry.size + 1) * (1 + entry.has_gradient)
            stated = entry.stated.lstrip(b"0")[:20].decode()
            if following == usual and stated != str(following):
                self._damaged(
                    entry.name,
                    entry.offset,
                    f"its header says that {stated or 0} bytes follow, where {following} do",
                )
            yield entry

    @staticmethod
    def _entry(match: re.Match[bytes], number: int, offset: int) -> Entry | None:
        tag, name, dims, stated, flag = match.groups()
        try:
            name, body = name.decode(), offset + match.end()
        except UnicodeDecodeError:
            return None
        entry = Entry(
            tag.decode(),
            name,
            tuple(map(int, dims.split(b","))),
            flag != b"ZERO_GRAD",
            number,
            offset,
            body,
            stated,
        )
        is_table = entry.tag == "LookupParameter"
        ok = (
            entry.size <= MAX_NUMBERS
            and len(entry.dims) <= MAX_DIMS
            and not (is_table and not entry.dims[-1])
        )
        return entry if ok else None

    def _pieces(self, entry: Entry, offset: int) -> Iterator[bytes]:
        """A line of numbers, a buffer at a time: the line of a large table needs much more memory
        than its numbers."""
        what, start, piece = "values" if offset == entry.body else "gradients", offset, b""
        while not piece.endswith(b"\n"):
            piece = self._line(BUFFER)
            if offset == start and piece.startswith(b"#"):
                self._damaged(entry.name, offset, f"the line of {what} is missing")
            if not piece:
                self._damaged(entry.name, offset, f"the file ends within the {what}")
            offset += len(piece)
            yield piece

    def numbers(self, entry: Entry) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Values and gradients (None if there are none) of an entry, in storage order."""
        self._file.seek(entry.body)
        values = self._parsed(entry, entry.body)
        return values, self._parsed(entry, self._file.tell()) if entry.has_gradient else None

    def _parsed(self, entry: Entry, offset: int) -> NDArray[Any]:
        """The numbers of the line that comes next, at this offset."""
        # bounded by the file's size, whatever the header promises
        room = (os.fstat(self._file.fileno()).st_size - offset + 1) // 2
        result = np.empty(min(entry.size, room), DTYPE)
        count, fault, rest = 0, "", b""
        for piece in self._pieces(entry, offset):
            numbers: Any = None if rest else _fixed_width(piece)
            if numbers is None:
                words = (rest + piece).split()
                rest = words.pop() if not piece[-1:].isspace() else b""
                if len(rest) > BUFFER:
                    self._damaged(
                        entry.name, offset, f"a number is longer than {BUFFER} characters"
                    )
                numbers, wrong = _spelt(words)
                fault = fault or wrong
            with np.errstate(over="ignore"):
                stored = numbers.astype(DTYPE)
            if (
                not fault
                and stored.dtype != numbers.dtype
                and bool((np.isinf(stored) & np.isfinite(numbers)).any())
            ):
                fault = f"a number is too large for {DTYPE}"
            result[count : count + numbers.size] = stored[: max(result.size - count, 0)]
            count += numbers.size
        if count != entry.size:
            fault = f"there are {count} numbers where {_dims_text(entry.dims)} needs {entry.size}"
        if fault:
            self._damaged(entry.name, offset, fault)
        return result


def _fixed_width(piece: bytes) -> NDArray[np.float64] | None:
    """The numbers of (a piece of) a line in the format of save(), in half the time of splitting it;
    None if the line is in another format."""
    size, more = divmod(len(piece), WIDTH)
    if more != piece.endswith(b"\n") or piece[WIDTH - 1 :: WIDTH] != b" " * size or b"_" in piece:
        return None
    try:
        return np.frombuffer(piece, f"S{WIDTH}", size).astype(np.float64)
    except ValueError:
        return None


def _spelt(words: Sequence[bytes]) -> tuple[NDArray[np.float64], str]:
    """The numbers in any format, and what is wrong with them. Faulty ones are returned as zeros."""
    try:
        numbers = np.fromiter(map(float, words), np.float64, len(words))
    except ValueError as error:
        return np.zeros(len(words)), str(error)
    return numbers, "a number holds '_'" if any(b"_" in word for word in words) else ""


def find(file: ModelFile, is_table: bool, key: str, entries: Iterable[Entry]) -> Entry:
    """The first entry of this kind and name.

    Raises:
        RuntimeError: there is none.
    """
    names: list[str] = []
    for entry in (e for e in entries if e.is_table == is_table):
        if entry.name == key:
            return entry
        names.append(entry.name)
    names[9:] = ["..."] * (len(names) > 9)
    there = f"{'LookupParameters' if is_table else 'Parameters'} in '{file.name}'"
    raise RuntimeError(
        f"Could not find key {key} in the model file ({there}: {', '.join(names) or 'none'})"
    )


# ---- models ----------------------------------------------------------------------------
_REMEDY = ". Make the parameters that were saved, in the same order, then read the file."


def pair(
    collection: CollectionLike, file: ModelFile, entries: Iterable[Entry]
) -> list[tuple[ParameterLike, Entry]]:
    """Pairs the parameters of a collection with entries. Those of each kind must be equal in order,
    dims and number.

    Raises:
        RuntimeError: dims or numbers differ.
    """
    parameters, tables = collection.parameters_list(), collection.lookup_parameters_list()
    pairs: list[tuple[ParameterLike, Entry]] = []
    found = {"Parameter": 0, "LookupParameter": 0}
    for entry in entries:
        members: Sequence[ParameterLike] = tables if entry.is_table else parameters
        at = found[entry.tag]
        if at == len(members):
            what = "lookup parameters" if entry.is_table else "parameters to load"
            raise RuntimeError(
                f"Too many {what} in populated model at {entry.name} ('{file.name}', byte"
                f" {entry.offset}){_REMEDY}"
            )
        _check_dims(members[at], entry)
        pairs.append((members[at], entry))
        found[entry.tag] += 1
    if (found["Parameter"], found["LookupParameter"]) != (len(parameters), len(tables)):
        raise RuntimeError(
            "Number of parameter/lookup parameter objects loaded from file"
            f" ({found['Parameter']}/{found['LookupParameter']}) did not match number to be"
            f" populated ({len(parameters)}/{len(tables)}): '{file.name}'{_REMEDY}"
        )
    return pairs


def _check_dims(parameter: ParameterLike, entry: Entry) -> None:
    if entry.dims != _file_dims(parameter):
        raise RuntimeError(
            f"Dimensions of parameter {entry.name} looked up from file ({_dims_text(entry.dims)})"
            " do not match parameters to be populated"
            f" ({_dims_text(_file_dims(parameter))}){_REMEDY}"
        )


def fill(file: ModelFile, pairs: Iterable[tuple[ParameterLike, Entry]]) -> None:
    """Reads the numbers of all entries, then assigns them to their parameters."""
    _give([(parameter, *file.numbers(entry)) for parameter, entry in pairs])


def _give(numbers: Sequence[tuple[ParameterLike, NDArray[Any], NDArray[Any] | None]]) -> None:
    """Assigns values and gradients to parameters of one root."""
    for parameter, _, _ in numbers[:1]:
        parameter._root.write(
            Assignment(p._c, values, sets_gradient=True, gradient=gradient)
            for p, values, gradient in numbers
        )


def populate_parameter(parameter: ParameterLike, fname: FileName, key: str) -> None:
    """Reads one parameter: see Parameters.populate()."""
    _check_key("populate", key)
    with ModelFile(fname) as file:
        entry = find(file, bool(parameter._rows), key, file.entries())
        _check_dims(parameter, entry)
        fill(file, [(parameter, entry)])


def populate_collection(collection: CollectionLike, fname: FileName, key: str) -> None:
    """Reads a collection: see ParameterCollection.populate()."""
    _check_key("populate", key)
    prefix = key.rstrip("/") + "/" if key else ""  # "/enc" is not "/enc_1"
    with ModelFile(fname) as file:
        entries = (entry for entry in file.entries() if entry.name.startswith(prefix))
        fill(file, pair(collection, file, entries))


@all_or_nothing
def new_parameter(collection: CollectionLike, file: ModelFile, entry: Entry) -> ParameterLike:
    """Adds the parameter that an entry describes to the collection."""
    values, gradient = file.numbers(entry)
    GlorotInitializer().values(entry.dims, entry.is_table)  # as in DyNet, which draws, then reads
    parameter = collection._new(entry.name, entry.dims, entry.is_table)
    _give([(parameter, values, gradient)])
    collection._adopt(parameter)
    return parameter


def load_parameter(
    collection: CollectionLike, fname: FileName, key: str, is_table: bool
) -> ParameterLike:
    """Adds a parameter or a table: see ParameterCollection.load_param().

    Raises:
        TypeError: key is no text.
        ValueError: key is empty.
    """
    _check_key("load_param", key)
    if not key:
        raise ValueError("load_param: takes a key; got ''. Give an entry's name, such as '/_0'.")
    with ModelFile(fname) as file:
        return new_parameter(collection, file, find(file, is_table, key, file.entries()))
