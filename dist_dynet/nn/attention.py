"""Attention blocks with parameters: additive, dot-product, and multi-head. The operation without
parameters is attention()."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .._integers import numbers
from ..expression import Expression
from ..ops import (
    attention,
    colwise_add,
    inputTensor,
    masked_softmax,
    pick_batch_elems,
    reshape,
    softmax,
    tanh,
    transpose,
)
from ..params.collection import ParameterCollection
from ..params.parameters import Parameters
from .block import Block

_Mask = Expression | ArrayLike | None


class _Projections(Block):
    """A block that compares Wq q with Wk k, for a query q and keys k."""

    _arguments: ClassVar[tuple[str, ...]] = ("query_dim", "key_dim", "hidden_dim")
    _before_model: ClassVar[int] = 3

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        *,
        precision: str | None = None,
    ) -> None:
        self.query_dim, self.key_dim, self.hidden_dim = self._sizes(query_dim, key_dim, hidden_dim)
        self._begin(
            model,
            precision,
            query_dim=self.query_dim,
            key_dim=self.key_dim,
            hidden_dim=self.hidden_dim,
        )
        self._Wq = self._dense("Wq", (self.hidden_dim, self.query_dim))
        self._Wk = self._dense("Wk", (self.hidden_dim, self.key_dim))

    def project(self, keys: Expression) -> Expression:
        """The matrix Wk keys, to be computed once if many queries use the same keys.

        Raises:
            TypeError: the keys are not an expression.

        >>> import dist_dynet as dy
        >>> attention = dy.DotAttention(3, 2, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> keys = dy.ones((2, 5))
        >>> projected = attention.project(keys)
        >>> projected.dim(), attention.attend(dy.zeros(3), keys, projected=projected).dim()
        (((4, 5), 1), ((2,), 1))
        """
        return self._affine(self._Wk, None, keys, self.key_dim, "keys")

    def _project_query(self, query: Expression, b: Parameters | None = None) -> Expression:
        """Wq query + b."""
        return self._affine(self._Wq, b, query, self.query_dim, "query")


class AdditiveAttention(_Projections):
    """Attention by a small network (Bahdanau, Cho and Bengio 2015): weights = softmax over j of v
    tanh(Wq q + Wk k_j + b).

    Parameters, in the subcollection additive-attention: Wq (hidden, query), Wk (hidden, key), b
    (hidden), v (1, hidden).

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

    _subcollection: ClassVar[str] = "additive-attention"

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        hidden_dim: int,
        model: ParameterCollection,
        *,
        precision: str | None = None,
    ) -> None:
        super().__init__(query_dim, key_dim, hidden_dim, model, precision=precision)
        self._b = self._dense("b", self.hidden_dim, 0)
        self._v = self._dense("v", (1, self.hidden_dim))

    def weights(
        self,
        query: Expression,
        keys: Expression,
        mask: _Mask = None,
        projected: Expression | None = None,
    ) -> Expression:
        """A weight for each key; they sum to 1.

        Args:
            query: a vector (query,).
            keys: a matrix (key, n): n keys; a vector is one.
            mask: (n,), an array's second axis being the batch: 0 for keys to ignore, such
                as padding. If all are ignored, all weights are 0.
            projected: project(keys), if it is there already.

        Raises:
            TypeError: the query or the keys are not an expression.

        >>> import dist_dynet as dy
        >>> attention = dy.AdditiveAttention(3, 2, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> attention.weights(dy.zeros(3), dy.ones((2, 4))).value()
        [0.25, 0.25, 0.25, 0.25]
        >>> attention.weights(dy.zeros(3), dy.ones((2, 4)), mask=[1, 1, 0, 0]).value()
        [0.5, 0.5, 0.0, 0.0]
        """
        k = self.project(keys) if projected is None else projected
        hidden = tanh(colwise_add(k, self._project_query(query, self._b)))
        scores = self._v * hidden
        (_, *n), batch = scores.dim()
        scores = reshape(scores, tuple(n) or (1,), batch)
        return softmax(scores) if mask is None else masked_softmax(scores, mask)

    def attend(
        self,
        query: Expression,
        keys: Expression,
        values: Expression | None = None,
        mask: _Mask = None,
        projected: Expression | None = None,
    ) -> Expression:
        """The sum of the columns of values (by default of keys), weighted by weights().

        Raises:
            TypeError: the query or the keys are not an expression.

        >>> import dist_dynet as dy
        >>> attention = dy.AdditiveAttention(3, 2, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> keys, values = dy.ones((2, 3)), dy.inputTensor([[3, 6, 9]])
        >>> attention.attend(dy.zeros(3), keys, values).npvalue().round(4).tolist()
        [6.0]
        """
        return (keys if values is None else values) * self.weights(query, keys, mask, projected)


