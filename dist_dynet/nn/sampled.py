"""Output layers for large vocabularies, trained on a few sampled classes at a time: a step only
reads and changes their rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._integers import indices, whole
from ..expression import Expression
from ..graph import cg
from ..ops import (
    cmult,
    concatenate,
    dot_product,
    inputTensor,
    log_sigmoid,
    lookup_batch,
    pickneglogsoftmax_batch,
    reshape,
    sum_elems,
    transpose,
)
from ..params import ConstInitializer, UniformInitializer
from ..params.collection import ParameterCollection
from .block import used
from .owner import MORE_OF_SPEC, items_of_spec
from .softmax import SoftmaxBuilder


class Sampler:
    """Draws classes with replacement: "uniform", "log-uniform" (Zipf's law, for classes sorted by
    frequency), or in proportion to counts.

    Log-uniform: q(c) = log((c + 2) / (c + 1)) / log(n + 1).

    Args:
        n: the number of classes.
        distribution: "uniform", "log-uniform", or n positive numbers.

    Raises:
        ValueError: another name, or other than n positive numbers.

    >>> import dist_dynet as dy
    >>> sampler = dy.Sampler(3, [1, 1, 2])
    >>> sampler.log_probability([0, 2]).round(4).tolist()
    [-1.3863, -0.6931]
    """

    def __init__(self, n: int, distribution: str | ArrayLike = "log-uniform") -> None:
        n = whole(n, "Sampler", "n")
        if n < 1:
            raise ValueError(f"Sampler: there must be a class; got n={n}.")
        if isinstance(distribution, str):
            if distribution not in ("uniform", "log-uniform"):
                raise ValueError(
                    "Sampler: distribution must be 'uniform', 'log-uniform' or one number per"
                    f" class; got {distribution!r:.50}."
                )
            weights = (
                np.ones(n) if distribution == "uniform" else np.log1p(1 / np.arange(1.0, n + 1))
            )
            self.distribution: str | list[float] = distribution
        else:
            try:
                weights = np.asarray(distribution, float)
            except (TypeError, ValueError):  # no numbers
                weights = np.empty(0)
            if weights.shape != (n,) or not (np.isfinite(weights).all() and (weights > 0).all()):
                raise ValueError(
                    f"Sampler: distribution must have a positive number for each of {n} classes;"
                    f" got {distribution!r:.100}."
                )
            self.distribution = weights.tolist()
        self._log: NDArray[np.float64] = np.log(weights / weights.sum())
        self._cumulative = np.cumsum(weights) / weights.sum()

    def log_probability(self, classes: Sequence[int]) -> NDArray[np.float64]:
        """log q of each of these classes.

        >>> import dist_dynet as dy
        >>> dy.Sampler(4, "uniform").log_probability([0, 3]).round(4).tolist()
        [-1.3863, -1.3863]
        """
        return np.take(self._log, indices(classes, "log_probability"))

    def draw(self, n: int) -> list[int]:
        """n classes, drawn by the current graph's generator: reset_random_seed() repeats them, and
        ranks draw different ones.

        Raises:
            ValueError: n is negative.
            TypeError: n is not an integer.

        >>> import dist_dynet as dy
        >>> drawn = dy.Sampler(3, [1, 1, 2]).draw(100)
        >>> len(drawn), sorted(set(drawn))
        (100, [0, 1, 2])
        """
        drawn = np.searchsorted(self._cumulative, cg().uniform(whole(n, "draw", "n")), side="right")
        return [min(int(k), len(self._log) - 1) for k in drawn]


class _SampledBuilder(SoftmaxBuilder):
    """The base of both builders: rows, the sampler, scores of candidates, and the exact
    distribution."""

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        pc: ParameterCollection,
        num_samples: int = 100,
        distribution: str | ArrayLike = "log-uniform",
        bias: bool = True,
        *,
        precision: str | None = None,
    ) -> None:
        self.num_classes, self.num_samples = self._sizes(num_classes, num_samples)
        if self.num_classes < 1 or self.num_samples < 1:
            raise ValueError(
                f"{self.whoami()}: sizes must be positive; got num_classes={num_classes},"
                f" num_samples={num_samples}."
            )
        self.sampler = Sampler(self.num_classes, distribution)
        super().__init__(input_dim, pc, bias, precision)
        add = self._collection.add_lookup_parameters
        scale = (6 / (self.num_classes + self.input_dim)) ** 0.5
        self._W = add((self.num_classes, self.input_dim), init=UniformInitializer(scale))
        self._W._play("W")
        self._b = None
        if self.bias:
            self._b = add((self.num_classes, 1), init=ConstInitializer(self._first_bias()))
            self._b._play("b")

    def _first_bias(self) -> float:
        return 0.0

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal builder."""
        return (
            self.input_dim,
            self.num_classes,
            self.num_samples,
            self.sampler.distribution,
            self.bias,
        )

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> Any:
        """A builder of this spec, with new parameters in `model`."""
        names = "input_dim, num_classes"
        input_dim, num_classes, *rest = items_of_spec(cls, spec, names, MORE_OF_SPEC)
        return cls(input_dim, num_classes, model, *rest)

    # ---- the loss of training ----------------------------------------------------------

    def _candidates(
        self,
        x: Expression,
        c: Iterable[int],
        negatives: Sequence[int] | None,
        update: bool,
        keep_hits: bool,
    ) -> tuple[Expression, int, int]:
        """s_j - log(n q_j) for c and for each of the negatives, in a column for each batch element;
        n, and how many batch elements there are.

        Where a negative is the class itself: -inf, unless keep_hits.
        """
        self._check_rows(x, self.input_dim)
        classes = self._indices(c, self.num_classes, "classes")
        sampled = (
            self.sampler.draw(self.num_samples)
            if negatives is None
            else self._indices(negatives, self.num_classes, "classes")
        )
        if not classes or not sampled:
            raise ValueError(
                f"{self.whoami()}: takes at least one class and one negative; got {len(classes)}"
                f" and {len(sampled)}."
            )
        n = len(sampled)
        rows = reshape(lookup_batch(self._W, sampled, update), (self.input_dim, len(sampled)))
        own = dot_product(lookup_batch(self._W, classes, update), x)
        others = transpose(rows) * x if x.dim()[1] > 1 else reshape(transpose(x) * rows, n)
        shift = -np.log(n) - np.stack(
            [self.sampler.log_probability([v, *sampled]) for v in classes], axis=-1
        )
        if not keep_hits:
            shift[1:][np.asarray(sampled)[:, None] == np.asarray(classes)] = -np.inf
        if self._b is not None:
            own = own + lookup_batch(self._b, classes, update)
            others = others + reshape(lookup_batch(self._b, sampled, update), n)
        return concatenate([own, others]) + inputTensor(shift, batched=True), n, len(classes)

    def loss(
        self, x: Expression, c: int, negatives: Sequence[int] | None = None, update: bool = True
    ) -> Expression:
        """The loss to be trained with, from class c and sampled classes.

        Args:
            x: a vector (input_dim,).
            c: the class.
            negatives: the other classes; None: num_samples are drawn.
            update: False: the parameters get no gradient.

        Raises:
            ValueError: a class is outside of the classes.

        >>> import dist_dynet as dy
        >>> output = dy.SampledSoftmax(3, 100, dy.ParameterCollection(), distribution="uniform")
        >>> _ = dy.renew_cg()
        >>> round(output.loss(dy.zeros(3), 7, negatives=[1, 2, 3]).value(), 4)  # log 4
        1.3863
        """
        return self.loss_batch(x, [c], negatives, update)

    def loss_batch(
        self,
        x: Expression,
        c: Iterable[int],
        negatives: Sequence[int] | None = None,
        update: bool = True,
    ) -> Expression:
        """The same with one class per batch element; an unbatched x serves all classes. All share
        the sampled classes."""
        raise NotImplementedError

    # ---- the exact distribution --------------------------------------------------------

    def full_logits(self, x: Expression, update: bool = True) -> Expression:
        """The scores of all classes. It reads all of W; in training, its gradient fills all
        rows.

        Raises:
            TypeError: x is not an expression.

        >>> import dist_dynet as dy
        >>> output = dy.SampledSoftmax(3, 100, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> output.full_logits(dy.zeros(3, batch_size=2)).dim()
        ((100,), 2)
        """
        self._check_rows(x, self.input_dim)
        W = used(self._W, update)
        scores = transpose(W) * x if x.dim()[1] > 1 else reshape(transpose(x) * W, self.num_classes)
        return (
            scores if self._b is None else scores + reshape(used(self._b, update), self.num_classes)
        )


