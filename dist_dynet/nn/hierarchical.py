"""The hierarchical softmax: a word's probability is a product of choices on the path through a tree
of clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .._file_names import FileName
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
from ..params.collection import ParameterCollection
from .owner import items_of_spec
from .softmax import SoftmaxBuilder, _by_groups, _draw, _entry_of, _Layer, _words

_Leaves = list[tuple[list[str], list[int]]]
"""The symbols of the path to a cluster, and its words."""


class _Cluster:
    """A node of the tree, which has either child clusters, by their symbols, or words."""

    __slots__ = ("children", "layer", "path", "words")

    def __init__(self, path: str = "") -> None:
        self.path = path
        self.children: dict[str, _Cluster] = {}
        self.words: list[int] = []
        self.layer: _Layer | None = None

    def size(self) -> int:
        """The number of choices."""
        return len(self.children) or len(self.words)


def _read(cluster_file: FileName, dic: Mapping[str, int]) -> _Leaves:
    """The clusters that have words, in order of first occurrence in the file."""
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
    b_k)_i over the clusters k on the path to w.

    i is the branch taken, at the last cluster the word. A cluster of two branches has one row:
    p(first) = logistic(W_k x + b_k). The loss of a word costs as many products as its path has
    clusters, which with a balanced tree is the logarithm of the number of words. Parameters, in the
    subcollection hierarchical-softmax-builder, of each cluster of more than one branch, a cluster
    before its children: W_k (branches, input_dim) and, with bias, b_k; for two branches (1,
    input_dim) and (1). Clusters and words have the order of the file.

    Args:
        input_dim: the size of x.
        cluster_file: lines SYMBOLS<tab>WORD or SYMBOLS<tab>WORD<tab>COUNT, the symbols of the path
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
        self._routes: dict[int, list[tuple[_Cluster, int]]] = {}
        for path, members in leaves:
            self._place(path, members)
        super().__init__(input_dim, pc, bias, precision)
        for path, members in leaves:
            route = self._route(path)
            for k, word in enumerate(members):
                self._routes[word] = [
                    (cluster, i)
                    for cluster, i in [*route[:-1], (route[-1][0], k)]
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
            cluster = cluster.children.setdefault(symbol, _Cluster(f"{cluster.path}{symbol}/"))
        if cluster.words or cluster.children:
            raise ValueError(
                "HierarchicalSoftmaxBuilder: a cluster has words or clusters; got both at"
                f" {' '.join(path)!r:.100}."
            )
        cluster.words = members
        for word in members:
            if word in self._routes or word < 0 or members.count(word) > 1:
                raise ValueError(
                    f"HierarchicalSoftmaxBuilder: a word has one place; got word {word} again at"
                    f" {' '.join(path)!r:.100}."
                )
            self._routes[word] = []

    def _route(self, path: list[str]) -> list[tuple[_Cluster, int]]:
        """The clusters from the root to the last one, and the branch taken at each except the
        last."""
        route, cluster = [], self._root
        for symbol in path:
            route.append((cluster, list(cluster.children).index(symbol)))
            cluster = cluster.children[symbol]
        return [*route, (cluster, 0)]

    def _clusters(self) -> list[_Cluster]:
        """All clusters, parents before children."""
        found, waiting = [], [self._root]
        while waiting:
            cluster = waiting.pop()
            found.append(cluster)
            waiting += reversed(cluster.children.values())
        return found

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal builder."""
        return self.input_dim, self.leaves, self.num_words, self.bias

    @classmethod
    def from_spec(
        cls, spec: Sequence[Any], model: ParameterCollection
    ) -> HierarchicalSoftmaxBuilder:
        """A builder of this spec, with new parameters in `model`."""
        builder = cls.__new__(cls)
        names = "input_dim, leaves, words, bias"
        input_dim, leaves, words, bias = items_of_spec(cls, spec, names)
        builder._build(input_dim, leaves, words, model, bias)
        return builder

    def _losses(
        self, cluster: _Cluster, x: Expression, branches: list[int], update: bool
    ) -> Expression:
        """-log p(branch | cluster, x), one branch per batch element."""
        assert cluster.layer is not None
        logits = self._logits(cluster.layer, x, update)
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
            self._losses(cluster, x, [branch], update)
            for cluster, branch in _entry_of(c, self._routes)
        ]
        return esum(losses) if losses else zeros(1)

    def neg_log_softmax_batch(
        self, x: Expression, c: Iterable[int], update: bool = True
    ) -> Expression:
        """The same with one word per batch element. An unbatched x is used for all words. Each
        cluster of a level is computed once.

        Raises:
            ValueError: one of c is not a word of the file.
        """
        self._check_rows(x, self.input_dim)
        routes = [_entry_of(w, self._routes) for w in c]
        levels = [
            self._level(x, routes, level, update)
            for level in range(max(map(len, routes), default=0))
        ]
        return esum(levels) if levels else zeros(1, batch_size=len(routes))

    def _level(
        self, x: Expression, routes: list[list[tuple[_Cluster, int]]], level: int, update: bool
    ) -> Expression:
        """The losses of the decisions at this level for all words; 0 for words whose path has
        ended."""

        def losses(cluster: _Cluster, mine: Expression, where: list[int]) -> Expression:
            return self._losses(cluster, mine, [routes[at][level][1] for at in where], update)

        return _by_groups(
            x, [route[level][0] if level < len(route) else None for route in routes], losses
        )

    def sample(self, x: Expression) -> int:
        """A word drawn from p( . | x), for x without batch: branch by branch."""
        cluster = self._root
        while True:
            branch = 0
            if cluster.layer is not None:
                logits = self._logits(cluster.layer, x, False)
                branch = _draw(concatenate([logits, zeros(1)]) if cluster.size() == 2 else logits)
            if cluster.words:
                return cluster.words[branch]
            cluster = list(cluster.children.values())[branch]

    def full_log_distribution(self, x: Expression, update: bool = True) -> Expression:
        """The vector of log p(w | x) by word number; -inf for words without a place."""
        self._check_rows(x, self.input_dim)
        reached, rows = {self._root: zeros(1, batch_size=x.dim()[1])}, []
        for cluster in self._clusters():
            branches = reached.pop(cluster)
            if cluster.layer is not None:
                logits = self._logits(cluster.layer, x, update)
                two = cluster.size() == 2
                branches = branches + (
                    concatenate([log_sigmoid(logits), log_sigmoid(-logits)])
                    if two
                    else log_softmax(logits)
                )
            if cluster.words:
                rows.append(branches)
            for k, child in enumerate(cluster.children.values()):
                reached[child] = pick(branches, k)
        if len(self._routes) < self.num_words:
            rows.append(inputTensor(np.full((1, x.dim()[1]), -np.inf), batched=True))
        return select_rows(concatenate(rows), self._rows)

    def full_logits(self, x: Expression, update: bool = True) -> Expression:
        """As full_log_distribution(), whose softmax is the distribution."""
        return self.full_log_distribution(x, update)
