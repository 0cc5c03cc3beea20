"""The simple recurrent network and the GRU."""

from __future__ import annotations

from typing import ClassVar

from .._ffi import OPS
from ..expression import Expression
from ..ops import affine_transform, cmult, logistic, tanh
from ..params.parameters import Parameters
from .builder import RecurrentBuilder, TwoRates
from .state import masked


class SimpleRNNBuilder(RecurrentBuilder, TwoRates):
    """The simple recurrent network (Elman 1990): h_t = tanh(Wx x_t + Wh h_(t-1) + b).

    Parameters of each layer, in the subcollection simple-rnn-builder: Wx (h, input), Wh (h, h), b
    (h).

    Args:
        layers: the number of layers, each fed with the h of the one below.
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> rnn = dy.SimpleRNNBuilder(1, 2, 3, m)
    >>> _ = dy.renew_cg()
    >>> rnn.initial_state().add_input(dy.inputVector([1, 2])).output().dim()
    ((3,), 1)
    """

    _subcollection: ClassVar[str] = "simple-rnn-builder"
    _op: ClassVar[int] = OPS["simple_rnn"]
    _roles: ClassVar[tuple[str, ...]] = ("Wx", "Wh", "b")

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        add, h = self._collection.add_parameters, self.hidden_dim
        return add((h, input_dim)), add((h, h)), add(h, init=0)

    def set_dropouts(self, d: float, d_h: float) -> None:
        """The dropout rates of inputs (d) and of h (d_h).

        Raises:
            ValueError: a rate outside of [0, 1].

        >>> import dist_dynet as dy
        >>> rnn = dy.SimpleRNNBuilder(1, 2, 3, dy.ParameterCollection())
        >>> rnn.set_dropouts(0.25, 0.5)
        >>> rnn.dropout_x, rnn.dropout_h
        (0.25, 0.5)
        """
        super().set_dropouts(d, d_h)

    @property
    def _cell_is_dynets(self) -> bool:
        return True

    def _cell(
        self,
        weights: list[Expression],
        masks: tuple[Expression | None, ...],
        x: Expression,
        h: Expression | None,
        c: Expression | None,
    ) -> tuple[Expression, None]:
        """A step composed of DyNet's operations in its order."""
        Wx, Wh, b = weights
        x = masked(x, masks[0])
        of_h = [] if h is None else [Wh, masked(h, masks[1])]
        return tanh(affine_transform([b, Wx, x, *of_h])), None


class GRUBuilder(RecurrentBuilder):
    """The gated recurrent unit (Cho et al. 2014): h_t = (1 - z) h_(t-1) + z tanh(Whx x_t + Whh (r
    h_(t-1)) + bh).

    The gates are z = logistic(Wzx x_t + Wzh h_(t-1) + bz) and r = logistic(Wrx x_t + Wrh h_(t-1) +
    br); products of vectors are elementwise. Parameters of each layer, in the subcollection
    gru-builder: Wzx (h, input), Wzh (h, h), bz (h), then the same for r and for h.

    Dropout is drawn anew at each step, for the input of each layer and for the output; h() itself
    is not dropped.

    Args:
        layers: the number of layers, each fed with the h of the one below.
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> gru = dy.GRUBuilder(2, 2, 3, m)
    >>> _ = dy.renew_cg()
    >>> state = gru.initial_state().add_input(dy.inputVector([1, 2]))
    >>> state.output().dim(), len(state.h())
    (((3,), 1), 2)
    """

    _subcollection: ClassVar[str] = "gru-builder"
    _drops_each_step: ClassVar[bool] = True
    _mask_rates: ClassVar[tuple[str | None, ...]] = ()
    _op: ClassVar[int] = OPS["gru"]
    _roles: ClassVar[tuple[str, ...]] = ("Wzx", "Wzh", "bz", "Wrx", "Wrh", "br", "Whx", "Whh", "bh")

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        add, h = self._collection.add_parameters, self.hidden_dim
        shapes: list[tuple[int | tuple[int, int], int | None]] = [
            ((h, input_dim), None),
            ((h, h), None),
            (h, 0),
        ]
        return tuple(add(shape, init=init) for _ in range(3) for shape, init in shapes)

    def set_dropout(self, f: float) -> None:
        """The dropout rate of each layer's input and of the output; drawn anew at each step.

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        super().set_dropout(f)

    @property
    def _cell_is_dynets(self) -> bool:
        return True

    def _cell(
        self,
        weights: list[Expression],
        masks: tuple[Expression | None, ...],
        x: Expression,
        h: Expression | None,
        c: Expression | None,
    ) -> tuple[Expression, None]:
        """A step by DyNet's operations, in its order."""
        Wzx, Wzh, bz, Wrx, Wrh, br, Whx, Whh, bh = weights

        def products(b: Expression, W: Expression, of_h: list[Expression]) -> Expression:
            return affine_transform([b, W, x, *of_h])

        z = logistic(products(bz, Wzx, [] if h is None else [Wzh, h]))
        keep = 1 - z
        r = logistic(products(br, Wrx, [] if h is None else [Wrh, h]))
        candidate = tanh(products(bh, Whx, [] if h is None else [Whh, cmult(r, h)]))
        new = cmult(z, candidate)
        return (new if h is None else cmult(keep, h) + new), None
