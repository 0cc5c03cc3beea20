"""The one place where MPI starts: at the first use of dist_dynet.parallel, and only under a launcher.

It knows what else changes when there is more than one rank: failures are watched, random streams differ, rank 0 writes the files.
"""

from __future__ import annotations

import threading

from . import _failures, _launcher
from ._world import World

_lock = threading.Lock()
_world: World | None = None


def world() -> World:
    """All ranks of this job; a world of one without a launcher."""
    global _world
    if _world is None:
        with _lock:
            if _world is None:
                _world = _start()
    return _world


def _start() -> World:
    launch = _launcher.find()
    if launch is None:
        return World(None)
    _failures.install()
    started = World(launch)
    _failures.guard(started)
    from .. import _random
    from . import _saving

    _random.set_rank(started.rank)
    _saving.install(started)
    return started
