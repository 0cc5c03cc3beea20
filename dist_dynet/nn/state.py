"""What all recurrent builders share: the state, the sequence it belongs to, and the builder's common methods.

A state is what a network has after an input; states share what they have in common, so branching from any earlier one costs nothing. How a
step is computed is the builder's business: it names a class of runs, whose `step` this module calls and does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .. import _random
from .._ffi import fail, lib, nodes
from ..graph import Expression, cg_version, current_graph, expression, resolved
from ..ops import cmult, dropout, inputTensor, ones, random_bernoulli, zeros
from ..ops._nodes import listed, not_expression
from ..params.collection import ParameterCollection, Parameters

parts = nodes.dn_parts


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

    __slots__ = ("_c", "_h", "_h_given", "_later", "_output", "_prev", "_run")

    def __init__(
        self,
        run: Run,
        prev: RNNState | None,
        h: tuple[Expression, ...] | None,
        c: tuple[Expression, ...] | None,
        later: tuple[list[int], int] | None = None,
        h_given: bool = True,
        output: Expression | None = None,
    ) -> None:
        self._run, self._prev, self._h, self._c = run, prev, h, c
        self._later = later  # (owner node of each layer, block of c): where c is until it is asked for
        self._h_given = h_given
        self._output = output  # where it is not h of the top layer

    def _cells(self) -> tuple[Expression, ...] | None:
        if self._c is None and self._later is not None:
            owners, block = self._later
            size = self._run.builder.hidden_dim
            self._c = tuple(expression(part(owner, block, size)) for owner in owners)
        return self._c

    def add_input(self, x: Expression) -> RNNState:
        """The state after one more input."""
        return self._run.step(self, x)

    def add_inputs(self, xs: Iterable[Expression]) -> list[RNNState]:
        """The states after each of these inputs; of an LSTM, computed as one node per layer."""
        return self._run.steps(self, list(xs))

    def transduce(self, xs: Iterable[Expression]) -> list[Expression]:
        """The outputs after each of these inputs."""
        return self._run.outputs(self, list(xs))

    def output(self) -> Expression | None:
        """The h of the top layer (of a GRU with dropout: after dropout); None at the start without given vectors."""
        if self._output is not None:
            return self._output
        return self._h[-1] if self._h and self._h_given else None

    def h(self) -> tuple[Expression, ...]:
        """The h of each layer; empty at the start without given vectors."""
        return self._h or ()

    def s(self) -> tuple[Expression, ...]:
        """All of the state: of an LSTM c of each layer, then h of each layer; of others h. Empty at the start without given vectors."""
        return (*(self._cells() or ()), *(self._h or ()))

    def prev(self) -> RNNState | None:
        """The state before; None at the start."""
        return self._prev

    def b(self) -> Any:
        """The builder."""
        return self._run.builder

    def set_h(self, es: Sequence[Expression] | None = None) -> RNNState:
        """A state with these h (one per layer); c stays."""
        h = expressions(es or [], "set_h")
        builder = self._run.builder
        check_count("set_h", len(h), builder.layers)
        c = (self._run.rest(self)._cells() or self._run.zeros(h)) if builder._has_cells else None
        return self._run.made(RNNState(self._run, self, h, c))

    def set_s(self, es: Sequence[Expression] | None = None) -> RNNState:
        """A state with these parts: of an LSTM c of each layer, then h of each layer (with c alone, h stays); of others h of each layer."""
        if not self._run.builder._has_cells:
            h = expressions(es or [], "set_s")
            check_count("set_s", len(h), self._run.builder.layers)
            return self._run.made(RNNState(self._run, self, h, None))
        n = self._run.builder.layers
        given = expressions(es or [], "set_s")
        check_count("set_s", len(given), n, 2 * n)
        return self._run.made(RNNState(self._run, self, given[n:] or self._run.rest(self)._h or self._run.zeros(given), given[:n]))


def expressions(es: Iterable[Expression], what: str) -> tuple[Expression, ...]:
    """A tuple of them; TypeError for anything else."""
    result = tuple(listed(es, what)) if not isinstance(es, list | tuple) or es else ()
    if not all(isinstance(e, Expression) for e in result):
        raise not_expression(what, *result)
    return result


def check_count(what: str, n: int, *allowed: int) -> None:
    """ValueError for a number of vectors that no state of these layers has."""
    if n not in allowed:
        raise ValueError(f"{what}: takes {' or '.join(map(str, allowed))} expressions for these layers; got {n}.")


def subcollection(model: ParameterCollection, name: str) -> ParameterCollection:
    """A new subcollection, where builders keep their parameters."""
    if not isinstance(model, ParameterCollection):
        raise TypeError(f"{name}: model must be a ParameterCollection; got {type(model).__name__}.")
    return model.add_subcollection(name)


def part(owner: int, block: int, size: int) -> int:
    """The handle of one piece of a node with several outputs."""
    h: int = parts(owner, block, 1, size)
    if h < 0:
        fail(h, owner)
    return h


def masked(x: Expression, mask: Expression | None) -> Expression:
    """The product of x and mask; x without a mask."""
    return x if mask is None else cmult(x, mask)


def this_graph() -> tuple[int, int]:
    """What tells this thread's graph from all others: its number, and how often it was renewed."""
    return current_graph(), cg_version()


