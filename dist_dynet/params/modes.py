"""Training and evaluation modes, which switch the dropout of builders and blocks, set on the
collection of their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from .._weak import WeakSet

if TYPE_CHECKING:
    from typing_extensions import Self


class Follower(Protocol):
    """An object that caches modes."""

    def _modes_change(self, any_of_them: bool) -> None:
        """Called when a collection is switched; any_of_them: for the first time in the process, so
        that nobody has read modes yet."""


class _Switch:
    """The modes of all collections of this process."""

    used = False
    """Whether any collection was ever switched to evaluation."""
    reads = 0
    """How often a mode was read."""

    def __init__(self) -> None:
        self.followers: WeakSet[Follower] = WeakSet()

    def turn(self, to_evaluation: bool) -> None:
        """Called when a collection is switched."""
        is_first, self.used = to_evaluation and not self.used, self.used or to_evaluation
        for follower in list(self.followers):
            follower._modes_change(is_first)


switch = _Switch()


class Modes:
    """The part of a collection that knows whether it is trained or evaluated."""

    _mode: tuple[int, bool] = (0, True)
    """The number of the last call of train() on this collection, counted over the whole tree, and
    its argument."""
    _modes: int = 0
    """Number of calls so far; kept by the root."""

    def _lineage(self) -> Iterator[Self]:
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Switches dropout and weight noise of all builders and blocks with parameters here or in
        subcollections: on with True, the default at the start, off with False, as eval() does.

        Rates stay as they are set. The switch applies to sequences that begin, and blocks that are
        called, afterwards; the last call counts. dy.dropout() and the like in your own code always
        drop: check `training`. Copies and pickles keep the mode, dy.save() does not.

        Returns the collection itself.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> mlp = dy.MLP([2, 8, 1], m, dropout=0.5)
        >>> m.eval().training
        False
        >>> x = dy.inputVector([1, 2])
        >>> mlp(x).value() == mlp(x).value()
        True
        >>> m.train().training
        True
        """
        root = list(self._lineage())[-1]
        if self._mode != (root._modes, bool(mode)):  # else it was the last to say so
            root._modes += 1
            self._mode = root._modes, bool(mode)
            switch.turn(not mode)
        return self

    def eval(self) -> Self:
        """As train(False): no dropout."""
        return self.train(False)

    @property
    def training(self) -> bool:
        """Whether builders and blocks use dropout; see train().

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> part = m.add_subcollection("part")
        >>> m.training, part.eval().training, m.training
        (True, False, True)
        """
        return self._trains()

    def _trains(self) -> bool:
        """As `training`, whatever a derived class calls by that name."""
        switch.reads += 1
        return max(c._mode for c in self._lineage())[1]

    def __setstate__(self, state: Any) -> None:
        own, slots = state if isinstance(state, tuple) else (state, None)  # of a derived class
        self.__dict__.update(own or {})
        for name, value in (slots or {}).items():
            setattr(self, name, value)
        if "_mode" in self.__dict__ and not switch.used:
            switch.turn(True)
