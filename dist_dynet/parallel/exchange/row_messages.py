"""Messages with rows of tables: csrc/parallel/rows.c as Python calls it.

It knows nothing about hosts, or about who sends what to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, NULL, ffi, lib
from ..agreement.structure import Structure

Message = NDArray[np.int32]
"""The format is described in dn_api_params.h."""

Allocate = Callable[[int], Message]
"""Returns memory for so many numbers."""

_ALIGN = 4
_MOST = (1 << 31) - 1
"""Largest number of elements of a window: C and MPI count them with 31 bits."""


class RowMessages:
    """Messages about the tables of a structure.

    Args:
        structure: the parameters.
        owners: number of ranks that share the rows.
        spread: used rows are spread evenly over the keys.
    """

    def __init__(self, structure: Structure, owners: int, spread: bool) -> None:
        self.structure, self.owners, self.spread = structure, owners, spread
        self.tables = structure.tables
        handles = structure.handles[len(structure.dense) :]
        c = lib.dn_rows_new(len(handles), handles, owners, spread)
        if c == NULL:
            raise MemoryError("gradient exchange: out of memory")
        self._c = ffi.gc(c, lib.dn_rows_free)
        self._given: Pointers | None = None
        self._starts = ffi.new("int64_t[]", 8)
        self._alone = ffi.new("int32_t *[]", owners)
        self._widths = [int(np.prod(table.shape()[1:])) for table in self.tables]

    def give(self, weight: float, allocate: Allocate) -> Message:
        """A window with this rank's rows, times weight.

        Raises:
            ValueError: the rows take more bytes than can be sent.
        """
        size = lib.dn_rows_capacity(self._c)
        if size > _MOST:
            raise ValueError(
                "gradient exchange: the rows of lookup tables that a rank has used take"
                f" {4e-9 * size:.3g} GB; at most {4e-9 * _MOST:.3g} can be sent."
                " Use smaller batches or more ranks."
            )
        window = allocate(size)
        _check(lib.dn_rows_give(self._c, weight, _in_c(window)))
        return window

    def given(self, windows: Any, count: int, owner: int) -> Pointers:
        """What the windows of so many ranks hold for an owner; valid until the next call."""
        if self._given is None or self._given.count != count:
            self._given = Pointers(ffi.new("int32_t *[]", count), count, 0)
        given = self._given
        given.size = lib.dn_rows_given(self._c, count, windows, owner, given.c)
        return given

    def of(self, messages: Sequence[Message]) -> Pointers:
        """Several messages, as C functions take them."""
        pointers = [_in_c(message) for message in messages]
        held = ffi.new("int32_t *[]", pointers)
        return Pointers(held, len(pointers), sum(map(len, messages)), (messages, pointers))

    def add(
        self, messages: Pointers, allocate: Allocate, cuts: Cuts | None = None
    ) -> list[Message]:
        """Their sum, in this order; with `cuts`, cut into several messages."""
        count = cuts.count if cuts else 0
        lines = _aligned(len(self.tables)) + 2 * _ALIGN * len(self.tables)
        out, starts = allocate(messages.size + count * lines), self._starts
        if len(starts) < count + 2:
            starts = self._starts = ffi.new("int64_t[]", count + 2)
        _check(
            lib.dn_rows_add(
                self._c,
                messages.count,
                messages.c,
                count,
                cuts.c if cuts else NULL,
                _in_c(out),
                starts,
            )
        )
        if not count:
            return [out[: starts[1]]]
        ends = ffi.unpack(starts, count + 2)
        return [out[a:b] for a, b in pairwise(ends)]

    def cut(self, message: Message, part: KeyRange) -> Message:
        """The part of a message that lies in this range of keys."""
        out = np.empty(len(message), np.int32)
        return out[: lib.dn_rows_cut(self._c, _in_c(message), *part.c, _in_c(out))]

    def put(self, messages: Any, scale: float, own: bool = False) -> None:
        """Sets the tables' gradients to these messages, one of each owner, times scale. own: in
        tables whose rows have owners, only the rows of this rank."""
        _check(lib.dn_rows_put(self._c, self.owners, messages, scale, own))

    def are_owned(self) -> bool:
        """Whether a rank needs only its own message for its own rows."""
        return bool(lib.dn_rows_are_owned(self._c))

    def put_own(self, message: Message, owner: int, scale: float) -> bool:
        """As put() with own=True, from an owner's message alone. Returns whether mark() is needed,
        because it has no rows of some table."""
        self._alone[owner] = _in_c(message)
        _check(lib.dn_rows_put(self._c, self.owners, self._alone, scale, True))
        return bool(lib.dn_rows_lacks(self._c))

    def mark(self, messages: Any) -> None:
        """Marks tables as having gradients if any of these messages has rows of them."""
        lib.dn_rows_mark(self._c, self.owners, messages)

    # ---- reading and writing the rows of messages; without spread ----------------------

    def unpacked(self, message: Message, owner: int) -> list[tuple[Message, NDArray[Any]]]:
        """For each table: row numbers, rising, and rows. The rows are views."""
        parts, at = [], _aligned(len(self.tables))
        for count, width in zip(message[: len(self.tables)].tolist(), self._widths, strict=True):
            ids = message[at : at + count] * self.owners + owner
            at += _aligned(count)
            rows = message[at:].view(DTYPE)[: count * width].reshape(count, width)
            at += _aligned(rows.nbytes // 4)
            parts.append((ids, rows))
        return parts

    def packed(self, parts: Sequence[tuple[Message, NDArray[Any]]], allocate: Allocate) -> Message:
        """The message that unpacked() reads."""
        sizes = [_aligned(len(ids)) + _aligned(rows.nbytes // 4) for ids, rows in parts]
        at = _aligned(len(parts))
        message = allocate(at + sum(sizes))
        message[: len(parts)] = [len(ids) for ids, _ in parts]
        for (ids, rows), size in zip(parts, sizes, strict=True):
            message[at : at + len(ids)] = ids // self.owners
            start = at + _aligned(len(ids))
            message[start:].view(DTYPE)[: rows.size] = rows.reshape(-1)
            at += size
        return message


class KeyRange:
    """The keys between two fractions of the whole range, as C functions take them."""

    def __init__(self, ends: tuple[Fraction, Fraction]) -> None:
        self.c = [ffi.new("int64_t[]", [end.numerator, end.denominator]) for end in ends]


class Cuts:
    """The places where messages are cut, in rising order, as fractions of all keys."""

    def __init__(self, ends: Sequence[Fraction]) -> None:
        self.count = len(ends)
        numbers = [number for end in ends for number in end.as_integer_ratio()]
        self.c = ffi.new("int64_t[]", numbers)


class ReusedBuffer:
    """A buffer for a message, reused in the next step."""

    def __init__(self) -> None:
        self._array = np.empty(0, np.int32)

    def __call__(self, size: int) -> Message:
        """So many elements of the buffer, with undefined content."""
        if len(self._array) < size:
            self._array = np.empty(max(2 * size, 1), np.int32)
        return self._array[:size]


class Pointers:
    """Messages as C functions take them, and their total number of elements."""

    def __init__(self, c: Any, count: int, size: int, kept: Any = None) -> None:
        self.c, self.count, self.size, self._kept = c, count, size, kept


def _aligned(numbers: int) -> int:
    return -(-numbers // _ALIGN) * _ALIGN


def _in_c(message: Message) -> Any:
    return ffi.from_buffer("int32_t *", message)


def _check(outcome: int) -> None:
    if outcome == lib.DN_ERROR_MEMORY:
        raise MemoryError("gradient exchange: out of memory for the rows of lookup tables")
    if outcome < 0:
        raise RuntimeError("gradient exchange: the ranks' lookup tables differ")
