"""What all recurrent builders share: sizes, parameters, dropout rates, and the start of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .. import _random
from .._integers import count
from ..expression import Expression, expression, resolved
from ..graph import this_graph
from ..ops import inputTensor
from ..params.collection import ParameterCollection
from ..params.parameters import Parameters
from .owner import Owner
from .runs import NodeRun
from .state import RNNState, Run, check_count, expressions, subcollection


class RecurrentBuilder(Owner):
    """The base of recurrent builders: sizes, parameters, dropout rates, and the start of sequences.

    A subclass names its subcollection, makes the parameters of a layer in `_layer`, and either names the operation that computes a step and a
    whole sequence (`_op`), or composes a step in `_cell`.

    >>> import dist_dynet as dy
    >>> [issubclass(b, RecurrentBuilder) for b in (dy.VanillaLSTMBuilder, dy.GRUBuilder)]
    [True, True]
    """

    _subcollection: ClassVar[str]
    _has_cells: ClassVar[bool] = False
    _drops_each_step: ClassVar[bool] = False
    """Whether dropout is drawn anew at each step, by _fresh_rate()."""
    _mask_rates: ClassVar[tuple[str | None, ...]] = ("dropout_x", "dropout_h")
    """The attributes that are the rates of the masks that a sequence holds: of the input, then of parts of the state. None: drops nothing."""
    _fixed_weights: ClassVar[bool] = True
    """Whether _node_weights() are the same in each sequence."""
    _op: ClassVar[int]

    def __init__(self, layers: int, input_dim: int, hidden_dim: int, model: ParameterCollection) -> None:
        self.layers, self.input_dim, self.hidden_dim = self._sizes(layers, input_dim, hidden_dim)
        if self.layers < 0 or self.input_dim < 1 or self.hidden_dim < 1:
            raise ValueError(
                f"{self.whoami()}: sizes must be positive; got layers={layers}, input_dim={input_dim}, hidden_dim={hidden_dim}."
            )
        self.dropout_x = self.dropout_h = 0.0
        self._collection = subcollection(model, self._subcollection)
        self._layers = [self._layer(self.input_dim if i == 0 else self.hidden_dim) for i in range(self.layers)]
        self._last_run: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_run": None}  # a copy has begun no sequence

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        raise NotImplementedError

    def _new_run(self, update: bool, masks: list[Any] | None) -> Run:
        last = self._last_run
        again = last.again(update, self._reals()) if last is not None and masks is None else None
        return NodeRun(self, update, masks) if again is None else again

    def _node_weights(self, handles: list[list[int]]) -> list[list[int]]:
        """The weights of each layer's node; the first is a parameter."""
        return handles

    def _reals(self) -> tuple[float, ...]:
        """The numbers of a node."""
        return ()

    def _fresh_rate(self) -> float:
        """The rate of dropout that is drawn anew at each step, for the input of each layer and for the output."""
        return self.dropout_x if self._drops_each_step else 0.0

    def _weights(self, parameters: list[Expression]) -> list[Expression]:
        """What `_cell` gets of a layer's parameters, once per sequence."""
        return parameters

    def _rates(self) -> tuple[float, ...]:
        """The rates of the masks that a sequence holds."""
        return tuple(getattr(self, name) if name else 0.0 for name in self._mask_rates)

    @property
    def spec(self) -> tuple[Any, ...]:
        """What from_spec() makes an equal builder of."""
        return self.layers, self.input_dim, self.hidden_dim

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> Any:
        """A builder of this spec, with new parameters in `model`."""
        layers, input_dim, hidden_dim, *rest = spec
        return cls(layers, input_dim, hidden_dim, model, *rest)

    def get_parameters(self) -> list[list[Parameters]]:
        """The parameters of each layer, in the order that the class describes."""
        return [list(layer) for layer in self._layers]

    def _begun(self) -> Run:
        run = self._last_run
        if run is None or run.graph != this_graph():
            raise ValueError("get_parameter_expressions: call initial_state() in this graph first.")
        return run

    def get_parameter_expressions(self) -> list[list[Expression]]:
        """The same as expressions of the current graph.

        Raises:
            ValueError: no initial_state() in this graph before.
        """
        return [[expression(resolved(h)) for h in layer] for layer in self._begun().handles]

    def set_dropout(self, f: float) -> None:
        """The dropout rate of inputs and of h. Masks are drawn once per sequence and layer (Gal and Ghahramani 2016).

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        self.dropout_x = self.dropout_h = self._rate(f, "set_dropout")

    def disable_dropout(self) -> None:
        """No dropout."""
        self.set_dropout(0)

    def initial_state(self, vecs: Sequence[Expression] | None = None, update: bool = True, share_masks: bool = False) -> RNNState:
        """Starts a sequence, with dropout masks of its own.

        Args:
            vecs: nothing: zeros. Of an LSTM: c of each layer (h is zero then), or c of each layer, then h of each layer. Of others: h of each
                layer.
            update: False: the parameters get no gradient.
            share_masks: True: the masks are those of the sequence before, if it is of this graph.

        Raises:
            ValueError: a wrong number of vectors.
        """
        if _random.dynet_order():
            return self._dynet_initial_state(vecs, update)
        last = self._last_run
        shared = last.masks if share_masks and last is not None and last.graph == this_graph() else None
        run = self._last_run = self._new_run(bool(update), shared)
        if vecs is None:
            return RNNState(run)
        given, n = expressions(vecs, "initial_state"), self.layers
        if not self._has_cells:
            check_count("initial_state", len(given), n)
            return RNNState(run, None, given, None)
        check_count("initial_state", len(given), n, 2 * n)
        return RNNState(run, None, given[n:] or run.zeros(given), given[:n])

    def _dynet_initial_state(self, vecs: Sequence[Expression] | None, update: bool) -> RNNState:
        """The same in DyNet's way: one run per graph, whose `update` the first call decides."""
        run = self._last_run
        if run is None or run.start is None or run.graph != this_graph():
            if run is not None:
                run.start = run.last = None  # nothing that holds itself is left behind
            run = self._last_run = self._new_run(bool(update), None)
            run.start = RNNState(run)
        start: RNNState = run.start
        return start if vecs is None else start.set_s(vecs)

    def initial_state_from_raw_vectors(self, vecs: Sequence[ArrayLike], update: bool = True) -> RNNState:
        """The same from lists of numbers or arrays."""
        return self.initial_state([inputTensor(np.asarray(v, float)) for v in vecs], update)


class TwoRates(RecurrentBuilder):
    """A builder whose inputs and h have dropout rates of their own.

    >>> import dist_dynet as dy
    >>> issubclass(dy.SimpleRNNBuilder, TwoRates), issubclass(dy.GRUBuilder, TwoRates)
    (True, False)
    """

    def set_dropouts(self, d: float, d_r: float) -> None:
        """The dropout rates of inputs (d) and of h (d_r).

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        self.dropout_x, self.dropout_h = self._rate(d, "set_dropouts"), self._rate(d_r, "set_dropouts")

    def set_dropout_masks(self, batch_size: int = 1) -> None:
        """Draws the masks of the sequence that the last initial_state() started, for this batch size."""
        if self._last_run is None:
            raise ValueError("set_dropout_masks: call initial_state() first.")
        self._last_run.draw_masks(count(batch_size, "set_dropout_masks", "batch_size"))
