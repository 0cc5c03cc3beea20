"""Operations defined by the user in Python, over NumPy arrays.

The tape runs them through one callback, which holds Python's lock. This module only moves arrays in
and out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, callback, ffi, lib, view
from .._integers import numbers
from .._kept import kept
from ..expression import Expression
from ..graph import graph_of
from ..params.dims import as_dims
from ._nodes import listed, node, not_expression

__all__ = ["function"]

Array = NDArray[Any]
_RETURN = "forward and backward must return numbers"
Dims = int | Sequence[int]


class _Function:
    """An operation written in Python; call it with expressions."""

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any] | None,
        dim: Dims | Callable[..., Dims],
        batched: bool,
        name: str,
    ) -> None:
        for what, given in (("forward", forward), ("backward", backward)):
            if not callable(given) and (what == "forward" or given is not None):
                raise TypeError(
                    f"function: {what} must be a function over arrays; got {type(given).__name__}."
                )
        self.name = name or getattr(forward, "__name__", type(forward).__name__)
        self._forward, self._backward, self._batched = forward, backward, batched
        self._dim = dim if callable(dim) else as_dims(dim, self._what())

    def _what(self) -> str:
        return f"function {self.name}"

    def __repr__(self) -> str:
        return f"<{self._what()}>"

    def __call__(self, *xs: Expression) -> Expression:
        """A node that runs forward on the values of these expressions.

        Raises:
            ValueError: batch sizes that are neither equal nor 1.
        """
        inputs = listed(xs, self._what())
        if not all(isinstance(x, Expression) for x in inputs):
            raise not_expression(
                self._what(), *(x for x in inputs if not isinstance(x, Expression))
            )
        sizes = [x.dim() for x in inputs]
        dims = (
            as_dims(self._dim(*(d for d, _ in sizes)), self._what())
            if callable(self._dim)
            else self._dim
        )
        batches = {b for _, b in sizes} - {1} or {1}
        if len(batches) > 1:
            raise ValueError(
                f"{self._what()}: batch sizes must be equal or 1; got"
                f" {', '.join(str(b) for _, b in sizes)}."
            )
        number = graph_of(*(x._h for x in inputs)).keep(self)
        return node(
            "function",
            inputs,
            number,
            self._backward is not None,
            *batches,
            dims,
            what=self._what(),
        )

    def run(self, call: Any) -> None:
        """Runs forward or backward for the tape."""
        xs = [_copy(call.x[k]) for k in range(call.n)]
        many_batches = [call.x[k].dim.batch != 1 for k in range(call.n)]
        if call.backward:
            self._run_backward(call, xs, many_batches)
        else:
            self._run_forward(call, xs, many_batches)

    def _run_forward(self, call: Any, xs: list[Array], many_batches: list[bool]) -> None:
        shape, batch = _shape(call.y.dim), call.y.dim.batch
        rule = "forward must return an array of shape"
        if self._batched or batch == 1:
            result = self._fit(self._forward(*xs), shape, rule)
        else:
            result = np.empty(shape, DTYPE)
            for b in range(batch):
                one = self._forward(*_element(xs, many_batches, b))
                result[..., b] = self._fit(one, shape[:-1], rule)
        _write(call.y.value, result)

    def _run_backward(self, call: Any, xs: list[Array], many_batches: list[bool]) -> None:
        assert self._backward is not None
        y, dy, batch = _copy(call.y), _copy(call.y, gradient=True), call.y.dim.batch
        wanted = [call.x[k].gradient != ffi.NULL for k in range(call.n)]
        if self._batched or batch == 1:
            gradients = self._gradients(self._backward(xs, y, dy), xs, wanted, batch)
        else:
            gradients = [np.zeros_like(x) for x in xs]
            for b in range(batch):
                element = _element(xs, many_batches, b)
                returned = self._backward(element, y[..., b], dy[..., b])
                for k, part in enumerate(self._gradients(returned, element, wanted, 1)):
                    if many_batches[k]:
                        gradients[k][..., b] = part
                    else:
                        gradients[k] += part
        for k in range(call.n):
            if wanted[k]:
                _write(call.x[k].gradient, gradients[k])

    def _fit(self, given: Any, shape: tuple[int, ...], rule: str) -> Array:
        array: Array = numbers(given, self._what(), _RETURN)
        if array.shape == shape:
            return array
        if array.size == 1 and int(np.prod(shape)) == 1:
            return array.reshape(shape)
        raise ValueError(f"{self._what()}: {rule} {shape}; got {array.shape}.")

    def _gradients(
        self, given: Any, xs: list[Array], wanted: list[bool], batch: int
    ) -> list[Array]:
        """One array per input from what backward returned: None is zero; a batch for an input
        without one is summed."""
        if isinstance(given, np.ndarray) and len(xs) == 1:
            given = [given]
        if not isinstance(given, list | tuple) or len(given) != len(xs):
            number = (
                f"{len(given)} items" if isinstance(given, list | tuple) else type(given).__name__
            )
            raise ValueError(
                f"{self._what()}: backward must return a list of {len(xs)} gradients, one for each"
                f" input; got {number}."
            )
        result = []
        for k, (gradient, x) in enumerate(zip(given, xs, strict=True)):
            if gradient is None or not wanted[k]:
                result.append(np.zeros_like(x))
                continue
            array = numbers(gradient, self._what(), _RETURN)
            if batch != 1 and array.shape == (*x.shape, batch):
                array = array.sum(axis=-1)
            result.append(
                self._fit(
                    array, x.shape, f"backward must return for input {k} a gradient of its shape,"
                )
            )
        return result


def _shape(dim: Any) -> tuple[int, ...]:
    sizes = tuple(dim.d[0 : dim.nd])
    return sizes if dim.batch == 1 else (*sizes, dim.batch)


def _copy(array: Any, gradient: bool = False) -> Array:
    """A copy, so that the user's function never holds the tape's memory."""
    shape = _shape(array.dim)
    memory = array.gradient if gradient else array.value
    copy: Array = view(memory, int(np.prod(shape))).reshape(shape, order="F").copy(order="F")
    return copy


def _element(xs: list[Array], many_batches: list[bool], b: int) -> list[Array]:
    """Batch element b of each array."""
    return [x[..., b] if several else x for x, several in zip(xs, many_batches, strict=True)]


def _write(memory: Any, array: Array) -> None:
    if array.size:
        view(memory, array.size)[:] = array.ravel(order="F")


def _keep(_: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Keeps an exception for the Python call that C returns to. Ctrl-C may come anywhere in _run(),
    too."""
    callback.raised = error.with_traceback(traceback)


