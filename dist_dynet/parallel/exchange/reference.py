"""The reference exchange: gathers the gradients of all ranks and adds them in rank order.

It is slow and easy to understand. Tests compare every other exchange with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._ffi import DTYPE, ffi, lib, pointer
from ..agreement.negotiation import MpiTransport, NegotiatedByRank
from ..processes.world import World


class ReferenceExchange:
    """Sums gradients by gathering them."""

    def __init__(self, here: World, comm: Any) -> None:
        self._here, self._comm, self.transport = here, comm, MpiTransport(here, comm)

    def sum(self, negotiated: Any) -> None:
        """G = sum over ranks of factor_r g_r, in rank order. Collective."""
        assert isinstance(negotiated, NegotiatedByRank)
        structure, factors = negotiated.structure, negotiated.factors.astype(DTYPE)
        mine = (
            [p.grad_as_array() if p.has_gradient() else None for p in structure.dense],
            [(table.touched_rows(), table.touched_gradients()) for table in structure.tables],
        )
        every = self._here.gather(self._comm, mine, negotiated.what)
        for handle in structure.handles:
            lib.dn_param_clear_gradient(handle)
        for factor, (dense, tables) in zip(factors, every, strict=True):
            for handle, place, g in zip(structure.handles, structure.places, dense, strict=False):
                if g is not None:
                    chunk, start, length = place
                    lib.dn_param_gradient(handle)  # zeros at first
                    total = structure.root.chunk_gradients(chunk)[start : start + length]
                    total += factor * g.ravel(order="F")
            for handle, (ids, rows) in zip(structure.handles[len(dense) :], tables, strict=True):
                rows = np.ascontiguousarray(factor * rows)
                lib.dn_lookup_add(handle, len(ids), ffi.from_buffer("int *", ids), pointer(rows))
