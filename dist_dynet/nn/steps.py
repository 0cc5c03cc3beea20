"""How a recurrent network goes from state to state: by one node per layer, or by composed
operations.

A Step describes what a step of a builder consists of, for all of its sequences.
csrc/python/states.c reads it, too, and makes the same nodes in the same order. A sequence only has
its dropout masks: a list that its states share. It is empty until the first input gives the batch
size. Then it has a tuple of masks for each layer, of x, of h, of c, with None for what is not
dropped; or a single () if nothing is dropped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .._ffi import fail, lib
from ..expression import Expression, expression, expressions_from
from ..graph import cg
from ..ops import (
    cmult,
    concatenate_to_batch,
    dropout,
    inputTensor,
    pick_batch_elems,
    zeros,
)
from ..ops._nodes import has_handle, node, node_with_views, not_expression
from .owner import REFUSALS
from .sequences import BY_ELEMENT, LIST, Inputs
from .state import RNNState, Vectors, is_gone

LayerMasks = tuple[Expression | None, ...]
_MASKS = lib.DN_SEQUENCE_H_MASK, lib.DN_SEQUENCE_C_MASK
F = TypeVar("F", bound=Callable[..., Any])


@functools.lru_cache(64)
def _keep_rate_and_scale(rate: float) -> tuple[float, float]:
    """The fraction of elements that are kept, and the factor they are multiplied by."""
    share = float(np.float32(1) - np.float32(rate))
    return share, 1 / share if share else 0.0


def _undone_on_error(method: F) -> F:
    """A method of a Step whose nodes and masks are removed if it fails."""

    @functools.wraps(method)
    def called(self: Any, state: RNNState, given: Any) -> Any:
        if state._n:
            _ = state._c  # which the state keeps
        graph, masks, last = cg().number, [*state._masks], self.last and self.last[0]
        size = lib.dn_graph_size(graph)
        try:
            return method(self, state, given)
        except BaseException:
            lib.dn_take_back(graph, size)
            state._masks[:] = masks
            if self.last is not None:
                self.last[0] = last
            raise

    return called  # type: ignore[return-value]


class Step(NamedTuple):
    """What a step consists of. csrc/python/states.c reads the first four."""

    builder: Any
    rates: tuple[str | None, ...]  # names of the builder's rates, of each mask; None: drops nothing
    table: bytes  # a dn_layers (csrc/dn_api.h); empty: none
    last: list[RNNState | None] | None  # in DyNet's order, for one graph: the state made last
    weights: list[Any]  # of each layer: handles, or what the builder's _cell() takes
    floats: tuple[float, ...]  # of a layer's node
    has_cells: bool
    update: bool
    handles: list[list[int]]  # of each layer's parameters
    drops: bool  # False: nothing, whatever the rates are

    def composed(self) -> Step | None:
        """The step that composes a step which draws, if the sequence began without dropout.

        In DyNet's order, see RecurrentBuilder._draws_in_order().
        """
        return None

    def _rates(self) -> tuple[float, ...]:
        """The rates of the masks that a sequence holds."""
        rates: tuple[float, ...] = self.builder._rates()
        return rates if self.drops else (0.0,) * len(rates)

    def _fresh_rate(self) -> float:
        """The rate of dropout that is drawn at each step."""
        return self.builder._fresh_rate() if self.drops else 0.0

    def _dropped(self, h: Expression) -> Expression:
        """h after dropout that is drawn at each step."""
        rate = self._fresh_rate()
        return dropout(h, rate) if rate else h

    def masks(self, state: RNNState, xs: Inputs) -> list[LayerMasks]:
        """The masks of each layer. The first input decides whether there are any.

        In DyNet's order the rates matter at each step; the first step that needs masks draws them.

        Raises:
            TypeError: an input is not an expression.
        """
        if not all(map(has_handle, xs.inputs)):
            raise not_expression("add_input", *xs.inputs)
        masks, rates = state._masks, self._rates()
        drawn = next((mask for of in masks for mask in of if mask is not None), None)
        if drawn is not None and is_gone(drawn):  # all were drawn, and removed, together
            masks.clear()
        in_order = self.last is not None
        if not masks and any(rates):
            self.draw(masks, xs.batch_size())
        if not masks and not in_order:
            masks.append(())
        if not any(masks) or (in_order and not any(rates)):
            return [()] * self.builder.layers
        if not in_order:
            return masks
        return [tuple(m if r else None for m, r in zip(of, rates, strict=True)) for of in masks]

    def draw(self, masks: list[LayerMasks], batch_size: int) -> None:
        """Draws masks for this batch size. In DyNet's order all of them, if any rate is not 0."""
        b, rates = self.builder, self._rates()
        every = self.last is not None
        masks.clear()
        for layer in range(b.layers if any(rates) or not every else 0):
            size, of_layer = b.hidden_dim if layer else b.input_dim, []
            for rate in rates:
                used = rate or every
                made = (
                    node("random_bernoulli", batch_size, size, *_keep_rate_and_scale(rate))
                    if used
                    else None
                )
                of_layer.append(made)
                size = b.hidden_dim
            masks.append(tuple(of_layer))

    def cells(self, state: RNNState) -> Vectors:
        """The c of each layer, which has no expression yet."""
        t, n, cells = state._t, state._n, []
        for h in state._h or ():
            owner = h._h - t - 1
            c = lib.dn_output_views(owner, n + t, 1, self.builder.hidden_dim) if n else h._h + 1
            if c < 0:
                fail(c, owner)
            cells.append(expression(c))
        return tuple(cells)

    def made(self, state: RNNState) -> RNNState:
        """The state, which is recorded as the last one."""
        if self.last is not None:
            self.last[0] = state
        return state

    def zeros(self, like: Vectors) -> Vectors:
        """A zero vector for each layer, with the batch sizes of these."""
        return tuple(zeros(self.builder.hidden_dim, batch_size=e.dim()[1]) for e in like)

    def with_vectors(self, state: RNNState, h: Vectors, c: Vectors | None) -> RNNState:
        """A state with these vectors. Those that are not given are the state's, or in DyNet's order
        those of the last state."""
        before = (self.last and self.last[0]) or state
        if self.has_cells:
            h = h or before._h or self.zeros(c or ())
            c = c or before._c or self.zeros(h)
        return self.made(RNNState(self, state._masks, state, h, c))


