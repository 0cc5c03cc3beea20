"""Objects that a trainer notifies of its updates: of every one, even if an exception comes in
between."""

from __future__ import annotations

from typing import ClassVar

from .._deferred_signals import DeferSignals
from .._ffi import lib
from .arguments import Follower
from .settings import WithSettings


class WithFollowers(WithSettings):
    """The part of a trainer that knows its followers."""

    __slots__ = ("_followed", "_followers", "_told")
    _followers: list[Follower]
    _followed: int  # number of updates that all followers know
    _told: int  # number of followers that know the update after these
    _watches: ClassVar[bool] = False
    """Whether a subclass has a _prepare() or _advance() of its own."""

    def _done(self) -> None:
        """Called after an update. If an exception ends it, another call does the rest."""
        self._followed = -1
        for follower in self._followers[self._told :]:
            follower.update()
            self._told += 1
        if self._watches:
            self._advance()
        self._told, self._followed = 0, lib.dn_trainer_updates(self._c)

    def _advance(self) -> None:
        """What a subclass changes in itself after an update: everything or nothing."""

    def _catch_up(self) -> None:
        """Notifies followers of the last update that missed it because of an exception."""
        if (self._followers or self._watches) and self._followed != lib.dn_trainer_updates(self._c):
            with DeferSignals():
                self._done()
