"""The base of all recurrent builders: sizes, parameters, dropout rates, and the start of
sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from .. import _random
from .._ffi import ffi, lib
from .._integers import items_of, numbers, whole
from ..expression import Expression, expression, resolved
from ..graph import cg, this_graph
from ..ops import inputTensor
from ..params.collection import ParameterCollection
from ..params.modes import switch
from ..params.parameters import Parameters
from .owner import MORE_OF_SPEC, Owner, items_of_spec
from .state import RNNState, check_number, numbers_of_vectors, vectors
from .steps import CellStep, NodeStep, Step

_strategy, _OFF = lib.dn_graph_strategy, lib.DN_AUTOBATCH_OFF


class RecurrentBuilder(Owner):
    """The base of recurrent builders: sizes, parameters, dropout rates, and the start of sequences.

    A subclass names its subcollection and makes the parameters of a layer in `_layer`. It either
    names the operation that computes a step and a whole sequence (`_op`), or composes a step in
    `_cell`.

    >>> import dist_dynet as dy
    >>> [issubclass(b, RecurrentBuilder) for b in (dy.VanillaLSTMBuilder, dy.GRUBuilder)]
    [True, True]
    """

    _subcollection: ClassVar[str]
    _has_cells: ClassVar[bool] = False
    _drops_each_step: ClassVar[bool] = False
    """Whether new dropout masks are drawn at each step, at the rate _fresh_rate()."""
    _mask_rates: ClassVar[tuple[str | None, ...]] = ("dropout_x", "dropout_h")
    """The attributes with the rates of the masks that a sequence holds: of the input, then of parts
    of the state. None: nothing is dropped."""
    _fixed_weights: ClassVar[bool] = True
    """Whether _node_weights() are the same for each sequence."""
    _op: ClassVar[int]
    _roles: ClassVar[tuple[str, ...]] = ()
    """The names of a layer's parameters in the formulas of the class."""
    _start: RNNState | None = None
    """The start of the last sequence, in the graph `_graph`."""
    _graph: int = -1
    _last_step: Step | None = None

    def __init__(
        self,
        layers: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        *,
        precision: str | None = None,
    ) -> None:
        self.layers, self.input_dim, self.hidden_dim = self._sizes(layers, input_dim, hidden_dim)
        if self.layers < 0 or self.input_dim < 1 or self.hidden_dim < 1:
            raise ValueError(
                f"{self.whoami()}: sizes must be positive; got layers={layers},"
                f" input_dim={input_dim}, hidden_dim={hidden_dim}."
            )
        self.dropout_x = self.dropout_h = 0.0
        self._begin_collection(model, self._subcollection, precision)
        self._layers = [
            self._layer(self.input_dim if i == 0 else self.hidden_dim) for i in range(self.layers)
        ]
        for i, layer in enumerate(self._layers):
            for parameter, role in zip(layer, self._roles, strict=False):
                parameter._play(f"{i}/{role}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_start": None, "_last_step": None}  # a copy has begun no sequence

    def _layer(self, input_dim: int) -> tuple[Parameters, ...]:
        raise NotImplementedError

    @property
    def _cell_is_dynets(self) -> bool:
        """Whether `_cell` computes what `_op` does, by DyNet's operations; csrc/python/composed.c
        does so, too."""
        return False

    def _composes(self) -> bool:
        """Whether a step is composed by `_cell` instead of being one node of `_op`."""
        return not hasattr(self, "_op") or (self._cell_is_dynets and self._draws_in_order())

    def _draws_in_order(self) -> bool:
        """Whether steps draw in DyNet's order with autobatching. Then they are composed of DyNet's
        operations, since the draws of other nodes may come between theirs."""
        if not _random.dynet_order():
            return False
        if _strategy(cg().number) == _OFF:
            return False
        return self._drops() and bool(self._fresh_rate() or any(self._rates()))

    def _new_step(self, update: bool) -> Step:
        handles = [
            [p._h if update else lib.dn_param_handle(p._c, 1) for p in layer]
            for layer in self._layers
        ]
        rates = ("dropout_x",) if self._drops_each_step else self._mask_rates
        if not (drops := self._drops()):
            rates = (None,) * len(rates)
        more = self._floats(), self._has_cells, update, handles, drops
        if self._composes():
            kept, weights = self._cell_is_dynets and self._fixed_weights, []
            for of in handles:
                nodes = [resolved(h) for h in of]
                weights.append(self._weights([expression(h) for h in (of if kept else nodes)]))
            dynets = [[w._h for w in of] for of in weights] if self._cell_is_dynets else []
            return CellStep(self, rates, self._table(dynets, True), None, weights, *more)
        handles_of_nodes = self._node_weights(handles)
        return NodeStep(self, rates, self._table(handles_of_nodes), None, handles_of_nodes, *more)

    def _table(self, weights: list[list[int]], composed: bool = False) -> bytes:
        """The data that csrc/python/states.c reads; empty if it leaves these layers to Python."""
        floats = self._floats()
        if len({*map(len, weights)}) != 1 or len(floats) > 4:
            return b""
        flat = [h for of_layer in weights for h in of_layer]
        table = ffi.new(
            "dn_layers *",
            {
                "op": self._op,
                "layers": len(weights),
                "n_weights": len(weights[0]),
                "input_dim": self.input_dim,
                "hidden_dim": self.hidden_dim,
                "has_c": self._has_cells,
                "composed": composed,
                "composable": self._cell_is_dynets,
                "drops_each_step": self._drops_each_step,
                "n_floats": len(floats),
                "floats": floats,
                "weights": flat,
            },
        )
        return bytes(ffi.buffer(table, ffi.sizeof(table[0])))

    def _node_weights(self, handles: list[list[int]]) -> list[list[int]]:
        """The weights of each layer's node. The first one is a parameter."""
        return handles

    def _floats(self) -> tuple[float, ...]:
        """The numeric arguments of a node."""
        return ()

    def _fresh_rate(self) -> float:
        """The rate of dropout that is drawn at each step, for the input of each layer and for the
        output."""
        return self.dropout_x if self._drops_each_step else 0.0

    def _weights(self, parameters: list[Expression]) -> list[Expression]:
        """The weights for `_cell`, made once per sequence from a layer's parameters."""
        return parameters

    def _rates(self) -> tuple[float, ...]:
        """The rates of the masks that a sequence holds."""
        return tuple([getattr(self, name) if name else 0.0 for name in self._mask_rates])

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal builder."""
        return self.layers, self.input_dim, self.hidden_dim

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> Any:
        """A builder of this spec, with new parameters in `model`."""
        names = "layers, input_dim, hidden_dim"
        layers, input_dim, hidden_dim, *rest = items_of_spec(cls, spec, names, MORE_OF_SPEC)
        return cls(layers, input_dim, hidden_dim, model, *rest)

    def get_parameters(self) -> list[list[Parameters]]:
        """The parameters of each layer, in the order given by the class.

        >>> import dist_dynet as dy
        >>> rnn = dy.SimpleRNNBuilder(2, 4, 3, dy.ParameterCollection())
        >>> [[p.shape() for p in layer] for layer in rnn.get_parameters()]
        [[(3, 4), (3, 3), (3,)], [(3, 3), (3, 3), (3,)]]
        """
        return [list(layer) for layer in self._layers]

    def _begun(self) -> Step:
        if self._start is None or self._graph != this_graph():
            raise ValueError("get_parameter_expressions: call initial_state() in this graph first.")
        step: Step = self._start._step
        return step

    def get_parameter_expressions(self) -> list[list[Expression]]:
        """The parameters of each layer as expressions of the current graph.

        Raises:
            ValueError: no initial_state() in this graph before.

        >>> import dist_dynet as dy
        >>> rnn = dy.SimpleRNNBuilder(1, 4, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> start = rnn.initial_state()
        >>> [[e.dim() for e in layer] for layer in rnn.get_parameter_expressions()]
        [[((3, 4), 1), ((3, 3), 1), ((3,), 1)]]
        """
        return [[expression(resolved(h)) for h in layer] for layer in self._begun().handles]

    def set_dropout(self, f: float) -> None:
        """The dropout rate of inputs and of h. Masks are drawn once per sequence and layer (Gal and
        Ghahramani 2016).

        Raises:
            ValueError: a rate outside of [0, 1].

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> lstm.set_dropout(0.25)
        >>> lstm.dropout_x, lstm.dropout_h
        (0.25, 0.25)
        """
        self.dropout_x = self.dropout_h = self._rate(f, "set_dropout")

    def disable_dropout(self) -> None:
        """No dropout."""
        self.set_dropout(0)

    def initial_state(
        self,
        vecs: Sequence[Expression] | None = None,
        update: bool = True,
        share_masks: bool = False,
    ) -> RNNState:
        """Starts a sequence, with dropout masks of its own.

        Args:
            vecs: None: zeros. Of an LSTM: c of each layer (h is then zero), or c of each layer,
                then h of each layer. Of others: h of each layer.
            update: False: the parameters get no gradient.
            share_masks: True: uses the masks of the previous sequence, if it is of this graph.

        Raises:
            ValueError: a wrong number of vectors.

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> zeros, given = lstm.initial_state(), lstm.initial_state([dy.ones(3), dy.zeros(3)])
        >>> zeros.s(), [v.value() for v in given.s()]
        ((), [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
        """
        if vecs is not None:  # a call that fails starts nothing
            h, c = vectors(self, vecs, "initial_state")
            vecs = (*(c or ()), *h)
            for vector in vecs:
                vector.dim()  # of the present graph
        graph = this_graph()
        before, masks, step = self._start, [], self._last_step
        in_order = _random.dynet_order()
        if in_order and self._graph == graph and before is not None and before._step.last:
            if step := before._step.composed():
                before = self._start = RNNState(step, before._masks)
            return before if vecs is None else before.set_s(vecs)
        composes = in_order and self._composes()  # else a step that is kept is a node
        if (
            step is None
            or step.update is not update
            or step.floats != self._floats()
            or isinstance(step, CellStep) is not composes
            or (switch.used and step.drops is not self._drops())
        ):
            step = self._new_step(bool(update))
            self._last_step = step if self._fixed_weights and step.table else None
        elif composes:
            for handle in chain.from_iterable(step.handles):
                resolved(handle)  # DyNet loads the parameters when a sequence begins
        if in_order:
            step = self._in_order(step)
        elif share_masks and before is not None and self._graph == graph:
            masks = before._masks
        self._graph, self._start = graph, RNNState(step, masks)
        if vecs is None:
            return self._start
        if in_order:
            return self._start.set_s(vecs)
        return RNNState(step, masks, self._start, h or step.zeros(c or ()), c)

    def _in_order(self, step: Step) -> Step:
        """The same step in DyNet's way: one sequence per graph, whose first call determines
        `update`."""
        if self._start is not None and self._start._step.last:
            self._start._step.last[0] = None  # nothing that holds itself is left behind
        return tuple.__new__(type(step), (*step[:3], [None], *step[4:]))

    def initial_state_from_raw_vectors(
        self, vecs: Sequence[ArrayLike], update: bool = True
    ) -> RNNState:
        """As initial_state(), from lists of numbers or arrays.

        >>> import dist_dynet as dy
        >>> gru = dy.GRUBuilder(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> gru.initial_state_from_raw_vectors([[1, 2, 3]]).h()[0].value()
        [1.0, 2.0, 3.0]
        """
        what = "initial_state_from_raw_vectors"
        several = items_of(vecs, what, "a list of lists of numbers, one for each state")
        arrays = [numbers(v, what) for v in several]
        check_number(len(arrays), what, *numbers_of_vectors(self))
        return self.initial_state([inputTensor(array) for array in arrays], update)


class TwoRates:
    """Separate dropout rates for inputs and for h. Listed after RecurrentBuilder: programs take the
    first base class of one builder for that of all.

    >>> import dist_dynet as dy
    >>> issubclass(dy.SimpleRNNBuilder, TwoRates), issubclass(dy.GRUBuilder, TwoRates)
    (True, False)
    >>> dy.SimpleRNNBuilder.__bases__[0] is dy.GRUBuilder.__bases__[0]
    True
    """

    _start: RNNState | None
    _rate: Callable[[float, str], float]

    def set_dropouts(self, d: float, d_r: float) -> None:
        """The dropout rates of inputs (d) and of h (d_r).

        Raises:
            ValueError: a rate outside of [0, 1].

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> lstm.set_dropouts(0.25, 0.5)
        >>> lstm.dropout_x, lstm.dropout_h
        (0.25, 0.5)
        """
        rates = self._rate(d, "set_dropouts"), self._rate(d_r, "set_dropouts")
        self.dropout_x, self.dropout_h = rates  # both or none

    def set_dropout_masks(self, batch_size: int = 1) -> None:
        """Draws the masks of the sequence started by the last initial_state(), for this batch
        size.

        Raises:
            ValueError: no initial_state() in this graph before.

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> lstm.set_dropout(0.5)
        >>> _ = dy.renew_cg()
        >>> start = lstm.initial_state()
        >>> lstm.set_dropout_masks(batch_size=4)
        >>> start.add_input(dy.ones(2, batch_size=4)).output().dim()
        ((3,), 4)
        """
        if self._start is None:
            raise ValueError("set_dropout_masks: call initial_state() first.")
        step, masks = self._start._step, self._start._masks
        step.draw(masks, whole(batch_size, "set_dropout_masks", "batch_size"))
