"""What a rank reports before gradients move: how a report lies in memory, which C fills in (dn_report) and all ranks read."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._ffi import ffi, lib
from ..trainers.state import Settings
from .structure import Structure


class Flag:
    """What a rank tells the others beside numbers."""

    ENDED = 1
    """It has run out of data and only takes part."""
    SAVE = 2
    """It has been asked to save a checkpoint."""
    JOIN = 4
    """It is inside of Join, where ranks that have ended call from another line."""
    EARLY = 8
    """What it has sent before the agreement is what there is to be sent."""
    AHEAD = 16
    """Of that some was complete long before the end of backward."""
    WEIGHED = 32
    """Its gradients are as they count in the sum already."""
    UNKNOWN = 64
    """It does not know which batch its gradients come from."""
    LAST = 128
    """After this pass gradients are exchanged. This one and the next are told in passes only, which have more bits."""
    SILENT = 256
    """The pass does not count towards an accumulation."""


_HEAD = [("structure", np.int64), ("step", np.int64), ("settings", np.float64, (len(Settings._fields),)), ("flags", np.uint8)]

pack_head = struct.Struct(f"=qq{len(Settings._fields)}dB").pack
"""The bytes of structure, step, settings and flags: a tenth of the time that NumPy takes for it."""


class Form:
    """How reports on one structure lie in memory.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> _ = m.add_parameters(2), m.add_lookup_parameters((3, 1))
    >>> Form(Structure(m)).dtype.names
    ('structure', 'step', 'settings', 'flags', 'frozen', 'settled', 'weight', 'rows', 'filled')
    """

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.dense, self.tables = len(structure.dense), len(structure.tables)
        self.params = ffi.new("dn_param *[]", structure.handles)
        """What C takes."""
        self.dtype = np.dtype(
            [
                *_HEAD,
                ("frozen", np.bool_, (self.dense + self.tables,)),
                ("settled", np.bool_, (self.tables,)),  # up to here ranks say the same in nearly every update
                ("weight", np.float64),
                ("rows", np.int32, (self.tables,)),
                ("filled", np.bool_, (self.dense,)),
            ]
        )
        assert self.dtype.fields is not None
        self.alike: int = self.dtype.fields["weight"][1]
        """How many bytes those are."""

    def fill(self, head: bytes, weight: float) -> NDArray[np.uint8]:
        """The report of this rank."""
        report = np.empty(self.dtype.itemsize, np.uint8)
        lib.dn_report(head, len(head), weight, self.dense, self.tables, self.params, ffi.from_buffer("uint8_t *", report))
        return report


@dataclass(slots=True)
class Report:
    """What is to be told, and what of it the way it is told may depend on."""

    form: Form
    head: bytes
    weight: float
    average: bool
    """Whether gradients are multiplied by weight / sum of weights, or, where the weight is not 0, by 1."""
    usual: bool
    """Whether the update may be like the last one; alike on all ranks whose heads are."""
