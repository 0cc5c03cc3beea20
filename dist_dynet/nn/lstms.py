"""Further LSTMs: compact, sparse, and with coupled gates and peepholes.

Compact and sparse LSTMs are the LSTM of rnn.py with other parameters; the coupled ones are
operations of their own.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .._ffi import OPS
from .._integers import real
from ..expression import Expression, expression, resolved
from ..ops import cmult, nobackprop, vanilla_lstm_c, vanilla_lstm_gates, vanilla_lstm_h, zeros
from ..params.collection import ParameterCollection
from ..params.parameters import Parameters
from .builder import RecurrentBuilder
from .rnn import VanillaLSTMBuilder
from .state import masked

_Optional = Expression | None


class CompactVanillaLSTMBuilder(VanillaLSTMBuilder):
    """The LSTM of VanillaLSTMBuilder with forget_bias 1 and optional noise on its weights.

    Parameters of each layer, in the subcollection compact-vanilla-lstm-builder: Wx (4h, input), Wh
    (4h, h), b (4h).

    Arguments and errors are those of VanillaLSTMBuilder, up to the model.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm = dy.CompactVanillaLSTMBuilder(1, 2, 3, m)
    >>> lstm.set_weightnoise(0.1)
    >>> _ = dy.renew_cg()
    >>> lstm.initial_state().transduce([dy.inputVector([1, 2])])[0].dim()
    ((3,), 1)
    """

    _subcollection: ClassVar[str] = "compact-vanilla-lstm-builder"

    def __init__(
        self,
        layers: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        *,
        precision: str | None = None,
    ) -> None:
        self.weightnoise_std = 0.0
        super().__init__(layers, input_dim, hidden_dim, model, precision=precision)

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal builder."""
        return self.layers, self.input_dim, self.hidden_dim

    def set_weightnoise(self, std: float) -> None:
        """Adds N(0, std^2) to all weights, drawn anew at each step (Graves 2011); 0: none. For
        sequences that begin after the call.

        Raises:
            ValueError: a negative std.

        >>> import dist_dynet as dy
        >>> lstm = dy.CompactVanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> lstm.set_weightnoise(0.5)
        >>> _ = dy.renew_cg()
        >>> a, b = (lstm.initial_state().add_input(dy.ones(2)).output().value() for _ in range(2))
        >>> a == b
        False
        """
        if not std >= 0:
            raise ValueError(f"set_weightnoise: std must not be negative; got {std}.")
        self.weightnoise_std = float(std)
        self._last_step = None

    @property
    def _cell_is_dynets(self) -> bool:
        return False

    def _composes(self) -> bool:
        return self.weightnoise_std > 0 and self._drops()

    def _cell(
        self,
        weights: list[Expression],
        masks: tuple[_Optional, ...],
        x: Expression,
        h: _Optional,
        c: _Optional,
    ) -> tuple[Expression, Expression]:
        """A step with noise."""
        size = self.hidden_dim
        h = zeros(size) if h is None else masked(h, masks[1])
        Wx, Wh, b = weights
        gates = vanilla_lstm_gates(masked(x, masks[0]), h, Wx, Wh, b, self.weightnoise_std)
        c = vanilla_lstm_c(zeros(size) if c is None else c, gates)
        return vanilla_lstm_h(c, gates), c


