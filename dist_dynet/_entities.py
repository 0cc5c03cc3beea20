"""Entities in tagged sequences, and scores of how well they are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ._integers import is_one


def _checked(tags: Any, what: str) -> list[Any]:
    """The tags of a sentence.

    Raises:
        TypeError: they are no texts in a list.
        ValueError: one is of another scheme, such as BIOES.
    """
    listed = [None] if is_one(tags) or isinstance(tags, str) else [*tags]
    for tag in listed:
        if not isinstance(tag, str):
            raise TypeError(
                f"{what}: the tags of a sentence must be texts in a list; got {tags!r:.60}."
            )
        if tag[1:2] == "-" and tag[0] not in "BI":
            raise ValueError(
                f"{what}: takes BIO tags: O, B-CLASS, I-CLASS; got {tag!r:.60}. Write B- for S- and"
                " U-, and I- for E-, L- and M-."
            )
    return listed


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The entities of BIO tags: (begin, end, class), the end being behind the last word.

    An I- that continues no entity of its class begins one, as in the CoNLL evaluation.

    Raises:
        TypeError: tags are no texts in a list.
        ValueError: one is of another scheme, such as BIOES.

    >>> from dist_dynet import training
    >>> sorted(training.entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
    [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
    """
    found, begin, kind = set(), 0, None
    for t, tag in enumerate([*_checked(tags, "entities"), "O"]):
        if kind is not None and tag == (f"I-{kind}" if kind else "I"):
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
        TypeError: they are no lists of lists of texts.
        ValueError: sentences differ in number or length, or a tag is of another scheme.

    >>> from dist_dynet import training
    >>> training.entity_scores([["B-A", "I-A", "O", "B-B"]], [["B-A", "I-A", "B-B", "B-B"]])
    (0.6666666666666666, 1.0, 0.8)
    """
    for sentences in gold, guessed:
        if is_one(sentences):
            raise TypeError(
                f"entity_scores: takes lists of sentences; got {type(sentences).__name__}."
            )
    gold, guessed = ([_checked(tags, "entity_scores") for tags in of] for of in (gold, guessed))
    if len(gold) != len(guessed):
        raise ValueError(
            f"entity_scores: takes two lists of as many sentences; got {len(gold)} gold ones and"
            f" {len(guessed)} guessed."
        )
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
