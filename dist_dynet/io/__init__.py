"""Saving and loading: DyNet's text format of parameters, builders with their parameters in one go,
and safetensors, the fast format."""

from .objects import load, load_generator, save
from .safetensors import LoadReport, load_safetensors, save_safetensors

__all__ = ["LoadReport", "load", "load_generator", "load_safetensors", "save", "save_safetensors"]


def __dir__() -> list[str]:
    return sorted(__all__)
