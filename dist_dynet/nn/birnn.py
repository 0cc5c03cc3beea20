"""Combined networks: the bidirectional network, and manually stacked states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from .._integers import items_of
from ..expression import Expression
from ..ops import concatenate
from ..ops._nodes import listed
from ..ops.shape import concatenate_pairs
from ..params.collection import ParameterCollection
from .owner import Owner, items_of_spec
from .sequences import LIST, Inputs, inputs_of, matrix_inputs, packed_inputs
from .state import RNNState

if TYPE_CHECKING:
    from typing_extensions import Self


class BiRNNBuilder(Owner):
    """A network that reads the sequence in both directions. h is the concatenation of the forward h
    and the backward h, each of half the size.

    Args:
        num_layers: the number of layers, each fed with the h of the one below.
        input_dim, hidden_dim: sizes of x and of h; hidden_dim must be even.
        model: where the parameters go: subcollection birnn, per layer the forward, then the
            backward builder.
        rnn_builder_factory: makes builders, such as VanillaLSTMBuilder.
        builder_layers: ready pairs (forward, backward) instead.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> network = dy.BiRNNBuilder(1, 2, 6, m, dy.VanillaLSTMBuilder)
    >>> _ = dy.renew_cg()
    >>> [h.dim() for h in network.transduce([dy.inputVector([1, 2])] * 2)]
    [((6,), 1), ((6,), 1)]
    """

    _is_python_in_dynet = True
    """So its objects are made by `__init__`, and those of subclasses loaded as such."""

    def __init__(
        self,
        num_layers: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        rnn_builder_factory: Callable[..., Any],
        builder_layers: Sequence[tuple[Any, Any]] | None = None,
        *,
        precision: str | None = None,
    ) -> None:
        self.num_layers, self.input_dim, self.hidden_dim = self._sizes(
            num_layers, input_dim, hidden_dim
        )
        if not callable(rnn_builder_factory) and builder_layers is None:
            raise TypeError(
                "BiRNNBuilder: rnn_builder_factory must make builders, as a class of builders"
                f" does; got {rnn_builder_factory!r:.60}. Write dy.VanillaLSTMBuilder, without ()."
            )
        if num_layers < 1:
            raise AssertionError(f"BiRNNBuilder: takes at least one layer; got {num_layers}.")
        if hidden_dim % 2:
            raise AssertionError(
                f"BiRNNBuilder: hidden_dim must be even, half for each direction; got {hidden_dim}."
            )
        self.rnn_builder_factory = rnn_builder_factory
        self._begin_collection(model, "birnn", precision)
        self.builder_layers: list[tuple[Any, Any]] = []
        if builder_layers is not None:
            self.builder_layers = list(builder_layers)
            return
        for layer in range(self.num_layers):
            size = self.input_dim if layer == 0 else self.hidden_dim
            forward = rnn_builder_factory(1, size, self.hidden_dim // 2, self._collection)
            self.builder_layers.append(
                (forward, rnn_builder_factory(1, size, self.hidden_dim // 2, self._collection))
            )

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal builder."""
        return self.num_layers, self.input_dim, self.hidden_dim, self.rnn_builder_factory, None

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> BiRNNBuilder:
        """A builder of this spec, with new parameters in `model`."""
        names = "num_layers, input_dim, hidden_dim, rnn_builder_factory"
        num_layers, input_dim, hidden_dim, factory, *rest = items_of_spec(cls, spec, names, 1)
        return cls(num_layers, input_dim, hidden_dim, model, factory, *rest)

    def set_dropout(self, p: float) -> None:
        """Sets the dropout rate of all layers and directions.

        Raises:
            ValueError: a rate outside of [0, 1].

        >>> import dist_dynet as dy
        >>> network = dy.BiRNNBuilder(1, 2, 6, dy.ParameterCollection(), dy.GRUBuilder)
        >>> network.set_dropout(0.5)
        >>> [builder.dropout_h for builder in network.builder_layers[0]]
        [0.5, 0.5]
        """
        for pair in self.builder_layers:
            for builder in pair:
                builder.set_dropout(p)

    def disable_dropout(self) -> None:
        """No dropout.

        >>> import dist_dynet as dy
        >>> network = dy.BiRNNBuilder(1, 2, 6, dy.ParameterCollection(), dy.GRUBuilder)
        >>> network.set_dropout(0.5)
        >>> network.disable_dropout()
        >>> [builder.dropout_h for builder in network.builder_layers[0]]
        [0.0, 0.0]
        """
        for pair in self.builder_layers:
            for builder in pair:
                builder.disable_dropout()

    def train(self, mode: bool = True) -> Self:
        """Switches the dropout of all layers and directions, as ParameterCollection.train()."""
        for builder in (b for pair in self.builder_layers for b in pair):
            builder.train(mode)
        return super().train(mode)

    def _below(self, xs: Inputs) -> Inputs:
        """The inputs of the last layer."""
        for forward, backward in self.builder_layers[:-1]:
            xs = xs.replaced(_both_ways(forward, backward, xs), LIST)
        return xs

    def _joined(self, xs: Inputs) -> tuple[Expression, tuple[RNNState, RNNState]]:
        for forward, backward in self.builder_layers:
            f, b = forward.initial_state(), backward.initial_state()
            (y_ahead, ahead), (y_back, back) = f._joined(xs), b._joined(xs.backwards())
            xs = xs.replaced([concatenate([y_ahead, y_back])])
        return xs.inputs[0], (ahead, back)

    def add_inputs(
        self,
        es: Iterable[Expression] | Expression,
        mask: ArrayLike | None = None,
        lengths: Iterable[int] | None = None,
    ) -> list[tuple[RNNState, RNNState]]:
        """(forward state, backward state) of the last layer at each position. Arguments as of
        RNNState.add_inputs().

        The backward state at a position has read all that follows. If padding follows, it begins at
        the end of the sentence itself.

        >>> import dist_dynet as dy
        >>> network = dy.BiRNNBuilder(1, 2, 6, dy.ParameterCollection(), dy.VanillaLSTMBuilder)
        >>> _ = dy.renew_cg()
        >>> states = network.add_inputs([dy.ones(2)] * 4)
        >>> forward, backward = states[0]
        >>> len(states), forward.output().dim(), backward.output().dim()
        (4, ((3,), 1), ((3,), 1))
        """
        xs = self._below(_inputs(es, mask, lengths, "add_inputs"))
        f, b = (builder.initial_state() for builder in self.builder_layers[-1])
        if xs.plain:
            ahead, back = f.add_inputs(xs.inputs), b.add_inputs(xs.inputs[::-1])[::-1]
        else:
            ahead, back = f._step.states(f, xs), b._step.states(b, xs.backwards())
        return list(zip(ahead, back, strict=True))

    def transduce(
        self,
        es: Iterable[Expression] | Expression,
        mask: ArrayLike | None = None,
        lengths: Iterable[int] | None = None,
    ) -> list[Expression]:
        """The h of the last layer at each position. Arguments as of RNNState.add_inputs().

        >>> import dist_dynet as dy
        >>> network = dy.BiRNNBuilder(2, 2, 6, dy.ParameterCollection(), dy.VanillaLSTMBuilder)
        >>> _ = dy.renew_cg()
        >>> [h.dim() for h in network.transduce(dy.ones((2, 3)))]
        [((6,), 1), ((6,), 1), ((6,), 1)]
        """
        return _both_ways(
            *self.builder_layers[-1], self._below(_inputs(es, mask, lengths, "transduce"))
        )

    def transduce_matrix(
        self, x: Expression, mask: ArrayLike | None = None, lengths: Iterable[int] | None = None
    ) -> tuple[Expression, tuple[RNNState, RNNState]]:
        """The h of the last layer at all positions as one matrix, and (forward state, backward
        state) at the end.

        Shape: (input size, steps) -> (h, steps); batches alike. Arguments as of
        RNNState.add_inputs().

        Raises:
            TypeError: x is not an expression.

        >>> import dist_dynet as dy
        >>> network = dy.BiRNNBuilder(1, 2, 6, dy.ParameterCollection(), dy.VanillaLSTMBuilder)
        >>> _ = dy.renew_cg()
        >>> h, (forward, backward) = network.transduce_matrix(dy.ones((2, 5)))
        >>> h.dim(), forward.output().dim()
        (((6, 5), 1), ((3,), 1))
        """
        return self._joined(matrix_inputs(x, mask, lengths))

    def transduce_packed(
        self, x: Expression, lengths: Iterable[int]
    ) -> tuple[Expression, tuple[RNNState, RNNState]]:
        """The h of the last layer for sequences laid out one after another as a batch of words, and
        (forward state, backward state).

        Shape: (input size,) x (sum of lengths) -> (h,) x (sum of lengths); the states have a batch
        element for each sequence. The fastest way to tag a batch of sentences: nothing is padded,
        and of looked-up words each distinct one is projected once.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> E, network = (
        ...     m.add_lookup_parameters((10, 2)),
        ...     dy.BiRNNBuilder(1, 2, 6, m, dy.VanillaLSTMBuilder),
        ... )
        >>> _ = dy.renew_cg()
        >>> y, (ahead, back) = network.transduce_packed(dy.lookup_batch(E, [1, 2, 3, 1, 2]), [3, 2])
        >>> y.dim(), ahead.output().dim()
        (((6,), 5), ((3,), 2))
        """
        return self._joined(packed_inputs(x, lengths))


