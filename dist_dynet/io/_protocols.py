"""What reading and writing text files needs of parameters and collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from ..params.root import Root


class ParameterLike(Protocol):
    """What is needed of a parameter or a table."""

    _root: Root
    _c: Any
    _dims: tuple[int, ...]
    _rows: int

    def name(self) -> str:
        """The full name."""

    def has_gradient(self) -> bool:
        """Whether a gradient has been accumulated."""

    def _values(self) -> NDArray[Any]: ...
    def _flat_gradient(self) -> NDArray[Any]: ...


class CollectionLike(Protocol):
    """What is needed of a collection."""

    def name(self) -> str:
        """The full name."""

    def parameters_list(self) -> Sequence[ParameterLike]:
        """The dense parameters."""

    def lookup_parameters_list(self) -> Sequence[ParameterLike]:
        """The lookup tables."""

    def _new(self, name: str, dims: tuple[int, ...], is_table: bool) -> ParameterLike: ...
    def _adopt(self, parameter: Any) -> None: ...
