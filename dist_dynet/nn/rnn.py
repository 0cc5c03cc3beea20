"""The LSTM. A step is one node; a sequence known in advance (add_inputs, transduce) is one node per
layer.

With layer normalisation a step is composed of several nodes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .._ffi import OPS
from .._integers import number_argument
from ..expression import Expression
from ..ops import (
    affine_transform,
    cmult,
    inputVector,
    layer_norm,
    logistic,
    pick_range,
    tanh,
    vanilla_lstm_c,
    zeros,
)
from ..ops.lstm import lstm_gates
from ..params.collection import ParameterCollection
from ..params.parameters import Parameters
from .builder import RecurrentBuilder, TwoRates
from .state import masked


class VanillaLSTMBuilder(RecurrentBuilder, TwoRates):
    """The LSTM: i, f, o = logistic(Wx x_t + Wh h_(t-1) + b) (forget_bias added to f), g =
    tanh(...), c_t = f c_(t-1) + i g, h_t = o tanh c_t.

    Parameters of each layer, in the subcollection vanilla-lstm-builder: Wx (4h, input), Wh (4h, h),
    b (4h); gates in the order i, f, o, g. With layer normalisation (Ba, Kiros and Hinton 2016) the
    sum is LN(Wx x; gx, bx) + LN(Wh h; gh, bh) + b, and h = o tanh(LN(c; gc, bc)); the term of h is
    absent at a start without vectors. Then follow gh, bh, gx, bx (4h), gc, bc (h), gains at 1,
    shifts at 0.

    Args:
        layers: the number of layers, each fed with the h of the one below.
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.
        ln_lstm: whether to normalise layers.
        forget_bias: added to the forget gate when it is computed; b itself starts at 0.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm = dy.VanillaLSTMBuilder(2, 4, 3, m)
    >>> _ = dy.renew_cg()
    >>> outputs = lstm.initial_state().transduce([dy.inputVector([1, 2, 3, 4])] * 5)
    >>> len(outputs), outputs[0].dim()
    (5, ((3,), 1))
    """

    _subcollection: ClassVar[str] = "vanilla-lstm-builder"
    _has_cells: ClassVar[bool] = True
    _op: ClassVar[int] = OPS["lstm"]
    _roles: ClassVar[tuple[str, ...]] = ("Wx", "Wh", "b", "gh", "bh", "gx", "bx", "gc", "bc")

    def __init__(
        self,
        layers: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        ln_lstm: bool = False,
        forget_bias: float = 1.0,
        *,
        precision: str | None = None,
    ) -> None:
        bias = number_argument(forget_bias, f"{type(self).__name__}: forget_bias")
        self.forget_bias, self.ln_lstm = bias, bool(ln_lstm)
        super().__init__(layers, input_dim, hidden_dim, model, precision=precision)

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        add, h = self._collection.add_parameters, self.hidden_dim
        return add((4 * h, input_dim)), add((4 * h, h)), add(4 * h, init=0), *self._norms()

    def _norms(self) -> tuple[Parameters, ...]:
        """Gain and shift of the layer normalisations of Wh h, of Wx x, and of c."""
        if not self.ln_lstm:
            return ()
        add, h = self._collection.add_parameters, self.hidden_dim
        return tuple(add(size, init=init) for size in (4 * h, 4 * h, h) for init in (1, 0))

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal builder."""
        return self.layers, self.input_dim, self.hidden_dim, self.ln_lstm, self.forget_bias

    def get_parameters(self) -> list[list[Parameters]]:
        """[Wx, Wh, b] of each layer; those of layer normalisation are in param_collection().

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> [p.shape() for p in lstm.get_parameters()[0]]
        [(12, 2), (12, 3), (12,)]
        """
        return [list(layer[:3]) for layer in self._layers]

    def get_parameter_expressions(self) -> list[list[Expression]]:
        """[Wx, Wh, b] of each layer as expressions of the current graph.

        Raises:
            ValueError: no initial_state() in this graph before.
        """
        return [layer[:3] for layer in super().get_parameter_expressions()]

    @property
    def _cell_is_dynets(self) -> bool:
        return not self.ln_lstm

    def _composes(self) -> bool:
        return self.ln_lstm or super()._composes()

    def _floats(self) -> tuple[float, ...]:
        return (self.forget_bias,)

    def _weights(self, parameters: list[Expression]) -> list[Expression]:
        if not self.ln_lstm:
            return parameters
        bias = np.zeros(4 * self.hidden_dim)
        # lstm_gates() adds the 1
        bias[self.hidden_dim : 2 * self.hidden_dim] = self.forget_bias - 1
        Wx, Wh, b, *norms = parameters
        return [Wx, Wh, b + inputVector(bias.tolist()) if bias.any() else b, *norms]

    def _cell(
        self,
        weights: list[Expression],
        masks: tuple[Expression | None, ...],
        x: Expression,
        h: Expression | None,
        c: Expression | None,
    ) -> tuple[Expression, Expression]:
        """A step of the layer-normalised LSTM, or one composed of DyNet's operations in its
        order."""
        size = self.hidden_dim
        if not self.ln_lstm:
            Wx, Wh, b = weights[:3]
            x = masked(x, masks[0])
            of_h = [] if h is None else [Wh, masked(h, masks[1])]
            sums = affine_transform([b, Wx, x, *of_h])
            i, f, o, g = (pick_range(sums, k * size, (k + 1) * size) for k in range(4))
            i, f, o, g = logistic(i), logistic(f + self.forget_bias), logistic(o), tanh(g)
            new = cmult(i, g) if c is None else cmult(f, c) + cmult(i, g)
            return cmult(o, tanh(new)), new
        Wx, Wh, b, gain_h, shift_h, gain_x, shift_x, gain_c, shift_c = weights
        before = layer_norm(Wx * masked(x, masks[0]), gain_x, shift_x) + b
        if h is not None:
            before = before + layer_norm(Wh * masked(h, masks[1]), gain_h, shift_h)
        gates = lstm_gates(before)
        c = vanilla_lstm_c(zeros(size) if c is None else c, gates)
        return cmult(gates[2 * size : 3 * size], tanh(layer_norm(c, gain_c, shift_c))), c


LSTMBuilder = VanillaLSTMBuilder
