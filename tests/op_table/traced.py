"""Cells: functions traced once. tests/test_traced.py compares every row of the other families as a
cell with itself."""

import numpy as np

import dist_dynet as dy

from .elementwise import logistic
from .row import Row, case, refuses, tensor


def gated(x, h):
    """Two outputs, one of which the other needs; a constant."""
    c = dy.cmult(dy.tanh(x), h) + dy.constant(3, 0.5)
    return dy.logistic(c), c


class _Cells:
    """A cell for each graph: its calls there share a program, and tests do not add up to more
    traces than a cell has."""

    version = -1
    cell = staticmethod(gated)


def build(x, h):
    if _Cells.version != dy.cg_version():
        _Cells.version, _Cells.cell = dy.cg_version(), dy.traced(gated)
    out, c = _Cells.cell(x, h)
    return dy.concatenate([out, c])


def reference(x, h):
    c = np.tanh(x) * h + 0.5
    return np.concatenate([logistic(c), c])


def read_inside():
    dy.traced(lambda x: x * x.value())(dy.inputVector([1, 2]))


def too_small():
    dy.traced(lambda x: dy.pick(x, 5))(dy.inputVector([1, 2]))


ROWS = [
    Row(
        "traced",
        "traced",
        build,
        reference,
        [
            case(tensor(3), tensor(3)),
            case(tensor(3, batch=2), tensor(3, batch=2)),
            case(tensor(3, batch=2), tensor(3)),
        ],
        errors=[
            refuses(read_inside, RuntimeError, "no value is known"),
            refuses(too_small, ValueError, "index 5 is outside"),
        ],
    )
]
