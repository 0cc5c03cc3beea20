"""Settings of trainers that a program may change between updates. C has a copy of the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._deferred_signals import DeferSignals
from .._ffi import accelerated, ffi, lib
from .._integers import whole
from .arguments import finite, number

if TYPE_CHECKING:
    from .state import Settings


SETTINGS = ffi.typeof("dn_settings *")


@accelerated
def update_all(c: Any, address: int) -> int:
    """What dn_trainer_update() of csrc/dn_api_params.h returns; `address` is where `c` points."""
    return lib.dn_trainer_update(c)  # type: ignore[no-any-return]


class WithSettings:
    """The settings of a trainer."""

    __slots__ = ("_accumulation", "_gathered", "_known_settings", "_skip_nonfinite")
    _accumulation: int
    _c: Any
    _gathered: int
    _known_settings: Settings | None
    _settings: Any
    _skip_nonfinite: bool

    def _set_plain(self) -> None:
        raise NotImplementedError

    def _set(self, **settings: float) -> None:
        changed = ffi.new(SETTINGS, self._settings[0])
        for name, value in settings.items():
            setattr(changed, name, value)
        # Ctrl-C can come neither in between nor before the call: C has what Python says
        self._settings, self._known_settings = changed, None
        lib.dn_trainer_set(self._c, changed)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=0.5)
        >>> trainer.learning_rate *= 0.5
        >>> trainer.learning_rate
        0.25
        """
        return float(self._settings.rate)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._set(rate=finite(value, "learning_rate: the rate"))

    def set_learning_rate(self, value: float) -> None:
        """As `learning_rate = value`.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> trainer.set_learning_rate(0.25)
        >>> trainer.learning_rate
        0.25
        """
        self.learning_rate = value

    def set_clip_threshold(self, thr: float) -> None:
        """The largest L2 norm of all gradients together; longer ones are scaled down to it. 0 or
        less: no clipping. The default is 5.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(2, init=0)
        >>> trainer = dy.SimpleSGDTrainer(m, learning_rate=1)
        >>> trainer.set_clip_threshold(1)
        >>> w.set_gradient([3, 4])
        >>> trainer.update()
        >>> w.as_array().round(4).tolist()
        [-0.6, -0.8]
        """
        self._set(clip=max(0.0, number(thr, "set_clip_threshold: the norm")))

    def get_clip_threshold(self) -> float:
        """The largest norm; 0: no clipping.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> before = trainer.get_clip_threshold()
        >>> trainer.set_clip_threshold(-1)
        >>> before, trainer.get_clip_threshold()
        (5.0, 0.0)
        """
        return float(self._settings.clip)

    def set_clip_value(self, limit: float) -> None:
        """Clips every element of the gradients to [-limit, limit], before the norm is clipped. 0 or
        less, the default: no clipping.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(2, init=0)
        >>> trainer = dy.SimpleSGDTrainer(m, learning_rate=1)
        >>> trainer.set_clip_value(0.5)
        >>> _ = dy.renew_cg()
        >>> dy.dot_product(w, dy.inputVector([0.25, 3])).backward()
        >>> trainer.update()
        >>> w.as_array().tolist()
        [-0.25, -0.5]
        """
        self._set(clip_value=max(0.0, number(limit, "set_clip_value: the limit")))

    def get_clip_value(self) -> float:
        """The largest absolute value of a gradient's element; 0: no clipping.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> before = trainer.get_clip_value()
        >>> trainer.set_clip_value(0.5)
        >>> before, trainer.get_clip_value()
        (0.0, 0.5)
        """
        return float(self._settings.clip_value)

    def set_sparse_updates(self, su: bool) -> None:
        """True, the default: only rows of a lookup table with a gradient are updated. False: all
        rows.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> E = m.add_lookup_parameters((2, 1), init=0)
        >>> trainer = dy.MomentumSGDTrainer(m, learning_rate=1, mom=0.5)
        >>> trainer.set_sparse_updates(False)
        >>> for row in 0, 1:
        ...     E.add_gradients([row], [[1]])
        ...     trainer.update()
        >>> E.as_array().tolist()  # row 0 went on by its momentum
        [[-1.5], [-1.0]]
        """
        self._set(sparse=bool(su))

    def set_accumulation(self, k: int) -> None:
        """Makes update() apply only at every k-th call, with the gradients of all k backward passes
        divided by k (before clipping).

        So k batches of n examples, each with the mean as its loss, do what one batch of k n
        examples does. Changing k starts a new accumulation; gradients gathered so far are kept.

        Raises:
            ValueError: k is below 1.
            TypeError: k is not an integer.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=0)
        >>> trainer = dy.SimpleSGDTrainer(m, learning_rate=1)
        >>> trainer.set_accumulation(2)
        >>> for x in (1, 3):
        ...     _ = dy.renew_cg()
        ...     (w * dy.scalarInput(x)).backward()
        ...     trainer.update()
        ...     print(w.as_array().tolist(), trainer.updates)
        [0.0] 0
        [-2.0] 1
        """
        k = whole(k, "set_accumulation", "k")
        if k < 1:
            raise ValueError(f"set_accumulation: k must be 1 or more; got {k}.")
        with DeferSignals():
            self._set(share=1 / k)
            self._accumulation, self._gathered = k, 0
            self._set_plain()

    @property
    def accumulation(self) -> int:
        """Number of calls of update() per update.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> trainer.set_accumulation(4)
        >>> trainer.accumulation
        4
        """
        return self._accumulation

    @property
    def skip_nonfinite(self) -> bool:
        """Whether update() skips steps whose gradients hold NaN or infinity, rather than raising an
        error. `skipped` counts them.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=1)
        >>> trainer = dy.SimpleSGDTrainer(m)
        >>> trainer.skip_nonfinite = True
        >>> w.set_gradient([float("nan")])
        >>> trainer.update()
        >>> w.as_array().tolist(), trainer.skipped, trainer.updates
        ([1.0], 1, 0)
        """
        return self._skip_nonfinite

    @skip_nonfinite.setter
    def skip_nonfinite(self, skip: bool) -> None:
        self._skip_nonfinite = bool(skip)
        self._set(check=bool(skip))
