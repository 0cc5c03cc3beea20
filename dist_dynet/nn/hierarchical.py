"""The hierarchical softmax: a word's probability as a product of choices on the way down a tree of
clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .._file_names import FileName
from .._integers import whole
from ..expression import Expression
from ..ops import (
    concatenate,
    esum,
    inputTensor,
    log_sigmoid,
    log_softmax,
    pick,
    pickneglogsoftmax_batch,
    select_rows,
    zeros,
)
from ..ops._nodes import not_expression
from ..params.collection import ParameterCollection
from .softmax import SoftmaxBuilder, _by_groups, _draw, _Layer, _logits, _words

_Leaves = list[tuple[list[str], list[int]]]
"""The symbols on the way to a cluster, and its words."""


class _Cluster:
    """A node of the tree: either clusters below, by their symbols, or words."""

    __slots__ = ("below", "layer", "path", "words")

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.below: dict[str, _Cluster] = {}
        self.words: list[int] = []
        self.layer: _Layer | None = None

    def size(self) -> int:
        """The number of choices."""
        return len(self.below) or len(self.words)


def _check(x: Expression) -> None:
    if not isinstance(x, Expression):
        raise not_expression("HierarchicalSoftmaxBuilder", x)


def _read(cluster_file: FileName, dic: Mapping[str, int]) -> _Leaves:
    """The clusters that have words, in the order in which the file names them first."""
    leaves: dict[tuple[str, ...], list[int]] = {}
    from ..io.files import lines_of  # here, since few programs need it

    lines = lines_of(cluster_file, "HierarchicalSoftmaxBuilder", "clusters")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        symbols, _, rest = line.partition("\t")
        path, word = tuple(symbols.split()), (rest.split() or [""])[0]
        if not path or word not in dic:
            rule = (
                "lines must be SYMBOLS<tab>WORD [COUNT], the symbols divided by blanks, each word"
                " in dic"
            )
            raise ValueError(
                f"HierarchicalSoftmaxBuilder: {rule}; got {line!r} in line {number} of"
                f" {cluster_file}."
            )
        leaves.setdefault(path, []).append(int(dic[word]))
    return [(list(path), words) for path, words in leaves.items()]


class HierarchicalSoftmaxBuilder(SoftmaxBuilder):
    r"""Words in a tree of clusters (Morin and Bengio 2005): p(w | x) = product of softmax(W_k x +
    b_k)_i over the clusters k on the way to w.

    i is the branch taken, at the last cluster the word. A cluster of two branches has one row:
    p(first) = logistic(W_k x + b_k). The loss of a word costs as many products as its way has
    clusters, so with a balanced tree the logarithm of the number of words. Parameters, in the
    subcollection hierarchical-softmax-builder, of each cluster of more than one branch, a cluster
    before those below it: W_k (branches, input_dim) and, with bias, b_k; for two branches (1,
    input_dim) and (1). Clusters and words have the order of the file.

    Args:
        input_dim: the size of x.
        cluster_file: lines SYMBOLS<tab>WORD or SYMBOLS<tab>WORD<tab>COUNT, the symbols of the way
            from the root divided by blanks; what DyNet's C++ library reads. Brown clusters are one:
            `0 1 1<tab>the`.
        dic: the number of each word. Words of it that are not in the file have probability zero.
        pc: where the parameters go.
        bias: False: there are no b_k.

    Raises:
        ValueError: a line has another form, names a word that dic does not have or that already has
            a place, or a cluster would have both words and clusters.

    >>> import pathlib, tempfile
    >>> import dist_dynet as dy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "clusters")
    ...     _ = path.write_text("0\tthe\n1 0\tcat\n1 1\tdog\n1 1\tdogs\n")
    ...     dic = {"cat": 0, "dog": 1, "dogs": 2, "the": 3}
    ...     output = dy.HierarchicalSoftmaxBuilder(3, path, dic, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> dy.exp(output.full_log_distribution(dy.zeros(3))).npvalue().round(4).tolist()
    [0.25, 0.125, 0.125, 0.5]
    """

    _subcollection: ClassVar[str] = "hierarchical-softmax-builder"

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
        words = _words(dic, "HierarchicalSoftmaxBuilder")
        self._build(input_dim, _read(cluster_file, dic), words, pc, bias, precision)

    def _build(
        self,
        input_dim: int,
        leaves: _Leaves,
        words: int,
        pc: ParameterCollection,
        bias: bool,
        precision: str | None = None,
    ) -> None:
        if not leaves:
            raise ValueError(
                "HierarchicalSoftmaxBuilder: there must be a cluster; got an empty file."
            )
        self.leaves, self.num_words = leaves, words
        self._root = _Cluster()
        # of each word, where there is a choice, and which
        self._ways: dict[int, list[tuple[_Cluster, int]]] = {}
        for path, members in leaves:
            self._place(path, members)
        super().__init__(input_dim, pc, bias, precision)
        for path, members in leaves:
            way = self._way(path)
            for k, word in enumerate(members):
                self._ways[word] = [
                    (cluster, i)
                    for cluster, i in [*way[:-1], (way[-1][0], k)]
                    if cluster.size() > 1
                ]
        for cluster in self._clusters():
            if cluster.size() > 1:
                rows = 1 if cluster.size() == 2 else cluster.size()
                cluster.layer = self._new_layer(rows, cluster.path)
        order = {
            w: row for row, w in enumerate(w for cluster in self._clusters() for w in cluster.words)
        }
        # of words without a place: the row after the last
        self._rows = [order.get(w, len(order)) for w in range(words)]

    def _place(self, path: list[str], members: list[int]) -> None:
        cluster = self._root
        for symbol in path:
            if cluster.words:
                break
            cluster = cluster.below.setdefault(symbol, _Cluster(f"{cluster.path}{symbol}/"))
        if cluster.words or cluster.below:
            raise ValueError(
                "HierarchicalSoftmaxBuilder: a cluster has words or clusters; got both at"
                f" {' '.join(path)!r:.100}."
            )
        cluster.words = members
        for word in members:
            if word in self._ways or word < 0 or members.count(word) > 1:
                raise ValueError(
                    f"HierarchicalSoftmaxBuilder: a word has one place; got word {word} again at"
                    f" {' '.join(path)!r:.100}."
                )
            self._ways[word] = []

    def _way(self, path: list[str]) -> list[tuple[_Cluster, int]]:
        """The clusters from the root to the last one, and the branch taken at each but the last."""
        way, cluster = [], self._root
        for symbol in path:
            way.append((cluster, list(cluster.below).index(symbol)))
            cluster = cluster.below[symbol]
        return [*way, (cluster, 0)]

    def _clusters(self) -> list[_Cluster]:
        """All, each before those below it."""
        found, waiting = [], [self._root]
        while waiting:
            cluster = waiting.pop()
            found.append(cluster)
            waiting += reversed(cluster.below.values())
        return found

    @property
    def spec(self) -> tuple[Any, ...]:
        """What from_spec() makes an equal builder of."""
        return self.input_dim, self.leaves, self.num_words, self.bias

    @classmethod
    def from_spec(
        cls, spec: Sequence[Any], model: ParameterCollection
    ) -> HierarchicalSoftmaxBuilder:
        """A builder of this spec, with new parameters in `model`."""
        builder = cls.__new__(cls)
        input_dim, leaves, words, bias = spec
        builder._build(input_dim, leaves, words, model, bias)
        return builder

    def _decisions(self, c: int) -> list[tuple[_Cluster, int]]:
        try:
            return self._ways[whole(c, "neg_log_softmax", "the index", "neg_log_softmax_batch")]
        except KeyError:
            raise ValueError(
                f"neg_log_softmax: c must be the number of a word of the cluster file; got {c!r}."
            ) from None

    def _losses(
        self, cluster: _Cluster, x: Expression, branches: list[int], update: bool
    ) -> Expression:
        """-log p(branch | cluster, x), one branch per batch element."""
        assert cluster.layer is not None
        logits = _logits(cluster.layer, x, update)
        if cluster.size() > 2:
            return pickneglogsoftmax_batch(logits, branches)
        signs = inputTensor(np.array([[1.0 - 2 * branch for branch in branches]]), batched=True)
        return -log_sigmoid(logits * signs)

    def neg_log_softmax(self, x: Expression, c: int, update: bool = True) -> Expression:
        """The loss -log p(c | x); with update=False the parameters get no gradient.

        Raises:
            ValueError: c is not a word of the file.
        """
        losses = [
            self._losses(cluster, x, [branch], update) for cluster, branch in self._decisions(c)
        ]
        return esum(losses) if losses else zeros(1)

    def neg_log_softmax_batch(
        self, x: Expression, c: Iterable[int], update: bool = True
    ) -> Expression:
        """The same with one word per batch element; an unbatched x serves all words. Each cluster
        of a level is computed once.

        Raises:
            ValueError: one of c is not a word of the file.
        """
        _check(x)
        ways = [self._decisions(w) for w in c]
        levels = [
            self._level(x, ways, level, update) for level in range(max(map(len, ways), default=0))
        ]
        return esum(levels) if levels else zeros(1, batch_size=len(ways))

    def _level(
        self, x: Expression, ways: list[list[tuple[_Cluster, int]]], level: int, update: bool
    ) -> Expression:
        """The losses of the decisions number `level` of all words; 0 for those that are at their
        end."""

        def losses(cluster: _Cluster, mine: Expression, where: list[int]) -> Expression:
            return self._losses(cluster, mine, [ways[at][level][1] for at in where], update)

        return _by_groups(x, [way[level][0] if level < len(way) else None for way in ways], losses)

    def sample(self, x: Expression) -> int:
        """A word drawn from p( . | x), for x without batch: branch by branch."""
        cluster = self._root
        while True:
            branch = 0
            if cluster.layer is not None:
                logits = _logits(cluster.layer, x, False)
                branch = _draw(concatenate([logits, zeros(1)]) if cluster.size() == 2 else logits)
            if cluster.words:
                return cluster.words[branch]
            cluster = list(cluster.below.values())[branch]

    def full_log_distribution(self, x: Expression, update: bool = True) -> Expression:
        """The vector of log p(w | x) by word number; -inf for words without a place."""
        _check(x)
        reached, rows = {self._root: zeros(1, batch_size=x.dim()[1])}, []
        for cluster in self._clusters():
            branches = reached.pop(cluster)
            if cluster.layer is not None:
                logits = _logits(cluster.layer, x, update)
                two = cluster.size() == 2
                branches = branches + (
                    concatenate([log_sigmoid(logits), log_sigmoid(-logits)])
                    if two
                    else log_softmax(logits)
                )
            if cluster.words:
                rows.append(branches)
            for k, below in enumerate(cluster.below.values()):
                reached[below] = pick(branches, k)
        if len(self._ways) < self.num_words:
            rows.append(inputTensor(np.full((1, x.dim()[1]), -np.inf), batched=True))
        return select_rows(concatenate(rows), self._rows)

    def full_logits(self, x: Expression, update: bool = True) -> Expression:
        """The same as full_log_distribution(): its softmax is the distribution."""
        return self.full_log_distribution(x, update)
