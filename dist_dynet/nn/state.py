"""The state of a recurrent network, and the sequence it belongs to.

A state is what a network has after an input; states share what they have in common, so branching from any earlier one costs nothing. How a
step is computed is the business of runs (runs.py), whose methods this module calls and does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .._ffi import calls, fail, lib
from ..expression import Expression, expression
from ..graph import this_graph
from ..ops import cmult, random_bernoulli, zeros
from ..ops._nodes import listed, not_expression
from ..params.collection import ParameterCollection
from ..params.parameters import Parameters
from .sequences import Inputs, inputs_of, packed_inputs

parts = lib.dn_parts


class RNNState(calls.State):
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

    __slots__ = ()

    if TYPE_CHECKING:  # what the base has
        _run: Run
        _prev: RNNState | None
        _h: tuple[Expression, ...] | None
        _c: tuple[Expression, ...] | None
        _later: Any  # (owner node of each layer, block of c): where c is until it is asked for
        _output: Expression | None  # where it is not h of the top layer

        def __init__(
            self,
            run: Run,
            prev: RNNState | None = None,
            h: tuple[Expression, ...] | None = None,
            c: tuple[Expression, ...] | None = None,
            later: tuple[list[int], int] | None = None,
            output: Expression | None = None,
            /,
        ) -> None: ...
        def add_input(self, x: Expression) -> RNNState: ...  # noqa: D102
        def output(self) -> Expression | None: ...  # noqa: D102
        def h(self) -> tuple[Expression, ...]: ...  # noqa: D102
        def s(self) -> tuple[Expression, ...]: ...  # noqa: D102
        def prev(self) -> RNNState | None: ...  # noqa: D102

    def _same(self, memo: Any = None) -> Any:
        return self

    __copy__: Any = _same  # states never change: a hypothesis of a beam may be copied with what it holds
    __deepcopy__: Any = _same

    def _later_cells(self) -> tuple[Expression, ...]:
        """The c of each layer, which `_later` tells where to find."""
        owners, block = self._later
        size = self._run.builder.hidden_dim
        return tuple(expression(part(owner, block, size)) for owner in owners)

    def add_inputs(
        self, xs: Iterable[Expression] | Expression, mask: ArrayLike | None = None, lengths: Iterable[int] | None = None
    ) -> list[RNNState]:
        """The states after each of these inputs, computed as one node per layer.

        Args:
            xs: a list of inputs; or one matrix (input size, steps), whose columns are the inputs.
            mask: (steps, batch size) of ones and zeros: where it is 0, a batch element is padding.
            lengths: the number of inputs that each batch element has; what follows is padding.

        At padding the state stays what it was: x is not read there, and no gradient comes from it.

        Raises:
            ValueError: a mask or lengths that do not fit, or both.
        """
        quick = self._quick_states(xs) if mask is None is lengths else None
        return self._run.steps(self, inputs_of(xs, mask, lengths, "add_inputs")) if quick is None else quick

    def transduce(
        self, xs: Iterable[Expression] | Expression, mask: ArrayLike | None = None, lengths: Iterable[int] | None = None
    ) -> list[Expression]:
        """The outputs after each of these inputs; arguments as of add_inputs(). At padding it is the output of the state that stays.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, m)
        >>> _ = dy.renew_cg()
        >>> xs = [dy.inputTensor([[1, 2], [3, 4]], batched=True)] * 3
        >>> outputs = lstm.initial_state().transduce(xs, lengths=[3, 1])
        >>> last = outputs[2].npvalue()
        >>> bool((last[:, 1] == outputs[0].npvalue()[:, 1]).all())
        True
        """
        quick = self._quick_outputs(xs) if mask is None is lengths else None
        return self._run.outputs(self, inputs_of(xs, mask, lengths, "transduce")) if quick is None else quick

    def transduce_matrix(
        self, x: Expression, mask: ArrayLike | None = None, lengths: Iterable[int] | None = None
    ) -> tuple[Expression, RNNState]:
        """The outputs at all positions as one matrix, and the state at the end; x and arguments as of add_inputs().

        Shape: (input size, steps) -> (h, steps); batches alike. Nothing is cut or put together: an affine_transform() of the result is one
        product for all positions.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> gru = dy.GRUBuilder(1, 2, 3, m)
        >>> _ = dy.renew_cg()
        >>> y, state = gru.initial_state().transduce_matrix(dy.inputTensor([[1, 2, 3, 4], [5, 6, 7, 8]]))
        >>> y.dim(), state.output().dim()
        (((3, 4), 1), ((3,), 1))
        """
        if not isinstance(x, Expression):
            raise not_expression("transduce_matrix", x)
        return self._run.joined(self, inputs_of(x, mask, lengths, "transduce_matrix"))

    def transduce_packed(self, x: Expression, lengths: Iterable[int]) -> tuple[Expression, RNNState]:
        """The outputs for sequences of different lengths laid one after another as a batch of words, and the states at their ends.

        Shape: (input size,) x (sum of lengths) -> (h,) x (sum of lengths); the state has a batch element for each sequence. Nothing is padded.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> E, lstm = m.add_lookup_parameters((10, 2)), dy.VanillaLSTMBuilder(1, 2, 3, m)
        >>> sentences = [[1, 2, 3], [4], [2, 3]]
        >>> _ = dy.renew_cg()
        >>> words = dy.lookup_batch(E, [w for s in sentences for w in s])
        >>> y, state = lstm.initial_state().transduce_packed(words, [len(s) for s in sentences])
        >>> y.dim(), state.output().dim()
        (((3,), 6), ((3,), 3))
        """
        return self._run.joined(self, packed_inputs(x, lengths, "transduce_packed"))

    def b(self) -> Any:
        """The builder."""
        return self._run.builder

    def set_h(self, es: Sequence[Expression] | None = None) -> RNNState:
        """A state with these h (one per layer); c stays."""
        h = expressions(es or [], "set_h")
        builder = self._run.builder
        check_count("set_h", len(h), builder.layers)
        cells = (self._run.rest(self)._c or self._run.zeros(h)) if builder._has_cells else None
        return self._run.made(RNNState(self._run, self, h, cells))

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
    result = tuple(es) if type(es) is list or type(es) is tuple else tuple(listed(es, what))
    for e in result:
        if not isinstance(e, Expression):
            raise not_expression(what, *listed(result, what))
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


LayerMasks = tuple[Expression | None, ...]


class Run(calls.Run):
    """One sequence: what initial_state() starts. It owns the dropout masks, so that each sequence has its own, but for those that share a list.

    In DyNet's order all sequences of a builder in one graph are one run, which has a `start` and knows the state made `last`.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        start: RNNState | None
        last: RNNState | None

    def __init__(self, builder: Any, update: bool, masks: list[Any] | None = None) -> None:
        self.builder, self.update = builder, update
        self.masks = [] if masks is None else masks
        self.graph = this_graph()
        self.handles = [[self.handle(p) for p in layer] for layer in builder._layers]

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

    def layer_masks(self, x: Expression, batch_size: Callable[[], int] | None = None) -> list[LayerMasks]:
        """The masks of each layer, None where nothing is dropped; drawn at the first input, for its batch size if none is given."""
        if self.start is not None:
            return self._dynet_masks(x, batch_size)
        if not self.masks:
            if any(self.builder._rates()):
                self._draw_for(x, batch_size)
            else:
                self.masks.append(None)
        return self.no_masks() if self.masks == [None] else self.masks

    def _draw_for(self, x: Expression, batch_size: Callable[[], int] | None) -> None:
        if not isinstance(x, Expression):
            raise not_expression("add_input", x)
        self.draw_masks(batch_size() if batch_size else x.dim()[1])

    def _dynet_masks(self, x: Expression, batch_size: Callable[[], int] | None) -> list[LayerMasks]:
        """The same in DyNet's way: rates count at each step, masks are drawn at the first step that needs one."""
        builder = self.builder
        rates = builder._rates()
        if builder.dropout_x == 0 == builder.dropout_h or not any(rates):
            return self.no_masks()
        if not self.masks:
            self._draw_for(x, batch_size)
        return [tuple(mask if rate else None for mask, rate in zip(masks, rates, strict=True)) for masks in self.masks]

    def no_masks(self) -> list[LayerMasks]:
        """The masks of each layer where nothing is dropped."""
        return [(None,) * len(self.builder._rates())] * self.builder.layers

    def draw_masks(self, batch_size: int) -> None:
        """Draws the masks anew for this batch size; in DyNet's order all of them, if one of the two rates is not 0."""
        b = self.builder
        if self.start is not None and b.dropout_x == 0 == b.dropout_h:
            self.masks.clear()
            return

        def mask(size: int, rate: float) -> Expression | None:
            if not rate and self.start is None:
                return None
            keep = float(np.float32(1) - np.float32(rate))
            return random_bernoulli(size, keep, 1 / keep if keep else 0.0, batch_size)

        sizes = [b.input_dim] + [b.hidden_dim] * (b.layers - 1)
        self.masks[:] = [tuple(mask(b.hidden_dim if k else size, rate) for k, rate in enumerate(b._rates())) for size in sizes]

    def step(self, state: RNNState, x: Expression) -> RNNState:
        """The state after x."""
        raise NotImplementedError

    def steps(self, state: RNNState, xs: Inputs) -> list[RNNState]:
        """The state at each position."""
        raise NotImplementedError

    def outputs(self, state: RNNState, xs: Inputs) -> list[Expression]:
        """The output at each position."""
        raise NotImplementedError

    def joined(self, state: RNNState, xs: Inputs) -> tuple[Expression, RNNState]:
        """The outputs at all positions as one expression in the form of the inputs, and the last state."""
        raise NotImplementedError
