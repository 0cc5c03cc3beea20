"""Recurrent builders: the LSTM and the bidirectional network.

A state is what a network has after an input; states share what they have in common, so branching from any earlier one costs nothing. A step is
one node; a sequence known in advance (add_inputs, transduce) is one node per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._ffi import OPS, fail, lib, nodes
from ..graph import Expression, current_graph, expression, resolved
from ..ops import cmult, concatenate, dropout, inputTensor, ones, zeros
from ..ops._nodes import listed, many_node, not_expression
from ..params.collection import ParameterCollection, Parameters

_LSTM = OPS["lstm"]
_parts = nodes.dn_parts


class RNNState:
    """The state of a network after some inputs. Made by a builder's initial_state() and by the methods here; never changed.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, m)
    >>> _ = dy.renew_cg()
    >>> start = lstm.initial_state()
    >>> a = start.add_input(dy.inputVector([1, 2]))
    >>> b = start.add_input(dy.inputVector([0, 1]))
    >>> a.output().dim(), a.prev() is start
    (((3,), 1), True)
    """

    __slots__ = ("_c", "_h", "_h_given", "_later", "_prev", "_run")

    def __init__(
        self,
        run: _Run,
        prev: RNNState | None,
        h: tuple[Expression, ...] | None,
        c: tuple[Expression, ...] | None,
        later: tuple[list[int], int] | None = None,
        h_given: bool = True,
    ) -> None:
        self._run, self._prev, self._h, self._c = run, prev, h, c
        self._later = later  # (owner node of each layer, block of c): where c is until it is asked for
        self._h_given = h_given

    def _cells(self) -> tuple[Expression, ...] | None:
        if self._c is None and self._later is not None:
            owners, block = self._later
            size = self._run.builder.hidden_dim
            self._c = tuple(expression(_part(owner, block, size)) for owner in owners)
        return self._c

    def add_input(self, x: Expression) -> RNNState:
        """The state after one more input."""
        return self._run.step(self, x)

    def add_inputs(self, xs: Iterable[Expression]) -> list[RNNState]:
        """The states after each of these inputs, computed as one node per layer."""
        return self._run.steps(self, list(xs))

    def transduce(self, xs: Iterable[Expression]) -> list[Expression]:
        """The outputs after each of these inputs."""
        return self._run.outputs(self, list(xs))

    def output(self) -> Expression | None:
        """h of the top layer; None at the start without given vectors."""
        return self._h[-1] if self._h and self._h_given else None

    def h(self) -> tuple[Expression, ...]:
        """h of each layer; empty at the start without given vectors."""
        return self._h or ()

    def s(self) -> tuple[Expression, ...]:
        """All of the state: c of each layer, then h of each layer; empty at the start without given vectors."""
        return (*(self._cells() or ()), *(self._h or ()))

    def prev(self) -> RNNState | None:
        """The state before; None at the start."""
        return self._prev

    def b(self) -> VanillaLSTMBuilder:
        """The builder."""
        return self._run.builder

    def set_h(self, es: Sequence[Expression] | None = None) -> RNNState:
        """A state with these h (one per layer); c stays."""
        h = _expressions(es or [], "set_h")
        self._run.check_count("set_h", len(h), self._run.builder.layers)
        return RNNState(self._run, self, h, self._cells() or self._run.zeros(h))

    def set_s(self, es: Sequence[Expression] | None = None) -> RNNState:
        """A state with these parts: c of each layer, then h of each layer; with c alone, h stays."""
        n = self._run.builder.layers
        parts = _expressions(es or [], "set_s")
        self._run.check_count("set_s", len(parts), n, 2 * n)
        return RNNState(self._run, self, parts[n:] or self._h or self._run.zeros(parts), parts[:n])


def _expressions(es: Iterable[Expression], what: str) -> tuple[Expression, ...]:
    result = tuple(listed(es, what))
    if not all(isinstance(e, Expression) for e in result):
        raise not_expression(what, *result)
    return result


def _subcollection(model: ParameterCollection, name: str) -> ParameterCollection:
    if not isinstance(model, ParameterCollection):
        raise TypeError(f"{name}: model must be a ParameterCollection; got {type(model).__name__}.")
    return model.add_subcollection(name)


def _part(owner: int, block: int, size: int) -> int:
    h: int = _parts(owner, block, 1, size)
    if h < 0:
        fail(h, owner)
    return h


class _Run:
    """One sequence: what initial_state() starts. It owns the dropout masks, so that each sequence has its own."""

    __slots__ = ("builder", "graph", "handles", "masks")

    def __init__(self, builder: VanillaLSTMBuilder, update: bool) -> None:
        self.builder = builder
        self.graph = current_graph()
        self.handles = [[p._h if update else lib.dn_param_handle(p._c, 1) for p in layer] for layer in builder._layers]
        self.masks: list[tuple[Expression | None, Expression | None]] | None = None

    def zeros(self, like: Sequence[Expression]) -> tuple[Expression, ...]:
        return tuple(zeros(self.builder.hidden_dim, batch_size=e.dim()[1]) for e in like)

    @staticmethod
    def check_count(what: str, n: int, *allowed: int) -> None:
        if n not in allowed:
            raise ValueError(f"{what}: takes {' or '.join(map(str, allowed))} expressions for these layers; got {n}.")

    def _layer_masks(self, x: Expression) -> list[tuple[Expression | None, Expression | None]]:
        """A mask for the input and one for h of each layer, or None where nothing is dropped; drawn at the first input."""
        if self.masks is None:
            b = self.builder
            if not b.dropout_x and not b.dropout_h:
                self.masks = [(None, None)] * b.layers
            else:
                if not isinstance(x, Expression):
                    raise not_expression("add_input", x)
                self.draw_masks(x.dim()[1])
        return self.masks  # type: ignore[return-value]

    def draw_masks(self, batch_size: int) -> None:
        b = self.builder

        def mask(size: int, rate: float) -> Expression | None:
            return dropout(ones(size, batch_size=batch_size), rate) if rate else None

        sizes = [b.input_dim] + [b.hidden_dim] * (b.layers - 1)
        self.masks = [(mask(size, b.dropout_x), mask(b.hidden_dim, b.dropout_h)) for size in sizes]

    def _node(self, layer: int, xs: list[Expression], h: Expression | None, c: Expression | None) -> int:
        """The node of one layer over these inputs: its handle."""
        state = [] if h is None or c is None else [h._h, c._h]
        try:
            inputs = [*self.handles[layer], *state, *[x._h for x in xs]]
        except AttributeError:
            raise TypeError(f"add_input: takes expressions; got {', '.join(type(x).__name__ for x in xs)}.") from None
        node = many_node(_LSTM, inputs, (len(xs), 1 if state else 0), (self.builder.forget_bias,))
        if node < 0:
            fail(node, *inputs)
        return node

    def _sequence(self, state: RNNState, xs: list[Expression]) -> tuple[list[list[Expression]], list[int]]:
        """h after each input for each layer, and the owner node of each layer."""
        steps, size = len(xs), self.builder.hidden_dim
        all_h, owners = [], []
        h0, c0 = state._h, state._cells()
        for layer, (mask, _) in enumerate(self._layer_masks(xs[0])):
            inputs = xs if mask is None else [cmult(x, mask) for x in xs]
            owner = self._node(layer, inputs, h0[layer] if h0 else None, c0[layer] if c0 else None)
            first = _parts(owner, 0, steps, size)
            if first < 0:
                fail(first, owner)
            xs = [expression(first + t) for t in range(steps)]
            all_h.append(xs)
            owners.append(owner)
        return all_h, owners

    def step(self, state: RNNState, x: Expression) -> RNNState:
        h0, c0, h, owners = state._h, state._cells(), [], []
        size = self.builder.hidden_dim
        for layer, (mask_x, mask_h) in enumerate(self._layer_masks(x)):
            if mask_x is not None:
                x = cmult(x, mask_x)
            before = h0[layer] if h0 else None
            if mask_h is not None and before is not None:
                before = cmult(before, mask_h)
            owner = self._node(layer, [x], before, c0[layer] if c0 else None)
            x = expression(_part(owner, 0, size))
            h.append(x)
            owners.append(owner)
        return RNNState(self, state, tuple(h), None, (owners, 1))

    def _stepwise(self, xs: list[Expression]) -> bool:
        """Whether the sequence must go step by step: a mask on h changes what each step sees."""
        return any(mask_h is not None for _, mask_h in self._layer_masks(xs[0]))

    def steps(self, state: RNNState, xs: list[Expression]) -> list[RNNState]:
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
        return states

    def outputs(self, state: RNNState, xs: list[Expression]) -> list[Expression]:
        if not xs or not self.builder.layers:
            return []
        if self._stepwise(xs):
            return [s._h[-1] for s in self.steps(state, xs)]  # type: ignore[index]
        return self._sequence(state, xs)[0][-1]


class VanillaLSTMBuilder:
    """The LSTM: i, f, o = logistic(Wx x_t + Wh h_(t-1) + b) (forget_bias added to f), g = tanh(...), c_t = f c_(t-1) + i g, h_t = o tanh c_t.

    Parameters of each layer, in the subcollection vanilla-lstm-builder: Wx (4h, input), Wh (4h, h), b (4h); gates in the order i, f, o, g.

    Args:
        layers: the number of layers, each fed with the h of the one below.
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.
        forget_bias: added to the forget gate when it is computed; b itself starts at 0.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> lstm = dy.VanillaLSTMBuilder(2, 4, 3, m)
    >>> _ = dy.renew_cg()
    >>> outputs = lstm.initial_state().transduce([dy.inputVector([1, 2, 3, 4])] * 5)
    >>> len(outputs), outputs[0].dim()
    (5, ((3,), 1))
    """

    def __init__(
        self,
        layers: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        ln_lstm: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        if ln_lstm:
            raise NotImplementedError("VanillaLSTMBuilder: layer normalisation (ln_lstm=True) is not there yet.")
        self.layers, self.input_dim, self.hidden_dim = int(layers), int(input_dim), int(hidden_dim)
        if self.layers < 0 or self.input_dim < 1 or self.hidden_dim < 1:
            raise ValueError(
                f"VanillaLSTMBuilder: sizes must be positive; got layers={layers}, input_dim={input_dim}, hidden_dim={hidden_dim}."
            )
        self.forget_bias = float(forget_bias)
        self.dropout_x = self.dropout_h = 0.0
        self._collection = _subcollection(model, "vanilla-lstm-builder")
        self._layers = [self._layer(self.input_dim if i == 0 else self.hidden_dim) for i in range(self.layers)]
        self._last_run: _Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_run": None}  # a copy has begun no sequence

    def _layer(self, input_dim: int) -> tuple[Parameters, Parameters, Parameters]:
        add, h = self._collection.add_parameters, self.hidden_dim
        return add((4 * h, input_dim)), add((4 * h, h)), add(4 * h, init=0)

    def whoami(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def param_collection(self) -> ParameterCollection:
        """The subcollection of its parameters."""
        return self._collection

    @property
    def spec(self) -> tuple[Any, ...]:
        """What from_spec() makes an equal builder of."""
        return self.layers, self.input_dim, self.hidden_dim, False, self.forget_bias

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> VanillaLSTMBuilder:
        """A builder of this spec, with new parameters in `model`."""
        layers, input_dim, hidden_dim, *rest = spec
        return cls(layers, input_dim, hidden_dim, model, *rest)

    def get_parameters(self) -> list[list[Parameters]]:
        """[Wx, Wh, b] of each layer."""
        return [list(layer) for layer in self._layers]

    def get_parameter_expressions(self) -> list[list[Expression]]:
        """The same as expressions of the current graph.

        Raises:
            ValueError: no initial_state() in this graph before.
        """
        run = self._last_run
        if run is None or run.graph != current_graph():
            raise ValueError("get_parameter_expressions: call initial_state() in this graph first.")
        return [[expression(resolved(h)) for h in layer] for layer in run.handles]

    def set_dropout(self, d: float) -> None:
        """The dropout rate of inputs and of h. Masks are drawn once per sequence and layer (Gal and Ghahramani 2016)."""
        self.set_dropouts(d, d)

    def set_dropouts(self, d: float, d_r: float) -> None:
        """The dropout rates of inputs (d) and of h (d_r).

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        for rate in (d, d_r):
            if not 0 <= rate <= 1:
                raise ValueError(f"set_dropout: the rate must lie in [0, 1]; got {rate}.")
        self.dropout_x, self.dropout_h = float(d), float(d_r)

    def disable_dropout(self) -> None:
        """No dropout."""
        self.set_dropouts(0, 0)

    def set_dropout_masks(self, batch_size: int = 1) -> None:
        """Draws the masks of the sequence that the last initial_state() started, for this batch size."""
        if self._last_run is None:
            raise ValueError("set_dropout_masks: call initial_state() first.")
        self._last_run.draw_masks(batch_size)

    def initial_state(self, vecs: Sequence[Expression] | None = None, update: bool = True) -> RNNState:
        """Starts a sequence, with dropout masks of its own.

        Args:
            vecs: nothing: zeros; c of each layer (h is zero then); or c of each layer, then h of each layer.
            update: False: the parameters get no gradient.

        Raises:
            ValueError: a wrong number of vectors.
        """
        run = self._last_run = _Run(self, update)
        if vecs is None:
            return RNNState(run, None, None, None, h_given=False)
        parts = _expressions(vecs, "initial_state")
        run.check_count("initial_state", len(parts), self.layers, 2 * self.layers)
        return RNNState(run, None, parts[self.layers :] or run.zeros(parts), parts[: self.layers])

    def initial_state_from_raw_vectors(self, vecs: Sequence[ArrayLike], update: bool = True) -> RNNState:
        """The same from lists of numbers or arrays."""
        return self.initial_state([inputTensor(np.asarray(v, float)) for v in vecs], update)


