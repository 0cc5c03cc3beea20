"""Trainer: what all trainers have in common. The rules themselves are C (csrc/params/rules.c);
rules.py gives them names and constants.

update() clips, then makes a single pass over all parameters in C. A trainer keeps its collection
alive. It knows nothing about files: state() returns arrays, whoever writes them.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from numpy.typing import NDArray

from .. import meter
from .._deferred_signals import DeferSignals
from .._ffi import NULL, ffi, lib
from .._manner import class_name, no_collection, warn
from ..params.collection import ParameterCollection, members_of
from ..params.parameters import AnyParameter, LookupParameters, Parameters
from .arguments import Schedule, chosen, finite
from .followers import WithFollowers
from .settings import SETTINGS, update_all
from .stats import WithStats

if TYPE_CHECKING:
    from .state import Settings

_NO_CONSTANTS = (0.0,) * 4


class Trainer(WithFollowers, WithStats):
    """What all trainers have in common. Use a subclass.

    Args:
        m: the collection whose parameters, subcollections' included, are updated.
        learning_rate: the rate of the rule.

    >>> import dist_dynet as dy
    >>> trainer = dy.AdamTrainer(dy.ParameterCollection())
    >>> isinstance(trainer, dy.Trainer), trainer.learning_rate
    (True, 0.001)
    """

    __slots__ = (  # so that a misspelt setting is an error
        "__weakref__",
        "_address",
        "_c",
        "_collection",
        "_constants",
        "_count",
        "_decay",
        "_first",
        "_is_plain",
        "_last",
        "_logged",
        "_refusals",
        "_schedule",
        "_settings",
        "_shown",
        "_since",
        "_skipped",
    )
    _rule: ClassVar[int] = -1
    _moments: ClassVar[tuple[str, ...]] = ()
    """Names of the moments, for state(): one for each that the rule keeps in C."""
    _on_new: ClassVar[list[Callable[[Trainer], object]]] = []
    """Called with each new trainer."""

    def __init_subclass__(cls) -> None:
        """Notes whether the class takes part in updates. Refuses a class whose state() would miss a
        moment: a resumed run would then differ."""
        super().__init_subclass__()
        own = cls._prepare, cls._advance
        cls._watches = own != (Trainer._prepare, Trainer._advance)
        if cls._rule < 0:
            return
        kept = lib.dn_rule_moments(cls._rule)
        if len(cls._moments) != kept or len({*cls._moments}) != kept:
            raise TypeError(
                f"{cls.__name__}: _moments must name each of the {kept} moments that the rule keeps"
                f" (RULES in csrc/params/rules.c), by different names; got {cls._moments}. Mend"
                f" the class in {cls.__module__}."
            )

    def __init__(self, m: ParameterCollection, learning_rate: float, **constants: float) -> None:
        """constants: those of the rule, in the order of C, each under the name of its argument."""
        if not isinstance(m, ParameterCollection):
            some = " For some parameters of one: update_subset()." if isinstance(m, list) else ""
            raise TypeError(
                f"{type(self).__name__}: takes a ParameterCollection; {no_collection(m)}{some}"
            )
        if self._rule < 0:
            raise NotImplementedError(
                f"{type(self).__name__}: not a trainer by itself. Use SimpleSGDTrainer,"
                " AdamTrainer, ..."
            )
        self._collection = m
        self._constants = tuple(
            finite(value, f"{type(self).__name__}: {name}") for name, value in constants.items()
        )
        self._count = -1
        self._accumulation, self._gathered = 1, 0
        self._skip_nonfinite, self._skipped = False, 0
        self._shown = (0, 0)  # updates and clips at the last status()
        self._since = meter.read()
        self._logged: dict[str, list[float]] = {}  # sum and number of the values given to log()
        self._followers, self._followed, self._told = [], 0, 0
        self._refusals: list[Callable[[], None]] = []  # called first; may refuse an update
        self._first: list[Callable[[], None]] = []  # called right before gradients are applied
        self._last: list[Callable[[], None]] = []  # called when the whole update is done
        self._schedule: weakref.ref[Schedule] | None = None
        trainer = lib.dn_trainer_new(
            m._root.c, self._rule, (*self._constants, *_NO_CONSTANTS[len(constants) :])
        )
        if trainer == NULL:
            raise MemoryError(f"{type(self).__name__}: out of memory")
        self._c = ffi.gc(trainer, lib.dn_trainer_free)
        self._address = int(ffi.cast("intptr_t", trainer))
        self._decay = m._weight_decay
        self._known_settings: Settings | None = None  # state.Settings.of() of the present ones
        rate = finite(learning_rate, f"{type(self).__name__}: the learning rate")
        self._settings = c = ffi.new(SETTINGS)
        c.rate, c.share, c.clip, c.decay, c.sparse = rate, 1, 5, 1 - self._decay, 1
        lib.dn_trainer_set(self._c, c)
        self._set_plain()
        for callback in self._on_new:
            callback(self)

    def _set_plain(self) -> None:
        """Notes whether an update is a single call of C, which halves the time of tiny updates."""
        self._is_plain = not (
            self._watches
            or self._followers
            or self._refusals
            or self._first
            or self._last
            or self._accumulation > 1
            or self._collection._parent is not None
        )

    @property
    def collection(self) -> ParameterCollection:
        """The collection that is trained.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> dy.SimpleSGDTrainer(m).collection is m
        True
        """
        return self._collection

    def _members(self) -> tuple[AnyParameter, ...]:
        return tuple(members_of(self._collection))

    def _select(self) -> None:
        """Passes the parameters of a subcollection to C, again when it has grown. A root needs no
        list."""
        m = self._collection
        count = len(m._parameters) + len(m._lookups)
        if m._parent is not None and count != self._count:
            if lib.dn_trainer_select(self._c, count, [p._c for p in self._members()]) < 0:
                raise MemoryError(f"{type(self).__name__}: out of memory")
            self._count = count

    # ---- counts ------------------------------------------------------------------------

    @property
    def skipped(self) -> int:
        """Number of steps that were skipped because gradients were not finite.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1)
        >>> trainer = dy.SimpleSGDTrainer(m)
        >>> trainer.skip_nonfinite = True
        >>> for gradient in 1.0, float("inf"):
        ...     w.set_gradient([gradient])
        ...     trainer.update()
        >>> trainer.skipped, trainer.updates
        (1, 1)
        """
        return self._skipped

    @property
    def updates(self) -> int:
        """Number of updates; the bias correction of Adam and similar rules depends on it.

        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> for _ in range(3):
        ...     trainer.update()
        >>> trainer.updates
        3
        """
        return int(lib.dn_trainer_updates(self._c))

    @property
    def clips(self) -> int:
        """In how many updates the gradients were longer than the clip threshold, and were scaled
        down to it.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=0)
        >>> trainer = dy.SimpleSGDTrainer(m, learning_rate=0.1)
        >>> for x in (4, 6):
        ...     _ = dy.renew_cg()
        ...     (w * dy.scalarInput(x)).backward()
        ...     trainer.update()
        >>> trainer.clips, trainer.updates
        (1, 2)
        """
        return int(lib.dn_trainer_clips(self._c))

    # ---- updates -----------------------------------------------------------------------

    def gradient_norm(self) -> float:
        """The L2 norm of all gradients gathered since the last update.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> m.add_parameters(2).set_gradient([3, 4])
        >>> dy.SimpleSGDTrainer(m).gradient_norm()
        5.0
        """
        self._select()
        return float(lib.dn_trainer_norm(self._c))

    def update(self) -> None:
        """Changes the parameters by the gradients gathered since the last update, and clears these.

        Dense parameters without a gradient count as having zero, as in DyNet; rows of lookup tables
        without one are left alone.

        Raises:
            RuntimeError: the norm of the gradients is not finite (with clipping on, without
                skip_nonfinite); nothing was changed then.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=1)
        >>> trainer = dy.SimpleSGDTrainer(m, learning_rate=0.25)
        >>> _ = dy.renew_cg()
        >>> dy.square(w).backward()
        >>> trainer.update()
        >>> w.as_array().tolist(), w.has_gradient()
        ([0.5], False)
        """
        if self._is_plain and self._collection._weight_decay == self._decay:  # nearly always
            code = update_all(self._c, self._address)
            if code < 0:
                self._fail(code, self._members())
        elif self._gathered + 1 < self._accumulation:
            self._gathered += 1
        else:
            self._apply()

    def _prepare(self) -> None:
        """Called before an update: raises refusals, and passes changes to C."""
        self._catch_up()
        for refusal in self._refusals:
            refusal()
        m = self._collection
        if m._parent is not None:
            self._select()
        if m._weight_decay != self._decay:
            self._decay = m._weight_decay
            self._set(decay=1 - self._decay)

    def _apply(self, chosen: Sequence[AnyParameter] | None = None) -> None:
        self._prepare()
        with DeferSignals(self._followers or self._watches or self._accumulation > 1):
            try:
                done = self._change(chosen)
            except RuntimeError:  # of gradients that are not finite; else the next call tries again
                self._gathered = 0
                raise
            self._gathered = 0
            if done:
                self._done()
        if done:
            self._conclude()

    def _change(self, chosen: Sequence[AnyParameter] | None = None) -> bool:
        """Changes all parameters, or some, after _prepare(). Returns False if the step was
        skipped."""
        for first in self._first:
            first()
        if chosen is None:
            code = update_all(self._c, self._address)
        else:
            code = lib.dn_trainer_update_these(self._c, len(chosen), [p._c for p in chosen])
        return code >= 0 or self._fail(code, self._members() if chosen is None else chosen)

    def _conclude(self) -> None:
        """Called at the end of an update."""
        for last in self._last:
            last()

    def _fail(self, code: int, members: Iterable[AnyParameter]) -> bool:
        if code != lib.DN_ERROR_NONFINITE:
            raise MemoryError(f"{type(self).__name__}: out of memory for the moments")
        if not self._skip_nonfinite:
            raise RuntimeError(
                f"Magnitude of gradient is bad: {self.gradient_norm()}. A loss or a gradient since"
                " the last update is not finite; nothing was updated, and the gradients are kept."
                " Look for log(0) and 0/0, lower the learning rate, or set trainer.skip_nonfinite"
                " = True. To go on after this error, call reset_gradients() of the collection."
            )
        for p in members:
            p.clear_gradient()
        self._skipped += 1
        return False

    def update_epoch(self, r: float = 1.0) -> None:
        """Does nothing, as in DyNet, and emits a DeprecationWarning.

        >>> import warnings
        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection(), learning_rate=0.5)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     trainer.update_epoch()
        >>> [w.category.__name__ for w in caught], trainer.learning_rate
        (['DeprecationWarning'], 0.5)
        """
        warn(
            "update_epoch: does nothing, as in DyNet. Set trainer.learning_rate.",
            DeprecationWarning,
        )

    def update_subset(
        self,
        updated_params: Sequence[int | Parameters],
        updated_lookups: Sequence[int | LookupParameters],
    ) -> None:
        """As update(), for some parameters only: the others keep their values, gradients and
        moments.

        Clipping and weight decay apply to these parameters alone.

        Args:
            updated_params: positions in collection.parameters_list(), or the parameters themselves.
            updated_lookups: positions in collection.lookup_parameters_list(), or the tables
                themselves.

        Raises:
            ValueError: there is no such parameter in the collection.
            RuntimeError: as update(); or several calls of update() are to make one
                (set_accumulation).

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> v, w = m.add_parameters(1, init=0), m.add_parameters(1, init=0)
        >>> trainer = dy.SimpleSGDTrainer(m, learning_rate=1)
        >>> _ = dy.renew_cg()
        >>> (v + w).backward()
        >>> trainer.update_subset([1], [])
        >>> v.as_array().tolist(), w.as_array().tolist(), v.has_gradient()
        ([0.0], [-1.0], True)
        """
        self._apply(self._chosen(updated_params, updated_lookups))

    def _chosen(
        self, params: Sequence[int | Parameters], lookups: Sequence[int | LookupParameters]
    ) -> list[AnyParameter]:
        """The parameters that update_subset() updates."""
        if self._accumulation > 1:
            raise RuntimeError(
                "update_subset: takes no part in accumulation; got"
                f" set_accumulation({self._accumulation}). Set it to 1."
            )
        m = self._collection
        return [
            *chosen(params, m._parameters, "updated_params"),
            *chosen(lookups, m._lookups, "updated_lookups"),
        ]

    def restart(self, learning_rate: float | None = None) -> None:
        """Sets the moments to zero, and the learning rate if given. The count of updates continues,
        as in DyNet.

        Raises:
            TypeError: the learning rate is not a number; nothing is changed then.
            ValueError: it is NaN; likewise.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=0, name="w")
        >>> trainer = dy.MomentumSGDTrainer(m, learning_rate=0.5)
        >>> w.set_gradient([1])
        >>> trainer.update()
        >>> trainer.restart(learning_rate=0.25)
        >>> "v:/w" in trainer.state(), trainer.learning_rate, trainer.updates
        (False, 0.25, 1)
        """
        with DeferSignals():
            if learning_rate is not None:
                self._set(rate=finite(learning_rate, "restart: the learning rate"))
            lib.dn_trainer_restart(self._c)

    # ---- state -------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """What is needed to resume as if nothing had happened: moments, counts, learning rate and
        schedule, as arrays by name.

        These are copies. "m:/W" is moment m of the parameter /W (named as in
        collection.named_parameters()), with its shape; parameters that were never updated may have
        none. Settings such as clipping are not included, nor are gradients gathered since the last
        update: with set_accumulation(), save right after an update.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=1, name="w")
        >>> trainer = dy.MomentumSGDTrainer(m, learning_rate=0.5)
        >>> _ = dy.renew_cg()
        >>> w.backward()
        >>> trainer.update()
        >>> sorted(trainer.state()), trainer.state()["v:/w"].tolist()
        (['learning_rate', 'trainer', 'updates', 'v:/w'], [-0.5])
        """
        from .state import state_of

        self._catch_up()
        return state_of(self)

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Resumes from a state() of a trainer of the same class, on a collection with the same
        parameters.

        Raises:
            ValueError: it is of another class or another model; the trainer then is as it was.
            TypeError: it is not a dict.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> old, new = dy.AdamTrainer(m, alpha=0.5), dy.AdamTrainer(m)
        >>> old.update()
        >>> new.load_state(old.state())
        >>> new.learning_rate, new.updates
        (0.5, 1)
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state: takes what state() gave; got {type(state).__name__}.")
        from .state import load_into

        load_into(self, state)

    def _own_state(self) -> dict[str, int]:
        """Counts that a subclass adds to state()."""
        return {}

    def _load_own_state(self, state: Mapping[str, int]) -> None:
        """Restores these counts."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: trainers cannot be copied or pickled. Make a new one for the"
            " copied collection, then new.load_state(trainer.state())."
        )

    def status(self) -> None:
        """Prints on stderr the learning rate, and how many updates were clipped and made since the
        last call, as DyNet does.

        >>> import contextlib, sys
        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
        >>> trainer.update()
        >>> with contextlib.redirect_stderr(sys.stdout):
        ...     trainer.status()
        [lr=0.1 clips=0 updates=1]
        """
        updates, clips = self.updates, self.clips
        print(
            f"[lr={self.learning_rate:g} clips={clips - self._shown[1]}"
            f" updates={updates - self._shown[0]}]",
            file=sys.stderr,
        )
        self._shown = updates, clips

    def whoami(self) -> str:
        """The name of the class.

        >>> import dist_dynet as dy
        >>> dy.AdamTrainer(dy.ParameterCollection()).whoami()
        'AdamTrainer'
        """
        return class_name(self)
