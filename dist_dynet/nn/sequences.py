"""Sequences in the forms that users give: a list, the columns of a matrix, or a batch of words laid
out one sequence after another; with padding or without.

This module knows nothing of networks. csrc/ops/sequence.h describes the integers that a sequence
node gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._ffi import OPS, fail, lib
from .._integers import indices
from ..expression import Expression, expression
from ..ops import cmult, concatenate_cols, concatenate_to_batch, pick, pick_batch_elems
from ..ops._nodes import many_node, not_expression

LIST, MATRIX, PACKED = lib.DN_SEQUENCE_LIST, lib.DN_SEQUENCE_MATRIX, lib.DN_SEQUENCE_PACKED
BY_ELEMENT = lib.DN_SEQUENCE_BY_ELEMENT
REVERSED = lib.DN_SEQUENCE_REVERSED
_MASK = lib.DN_SEQUENCE_MASK
_PART = OPS["output_view"]


class Inputs:
    """x_1 ... x_T, and which of their batch elements are not padding.

    form: LIST, one expression for each step; MATRIX, one expression (k, T); PACKED, one expression
    (k,) whose batch elements are the words of one sequence after another.
    """

    __slots__ = ("form", "inputs", "masked", "positions", "reverse", "steps")

    def __init__(
        self,
        inputs: list[Expression],
        steps: int,
        form: int = LIST,
        positions: Sequence[int] = (),
        masked: bool = False,
        reverse: bool = False,
    ) -> None:
        self.inputs, self.steps, self.form, self.reverse = inputs, steps, form, reverse
        # empty: no padding. The length of each batch element; if masked, for each position and
        # element 0 or 1
        self.positions = positions
        self.masked = masked

    def ints(self, options: int) -> tuple[int, ...]:
        """The integers of a sequence node."""
        return (
            self.steps,
            options | self.form | _MASK * self.masked | REVERSED * self.reverse,
            *self.positions,
        )

    def replaced(self, inputs: list[Expression], form: int | None = None) -> Inputs:
        """Other inputs at the same positions."""
        return Inputs(
            inputs,
            self.steps,
            self.form if form is None else form,
            self.positions,
            self.masked,
            self.reverse,
        )

    def backwards(self) -> Inputs:
        """The same inputs, to be read from the last position to the first."""
        return Inputs(
            self.inputs, self.steps, self.form, self.positions, self.masked, not self.reverse
        )

    @property
    def plain(self) -> bool:
        """Whether it is a list without padding, read forwards."""
        return self.form == LIST and not self.positions and not self.reverse

    def batch_size(self) -> int:
        """The batch size of the sequences, as far as x and lengths tell."""
        if self.positions and not self.masked:
            return len(self.positions)
        batch: int = self.inputs[0].dim()[1]
        return batch

    def order(self) -> range:
        """The positions in the order in which they are read."""
        return range(self.steps)[::-1] if self.reverse else range(self.steps)

    def real(self) -> NDArray[np.bool_] | None:
        """(steps, batch): whether an element is not padding; None if there is no padding."""
        if not self.positions:
            return None
        if self.masked:
            return np.array(self.positions, bool).reshape(self.steps, -1)
        return np.arange(self.steps)[:, None] < np.array(self.positions)

    def listed(self) -> list[Expression]:
        """One expression for each step, including padding."""
        if self.form == LIST:
            return self.inputs
        if self.form == MATRIX:
            return [
                pick(self.inputs[0], t, 1) if self.steps > 1 else self.inputs[0]
                for t in range(self.steps)
            ]
        lengths = np.array(self.positions)
        starts = np.cumsum(lengths) - lengths
        words = [np.where(t < lengths, starts + t, 0) for t in range(self.steps)]  # at padding any
        return [pick_batch_elems(self.inputs[0], at.tolist()) for at in words]

    def compacted(self, real: NDArray[np.bool_]) -> tuple[Inputs, list[list[int]]]:
        """The inputs without padding as a list, read forwards, with padding at the end; and for
        each position where its states are in (begin, steps...) x batch."""
        order, batch, width = list(self.order()), real.shape[1], self.inputs[0].dim()[1]
        lengths = real.sum(0)
        words = np.zeros((max(lengths), batch), int)  # which of steps x batch; at padding any
        shown = np.zeros((self.steps, batch), int)
        for b in range(batch):
            read = [t for t in order if real[t, b]]
            words[: len(read), b] = [t * width + b % width for t in read]
            shown[order, b] = np.cumsum(real[order, b]) * batch + b
        together = concatenate_to_batch(self.inputs)
        return (
            Inputs(
                [pick_batch_elems(together, row) for row in words.tolist()],
                len(words),
                LIST,
                lengths.tolist(),
            ),
            shown.tolist(),
        )

    def joined(self, outputs: list[Expression]) -> Expression:
        """The outputs as one expression in the form of the inputs."""
        if self.form != PACKED:
            return concatenate_cols(outputs) if len(outputs) > 1 else outputs[0]
        batch = len(self.positions)
        return pick_batch_elems(
            concatenate_to_batch(outputs),
            [t * batch + b for b, n in enumerate(self.positions) for t in range(n)],
        )

    def times(self, mask: Expression | None) -> Inputs:
        """Each x multiplied by the mask (k,)."""
        if mask is None:
            return self
        if self.form == MATRIX and self.steps > 1:
            mask = concatenate_cols([mask] * self.steps)
        elif self.form == PACKED and mask.dim()[1] > 1:
            mask = pick_batch_elems(
                mask, [b for b, n in enumerate(self.positions) for _ in range(n)]
            )
        return self.replaced([cmult(x, mask) for x in self.inputs])

    def whole(self, owner: int, size: int) -> Expression:
        """The output of a node with BY_ELEMENT, in the form of the inputs."""
        out = (
            (sum(self.positions), size)
            if self.form == PACKED
            else (_batch_of(owner), size, self.steps)
        )
        h = many_node(_PART, [owner], (0, *out))
        if h < 0:
            fail(h, owner)
        return expression(h)

    def last(self, owner: int, size: int, block: int) -> Expression:
        """The last state that follows the output of such a node: block 0 is h, block 1 is c."""
        packed = self.form == PACKED
        batch = len(self.positions) if packed else _batch_of(owner)
        h = many_node(
            _PART,
            [owner],
            (
                (sum(self.positions) if packed else batch * self.steps) * size
                + block * batch * size,
                batch,
                size,
            ),
        )
        if h < 0:
            fail(h, owner)
        return expression(h)


def _batch_of(owner: int) -> int:
    return expression(owner).dim()[1]


def inputs_of(
    xs: Iterable[Expression] | Expression,
    mask: ArrayLike | None,
    lengths: Iterable[int] | None,
    what: str,
) -> Inputs:
    """The inputs from the arguments of transduce() and the like.

    Raises:
        ValueError: a mask and lengths, or a mask of another shape or with other numbers than 0 and
            1.
        TypeError: an input is not an expression.
    """
    if isinstance(xs, Expression):
        dims = xs.dim()[0]
        if len(dims) > 2:
            raise ValueError(f"{what}: one expression must be a matrix (size, steps); got {dims}.")
        inputs, steps, form = [xs], dims[1] if len(dims) > 1 else 1, MATRIX
    else:
        try:
            inputs = list(xs)
        except TypeError:
            raise not_expression(what, xs) from None
        steps, form = len(inputs), LIST
    if mask is None and lengths is None:
        return Inputs(inputs, steps, form)
    if mask is not None and lengths is not None:
        raise ValueError(f"{what}: takes a mask or lengths; got both.")
    if mask is None:
        return Inputs(inputs, steps, form, indices(lengths, what))  # type: ignore[arg-type]
    return Inputs(inputs, steps, form, _flat(mask, steps, what), True)


def matrix_inputs(x: Expression, mask: ArrayLike | None, lengths: Iterable[int] | None) -> Inputs:
    """The inputs from arguments of transduce_matrix(); as inputs_of().

    Raises:
        TypeError: x is no expression.
    """
    if not isinstance(x, Expression):
        raise not_expression("transduce_matrix", x)
    return inputs_of(x, mask, lengths, "transduce_matrix")


def packed_inputs(x: Expression, lengths: Iterable[int]) -> Inputs:
    """The inputs from sequences laid out one after another.

    Raises:
        ValueError: no word at all.
        TypeError: x is not an expression.
    """
    if not isinstance(x, Expression):
        raise not_expression("transduce_packed", x)
    positions = indices(lengths, "transduce_packed")
    if max(positions, default=0) < 1:
        raise ValueError(
            "transduce_packed: takes at least one sequence that is not empty; got lengths"
            f" {positions}."
        )
    return Inputs([x], max(positions), PACKED, positions)


def _flat(mask: Any, steps: int, what: str) -> list[int]:
    array = np.asarray(mask)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or len(array) != steps or not np.isin(array, (0, 1)).all():
        raise ValueError(
            f"{what}: the mask must be (steps, batch size) = ({steps}, ...) of zeros and ones; got"
            f" shape {np.shape(mask)}."
        )
    flat: list[int] = array.astype(int).ravel().tolist()
    return flat