class SampledSoftmax(_SampledBuilder):
    """Softmax over a class and n sampled ones (Bengio and Senecal 2008; Jean et al. 2015): loss =
    -log softmax(s_j - log(n q_j))_c.

    The scores are s_j = W_j x + b_j; q is what the samples are drawn from, with replacement; one
    that is c itself does not count. As n grows, the gradient becomes that of the exact loss. Train
    with loss(), evaluate with neg_log_softmax(). Parameters, in the subcollection sampled-softmax,
    are lookup tables, so that a step touches n + 1 rows: W (num_classes rows of input_dim) and,
    with bias, b (num_classes rows of one number).

    Args:
        input_dim: the size of x.
        num_classes: the number of classes.
        pc: where the parameters go.
        num_samples: n.
        distribution: q, as Sampler takes it: "log-uniform" for classes sorted by falling frequency,
            "uniform", or counts.
        bias: False: there is no b.

    Raises:
        ValueError: a size is not positive, or another distribution.

    >>> import dist_dynet as dy
    >>> output = dy.SampledSoftmax(3, 10_000, dy.ParameterCollection(), num_samples=20)
    >>> _ = dy.renew_cg()
    >>> x = dy.zeros(3)
    >>> loss = output.loss(x, 7)
    >>> loss.dim(), round(output.neg_log_softmax(x, 7).value(), 4)
    (((1,), 1), 9.2103)
    """

    _subcollection: ClassVar[str] = "sampled-softmax"

    def loss_batch(
        self,
        x: Expression,
        c: Iterable[int],
        negatives: Sequence[int] | None = None,
        update: bool = True,
    ) -> Expression:
        """The same with one class per batch element; an unbatched x serves all classes. All share
        the sampled classes.

        >>> import dist_dynet as dy
        >>> output = dy.SampledSoftmax(3, 100, dy.ParameterCollection(), distribution="uniform")
        >>> _ = dy.renew_cg()
        >>> losses = output.loss_batch(dy.zeros(3), [7, 8], negatives=[1, 2, 3])
        >>> losses.npvalue().round(4).tolist()
        [[1.3863, 1.3863]]
        """
        scores, _, batch = self._candidates(x, c, negatives, update, keep_hits=False)
        return pickneglogsoftmax_batch(scores, [0] * batch)


