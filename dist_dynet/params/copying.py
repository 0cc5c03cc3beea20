"""Where pickles of earlier versions look for what makes roots and parameters again."""

from .parameters import rebuilt_parameter
from .root import rebuilt_root

__all__ = ["rebuilt_parameter", "rebuilt_root"]
