"""Classes of a program whose specs hold more than plain data. The real DyNet has stored such
objects: tests/data/dynet_files/specs.meta."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict, namedtuple

import numpy as np


class Vocabulary:
    """Words and their numbers."""

    def __init__(self, words):
        self.words = list(words)
        self.counts = Counter(self.words)
        self.numbers = {w: i for i, w in enumerate(self.words)}

    def __len__(self):
        return len(self.words)


class Case(enum.Enum):
    """What to do with capitals."""

    KEEP = 1
    LOWER = 2


class Sizes(namedtuple("Sizes", "rows columns")):
    """Of a matrix."""

    __slots__ = ()


class Tagger:
    """Its spec is all that it was made with."""

    def __init__(self, model, vocabulary, case, sizes, options, vector):
        self.spec = {k: v for k, v in locals().items() if k not in ("self", "model")}
        self.collection = model.add_subcollection("tagger")
        self.table = self.collection.add_lookup_parameters((len(vocabulary), sizes.columns))
        self.matrix = self.collection.add_parameters(tuple(sizes))

    @classmethod
    def from_spec(cls, spec, model):
        return cls(model, **spec)

    def param_collection(self):
        return self.collection


def example(model):
    """A tagger with a spec of all sorts."""
    vocabulary = Vocabulary(["the", "dog", "barks"])
    options = OrderedDict(rate=0.5, others={Case.KEEP}, same=vocabulary)
    return Tagger(
        model,
        vocabulary,
        Case.LOWER,
        Sizes(2, 3),
        options,
        np.array([[1.5, -2.0]], dtype=np.float32),
    )
