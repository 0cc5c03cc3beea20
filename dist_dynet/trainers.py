"""Trainers: rules that change parameters by their gradients.

update() clips, then passes once over all parameters in C. A trainer keeps its collection alive.
"""

from __future__ import annotations

import sys
from typing import ClassVar, NoReturn

from ._ffi import NULL, ffi, lib
from .params.collection import ParameterCollection

_update = lib.dn_trainer_update


class Trainer:
    """What all trainers have in common. Use a subclass.

    Args:
        m: the collection whose parameters, subcollections' included, are updated.
        learning_rate: the rate of the rule.
    """

    _rule: ClassVar[int] = -1

    def __init__(self, m: ParameterCollection, learning_rate: float, *constants: float) -> None:
        if not isinstance(m, ParameterCollection):
            raise TypeError(f"{type(self).__name__}: takes a ParameterCollection; got {type(m).__name__}.")
        if self._rule < 0:
            raise NotImplementedError(f"{type(self).__name__}: not a trainer by itself. Use SimpleSGDTrainer, AdamTrainer, ...")
        self._collection = m
        self._learning_rate = float(learning_rate)
        self._clip_threshold = 5.0
        self._sparse = True
        trainer = lib.dn_trainer_new(m._root.c, self._rule, *constants, *(0.0,) * (3 - len(constants)))
        if trainer == NULL:
            raise MemoryError(f"{type(self).__name__}: out of memory")
        self._c = ffi.gc(trainer, lib.dn_trainer_free)
        self._count = -1
        self._decay = m._weight_decay
        self._set()

    def _set(self) -> None:
        lib.dn_trainer_set(self._c, self._learning_rate, self._clip_threshold, 1 - self._decay, self._sparse)

    @property
    def collection(self) -> ParameterCollection:
        """The collection that is trained."""
        return self._collection

    def _select(self) -> None:
        """Names the parameters of a subcollection to C, anew when it has grown. A root needs no list."""
        m = self._collection
        count = len(m._parameters) + len(m._lookups)
        if m._parent is not None and count != self._count:
            chosen = [p._c for p in (*m._parameters, *m._lookups)]
            if lib.dn_trainer_select(self._c, count, chosen) < 0:
                raise MemoryError(f"{type(self).__name__}: out of memory")
            self._count = count

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = float(value)
        self._set()

    def set_learning_rate(self, value: float) -> None:
        """As `learning_rate = value`."""
        self.learning_rate = value

    def set_clip_threshold(self, thr: float) -> None:
        """The greatest L2 norm of all gradients together; longer ones are shortened to it. 0 or less: no clipping. 5 at the start."""
        self._clip_threshold = max(0.0, float(thr))
        self._set()

    def get_clip_threshold(self) -> float:
        """The greatest norm; 0: no clipping."""
        return self._clip_threshold

    def set_sparse_updates(self, su: bool) -> None:
        """True (at the start): of a lookup table only rows with a gradient are updated. False: all rows."""
        self._sparse = bool(su)
        self._set()

    def gradient_norm(self) -> float:
        """The L2 norm of all gradients gathered since the last update."""
        self._select()
        return float(lib.dn_trainer_norm(self._c))

    def update(self) -> None:
        """Changes the parameters by the gradients gathered since the last update, and forgets these.

        Dense parameters without a gradient count as having zero, as in DyNet; rows of lookup tables without one are left alone.

        Raises:
            RuntimeError: the norm of the gradients is not finite (with clipping on); nothing was changed then.
        """
        m = self._collection
        if m._parent is not None:
            self._select()
        if m._weight_decay != self._decay:
            self._decay = m._weight_decay
            self._set()
        code = _update(self._c)
        if code < 0:
            self._fail(code)

    def _fail(self, code: int) -> NoReturn:
        if code == lib.DN_ERROR_NONFINITE:
            raise RuntimeError(
                f"Magnitude of gradient is bad: {self.gradient_norm()}. A loss or a gradient of this step is not finite; nothing was updated."
            )
        raise MemoryError(f"{type(self).__name__}: out of memory for the moments")

    def restart(self, learning_rate: float | None = None) -> None:
        """Sets the moments to zero, and the learning rate if given. The count of updates goes on, as in DyNet."""
        lib.dn_trainer_restart(self._c)
        if learning_rate is not None:
            self.learning_rate = learning_rate

    def status(self) -> None:
        """Prints the learning rate and the number of updates on stderr."""
        print(f"[lr={self._learning_rate:g} updates={lib.dn_trainer_updates(self._c)}]", file=sys.stderr)

    def whoami(self) -> str:
        """The name of the class."""
        return type(self).__name__


class SimpleSGDTrainer(Trainer):
    """p = p - learning_rate g.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> _ = dy.renew_cg()
    >>> dy.squared_distance(w, dy.scalarInput(3)).backward()
    >>> dy.SimpleSGDTrainer(m, learning_rate=0.1).update()
    >>> w.as_array().round(2).tolist()
    [1.4]
    """

    _rule = lib.DN_RULE_SGD

    def __init__(self, m: ParameterCollection, learning_rate: float = 0.1) -> None:
        super().__init__(m, learning_rate)


class AdamTrainer(Trainer):
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p = p - rate_t m / (sqrt(v) + eps).

    rate_t = alpha sqrt(1 - b2^t) / (1 - b1^t) after t updates (Kingma and Ba 2015, end of section 2): eps is added to the root of the
    uncorrected v. In lookup tables, rows without a gradient keep their moments, too.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.AdamTrainer(m, alpha=0.1)
    >>> _ = dy.renew_cg()
    >>> dy.squared_distance(w, dy.scalarInput(3)).backward()
    >>> trainer.update()
    >>> w.as_array().round(4).tolist()
    [1.1]
    """

    _rule = lib.DN_RULE_ADAM

    def __init__(
        self, m: ParameterCollection, alpha: float = 0.001, beta_1: float = 0.9, beta_2: float = 0.999, eps: float = 1e-8
    ) -> None:
        super().__init__(m, alpha, beta_1, beta_2, eps)
