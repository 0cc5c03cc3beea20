"""What tests of model files share: collections made for them, and comparisons of all that they
hold."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet._ffi import DTYPE

DYNET_FILES = Path(__file__).parent / "data" / "dynet_files"
CONTENTS = json.loads((DYNET_FILES / "contents.json").read_text())
ENOSPC = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def model_of(entries):
    """A collection with the dims of these entries."""
    m = dy.ParameterCollection()
    for e in entries:
        if e["tag"] == "Parameter":
            m.add_parameters(tuple(e["dim"]), init=0)
        else:
            m.add_lookup_parameters((e["dim"][-1], *e["dim"][:-1]), init=0)
    return m


def members(m):
    return [*m.parameters_list(), *m.lookup_parameters_list()]


def exact(*things):
    """Rounds the values to what nine digits hold exactly in either build."""
    for p in things:
        p.storage()[:] = np.round(p.storage() * 64) / 64


def state(m):
    return [
        (p.name(), p.shape(), p.has_gradient(), p.storage().tobytes(), p._flat_gradient().tobytes())
        for p in members(m)
    ]


def small():
    """A model with a gradient: /w (2, 3), /b (2,), table /sub/E (4, 2)."""
    m = dy.ParameterCollection()
    w, b = m.add_parameters((2, 3), name="w"), m.add_parameters(2, name="b")
    e = m.add_subcollection("sub").add_lookup_parameters((4, 2), name="E")
    w._set_flat_gradient(np.arange(6, dtype=DTYPE))
    e._set_flat_gradient(np.array([0, 0, 1, 2, 0, 0, 3, 0], DTYPE))
    assert b.has_gradient() is False
    exact(w, b, e)
    return m


def refuse(*args, **kwargs):
    raise ENOSPC
