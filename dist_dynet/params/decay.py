"""The weight decay of collections, and its default. Trainers apply it."""

from __future__ import annotations

from .._integers import real


class _Defaults:
    weight_decay = 0.0


_defaults = _Defaults()


def set_default_weight_decay(lam: float) -> None:
    """Sets the weight decay of new collections without a parent."""
    _defaults.weight_decay = lam


def default_weight_decay() -> float:
    """The weight decay of new collections without a parent."""
    return _defaults.weight_decay


class Decays:
    """The part of a collection that has a weight decay."""

    _weight_decay: float

    def get_weight_decay(self) -> float:
        """The weight decay; 0 at the start.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> m.set_weight_decay(0.01)
        >>> m.get_weight_decay(), m.add_subcollection().get_weight_decay()
        (0.01, 0.01)
        """
        return self._weight_decay

    def set_weight_decay(self, lam: float) -> None:
        """After each update by a trainer of this collection, all its values are multiplied by 1 -
        lam.

        This is decoupled decay, independent of the learning rate. Frozen parameters keep their
        values. Subcollections take over the value when they are made.

        Raises:
            ValueError: lam is not in [0, 1).

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=2)
        >>> m.set_weight_decay(0.25)
        >>> dy.SimpleSGDTrainer(m).update()  # without a gradient, only the decay is left
        >>> w.as_array().tolist()
        [1.5]
        """
        lam = real(lam, "set_weight_decay")
        if not 0 <= lam < 1:
            raise ValueError(f"set_weight_decay: the strength must lie in [0, 1); got {lam}.")
        self._weight_decay = lam

    def set_weight_decay_lambda(self, lam: float) -> None:
        """As set_weight_decay()."""
        self.set_weight_decay(lam)