class NodeStep(Step):
    """A step, or a sequence, is one node of the builder's operation for each layer."""

    __slots__ = ()

    def composed(self) -> Step | None:  # noqa: D102
        if self.last is None or not self.builder._composes():
            return None
        step: Step = self.builder._new_step(self.update)
        return tuple.__new__(type(step), (*step[:3], self.last, *step[4:]))

    def _node(
        self,
        layer: int,
        xs: Inputs,
        state: RNNState,
        masks: LayerMasks,
        parts: int,
        options: int = 0,
    ) -> int:
        """The node of a layer: the handle of the first of its first `parts` outputs; with 0 parts
        its own."""
        handles = [*self.weights[layer]]
        if state._h:
            options |= lib.DN_SEQUENCE_STATE
            handles += [e[layer]._h for e in (state._h, state._c) if e]
        for mask, bit in zip(masks[1:], _MASKS, strict=False):
            if mask is not None:
                options |= bit
                handles.append(mask._h)
        if rate := self._fresh_rate():
            xs = xs.replaced([dropout(x, rate) for x in xs.inputs])
        elif masks:
            xs = xs.times(masks[0])
        handles += [x._h for x in xs.inputs]
        made = node_with_views(self.builder._op, parts, handles, xs.ints(options), self.floats)
        if made < 0:
            fail(made, *handles)
        return made

    def _layers(self, state: RNNState, xs: Inputs, parts: int) -> list[int]:
        """The nodes of all layers, each applied to the h of the one below: their first outputs."""
        made = []
        for layer, masks in enumerate(self.masks(state, xs)):
            made.append(self._node(layer, xs, state, masks, parts))
            xs = xs.replaced(expressions_from(made[-1], xs.steps), LIST)
        return made

    def _state(
        self, before: RNNState, h: Vectors, c: Vectors | None = None, t: int = 0, n: int = 0
    ) -> RNNState:
        output = self._dropped(h[-1]) if h else None
        return RNNState(self, before._masks, before, h, c, output, t, n)

    @_undone_on_error
    def after(self, state: RNNState, x: Expression) -> RNNState:
        """The state after x."""
        if step := self.composed():
            return step.after(state, x)  # type: ignore[attr-defined,no-any-return]
        firsts = self._layers(state, Inputs([x], 1), 1 + self.has_cells)
        return self.made(self._state(state, tuple(map(expression, firsts))))

    @_undone_on_error
    def states(self, state: RNNState, xs: Inputs) -> list[RNNState]:
        """The state at each position."""
        if not xs.steps or not self.builder.layers:
            return [state] * xs.steps
        if step := self.composed():
            return step.states(state, xs)  # type: ignore[attr-defined,no-any-return]
        if self.last is not None and xs.plain and self._fresh_rate():
            return [state := self.after(state, x) for x in xs.inputs]  # draws as DyNet
        firsts = self._layers(state, xs, xs.steps)
        states: list[Any] = [None] * xs.steps
        for t in xs.order():
            h = tuple(expression(first + t) for first in firsts)
            state = states[t] = self._state(state, h, None, t, xs.steps)
        self.made(state)
        return states

    @_undone_on_error
    def outputs(self, state: RNNState, xs: Inputs) -> list[Expression]:
        """The output at each position."""
        if not xs.steps or not self.builder.layers:
            return []
        if self.last is not None:
            return [s.output() for s in self.states(state, xs)]  # type: ignore[misc]
        first = self._layers(state, xs, xs.steps)[-1]
        return [self._dropped(h) for h in expressions_from(first, xs.steps)]

    @_undone_on_error
    def joined(self, state: RNNState, xs: Inputs) -> tuple[Expression, RNNState]:
        """The outputs as one expression in the form of the inputs, and the last state.

        The outputs are a contiguous part of the last layer's memory.
        """
        size, ends = self.builder.hidden_dim, []
        for layer, masks in enumerate(self.masks(state, xs)):
            owner = self._node(layer, xs, state, masks, 0, BY_ELEMENT)
            xs = xs.replaced([xs.whole(owner, size)])
            ends.append([xs.last(owner, size, block) for block in range(1 + self.has_cells)])
        h = tuple(end[0] for end in ends)
        c = tuple(end[1] for end in ends) if self.has_cells else None
        return self._dropped(xs.inputs[0]), self._state(state, h, c)


