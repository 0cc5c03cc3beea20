"""Whom a trainer notifies of updates, each of every update, also where an exception came between
them."""

from __future__ import annotations

from typing import ClassVar

from .._ffi import lib
from .arguments import Follower
from .at_once import AtOnce
from .settings import WithSettings


class WithFollowers(WithSettings):
    """The part of a trainer that knows them."""

    __slots__ = ("_followed", "_followers", "_told")
    _followers: list[Follower]
    _followed: int  # how many updates all of them know
    _told: int  # how many of them know the one behind these
    _watches: ClassVar[bool] = False
    """Whether a subclass has a _prepare() or _advance() of its own."""

    def _done(self) -> None:
        """When an update was applied. What an exception leaves out, another call makes up for."""
        self._followed = -1
        for follower in self._followers[self._told :]:
            follower.update()
            self._told += 1
        if self._watches:
            self._advance()
        self._told, self._followed = 0, lib.dn_trainer_updates(self._c)

    def _advance(self) -> None:
        """What a subclass changes in itself after an update: all of it, or nothing."""

    def _catch_up(self) -> None:
        """Notifies those of the last update that an exception has kept from it."""
        if (self._followers or self._watches) and self._followed != lib.dn_trainer_updates(self._c):
            with AtOnce():
                self._done()
