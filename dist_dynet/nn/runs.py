"""How a sequence is computed: by nodes that hold a step, or a whole sequence, of a layer; or by steps composed of several nodes."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from .._ffi import OPS, calls, fail, lib
from ..expression import Expression, expression, expressions_from, resolved
from ..ops import cmult, concatenate_to_batch, dropout, inputTensor, pick_batch_elems, zeros
from ..ops._nodes import many_node, node_parts, not_expression
from .sequences import BY_ELEMENT, LIST, Inputs
from .state import LayerMasks, RNNState, Run, parts

_STATE, _H_MASK, _C_MASK = lib.DN_SEQUENCE_STATE, lib.DN_SEQUENCE_H_MASK, lib.DN_SEQUENCE_C_MASK
_ONE_STEP, _ONE_STEP_ON = (1, LIST), (1, LIST | _STATE)
"""The whole numbers of a node of one step, without and with a state before it."""
calls.dropping(OPS["cmult"], OPS["dropout"], OPS["random_bernoulli"])


@functools.cache
def _call_of(op: int) -> Callable[..., list[Expression] | None]:
    """f(weights, inputs, ints, reals, n): the n outputs of a layer's step; None where only the longer way can say what is wrong."""
    return calls.call("outputs", op, Expression, _unknown)


def _handles(weights: bytes) -> memoryview:
    return memoryview(weights).cast("q")


def _unknown(code: int, *arguments: Any) -> None:
    return None


