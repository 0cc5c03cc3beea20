"""TreeLSTMs (Tai, Socher and Manning 2015): a node's state is computed from its input and the
states of its children. A cell is one node of the graph."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, ClassVar

from .._ffi import OPS, accelerated, fail
from .._integers import real
from ..expression import Expression, expression
from ..ops import zeros
from ..ops._nodes import node_with_views, not_expression
from ..params.collection import ParameterCollection
from .block import Block

_CELL = OPS["tree_lstm"]


@accelerated
def tree_node(weights: bytes, n_ary: bool, x: int, *children: int) -> int:
    """The handle of a cell's h, or a negative error. Takes handles: the six weights as bytes, x (0
    for none), and the h of the children."""
    handles = [
        *memoryview(weights).cast("q"),
        *((x,) if x else ()),
        *children,
        *(h + 1 for h in children),
    ]
    return node_with_views(_CELL, 2, handles, (len(children), x != 0, n_ary))


class TreeState:
    """The state of a tree node: h and c. Made by a builder's node(); never changed.

    >>> import dist_dynet as dy
    >>> tree = dy.ChildSumTreeLSTMBuilder(2, 3, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> leaf = tree.node(dy.inputVector([1, 2]))
    >>> leaf.output().dim(), len(leaf.s())
    (((3,), 1), 2)
    """

    __slots__ = ("_hidden",)

    # the handle of h; the next handle is that of c. Expressions are made on demand
    _hidden: int

    def output(self) -> Expression:
        """The h of the node."""
        return expression(self._hidden)

    def s(self) -> tuple[Expression, Expression]:
        """The whole state: c, then h."""
        return expression(self._hidden + 1), expression(self._hidden)


class _TreeBuilder(Block):
    """The base of the builders: parameters, and the node of a cell."""

    _arguments: ClassVar[tuple[str, ...]] = ("input_dim", "hidden_dim", "forget_bias")
    _before_model: ClassVar[int] = 2
    _n_ary: ClassVar[bool]

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        forget_bias: float = 1.0,
        *,
        precision: str | None = None,
    ) -> None:
        self._build(1, input_dim, hidden_dim, model, forget_bias, precision)

    def node(
        self, x: Expression | None = None, children: Iterable[TreeState | None] = ()
    ) -> TreeState:
        """The state of a node.

        Args:
            x: the input; None: there is none.
            children: states of the children; none: a leaf. A builder with places for them takes a
                state for each place, None for one that is missing.

        Raises:
            ValueError: neither input nor children, or not as many children as places.

        >>> import dist_dynet as dy
        >>> tree = dy.NaryTreeLSTMBuilder(2, 2, 3, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> leaf = tree.node(dy.ones(2))
        >>> tree.node(children=[leaf, leaf]).output().dim()
        ((3,), 1)
        """
        try:
            n = len(children)  # type: ignore[arg-type]  # without a length: the general case
            if n == 0:
                h = tree_node(self._weights, self._n_ary, x._h)  # type: ignore[union-attr]
            elif n == self._quick:
                a, b = children
                h_a, h_b = a._hidden, b._hidden  # type: ignore[union-attr]
                h = tree_node(self._weights, self._n_ary, 0 if x is None else x._h, h_a, h_b)
            else:
                return self._any_node(x, children)
        except (AttributeError, TypeError):
            return self._any_node(x, children)
        if h < 0:
            return self._any_node(x, children)
        state = TreeState()
        state._hidden = h
        return state

    def _any_node(self, x: Expression | None, children: Iterable[TreeState | None]) -> TreeState:
        """The state of a node with any number of children; raises if they are not valid."""
        raise NotImplementedError

    def _build(
        self,
        arity: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        forget_bias: float,
        precision: str | None,
    ) -> None:
        """arity: the number of children that U and Uf take at once."""
        self.input_dim, self.hidden_dim = self._sizes(input_dim, hidden_dim)
        self.forget_bias = real(forget_bias, f"{self.whoami()}: forget_bias")
        self._begin(model, precision, input_dim=self.input_dim, hidden_dim=self.hidden_dim)
        add, n, k = self._dense, self.hidden_dim, self.input_dim
        gates = add("W", (3 * n, k)), add("U", (3 * n, arity * n)), add("b", 3 * n, 0)
        self._parameters = (
            *gates,
            add("Wf", (n, k)),
            add("Uf", (arity * n, arity * n)),
            add("bf", n, self.forget_bias),
        )
        self._weights: Any = None
        """The handles of the parameters as bytes; None until they are needed, as in a copy."""
        self._quick = 2 if arity == 2 or not self._n_ary else -1
        """The number of children with a fast path."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_weights": None}

    def _state(self, x: Expression | None, children: list[Any]) -> TreeState:
        self._weights = self._weights or array("q", [p._h for p in self._parameters]).tobytes()
        try:
            if x is None and not children:
                raise ValueError("node: takes an input or children; got neither.")
            handles = [0 if x is None else x._h, *(child._hidden for child in children)]
        except AttributeError:
            if x is not None and not hasattr(x, "_h"):  # one made by hand has none
                raise not_expression("node", x) from None
            _check(children)
            raise
        h = tree_node(self._weights, self._n_ary, *handles)
        if h < 0:
            fail(h, *handles[not x :])
        state = TreeState()
        state._hidden = h
        return state


def _listed(children: Iterable[TreeState | None]) -> list[Any]:
    try:
        return list(children)
    except TypeError:
        raise TypeError(
            "node: children must be a list of states made by node(); got"
            f" {type(children).__name__}."
        ) from None


def _check(children: list[Any]) -> None:
    for child in children:
        if not isinstance(child, TreeState):
            raise TypeError(
                f"node: children must be states made by node(); got {type(child).__name__}."
            )


class ChildSumTreeLSTMBuilder(_TreeBuilder):
    """The TreeLSTM for any number of children without order, as in dependency trees.

    With s the sum of the children's h: i, o = logistic(W x + U s + b), u = tanh(W x + U s + b), f_k
    = logistic(Wf x + Uf h_k + bf) for each child; c = i u + sum f_k c_k, h = o tanh c.
    Parameters, in the subcollection child-sum-tree-lstm-builder: W (3h, input), U (3h, h), b (3h)
    in the order i, o, u; Wf (h, input), Uf (h, h), bf (h), which starts at forget_bias.

    Args:
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.
        forget_bias: where bf starts.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> tree = dy.ChildSumTreeLSTMBuilder(2, 3, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> the, old, man = [tree.node(dy.inputVector(x)) for x in ([1, 0], [0, 1], [1, 1])]
    >>> tree.node(dy.inputVector([2, 0]), [the, old, man]).output().dim()
    ((3,), 1)
    """

    _subcollection: ClassVar[str] = "child-sum-tree-lstm-builder"
    _n_ary: ClassVar[bool] = False

    def _any_node(self, x: Expression | None, children: Iterable[TreeState | None]) -> TreeState:
        return self._state(x, [child for child in _listed(children) if child is not None])


class NaryTreeLSTMBuilder(_TreeBuilder):
    """The TreeLSTM for at most n children, each with a place of its own.

    With s = (h_1, ..., h_n), 0 for a child that is missing: i, o = logistic(W x + U s + b), u =
    tanh(W x + U s + b), f_k = logistic(Wf x + (Uf s)_k + bf); c = i u + sum f_k c_k, h = o tanh c.
    Parameters, in the subcollection nary-tree-lstm-builder: W (3h, input), U (3h, n h), b (3h) in
    the order i, o, u; Wf (h, input), Uf (n h, n h), the rows of f_1 first, bf (h), which starts at
    forget_bias.

    Args:
        arity: n.
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.
        forget_bias: where bf starts.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> tree = dy.NaryTreeLSTMBuilder(3, 2, 4, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> left, right = tree.node(dy.inputVector([1, 0])), tree.node(dy.inputVector([0, 1]))
    >>> tree.node(children=[left, None, right]).output().dim()
    ((4,), 1)
    """

    _subcollection: ClassVar[str] = "nary-tree-lstm-builder"
    _arguments: ClassVar[tuple[str, ...]] = ("arity", "input_dim", "hidden_dim", "forget_bias")
    _before_model: ClassVar[int] = 3
    _n_ary: ClassVar[bool] = True

    def __init__(
        self,
        arity: int,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        forget_bias: float = 1.0,
        *,
        precision: str | None = None,
    ) -> None:
        (self.arity,) = self._sizes(arity)
        if self.arity < 1:
            raise ValueError(f"{self.whoami()}: sizes must be positive; got arity={arity}.")
        self._build(self.arity, input_dim, hidden_dim, model, forget_bias, precision)

    def _any_node(self, x: Expression | None, children: Iterable[TreeState | None]) -> TreeState:
        given = _listed(children)
        present = [child for child in given if child is not None]
        if present and len(given) != self.arity:
            _check(present)
            raise ValueError(
                f"node: takes no children or {self.arity}, None for a missing one; got"
                f" {len(given)}."
            )
        if len(present) in (0, self.arity):
            return self._state(x, present)
        _check(present)
        missing = TreeState()
        # h, c: consecutive handles; the same for each batch element
        missing._hidden, _ = [zeros(self.hidden_dim)._h for _ in range(2)]
        return self._state(x, [missing if child is None else child for child in given])


class BinaryTreeLSTMBuilder(NaryTreeLSTMBuilder):
    """The TreeLSTM for a left and a right child, as in constituency trees in Chomsky normal form:
    NaryTreeLSTMBuilder with n = 2.

    Parameters, in the subcollection binary-tree-lstm-builder: those of NaryTreeLSTMBuilder.

    Arguments and errors are those of NaryTreeLSTMBuilder without arity.

    >>> import dist_dynet as dy
    >>> tree = dy.BinaryTreeLSTMBuilder(2, 3, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> left, right = tree.node(dy.inputVector([1, 0])), tree.node(dy.inputVector([0, 1]))
    >>> tree.node(children=[left, right]).output().dim()
    ((3,), 1)
    """

    _subcollection: ClassVar[str] = "binary-tree-lstm-builder"
    _arguments: ClassVar[tuple[str, ...]] = ("input_dim", "hidden_dim", "forget_bias")
    _before_model: ClassVar[int] = 2

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        forget_bias: float = 1.0,
        *,
        precision: str | None = None,
    ) -> None:
        super().__init__(2, input_dim, hidden_dim, model, forget_bias, precision=precision)
