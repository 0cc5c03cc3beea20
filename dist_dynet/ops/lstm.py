"""The LSTM's step in three nodes, as DyNet has them; the builders have one node of their own for a
whole sequence (csrc/ops/lstm.c)."""

from __future__ import annotations

from collections.abc import Iterable

from .._integers import real
from ..expression import Expression
from ._nodes import listed, node, not_expression, operation
from .arithmetic import esum
from .random import random_normal

__all__ = [
    "vanilla_lstm_c",
    "vanilla_lstm_gates",
    "vanilla_lstm_gates_concat",
    "vanilla_lstm_gates_dropout",
    "vanilla_lstm_gates_dropout_concat",
    "vanilla_lstm_h",
]


@operation("lstm_gates")
def lstm_gates(x: Expression) -> Expression:
    """y = (logistic x_i, logistic(x_f + 1), logistic x_o, tanh x_g): the gates from their
    pre-activations, in the order i, f, o, g.

    Shape: (4 h,) -> (4 h,).
    Gradient: dx = dy y (1 - y) for i, f, o; dy (1 - y^2) for g.

    >>> import dist_dynet as dy
    >>> lstm_gates(dy.zeros(4)).npvalue().round(4).tolist()
    [0.5, 0.7311, 0.5, 0.0]
    """
    return node("lstm_gates", x)


def _noisy(what: str, w: Expression, std: float) -> Expression:
    if not std:
        return w
    if not isinstance(w, Expression):
        raise not_expression(what, w)
    return esum([w, random_normal(w.dim()[0], 0.0, std)])


def _gates(
    what: str,
    x: Expression,
    h: Expression,
    Wx: Expression,
    Wh: Expression,
    b: Expression,
    noise: float,
) -> Expression:
    std = real(noise, what)
    if not std >= 0:
        raise ValueError(f"{what}: weightnoise_std must not be negative; got {std}.")
    inputs = (_noisy(what, b, std), _noisy(what, Wx, std), x, _noisy(what, Wh, std), h)
    return node("lstm_gates", node("affine_transform", inputs, what=what), what=what)


def vanilla_lstm_gates(
    x_t: Expression,
    h_tm1: Expression,
    Wx: Expression,
    Wh: Expression,
    b: Expression,
    weightnoise_std: float = 0.0,
) -> Expression:
    """y = (i, f, o, g): i, f, o = logistic(Wx x + Wh h + b), 1 being added for f; g = tanh(Wx x +
    Wh h + b).

    Shape: x (n,), h (h,), Wx (4 h, n), Wh (4 h, h), b (4 h,) -> (4 h,); batches equal or 1.
    weightnoise_std: if not 0, Wx, Wh and b are replaced by themselves plus N(0, std^2), drawn anew
    for each node and shared by its batch; the gradient goes to Wx, Wh and b as if they had been
    these.
    Gradient: through lstm_gates(affine_transform([b, Wx, x, Wh, h])).

    >>> import dist_dynet as dy
    >>> x, h, Wx, Wh, b = dy.zeros(3), dy.zeros(1), dy.zeros((4, 3)), dy.zeros((4, 1)), dy.zeros(4)
    >>> dy.vanilla_lstm_gates(x, h, Wx, Wh, b).npvalue().round(4).tolist()
    [0.5, 0.7311, 0.5, 0.0]
    """
    return _gates("vanilla_lstm_gates", x_t, h_tm1, Wx, Wh, b, weightnoise_std)


def _joined(what: str, x_t: Iterable[Expression]) -> Expression:
    xs = listed(x_t, what)
    return xs[0] if len(xs) == 1 else node("concatenate", xs, 0, what=what)


def _dropped(what: str, x: Expression, mask: Expression) -> Expression:
    return node("cmult", x, mask, what=what)


def vanilla_lstm_gates_concat(
    x_t: Iterable[Expression],
    h_tm1: Expression,
    Wx: Expression,
    Wh: Expression,
    b: Expression,
    weightnoise_std: float = 0.0,
) -> Expression:
    """vanilla_lstm_gates() of concatenate(x_t).

    >>> import dist_dynet as dy
    >>> xs, h, Wx, Wh, b = (
    ...     [dy.zeros(1), dy.zeros(2)],
    ...     dy.zeros(1),
    ...     dy.zeros((4, 3)),
    ...     dy.zeros((4, 1)),
    ...     dy.zeros(4),
    ... )
    >>> dy.vanilla_lstm_gates_concat(xs, h, Wx, Wh, b).dim()
    ((4,), 1)
    """
    what = "vanilla_lstm_gates_concat"
    return _gates(what, _joined(what, x_t), h_tm1, Wx, Wh, b, weightnoise_std)


