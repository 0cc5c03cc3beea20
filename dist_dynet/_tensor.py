"""Tensor: a value that was read, with its largest entries and samples. This module knows arrays and
nothing of graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._integers import whole

__all__ = ["Tensor"]


def _highest(log_p: NDArray[Any], u: NDArray[np.float64]) -> Any:
    """Places along the last axis, drawn with these log probabilities by means of uniform numbers
    u."""
    with np.errstate(divide="ignore"):  # u may be 0, which never wins
        return (log_p - np.log(-np.log(u))).argmax(axis=-1)


class Tensor:
    """The value of an expression at the time it was read: dims, and a batch. Made by
    Expression.tensor_value().

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> t = dy.inputVector([1, 5, 3]).tensor_value()
    >>> t.as_numpy().tolist(), t.argmax().as_numpy().tolist()
    ([1.0, 5.0, 3.0], [1])
    >>> values, indices = t.topk(num=2)
    >>> values.as_numpy().tolist(), indices.as_numpy().tolist()
    ([5.0, 3.0], [1, 2])
    >>> print(t, indices)
    <Dynet Tensor:float> <Dynet Tensor:int>
    """

    __slots__ = ("_array", "_uniform")

    def __init__(
        self,
        _array: NDArray[Any] | None = None,
        _uniform: Callable[[int], NDArray[np.float64]] | None = None,
    ) -> None:
        """`_array`: dims..., batch. `_uniform(n)`: n numbers drawn uniformly from (0, 1)."""
        if not isinstance(_array, np.ndarray) or _uniform is None:
            raise TypeError("Tensor: cannot be made directly. Use Expression.tensor_value().")
        self._array, self._uniform = _array, _uniform

    def as_numpy(self) -> NDArray[Any]:
        """A copy of the numbers (float64, or int64 where they are indices): the dims, and the batch
        as last axis if there is one.

        >>> import dist_dynet as dy
        >>> dy.inputVector([1, 5, 3]).tensor_value().as_numpy().tolist()
        [1.0, 5.0, 3.0]
        """
        array = self._array
        return (array if array.shape[-1] != 1 else array[..., 0]).copy("K")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """For np.asarray(t): as as_numpy()."""
        if copy is False:
            raise ValueError("Tensor: its numbers are always copied. Leave out copy=False.")
        return self.as_numpy() if dtype is None else self.as_numpy().astype(dtype)

    def _one(self, kind: str, kinds: str) -> Any:
        if self._array.size != 1 or self._array.dtype.kind not in kinds:
            of = "integers" if self._array.dtype.kind == "i" else "them"
            raise TypeError(
                f"Tensor: must hold one {kind}; got {self.as_numpy().shape} of {of}. Use"
                " as_numpy()."
            )
        return self._array.item()

    def __index__(self) -> int:
        """For names[t], E[t] and int(t): the single integer that it holds."""
        index: int = self._one("integer", "i")
        return index

    def __float__(self) -> float:
        """For float(t): the single number that it holds."""
        return float(self._one("number", "if"))

    def __eq__(self, other: object) -> Any:
        """Compares the numbers, as NumPy does; True or False for a single one."""
        if not isinstance(other, Tensor | int | float | np.number | np.ndarray | list | tuple):
            return NotImplemented
        equal = self.as_numpy() == np.asarray(other)
        return bool(equal) if np.size(equal) == 1 else equal

    __hash__ = object.__hash__

    def _axis(self, what: str, dim: int, num: int) -> tuple[int, int]:
        dims = self._array.shape[:-1]
        dim, num = whole(dim, what, "dim"), whole(num, what, "num")
        if not 0 <= dim < len(dims):
            raise ValueError(
                f"{what}: dim {dim} is not a dim of {dims}. Dims run from 0 to {len(dims) - 1}."
            )
        if num < 1:
            raise ValueError(f"{what}: num must be positive; got {num}.")
        return dim, num

    def _vector(self, dim: int, num: int) -> tuple[NDArray[Any] | None, int]:
        """For the usual case of one index along a vector: its numbers, and the place of the first
        largest one. Otherwise None; also if there is no number above -inf, or NaN among them, since
        NumPy takes that for the largest."""
        array = self._array
        if type(dim) is int and dim == 0 and type(num) is int and num == 1 and array.ndim == 2:
            n, batch = array.shape
            if batch == 1 and n:
                place = int(array.argmax())
                if array[place, 0] > -np.inf:
                    return array[:, 0], place
        return None, -1

    def _largest(self, what: str, dim: int, num: int) -> NDArray[np.int64]:
        """Indices of the num largest entries along dim, in decreasing order. Of equal ones the
        first counts; NaN is less than all numbers."""
        numbers, place = self._vector(dim, num)
        if numbers is not None:
            return np.array([[place]], np.int64)
        dim, num = self._axis(what, dim, num)
        if num > self._array.shape[dim]:
            raise ValueError(
                f"{what}: num must be at most {self._array.shape[dim]}, the size of dim {dim}; got"
                f" {num}."
            )
        keys = (
            np.where(np.isnan(self._array), -np.inf, self._array)
            if self._array.dtype.kind == "f"
            else self._array
        )
        if num == 1:
            return np.asarray(np.argmax(keys, axis=dim, keepdims=True), np.int64)
        return np.take(np.argsort(-keys, axis=dim, kind="stable"), range(num), axis=dim)

    def argmax(self, dim: int = 0, num: int = 1) -> Tensor:
        """The indices of the num largest entries along dim, in decreasing order; dim then has size
        num. Of equal entries the first counts.

        Raises:
            ValueError: there is no such dim, or num is not in 1 .. its size.

        >>> import dist_dynet as dy
        >>> t = dy.inputTensor([[1, 8], [5, 2]]).tensor_value()
        >>> t.argmax().as_numpy().tolist(), t.argmax(dim=1).as_numpy().tolist()
        ([[1, 0]], [[1], [0]])
        """
        return Tensor(self._largest("argmax", dim, num), self._uniform)

    def topk(self, dim: int = 0, num: int = 1) -> tuple[Tensor, Tensor]:
        """The num largest entries along dim in decreasing order, and their indices; dim then has
        size num.

        Raises:
            ValueError: there is no such dim, or num is not in 1 .. its size.

        >>> import dist_dynet as dy
        >>> values, indices = dy.inputVector([1, 5, 3]).tensor_value().topk(num=2)
        >>> values.as_numpy().tolist(), indices.as_numpy().tolist()
        ([5.0, 3.0], [1, 2])
        """
        indices = self._largest("topk", dim, num)
        values = np.take_along_axis(self._array, indices, whole(dim, "topk", "dim"))
        return Tensor(values, self._uniform), Tensor(indices, self._uniform)

    def categorical_sample_log_prob(self, dim: int = 0, num: int = 1) -> Tensor:
        """Indices along dim drawn with probability exp(entry) / sum exp(entries), num of them,
        independently; dim then has size num.

        As argmax(entry + g) with g = -log(-log u), u uniform in (0, 1). reset_random_seed()
        repeats the draws.

        Raises:
            ValueError: there is no such dim; or NaN, or nothing but -inf, among the entries of a
                draw.

        >>> import dist_dynet as dy
        >>> log_p = dy.log(dy.inputVector([0, 1, 0])).tensor_value()
        >>> log_p.categorical_sample_log_prob(num=3).as_numpy().tolist()
        [1, 1, 1]
        """
        numbers, _ = self._vector(dim, num)
        if numbers is not None:
            return Tensor(
                np.array([[_highest(numbers, self._uniform(len(numbers)))]]), self._uniform
            )
        dim, num = self._axis("categorical_sample_log_prob", dim, num)
        log_p = np.moveaxis(self._array, dim, -1)[..., None, :]
        if log_p.shape[-1] == 0 or not (np.max(log_p, axis=-1, initial=-np.inf) > -np.inf).all():
            raise ValueError(
                "categorical_sample_log_prob: entries must be log probabilities, not all of them"
                " -inf, none NaN."
            )
        shape = (*self._array.shape, num)
        u = np.moveaxis(self._uniform(int(np.prod(shape))).reshape(shape, order="F"), dim, -1)
        return Tensor(np.moveaxis(_highest(log_p, u), -1, dim), self._uniform)

    def __repr__(self) -> str:
        return f"<Dynet Tensor:{'int' if self._array.dtype.kind == 'i' else 'float'}>"

    __str__ = __repr__