LSTMBuilder = VanillaLSTMBuilder


class BiRNNBuilder:
    """A network that reads the sequence both ways; h is the forward h over the backward h, each of half the size.

    Args:
        num_layers: the number of layers, each fed with the h of the one below.
        input_dim, hidden_dim: sizes of x and of h; hidden_dim must be even.
        model: where the parameters go: subcollection birnn, per layer the forward, then the backward builder.
        rnn_builder_factory: makes builders, such as VanillaLSTMBuilder.
        builder_layers: ready pairs (forward, backward) instead.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> network = dy.BiRNNBuilder(1, 2, 6, m, dy.VanillaLSTMBuilder)
    >>> _ = dy.renew_cg()
    >>> [h.dim() for h in network.transduce([dy.inputVector([1, 2])] * 2)]
    [((6,), 1), ((6,), 1)]
    """

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        rnn_builder_factory: Callable[..., Any],
        builder_layers: Sequence[tuple[Any, Any]] | None = None,
    ) -> None:
        if num_layers < 1:
            raise AssertionError(f"BiRNNBuilder: takes at least one layer; got {num_layers}.")
        if hidden_dim % 2:
            raise AssertionError(f"BiRNNBuilder: hidden_dim must be even, half for each direction; got {hidden_dim}.")
        self.num_layers, self.input_dim, self.hidden_dim = int(num_layers), int(input_dim), int(hidden_dim)
        self.rnn_builder_factory = rnn_builder_factory
        self._collection = _subcollection(model, "birnn")
        self.builder_layers: list[tuple[Any, Any]] = []
        if builder_layers is not None:
            self.builder_layers = list(builder_layers)
            return
        for layer in range(self.num_layers):
            size = self.input_dim if layer == 0 else self.hidden_dim
            forward = rnn_builder_factory(1, size, self.hidden_dim // 2, self._collection)
            self.builder_layers.append((forward, rnn_builder_factory(1, size, self.hidden_dim // 2, self._collection)))

    def whoami(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def param_collection(self) -> ParameterCollection:
        """The subcollection of its parameters."""
        return self._collection

    @property
    def spec(self) -> tuple[Any, ...]:
        """What from_spec() makes an equal builder of."""
        return self.num_layers, self.input_dim, self.hidden_dim, self.rnn_builder_factory, None

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> BiRNNBuilder:
        """A builder of this spec, with new parameters in `model`."""
        num_layers, input_dim, hidden_dim, factory, *rest = spec
        return cls(num_layers, input_dim, hidden_dim, model, factory, *rest)

    def set_dropout(self, p: float) -> None:
        """The dropout rate of all layers and directions."""
        for pair in self.builder_layers:
            for builder in pair:
                builder.set_dropout(p)

    def disable_dropout(self) -> None:
        """No dropout."""
        for pair in self.builder_layers:
            for builder in pair:
                builder.disable_dropout()

    def _below(self, es: Sequence[Expression]) -> list[Expression]:
        """The inputs of the last layer."""
        es = listed(es, "transduce")
        for forward, backward in self.builder_layers[:-1]:
            es = _both_ways(forward, backward, es)
        return es

    def add_inputs(self, es: Sequence[Expression]) -> list[tuple[RNNState, RNNState]]:
        """(forward state, backward state) of the last layer at each position."""
        es = self._below(es)
        forward, backward = self.builder_layers[-1]
        ahead = forward.initial_state().add_inputs(es)
        back = backward.initial_state().add_inputs(es[::-1])
        return list(zip(ahead, back[::-1], strict=True))

    def transduce(self, es: Sequence[Expression]) -> list[Expression]:
        """h of the last layer at each position."""
        return _both_ways(*self.builder_layers[-1], self._below(es))


def _both_ways(forward: Any, backward: Any, es: list[Expression]) -> list[Expression]:
    ahead = forward.initial_state().transduce(es)
    back = backward.initial_state().transduce(es[::-1])
    return [concatenate([f, b]) for f, b in zip(ahead, back[::-1], strict=True)]