class NoiseContrastiveEstimation(_SampledBuilder):
    """Tells a class from n classes of noise (Gutmann and Hyvarinen 2010; Mnih and Teh 2012), with
    unnormalised scores.

    loss = -log logistic(s_c - log(n q_c)) - sum over the noise j of log logistic(-(s_j - log(n
    q_j))), s_j = W_j x + b_j. In the limit s_j = log p(j | x), so that full_logits() needs no sum
    over the classes. Train with loss(), evaluate with neg_log_softmax(). Parameters, in the
    subcollection noise-contrastive-estimation, are lookup tables, so that a step touches n + 1
    rows: W (num_classes rows of input_dim) and, with bias, b (num_classes rows of one number),
    which starts at -log num_classes.

    Arguments and errors are those of SampledSoftmax; q is where the noise is drawn from.

    >>> import dist_dynet as dy
    >>> output = dy.NoiseContrastiveEstimation(3, 4, dy.ParameterCollection(), 5, [10, 5, 2, 1])
    >>> _ = dy.renew_cg()
    >>> output.loss_batch(dy.zeros(3, batch_size=2), [0, 3]).dim()
    ((1,), 2)
    """

    _subcollection: ClassVar[str] = "noise-contrastive-estimation"

    def _first_bias(self) -> float:
        return -float(np.log(self.num_classes))

    def loss_batch(
        self,
        x: Expression,
        c: Iterable[int],
        negatives: Sequence[int] | None = None,
        update: bool = True,
    ) -> Expression:
        """The same with one class per batch element; an unbatched x serves all classes. All share
        the noise.

        >>> import dist_dynet as dy
        >>> output = dy.NoiseContrastiveEstimation(3, 4, dy.ParameterCollection(), 5)
        >>> _ = dy.renew_cg()
        >>> output.loss_batch(dy.zeros(3, batch_size=2), [0, 3]).dim()
        ((1,), 2)
        """
        scores, n, _ = self._candidates(x, c, negatives, update, keep_hits=True)
        return -sum_elems(log_sigmoid(cmult(scores, inputTensor([1.0] + [-1.0] * n))))
