"""Additive attention as a block with parameters. Dot-product attention needs none: it is the operation attention()."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from ..graph import Expression
from ..ops import affine_transform, colwise_add, masked_softmax, reshape, softmax, tanh
from ..ops._nodes import not_expression
from ..params.collection import ParameterCollection
from .state import subcollection


class AdditiveAttention:
    """Attention by a small network (Bahdanau, Cho and Bengio 2015): weights = softmax over j of v tanh(Wq q + Wk k_j + b).

    Parameters, in the subcollection additive-attention: Wq (hidden, query), Wk (hidden, key), b (hidden), v (1, hidden).

    Args:
        query_dim, key_dim: sizes of the query and of a key.
        hidden_dim: the size of the network's layer.
        model: where the parameters go.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> attention = dy.AdditiveAttention(3, 2, 4, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> keys = dy.inputTensor([[1, 1, 1], [2, 2, 2]])  # three keys
    >>> attention.attend(dy.zeros(3), keys).npvalue().round(4).tolist()
    [1.0, 2.0]
    """

    def __init__(self, query_dim: int, key_dim: int, hidden_dim: int, model: ParameterCollection) -> None:
        sizes = self.query_dim, self.key_dim, self.hidden_dim = int(query_dim), int(key_dim), int(hidden_dim)
        if min(sizes) < 1:
            raise ValueError(f"AdditiveAttention: sizes must be positive; got query_dim, key_dim, hidden_dim = {sizes}.")
        self._collection = subcollection(model, "additive-attention")
        add = self._collection.add_parameters
        self._Wq, self._Wk = add((self.hidden_dim, self.query_dim)), add((self.hidden_dim, self.key_dim))
        self._b, self._v = add(self.hidden_dim, init=0), add((1, self.hidden_dim))

    def whoami(self) -> str:
        """The name of the class."""
        return type(self).__name__

    def param_collection(self) -> ParameterCollection:
        """The subcollection of its parameters."""
        return self._collection

    @property
    def spec(self) -> tuple[int, ...]:
        """What from_spec() makes an equal block of."""
        return self.query_dim, self.key_dim, self.hidden_dim

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> AdditiveAttention:
        """A block of this spec, with new parameters in `model`."""
        query_dim, key_dim, hidden_dim = spec
        return cls(query_dim, key_dim, hidden_dim, model)

    def project(self, keys: Expression) -> Expression:
        """The matrix Wk keys, to be computed once where many queries look at the same keys."""
        if not isinstance(keys, Expression):
            raise not_expression("project", keys)
        return self._Wk * keys

    def weights(
        self, query: Expression, keys: Expression, mask: Expression | ArrayLike | None = None, projected: Expression | None = None
    ) -> Expression:
        """A weight for each key; they sum to 1.

        Args:
            query: a vector (query,).
            keys: a matrix (key, n): n keys; a vector is one.
            mask: (n,), an array's second axis being the batch: 0 for keys that do not count, such as padding. Where it leaves none, all
                weights are 0.
            projected: project(keys), if it is there already.
        """
        if not isinstance(query, Expression):
            raise not_expression("weights", query)
        hidden = tanh(colwise_add(self.project(keys) if projected is None else projected, affine_transform([self._b, self._Wq, query])))
        scores = self._v * hidden
        (_, *n), batch = scores.dim()
        scores = reshape(scores, tuple(n) or (1,), batch)
        return softmax(scores) if mask is None else masked_softmax(scores, mask)

    def attend(
        self,
        query: Expression,
        keys: Expression,
        values: Expression | None = None,
        mask: Expression | ArrayLike | None = None,
        projected: Expression | None = None,
    ) -> Expression:
        """The sum of the columns of values (of keys, if there are none), weighted by weights()."""
        return (keys if values is None else values) * self.weights(query, keys, mask, projected)
