"""Layer normalisation as a block with parameters of its own. layer_norm() is the operation."""

from __future__ import annotations

from typing import ClassVar

from ..expression import Expression
from ..ops import layer_norm, reshape
from ..params.collection import ParameterCollection
from .block import Block, used
from .owner import REFUSALS


class LayerNorm(Block):
    """y = g (x - mean) / std + b, elementwise; mean and std over the elements of x (Ba, Kiros and
    Hinton 2016).

    Parameters, in the subcollection layer-norm: g (dim), which starts at 1, b (dim), which starts
    at 0.

    Args:
        dim: the size of x.
        model: where the parameters go.

    Raises:
        ValueError: the size is not positive.

    >>> import dist_dynet as dy
    >>> norm = dy.LayerNorm(2, dy.ParameterCollection())
    >>> _ = dy.renew_cg()
    >>> norm(dy.inputVector([1, 3])).npvalue().round(4).tolist()
    [-1.0, 1.0]
    """

    _subcollection: ClassVar[str] = "layer-norm"
    _arguments: ClassVar[tuple[str, ...]] = ("dim",)
    _before_model: ClassVar[int] = 1

    def __init__(
        self, dim: int, model: ParameterCollection, *, precision: str | None = None
    ) -> None:
        (self.dim,) = self._sizes(dim)
        self._begin(model, precision, dim=self.dim)
        self._g = self._dense("g", self.dim, 1)
        self._b = self._dense("b", self.dim, 0)

    def __call__(self, x: Expression, update: bool = True) -> Expression:
        """The result for a vector (dim,), or for each column of a matrix by itself; with
        update=False the parameters get no gradient."""
        g, b = used(self._g, update), used(self._b, update)
        try:
            dims, batch = x.dim()
            if len(dims) != 2 or dims[1] == 1:
                return layer_norm(x, g, b)
            rows, columns = dims
            return reshape(layer_norm(reshape(x, (rows,), columns * batch), g, b), dims, batch)
        except REFUSALS:
            self._check_rows(x, self.dim)
            raise