class NodeRun(Run):
    """A sequence in nodes that hold a layer's step, or a layer's sequence: the operation `builder._op`."""

    __slots__ = ()

    def __init__(self, builder: Any, update: bool, masks: list[Any] | None = None) -> None:
        super().__init__(builder, update, masks)
        self.weights = [array("q", layer).tobytes() for layer in builder._node_weights(self.handles)]
        self.reals, self.rates = builder._reals(), builder._mask_rates
        self.call = _call_of(builder._op)
        self.input_dim, self.hidden_dim = builder.input_dim, builder.hidden_dim
        self.fixed, self.has_cells, self.drops_each_step = builder._fixed_weights, builder._has_cells, builder._drops_each_step

    def _node(self, layer: int, xs: Inputs, state: RNNState, masks: LayerMasks, options: int = 0) -> int:
        """The node of one layer over these inputs: its handle. masks: of x, which were multiplied already, of h, of c."""
        before: list[Expression] = []
        if state._h:
            cells = state._c
            before = [state._h[layer], cells[layer]] if cells else [state._h[layer]]
            options |= _STATE
        for mask, bit in zip(masks[1:], (_H_MASK, _C_MASK), strict=False):
            if mask is not None:
                before.append(mask)
                options |= bit
        try:
            inputs = [*_handles(self.weights[layer]), *[e._h for e in before], *[x._h for x in xs.inputs]]
        except AttributeError:
            raise not_expression("add_input", *xs.inputs) from None
        node = many_node(self.builder._op, inputs, xs.ints(options), self.reals)
        if node < 0:
            fail(node, *inputs)
        return node

    def _dropped(self, xs: Inputs, mask: Expression | None) -> Inputs:
        """x under the mask of the sequence, or under one of its own."""
        rate = self.builder._fresh_rate()
        return xs.replaced([dropout(x, rate) for x in xs.inputs]) if rate else xs.times(mask)

    def _output(self, h: Expression) -> Expression:
        rate = self.builder._fresh_rate()
        return dropout(h, rate) if rate else h

    def _listed(self, state: RNNState, xs: Inputs) -> tuple[list[list[Expression]], list[int]]:
        """The h after each input for each layer, and the owner node of each layer."""
        size = self.builder.hidden_dim
        all_h, owners = [], []
        for layer, masks in enumerate(self.layer_masks(xs.inputs[0], xs.batch_size)):
            owner = self._node(layer, self._dropped(xs, masks[0] if masks else None), state, masks)
            first = parts(owner, 0, xs.steps, size)
            if first < 0:
                fail(first, owner)
            h = expressions_from(first, xs.steps)
            xs = xs.replaced(h, LIST)
            all_h.append(h)
            owners.append(owner)
        return all_h, owners

    def step(self, state: RNNState, x: Expression) -> RNNState:
        """One node per layer, where add_input() does not make them by itself: something is dropped, or wrong."""
        builder = self.builder
        all_masks, rate = self.layer_masks(x), builder._fresh_rate()
        call, has_cells, given = _call_of(builder._op), builder._has_cells, state._h
        cells = state._c if given else None
        n = 2 if has_cells else 1
        all_h, all_c = [], []
        for layer, (weights, masks) in enumerate(zip(self.weights, all_masks, strict=True)):
            options, inputs = _ONE_STEP, []
            if given:
                options, inputs = _ONE_STEP_ON, [given[layer], cells[layer]] if cells else [given[layer]]
            if masks:
                x, options = self._masked(x, masks, inputs, options)
            if rate:
                x = dropout(x, rate)
            inputs.append(x)
            made = call(weights, inputs, options, self.reals, n) or self._long_step(weights, inputs, options, n)
            x = made[0]
            all_h.append(x)
            if has_cells:
                all_c.append(made[1])
        output = dropout(x, rate) if rate and all_h else None
        new = RNNState(self, state, tuple(all_h), tuple(all_c) if has_cells else None, None, output)
        if self.start is not None and all_h:
            self.last = new
        return new

    def _long_step(self, weights: bytes, inputs: list[Expression], options: tuple[int, int], n: int) -> list[Expression]:
        """As the quick call, or the error."""
        try:
            handles = [*_handles(weights), *[e._h for e in inputs]]
        except AttributeError:
            raise not_expression("add_input", inputs[-1]) from None
        first = node_parts(self.builder._op, n, handles, options, self.reals)
        if first < 0:
            fail(first, *handles)
        return expressions_from(first, n)

    def _masked(
        self, x: Expression, masks: LayerMasks, before: list[Expression], options: tuple[int, int]
    ) -> tuple[Expression, tuple[int, int]]:
        """x under its mask, and a step's options with the masks of h and c, which are put after the state before."""
        more = options[1]
        for mask, bit in zip(masks[1:], (_H_MASK, _C_MASK), strict=False):
            if mask is not None:
                before.append(mask)
                more |= bit
        return x if masks[0] is None else cmult(x, masks[0]), (1, more)

    def steps(self, state: RNNState, xs: Inputs) -> list[RNNState]:
        """One node per layer."""
        if not xs.steps or not self.builder.layers:
            return [state] * xs.steps
        if self.start is not None and xs.plain and self.builder._fresh_rate():
            return [state := self.step(state, x) for x in xs.inputs]  # draws step by step, as DyNet
        all_h, owners = self._listed(state, xs)
        columns = list(zip(*all_h, strict=True))
        states: list[Any] = [None] * xs.steps
        fresh, has_cells = self.builder._fresh_rate(), self.builder._has_cells
        for t in xs.order():
            h = columns[t]
            later = (owners, xs.steps + t) if has_cells else None
            state = states[t] = RNNState(self, state, h, None, later, self._output(h[-1]) if fresh else None)
        self.made(state)
        return states

    def outputs(self, state: RNNState, xs: Inputs) -> list[Expression]:
        """As steps(), without the states."""
        if not xs.steps or not self.builder.layers:
            return []
        if self.start is not None:
            return [s.output() for s in self.steps(state, xs)]  # type: ignore[misc]
        h = self._listed(state, xs)[0][-1]
        return [self._output(e) for e in h] if self.builder._fresh_rate() else h

    def joined(self, state: RNNState, xs: Inputs) -> tuple[Expression, RNNState]:
        """One node per layer; the outputs are one piece of the last one's memory."""
        size, has_cells = self.builder.hidden_dim, self.builder._has_cells
        last: tuple[list[Expression], list[Expression]] = [], []
        for layer, masks in enumerate(self.layer_masks(xs.inputs[0], xs.batch_size)):
            owner = self._node(layer, self._dropped(xs, masks[0] if masks else None), state, masks, BY_ELEMENT)
            xs = xs.replaced([xs.whole(owner, size)])
            for block in range(1 + has_cells):
                last[block].append(xs.last(owner, size, block))
        h, c = tuple(last[0]), tuple(last[1]) if has_cells else None
        return self._output(xs.inputs[0]), RNNState(self, state, h, c, None, self._output(h[-1]) if self.builder._fresh_rate() else None)


