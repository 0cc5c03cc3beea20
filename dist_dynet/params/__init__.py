"""Parameters: collections, the parameters in them, and their initial values."""

from .collection import LookupParameters, Model, ParameterCollection, Parameters
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