class CellStep(Step):
    """A step is the builder's `_cell(weights, masks, x, h, c)` for each layer.

    It returns h and c (None if there is no c).
    """

    __slots__ = ()

    def _check_sizes(
        self, layer: int, x: Expression, h: Expression | None, c: Expression | None
    ) -> None:
        """Checks what a layer is given, once an operation of its cell has failed."""
        builder = self.builder
        builder._check_rows(x, builder.hidden_dim if layer else builder.input_dim)
        for name, given in (("h", h), ("c", c)):
            if given is not None:
                builder._check_rows(given, builder.hidden_dim, name)

    @_undone_on_error
    def after(self, state: RNNState, x: Expression) -> RNNState:
        """The state after x."""
        h0, c0 = state._h, state._c
        hs, cs = [], []
        for layer, masks in enumerate(self.masks(state, Inputs([x], 1))):
            before = h0[layer] if h0 else None, c0[layer] if c0 else None
            masks, x = masks or (None,) * len(self.rates), self._dropped(x)
            try:
                x, c = self.builder._cell(self.weights[layer], masks, x, *before)
            except REFUSALS:
                self._check_sizes(layer, x, *before)
                raise
            hs.append(x)
            cs.append(c)
        c = tuple(cs) if self.has_cells else None
        output = self._dropped(x) if hs and self._fresh_rate() else None
        return self.made(RNNState(self, state._masks, state, tuple(hs), c, output))

    @_undone_on_error
    def states(self, state: RNNState, xs: Inputs) -> list[RNNState]:
        """The state at each position. Where a batch element is padding, its state does not
        change."""
        real, inputs = xs.real(), xs.listed()
        xs = xs.replaced(inputs, LIST)
        if real is not None and (xs.masked or xs.reverse) and self.builder.layers:
            return self._compacted(state, xs, real)
        states: list[Any] = [None] * xs.steps
        if inputs and self.builder.layers:
            self.masks(state, xs)
        for t in xs.order():
            after = self.after(state, inputs[t])
            if real is not None and not real[t].all():
                after = self._carried(state, after, real[t])
            state = states[t] = after
        return states

    def _compacted(self, state: RNNState, xs: Inputs, real: Any) -> list[RNNState]:
        """Processes the sequences without padding, with padding moved to the end, then moves the
        states to their positions."""
        compact, shown = xs.compacted(real)
        steps = self.states(state, compact)
        nothing = zeros(self.builder.hidden_dim, batch_size=real.shape[1])

        def at_positions(of: Callable[[RNNState], Vectors | None]) -> list[Vectors]:
            layers = []
            for layer in range(self.builder.layers):
                begin = of(state)
                first = nothing + begin[layer] if begin else nothing
                rest = (of(s)[layer] for s in steps)  # type: ignore[index]
                together = concatenate_to_batch([first, *rest])
                layers.append([pick_batch_elems(together, row) for row in shown])
            return list(zip(*layers, strict=True))

        h = at_positions(lambda s: s._h)
        c = at_positions(lambda s: s._c) if self.has_cells else [None] * xs.steps
        states: list[Any] = [None] * xs.steps
        for t in xs.order():
            state = states[t] = RNNState(self, state._masks, state, h[t], c[t])
        return states

    def _carried(self, before: RNNState, after: RNNState, real: Any) -> RNNState:
        keep = np.broadcast_to(real, (self.builder.hidden_dim, len(real)))
        new, old = (inputTensor(np.asarray(k, float), batched=True) for k in (keep, ~keep))

        def chosen(a: Vectors | None, b: Vectors | None) -> Vectors:
            return tuple(
                cmult(y, new) + cmult(a[i], old) if a else cmult(y, new)
                for i, y in enumerate(b or ())
            )

        c = chosen(before._c, after._c) if self.has_cells else None
        return RNNState(self, before._masks, before, chosen(before._h, after._h), c)

    @_undone_on_error
    def outputs(self, state: RNNState, xs: Inputs) -> list[Expression]:
        """The output at each position."""
        states = self.states(state, xs) if self.builder.layers else ()
        return [s.output() for s in states]  # type: ignore[misc]

    @_undone_on_error
    def joined(self, state: RNNState, xs: Inputs) -> tuple[Expression, RNNState]:
        """The outputs as one expression in the form of the inputs, and the last state."""
        states = self.states(state, xs)
        outputs = [s.output() for s in states]
        return xs.joined(outputs), states[0 if xs.reverse else -1]  # type: ignore[arg-type]
