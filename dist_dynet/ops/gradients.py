"""Operations whose gradient is not the derivative of their value: another factor, none, or that of the identity."""

from __future__ import annotations

from .._ffi import OPS
from ..expression import Expression
from ._nodes import dim_number, one, unary, with_int, with_reals

__all__ = ["argmax", "ceil", "flip_gradient", "floor", "nobackprop", "round", "scale_gradient"]

_scale, _flip = with_reals("scale_gradient", "scale_gradient"), with_reals("scale_gradient", "flip_gradient")
_round, _ceil, _floor = (with_int(name, name, Expression) for name in ("round", "ceil", "floor"))
_MODES = {"zero_gradient": 0, "straight_through_gradient": 1}


def _mode(gradient_mode: str, what: str) -> int:
    try:
        return _MODES[gradient_mode]
    except (KeyError, TypeError):
        raise ValueError(f'{what}: gradient_mode must be "zero_gradient" or "straight_through_gradient"; got {gradient_mode!r}.') from None


@unary
def nobackprop(x: Expression) -> Expression:
    """y = x; nothing is copied.

    Gradient: none goes back to x.

    >>> import dist_dynet as dy
    >>> dy.nobackprop(dy.scalarInput(3)).value()
    3.0
    """
    raise NotImplementedError


def flip_gradient(x: Expression) -> Expression:
    """y = x; nothing is copied.

    Gradient: dx = -dy, for adversarial training.

    >>> import dist_dynet as dy
    >>> dy.flip_gradient(dy.scalarInput(3)).value()
    3.0
    """
    return _flip(x, -1, 0)


def scale_gradient(x: Expression, lambd: float = 1.0) -> Expression:
    """y = x; nothing is copied.

    Gradient: dx = lambd dy.

    >>> import dist_dynet as dy
    >>> dy.scale_gradient(dy.scalarInput(3), 0.1).value()
    3.0
    """
    return _scale(x, lambd, 0)


def round(x: Expression, gradient_mode: str) -> Expression:
    """y_i = the whole number nearest to x_i; halves go to the even one, as in Python.

    Gradient: with gradient_mode "zero_gradient" none, with "straight_through_gradient" dx = dy.
    Raises: ValueError for another mode.

    >>> import dist_dynet as dy
    >>> dy.round(dy.inputVector([0.5, 1.5, -1.2]), "zero_gradient").value()
    [0.0, 2.0, -1.0]
    """
    return _round(x, _mode(gradient_mode, "round"))


def ceil(x: Expression, gradient_mode: str) -> Expression:
    """y_i = the least whole number >= x_i.

    Gradient: as round().

    >>> import dist_dynet as dy
    >>> dy.ceil(dy.inputVector([0.5, 2, -1.2]), "zero_gradient").value()
    [1.0, 2.0, -1.0]
    """
    return _ceil(x, _mode(gradient_mode, "ceil"))


def floor(x: Expression, gradient_mode: str) -> Expression:
    """y_i = the greatest whole number <= x_i.

    Gradient: as round().

    >>> import dist_dynet as dy
    >>> dy.floor(dy.inputVector([0.5, 2, -1.2]), "zero_gradient").value()
    [0.0, 2.0, -2.0]
    """
    return _floor(x, _mode(gradient_mode, "floor"))


def argmax(x: Expression, gradient_mode: str, d: int = 0) -> Expression:
    """y = 1 at the first maximum along dim d, 0 elsewhere: one-hot, of the dims of x.

    Gradient: as round(): none, or, straight through, dx = dy.
    Raises: ValueError for a dim that x does not have.

    >>> import dist_dynet as dy
    >>> dy.argmax(dy.inputVector([1, 3, 3]), "zero_gradient").value()
    [0.0, 1.0, 0.0]
    """
    return one(OPS["argmax"], "argmax", x, (_mode(gradient_mode, "argmax"), dim_number(d, "argmax")))