class DotAttention(_Projections):
    """Scaled dot-product attention with projections: weights = softmax over j of (Wk k_j)' Wq q /
    sqrt(hidden) (Vaswani et al. 2017).

    Parameters, in the subcollection dot-attention: Wq (hidden, query), Wk (hidden, key).

    Args:
        query_dim, key_dim: sizes of a query and of a key.
        hidden_dim: the size of the space in which they are compared.
        model: where the parameters go.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> block = dy.DotAttention(3, 2, 4, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> keys = dy.inputTensor([[1, 1, 4], [2, 2, 8]])  # three keys
    >>> (
    ...     block.attend(dy.zeros(3), keys).npvalue().round(4).tolist(),
    ...     block.attend(dy.zeros(3), keys, mask=[1, 1, 0]).value(),
    ... )
    ([2.0, 4.0], [1.0, 2.0])
    """

    _subcollection: ClassVar[str] = "dot-attention"

    def weights(
        self,
        query: Expression,
        keys: Expression,
        mask: _Mask = None,
        projected: Expression | None = None,
    ) -> Expression:
        """A weight for each key, which sum to 1. For several queries, a column for each.

        Args:
            query: a vector (query,), or a matrix (query, m) of m queries.
            keys: a matrix (key, n): n keys.
            mask: (n,) or (n, m), the next axis of an array being the batch: 0 for keys to
                ignore. If all are ignored, all weights are 0.
            projected: project(keys), if it is there already.

        Raises:
            TypeError: the query or the keys are not an expression.

        >>> import dist_dynet as dy
        >>> attention = dy.DotAttention(3, 2, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> attention.weights(dy.zeros(3), dy.ones((2, 4))).value()
        [0.25, 0.25, 0.25, 0.25]
        >>> attention.weights(dy.zeros(3), dy.ones((2, 4)), mask=[1, 1, 0, 0]).value()
        [0.5, 0.5, 0.0, 0.0]
        """
        k = self.project(keys) if projected is None else projected
        scores = transpose(k) * self._project_query(query) * self.hidden_dim**-0.5
        return softmax(scores) if mask is None else masked_softmax(scores, mask)

    def attend(
        self,
        query: Expression,
        keys: Expression,
        values: Expression | None = None,
        mask: _Mask = None,
        projected: Expression | None = None,
    ) -> Expression:
        """The sum of the columns of values (by default of keys), weighted by weights(): one node
        after the projections.

        An array's third axis is the mask's batch: (n, 1, B) masks the padding of B sentences.

        Raises:
            TypeError: the query or the keys are not an expression.

        >>> import dist_dynet as dy
        >>> attention = dy.DotAttention(3, 2, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> keys, values = dy.ones((2, 3)), dy.inputTensor([[3, 6, 9]])
        >>> round(attention.attend(dy.zeros(3), keys, values).value(), 4)
        6.0
        """
        k = self.project(keys) if projected is None else projected
        q = self._project_query(query)
        return attention(q, k, keys if values is None else values, mask)


