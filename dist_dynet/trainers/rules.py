"""The trainers: a rule with its constants each, with DyNet's names, arguments and formulas.

g is the gradient after clipping, p a value. All operations are elementwise. In lookup tables only
rows with a gradient take part, unless set_sparse_updates(False): the other rows keep values and
moments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from .._ffi import lib
from ..params.collection import ParameterCollection
from ..params.parameters import AnyParameter
from .arguments import number
from .base import Trainer


def _check_fractions(trainer: Trainer, **constants: float) -> None:
    """Makes sure that these constants lie in [0, 1)."""
    for name, value in constants.items():
        if not 0 <= number(value, f"{type(trainer).__name__}: {name}") < 1:
            raise ValueError(f"{type(trainer).__name__}: {name} must lie in [0, 1); got {value}.")


_ALPHA = 0.001
"""The default of alpha. This very object means that alpha was not given: 0.001 may be given,
too."""


def _one_rate(trainer: Trainer, alpha: float, learning_rate: float | None) -> float:
    """The learning rate, which some rules call alpha."""
    if learning_rate is None:
        return alpha
    if alpha is not _ALPHA:
        raise TypeError(
            f"{type(trainer).__name__}: alpha is another name of learning_rate; got both."
            " Leave out one of them."
        )
    return learning_rate


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

    __slots__ = ()
    _rule = lib.DN_RULE_SGD

    def __init__(self, m: ParameterCollection, learning_rate: float = 0.1) -> None:
        super().__init__(m, learning_rate)


class CyclicalSGDTrainer(Trainer):
    """SGD whose learning rate goes up and down between two bounds (Smith 2017), step_size updates
    each way, the upper bound falling by gamma.

    The first update is at learning_rate_min. After update number it = 0, 1, ...: cycle = floor(1 +
    it / (2 step_size)), x = |it / step_size - 2 cycle + 1|, learning_rate = min + (max - min)
    max(0, 1 - x) gamma^it.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> trainer = dy.CyclicalSGDTrainer(m, 0.1, 0.5, step_size=2)
    >>> rates = []
    >>> for _ in range(6):
    ...     rates.append(round(trainer.learning_rate, 2))
    ...     trainer.update()
    >>> rates
    [0.1, 0.1, 0.3, 0.5, 0.3, 0.1]
    """

    __slots__ = ("_iteration",)
    _rule = lib.DN_RULE_SGD

    def __init__(
        self,
        m: ParameterCollection,
        learning_rate_min: float = 0.01,
        learning_rate_max: float = 0.1,
        step_size: float = 2000,
        gamma: float = 1.0,
    ) -> None:
        if not number(step_size, "CyclicalSGDTrainer: step_size") > 0:
            raise ValueError(f"CyclicalSGDTrainer: step_size must be above 0; got {step_size}.")
        super().__init__(
            m,
            learning_rate_min,
            learning_rate_min=learning_rate_min,
            learning_rate_max=learning_rate_max,
            step_size=step_size,
            gamma=gamma,
        )
        self._iteration = 0

    def _advance(self) -> None:
        low, high, step_size, gamma = self._constants
        steps = self._iteration / step_size
        x = abs(steps - 2 * ((1 + steps / 2) // 1) + 1)
        self.learning_rate = low + (high - low) * max(0.0, 1 - x) * gamma**self._iteration
        self._iteration += 1

    def _own_state(self) -> dict[str, int]:
        return {"iteration": self._iteration}

    def _load_own_state(self, state: Mapping[str, int]) -> None:
        self._iteration = state["iteration"]


class MomentumSGDTrainer(Trainer):
    """v = mom v - learning_rate g; p = p + v.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.MomentumSGDTrainer(m, learning_rate=0.1, mom=0.5)
    >>> for _ in range(2):
    ...     _ = dy.renew_cg()
    ...     w.backward()
    ...     trainer.update()
    >>> w.as_array().round(2).tolist()
    [0.75]
    """

    __slots__ = ()
    _rule, _moments = lib.DN_RULE_MOMENTUM, ("v",)

    def __init__(
        self, m: ParameterCollection, learning_rate: float = 0.01, mom: float = 0.9
    ) -> None:
        _check_fractions(self, mom=mom)
        super().__init__(m, learning_rate, mom=mom)


class AdagradTrainer(Trainer):
    """h = h + g^2; p = p - learning_rate g / sqrt(h + eps) (Duchi, Hazan and Singer 2011).

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.AdagradTrainer(m, learning_rate=0.1)
    >>> _ = dy.renew_cg()
    >>> (3 * w).backward()
    >>> trainer.update()
    >>> w.as_array().round(4).tolist()
    [0.9]
    """

    __slots__ = ()
    _rule, _moments = lib.DN_RULE_ADAGRAD, ("h",)

    def __init__(
        self, m: ParameterCollection, learning_rate: float = 0.1, eps: float = 1e-20
    ) -> None:
        super().__init__(m, learning_rate, eps=eps)


class AdadeltaTrainer(Trainer):
    """h = rho h + (1 - rho) g^2; step = -g sqrt(d + eps) / sqrt(h + eps); d = rho d + (1 - rho)
    step^2; p = p + step (Zeiler 2012).

    It has no learning rate: `learning_rate` is there, and is not used.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.AdadeltaTrainer(m)
    >>> _ = dy.renew_cg()
    >>> (3 * w).backward()
    >>> trainer.update()
    >>> w.as_array().round(4).tolist()
    [0.9955]
    """

    __slots__ = ()
    _rule, _moments = lib.DN_RULE_ADADELTA, ("h", "d")

    def __init__(self, m: ParameterCollection, eps: float = 1e-6, rho: float = 0.95) -> None:
        _check_fractions(self, rho=rho)
        super().__init__(m, 1.0, eps=eps, rho=rho)


class RMSPropTrainer(Trainer):
    """h = rho h + (1 - rho) g^2; p = p - learning_rate g / sqrt(h + eps) (Tieleman and Hinton
    2012).

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.RMSPropTrainer(m, learning_rate=0.1, rho=0.75)
    >>> _ = dy.renew_cg()
    >>> (3 * w).backward()
    >>> trainer.update()
    >>> w.as_array().round(4).tolist()
    [0.8]
    """

    __slots__ = ()
    _rule, _moments = lib.DN_RULE_RMSPROP, ("h",)

    def __init__(
        self,
        m: ParameterCollection,
        learning_rate: float = 0.001,
        eps: float = 1e-8,
        rho: float = 0.9,
    ) -> None:
        _check_fractions(self, rho=rho)
        super().__init__(m, learning_rate, eps=eps, rho=rho)


class _Adam(Trainer):
    """The arguments of AdamTrainer and AmsgradTrainer."""

    __slots__ = ()

    def __init__(
        self,
        m: ParameterCollection,
        alpha: float = _ALPHA,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        eps: float = 1e-8,
        *,
        learning_rate: float | None = None,
    ) -> None:
        _check_fractions(self, beta_1=beta_1, beta_2=beta_2)
        rate = _one_rate(self, alpha, learning_rate)
        super().__init__(m, rate, beta_1=beta_1, beta_2=beta_2, eps=eps)


class AdamTrainer(_Adam):
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p = p - rate_t m / (sqrt(v) + eps).

    rate_t = alpha sqrt(1 - b2^t) / (1 - b1^t) after t updates (Kingma and Ba 2015, end of section
    2): eps is added to the root of the uncorrected v. In lookup tables, rows without a gradient
    keep their moments, too. learning_rate= is the same as alpha=.

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

    __slots__ = ()
    _rule, _moments = lib.DN_RULE_ADAM, ("m", "v")


class AmsgradTrainer(_Adam):
    """As AdamTrainer with top = max(top, v) in the place of v in the step (Reddi, Kale and Kumar
    2018).

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> w = m.add_parameters(1, init=1)
    >>> trainer = dy.AmsgradTrainer(m, alpha=0.1)
    >>> _ = dy.renew_cg()
    >>> dy.squared_distance(w, dy.scalarInput(3)).backward()
    >>> trainer.update()
    >>> w.as_array().round(4).tolist()
    [1.1]
    """

    __slots__ = ()
    _rule, _moments = lib.DN_RULE_AMSGRAD, ("m", "v", "top")


class AdamWTrainer(Trainer):
    """Adam with decoupled weight decay: p = (1 - alpha weight_decay) p - alpha m^ / (sqrt(v^) +
    eps) (Loshchilov and Hutter 2019).

    m^ = m / (1 - b1^t), v^ = v / (1 - b2^t), m and v as in AdamTrainer: here eps is added to the
    root of the corrected v, as in the paper and in PyTorch. Of lookup tables only rows with a
    gradient shrink, unless set_sparse_updates(False). This decay is times the learning rate and
    apart from that of ParameterCollection.set_weight_decay().

    Args:
        m: the collection.
        alpha: the learning rate; learning_rate= is the same.
        beta_1: of m.
        beta_2: of v.
        eps: added to the root.
        weight_decay: how fast values shrink.
        no_decay: parameters without decay; usually biases and the like.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> W, b = m.add_parameters((1, 1), init=1), m.add_parameters(1, init=1)
    >>> trainer = dy.AdamWTrainer(m, alpha=0.1, weight_decay=0.5, no_decay=[b])
    >>> trainer.update()
    >>> W.as_array().round(4).tolist(), b.as_array().round(4).tolist()
    ([[0.95]], [1.0])
    """

    __slots__ = ("_excluded",)
    _rule, _moments = lib.DN_RULE_ADAMW, ("m", "v")

    def __init__(
        self,
        m: ParameterCollection,
        alpha: float = _ALPHA,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        no_decay: Iterable[AnyParameter] = (),
        *,
        learning_rate: float | None = None,
    ) -> None:
        _check_fractions(self, beta_1=beta_1, beta_2=beta_2)
        if not number(weight_decay, "AdamWTrainer: weight_decay") >= 0:
            raise ValueError(
                f"AdamWTrainer: weight_decay must not be negative; got {weight_decay}."
            )
        rate = _one_rate(self, alpha, learning_rate)
        super().__init__(m, rate, beta_1=beta_1, beta_2=beta_2, eps=eps, weight_decay=weight_decay)
        self._excluded: list[AnyParameter] = []
        self.exclude_from_decay(no_decay)

    def exclude_from_decay(self, parameters: Iterable[AnyParameter]) -> None:
        """Excludes these parameters from the decay, too.

        Raises:
            ValueError: one of them is not in the trainer's collection.
            TypeError: it is no list.
            MemoryError: there is no memory for their list.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> W, b = m.add_parameters((1, 1), init=1), m.add_parameters(1, init=1)
        >>> trainer = dy.AdamWTrainer(m, alpha=0.5, weight_decay=0.5)
        >>> trainer.exclude_from_decay([b])
        >>> trainer.update()
        >>> W.as_array().tolist(), b.as_array().tolist()
        ([[0.75]], [1.0])
        """
        if not isinstance(parameters, Iterable):
            raise TypeError(
                f"AdamWTrainer: no_decay must be a list of parameters; got {parameters!r:.60}."
            )
        excluded = [*self._excluded, *parameters]
        members = set(self._members())
        for p in excluded:
            if p not in members:
                raise ValueError(
                    "AdamWTrainer: no_decay must be parameters of the trainer's collection; got"
                    f" {p!r}."
                )
        if lib.dn_trainer_exclude(self._c, len(excluded), [p._c for p in excluded]) < 0:
            raise MemoryError("AdamWTrainer: out of memory")
        self._excluded = excluded


class EGTrainer(Trainer):
    """Exponentiated gradient for parameters that are distributions: v = mom v - learning_rate g; p
    = softmax(log p + v).

    A parameter, or a row of a table, holds positive numbers that sum to 1, before and after an
    update (Kivinen and Warmuth 1997). The collection must hold such parameters only, without weight
    decay.

    Raises:
        ValueError: at an update: values are not positive, or the collection has weight decay.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> p = m.add_parameters(2, init=0.5)
    >>> trainer = dy.EGTrainer(m, learning_rate=1, mom=0)
    >>> _ = dy.renew_cg()
    >>> dy.dot_product(p, dy.inputVector([0, -1])).backward()
    >>> trainer.update()
    >>> p.as_array().round(4).tolist()
    [0.2689, 0.7311]
    """

    __slots__ = ("_checked",)
    _rule, _moments = lib.DN_RULE_EG, ("v",)

    def __init__(
        self, m: ParameterCollection, learning_rate: float = 0.1, mom: float = 0.9
    ) -> None:
        _check_fractions(self, mom=mom)
        super().__init__(m, learning_rate, mom=mom)
        self._checked = 0

    def _prepare(self) -> None:
        super()._prepare()
        if self._decay:
            raise ValueError(
                f"EGTrainer: the collection must have no weight decay; got {self._decay}."
                " set_weight_decay(0) before."
            )
        members = self._members()
        for p in members if len(members) != self._checked else ():
            if not np.all(p._root.values(p._c) > 0):
                raise ValueError(
                    f"EGTrainer: values must be positive; got {p.readable_name()} with others."
                    " Initialise it by a distribution."
                )
        self._checked = len(members)
