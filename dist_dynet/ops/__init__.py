"""The operations, by family. Each module turns function calls and operators into nodes; csrc/ops/<family>.c computes them.

A new operation is three edits: its row and block in csrc/ops/<family>.c, its function here, its row in tests/op_table/<family>.py. The tests
name what is missing.
"""

from . import (
    arithmetic,
    choice,
    convolution,
    elementwise,
    extremes,
    function,
    gradients,
    inputs,
    linear,
    losses,
    lstm,
    masked,
    random,
    reductions,
    selection,
    shape,
    softmax,
)

FAMILIES = (
    inputs, arithmetic, elementwise, linear, softmax, masked, losses, reductions, extremes, shape, selection,
    convolution, choice, gradients, lstm, random, function,
)  # fmt: skip

__all__ = [name for family in FAMILIES for name in family.__all__]
for _family in FAMILIES:
    for _name in _family.__all__:
        globals()[_name] = getattr(_family, _name)