class SparseLSTMBuilder(VanillaLSTMBuilder):
    """The LSTM with pruned weights: Wx and Wh are multiplied by masks of zeros and ones (Narang et
    al. 2017).

    Parameters of each layer, in the subcollection vanilla-lstm-builder, as they are saved: Wx (4h,
    input), Wh (4h, h), their masks, b (4h), then those of layer normalisation. The masks hold ones
    and are not trained; set_sparsity() sets them, to be called with growing sparsity in training.

    Arguments and errors are those of VanillaLSTMBuilder.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm = dy.SparseLSTMBuilder(1, 2, 3, m)
    >>> lstm.set_sparsity(0.5)
    >>> sum(int(mask.as_array().sum()) for mask in lstm.get_parameters()[0][3:])
    30
    """

    _fixed_weights: ClassVar[bool] = False
    _roles: ClassVar[tuple[str, ...]] = (
        "Wx",
        "Wh",
        "b",
        "mask-x",
        "mask-h",
        "gh",
        "bh",
        "gx",
        "bx",
        "gc",
        "bc",
    )

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        add, h = self._collection.add_parameters, self.hidden_dim
        shapes = (4 * h, input_dim), (4 * h, h)
        Wx, Wh = [add(shape) for shape in shapes]
        mask_x, mask_h = [add(shape, init=1) for shape in shapes]
        for mask in (mask_x, mask_h):
            mask.set_updated(False)
        return Wx, Wh, add(4 * h, init=0), mask_x, mask_h, *self._norms()

    def get_parameters(self) -> list[list[Parameters]]:
        """[Wx, Wh, b, mask of Wx, mask of Wh] of each layer."""
        return [list(layer[:5]) for layer in self._layers]

    def get_parameter_expressions(self) -> list[list[Expression]]:
        """[Wx, Wh, b] of each layer as expressions of the current graph, Wx and Wh multiplied by
        their masks.

        Raises:
            ValueError: no initial_state() in this graph before.
        """
        return [
            [expression(resolved(h)) for h in layer]
            for layer in self._node_weights(self._begun().handles)
        ]

    def set_sparsity(self, sparsity: float) -> None:
        """Prunes this fraction of all weights of Wx and Wh: those of smallest magnitude over all
        layers.

        Raises:
            TypeError: no number.
            ValueError: a share outside of [0, 1].

        >>> import dist_dynet as dy
        >>> lstm = dy.SparseLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> lstm.set_sparsity(0.75)
        >>> sum(int(mask.as_array().sum()) for mask in lstm.get_parameters()[0][3:])  # of 60
        15
        """
        sparsity = real(sparsity, "set_sparsity")
        if not 0 <= sparsity <= 1:
            raise ValueError(f"set_sparsity: sparsity must lie in [0, 1]; got {sparsity}.")
        pairs = [(layer[i], layer[i + 3]) for layer in self._layers for i in (0, 1)]
        if not pairs:
            return
        sizes = np.concatenate([np.abs(w.as_array()).ravel() for w, _ in pairs])
        kept = np.ones(len(sizes))
        kept[np.argsort(sizes, kind="stable")[: round(len(sizes) * sparsity)]] = 0
        ends = np.cumsum([w.as_array().size for w, _ in pairs])[:-1]
        for (w, mask), values in zip(pairs, np.split(kept, ends), strict=True):
            mask.set_value(values.reshape(w.shape()))

    def _node_weights(self, handles: list[list[int]]) -> list[list[int]]:
        return [self._pruned(*map(expression, layer[:5])) for layer in handles]

    def _pruned(
        self, Wx: Expression, Wh: Expression, b: Expression, mask_x: Expression, mask_h: Expression
    ) -> list[int]:
        # masks get no gradient, even where frozen parameters do, as in DyNet
        return [cmult(Wx, nobackprop(mask_x))._h, cmult(Wh, nobackprop(mask_h))._h, b._h]

    def _weights(self, parameters: list[Expression]) -> list[Expression]:
        pruned = [expression(h) for h in self._pruned(*parameters[:5])]
        return super()._weights([*pruned, *parameters[5:]])


class CoupledLSTMBuilder(RecurrentBuilder):
    """The LSTM with coupled gates, f = 1 - i, and peepholes (Greff et al. 2015).

    i = logistic(Wix x_t + Wih h_(t-1) + Wic c_(t-1) + bi); c_t = (1 - i) c_(t-1) + i tanh(Wcx x_t +
    Wch h_(t-1) + bc); o = logistic(Wox x_t + Woh h_(t-1) + Woc c_t + bo); h_t = o tanh c_t.
    Parameters of each layer, in the subcollection lstm-builder: Wix (h, input), Wih, Wic (h, h), bi
    (h), Wox, Woh, Woc, bo, Wcx, Wch, bc. Masks of dropout, one each for x, h_(t-1) and the c that
    peepholes see, are drawn once per sequence.

    Args:
        layers: the number of layers, each fed with the h of the one below.
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm = dy.CoupledLSTMBuilder(1, 2, 3, m)
    >>> _ = dy.renew_cg()
    >>> len(lstm.initial_state().add_input(dy.inputVector([1, 2])).s())
    2
    """

    _subcollection: ClassVar[str] = "lstm-builder"
    _has_cells: ClassVar[bool] = True
    _op: ClassVar[int] = OPS["coupled_lstm"]
    _roles: ClassVar[tuple[str, ...]] = (
        "Wix",
        "Wih",
        "Wic",
        "bi",
        "Wox",
        "Woh",
        "Woc",
        "bo",
        "Wcx",
        "Wch",
        "bc",
    )
    _peephole_columns: ClassVar[int] = 0
    _mask_rates: ClassVar[tuple[str | None, ...]] = ("dropout_x", "dropout_h", "dropout_h")

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        add, h = self._collection.add_parameters, self.hidden_dim
        result: list[Parameters] = []
        for peephole in (True, True, False):
            result += [add((h, input_dim)), add((h, h))]
            result += [add((h, self._peephole_columns or h))] if peephole else []
            result.append(add(h, init=0))
        return tuple(result)


class FastLSTMBuilder(CoupledLSTMBuilder):
    """The LSTM with coupled gates and without peepholes: CoupledLSTMBuilder without the terms of c.

    As in DyNet, Wic and Woc (h, 1) exist, in the subcollection fast-lstm-builder, and are not used;
    dropout drops nothing.

    Arguments and errors are those of CoupledLSTMBuilder.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm = dy.FastLSTMBuilder(1, 2, 3, m)
    >>> [p.shape() for p in lstm.get_parameters()[0][:4]]
    [(3, 2), (3, 3), (3, 1), (3,)]
    """

    _subcollection: ClassVar[str] = "fast-lstm-builder"
    _op: ClassVar[int] = OPS["fast_lstm"]
    _peephole_columns: ClassVar[int] = 1
    _mask_rates: ClassVar[tuple[str | None, ...]] = (None, None, None)

    def _node_weights(self, handles: list[list[int]]) -> list[list[int]]:
        # without Wic and Woc
        return [[h for i, h in enumerate(layer) if i not in (2, 6)] for layer in handles]
