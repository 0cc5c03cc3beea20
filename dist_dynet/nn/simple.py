"""The simple recurrent network and the GRU, a step composed of a few nodes."""

from __future__ import annotations

from typing import ClassVar

from ..graph import Expression
from ..ops import affine_transform, cmult, dropout, logistic, tanh
from ..params.collection import Parameters
from .state import RecurrentBuilder, TwoRates, masked

_Optional = Expression | None


class SimpleRNNBuilder(TwoRates):
    """The simple recurrent network (Elman 1990): h_t = tanh(Wx x_t + Wh h_(t-1) + b).

    Parameters of each layer, in the subcollection simple-rnn-builder: Wx (h, input), Wh (h, h), b (h).

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

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        add, h = self._collection.add_parameters, self.hidden_dim
        return add((h, input_dim)), add((h, h)), add(h, init=0)

    def set_dropouts(self, d: float, d_h: float) -> None:
        """The dropout rates of inputs (d) and of h (d_h).

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        super().set_dropouts(d, d_h)

    def _cell(
        self, weights: list[Expression], masks: tuple[_Optional, ...], x: Expression, h: _Optional, c: _Optional
    ) -> tuple[Expression, None]:
        Wx, Wh, b = weights
        terms = [b, Wx, masked(x, masks[0])]
        if h is not None:
            terms += [Wh, masked(h, masks[1])]
        return tanh(affine_transform(terms)), None


class GRUBuilder(RecurrentBuilder):
    """The gated recurrent unit (Cho et al. 2014): h_t = (1 - z) h_(t-1) + z tanh(Whx x_t + Whh (r h_(t-1)) + bh).

    The gates are z = logistic(Wzx x_t + Wzh h_(t-1) + bz) and r = logistic(Wrx x_t + Wrh h_(t-1) + br); products of vectors are elementwise.
    Parameters of each layer, in the subcollection gru-builder: Wzx (h, input), Wzh (h, h), bz (h), then the same for r and for h.

    Dropout is drawn anew at each step, for the input of each layer and for the output; h() itself is not dropped.

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

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        add, h = self._collection.add_parameters, self.hidden_dim
        shapes: list[tuple[int | tuple[int, int], int | None]] = [((h, input_dim), None), ((h, h), None), (h, 0)]
        return tuple(add(shape, init=init) for _ in range(3) for shape, init in shapes)

    def set_dropout(self, f: float) -> None:
        """The dropout rate of each layer's input and of the output; drawn anew at each step.

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        super().set_dropout(f)

    def _rates(self) -> tuple[float, ...]:
        return ()

    def _cell(
        self, weights: list[Expression], masks: tuple[_Optional, ...], x: Expression, h: _Optional, c: _Optional
    ) -> tuple[Expression, None]:
        Wzx, Wzh, bz, Wrx, Wrh, br, Whx, Whh, bh = weights
        if self.dropout_x:
            x = dropout(x, self.dropout_x)
        if h is None:
            return cmult(logistic(affine_transform([bz, Wzx, x])), tanh(affine_transform([bh, Whx, x]))), None
        z = logistic(affine_transform([bz, Wzx, x, Wzh, h]))
        r = logistic(affine_transform([br, Wrx, x, Wrh, h]))
        candidate = tanh(affine_transform([bh, Whx, x, Whh, cmult(r, h)]))
        return h + cmult(z, candidate - h), None

    def _last(self, h: Expression) -> Expression | None:
        return dropout(h, self.dropout_x) if self.dropout_x else None
