"""The base of all blocks: a subcollection for their parameters, the name of the class, and
from_spec()."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..expression import Expression
from ..params.access import parameter_node
from ..params.collection import ParameterCollection
from ..params.parameters import AnyParameter, Parameters
from .owner import Owner, items_of_spec

if TYPE_CHECKING:
    from typing_extensions import Self


class Block(Owner):
    """A part of a network with its own parameters, which dy.save() and dy.load() handle like a
    builder.

    A subclass names its subcollection and its constructor's arguments.

    >>> import dist_dynet as dy
    >>> crf = dy.CRF(dy.ParameterCollection(), 3)
    >>> isinstance(crf, Block), crf.whoami(), crf.spec
    (True, 'CRF', (3, []))
    """

    _subcollection: ClassVar[str]
    _arguments: ClassVar[tuple[str, ...]]
    """The attributes with the constructor's arguments: the items of `spec`."""
    _before_model: ClassVar[int]
    """How many of them precede the collection."""

    def _begin(
        self, model: ParameterCollection, precision: str | None = None, **sizes: int
    ) -> None:
        """Checks the sizes, given by name, and makes the subcollection."""
        if any(size < 1 for size in sizes.values()):
            given = ", ".join(f"{name}={size}" for name, size in sizes.items())
            raise ValueError(f"{self.whoami()}: sizes must be positive; got {given}.")
        self._begin_collection(model, self._subcollection, precision)

    def get_parameters(self) -> list[Parameters]:
        """The parameters, in the order given by the class.

        >>> import dist_dynet as dy
        >>> linear = dy.Linear(2, 3, dy.ParameterCollection())
        >>> [p.shape() for p in linear.get_parameters()]
        [(3, 2), (3,)]
        """
        return self._collection.parameters_list()

    @property
    def spec(self) -> tuple[Any, ...]:
        """The argument of from_spec() for an equal block."""
        return tuple(getattr(self, name) for name in self._arguments)

    @classmethod
    def from_spec(cls, spec: Sequence[Any], model: ParameterCollection) -> Self:
        """A block of this spec, with new parameters in `model`.

        Raises:
            ValueError: it has another number of items.
        """
        arguments = items_of_spec(cls, spec, ", ".join(cls._arguments))
        make: Any = cls
        n = cls._before_model
        block: Self = make(*arguments[:n], model, *arguments[n:])
        return block


def used(p: AnyParameter, update: bool) -> Expression:
    """A parameter as an expression; a constant if it is not to be updated."""
    return p if update else parameter_node(p, False)
