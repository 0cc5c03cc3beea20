"""Names of properties that DyNet's classes do not have, or have as attributes that may be set:
classes that a program for DyNet derives from them may use the names for attributes of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..nn import BiRNNBuilder
from ..nn.owner import Owner
from ..params import ParameterCollection


class FreeName(property):
    """A property that gives way to an attribute of this name once that is set on an object."""

    def __init__(self, name: str, of: Callable[[Any], Any]) -> None:
        super().__init__(of)
        self.name = name

    def __get__(self, thing: Any, cls: type | None = None) -> Any:
        own = {} if thing is None else vars(thing)
        return own[self.name] if self.name in own else super().__get__(thing, cls)

    def __set__(self, thing: Any, value: Any) -> None:
        vars(thing)[self.name] = value


FREE_NAMES: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
    (ParameterCollection, "training", lambda m: m._trains()),
    (Owner, "training", lambda owner: owner._collection._trains()),
    (BiRNNBuilder, "spec", vars(BiRNNBuilder)["spec"].fget),
    (BiRNNBuilder, "model", lambda builder: builder._collection),
)
"""The class, the name, and what it stands for until it is set."""