def vanilla_lstm_gates_dropout(
    x_t: Expression,
    h_tm1: Expression,
    Wx: Expression,
    Wh: Expression,
    b: Expression,
    dropout_mask_x: Expression,
    dropout_mask_h: Expression,
    weightnoise_std: float = 0.0,
) -> Expression:
    """vanilla_lstm_gates() of x and h, each multiplied elementwise by its mask.

    Shape: masks as what they multiply, their batches equal or 1.
    Gradient: through cmult(); it reaches the masks, too, where they lead to parameters.

    >>> import dist_dynet as dy
    >>> x, h, Wx, Wh, b = dy.ones(3), dy.zeros(1), dy.ones((4, 3)), dy.zeros((4, 1)), dy.zeros(4)
    >>> dy.vanilla_lstm_gates_dropout(x, h, Wx, Wh, b, dy.zeros(3), dy.ones(1)).npvalue().round(
    ...     4
    ... ).tolist()
    [0.5, 0.7311, 0.5, 0.0]
    """
    what = "vanilla_lstm_gates_dropout"
    return _gates(
        what,
        _dropped(what, x_t, dropout_mask_x),
        _dropped(what, h_tm1, dropout_mask_h),
        Wx,
        Wh,
        b,
        weightnoise_std,
    )


def vanilla_lstm_gates_dropout_concat(
    x_t: Iterable[Expression],
    h_tm1: Expression,
    Wx: Expression,
    Wh: Expression,
    b: Expression,
    dropout_mask_x: Expression,
    dropout_mask_h: Expression,
    weightnoise_std: float = 0.0,
) -> Expression:
    """vanilla_lstm_gates_dropout() of concatenate(x_t).

    >>> import dist_dynet as dy
    >>> xs, h, Wx, Wh, b = (
    ...     [dy.ones(1), dy.ones(2)],
    ...     dy.zeros(1),
    ...     dy.ones((4, 3)),
    ...     dy.zeros((4, 1)),
    ...     dy.zeros(4),
    ... )
    >>> dy.vanilla_lstm_gates_dropout_concat(
    ...     xs, h, Wx, Wh, b, dy.zeros(3), dy.ones(1)
    ... ).npvalue().round(4).tolist()
    [0.5, 0.7311, 0.5, 0.0]
    """
    what = "vanilla_lstm_gates_dropout_concat"
    x = _dropped(what, _joined(what, x_t), dropout_mask_x)
    return _gates(what, x, _dropped(what, h_tm1, dropout_mask_h), Wx, Wh, b, weightnoise_std)


@operation("vanilla_lstm_c")
def vanilla_lstm_c(c_tm1: Expression, gates_t: Expression) -> Expression:
    """c_t = f c_(t-1) + i g, elementwise, from the gates (i, f, o, g).

    Shape: (h,), (4 h,) -> (h,); batches equal or 1.
    Gradient: dc_(t-1) = dy f, di = dy g, df = dy c_(t-1), dg = dy i.

    >>> import dist_dynet as dy
    >>> dy.vanilla_lstm_c(dy.scalarInput(4), dy.inputVector([0.5, 0.25, 1, 2])).value()
    2.0
    """
    return node("vanilla_lstm_c", c_tm1, gates_t)


@operation("vanilla_lstm_h")
def vanilla_lstm_h(c_t: Expression, gates_t: Expression) -> Expression:
    """h_t = o tanh(c_t), elementwise, from the gates (i, f, o, g).

    Shape: (h,), (4 h,) -> (h,); batches equal or 1.
    Gradient: dc = dy o (1 - tanh(c)^2), do = dy tanh c.

    >>> import dist_dynet as dy
    >>> round(dy.vanilla_lstm_h(dy.scalarInput(1), dy.inputVector([0, 0, 0.5, 0])).value(), 4)
    0.3808
    """
    return node("vanilla_lstm_h", c_t, gates_t)
