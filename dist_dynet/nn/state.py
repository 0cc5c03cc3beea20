"""The state of a recurrent network.

A state is what a network has after an input. States share common parts, so branching from an
earlier one costs nothing. How a step is computed is left to steps.py, whose methods this module
only calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import ArrayLike

from .._ffi import accelerated, lib
from ..expression import Expression
from ..ops import cmult
from ..ops._nodes import listed, not_expression
from .sequences import Inputs, inputs_of, matrix_inputs, packed_inputs

Vectors = tuple[Expression, ...]


def is_gone(e: Expression) -> bool:
    """Whether cg_revert() has removed the node of an expression that a state keeps."""
    return bool(lib.dn_node_index(e._h) < 0)


@accelerated
class State:
    """The content of a state, and a step from it. csrc/python/states.c has a faster equivalent.

    Unless it is given, an LSTM's c is another output of the node of h: for h number t of a list of
    n it is output number n + t, made on demand; without a list it follows h.
    """

    __slots__ = ("_given_c", "_h", "_masks", "_n", "_output", "_prev", "_step", "_t")
    _masks: list[Any]

    def __init__(
        self,
        step: Any = None,
        masks: Any = None,
        prev: RNNState | None = None,
        h: Vectors | None = None,
        c: Vectors | None = None,
        output: Expression | None = None,
        t: int = 0,
        n: int = 0,
        /,
    ) -> None:
        if not isinstance(masks, list):
            raise TypeError(
                f"{type(self).__name__}: cannot be made directly. Use initial_state() of a builder,"
                " or add_input() of a state."
            )
        self._step, self._masks, self._prev, self._h = step, masks, prev, h
        self._given_c, self._output, self._t, self._n = c, output, t, n

    @property
    def _c(self) -> Vectors | None:
        made = self._given_c is not None and not (self._n and is_gone(self._given_c[0]))
        if not made and self._h and self._step.has_cells:
            self._given_c = self._step.cells(self)
        return self._given_c

    def _over_list(self, xs: Any, states: bool) -> Any:
        """The outputs or states after each of a list of inputs; None if not handled here."""

    def add_input(self, x: Expression) -> RNNState:
        """The state after one more input."""
        return self._step.after(self, x)  # type: ignore[no-any-return]

    def output(self) -> Expression | None:
        """The h of the top layer; None at a start without given vectors.

        Of a GRU with dropout: after dropout.
        """
        return self._output or (self._h[-1] if self._h else None)


class RNNState(State):
    """The state of a network after some inputs; never changed.

    Made by a builder's initial_state() and by the methods here.

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

    def _same(self, memo: Any = None) -> Any:
        return self

    __copy__: Any = _same  # a beam-search hypothesis may be copied together with its state
    __deepcopy__: Any = _same

    def __reduce__(self) -> Any:
        raise TypeError("RNNState: a state belongs to a graph and cannot be pickled.")

    def add_inputs(
        self,
        xs: Iterable[Expression] | Expression,
        mask: ArrayLike | None = None,
        lengths: Iterable[int] | None = None,
    ) -> list[RNNState]:
        """The states after each of these inputs, computed as one node per layer.

        Args:
            xs: a list of inputs; or one matrix (input size, steps), whose columns are the inputs.
            mask: (steps, batch size) of ones and zeros: where it is 0, a batch element is padding.
            lengths: the number of inputs that each batch element has; what follows is padding.

        At padding the state does not change: x is not read, and contributes no gradient.

        Raises:
            ValueError: a mask or lengths that do not fit, or both.

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> states = lstm.initial_state().add_inputs([dy.ones(2)] * 4)
        >>> len(states), states[3].output().dim(), states[3].prev() is states[2]
        (4, ((3,), 1), True)
        """
        made: list[RNNState] | None = self._over_list(xs, True) if mask is None is lengths else None
        if made is None:
            made = self._step.states(self, inputs_of(xs, mask, lengths, "add_inputs"))
        return made

    def transduce(
        self,
        xs: Iterable[Expression] | Expression,
        mask: ArrayLike | None = None,
        lengths: Iterable[int] | None = None,
    ) -> list[Expression]:
        """The outputs after each of these inputs. Arguments as of add_inputs().

        At padding it is the output of the unchanged state.

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
        made: list[Expression] | None
        made = self._over_list(xs, False) if mask is None is lengths else None
        if made is None:
            made = self._step.outputs(self, inputs_of(xs, mask, lengths, "transduce"))
        return made

    def transduce_matrix(
        self, x: Expression, mask: ArrayLike | None = None, lengths: Iterable[int] | None = None
    ) -> tuple[Expression, RNNState]:
        """The outputs at all positions as one matrix, and the state at the end.

        Shape: (input size, steps) -> (h, steps); batches alike. Arguments as of add_inputs().
        Nothing is split or concatenated: an affine_transform() of the result is one product for all
        positions.

        Raises:
            TypeError: x is not an expression.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> gru = dy.GRUBuilder(1, 2, 3, m)
        >>> _ = dy.renew_cg()
        >>> x = dy.inputTensor([[1, 2, 3, 4], [5, 6, 7, 8]])
        >>> y, state = gru.initial_state().transduce_matrix(x)
        >>> y.dim(), state.output().dim()
        (((3, 4), 1), ((3,), 1))
        """
        return self._joined(matrix_inputs(x, mask, lengths))

    def transduce_packed(
        self, x: Expression, lengths: Iterable[int]
    ) -> tuple[Expression, RNNState]:
        """The outputs for sequences of different lengths, and the states at their ends.

        The sequences are laid out one after another as a batch of words; nothing is padded. Shape:
        (input size,) x (sum of lengths) -> (h,) x (sum of lengths); the state has a batch element
        for each sequence.

        Shape: (input size,) x (sum of lengths) -> (h,) x (sum of lengths); the state has a batch
        element for each sequence.

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
        return self._joined(packed_inputs(x, lengths))

    def _joined(self, xs: Inputs) -> tuple[Expression, RNNState]:
        return self._step.joined(self, xs)  # type: ignore[no-any-return]

    def h(self) -> Vectors:
        """The h of each layer; empty at a start without given vectors.

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(2, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> start = lstm.initial_state()
        >>> start.h(), [h.dim() for h in start.add_input(dy.ones(2)).h()]
        ((), [((3,), 1), ((3,), 1)])
        """
        return self._h or ()

    def s(self) -> Vectors:
        """The whole state: of an LSTM c of each layer, then h of each layer; of others h.

        Empty at a start without given vectors.

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(2, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> state = lstm.initial_state().add_input(dy.ones(2))
        >>> len(state.s()), state.s()[3] is state.output()
        (4, True)
        """
        return (self._c or ()) + (self._h or ())

    def prev(self) -> RNNState | None:
        """The previous state; None at the start.

        >>> import dist_dynet as dy
        >>> gru = dy.GRUBuilder(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> start = gru.initial_state()
        >>> start.prev() is None, start.add_input(dy.ones(2)).prev() is start
        (True, True)
        """
        return self._prev

    def b(self) -> Any:
        """The builder.

        >>> import dist_dynet as dy
        >>> gru = dy.GRUBuilder(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> gru.initial_state().b() is gru
        True
        """
        return self._step.builder

    def set_h(self, es: Sequence[Expression] | None = None) -> RNNState:
        """A state with these h (one per layer) and the same c.

        Raises:
            ValueError: a wrong number of vectors.

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> state = lstm.initial_state().add_input(dy.ones(2))
        >>> changed = state.set_h([dy.inputVector([1, 2, 3])])
        >>> changed.output().value(), changed.s()[0].value() == state.s()[0].value()
        ([1.0, 2.0, 3.0], True)
        """
        h = expressions(es or [], "set_h", self._step.builder.layers)
        return self._step.with_vectors(self, h, None)  # type: ignore[no-any-return]

    def set_s(self, es: Sequence[Expression] | None = None) -> RNNState:
        """A state with these vectors.

        Of an LSTM c of each layer, then h of each layer (with c alone, h is kept); of others h.

        Raises:
            ValueError: a wrong number of vectors.

        >>> import dist_dynet as dy
        >>> gru = dy.GRUBuilder(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> state = gru.initial_state().add_input(dy.ones(2))
        >>> state.set_s([dy.inputVector([1, 2, 3])]).output().value()
        [1.0, 2.0, 3.0]
        """
        h, c = vectors(self._step.builder, es or [], "set_s")
        return self._step.with_vectors(self, h, c)  # type: ignore[no-any-return]


