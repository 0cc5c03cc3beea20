"""The linear-chain conditional random field: the tags of a sequence are chosen jointly, not one by
one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .._integers import indices, items_of
from ..expression import Expression
from ..graph import this_graph
from ..ops import concatenate_cols, inputTensor
from ..ops._nodes import listed, node
from ..params.collection import ParameterCollection
from .block import Block, used
from .owner import REFUSALS, items_of_spec

_CRF, _VITERBI = "crf", "crf_viterbi"

Tag = int | str
"""The number of a tag, or its name."""
Emissions = Expression | Sequence[Expression]
"""A matrix (tags, steps), or a vector (tags,) for each step."""


class CRF(Block):
    """A linear-chain conditional random field (Lafferty, McCallum and Pereira 2001): p(v | E) =
    exp(score(v)) / Z over all tag sequences v.

    score(v) = start_v1 + sum over t of E_(v_t, t) + sum over t > 1 of A_(v_(t-1), v_t) + stop_vT,
    with the emissions E of a network. Losses and scores are one node each, of the time O(steps
    tags^2). Parameters, in the subcollection crf: A (tags, tags), from the row's tag to the
    column's; start (tags); stop (tags); all start at 0.

    Args:
        model: where the parameters go.
        tags: how many, or their names.
        forbidden: pairs (from, to) of tags that never follow one another; (None, tag): never first;
            (tag, None): never last.

    Raises:
        ValueError: no tags, a name twice, or a pair of unknown tags.

    >>> import dist_dynet as dy
    >>> crf = dy.CRF(dy.ParameterCollection(), ["O", "B", "I"], forbidden=[("O", "I"), (None, "I")])
    >>> _ = dy.renew_cg()
    >>> emissions = dy.inputTensor(
    ...     [[1, 0, 0], [0, 0, 2], [0, 3, 1]]
    ... )  # a row for each tag, a column for each step
    >>> path, score = crf.viterbi(emissions)
    >>> path, score.value(), round(crf.neg_log_likelihood(emissions, path).value(), 4)
    ([1, 2, 1], 5.0, 0.689)
    """

    _subcollection: ClassVar[str] = "crf"

    def __init__(
        self,
        model: ParameterCollection,
        tags: int | Sequence[str],
        forbidden: Iterable[tuple[Tag | None, Tag | None]] = (),
        *,
        precision: str | None = None,
    ) -> None:
        named = (
            isinstance(tags, Iterable)
            and not isinstance(tags, str)
            and not (isinstance(tags, np.ndarray) and tags.dtype.kind in "biuf")
        )
        self.names: list[str] | None = list(tags) if named else None  # type: ignore[arg-type]
        (self.tags,) = self._sizes(tags if self.names is None else len(self.names))
        are_texts = all(isinstance(name, str) for name in self.names or ())
        self._by_name = {name: k for k, name in enumerate(self.names or ()) if are_texts}
        if self.names is not None and len(self._by_name) < self.tags:
            raise ValueError(f"CRF: each tag must have a name of its own; got {self.names!r:.200}.")
        self.forbidden = sorted(
            {self._pair(pair) for pair in items_of(forbidden, "CRF", "forbidden pairs of tags")}
        )
        self._begin(model, precision, tags=self.tags)
        add, n = self._dense, self.tags
        self._parameters = add("A", (n, n), 0), add("start", n, 0), add("stop", n, 0)
        self._now: tuple[object, bool, tuple[Expression, ...]] | None = None

    @staticmethod
    def bio(tags: Sequence[str]) -> list[tuple[str | None, str]]:
        """The pairs that never follow each other in BIO tags, for `forbidden`: I-x is neither first
        nor after any tag but B-x and I-x. Tags without these prefixes are unrestricted.

        Raises:
            TypeError: a tag is not a text.

        >>> import dist_dynet as dy
        >>> tags = ["O", "B-PER", "I-PER"]
        >>> dy.CRF.bio(tags)
        [(None, 'I-PER'), ('O', 'I-PER')]
        >>> crf = dy.CRF(dy.ParameterCollection(), tags, forbidden=dy.CRF.bio(tags))
        """
        tags = items_of(tags, "CRF.bio", "a list of tags")
        for tag in tags:
            if not isinstance(tag, str):
                raise TypeError(f"CRF.bio: tags must be texts; got {tag!r:.60}.")
        return [
            (before, tag)
            for tag in tags
            if tag.startswith("I-")
            for before in (None, *tags)
            if before not in (tag, f"B-{tag[2:]}")
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_now": None}  # expressions belong to the original

    def _number(self, tag: Tag) -> int:
        """The number of a tag."""
        if isinstance(tag, str):
            if self.names is None or tag not in self._by_name:
                raise ValueError(
                    f"CRF: tags are {self.names or f'0 to {self.tags - 1}'!r:.200}; got"
                    f" {tag!r:.100}."
                )
            return self._by_name[tag]
        return self._indices([tag], self.tags, "tags")[0]

    def _pair(self, pair: tuple[Tag | None, Tag | None]) -> tuple[int, int]:
        """The numbers of a forbidden pair, -1 for None."""
        tags = items_of(pair, "CRF", "forbidden pairs of tags")
        if len(tags) != 2:
            raise ValueError(f"CRF: takes forbidden pairs of tags; got {pair!r:.60}.")
        a, b = tags
        if a is None and b is None:
            raise ValueError("CRF: a forbidden pair must have a tag; got (None, None).")
        return -1 if a is None else self._number(a), -1 if b is None else self._number(b)

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal block."""
        return self.names or self.tags, self.forbidden

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> CRF:
        """A block of this spec, with new parameters in `model`.

        Raises:
            ValueError: it has another number of items, or `forbidden` are no pairs of numbers.
        """
        tags, forbidden = items_of_spec(cls, spec, "tags, forbidden")
        try:
            pairs = [(None if a < 0 else a, None if b < 0 else b) for a, b in forbidden]
        except (TypeError, ValueError):
            raise ValueError(
                f"{cls.__name__}.from_spec: forbidden must be pairs of numbers; got"
                f" {forbidden!r:.60}."
            ) from None
        return cls(model, tags, pairs)

    # ---- what the nodes get ------------------------------------------------------------

    def _masks(self) -> tuple[NDArray[np.float64], ...]:
        """The terms added to A, start and stop: -inf for what is forbidden."""
        n = self.tags
        pairs, start, stop = np.zeros((n, n)), np.zeros(n), np.zeros(n)
        for a, b in self.forbidden:
            if a < 0:
                start[b] = -np.inf
            elif b < 0:
                stop[a] = -np.inf
            else:
                pairs[a, b] = -np.inf
        return pairs, start, stop

    def _transitions(self, update: bool) -> tuple[Expression, ...]:
        """A, start and stop: the same expressions throughout a graph, so that its sequences can be
        batched."""
        parameters = tuple(used(p, update) for p in self._parameters)
        if not self.forbidden:
            return parameters
        graph = this_graph()
        if self._now is not None and self._now[:2] == (graph, update):
            try:
                self._now[2][0].dim()
                return self._now[2]
            except RuntimeError:  # cg_revert() removed them
                pass
        made = tuple(
            p + inputTensor(mask) for p, mask in zip(parameters, self._masks(), strict=True)
        )
        self._now = graph, update, made
        return made

    def _matrix(self, emissions: Emissions) -> Expression:
        if isinstance(emissions, Expression):
            self._check_rows(emissions, self.tags, "emissions")
            return emissions
        if isinstance(emissions, Sequence) and not emissions:
            raise ValueError(
                "CRF: there must be at least one step; got an empty list of emissions. Leave the"
                " sentence out."
            )
        xs = listed(emissions, "CRF")
        try:
            matrix = concatenate_cols(xs)
        except REFUSALS:
            for x in xs:
                self._check_rows(x, self.tags, "emissions")
            raise
        self._check_rows(matrix, self.tags, "emissions")
        return matrix

    def _node(
        self,
        op: str,
        emissions: Expression,
        rows: list[list[int]] | None,
        lengths: Sequence[int] | None,
        weights: Sequence[float],
        update: bool,
    ) -> Expression:
        return node(
            op,
            *self._transitions(update),
            emissions,
            self._ints(emissions, rows, lengths),
            weights,
            what="crf",
        )

    def _ints(
        self, emissions: Expression, rows: list[list[int]] | None, lengths: Sequence[int] | None
    ) -> list[int]:
        """The tags in the form of the node: those of one sequence after another (0 where any will
        do), -1 beyond the ends."""
        if rows is None and lengths is None:
            return []
        (_, *more), batch = emissions.dim()
        steps = more[0] if more else 1
        ends = [steps] * batch if lengths is None else indices(lengths, "CRF")
        if len(ends) != batch or not all(1 <= n <= steps for n in ends):
            raise ValueError(
                f"CRF: lengths must be one for each of {batch} sequences, from 1 to {steps}; got"
                f" {ends!r:.200}."
            )
        if rows is None:
            rows = [[0] * n for n in ends]
        if len(rows) != batch or any(
            len(row) < n if lengths is not None else len(row) != n
            for row, n in zip(rows, ends, strict=True)
        ):
            raise ValueError(
                f"CRF: takes a tag for each step; got {[len(row) for row in rows]!r:.200} tags for"
                f" {ends!r:.200} steps."
            )
        return [
            v for row, n in zip(rows, ends, strict=True) for v in [*row[:n], *[-1] * (steps - n)]
        ]

    def _rows(self, tags: Sequence[Tag] | Sequence[Sequence[Tag]]) -> list[list[int]]:
        """The tags as numbers, a list for each sequence."""
        try:
            rows: list[Any] = [
                row if isinstance(row, str | int | np.integer) else list(row) for row in tags
            ]
        except TypeError:
            raise TypeError(
                f"CRF: takes a list of tags, or of lists of tags; got {tags!r:.100}."
            ) from None
        if not rows or not isinstance(rows[0], list):
            rows = [rows]
        return [list(self._numbers(row)) for row in rows]

    def _numbers(self, row: list[Tag]) -> Sequence[int]:
        """The numbers of these tags. Tags that are numbers already are checked all at once."""
        if any(isinstance(tag, str) for tag in row):
            return [self._number(tag) for tag in row]
        return self._indices(row, self.tags, "tags")  # type: ignore[arg-type]

    # ---- losses and scores -------------------------------------------------------------

    def neg_log_likelihood(
        self,
        emissions: Emissions,
        tags: Sequence[Tag] | Sequence[Sequence[Tag]],
        lengths: Sequence[int] | None = None,
        update: bool = True,
    ) -> Expression:
        """The loss log Z - score(tags).

        Args:
            emissions: a matrix (tags, steps), or a vector (tags,) for each step; batched or not.
            tags: a tag for each step; of a batch, a list for each element.
            lengths: of a padded batch, how many steps of each element count. What lies beyond gets
                no gradient, and its tags may be anything.
            update: False: the parameters get no gradient.

        Shape: (1,), batched like the emissions.
        Gradient: dE_jt = dy (p(v_t = j) - [tags_t = j]); dA likewise with the probabilities and
        counts of neighbouring pairs.

        Raises:
            ValueError: a tag is unknown, or numbers of tags and steps differ.

        >>> import dist_dynet as dy
        >>> crf = dy.CRF(dy.ParameterCollection(), 2)
        >>> _ = dy.renew_cg()
        >>> loss = crf.neg_log_likelihood(dy.zeros((2, 3)), [0, 1, 1])
        >>> round(loss.value(), 4)  # log 8: all sequences are alike
        2.0794
        """
        return self._node(
            _CRF, self._matrix(emissions), self._rows(tags), lengths, (1.0, -1.0), update
        )

    def score(
        self,
        emissions: Emissions,
        tags: Sequence[Tag] | Sequence[Sequence[Tag]],
        lengths: Sequence[int] | None = None,
        update: bool = True,
    ) -> Expression:
        """The score of a tag sequence; arguments as of neg_log_likelihood().

        >>> import dist_dynet as dy
        >>> crf = dy.CRF(dy.ParameterCollection(), 2)
        >>> _ = dy.renew_cg()
        >>> crf.score(dy.inputTensor([[1, 2, 4], [8, 16, 32]]), [0, 1, 0]).value()
        21.0
        """
        return self._node(
            _CRF, self._matrix(emissions), self._rows(tags), lengths, (0.0, 1.0), update
        )

    def log_partition(
        self, emissions: Emissions, lengths: Sequence[int] | None = None, update: bool = True
    ) -> Expression:
        """log Z: the log sum exp of the scores of all tag sequences. Its gradient to the emissions
        is p(v_t = j | E).

        >>> import dist_dynet as dy
        >>> crf = dy.CRF(dy.ParameterCollection(), 2)
        >>> _ = dy.renew_cg()
        >>> round(crf.log_partition(dy.zeros((2, 3))).value(), 4)  # log 8
        2.0794
        """
        return self._node(_CRF, self._matrix(emissions), None, lengths, (1.0, 0.0), update)

    def viterbi(
        self, emissions: Emissions, lengths: Sequence[int] | None = None, update: bool = True
    ) -> tuple[Any, Expression]:
        """The best tag sequence and its score, which computes both; of a batch, a list of
        sequences.

        The score is an expression with a gradient, so score - crf.score(emissions, tags) is the
        loss of the structured perceptron. Of equal scores, the sequence that ends with the lowest
        tag wins.

        >>> import dist_dynet as dy
        >>> crf = dy.CRF(dy.ParameterCollection(), 2)
        >>> _ = dy.renew_cg()
        >>> path, score = crf.viterbi(dy.inputTensor([[1, 2, 4], [3, 0, 1]]))
        >>> path, score.value()
        ([1, 0, 0], 9.0)
        """
        E = self._matrix(emissions)
        node = self._node(_VITERBI, E, None, lengths, (), update)
        steps, batch = node.dim()[0][0], node.dim()[1]
        best = node.npvalue().reshape((steps, batch), order="F").astype(int)
        paths = [[int(v) for v in column if v >= 0] for column in best.T]
        score = self._node(_CRF, E, paths, lengths, (0.0, 1.0), update)
        return paths[0] if batch == 1 else paths, score

    def decode(self, emissions: Emissions, lengths: Sequence[int] | None = None) -> Any:
        """The best tag sequence as a list, of names if the tags have names; of a batch, a list of
        lists. For an empty sentence an empty list.

        >>> import dist_dynet as dy
        >>> crf = dy.CRF(dy.ParameterCollection(), ["N", "V"])
        >>> _ = dy.renew_cg()
        >>> crf.decode(dy.inputTensor([[1, 2, 4], [3, 0, 1]]))
        ['V', 'N', 'N']
        """
        if isinstance(emissions, Sequence) and not emissions:
            return []
        paths, score = self.viterbi(emissions, lengths, update=False)
        if self.names is None:
            return paths
        names = self.names
        return (
            [names[v] for v in paths]
            if score.dim()[1] == 1
            else [[names[v] for v in path] for path in paths]
        )
