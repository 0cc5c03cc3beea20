"""check_gradient(): whether the gradients of backward() are those of the loss.

This module knows parameters and losses but no operation. Authors of an operation or a builder can
call it on a loss made with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ._ffi import DTYPE, DTYPE_NAME, GRAPH_SHIFT, lib
from ._integers import number_argument, whole
from ._manner import no_collection
from .expression import Expression
from .graph import cg, renew_cg
from .params.collection import ParameterCollection, members_of
from .params.parameters import AnyParameter, LookupParameters

__all__ = ["GradientCheckError", "check_gradient"]

EPSILON: float = {"float32": 3e-3, "float64": 1e-5}[DTYPE_NAME]
TOLERANCE: float = {"float32": 1e-2, "float64": 1e-7}[DTYPE_NAME]
SHOWN = 8


@dataclass(frozen=True)
class Derivative:
    """The derivative of the loss with respect to one element of a parameter, computed in two
    ways."""

    parameter: str
    index: tuple[int, ...]
    """As in as_array()."""
    backward: float
    differences: float
    excess: float
    """The difference of the two, in units of what is allowed."""

    def __str__(self) -> str:
        index = ", ".join(map(str, self.index))
        return (
            f"{self.parameter}[{index}]: backward() gives {self.backward:.9g}, differences give"
            f" {self.differences:.9g}"
        )


class GradientCheckError(AssertionError):
    """Gradients differ from finite differences. `worst`: the derivatives in question, worst first;
    `compared`: how many were checked."""

    def __init__(self, worst: list[Derivative], compared: int, tolerance: float) -> None:
        self.worst, self.compared, self.tolerance = worst, compared, tolerance
        lines = [f"  {d}" for d in worst[:SHOWN]] + [f"  and {len(worst) - SHOWN} more"] * (
            len(worst) > SHOWN
        )
        super().__init__(
            f"check_gradient: {len(worst)} of {compared} derivatives differ by more than"
            f" {tolerance:g} (1 + |differences|):\n" + "\n".join(lines)
        )


class _Loss:
    """Computes the loss repeatedly, with the same random draws each time."""

    def __init__(self, expr_or_fn: Expression | Callable[[], Expression]) -> None:
        if isinstance(expr_or_fn, Expression):
            self._expression: Expression | None = expr_or_fn
            self._graph = expr_or_fn._node() >> GRAPH_SHIFT
        elif callable(expr_or_fn):
            self._expression, self._build = None, expr_or_fn
            self._graph = cg().number
        else:
            raise TypeError(
                "check_gradient: takes an expression or a function that builds one; got"
                f" {type(expr_or_fn).__name__}."
            )
        # Each computation increments the counter of draws, so it is reset: an expression keeps
        # its draws.
        self._counter = (lib.dn_graph_counter(self._graph) - 1) & (1 << 64) - 1
        self._exact = True

    def expression(self) -> Expression:
        """The loss, computed without rounding products, since rounded ones have no derivative."""
        if self._expression is not None:
            lib.dn_graph_exact(self._graph, self._exact)
        lib.dn_graph_set_counter(self._graph, self._counter)
        loss = self._expression
        if loss is None:
            renew_cg()
            loss = self._build()
            if not isinstance(loss, Expression):
                raise TypeError(
                    "check_gradient: the function must return the loss, an expression; got"
                    f" {type(loss).__name__}."
                )
            lib.dn_graph_exact(loss._node() >> GRAPH_SHIFT, self._exact)
        loss.forward(recalculate=self._expression is not None)
        dims, batch = loss.dim()
        if int(np.prod(dims)) * batch != 1:
            raise ValueError(
                f"check_gradient: the loss must be one number; got {dims} x {batch}. Use"
                " sum_elems(), sum_batches() first."
            )
        return loss

    def end(self) -> None:
        """Rounds products again as the graph is set to."""
        self._exact = False
        if self._expression is not None:
            lib.dn_graph_exact(self._graph, False)

    def value(self) -> float:
        return self.expression().scalar_value()


def _listed(
    parameters: ParameterCollection | AnyParameter | Iterable[AnyParameter],
) -> list[AnyParameter]:
    if isinstance(parameters, ParameterCollection):
        chosen = members_of(parameters)
    elif isinstance(parameters, AnyParameter):
        chosen = [parameters]
    elif isinstance(parameters, Iterable):
        chosen = list(parameters)
    else:
        raise TypeError(
            f"check_gradient: takes a collection, or parameters; {no_collection(parameters)}"
        )
    for p in chosen:
        if not isinstance(p, AnyParameter):
            raise TypeError(
                f"check_gradient: takes a collection, or parameters; got {type(p).__name__} among"
                " them."
            )
    chosen = [p for p in chosen if p.is_updated()]
    if not chosen:
        raise ValueError(
            "check_gradient: there is no parameter to check: none was given, or all are frozen."
        )
    return chosen


def _index(p: AnyParameter, i: int) -> tuple[int, ...]:
    """The index in as_array() of element i of the storage."""
    size = int(np.prod(p._dims))
    within = tuple(int(k) for k in np.unravel_index(i % size, p._dims, order="F"))
    return (i // size, *within) if isinstance(p, LookupParameters) else within


def _chosen(p: AnyParameter, most: int, rng: np.random.Generator) -> list[int]:
    """The elements of the storage to check: of a table those of the rows that have a gradient, and
    of one row that has none."""
    size = int(np.prod(p._dims))
    rows = np.arange(1)
    if isinstance(p, LookupParameters):
        touched = p.touched_rows()
        others = np.setdiff1d(np.arange(len(p)), touched)
        rows = np.concatenate([touched, others[:1]])
    numbers = (rows[:, None] * size + np.arange(size)).ravel()
    if numbers.size > most:
        numbers = rng.choice(numbers, most, replace=False)
    return sorted(numbers.tolist())


def _differences(
    loss: _Loss, p: AnyParameter, numbers: list[int], epsilon: float
) -> Iterator[tuple[float, float]]:
    """(derivative by central differences, its possible rounding error) for these elements of a
    parameter."""
    storage = p.storage()
    for i in numbers:
        here = storage[i]
        step = epsilon * max(1.0, abs(float(here)))
        at = [DTYPE.type(here + step), DTYPE.type(here - step)]
        f = []
        try:
            for x in at:
                storage[i] = x
                p.changed()
                f.append(loss.value())
        finally:
            storage[i] = here
            p.changed()
        width = float(at[0]) - float(at[1])
        yield (f[0] - f[1]) / width, 4 * float(np.finfo(DTYPE).eps) * max(map(abs, f)) / width


def check_gradient(
    expr_or_fn: Expression | Callable[[], Expression],
    parameters: ParameterCollection | AnyParameter | Iterable[AnyParameter],
    epsilon: float | None = None,
    tolerance: float | None = None,
    max_entries: int = 1000,
) -> bool:
    """Compares the gradients of backward() with central differences of the loss. True if they
    agree.

    For each number p of the parameters: |g - d| <= tolerance (1 + |d|), d = (loss(p + h) - loss(p -
    h)) / 2h. The float build computes with 7 digits, so it can only detect errors above tolerance =
    1e-2 (h = 3e-3); the double build (DIST_DYNET_DTYPE=float64) has 1e-7 (h = 1e-5).

    Values, gradients and random draws are restored afterwards; only parameters that were not given
    have received the gradient of one more backward(). With init(precision="bf16") the check
    computes in float32: a rounded product is a step function, and backward() gives the gradient of
    the function before rounding. Kinks (as of rectify at 0) within h of a value are reported:
    sample away from them.

    Args:
        expr_or_fn: the loss, one number, which is computed again; or a function without arguments
            that builds it in a new graph each time.
        parameters: a collection, parameters and lookup tables, or one. Frozen ones are left out. Of
            tables, the rows that the loss uses are checked, and that one other row gets no
            gradient.
        epsilon: h, for numbers of size 1 and less; larger ones get it times their size.
        tolerance: see above.
        max_entries: of parameters with more numbers than this, so many at random places are
            checked; 1 or more.

    Raises:
        GradientCheckError: they differ; its message lists the worst.
        ValueError: the loss is not one number, or changes from one evaluation to the next;
            there is nothing to compare, or max_entries is below 1.
        TypeError: max_entries is not an integer.

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().parameters_from_numpy([[0.5, -1.0], [2.0, 0.25]])
    >>> _ = dy.renew_cg()
    >>> loss = dy.sum_elems(dy.tanh(W * dy.inputVector([1, 2])))
    >>> dy.check_gradient(loss, [W])
    True
    """
    if (max_entries := whole(max_entries, "check_gradient", "max_entries")) < 1:
        raise ValueError(f"check_gradient: max_entries must be 1 or more; got {max_entries}.")
    epsilon = number_argument(EPSILON if epsilon is None else epsilon, "check_gradient: epsilon")
    tolerance = number_argument(
        TOLERANCE if tolerance is None else tolerance, "check_gradient: tolerance"
    )
    chosen, loss = _listed(parameters), _Loss(expr_or_fn)
    rng = np.random.default_rng(0)
    before = [p._flat_gradient() if p.has_gradient() else None for p in chosen]
    wrong: list[Derivative] = []
    compared = 0
    try:
        for p in chosen:
            p.clear_gradient()
        computed = loss.expression()
        value = computed.scalar_value()
        computed.backward()
        gradients = [p._flat_gradient() for p in chosen]
        numbers = [_chosen(p, max_entries, rng) for p in chosen]
        if not np.array_equal(loss.value(), value, equal_nan=True):
            raise ValueError(
                "check_gradient: the loss differs from one evaluation to the next, with the same"
                " parameters and random draws."
            )
        for p, gradient, places in zip(chosen, gradients, numbers, strict=True):
            for i, (difference, rounding) in zip(
                places, _differences(loss, p, places, epsilon), strict=True
            ):
                g, allowed = float(gradient[i]), tolerance * (1 + abs(difference)) + rounding
                compared += 1
                if not abs(g - difference) <= allowed:
                    excess = abs(g - difference) / allowed if np.isfinite(difference) else np.inf
                    wrong.append(Derivative(p.readable_name(), _index(p, i), g, difference, excess))
    finally:
        for p, gradient_before in zip(chosen, before, strict=True):
            p._set_flat_gradient(gradient_before)
        loss.end()
    loss.expression()
    if not compared:
        raise ValueError("check_gradient: there must be numbers to compare; got none.")
    if wrong:
        raise GradientCheckError(
            sorted(wrong, key=lambda d: -np.nan_to_num(d.excess, nan=np.inf)), compared, tolerance
        )
    return True