def expressions(es: Iterable[Expression], what: str, *allowed: int) -> Vectors:
    """A tuple of them.

    Raises:
        TypeError: anything else.
        ValueError: a number of vectors that is not allowed.
    """
    given = tuple(es) if type(es) is list or type(es) is tuple else tuple(listed(es, what))
    for e in given:
        if not isinstance(e, Expression):
            raise not_expression(what, *listed(given, what))
    check_number(len(given), what, *allowed)
    return given


def check_number(given: int, what: str, *allowed: int) -> None:
    """Makes sure that so many vectors are allowed.

    Raises:
        ValueError: they are not.
    """
    if given not in allowed:
        numbers = " or ".join(map(str, allowed))
        raise ValueError(f"{what}: takes {numbers} expressions for these layers; got {given}.")


def numbers_of_vectors(builder: Any) -> tuple[int, ...]:
    """How many vectors a state of this builder may have."""
    n = builder.layers
    return (n, 2 * n) if builder._has_cells else (n,)


def vectors(builder: Any, es: Iterable[Expression], what: str) -> tuple[Vectors, Vectors | None]:
    """h, which may be empty if there is a c, and c."""
    given, n = expressions(es, what, *numbers_of_vectors(builder)), builder.layers
    return (given[n:], given[:n]) if builder._has_cells else (given, None)


def masked(x: Expression, mask: Expression | None) -> Expression:
    """The product of x and mask; x without a mask."""
    return x if mask is None else cmult(x, mask)
