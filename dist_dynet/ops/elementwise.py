"""Functions of one expression, element by element: dims and batch stay."""

from __future__ import annotations

from .._integers import real
from ..expression import Expression, operator
from ._nodes import node, operation

__all__ = [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cos",
    "cosh",
    "cube",
    "elu",
    "erf",
    "exp",
    "gelu",
    "lgamma",
    "log",
    "log_sigmoid",
    "logistic",
    "rectify",
    "selu",
    "silu",
    "sin",
    "sinh",
    "softsign",
    "sqrt",
    "square",
    "tan",
    "tanh",
]


@operation("tanh")
def tanh(x: Expression) -> Expression:
    """y_i = tanh x_i.

    Gradient: dx = dy (1 - y^2).

    >>> import dist_dynet as dy
    >>> round(dy.tanh(dy.scalarInput(0.5)).value(), 4)
    0.4621
    """
    return node("tanh", x)


@operation("logistic")
def logistic(x: Expression) -> Expression:
    """y_i = 1 / (1 + exp(-x_i)).

    Gradient: dx = dy y (1 - y).

    >>> import dist_dynet as dy
    >>> dy.logistic(dy.scalarInput(0)).value()
    0.5
    """
    return node("logistic", x)


@operation("rectify")
def rectify(x: Expression) -> Expression:
    """y_i = max(0, x_i); NaN stays.

    Gradient: dx = 0 where x <= 0, else dy.

    >>> import dist_dynet as dy
    >>> dy.rectify(dy.inputVector([-1, 2])).value()
    [0.0, 2.0]
    """
    return node("rectify", x)


@operation("exp")
def exp(x: Expression) -> Expression:
    """y_i = exp x_i.

    Gradient: dx = dy y.

    >>> import dist_dynet as dy
    >>> dy.exp(dy.scalarInput(0)).value()
    1.0
    """
    return node("exp", x)


@operation("log")
def log(x: Expression) -> Expression:
    """y_i = log x_i, the natural logarithm; -inf at 0, NaN below.

    Gradient: dx = dy / x.

    >>> import dist_dynet as dy
    >>> dy.log(dy.scalarInput(1)).value()
    0.0
    """
    return node("log", x)


@operation("square")
def square(x: Expression) -> Expression:
    """y_i = x_i^2.

    Gradient: dx = 2 dy x.

    >>> import dist_dynet as dy
    >>> dy.square(dy.scalarInput(-3)).value()
    9.0
    """
    return node("square", x)


@operator("__abs__")
@operation("abs")
def abs(x: Expression) -> Expression:
    """y_i = |x_i|.

    Gradient: dx = dy sign(x), 0 at 0.

    >>> import dist_dynet as dy
    >>> dy.abs(dy.scalarInput(-3)).value(), abs(dy.scalarInput(-3)).value()
    (3.0, 3.0)
    """
    return node("abs", x)


@operation("sin")
def sin(x: Expression) -> Expression:
    """y_i = sin x_i.

    Gradient: dx = dy cos x.

    >>> import dist_dynet as dy
    >>> round(dy.sin(dy.scalarInput(1)).value(), 4)
    0.8415
    """
    return node("sin", x)


@operation("cos")
def cos(x: Expression) -> Expression:
    """y_i = cos x_i.

    Gradient: dx = -dy sin x.

    >>> import dist_dynet as dy
    >>> round(dy.cos(dy.scalarInput(1)).value(), 4)
    0.5403
    """
    return node("cos", x)


@operation("tan")
def tan(x: Expression) -> Expression:
    """y_i = tan x_i.

    Gradient: dx = dy (1 + y^2).

    >>> import dist_dynet as dy
    >>> round(dy.tan(dy.scalarInput(1)).value(), 4)
    1.5574
    """
    return node("tan", x)


@operation("asin")
def asin(x: Expression) -> Expression:
    """y_i = arcsin x_i, in [-pi/2, pi/2]; NaN where |x_i| > 1.

    Gradient: dx = dy / sqrt(1 - x^2).

    >>> import dist_dynet as dy
    >>> round(dy.asin(dy.scalarInput(0.5)).value(), 4)
    0.5236
    """
    return node("asin", x)


@operation("acos")
def acos(x: Expression) -> Expression:
    """y_i = arccos x_i, in [0, pi]; NaN where |x_i| > 1.

    Gradient: dx = -dy / sqrt(1 - x^2).

    >>> import dist_dynet as dy
    >>> round(dy.acos(dy.scalarInput(0.5)).value(), 4)
    1.0472
    """
    return node("acos", x)


@operation("atan")
def atan(x: Expression) -> Expression:
    """y_i = arctan x_i, in [-pi/2, pi/2].

    Gradient: dx = dy / (1 + x^2).

    >>> import dist_dynet as dy
    >>> round(dy.atan(dy.scalarInput(1)).value(), 4)
    0.7854
    """
    return node("atan", x)


@operation("sinh")
def sinh(x: Expression) -> Expression:
    """y_i = (exp(x_i) - exp(-x_i)) / 2.

    Gradient: dx = dy cosh x.

    >>> import dist_dynet as dy
    >>> round(dy.sinh(dy.scalarInput(1)).value(), 4)
    1.1752
    """
    return node("sinh", x)


@operation("cosh")
def cosh(x: Expression) -> Expression:
    """y_i = (exp(x_i) + exp(-x_i)) / 2.

    Gradient: dx = dy sinh x.

    >>> import dist_dynet as dy
    >>> round(dy.cosh(dy.scalarInput(1)).value(), 4)
    1.5431
    """
    return node("cosh", x)