@ffi.def_extern(name="dn_python", error=lib.DN_ERROR_PYTHON, onerror=_keep)  # type: ignore[untyped-decorator]
def _run(call: Any) -> int:
    """Called by C for each forward and backward of such a node."""
    outer = callback.running
    try:
        f = kept(call.id)
        callback.running = f._what()
        f.run(call)
        return 0
    finally:
        callback.running = outer


lib.dn_set_python(lib.dn_python)


def function(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    dim: Dims | Callable[..., Dims],
    *,
    batched: bool = True,
    name: str = "",
) -> _Function:
    """y = forward(x_1, x_2, ...): an operation of your own over NumPy arrays; call the result with
    expressions to make nodes.

    Arrays are copies of the build's number type, dims as they are; where an expression has a batch
    (more than one element), it is the last axis.

    Args:
        forward: forward(x_1, x_2, ...) -> array of shape dim, with the batch as last axis if an
            input has one.
        backward: backward([x_1, x_2, ...], y, dy) -> list of gradients, one for each input and of
            its shape; None in it: no gradient. For an input without a batch a gradient with one is
            summed over it. None instead of a function: no gradient passes at all.
        dim: the dims of y: a number, a tuple, or a function dim(dims of x_1, dims of x_2, ...) that
            returns them.
        batched: False: the functions know nothing of batches; they are called for one batch element
            after another.
        name: for messages and drawings; that of `forward` if empty.

    Shape: inputs with equal batch sizes or 1 -> dim with that batch size.
    Gradient: what backward returns; dy has the shape of y. check_gradient() compares it with
    differences.
    Raises: whatever the functions raise comes out of the call that computed the node (value(),
    backward(), ...), with their lines in the traceback; the graph can still be used, and the node
    is tried again when it is asked for again. After a backward() that raised, parameters hold a
    part of the gradients: forget them with reset_gradients(). In the functions no node of this
    graph can be made or read: RuntimeError.

    >>> import dist_dynet as dy
    >>> import numpy as np
    >>> cube = dy.function(
    ...     lambda x: x**3, lambda xs, y, dy: [3 * xs[0] ** 2 * dy], lambda d: d, name="cube"
    ... )
    >>> cube(dy.inputVector([1, 2, -3])).value()
    [1.0, 8.0, -27.0]
    """
    return _Function(forward, backward, dim, batched, name)
