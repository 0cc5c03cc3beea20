"""Saving and loading: DyNet's text format of parameters, and builders with their parameters in one go."""

from .objects import load, load_generator, save

__all__ = ["load", "load_generator", "save"]
