"""Layers of feed-forward networks: the affine map, and a sequence of them with an activation in
between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from .. import ops
from ..expression import Expression
from ..ops import dropout, reshape
from ..params.collection import ParameterCollection
from .block import Block, used
from .owner import REFUSALS


class Linear(Block):
    """y = W x + b.

    Parameters, in the subcollection linear: W (output_dim, input_dim) and, with bias, b
    (output_dim), which starts at 0.

    Args:
        input_dim, output_dim: sizes of x and y.
        model: where the parameters go.
        bias: False: there is no b.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> layer = dy.Linear(2, 3, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> layer(dy.zeros(2)).value(), layer(dy.zeros((2, 5))).dim()
    ([0.0, 0.0, 0.0], ((3, 5), 1))
    """

    _subcollection: ClassVar[str] = "linear"
    _arguments: ClassVar[tuple[str, ...]] = ("input_dim", "output_dim", "bias")
    _before_model: ClassVar[int] = 2

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        model: ParameterCollection,
        bias: bool = True,
        *,
        precision: str | None = None,
    ) -> None:
        self.input_dim, self.output_dim = self._sizes(input_dim, output_dim)
        self.bias = bool(bias)
        self._begin(model, precision, input_dim=self.input_dim, output_dim=self.output_dim)
        self._W = self._dense("W", (self.output_dim, self.input_dim))
        self._b = self._dense("b", self.output_dim, 0) if self.bias else None

    def __call__(self, x: Expression, update: bool = True) -> Expression:
        """The result for a vector (input_dim,), or for each column of a matrix; with update=False
        the parameters get no gradient."""
        b = None if self._b is None else used(self._b, update)
        y = self._affine(used(self._W, update), b, x, self.input_dim)
        if b is None:
            return y
        dims, batch = x.dim()
        # affine_transform, as DyNet's, gives a vector
        return y if len(dims) < 2 or dims[1] != 1 else reshape(y, (self.output_dim, 1), batch)


class MLP(Block):
    """Linear layers with an activation in between: x_(k + 1) = f(W_k x_k + b_k), the last layer
    without f.

    Parameters, in the subcollection mlp: those of each Linear layer in turn.

    Args:
        sizes: of the input, of each hidden layer, of the output.
        model: where the parameters go.
        activation: f: an operation of one expression, or its name.
        dropout: the dropout rate of the output of f; set_dropout() changes it.

    Raises:
        ValueError: fewer than two sizes, one that is not positive, an operation that is not there,
            or a rate outside of [0, 1].

    >>> import dist_dynet as dy
    >>> network = dy.MLP([2, 8, 8, 3], dy.ParameterCollection(), activation="tanh", dropout=0.1)
    >>> _ = dy.renew_cg()
    >>> network(dy.inputVector([1, 2])).dim()
    ((3,), 1)
    """

    _subcollection: ClassVar[str] = "mlp"
    _arguments: ClassVar[tuple[str, ...]] = ("sizes", "activation", "dropout_rate")
    _before_model: ClassVar[int] = 1

    def __init__(
        self,
        sizes: Sequence[int],
        model: ParameterCollection,
        activation: str | Callable[[Expression], Expression] = "rectify",
        dropout: float = 0,
        *,
        precision: str | None = None,
    ) -> None:
        if not isinstance(sizes, Iterable):
            raise TypeError(
                f"MLP: sizes must be a list, of the input and of each layer; got {sizes!r}. Write"
                " MLP([input, hidden, output], m)."
            )
        self.sizes = list(self._sizes(*sizes))
        if len(self.sizes) < 2:
            raise ValueError(
                f"MLP: sizes must be of the input and of at least one layer; got {self.sizes}."
            )
        self.activation = (
            activation if isinstance(activation, str) else getattr(activation, "__name__", "")
        )
        self._f: Any = (
            getattr(ops, self.activation, None) if self.activation in ops.OPERATIONS else None
        )
        if self._f is None or activation not in (self.activation, self._f):
            raise ValueError(
                "MLP: activation must be an operation of one expression, or its name; got"
                f" {activation!r:.80}."
            )
        self.set_dropout(dropout)
        self._begin(model, precision, **{f"sizes[{k}]": size for k, size in enumerate(self.sizes)})
        self._layers = [
            Linear(m, n, self._collection) for m, n in zip(self.sizes, self.sizes[1:], strict=False)
        ]

    def set_dropout(self, d: float) -> None:
        """The dropout rate of hidden layers.

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        self.dropout_rate = self._rate(d, "set_dropout")

    def disable_dropout(self) -> None:
        """No dropout."""
        self.set_dropout(0)

    def __call__(self, x: Expression, update: bool = True) -> Expression:
        """The result for a vector (sizes[0],), or for each column of a matrix; with update=False
        the parameters get no gradient."""
        y = x
        try:
            for layer in self._layers[:-1]:
                y = self._f(layer(y, update))
                if self.dropout_rate and self._drops():
                    y = dropout(y, self.dropout_rate)
            return self._layers[-1](y, update)
        except REFUSALS:
            self._check_rows(x, self.sizes[0])
            raise
