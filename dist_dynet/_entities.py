"""Entities in sequences of tags, and how well they are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The entities of BIO tags: (begin, end, class), the end being behind the last word.

    An I- that continues no entity of its class begins one, as in the CoNLL evaluation.

    >>> from dist_dynet import training
    >>> sorted(training.entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
    [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
    """
    found, begin, kind = set(), 0, None
    for t, tag in enumerate([*tags, "O"]):
        if kind is not None and tag == f"I-{kind}":
            continue
        if kind is not None:
            found.add((begin, t, kind))
        begin, kind = t, None if tag == "O" else tag.partition("-")[2]
    return found


def entity_scores(
    gold: Iterable[Sequence[str]], guessed: Iterable[Sequence[str]]
) -> tuple[float, float, float]:
    """(precision, recall, F1) of whole entities over all sentences, from their BIO tags: an entity
    is right if begin, end and class are. Without entities each is 0.

    Raises:
        ValueError: sentences differ in number or length.

    >>> from dist_dynet import training
    >>> training.entity_scores([["B-A", "I-A", "O", "B-B"]], [["B-A", "I-A", "B-B", "B-B"]])
    (0.6666666666666666, 1.0, 0.8)
    """
    right = found = wanted = 0
    for ours, theirs in zip(guessed, gold, strict=True):
        if len(ours) != len(theirs):
            raise ValueError(
                f"entity_scores: a sentence has {len(theirs)} gold tags and {len(ours)} guessed."
            )
        mine, true = entities(ours), entities(theirs)
        right, found, wanted = right + len(mine & true), found + len(mine), wanted + len(true)
    return (
        right / found if found else 0.0,
        right / wanted if wanted else 0.0,
        2 * right / (found + wanted) if found + wanted else 0.0,
    )