class Masks:
    """The dropout masks of a sequence; None until the first input tells the batch size. Sequences that share masks share this object."""

    __slots__ = ("drawn", "graph")

    def __init__(self) -> None:
        self.graph = this_graph()
        self.drawn: list[tuple[Expression | None, ...]] | None = None


class Run:
    """One sequence: what initial_state() starts. It owns the dropout masks, so that each sequence has its own.

    In DyNet's order all sequences of a builder in one graph are one run, which has a `start` and knows the state made `last`.
    """

    __slots__ = ("builder", "graph", "handles", "last", "masks", "start", "unmasked", "update")

    def __init__(self, builder: RecurrentBuilder, update: bool, masks: Masks | None = None) -> None:
        self.builder: Any = builder
        self.update = update
        self.masks = masks or Masks()
        self.graph = self.masks.graph
        self.handles = [[self.handle(p) for p in layer] for layer in builder._layers]
        self.unmasked: list[tuple[Expression | None, ...]] = [(None,) * len(builder._rates())] * builder.layers
        self.start: RNNState | None = None
        self.last: RNNState | None = None

    def made(self, state: RNNState) -> RNNState:
        """The state, which is noted as the last one."""
        if self.start is not None:
            self.last = state
        return state

    def rest(self, state: RNNState) -> RNNState:
        """Where set_h() and set_s() take what is not given from: this state; in DyNet's order the one that was made last."""
        return self.last or state

    def handle(self, p: Parameters) -> int:
        """The handle of a parameter's node; a constant where the run does not update."""
        return p._h if self.update else lib.dn_param_handle(p._c, 1)

    def zeros(self, like: Sequence[Expression]) -> tuple[Expression, ...]:
        """A zero vector for each layer, with the batch sizes of these."""
        return tuple(zeros(self.builder.hidden_dim, batch_size=e.dim()[1]) for e in like)

    def layer_masks(self, x: Expression) -> list[tuple[Expression | None, ...]]:
        """The masks of each layer, None where nothing is dropped; drawn at the first input."""
        if self.start is not None:
            return self._dynet_masks(x)
        if self.masks.drawn is None:
            rates = self.builder._rates()
            if not any(rates):
                self.masks.drawn = [(None,) * len(rates)] * self.builder.layers
            else:
                if not isinstance(x, Expression):
                    raise not_expression("add_input", x)
                self.draw_masks(x.dim()[1])
        return self.masks.drawn  # type: ignore[return-value]

    def _dynet_masks(self, x: Expression) -> list[tuple[Expression | None, ...]]:
        """The same in DyNet's way: rates count at each step, masks are drawn at the first step that needs one."""
        builder = self.builder
        if builder.dropout_x == 0 == builder.dropout_h or not any(builder._rates()):
            return self.unmasked
        rates = builder._rates()
        if self.masks.drawn is None:
            if not isinstance(x, Expression):
                raise not_expression("add_input", x)
            self.draw_masks(x.dim()[1])
        return [tuple(mask if rate else None for mask, rate in zip(masks, rates, strict=True)) for masks in self.masks.drawn or []]

    def draw_masks(self, batch_size: int) -> None:
        """Draws the masks anew for this batch size."""
        b = self.builder

        def mask(size: int, rate: float) -> Expression | None:
            if self.start is not None:  # drawn also where the rate is 0, as in DyNet
                keep = float(np.float32(1) - np.float32(rate))
                return random_bernoulli(size, keep, 1 / keep if keep else 0.0, batch_size)
            return dropout(ones(size, batch_size=batch_size), rate) if rate else None

        sizes = [b.input_dim] + [b.hidden_dim] * (b.layers - 1)
        self.masks.drawn = [tuple(mask(b.hidden_dim if k else size, rate) for k, rate in enumerate(b._rates())) for size in sizes]

    def step(self, state: RNNState, x: Expression) -> RNNState:
        """The state after x."""
        raise NotImplementedError

    def steps(self, state: RNNState, xs: list[Expression]) -> list[RNNState]:
        """The states after each of xs."""
        states = []
        for x in xs:
            state = self.step(state, x)
            states.append(state)
        return states

    def outputs(self, state: RNNState, xs: list[Expression]) -> list[Expression]:
        """The outputs after each of xs."""
        if not self.builder.layers:
            return []
        return [s.output() for s in self.steps(state, xs)]  # type: ignore[misc]