class MultiHeadAttention(Block):
    """Attention with several heads: y = Wo (head_1, ..., head_n), head_i = v_i softmax(k_i' q_i /
    sqrt(dim / n)) (Vaswani et al. 2017).

    q_i are the rows of Wq q that belong to head i, and likewise k_i of Wk k and v_i of Wv v. All
    heads are one node. Parameters, in the subcollection multi-head-attention: Wq (dim, dim), Wk
    (dim, key), Wv (dim, key), Wo (dim, dim).

    Args:
        dim: the size of queries and results.
        heads: how many; dim must be a multiple of it.
        model: where the parameters go.
        key_dim: the size of keys and values; None: dim.

    Raises:
        ValueError: a size is not positive, or dim no multiple of heads.

    >>> import dist_dynet as dy
    >>> block = dy.MultiHeadAttention(4, 2, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> words = dy.random_normal((4, 7))
    >>> block(words, words).dim()
    ((4, 7), 1)
    """

    _subcollection: ClassVar[str] = "multi-head-attention"
    _arguments: ClassVar[tuple[str, ...]] = ("dim", "heads", "key_dim")
    _before_model: ClassVar[int] = 2

    def __init__(
        self,
        dim: int,
        heads: int,
        model: ParameterCollection,
        key_dim: int | None = None,
        *,
        precision: str | None = None,
    ) -> None:
        self.dim, self.heads, self.key_dim = self._sizes(
            dim, heads, dim if key_dim is None else key_dim
        )
        if self.heads > 0 and self.dim % self.heads:
            raise ValueError(
                f"MultiHeadAttention: dim must be a multiple of heads; got dim={dim},"
                f" heads={heads}."
            )
        self._begin(model, precision, dim=self.dim, heads=self.heads, key_dim=self.key_dim)
        self._Wq = self._dense("Wq", (self.dim, self.dim))
        self._Wk = self._dense("Wk", (self.dim, self.key_dim))
        self._Wv = self._dense("Wv", (self.dim, self.key_dim))
        self._Wo = self._dense("Wo", (self.dim, self.dim))

    def _split(self, x: Expression) -> Expression:
        """(dim, n) x batch -> (dim / heads, n) x (heads batch), with the heads of a batch element
        adjacent."""
        (_, *more), batch = x.dim()
        n, size = more[0] if more else 1, self.dim // self.heads
        return reshape(
            transpose(reshape(x, (size, self.heads, n), batch), (0, 2, 1)),
            (size, n),
            self.heads * batch,
        )

    def __call__(
        self,
        query: Expression,
        keys: Expression,
        values: Expression | None = None,
        mask: _Mask = None,
    ) -> Expression:
        """The result for each query.

        Args:
            query: a vector (dim,), or a matrix (dim, m) of m queries.
            keys: a matrix (key_dim, n).
            values: a matrix (key_dim, n); None: the keys.
            mask: (n,) or (n, m), 0 for keys to ignore; an array's third axis is the batch:
                (n, 1, B) masks the padding of B sentences, and np.triu(np.ones((n, n))) lets each
                position see itself and those before.

        Shape: that of the query.
        """
        values = keys if values is None else values
        q = self._affine(self._Wq, None, query, self.dim, "query")
        k = self._affine(self._Wk, None, keys, self.key_dim, "keys")
        v = self._affine(self._Wv, None, values, self.key_dim, "values")
        if mask is not None and not isinstance(mask, Expression):
            array = np.asarray(numbers(mask, "MultiHeadAttention"))
            mask = inputTensor(array, batched=array.ndim > 2)
        sizes = [e.dim()[1] for e in (q, k, v, *([] if mask is None else [mask]))]
        batch = max(sizes)
        if not all(size in (1, batch) for size in sizes):
            raise ValueError(
                "MultiHeadAttention: batch sizes of query, keys, values and mask must be equal or"
                f" 1; got {sizes}."
            )
        q, k, v = (
            self._split(e if e.dim()[1] == batch else pick_batch_elems(e, [0] * batch))
            for e in (q, k, v)
        )
        if mask is not None and mask.dim()[1] > 1:
            mask = pick_batch_elems(mask, [b for b in range(batch) for _ in range(self.heads)])
        heads, (_, *columns) = attention(q, k, v, mask), query.dim()[0]
        n = columns[0] if columns else 1
        joined = transpose(
            reshape(heads, (self.dim // self.heads, n, self.heads), batch), (0, 2, 1)
        )
        return self._Wo * reshape(joined, (self.dim, *columns), batch)