class CellRun(Run):
    """A sequence computed step by step by the builder's `_cell(weights, masks, x, h, c)`, which gives h and c (None: has none) of a layer."""

    __slots__ = ()

    def __init__(self, builder: Any, update: bool, masks: list[Any] | None = None) -> None:
        super().__init__(builder, update, masks)
        self.weights = [builder._weights([expression(resolved(h)) for h in layer]) for layer in self.handles]

    def step(self, state: RNNState, x: Expression) -> RNNState:
        """The cells of all layers, from the lowest up."""
        if not isinstance(x, Expression):
            raise not_expression("add_input", x)
        builder, h0, c0 = self.builder, state._h, state._c
        hs, cs = [], []
        for layer, masks in enumerate(self.layer_masks(x)):
            x, c = builder._cell(self.weights[layer], masks, x, h0[layer] if h0 else None, c0[layer] if c0 else None)
            hs.append(x)
            cs.append(c)
        return self.made(RNNState(self, state, tuple(hs), tuple(cs) if builder._has_cells else None))

    def steps(self, state: RNNState, xs: Inputs) -> list[RNNState]:
        """Step by step; where some batch elements are padding, their state is the one before."""
        real, inputs = xs.real(), xs.listed()
        if real is not None and (xs.masked or xs.reverse) and self.builder.layers:
            return self._compacted(state, xs.replaced(inputs, LIST), real)
        states: list[Any] = [None] * xs.steps
        if inputs and self.builder.layers:
            self.layer_masks(inputs[0], xs.batch_size)
        for t in xs.order():
            after = self.step(state, inputs[t])
            state = states[t] = after if real is None or real[t].all() else self._carried(state, after, real[t])
        return states

    def _compacted(self, state: RNNState, xs: Inputs, real: Any) -> list[RNNState]:
        """By the sequences of what is real, so that padding comes last; then the states are brought to their positions."""
        compact, shown = xs.compacted(real)
        steps = self.steps(state, compact)
        batch, has_cells = real.shape[1], self.builder._has_cells
        nothing = zeros(self.builder.hidden_dim, batch_size=batch)

        def at_positions(of: Callable[[RNNState], tuple[Expression, ...] | None]) -> list[tuple[Expression, ...]]:
            layers = []
            for layer in range(self.builder.layers):
                begin = of(state)
                first = nothing + begin[layer] if begin else nothing
                together = concatenate_to_batch([first, *(of(s)[layer] for s in steps)])  # type: ignore[index]
                layers.append([pick_batch_elems(together, row) for row in shown])
            return list(zip(*layers, strict=True))

        h = at_positions(lambda s: s._h)
        c = at_positions(lambda s: s._c) if has_cells else [None] * xs.steps
        states: list[Any] = [None] * xs.steps
        for t in xs.order():
            state = states[t] = RNNState(self, state, h[t], c[t])
        return states

    def _carried(self, before: RNNState, after: RNNState, real: Any) -> RNNState:
        keep = np.broadcast_to(real, (self.builder.hidden_dim, len(real)))
        new, old = (inputTensor(np.asarray(k, float), batched=True) for k in (keep, ~keep))

        def chosen(a: tuple[Expression, ...] | None, b: tuple[Expression, ...] | None) -> tuple[Expression, ...]:
            kept = a or [None] * len(b or ())
            return tuple(cmult(y, new) if x is None else cmult(y, new) + cmult(x, old) for x, y in zip(kept, b or (), strict=True))

        h = chosen(before._h, after._h)
        return RNNState(self, before, h, chosen(before._c, after._c) if self.builder._has_cells else None)

    def outputs(self, state: RNNState, xs: Inputs) -> list[Expression]:
        """The h of the top layer."""
        if not self.builder.layers:
            return []
        return [s.output() for s in self.steps(state, xs)]  # type: ignore[misc]

    def joined(self, state: RNNState, xs: Inputs) -> tuple[Expression, RNNState]:
        """The outputs of all steps, joined."""
        states = self.steps(state, xs)
        return xs.joined([s.output() for s in states]), states[0 if xs.reverse else -1]  # type: ignore[misc]