class CellRun(Run):
    """A sequence computed step by step by the builder's `_cell(weights, masks, x, h, c)`, which gives h and c (None: has none) of a layer."""

    __slots__ = ("weights",)

    def __init__(self, builder: RecurrentBuilder, update: bool, masks: Masks | None = None) -> None:
        super().__init__(builder, update, masks)
        self.weights = [builder._weights([expression(resolved(h)) for h in layer]) for layer in self.handles]

    def step(self, state: RNNState, x: Expression) -> RNNState:
        """The cells of all layers, from the lowest up."""
        if not isinstance(x, Expression):
            raise not_expression("add_input", x)
        builder, h0, c0 = self.builder, state._h, state._cells()
        hs, cs = [], []
        for layer, masks in enumerate(self.layer_masks(x)):
            x, c = builder._cell(self.weights[layer], masks, x, h0[layer] if h0 else None, c0[layer] if c0 else None)
            hs.append(x)
            cs.append(c)
        return self.made(RNNState(self, state, tuple(hs), tuple(cs) if builder._has_cells else None, output=builder._last(x) if hs else None))


class RecurrentBuilder:
    """The base of recurrent builders: sizes, parameters, dropout rates, and the start of sequences.

    A subclass names its subcollection, makes the parameters of a layer in `_layer`, and either has `_cell` or a class of runs of its own.

    >>> import dist_dynet as dy
    >>> [issubclass(b, RecurrentBuilder) for b in (dy.VanillaLSTMBuilder, dy.GRUBuilder)]
    [True, True]
    """

    _subcollection: ClassVar[str]
    _has_cells: ClassVar[bool] = False

    def __init__(self, layers: int, input_dim: int, hidden_dim: int, model: ParameterCollection) -> None:
        self.layers, self.input_dim, self.hidden_dim = int(layers), int(input_dim), int(hidden_dim)
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

    def _new_run(self, update: bool, masks: Masks | None) -> Run:
        return CellRun(self, update, masks)

    def _weights(self, parameters: list[Expression]) -> list[Expression]:
        """What `_cell` gets of a layer's parameters, once per sequence."""
        return parameters

    def _last(self, h: Expression) -> Expression | None:
        """The output where it is not h of the top layer."""
        return None

    def _rates(self) -> tuple[float, ...]:
        """The rates of the masks that a sequence holds: of the input, then of parts of the state."""
        return self.dropout_x, self.dropout_h

    def whoami(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def param_collection(self) -> ParameterCollection:
        """The subcollection of its parameters."""
        return self._collection

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

    def _check_rates(self, *rates: float) -> None:
        for rate in rates:
            if not 0 <= rate <= 1:
                raise ValueError(f"set_dropout: the rate must lie in [0, 1]; got {rate}.")

    def set_dropout(self, f: float) -> None:
        """The dropout rate of inputs and of h. Masks are drawn once per sequence and layer (Gal and Ghahramani 2016).

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        self._check_rates(f)
        self.dropout_x = self.dropout_h = float(f)

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
        shared = last.masks if share_masks and last is not None and last.masks.graph == this_graph() else None
        run = self._last_run = self._new_run(bool(update), shared)
        if vecs is None:
            return RNNState(run, None, None, None, h_given=False)
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
            run.start = RNNState(run, None, None, None, h_given=False)
        return run.start if vecs is None else run.start.set_s(vecs)

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
        self._check_rates(d, d_r)
        self.dropout_x, self.dropout_h = float(d), float(d_r)

    def set_dropout_masks(self, batch_size: int = 1) -> None:
        """Draws the masks of the sequence that the last initial_state() started, for this batch size."""
        if self._last_run is None:
            raise ValueError("set_dropout_masks: call initial_state() first.")
        self._last_run.draw_masks(batch_size)
