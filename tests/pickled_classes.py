"""Classes of a program whose objects lie in files: `calls` tells what of them was called, which
while a file is read is to be nothing."""

from __future__ import annotations

import collections
import copyreg
import enum
from collections import namedtuple

import numpy as np

calls = []


class Layer:
    """A class of a program's own, with one parameter and any spec."""

    def __init__(self, model, spec):
        self.spec = spec
        self.collection = model.add_subcollection("layer")
        self.collection.add_parameters(2)

    @classmethod
    def from_spec(cls, spec, model):
        return cls(model, spec)

    def param_collection(self):
        return self.collection


class Vocabulary:
    def __init__(self, words):
        calls.append("init")
        self.words = words


class Slotted:
    __slots__ = ("__hidden", "words")

    def __init__(self):
        self.words, self.__hidden = ["a"], 3

    def hidden(self):
        return self.__hidden


class Watched:
    """Does something whenever it is asked."""

    def __new__(cls, *args):
        calls.append("new")
        return super().__new__(cls)

    def __setattr__(self, name, value):
        calls.append("setattr")
        super().__setattr__(name, value)

    @property
    def size(self):
        return None

    @size.setter
    def size(self, value):
        calls.append("property")

    def __getattribute__(self, name):
        calls.append(name)
        return super().__getattribute__(name)

    def __hash__(self):
        calls.append("hash")
        return 1

    def __eq__(self, other):
        calls.append("eq")
        return True

    def __repr__(self):
        calls.append("repr")
        return ""

    def append(self, item):
        calls.append("append")

    extend = __setitem__ = append


class Restoring:
    def __setstate__(self, state):
        calls.append("setstate")


class Closing:
    def __del__(self):
        calls.append("del")


class Numbers(dict):
    def __setitem__(self, key, value):
        calls.append("setitem")


class Words(list):
    def append(self, item):
        calls.append("append")

    extend = append


class Factory(collections.defaultdict):
    pass


class Point(namedtuple("Point", "x y")):
    __slots__ = ()

    def __new__(cls, x, y):
        calls.append("point")
        return super().__new__(cls, x, y)


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"

    @classmethod
    def _missing_(cls, value):
        calls.append("missing")


class Mode(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


class Level(enum.IntEnum):
    LOW = 1


class Derived(np.ndarray):
    """Of a class that only NumPy can make."""

    def __new__(cls, shape):
        return np.zeros(shape).view(cls)

    def __reduce__(self):
        return copyreg.__newobj__, (Derived, self.shape)


class Laid(Exception):  # noqa: N818
    """Its objects are laid out as those of a built-in class."""


class Host:
    class Inner:
        pass


def filled(cls, **attributes):
    """An object whose attributes are set past all that its class does then."""
    thing = object.__new__(cls)
    for name, value in attributes.items():
        object.__setattr__(thing, name, value)
    return thing
