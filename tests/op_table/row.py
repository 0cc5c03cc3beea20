"""What a row of the op table is. A new operation is tested by one Row in the module of its family.

Arrays are in the form dims..., batch: the batch is always the last axis, of size 1 where there is
none. A row's `build` gets expressions (or what the input's kind says) and returns an expression;
its `reference` gets the arrays and returns the array that the expression must have.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Input:
    """The dims and batch size of an input, and what `build` gets for it.

    "tensor": an expression; a parameter or a plain input, as the test likes. "parameter": a
    Parameters object. "table": LookupParameters; the last of dims counts the rows. "data": the
    array itself, without the batch axis where it has none.
    """

    dims: tuple[int, ...]
    batch: int = 1
    kind: str = "tensor"

    @property
    def shape(self):
        return (*self.dims, self.batch)


def tensor(*dims, batch=1):
    return Input(dims, batch)


def parameter(*dims):
    return Input(dims, 1, "parameter")


def table(rows, *dims):
    return Input((*dims, rows), 1, "table")


def data(*dims, batch=1):
    return Input(dims, batch, "data")


@dataclass(frozen=True)
class Case:
    """Inputs and the attributes that build and reference are called with as keywords."""

    inputs: tuple[Input, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self):
        parts = [
            "".join(
                [
                    i.kind[0] if i.kind != "tensor" else "",
                    "x".join(map(str, i.dims)),
                    f"b{i.batch}" * (i.batch != 1),
                ]
            )
            for i in self.inputs
        ]
        return (
            ",".join([*parts, *(f"{k}={v}".replace(" ", "") for k, v in self.attributes.items())])
            or "plain"
        )

    @property
    def batch(self):
        return max((i.batch for i in self.inputs), default=1)


def case(*inputs, **attributes):
    return Case(inputs, attributes)


@dataclass(frozen=True)
class Extreme:
    """Inputs of one-dimensional values (tensors without batch) at the edge, and the value and
    gradients (None: any) they must give."""

    name: str
    inputs: tuple[list[float], ...]
    value: list[float]
    gradients: tuple[list[float] | None, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


def extreme(name, *inputs, value, gradients=(), **attributes):
    return Extreme(name, inputs, value, tuple(gradients), attributes)


@dataclass(frozen=True)
class Refusal:
    """A call that must raise `exception` with a message that matches `message`."""

    call: Callable[[], Any]
    exception: type[Exception]
    message: str


def refuses(call, exception, message):
    return Refusal(call, exception, message)


def even(low=-2.0, high=2.0):
    """Numbers drawn evenly."""
    return lambda rng, inputs, **_: [rng.uniform(low, high, i.shape) for i in inputs]


EVEN = even()


def away_from_zero(low=0.2):
    """Numbers of both signs that keep a distance from a kink or pole at 0."""
    return lambda rng, inputs, **_: [
        rng.uniform(low, 2, i.shape) * rng.choice([-1, 1], i.shape) for i in inputs
    ]


def ranges(*limits):
    """One (low, high) for each input; the last for all that follow."""
    return lambda rng, inputs, **_: [
        rng.uniform(*limits[min(k, len(limits) - 1)], i.shape) for k, i in enumerate(inputs)
    ]


@dataclass(frozen=True)
class Row:
    """One operation in one use."""

    op: str
    """Its name in csrc/ops; a node of it must be in the graph that `build` makes."""
    name: str
    """The use: the name of the Python function as a rule."""
    build: Callable[..., Any]
    reference: Callable[..., Any] | None
    """None: random; then `check` looks at the value."""
    cases: tuple[Case, ...] | list[Case]
    sample: Callable[..., list[np.ndarray]] = EVEN
    extremes: tuple[Extreme, ...] | list[Extreme] = ()
    errors: tuple[Refusal, ...] | list[Refusal] = ()
    check: Callable[..., None] | None = None
    """check(value, *arrays, **attributes) asserts what else must hold."""
    per_element: bool = True
    """Each batch element of the result depends on that batch element of the inputs only, and in the
    same way."""
    batched_attributes: tuple[str, ...] = ()
    """Attributes that are lists with one entry per batch element."""
    has_gradient: bool = True
    """The value depends on inputs that gradients are sent to."""
    undefined_gradient: str = ""
    """Why the gradient may be NaN where the value is finite; empty: it must not be."""

    def label(self, c):
        return f"{self.name}[{c}]"


# ---- NumPy helpers ---------------------------------------------------------------------


def aligned(*arrays):
    """The arrays with missing dims as 1s before the batch, as broadcasting counts them: from the
    first."""
    n = max(a.ndim for a in arrays)
    return [a.reshape(a.shape[:-1] + (1,) * (n - a.ndim) + a.shape[-1:]) for a in arrays]


def per_batch(f):
    """f(arrays of one batch element) -> dims, applied to each batch element; unbatched arrays serve
    all."""

    def reference(*arrays, **attributes):
        batch = max(a.shape[-1] for a in arrays)
        return np.stack(
            [f(*(a[..., b % a.shape[-1]] for a in arrays), **attributes) for b in range(batch)],
            axis=-1,
        )

    return reference


def column(a):
    """A vector as a matrix of one column; one number as 1 x 1."""
    return a.reshape(a.shape + (1,) * (2 - a.ndim))
