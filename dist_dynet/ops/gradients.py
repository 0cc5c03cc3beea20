"""Operations whose gradient is not the derivative of their value: another factor, none, or that of
the identity."""

from __future__ import annotations

from .._integers import real, whole
from ..expression import Expression
from ._nodes import node, operation

__all__ = ["argmax", "ceil", "flip_gradient", "floor", "nobackprop", "round", "scale_gradient"]

_MODES = {"zero_gradient": 0, "straight_through_gradient": 1}


def _mode(gradient_mode: str, what: str) -> int:
    try:
        return _MODES[gradient_mode]
    except (KeyError, TypeError):
        raise ValueError(
            f'{what}: gradient_mode must be "zero_gradient" or "straight_through_gradient"; got'
            f" {gradient_mode!r}."
        ) from None


@operation("nobackprop")
def nobackprop(x: Expression) -> Expression:
    """y = x; nothing is copied.

    Gradient: none goes back to x.

    >>> import dist_dynet as dy
    >>> dy.nobackprop(dy.scalarInput(3)).value()
    3.0
    """
    return node("nobackprop", x)


@operation("scale_gradient", "-1.0 0.0")
def flip_gradient(x: Expression) -> Expression:
    """y = x; nothing is copied.

    Gradient: dx = -dy, for adversarial training.

    >>> import dist_dynet as dy
    >>> dy.flip_gradient(dy.scalarInput(3)).value()
    3.0
    """
    return node("scale_gradient", x, -1.0, 0.0, what="flip_gradient")


@operation("scale_gradient", "lambd. 0.0")
def scale_gradient(x: Expression, lambd: float = 1.0) -> Expression:
    """y = x; nothing is copied.

    Gradient: dx = lambd dy.

    >>> import dist_dynet as dy
    >>> dy.scale_gradient(dy.scalarInput(3), 0.1).value()
    3.0
    """
    return node("scale_gradient", x, real(lambd, "scale_gradient"), 0.0)


def round(x: Expression, gradient_mode: str) -> Expression:
    """y_i = the integer nearest to x_i; halves go to the even one, as in Python.

    Gradient: with gradient_mode "zero_gradient" none, with "straight_through_gradient" dx = dy.
    Raises: ValueError for another mode.

    >>> import dist_dynet as dy
    >>> dy.round(dy.inputVector([0.5, 1.5, -1.2]), "zero_gradient").value()
    [0.0, 2.0, -1.0]
    """
    return node("round", x, _mode(gradient_mode, "round"))


def ceil(x: Expression, gradient_mode: str) -> Expression:
    """y_i = the least integer >= x_i.

    Gradient: as round().

    >>> import dist_dynet as dy
    >>> dy.ceil(dy.inputVector([0.5, 2, -1.2]), "zero_gradient").value()
    [1.0, 2.0, -1.0]
    """
    return node("ceil", x, _mode(gradient_mode, "ceil"))


def floor(x: Expression, gradient_mode: str) -> Expression:
    """y_i = the greatest integer <= x_i.

    Gradient: as round().

    >>> import dist_dynet as dy
    >>> dy.floor(dy.inputVector([0.5, 2, -1.2]), "zero_gradient").value()
    [0.0, 2.0, -2.0]
    """
    return node("floor", x, _mode(gradient_mode, "floor"))


def argmax(x: Expression, gradient_mode: str, d: int = 0) -> Expression:
    """y = 1 at the first maximum along dim d, 0 elsewhere: one-hot, of the dims of x.

    Gradient: as round(): none, or, straight through, dx = dy.
    Raises: ValueError for a dim that x does not have.

    >>> import dist_dynet as dy
    >>> dy.argmax(dy.inputVector([1, 3, 3]), "zero_gradient").value()
    [0.0, 1.0, 0.0]
    """
    return node("argmax", x, _mode(gradient_mode, "argmax"), whole(d, "argmax", "a dim"))
