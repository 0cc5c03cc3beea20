"""The op table: one row per operation and use, one module per family, as in csrc/ops. tests/test_ops.py runs them all."""

from . import arithmetic, convolution, elementwise, inputs, linear, losses, lstm, random, reductions, selection, shape, softmax

FAMILIES = {
    "arithmetic": arithmetic,
    "convolution": convolution,
    "elementwise": elementwise,
    "inputs": inputs,
    "linear": linear,
    "losses": losses,
    "lstm": lstm,
    "random": random,
    "reductions": reductions,
    "selection": selection,
    "shape": shape,
    "softmax": softmax,
}

NOT_IN_THE_TABLE: dict[str, str] = {
    "inputMatrix": "raises DeprecationWarning, whatever it is given",
    "matInput": "raises DeprecationWarning, whatever it is given",
}
"""Public functions of dist_dynet.ops that no row calls, each with the reason."""
