"""What reading and writing text files asks of parameters and collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from ..params.root import Root


class ParameterLike(Protocol):
    """What is asked of a parameter or a table here."""

    _root: Root
    _c: Any
    _dims: tuple[int, ...]
    _rows: int

    def name(self) -> str:
        """The full name."""

    def has_gradient(self) -> bool:
        """Whether one has come."""

    def _values(self) -> NDArray[Any]: ...
    def _flat_gradient(self) -> NDArray[Any]: ...


class CollectionLike(Protocol):
    """What is asked of a collection here."""

    def name(self) -> str:
        """The full name."""

    def parameters_list(self) -> Sequence[ParameterLike]:
        """The dense ones."""

    def lookup_parameters_list(self) -> Sequence[ParameterLike]:
        """The tables."""

    def _new(self, name: str, dims: tuple[int, ...], is_table: bool) -> ParameterLike: ...
    def _adopt(self, parameter: Any) -> None: ...
