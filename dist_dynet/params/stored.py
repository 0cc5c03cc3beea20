"""The stored values of a collection, bit for bit: reading them changes nothing.

A table's values are its storage times the accumulated weight decay; reading the values returns the
product, which is rounded. Here storage and factor are kept separately, so that a run resumed from a
checkpoint continues as if it had not been interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._ffi import DTYPE, ffi, lib, view
from .root import Assignment

if TYPE_CHECKING:
    from .collection import ParameterCollection
    from .parameters import AnyParameter


def _storage(p: AnyParameter) -> tuple[NDArray[Any], float]:
    """The storage, of shape(), without a copy, and the factor by which the values are
    multiplied."""
    factor = ffi.new("double *")
    storage = lib.dn_param_storage(p._c, factor)
    return p._shaped(view(storage, lib.dn_param_size(p._c), p._root)), float(factor[0])


def stored(m: ParameterCollection) -> dict[str, Any]:
    """What is needed to restore the values of all parameters; without a copy if the values are the
    storage.

    "": all values by name; "undecayed": the storage of tables with a factor; "factors": these
    factors; "frozen": names.
    """
    values, undecayed, factors, frozen = {}, {}, {}, []
    for name, p in m.named_parameters().items():
        storage, factor = _storage(p)
        values[name] = storage
        if factor != 1:
            values[name] = (storage * factor).astype(DTYPE)
            undecayed[name] = storage
            factors[name] = factor
        if not p.is_updated():
            frozen.append(name)
    return {"": values, "undecayed": undecayed, "factors": factors, "frozen": frozen}


def check_stored(m: ParameterCollection, state: Mapping[str, Any], what: str) -> None:
    """Makes sure that the collection has exactly the parameters of a stored().

    Raises:
        ValueError: naming the first parameter that differs.
    """
    named, values = m.named_parameters(), state[""]
    for name, p in named.items():
        if name not in values:
            raise ValueError(
                f'{what}: it must hold all parameters of the model; got none of "{name}"'
                f" {p.shape()}. Make the model as it was."
            )
        shape, dtype = np.shape(values[name]), values[name].dtype
        if shape != p.shape() or dtype != DTYPE:
            raise ValueError(
                f"{what}: parameters must have the shapes and the number type of the model; got"
                f' "{name}" {shape} of {dtype}, in the model {p.shape()} of {DTYPE}. Make the model'
                " as it was."
            )
    for name in values:
        if name not in named:
            raise ValueError(
                f'{what}: the model must have all of its parameters; "{name}"'
                f" {np.shape(values[name])} is missing. Make the model as it was."
            )


def load_stored(m: ParameterCollection, state: Mapping[str, Any]) -> None:
    """Restores a stored(), which was checked before; gradients are dropped."""
    assignments = []
    for name, p in m.named_parameters().items():
        array = np.asarray(state["undecayed"].get(name, state[""][name]))
        flat = (np.moveaxis(array, 0, -1) if p._rows else array).ravel(order="F")
        factor = float(state["factors"].get(name, 1))
        assignments.append(Assignment(p._c, flat, factor=factor, sets_gradient=True))
    m._root.write(assignments)
    for name, p in m.named_parameters().items():
        p.set_updated(name not in state["frozen"])
