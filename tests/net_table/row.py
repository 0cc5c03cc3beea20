"""What a row of the net table is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Net:
    """One builder or block in one use."""

    make: Callable[[Any], Any]
    """Makes it in a collection."""
    inputs: tuple[tuple[int, ...], ...] | list[tuple[int, ...]]
    """The dims of its inputs."""
    value: Callable[[Any, list[Any]], Any]
    """value(net, inputs): one expression that depends on all parameters that are updated, with the
    batch size of the inputs."""
    per_element: bool = True
    """Each batch element of the value depends on that of the inputs only, and in the same way."""
    unused: tuple[str, ...] = ()
    """Names of parameters that are there and have no part in the value, without the collection's
    name."""
