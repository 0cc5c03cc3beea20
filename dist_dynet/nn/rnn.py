"""The LSTM. A step is one node; a sequence known in advance (add_inputs, transduce) is one node per layer.

With layer normalisation a step is composed of several nodes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .._ffi import OPS, fail
from ..graph import Expression, expression
from ..ops import cmult, inputVector, layer_norm, tanh, vanilla_lstm_c, zeros
from ..ops._nodes import many_node
from ..ops.lstm import lstm_gates
from ..params.collection import ParameterCollection, Parameters
from .state import CellRun, Masks, RNNState, Run, TwoRates, masked, part, parts

_LSTM = OPS["lstm"]


class LSTMRun(Run):
    """A sequence of an LSTM in nodes that hold a layer's cell, or a layer's sequence."""

    __slots__ = ("weights",)

    def __init__(self, builder: VanillaLSTMBuilder, update: bool, masks: Masks | None = None) -> None:
        super().__init__(builder, update, masks)
        self.weights = [builder._node_inputs(layer) for layer in self.handles]

    def _node(self, layer: int, xs: list[Expression], h: Expression | None, c: Expression | None) -> int:
        """The node of one layer over these inputs: its handle."""
        state = [] if h is None or c is None else [h._h, c._h]
        try:
            inputs = [*self.weights[layer], *state, *[x._h for x in xs]]
        except AttributeError:
            raise TypeError(f"add_input: takes expressions; got {', '.join(type(x).__name__ for x in xs)}.") from None
        node = many_node(_LSTM, inputs, (len(xs), 1 if state else 0), (self.builder.forget_bias,))
        if node < 0:
            fail(node, *inputs)
        return node

    def _sequence(self, state: RNNState, xs: list[Expression]) -> tuple[list[list[Expression]], list[int]]:
        """The h after each input for each layer, and the owner node of each layer."""
        steps, size = len(xs), self.builder.hidden_dim
        all_h, owners = [], []
        h0, c0 = state._h, state._cells()
        for layer, (mask, _) in enumerate(self.layer_masks(xs[0])):
            inputs = xs if mask is None else [cmult(x, mask) for x in xs]
            owner = self._node(layer, inputs, h0[layer] if h0 else None, c0[layer] if c0 else None)
            first = parts(owner, 0, steps, size)
            if first < 0:
                fail(first, owner)
            xs = [expression(first + t) for t in range(steps)]
            all_h.append(xs)
            owners.append(owner)
        return all_h, owners

    def step(self, state: RNNState, x: Expression) -> RNNState:
        """One node per layer."""
        h0, c0, h, owners = state._h, state._cells(), [], []
        size = self.builder.hidden_dim
        for layer, (mask_x, mask_h) in enumerate(self.layer_masks(x)):
            if mask_x is not None:
                x = cmult(x, mask_x)
            before = h0[layer] if h0 else None
            if mask_h is not None and before is not None:
                before = cmult(before, mask_h)
            owner = self._node(layer, [x], before, c0[layer] if c0 else None)
            x = expression(part(owner, 0, size))
            h.append(x)
            owners.append(owner)
        return self.made(RNNState(self, state, tuple(h), None, (owners, 1)))

    def _stepwise(self, xs: list[Expression]) -> bool:
        """Whether the sequence must go step by step: a mask on h changes what each step sees."""
        return any(mask_h is not None for _, mask_h in self.layer_masks(xs[0]))

    def steps(self, state: RNNState, xs: list[Expression]) -> list[RNNState]:
        """One node per layer; with masks on h, one per layer and step."""
        if not xs or not self.builder.layers:
            return [state for _ in xs]
        states = []
        if self._stepwise(xs):
            for x in xs:
                state = self.step(state, x)
                states.append(state)
            return states
        all_h, owners = self._sequence(state, xs)
        for t, h in enumerate(zip(*all_h, strict=True)):
            state = RNNState(self, state, h, None, (owners, len(xs) + t))
            states.append(state)
        self.made(state)
        return states

    def outputs(self, state: RNNState, xs: list[Expression]) -> list[Expression]:
        """As steps(), without the states."""
        if not xs or not self.builder.layers:
            return []
        if self._stepwise(xs):
            return [s._h[-1] for s in self.steps(state, xs)]  # type: ignore[index]
        all_h, owners = self._sequence(state, xs)
        if self.start is not None:
            self.made(RNNState(self, state, tuple(h[-1] for h in all_h), None, (owners, 2 * len(xs) - 1)))
        return all_h[-1]


class VanillaLSTMBuilder(TwoRates):
    """The LSTM: i, f, o = logistic(Wx x_t + Wh h_(t-1) + b) (forget_bias added to f), g = tanh(...), c_t = f c_(t-1) + i g, h_t = o tanh c_t.

    Parameters of each layer, in the subcollection vanilla-lstm-builder: Wx (4h, input), Wh (4h, h), b (4h); gates in the order i, f, o, g.
    With layer normalisation (Ba, Kiros and Hinton 2016) the sum is LN(Wx x; gx, bx) + LN(Wh h; gh, bh) + b, and h = o tanh(LN(c; gc, bc)); the
    term of h is absent at a start without vectors. Then follow gh, bh, gx, bx (4h), gc, bc (h), gains at 1, shifts at 0.

    Args:
        layers: the number of layers, each fed with the h of the one below.
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.
        ln_lstm: whether to normalise layers.
        forget_bias: added to the forget gate when it is computed; b itself starts at 0.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm = dy.VanillaLSTMBuilder(2, 4, 3, m)
    >>> _ = dy.renew_cg()
    >>> outputs = lstm.initial_state().transduce([dy.inputVector([1, 2, 3, 4])] * 5)
    >>> len(outputs), outputs[0].dim()
    (5, ((3,), 1))

    Raises:
        ValueError: a size is not positive.
    """

    _subcollection: ClassVar[str] = "vanilla-lstm-builder"
    _has_cells: ClassVar[bool] = True

    def __init__(
        self,
        layers: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        ln_lstm: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        self.forget_bias, self.ln_lstm = float(forget_bias), bool(ln_lstm)
        super().__init__(layers, input_dim, hidden_dim, model)

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
        """What from_spec() makes an equal builder of."""
        return self.layers, self.input_dim, self.hidden_dim, self.ln_lstm, self.forget_bias

    def get_parameters(self) -> list[list[Parameters]]:
        """[Wx, Wh, b] of each layer; those of layer normalisation are in param_collection()."""
        return [list(layer[:3]) for layer in self._layers]

    def get_parameter_expressions(self) -> list[list[Expression]]:
        """[Wx, Wh, b] of each layer as expressions of the current graph.

        Raises:
            ValueError: no initial_state() in this graph before.
        """
        return [layer[:3] for layer in super().get_parameter_expressions()]

    def _new_run(self, update: bool, masks: Masks | None) -> Run:
        return CellRun(self, update, masks) if self.ln_lstm else LSTMRun(self, update, masks)

    def _node_inputs(self, handles: list[int]) -> list[int]:
        """Wx, Wh, b of a layer's node."""
        return handles

    def _weights(self, parameters: list[Expression]) -> list[Expression]:
        bias = np.zeros(4 * self.hidden_dim)
        bias[self.hidden_dim : 2 * self.hidden_dim] = self.forget_bias - 1  # lstm_gates() adds the 1
        Wx, Wh, b, *norms = parameters
        return [Wx, Wh, b + inputVector(bias.tolist()) if bias.any() else b, *norms]

    def _cell(
        self, weights: list[Expression], masks: tuple[Expression | None, ...], x: Expression, h: Expression | None, c: Expression | None
    ) -> tuple[Expression, Expression]:
        """A step of the layer-normalised LSTM."""
        Wx, Wh, b, gain_h, shift_h, gain_x, shift_x, gain_c, shift_c = weights
        size = self.hidden_dim
        before = layer_norm(Wx * masked(x, masks[0]), gain_x, shift_x) + b
        if h is not None:
            before = before + layer_norm(Wh * masked(h, masks[1]), gain_h, shift_h)
        gates = lstm_gates(before)
        c = vanilla_lstm_c(zeros(size) if c is None else c, gates)
        return cmult(gates[2 * size : 3 * size], tanh(layer_norm(c, gain_c, shift_c))), c


LSTMBuilder = VanillaLSTMBuilder