@operation("asinh")
def asinh(x: Expression) -> Expression:
    """y_i = log(x_i + sqrt(x_i^2 + 1)), the inverse of sinh.

    Gradient: dx = dy / sqrt(x^2 + 1).

    >>> import dist_dynet as dy
    >>> round(dy.asinh(dy.scalarInput(1)).value(), 4)
    0.8814
    """
    return node("asinh", x)


@operation("acosh")
def acosh(x: Expression) -> Expression:
    """y_i = log(x_i + sqrt(x_i^2 - 1)), the inverse of cosh; NaN below 1.

    Gradient: dx = dy / sqrt(x^2 - 1), below -1, too, as in PyTorch.

    >>> import dist_dynet as dy
    >>> round(dy.acosh(dy.scalarInput(2)).value(), 4)
    1.317
    """
    return node("acosh", x)


@operation("atanh")
def atanh(x: Expression) -> Expression:
    """y_i = log((1 + x_i) / (1 - x_i)) / 2, the inverse of tanh; NaN where |x_i| > 1.

    Gradient: dx = dy / (1 - x^2).

    >>> import dist_dynet as dy
    >>> round(dy.atanh(dy.scalarInput(0.5)).value(), 4)
    0.5493
    """
    return node("atanh", x)


@operation("sqrt")
def sqrt(x: Expression) -> Expression:
    """y_i = sqrt x_i; NaN below 0.

    Gradient: dx = dy / (2 y); infinite at 0.

    >>> import dist_dynet as dy
    >>> round(dy.sqrt(dy.scalarInput(2)).value(), 4)
    1.4142
    """
    return node("sqrt", x)


@operation("cube")
def cube(x: Expression) -> Expression:
    """y_i = x_i^3.

    Gradient: dx = 3 dy x^2.

    >>> import dist_dynet as dy
    >>> round(dy.cube(dy.scalarInput(2)).value(), 4)
    8.0
    """
    return node("cube", x)


@operation("erf")
def erf(x: Expression) -> Expression:
    """y_i = 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x_i: the error function.

    Gradient: dx = dy 2 / sqrt(pi) exp(-x^2).

    >>> import dist_dynet as dy
    >>> round(dy.erf(dy.scalarInput(1)).value(), 4)
    0.8427
    """
    return node("erf", x)


@operation("lgamma")
def lgamma(x: Expression) -> Expression:
    """y_i = log |gamma(x_i)|; infinite at 0, -1, -2, ...

    Gradient: dx = dy digamma(x).

    >>> import dist_dynet as dy
    >>> round(dy.lgamma(dy.scalarInput(5)).value(), 4)
    3.1781
    """
    return node("lgamma", x)


@operation("log_sigmoid")
def log_sigmoid(x: Expression) -> Expression:
    """y_i = -log(1 + exp(-x_i)) = log logistic x_i, without overflow.

    Gradient: dx = dy logistic(-x).

    >>> import dist_dynet as dy
    >>> round(dy.log_sigmoid(dy.scalarInput(0)).value(), 4)
    -0.6931
    """
    return node("log_sigmoid", x)


@operation("softsign")
def softsign(x: Expression) -> Expression:
    """y_i = x_i / (1 + |x_i|); 1 and -1 at infinity.

    Gradient: dx = dy / (1 + |x|)^2.

    >>> import dist_dynet as dy
    >>> round(dy.softsign(dy.scalarInput(3)).value(), 4)
    0.75
    """
    return node("softsign", x)


@operation("selu")
def selu(x: Expression) -> Expression:
    """y_i = s (x_i where x_i > 0, else a (exp(x_i) - 1)), s = 1.0507009873554805, a =
    1.6732632423543772.

    Gradient: dx = s dy where x > 0, else s a dy exp x.

    >>> import dist_dynet as dy
    >>> round(dy.selu(dy.scalarInput(1)).value(), 4)
    1.0507
    """
    return node("selu", x)


@operation("elu", "alpha. 0.0")
def elu(x: Expression, alpha: float = 1.0) -> Expression:
    """y_i = x_i where x_i > 0, else alpha (exp(x_i) - 1).

    Gradient: dx = dy where x > 0, else dy alpha exp x.

    >>> import dist_dynet as dy
    >>> dy.elu(dy.inputVector([-1, 2])).npvalue().round(4).tolist()
    [-0.6321, 2.0]
    """
    return node("elu", x, real(alpha, "elu"), 0.0)


@operation("silu", "beta. 0.0")
def silu(x: Expression, beta: float = 1.0) -> Expression:
    """y_i = x_i logistic(beta x_i); also known as swish.

    Gradient: dx = dy (s + beta x s (1 - s)), where s = logistic(beta x).

    >>> import dist_dynet as dy
    >>> dy.silu(dy.inputVector([-1, 2])).npvalue().round(4).tolist()
    [-0.2689, 1.7616]
    """
    return node("silu", x, real(beta, "silu"), 0.0)


def gelu(x: Expression, approximate: bool = False) -> Expression:
    """y_i = x_i Phi(x_i), where Phi is the distribution function of N(0, 1): Phi(x) = (1 + erf(x /
    sqrt 2)) / 2.

    approximate=True: y_i = x_i (1 + tanh(sqrt(2 / pi) (x_i + 0.044715 x_i^3))) / 2, as models such
    as GPT-2 were trained with; the two differ by less than 5e-4.
    Gradient: dx = dy (Phi(x) + x phi(x)), phi being the density of N(0, 1); of the approximate
    form, its own derivative.

    >>> import dist_dynet as dy
    >>> dy.gelu(dy.inputVector([-1, 2])).npvalue().round(4).tolist()
    [-0.1587, 1.9545]
    >>> dy.gelu(dy.inputVector([-1, 2]), approximate=True).npvalue().round(4).tolist()
    [-0.1588, 1.9546]
    """
    return node("gelu_tanh" if approximate else "gelu", x, what="gelu")
