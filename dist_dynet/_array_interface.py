"""What np.asarray(x), torch.from_dlpack(x) and the like ask of an expression."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._ffi import DTYPE, shaped, view
from ._manner import manner


class AsArray:
    """The part of an expression that other libraries read."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _computed(self, recalculate: bool) -> tuple[Any, tuple[int, ...], int]: ...

    def _as_array(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """What np.asarray(x) gives: the value in the build's number type (float32), in the form of
        npvalue().

        A copy, since the graph uses its memory again; copy=False is an error. The values of a dense
        parameter are a view that cannot be written to. No gradient flows through an array.

        >>> import dist_dynet as dy, numpy as np
        >>> _ = dy.renew_cg()
        >>> np.asarray(dy.softmax(dy.inputVector([1, 1])))
        array([0.5, 0.5], dtype=float32)
        """
        if copy is False:
            raise ValueError(
                "the value of an expression is always copied: the graph uses its memory again."
                " Leave out copy=False."
            )
        values, dims, batch = self._computed(False)
        size = batch * prod(dims)
        return shaped(view(values, size).astype(DTYPE if dtype is None else dtype), dims, batch)

    if not TYPE_CHECKING:  # checkers would take `array * x` for an array

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
            # Programs for DyNet keep expressions in arrays: np.array([E[w] for w in words]) is an
            # array of objects, whose elements go on in the graph.
            if manner.dynet and (dtype is None or np.dtype(dtype) == object):
                holder = np.empty((), object)
                holder[()] = self
                return holder
            return self._as_array(dtype, copy)

    def __dlpack__(self, *, max_version: Any = None, copy: bool | None = None, **more: Any) -> Any:
        """For torch.from_dlpack(x), jax.dlpack.from_dlpack(x) and the like: as __array__(); a view
        that cannot be written to only for those who can say so, by DLPack 1.0."""
        writable = max_version is None or tuple(max_version) < (1, 0)
        array = self._as_array(copy=True if writable and copy is None else copy)
        if not array.flags.writeable and not writable:
            return array.__dlpack__(max_version=max_version, **more)
        if not array.flags.writeable:
            raise BufferError("a parameter is only given as a view that cannot be written to.")
        return array.__dlpack__(**more)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The CPU, in DLPack's numbers."""
        return 1, 0
