"""The layout of what is sent between hosts: dense gradients side by side, the parameters that were
made last first, in pieces.

Backward reaches the parameters that were made last first, so these are sent first. Everything here
depends only on the model, the hosts, and which parameters are used: it is the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import DTYPE, ffi, lib, pointer
from ..agreement.structure import Structure
from .wire import HalvingSums, Hosts, Piece

_ALIGN = 16
_GROUP = 4
"""Parameters are grouped until they have at least a quarter of a piece: smaller messages cost more
than they gain."""

_GAP = 1 << 12
"""Unused parameters of up to so many numbers are sent as zeros, rather than splitting a piece."""


class Layout:
    """Where each dense parameter lies in the array that is sent."""

    def __init__(self, structure: Structure, hosts: Hosts) -> None:
        self.structure, self._hosts = structure, hosts
        self.order = list(range(len(structure.dense)))[::-1]
        self.sizes = [length for _, _, length in structure.places]
        self.at = [0] * len(self.order)
        self.size = 0
        for i in self.order:
            self.at[i] = self.size
            self.size += -(-self.sizes[i] // _ALIGN) * _ALIGN
        self._pieces: dict[bytes, list[Piece]] = {}
        self._whole: tuple[bytes, Any] = b"", self.taken([])

    def taken(self, parts: Sequence[tuple[int, int, int, int]]) -> Any:
        """Parts of gradients with their places in the array, as C functions take them."""
        handles = self.structure.handles
        return ffi.new("dn_span_taken[]", [(handles[i], *where) for i, *where in parts])

    def whole(self, used: NDArray[np.bool_]) -> Any:
        """The same for the whole gradients of these parameters."""
        key = used.tobytes()
        if key != self._whole[0]:
            chosen = np.flatnonzero(used).tolist()
            self._whole = key, self.taken([(i, 0, self.sizes[i], self.at[i]) for i in chosen])
        return self._whole[1]

    def pieces(self, used: NDArray[np.bool_]) -> list[Piece]:
        """What is sent if these parameters are used: the same on all ranks."""
        key = used.tobytes()
        if key not in self._pieces:
            if len(self._pieces) > 256:
                self._pieces.clear()
            self._pieces[key] = self._divide(used.tolist())
        return self._pieces[key]

    def _divide(self, used: list[bool]) -> list[Piece]:
        groups: list[list[int]] = []
        size = self._hosts.piece
        least = size // _GROUP
        gap: list[int] = []  # unused ones behind the last group
        for i in self.order:
            if not used[i]:
                gap.append(i)
                continue
            numbers = sum(self.sizes[j] for j in groups[-1]) if groups else least
            if numbers < least and sum(self.sizes[j] for j in gap) <= _GAP:
                groups[-1] += [*gap, i]
            else:
                groups.append([i])
            gap = []
        pieces: list[Piece] = []
        for group in groups:
            spans = [(i, self.at[i], self.at[i] + self.sizes[i]) for i in group]
            for start in range(spans[0][1], spans[-1][2], size):
                end = min(start + size, spans[-1][2])
                parts = [
                    (i, max(start, a) - a, min(end, b) - a, max(start, a))
                    for i, a, b in spans
                    if a < end and start < b
                ]
                taken = self.taken(parts)
                pieces.append(Piece(self._hosts, len(pieces), start, end, parts, taken))
        return pieces


FILLED, SUMMED, READ, TOLD = range(4)
"""Counters that the ranks of a host publish: pieces filled, rounds summed, rounds whose sums were
read, and sums of which each rank takes its own part and publishes the squares."""

FLAG_BYTES = 4 * 64
"""Bytes for the counters of a rank."""


class Arrays:
    """The arrays of this host's ranks and of their sum, and how far each rank is."""

    def __init__(self, hosts: Hosts, size: int, mapped: list[Any]) -> None:
        self.hosts, self.size = hosts, size
        self.rounds = self.pieces = 0  # how many were begun before the present round
        self.told = 0  # how many sums each rank took its own part of
        self._flags: list[Any] = []
        if mapped:
            (whole, starts), (flags, places) = mapped
            arrays = [np.frombuffer(ffi.buffer(whole), DTYPE, size, start) for start in starts]
            self.mine, self.sum = arrays[hosts.local], arrays[-1]
            self.locals = [pointer(each) for each in arrays[:-1]]
            self._flags = [
                ffi.new(
                    "int64_t *[]",
                    [ffi.cast("int64_t *", flags + place + 64 * kind) for place in places[:-1]],
                )
                for kind in range(4)
            ]
            self._mapping = whole
        else:
            self.mine = self.sum = np.zeros(size, DTYPE)
            self.locals = [pointer(self.mine)]
        self.pointer, self.sum_pointer = pointer(self.mine), pointer(self.sum)
        self._halving_sums: HalvingSums | None = None
        self._stripes: dict[int, Any] = {}

    def halving_sums(self, comm: Any) -> HalvingSums:
        """How many hosts sum the pieces of the sum, in this communicator."""
        if self._halving_sums is None or self._halving_sums.comm is not comm:
            self._halving_sums = HalvingSums(comm, self.hosts, self.sum)
        return self._halving_sums

    def add_up(self, start: int, end: int) -> None:
        """Sums these numbers over this host's ranks, in rank order."""
        parts = self._stripes.get(start)
        if parts is None:
            parts = ffi.new("dn_real *[]", [at + start for at in self.locals])
            self._stripes[start] = parts
        lib.dn_sum_arrays(len(parts), parts, end - start, self.sum_pointer + start)

    def tell(self, kind: int, value: int) -> None:
        """Publishes that this rank has reached this count."""
        if self._flags:
            lib.dn_flag_set(self._flags[kind][self.hosts.local], value)

    def have(self, kind: int, value: int) -> bool:
        """Whether all ranks of this host have reached it."""
        return not self._flags or bool(
            lib.dn_flags_reached(len(self.locals), self._flags[kind], value)
        )
