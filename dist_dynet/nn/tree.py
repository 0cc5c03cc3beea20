"""TreeLSTMs (Tai, Socher and Manning 2015): a node's state from its input and the states of its children."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ..graph import Expression
from ..ops import affine_transform, cmult, concatenate, esum, logistic, tanh, zeros
from ..ops._nodes import not_expression
from ..params.collection import ParameterCollection, Parameters
from .state import subcollection


class TreeState:
    """The state of a tree's node: h and c. Made by a builder's node(); never changed.

    >>> import dist_dynet as dy
    >>> tree = dy.ChildSumTreeLSTMBuilder(2, 3, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> leaf = tree.node(dy.inputVector([1, 2]))
    >>> leaf.output().dim(), len(leaf.s())
    (((3,), 1), 2)
    """

    __slots__ = ("_c", "_h")

    def __init__(self, h: Expression, c: Expression) -> None:
        self._h, self._c = h, c

    def output(self) -> Expression:
        """The h of the node."""
        return self._h

    def s(self) -> tuple[Expression, Expression]:
        """All of the state: c, then h."""
        return self._c, self._h


class _TreeBuilder:
    """What both builders share: parameters, saving, and the cell once its sums are known."""

    _subcollection: ClassVar[str]
    _gates: list[Parameters]
    _forget: list[Parameters]

    def __init__(self, input_dim: int, hidden_dim: int, model: ParameterCollection, forget_bias: float = 1.0) -> None:
        self.input_dim, self.hidden_dim, self.forget_bias = int(input_dim), int(hidden_dim), float(forget_bias)
        if self.input_dim < 1 or self.hidden_dim < 1:
            raise ValueError(f"{self.whoami()}: sizes must be positive; got input_dim={input_dim}, hidden_dim={hidden_dim}.")
        self._collection = subcollection(model, self._subcollection)
        self._add()

    def _add(self) -> None:
        raise NotImplementedError

    def whoami(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def param_collection(self) -> ParameterCollection:
        """The subcollection of its parameters."""
        return self._collection

    @property
    def spec(self) -> tuple[Any, ...]:
        """What from_spec() makes an equal builder of."""
        return self.input_dim, self.hidden_dim, self.forget_bias

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> Any:
        """A builder of this spec, with new parameters in `model`."""
        input_dim, hidden_dim, forget_bias = spec
        return cls(input_dim, hidden_dim, model, forget_bias)

    def get_parameters(self) -> list[Parameters]:
        """The parameters, in the order that the class describes."""
        return [*self._gates, *self._forget]

    def _sum(self, b: Parameters, W: Parameters, x: Expression | None, *more: Expression) -> Expression:
        terms = [b, *more] if x is None else [b, W, x, *more]
        return affine_transform(terms) if len(terms) > 1 else b

    def _state(self, gates: Expression, kept: list[Expression]) -> TreeState:
        """The state from the sums of i, o and u, and f c of each child."""
        n = self.hidden_dim
        i, o = logistic(gates[:n]), logistic(gates[n : 2 * n])
        c = esum([cmult(i, tanh(gates[2 * n :])), *kept])
        return TreeState(cmult(o, tanh(c)), c)


def _check(x: Expression | None, children: Sequence[TreeState | None]) -> None:
    if x is not None and not isinstance(x, Expression):
        raise not_expression("node", x)
    for child in children:
        if child is not None and not isinstance(child, TreeState):
            raise TypeError(f"node: children must be states made by node(); got {type(child).__name__}.")
    if x is None and not any(children):
        raise ValueError("node: takes an input or children; got neither.")


class ChildSumTreeLSTMBuilder(_TreeBuilder):
    """The TreeLSTM for any number of children without order, as in dependency trees.

    With s the sum of the children's h: i, o = logistic(W x + U s + b), u = tanh(W x + U s + b), f_k = logistic(Wf x + Uf h_k + bf) for each
    child; c = i u + sum f_k c_k, h = o tanh c.
    Parameters, in the subcollection child-sum-tree-lstm-builder: W (3h, input), U (3h, h), b (3h) in the order i, o, u; Wf (h, input),
    Uf (h, h), bf (h), which starts at forget_bias.

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

    def _add(self) -> None:
        add, n, m = self._collection.add_parameters, self.hidden_dim, self.input_dim
        self._gates = [add((3 * n, m)), add((3 * n, n)), add(3 * n, init=0)]
        self._forget = [add((n, m)), add((n, n)), add(n, init=self.forget_bias)]

    def node(self, x: Expression | None = None, children: Sequence[TreeState] = ()) -> TreeState:
        """The state of a node.

        Args:
            x: the input; None: there is none.
            children: states of the children; none: a leaf.

        Raises:
            ValueError: neither input nor children.
        """
        _check(x, children)
        W, U, b = self._gates
        if not children:
            return self._state(self._sum(b, W, x), [])
        Wf, Uf, bf = self._forget
        gates = self._sum(b, W, x, U, esum([child._h for child in children]))
        return self._state(gates, [cmult(logistic(self._sum(bf, Wf, x, Uf, child._h)), child._c) for child in children])


class BinaryTreeLSTMBuilder(_TreeBuilder):
    """The TreeLSTM for a left and a right child, as in constituency trees in Chomsky normal form.

    With s = (h_l, h_r): i, o = logistic(W x + U s + b), u = tanh(W x + U s + b), f_l = logistic(Wf x + Ul s + bf), f_r likewise with Ur;
    c = i u + f_l c_l + f_r c_r, h = o tanh c.
    Parameters, in the subcollection binary-tree-lstm-builder: W (3h, input), U (3h, 2h), b (3h) in the order i, o, u; Wf (h, input),
    Ul (h, 2h), Ur (h, 2h), bf (h), which starts at forget_bias.

    Args:
        input_dim, hidden_dim: sizes of x and h.
        model: where the parameters go.
        forget_bias: where bf starts.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> tree = dy.BinaryTreeLSTMBuilder(2, 3, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> left, right = tree.node(dy.inputVector([1, 0])), tree.node(dy.inputVector([0, 1]))
    >>> tree.node(children=[left, right]).output().dim()
    ((3,), 1)
    """

    _subcollection: ClassVar[str] = "binary-tree-lstm-builder"

    def _add(self) -> None:
        add, n, m = self._collection.add_parameters, self.hidden_dim, self.input_dim
        self._gates = [add((3 * n, m)), add((3 * n, 2 * n)), add(3 * n, init=0)]
        self._forget = [add((n, m)), add((n, 2 * n)), add((n, 2 * n)), add(n, init=self.forget_bias)]

    def node(self, x: Expression | None = None, children: Sequence[TreeState | None] = ()) -> TreeState:
        """The state of a node.

        Args:
            x: the input; None: there is none, as in inner nodes.
            children: nothing: a leaf; or left and right, None for one that is missing.

        Raises:
            ValueError: neither input nor children, or not two children.
        """
        _check(x, children)
        W, U, b = self._gates
        if not any(children):
            return self._state(self._sum(b, W, x), [])
        if len(children) != 2:
            raise ValueError(f"node: takes no children or two, None for a missing one; got {len(children)}.")
        batch = next(child for child in children if child is not None)._h.dim()[1]
        s = concatenate([zeros(self.hidden_dim, batch_size=batch) if child is None else child._h for child in children])
        Wf, Ul, Ur, bf = self._forget
        kept = [
            cmult(logistic(self._sum(bf, Wf, x, Uk, s)), child._c) for Uk, child in zip((Ul, Ur), children, strict=True) if child is not None
        ]
        return self._state(self._sum(b, W, x, U, s), kept)
