"""Output layers: distributions over many classes, computed from a vector with parameters of their
own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from .. import _random
from .._file_names import FileName
from .._integers import items_of, whole
from ..expression import Expression
from ..graph import cg
from ..ops import (
    concatenate,
    concatenate_to_batch,
    inputTensor,
    log_softmax,
    pick,
    pick_batch_elems,
    pickneglogsoftmax,
    pickneglogsoftmax_batch,
    select_rows,
    softmax,
    zeros,
)
from ..params.collection import ParameterCollection
from ..params.parameters import Parameters
from .owner import Owner, items_of_spec

T = TypeVar("T")
_Layer = tuple[Parameters, Parameters | None]
"""A matrix and, with bias, a vector."""


class SoftmaxBuilder(Owner):
    """The base of output layers: everything that follows from full_logits(). Subclasses override
    what they can compute faster.

    >>> import dist_dynet as dy
    >>> issubclass(dy.StandardSoftmaxBuilder, dy.SoftmaxBuilder)
    True
    """

    _subcollection: ClassVar[str] = ""

    def __init__(
        self, input_dim: int, pc: ParameterCollection, bias: bool, precision: str | None = None
    ) -> None:
        if not self._subcollection:
            raise NotImplementedError(
                f"{type(self).__name__}: not a builder by itself. Use StandardSoftmaxBuilder."
            )
        (self.input_dim,), self.bias = self._sizes(input_dim), bool(bias)
        if self.input_dim < 1:
            raise ValueError(f"{type(self).__name__}: input_dim must be positive; got {input_dim}.")
        self._begin_collection(pc, self._subcollection, precision)

    def _new_layer(self, size: int, of: str = "") -> _Layer:
        """W and b. `of`: the path of the layer."""
        W = self._dense(f"{of}W", (size, self.input_dim))
        return W, self._dense(f"{of}b", size, 0) if self.bias else None

    def neg_log_softmax(self, x: Expression, c: int, update: bool = True) -> Expression:
        """The loss -log p(c | x); with update=False the parameters get no gradient.

        >>> import dist_dynet as dy
        >>> output = dy.StandardSoftmaxBuilder(3, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> round(output.neg_log_softmax(dy.zeros(3), 2).value(), 4)  # log 4
        1.3863
        """
        return pickneglogsoftmax(self.full_logits(x, update), c)

    def neg_log_softmax_batch(
        self, x: Expression, c: Iterable[int], update: bool = True
    ) -> Expression:
        """The same with one class per batch element. An unbatched x is used for all classes.

        >>> import dist_dynet as dy
        >>> output = dy.StandardSoftmaxBuilder(3, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> output.neg_log_softmax_batch(dy.zeros(3), [2, 0]).npvalue().round(4).tolist()
        [[1.3863, 1.3863]]
        """
        classes = items_of(c, "neg_log_softmax_batch", "a list of classes")
        return pickneglogsoftmax_batch(self.full_logits(x, update), classes)

    def sample(self, x: Expression) -> int:
        """A class drawn from p( . | x), for x without batch.

        >>> import dist_dynet as dy
        >>> output = dy.StandardSoftmaxBuilder(3, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> output.sample(dy.zeros(3)) in range(4)
        True
        """
        return _draw(self.full_logits(x, False))

    def full_log_distribution(self, x: Expression, update: bool = True) -> Expression:
        """The vector of log p(c | x) of all classes.

        >>> import dist_dynet as dy
        >>> output = dy.StandardSoftmaxBuilder(3, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> dy.exp(output.full_log_distribution(dy.zeros(3))).npvalue().round(4).tolist()
        [0.25, 0.25, 0.25, 0.25]
        """
        return log_softmax(self.full_logits(x, update))

    def full_logits(self, x: Expression, update: bool = True) -> Expression:
        """A vector whose softmax is the distribution over all classes."""
        raise NotImplementedError

    def _logits(self, layer: _Layer, x: Expression, update: bool) -> Expression:
        W, b = layer
        if update:
            return self._affine(W, b, x, self.input_dim)
        return self._affine(W.expr(), None if b is None else b.expr(), x, self.input_dim)


def _draw(logits: Expression) -> int:
    """An index, drawn with the softmax of logits as probabilities."""
    if logits.dim()[1] > 1:
        raise ValueError(
            f"sample: x must be without batch; got {logits.dim()[1]} batch elements. Pick one by"
            " pick_batch_elem()."
        )
    # as DyNet does: the first class whose cumulative probability exceeds a uniform number
    if _random.dynet_order():
        rest = cg().uniform(1)[0] - np.cumsum(softmax(logits).npvalue().ravel())
        return int(np.argmax(rest < 0)) if rest[-1] < 0 else len(rest) - 1
    return int(logits.tensor_value().categorical_sample_log_prob().as_numpy().ravel()[0])


def _by_groups(
    x: Expression, keys: Sequence[Any], loss: Callable[[Any, Expression, list[int]], Expression]
) -> Expression:
    """Losses in the order of the batch, computed by groups of batch elements: loss(key, x of the
    group, indices of its elements).

    `keys` has one key for each element; with None the loss is 0.
    """
    groups: dict[Any, list[int]] = {}
    for at, key in enumerate(keys):
        groups.setdefault(key, []).append(at)
    losses = []
    for key, where in groups.items():
        if key is None:
            losses.append(zeros(1, batch_size=len(where)))
        else:
            losses.append(loss(key, pick_batch_elems(x, where) if x.dim()[1] > 1 else x, where))
    if len(losses) == 1:
        return losses[0]
    order = [at for where in groups.values() for at in where]
    return pick_batch_elems(concatenate_to_batch(losses), np.argsort(order).tolist())


class StandardSoftmaxBuilder(SoftmaxBuilder):
    """The usual output layer: p(c | x) = softmax(W x + b)_c.

    Parameters, in the subcollection standard-softmax-builder: W (num_classes, input_dim) and, with
    bias, b (num_classes).

    Args:
        input_dim: the size of x.
        num_classes: the number of classes.
        pc: where the parameters go.
        bias: False: there is no b.

    Raises:
        ValueError: a size is not positive.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> output = dy.StandardSoftmaxBuilder(3, 5, m)
    >>> _ = dy.renew_cg()
    >>> x = dy.zeros(3)
    >>> round(output.neg_log_softmax(x, 2).value(), 4), output.full_log_distribution(x).dim()
    (1.6094, ((5,), 1))
    """

    _subcollection: ClassVar[str] = "standard-softmax-builder"

    def __init__(
        self,
        input_dim: int,
        num_classes: int,
        pc: ParameterCollection,
        bias: bool = True,
        *,
        precision: str | None = None,
    ) -> None:
        (self.num_classes,) = self._sizes(num_classes)
        if self.num_classes < 1:
            raise ValueError(
                f"StandardSoftmaxBuilder: num_classes must be positive; got {num_classes}."
            )
        super().__init__(input_dim, pc, bias, precision)
        self._layer = self._new_layer(self.num_classes)

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal builder."""
        return self.input_dim, self.num_classes, self.bias

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> StandardSoftmaxBuilder:
        """A builder of this spec, with new parameters in `model`."""
        input_dim, num_classes, bias = items_of_spec(cls, spec, "input_dim, num_classes, bias")
        return cls(input_dim, num_classes, model, bias)

    def full_logits(self, x: Expression, update: bool = True) -> Expression:
        """The vector W x + b.

        >>> import dist_dynet as dy
        >>> output = dy.StandardSoftmaxBuilder(3, 4, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> output.full_logits(dy.zeros(3)).value()
        [0.0, 0.0, 0.0, 0.0]
        """
        return self._logits(self._layer, x, update)


def _words(dic: Mapping[str, int], what: str) -> int:
    """The number of words that a dict of words and their numbers has room for."""
    if not isinstance(dic, Mapping):
        raise TypeError(f"{what}: dic must be a dict of words; got {type(dic).__name__}.")
    return max(dic.values(), default=-1) + 1


def _entry_of(c: int, entries: Mapping[int, T]) -> T:
    """The entry of a word, given by its number."""
    try:
        return entries[whole(c, "neg_log_softmax", "the index", "neg_log_softmax_batch")]
    except KeyError:
        raise ValueError(
            f"neg_log_softmax: c must be the number of a word of the cluster file; got {c!r}."
        ) from None


def _clusters(cluster_file: FileName, dic: Mapping[str, int]) -> list[tuple[str, list[int]]]:
    """Name and word numbers of each class, in order of first occurrence in the file."""
    clusters: dict[str, list[int]] = {}
    seen: set[int] = set()
    from ..io.files import lines_of  # here, since few programs need it

    lines = lines_of(cluster_file, "ClassFactoredSoftmaxBuilder", "clusters")
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2 or fields[1] not in dic:
            rule = "lines must be CLASS WORD [COUNT], each word in dic"
            raise ValueError(
                f"ClassFactoredSoftmaxBuilder: {rule}; got {line!r} in line {number} of"
                f" {cluster_file}."
            )
        word = int(dic[fields[1]])
        if word in seen or word < 0:
            raise ValueError(
                f"ClassFactoredSoftmaxBuilder: a word has one class; got {fields[1]!r} again in"
                f" line {number} of {cluster_file}."
            )
        seen.add(word)
        clusters.setdefault(fields[0], []).append(word)
    return list(clusters.items())


class ClassFactoredSoftmaxBuilder(SoftmaxBuilder):
    r"""Words in classes (Goodman 2001): p(w | x) = softmax(W x + b)_k softmax(W_k x + b_k)_i, where
    word w is number i of class k.

    Parameters, in the subcollection class-factored-softmax-builder: W (classes, input_dim) and,
    with bias, b; then W_k and b_k of each class of more than one word. Classes, and words within a
    class, have the order of the file.

    Args:
        input_dim: the size of x.
        cluster_file: lines CLASS WORD or CLASS WORD COUNT.
        dic: the number of each word. Words of it that are not in the file have probability zero.
        pc: where the parameters go.
        bias: False: there are no b.

    Raises:
        ValueError: a line has another form, or names a word that dic does not have or that already
            has a class.

    >>> import pathlib, tempfile
    >>> import dist_dynet as dy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "clusters")
    ...     _ = path.write_text("A the\nB cat\nB dog\n")
    ...     output = dy.ClassFactoredSoftmaxBuilder(
    ...         3, path, {"cat": 0, "dog": 1, "the": 2}, dy.ParameterCollection()
    ...     )
    >>> _ = dy.renew_cg()
    >>> dy.exp(output.full_log_distribution(dy.zeros(3))).npvalue().round(4).tolist()
    [0.25, 0.25, 0.5]
    """

    _subcollection: ClassVar[str] = "class-factored-softmax-builder"

    def __init__(
        self,
        input_dim: int,
        cluster_file: FileName,
        dic: Mapping[str, int],
        pc: ParameterCollection,
        bias: bool = True,
        *,
        precision: str | None = None,
    ) -> None:
        words = _words(dic, "ClassFactoredSoftmaxBuilder")
        self._build(input_dim, _clusters(cluster_file, dic), words, pc, bias, precision)

    def _build(
        self,
        input_dim: int,
        clusters: list[tuple[str, list[int]]],
        words: int,
        pc: ParameterCollection,
        bias: bool,
        precision: str | None = None,
    ) -> None:
        if not clusters:
            raise ValueError(
                "ClassFactoredSoftmaxBuilder: there must be a class; got an empty file."
            )
        super().__init__(input_dim, pc, bias, precision)
        self.clusters, self.num_words = clusters, words
        # of each word: its class, and its number within that
        self._place = {
            w: (k, i) for k, (_, members) in enumerate(clusters) for i, w in enumerate(members)
        }
        self._class_layer = self._new_layer(len(clusters))
        self._layers = [
            self._new_layer(len(members), f"{name}/") if len(members) > 1 else None
            for name, members in clusters
        ]
        order = {w: row for row, w in enumerate(w for _, members in clusters for w in members)}
        # of words without class: the row after the last
        self._rows = [order.get(w, len(order)) for w in range(words)]

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal builder."""
        return self.input_dim, self.clusters, self.num_words, self.bias

    @classmethod
    def from_spec(
        cls, spec: Sequence[Any], model: ParameterCollection
    ) -> ClassFactoredSoftmaxBuilder:
        """A builder of this spec, with new parameters in `model`."""
        builder = cls.__new__(cls)
        names = "input_dim, clusters, words, bias"
        input_dim, clusters, words, bias = items_of_spec(cls, spec, names)
        builder._build(input_dim, clusters, words, model, bias)
        return builder

    def _class(self, classid: int) -> _Layer | None:
        classid = whole(classid, "subclass_logits", "classid")
        if not 0 <= classid < len(self._layers):
            raise ValueError(
                f"subclass_logits: classid {classid} is outside of the {len(self._layers)} classes."
                " They run from 0."
            )
        return self._layers[classid]

    def neg_log_softmax(self, x: Expression, c: int, update: bool = True) -> Expression:
        """The loss -log p(c | x); with update=False the parameters get no gradient.

        Raises:
            ValueError: c is not a word of the file.
        """
        k, i = _entry_of(c, self._place)
        loss = pickneglogsoftmax(self.class_logits(x, update), k)
        return (
            loss
            if self._layers[k] is None
            else loss + pickneglogsoftmax(self.subclass_logits(x, k, update), i)
        )

    def neg_log_softmax_batch(
        self, x: Expression, c: Iterable[int], update: bool = True
    ) -> Expression:
        """The same with one word per batch element; an unbatched x serves all words. Each class is
        computed once, for its elements.

        Raises:
            ValueError: one of c is not a word of the file.
        """
        places = [_entry_of(w, self._place) for w in c]
        by_class = pickneglogsoftmax_batch(self.class_logits(x, update), [k for k, _ in places])

        def within(k: int, mine: Expression, where: list[int]) -> Expression:
            return pickneglogsoftmax_batch(
                self.subclass_logits(mine, k, update), [places[at][1] for at in where]
            )

        return by_class + _by_groups(
            x, [None if self._layers[k] is None else k for k, _ in places], within
        )

    def sample(self, x: Expression) -> int:
        """A word drawn from p( . | x), for x without batch: first its class, then the word."""
        k = _draw(self.class_logits(x, False))
        members = self.clusters[k][1]
        return (
            members[0] if len(members) == 1 else members[_draw(self.subclass_logits(x, k, False))]
        )

    def full_log_distribution(self, x: Expression, update: bool = True) -> Expression:
        """The vector of log p(w | x) by word number; -inf for words without class."""
        classes = self.class_log_distribution(x, update)
        rows = [
            pick(classes, k) + self.subclass_log_distribution(x, k, update)
            for k in range(len(self.clusters))
        ]
        if len(self._place) < self.num_words:
            rows.append(inputTensor(np.full((1, x.dim()[1]), -np.inf), batched=True))
        return select_rows(concatenate(rows), self._rows)

    def full_logits(self, x: Expression, update: bool = True) -> Expression:
        """The same as full_log_distribution(): its softmax is the distribution."""
        return self.full_log_distribution(x, update)

    def class_logits(self, x: Expression, update: bool = True) -> Expression:
        r"""The vector W x + b over classes.

        >>> import pathlib, tempfile
        >>> import dist_dynet as dy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, dic = pathlib.Path(folder, "clusters"), {"cat": 0, "dog": 1, "the": 2}
        ...     _ = path.write_text("A the\nB cat\nB dog\n")
        ...     output = dy.ClassFactoredSoftmaxBuilder(3, path, dic, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> output.class_logits(dy.zeros(3)).value()
        [0.0, 0.0]
        """
        return self._logits(self._class_layer, x, update)

    def class_log_distribution(self, x: Expression, update: bool = True) -> Expression:
        r"""The vector of log p(class | x).

        >>> import pathlib, tempfile
        >>> import dist_dynet as dy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, dic = pathlib.Path(folder, "clusters"), {"cat": 0, "dog": 1, "the": 2}
        ...     _ = path.write_text("A the\nB cat\nB dog\n")
        ...     output = dy.ClassFactoredSoftmaxBuilder(3, path, dic, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> dy.exp(output.class_log_distribution(dy.zeros(3))).npvalue().round(4).tolist()
        [0.5, 0.5]
        """
        return log_softmax(self.class_logits(x, update))

    def subclass_logits(self, x: Expression, classid: int, update: bool = True) -> Expression:
        r"""The vector W_k x + b_k over the words of a class, in the order of the file; 0 for the
        only word of a class.

        Raises:
            TypeError: x is not an expression.

        >>> import pathlib, tempfile
        >>> import dist_dynet as dy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, dic = pathlib.Path(folder, "clusters"), {"cat": 0, "dog": 1, "the": 2}
        ...     _ = path.write_text("A the\nB cat\nB dog\n")
        ...     output = dy.ClassFactoredSoftmaxBuilder(3, path, dic, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> output.subclass_logits(dy.zeros(3), 1).value()
        [0.0, 0.0]
        """
        layer = self._class(classid)
        if layer is not None:
            return self._logits(layer, x, update)
        self._check_rows(x, self.input_dim)
        return zeros(1, batch_size=x.dim()[1])

    def subclass_log_distribution(
        self, x: Expression, classid: int, update: bool = True
    ) -> Expression:
        r"""The vector of log p(word | class, x) over the words of a class.

        >>> import pathlib, tempfile
        >>> import dist_dynet as dy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, dic = pathlib.Path(folder, "clusters"), {"cat": 0, "dog": 1, "the": 2}
        ...     _ = path.write_text("A the\nB cat\nB dog\n")
        ...     output = dy.ClassFactoredSoftmaxBuilder(3, path, dic, dy.ParameterCollection())
        >>> _ = dy.renew_cg()
        >>> dy.exp(output.subclass_log_distribution(dy.zeros(3), 1)).npvalue().round(4).tolist()
        [0.5, 0.5]
        """
        logits = self.subclass_logits(x, classid, update)
        return logits if self._class(classid) is None else log_softmax(logits)
