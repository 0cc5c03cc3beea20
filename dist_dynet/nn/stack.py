"""The stack LSTM (Dyer et al. 2015): a recurrent network that follows a stack, for parsers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from ..expression import Expression
from ..ops._nodes import not_expression
from ..params.collection import ParameterCollection
from ..params.parameters import Parameters
from .block import Block, used
from .builder import RecurrentBuilder
from .rnn import VanillaLSTMBuilder
from .state import RNNState


class Stack:
    """A stack of items, and the state of a network that has read them from the bottom up. Never
    changed: push() and pop() return other stacks.

    All operations take constant time. Stacks share common parts, so keeping one, as beam search
    does, costs nothing.

    >>> import dist_dynet as dy
    >>> stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> one = stacks.empty().push(dy.inputVector([1, 2]), "one")
    >>> two = one.push(dy.inputVector([3, 4]), "two")
    >>> list(two), two.pop() is one, two.summary().dim()
    (['two', 'one'], True, ((3,), 1))
    """

    __slots__ = ("_below", "_item", "_size", "_state")

    def __init__(
        self, below: Stack | None = None, item: Any = None, state: RNNState | None = None
    ) -> None:
        if not isinstance(state, RNNState) or not isinstance(below, Stack | None):
            raise TypeError(
                "Stack: cannot be made directly. Get the empty one from StackLSTM.empty(), others"
                " by push()."
            )
        self._below, self._item, self._state = below, item, state
        self._size: int = 0 if below is None else below._size + 1

    def push(self, x: Expression, item: Any = None) -> Stack:
        """The stack with one more item on top, of which the network reads x.

        Args:
            x: the input (input_dim,).
            item: what top() returns; None: x.

        Raises:
            TypeError: x is not an expression.

        >>> import dist_dynet as dy
        >>> stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> stack = stacks.empty().push(dy.ones(2), "a").push(dy.zeros(2), "b")
        >>> list(stack)
        ['b', 'a']
        """
        if not isinstance(x, Expression):
            raise not_expression("push", x)
        return Stack(self, x if item is None else item, self._state.add_input(x))

    def pop(self) -> Stack:
        """The stack without the item on top.

        Raises:
            IndexError: the stack is empty.

        >>> import dist_dynet as dy
        >>> stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> stack = stacks.empty().push(dy.ones(2), "a").push(dy.zeros(2), "b")
        >>> list(stack.pop()), list(stack)
        (['a'], ['b', 'a'])
        """
        if self._below is None:
            raise IndexError("pop: the stack is empty. Look at len() first.")
        return self._below

    def top(self) -> Any:
        """The item on top.

        Raises:
            IndexError: the stack is empty.

        >>> import dist_dynet as dy
        >>> stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> stacks.empty().push(dy.ones(2), "a").push(dy.zeros(2), "b").top()
        'b'
        """
        if self._below is None:
            raise IndexError("top: the stack is empty. Look at len() first.")
        return self._item

    def summary(self) -> Expression:
        """The network's output after reading the items from the bottom up; of the empty stack,
        after `empty` alone.

        >>> import dist_dynet as dy
        >>> stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> stack = stacks.empty()
        >>> longer = stack.push(dy.ones(2))
        >>> longer.summary().dim(), longer.pop().summary().value() == stack.summary().value()
        (((3,), 1), True)
        """
        output: Any = self._state.output()
        return output  # type: ignore[no-any-return]

    def state(self) -> RNNState:
        """The network's state after the items.

        >>> import dist_dynet as dy
        >>> stacks = dy.StackLSTM(2, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> [h.dim() for h in stacks.empty().push(dy.ones(2)).state().h()]
        [((3,), 1), ((3,), 1)]
        """
        return self._state

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        """The items from the top down."""
        stack = self
        while stack._below is not None:
            yield stack._item
            stack = stack._below


class StackLSTM(Block):
    """Makes stacks that a recurrent network follows: summary = output(empty, x_1, ..., x_n) for the
    items 1 to n, the last one on top.

    Parameters, in the subcollection stack-lstm: `empty` (input_dim), the first input of every
    stack, then those of the network.

    Args:
        layers, input_dim, hidden_dim: sizes of the network.
        model: where the parameters go.
        rnn_builder_factory: the class of the network's builder; any of the recurrent builders.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> stack = stacks.empty()
    >>> longer = stack.push(dy.inputVector([1, 2]))
    >>> len(longer), longer.top().value(), len(stack)
    (1, [1.0, 2.0], 0)
    """

    _subcollection: ClassVar[str] = "stack-lstm"
    _arguments: ClassVar[tuple[str, ...]] = (
        "layers",
        "input_dim",
        "hidden_dim",
        "rnn_builder_factory",
    )
    _before_model: ClassVar[int] = 3

    def __init__(
        self,
        layers: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        rnn_builder_factory: type[RecurrentBuilder] = VanillaLSTMBuilder,
        *,
        precision: str | None = None,
    ) -> None:
        if not (
            isinstance(rnn_builder_factory, type)
            and issubclass(rnn_builder_factory, RecurrentBuilder)
        ):
            raise TypeError(
                "StackLSTM: rnn_builder_factory must be the class of a recurrent builder; got"
                f" {rnn_builder_factory!r:.100}."
            )
        self.layers, self.input_dim, self.hidden_dim = self._sizes(layers, input_dim, hidden_dim)
        self.rnn_builder_factory = rnn_builder_factory
        self._begin(
            model,
            precision,
            layers=self.layers,
            input_dim=self.input_dim,
            hidden_dim=self.hidden_dim,
        )
        self._empty = self._dense("empty", self.input_dim)
        self.builder = rnn_builder_factory(
            self.layers, self.input_dim, self.hidden_dim, self._collection
        )

    def get_parameters(self) -> list[Parameters]:
        """[empty]; those of the network are builder.get_parameters().

        >>> import dist_dynet as dy
        >>> stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
        >>> [p.shape() for p in stacks.get_parameters()]
        [(2,)]
        """
        return [self._empty]

    def set_dropout(self, d: float) -> None:
        """The network's dropout rate. A stack has masks of its own, drawn when it is begun.

        Raises:
            ValueError: a rate outside of [0, 1].
        """
        self.builder.set_dropout(d)

    def disable_dropout(self) -> None:
        """No dropout."""
        self.builder.disable_dropout()

    def empty(self, update: bool = True) -> Stack:
        """The empty stack in the current graph; with update=False the parameters get no
        gradient.

        >>> import dist_dynet as dy
        >>> stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> len(stacks.empty()), stacks.empty().summary().dim()
        (0, ((3,), 1))
        """
        return Stack(
            None,
            None,
            self.builder.initial_state(update=update).add_input(used(self._empty, update)),
        )
