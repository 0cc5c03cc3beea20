"""Parameters: collections, the parameters in them, and their initial values."""

from .collection import Model, ParameterCollection
from .initializers import (
    ConstInitializer,
    FromFileInitializer,
    GlorotInitializer,
    HeInitializer,
    IdentityInitializer,
    NormalInitializer,
    NumpyInitializer,
    PyInitializer,
    SaxeInitializer,
    UniformInitializer,
)
from .parameters import LookupParameters, Parameters

__all__ = [
    "ConstInitializer",
    "FromFileInitializer",
    "GlorotInitializer",
    "HeInitializer",
    "IdentityInitializer",
    "LookupParameters",
    "Model",
    "NormalInitializer",
    "NumpyInitializer",
    "ParameterCollection",
    "Parameters",
    "PyInitializer",
    "SaxeInitializer",
    "UniformInitializer",
]


def __dir__() -> list[str]:
    return sorted(__all__)
