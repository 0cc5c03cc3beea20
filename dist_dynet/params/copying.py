"""Pickles of earlier versions look here for the functions that rebuild roots and parameters."""

from .parameters import rebuilt_parameter
from .root import rebuilt_root

__all__ = ["rebuilt_parameter", "rebuilt_root"]