def _inputs(
    es: Iterable[Expression] | Expression,
    mask: ArrayLike | None,
    lengths: Iterable[int] | None,
    what: str,
) -> Inputs:
    one_or_none = isinstance(es, Expression) or (isinstance(es, list | tuple) and not es)
    return inputs_of(es if one_or_none else listed(es, what), mask, lengths, what)


def _both_ways(forward: Any, backward: Any, xs: Inputs) -> list[Expression]:
    f, b = forward.initial_state(), backward.initial_state()
    if xs.plain:  # reversing a list costs nothing
        ahead, back = f.transduce(xs.inputs), b.transduce(xs.inputs[::-1])[::-1]
    else:
        ahead, back = f._step.outputs(f, xs), b._step.outputs(b, xs.backwards())
    return concatenate_pairs(ahead, back)


class StackedRNNState:
    """States of several builders stacked on each other: an input goes to the first, its output to
    the second, and so on.

    Args:
        states: from the lowest to the topmost.
        prev: the state before, if any.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> low, high = dy.GRUBuilder(1, 2, 3, m), dy.VanillaLSTMBuilder(1, 3, 4, m)
    >>> _ = dy.renew_cg()
    >>> start = StackedRNNState([low.initial_state(), high.initial_state()])
    >>> state = start.add_input(dy.inputVector([1, 2]))
    >>> state.output().dim(), state.prev() is start
    (((4,), 1), True)
    """

    __slots__ = ("_prev", "states")

    def __init__(self, states: Iterable[RNNState], prev: StackedRNNState | None = None) -> None:
        self.states: list[RNNState] = items_of(states, "StackedRNNState", "a list of states")
        if not self.states:
            raise ValueError("StackedRNNState: takes at least one state; got none.")
        self._prev = prev

    def add_input(self, x: Expression) -> StackedRNNState:
        """The state after one more input.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> low, high = dy.GRUBuilder(1, 2, 3, m), dy.VanillaLSTMBuilder(1, 3, 4, m)
        >>> _ = dy.renew_cg()
        >>> start = StackedRNNState([low.initial_state(), high.initial_state()])
        >>> start.add_input(dy.ones(2)).output().dim()
        ((4,), 1)
        """
        after: list[RNNState] = []
        for state in self.states:
            after.append(state.add_input(x))
            x = after[-1].output()  # type: ignore[assignment]
        return StackedRNNState(after, self)

    def add_inputs(
        self,
        xs: Iterable[Expression] | Expression,
        mask: ArrayLike | None = None,
        lengths: Iterable[int] | None = None,
    ) -> list[StackedRNNState]:
        """The states after each of these inputs. Each network processes the whole sequence before
        the next. Arguments as of RNNState.add_inputs().

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> low, high = dy.GRUBuilder(1, 2, 3, m), dy.VanillaLSTMBuilder(1, 3, 4, m)
        >>> _ = dy.renew_cg()
        >>> start = StackedRNNState([low.initial_state(), high.initial_state()])
        >>> states = start.add_inputs([dy.ones(2)] * 3)
        >>> len(states), states[2].prev() is states[1]
        (3, True)
        """
        layers: list[list[RNNState]] = []
        for state in self.states:
            layers.append(state.add_inputs(xs, mask, lengths))
            xs = [s.output() for s in layers[-1]]  # type: ignore[misc]
        states, last = [], self
        for column in zip(*layers, strict=True):
            last = StackedRNNState(column, last)
            states.append(last)
        return states

    def transduce(
        self,
        xs: Iterable[Expression] | Expression,
        mask: ArrayLike | None = None,
        lengths: Iterable[int] | None = None,
    ) -> list[Expression]:
        """The outputs of the topmost network after each of these inputs. Arguments as of
        RNNState.add_inputs().

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> low, high = dy.GRUBuilder(1, 2, 3, m), dy.VanillaLSTMBuilder(1, 3, 4, m)
        >>> _ = dy.renew_cg()
        >>> start = StackedRNNState([low.initial_state(), high.initial_state()])
        >>> [y.dim() for y in start.transduce([dy.ones(2)] * 2)]
        [((4,), 1), ((4,), 1)]
        """
        for state in self.states:
            xs = state.transduce(xs, mask, lengths)
        return list(xs)

    def output(self) -> Expression | None:
        """The output of the topmost network.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> low, high = dy.GRUBuilder(1, 2, 3, m), dy.VanillaLSTMBuilder(1, 3, 4, m)
        >>> _ = dy.renew_cg()
        >>> start = StackedRNNState([low.initial_state(), high.initial_state()])
        >>> start.output() is None, start.add_input(dy.ones(2)).output().dim()
        (True, ((4,), 1))
        """
        return self.states[-1].output()

    def prev(self) -> StackedRNNState | None:
        """The previous state; None at the start.

        >>> import dist_dynet as dy
        >>> gru = dy.GRUBuilder(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> start = StackedRNNState([gru.initial_state()])
        >>> start.prev() is None, start.add_input(dy.ones(2)).prev() is start
        (True, True)
        """
        return self._prev

    def h(self) -> list[tuple[Expression, ...]]:
        """The h of each state.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> low, high = dy.GRUBuilder(1, 2, 3, m), dy.VanillaLSTMBuilder(1, 3, 4, m)
        >>> _ = dy.renew_cg()
        >>> start = StackedRNNState([low.initial_state(), high.initial_state()])
        >>> state = start.add_input(dy.ones(2))
        >>> [h.dim() for (h,) in state.h()]
        [((3,), 1), ((4,), 1)]
        """
        return [state.h() for state in self.states]

    def s(self) -> list[tuple[Expression, ...]]:
        """The s of each state.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> low, high = dy.GRUBuilder(1, 2, 3, m), dy.VanillaLSTMBuilder(1, 3, 4, m)
        >>> _ = dy.renew_cg()
        >>> start = StackedRNNState([low.initial_state(), high.initial_state()])
        >>> state = start.add_input(dy.ones(2))
        >>> [len(s) for s in state.s()]  # h; c and h
        [1, 2]
        """
        return [state.s() for state in self.states]
