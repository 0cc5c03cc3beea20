"""The op table: one row per operation and use, one module per family, as in csrc/ops.
tests/test_ops.py runs them all."""

from . import (
    arithmetic,
    choice,
    convolution,
    crf,
    elementwise,
    extremes,
    function,
    gradients,
    inputs,
    linear,
    losses,
    lstm,
    lstm_gates,
    masked,
    random,
    recurrent,
    reductions,
    selection,
    shape,
    softmax,
    traced,
    tree_lstm,
)

FAMILIES = {
    "arithmetic": arithmetic,
    "traced": traced,
    "choice": choice,
    "convolution": convolution,
    "crf": crf,
    "elementwise": elementwise,
    "extremes": extremes,
    "function": function,
    "gradients": gradients,
    "inputs": inputs,
    "linear": linear,
    "losses": losses,
    "lstm": lstm,
    "lstm_gates": lstm_gates,
    "masked": masked,
    "random": random,
    "recurrent": recurrent,
    "reductions": reductions,
    "selection": selection,
    "shape": shape,
    "softmax": softmax,
    "tree_lstm": tree_lstm,
}

NOT_IN_THE_TABLE: dict[str, str] = {
    "inputMatrix": "raises DeprecationWarning, whatever it is given",
    "matInput": "raises DeprecationWarning, whatever it is given",
}
"""Public functions of dist_dynet.ops that no row calls, each with the reason."""
